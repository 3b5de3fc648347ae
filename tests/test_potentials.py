"""Potentials: registry, files, and their lines for LAMMPS."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from campaign.errors import EngineNotFoundError, ResourceError, SpecError
from campaign.potentials import (
    LammpsModel,
    Potential,
    Species,
    check_layers,
    file_hashes,
    files,
    get_potential,
    lammps_model,
    potential_files,
)
from campaign.potentials.builtin import BUILTIN
from campaign.potentials.lammps import LJ_CUTOFF_A, AtomType
from campaign.potentials.lennard_jones import UFF_LJ, lj_parameters

GRAPHENE = (Species("C"),)
HBN = (Species("B"), Species("N"))
MOS2 = (Species("Mo", 1), Species("S", 0), Species("S", 2))
GRAPHENE_ON_HBN = (HBN,) * 5 + (GRAPHENE,) * 4


def lennard_jones_lines(model: LammpsModel) -> list[str]:
    return [line for line in model.pair_lines if line.startswith("pair_coeff") and " lj/cut " in line]


# --- registry ---


def test_a_misspelt_potential_gets_a_suggestion() -> None:
    with pytest.raises(SpecError, match="did you mean 'tersoff-lj'"):
        get_potential("tersof_lj")
    with pytest.raises(SpecError, match="known are: tersoff-lj, tersoff-ilp"):
        get_potential("xyz")


@pytest.mark.parametrize("potential", BUILTIN.values(), ids=BUILTIN)
def test_files_are_those_of_the_wheel(potential: Potential) -> None:
    hashes = file_hashes(potential)
    assert hashes == potential.files
    for file, path in potential_files(potential).items():
        assert hashes[file] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_changed_file_changes_its_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAMMPS_POTENTIALS", str(tmp_path))
    potential = get_potential("tersoff-lj")
    file = tmp_path / "BNC.tersoff"
    file.write_text("one")
    assert potential_files(potential) == {"BNC.tersoff": file}
    first = file_hashes(potential)
    file.write_text("another")
    assert file_hashes(potential) != first


def test_missing_files_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    potential = get_potential("tersoff-ilp")
    monkeypatch.setattr(files, "potential_folders", lambda: (tmp_path,))
    with pytest.raises(ResourceError, match=r"BNC\.tersoff.*set LAMMPS_POTENTIALS"):
        file_hashes(potential)
    monkeypatch.setattr(files, "potential_folders", tuple)
    with pytest.raises(EngineNotFoundError, match="pip install"):
        file_hashes(potential)


def test_files_are_found_without_importing_lammps() -> None:
    code = (
        "import sys; from campaign.potentials import *; "
        "file_hashes(get_potential('tersoff-ilp')); "
        "assert not {'lammps', 'ase', 'scipy', 'xarray'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- parameters and types ---


@pytest.mark.parametrize(
    ("pair", "depth_meV", "sigma_A"),
    [
        ("CC", 4.553, 3.431),
        ("CB", 5.962, 3.533),
        ("CN", 3.691, 3.345),
        ("BB", 7.806, 3.638),
        ("BN", 4.833, 3.444),
        ("NN", 2.992, 3.261),
        ("C S", 7.355, 3.512),
        ("C Mo", 3.325, 3.054),
        ("C Se", 7.580, 3.585),
        ("C W", 3.637, 3.063),
        ("B S", 9.630, 3.616),
        ("N S", 5.963, 3.424),
        ("S Se", 12.245, 3.670),
    ],
)
def test_uff_parameters_are_the_published_ones(pair: str, depth_meV: float, sigma_A: float) -> None:
    first, second = pair.split() if " " in pair else list(pair)
    depth, sigma = lj_parameters(first, second)
    assert lj_parameters(second, first) == (depth, sigma)
    assert depth * 1000 == pytest.approx(depth_meV, abs=6e-4)
    assert sigma == pytest.approx(sigma_A, abs=6e-4)


def test_lennard_jones_acts_between_layer_classes_only() -> None:
    model = lammps_model(get_potential("tersoff-lj"), GRAPHENE_ON_HBN)
    given = {(int(i), int(j)) for _, i, j, *_ in map(str.split, lennard_jones_lines(model))}
    numbers = range(1, len(model.types) + 1)
    classes = [kind.layer_class for kind in model.types]
    assert given == {(i, j) for i in numbers for j in numbers if i < j and classes[i - 1] != classes[j - 1]}


@pytest.mark.parametrize("layers", [(MOS2,) * 4 + (GRAPHENE,) * 5, (HBN, MOS2) * 4, (MOS2,) * 9])
def test_lammps_is_told_about_every_pair_of_types(layers: tuple[tuple[Species, ...], ...]) -> None:
    """LAMMPS refuses a hybrid style with a pair of types that no sub-style was given."""
    model = lammps_model(get_potential("tersoff-sw-lj"), layers)
    told = {
        tuple(int(word) for word in line.split()[1:3])
        for line in model.pair_lines
        if line.startswith("pair_coeff") and "*" not in line
    }
    for line in model.pair_lines:
        if "* *" in line:
            count = len(model.types)
            mapped = [n for n, name in enumerate(line.split()[-count:], 1) if name != "NULL"]
            told |= {(i, j) for i in mapped for j in mapped}
    numbers = range(1, len(model.types) + 1)
    assert told >= {(i, j) for i in numbers for j in numbers if i < j}


def test_layers_of_one_class_never_meet() -> None:
    """Four gaps of the flattest, closest layers that the terms between layers allow are above the cutoff."""
    least_gap_A = min(lj_parameters(first, second)[1] for first in UFF_LJ for second in ("B", "C", "N"))
    assert 4 * 0.95 * least_gap_A > LJ_CUTOFF_A


def test_types_are_those_that_occur() -> None:
    model = lammps_model(get_potential("tersoff-lj"), (HBN, GRAPHENE))
    assert model.types == (AtomType("B", 0, 0), AtomType("N", 0, 0), AtomType("C", 0, 1))
    assert model.masses == pytest.approx((10.81, 14.007, 12.011))
    assert model.pair_lines[0] == "pair_style hybrid/overlay tersoff tersoff lj/cut 10.0"
    assert model.type_of("C", 1) == 3
    with pytest.raises(KeyError):
        model.type_of("C", 0)


def test_chalcogens_below_and_above_the_metal_have_types_of_their_own() -> None:
    model = lammps_model(get_potential("sw-ilp"), (MOS2,))
    assert [model.type_of(*species[:1], 0, species.sublayer) for species in MOS2] == [1, 2, 3]


def test_layers_four_apart_share_their_type() -> None:
    model = lammps_model(get_potential("tersoff-lj"), (GRAPHENE,) * 9)
    assert [model.type_of("C", layer) for layer in range(9)] == [1, 2, 3, 4, 1, 2, 3, 4, 1]


# --- what a potential is for ---


@pytest.mark.parametrize(
    ("name", "layers", "words"),
    [
        ("tersoff-lj", (("Mo", "S"), ("C",)), "does not know Mo, S; potentials that can: tersoff-sw-lj"),
        ("sw-ilp", (("Mo", "S"), ("C",)), "does not know C; potentials that can: tersoff-sw-lj"),
        ("extep-ilp", (("W", "Se"), ("W", "S")), "does not know S, Se, W.*can: tersoff-sw-lj, sw-ilp"),
        ("rebo-ilp", (("B", "C", "N"),), "no terms for a layer of B, C, N.*can: tersoff-lj, tersoff-ilp"),
        ("tersoff-ilp", (("Si",),), "does not know Si; no potential here can"),
    ],
)
def test_what_a_potential_cannot_describe_is_refused(
    name: str,
    layers: tuple[tuple[str, ...], ...],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CAMPAIGN_POTENTIALS", str(tmp_path))
    with pytest.raises(SpecError, match=words):
        check_layers(get_potential(name), layers)
