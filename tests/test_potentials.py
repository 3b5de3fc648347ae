import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from campaign import potentials
from campaign.errors import EngineNotFoundError, ResourceError, SpecError
from campaign.potentials import (
    LammpsModel,
    file_hashes,
    get_potential,
    lammps_model,
    lj_parameters,
    potential_files,
    potential_folders,
    potential_names,
)
from campaign.structures.layers import (
    BuildSettings,
    LayerBlock,
    MultilayerSettings,
    build,
    layer_elements,
)

GRAPHENE_ON_HBN = (("B", "N"),) * 5 + (("C",),) * 4


def structure(lower_layers: int = 5, upper_layers: int = 4, spacing_A: float = 3.3) -> MultilayerSettings:
    return MultilayerSettings(
        lower=LayerBlock(material="hbn", layers=lower_layers, cells=(4, 2)),
        upper=LayerBlock(material="graphene", layers=upper_layers, cells=(4, 2)),
        cell_from="mean",
        stacking="ABp",
        spacing_A=spacing_A,
    )


def lennard_jones_lines(model: LammpsModel) -> list[str]:
    return [line for line in model.pair_lines if line.startswith("pair_coeff") and " lj/cut " in line]


# --- registry ---


def test_a_misspelt_potential_gets_a_suggestion() -> None:
    with pytest.raises(SpecError, match="did you mean 'tersoff-lj'"):
        get_potential("tersof_lj")
    with pytest.raises(SpecError, match="known are: tersoff-lj, tersoff-ilp"):
        get_potential("xyz")


@pytest.mark.parametrize("name", potential_names())
def test_files_come_with_the_wheel_and_are_hashed(name: str) -> None:
    potential = get_potential(name)
    hashes = file_hashes(potential)
    assert tuple(hashes) == potential.files
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
    monkeypatch.setattr(potentials, "potential_folders", lambda: (tmp_path,))
    with pytest.raises(ResourceError, match=r"BNC\.tersoff.*set LAMMPS_POTENTIALS"):
        file_hashes(potential)
    monkeypatch.setattr(potentials, "potential_folders", tuple)
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
    ],
)
def test_uff_parameters_are_the_published_ones(pair: str, depth_meV: float, sigma_A: float) -> None:
    depth, sigma = lj_parameters(*pair)
    assert lj_parameters(*reversed(pair)) == (depth, sigma)
    assert depth * 1000 == pytest.approx(depth_meV, abs=6e-4)
    assert sigma == pytest.approx(sigma_A, abs=6e-4)


def test_lennard_jones_acts_between_layer_classes_only() -> None:
    model = lammps_model(get_potential("tersoff-lj"), GRAPHENE_ON_HBN)
    given = {(int(i), int(j)) for _, i, j, *_ in map(str.split, lennard_jones_lines(model))}
    numbers = range(1, len(model.types) + 1)
    assert given == {
        (i, j) for i in numbers for j in numbers if i < j and model.types[i - 1][1] != model.types[j - 1][1]
    }


def test_types_are_those_that_occur() -> None:
    model = lammps_model(get_potential("tersoff-lj"), (("B", "N"), ("C",)))
    assert model.types == (("B", 0), ("N", 0), ("C", 1))
    assert model.masses == pytest.approx((10.81, 14.007, 12.011))
    assert model.pair_lines[0] == "pair_style hybrid/overlay tersoff tersoff lj/cut 10.0"
    assert model.type_of("C", 1) == 3
    with pytest.raises(KeyError):
        model.type_of("C", 0)


def test_layers_four_apart_share_their_type() -> None:
    model = lammps_model(get_potential("tersoff-lj"), (("C",),) * 9)
    assert [model.type_of("C", layer) for layer in range(9)] == [1, 2, 3, 4, 1, 2, 3, 4, 1]


def test_an_element_that_the_potential_lacks_is_refused() -> None:
    with pytest.raises(SpecError, match="does not know Mo, S"):
        lammps_model(get_potential("tersoff-lj"), (("Mo", "S"), ("C",)))


# --- against LAMMPS ---

PLAIN_LINES = {
    # One Tersoff for all atoms, as in the manual of LAMMPS.
    "tersoff-lj": (
        "pair_style hybrid/overlay tersoff lj/cut 10.0",
        "pair_coeff * * tersoff BNC.tersoff {elements}",
    ),
    "tersoff-ilp": (
        "pair_style hybrid/overlay tersoff ilp/graphene/hbn 16.0 1",
        "pair_coeff * * tersoff BNC.tersoff {elements}",
        "pair_coeff * * ilp/graphene/hbn BNCH.ILP {elements}",
    ),
}


def run_lammps(directory: Path, lines: list[str]) -> list[list[float]]:
    """Run a script; the numbers of all lines printed as ``RESULT ...``."""
    folders = potential_folders()
    binary = next(folder.parents[2] / "lmp" for folder in folders if (folder.parents[2] / "lmp").is_file())
    environment = os.environ | {
        "LD_LIBRARY_PATH": str(Path(sys.prefix) / "lib"),
        "LAMMPS_POTENTIALS": os.pathsep.join(map(str, folders)),
        "OMP_NUM_THREADS": "1",
    }
    (directory / "in.lammps").write_text("\n".join(lines))
    done = subprocess.run(
        [binary, "-in", "in.lammps", "-log", "none", "-nocite"],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    return [
        [float(x) for x in line.split()[1:]] for line in done.stdout.splitlines() if line.startswith("RESULT")
    ]


def system_lines(
    settings: MultilayerSettings, model: LammpsModel, directory: Path, noise_A: float
) -> list[str]:
    """Write a data file of the built structure with displaced atoms; lines that read it."""
    potential = get_potential("tersoff-lj")
    atoms = build(BuildSettings(structure=settings, lattice_constants_A=dict(potential.lattice_constants_A)))
    atoms.positions += np.random.default_rng(5).normal(0, noise_A, atoms.positions.shape)
    layers, symbols = atoms.arrays["layer"], atoms.get_chemical_symbols()
    x, y, z = atoms.cell.lengths()
    rows = [
        f"{n} {layer + 1} {model.type_of(symbol, layer)} {p[0]:.15g} {p[1]:.15g} {p[2]:.15g}"
        for n, (layer, symbol, p) in enumerate(zip(layers, symbols, atoms.positions, strict=True), 1)
    ]
    masses = [f"{n} {mass}" for n, mass in enumerate(model.masses, 1)]
    header = [f"{len(rows)} atoms", f"{len(masses)} atom types", f"0 {x:.15g} xlo xhi", f"0 {y:.15g} ylo yhi"]
    sections = ["", *header, f"0 {z} zlo zhi", "", "Masses", "", *masses, "", "Atoms # molecular", "", *rows]
    (directory / "data.lammps").write_text("\n".join(sections) + "\n")
    return ["units metal", "atom_style molecular", "boundary p p f", "read_data data.lammps"]


@pytest.mark.lammps
@pytest.mark.parametrize("name", potential_names())
@pytest.mark.parametrize("layers", [(5, 4), (1, 1)])
def test_energy_is_that_of_the_plain_potential(name: str, layers: tuple[int, int], tmp_path: Path) -> None:
    """Tersoff by layer class, and the ``/opt`` form of ILP, change the speed and nothing else."""
    settings = structure(*layers)
    model = lammps_model(get_potential(name), layer_elements(settings))
    elements = " ".join(element for element, _ in model.types)
    plain = [line.format(elements=elements) for line in PLAIN_LINES[name]]
    plain += lennard_jones_lines(model)
    evaluate = [
        "compute f all reduce sumsq fx fy fz",
        "thermo_style custom step pe c_f[1] c_f[2] c_f[3]",
        "run 0 post no",
        'print "RESULT $(pe:%.15g) $(c_f[1]:%.15g) $(c_f[2]:%.15g) $(c_f[3]:%.15g)"',
    ]
    system = system_lines(settings, model, tmp_path, noise_A=0.05)
    ours = run_lammps(tmp_path, [*system, *model.pair_lines, *model.neighbor_lines, *evaluate])
    reference = run_lammps(tmp_path, [*system, *plain, *model.neighbor_lines, *evaluate])
    np.testing.assert_allclose(ours, reference, rtol=1e-9)


@pytest.mark.lammps
def test_lennard_jones_energy_is_that_between_layers(tmp_path: Path) -> None:
    """LJ acts between layers, never inside one: it sums the pairs of different layers in the cutoff."""
    settings = structure(2, 1)
    model = lammps_model(get_potential("tersoff-lj"), layer_elements(settings))
    system = system_lines(settings, model, tmp_path, noise_A=0.05)
    evaluate = [
        "compute lj all pair lj/cut",
        "thermo_style custom step pe c_lj",
        "run 0 post no",
        'print "RESULT $(c_lj:%.15g)"',
    ]
    [[energy]] = run_lammps(tmp_path, [*system, *model.pair_lines, *model.neighbor_lines, *evaluate])

    atoms = build(BuildSettings(structure=settings, lattice_constants_A={"graphene": 2.4920, "hbn": 2.4979}))
    atoms.positions += np.random.default_rng(5).normal(0, 0.05, atoms.positions.shape)
    symbols, layers = atoms.get_chemical_symbols(), atoms.arrays["layer"]
    x, y, _ = atoms.cell.lengths()
    expected = 0.0
    for shift in ((i * x, j * y, 0) for i in range(-2, 3) for j in range(-2, 3)):
        distance = np.linalg.norm(atoms.positions[:, None] - atoms.positions[None] - shift, axis=-1)
        for i, j in zip(*np.nonzero((distance < 10) & (layers[:, None] < layers[None])), strict=True):
            depth, sigma = lj_parameters(symbols[i], symbols[j])
            u6 = (sigma / distance[i, j]) ** 6
            expected += 4 * depth * (u6**2 - u6)
    assert energy == pytest.approx(expected, rel=1e-9)


@pytest.mark.lammps
def test_stackings_have_the_energies_that_their_names_promise(tmp_path: Path) -> None:
    """With ILP: ABp below AB below AA (paper, Fig. 2a), and natural layers below straight ones."""
    energies = []
    for changes in (
        {"stacking": "ABp"},
        {"stacking": "AB"},
        {"stacking": "AA"},
        {"stacking": "AA", "layer_order": "straight"},
    ):
        settings = structure(2, 2).model_copy(update=changes)
        model = lammps_model(get_potential("tersoff-ilp"), layer_elements(settings))
        lines = [
            *system_lines(settings, model, tmp_path, noise_A=0),
            *model.pair_lines,
            *model.neighbor_lines,
        ]
        energies += run_lammps(tmp_path, [*lines, "run 0 post no", 'print "RESULT $(pe:%.15g)"'])[0]
    assert energies == sorted(energies)


@pytest.mark.lammps
@pytest.mark.parametrize("material", ["graphene", "hbn"])
def test_lattice_constants_are_at_the_minimum(material: str, tmp_path: Path) -> None:
    potential = get_potential("tersoff-lj")
    table = potential.lattice_constants_A[material]
    d = table / np.sqrt(3)
    first, second = (1, 1) if material == "graphene" else (1, 2)
    masses = ["mass 1 1.0", "mass 2 1.0"]
    elements = "C C" if material == "graphene" else "B N"
    lines = ["units metal", "boundary p p p", "lattice custom 1.0 &"]
    lines += [f"  a1 {table:.12g} 0 0 a2 0 {3 * d:.12g} 0 a3 0 0 40 &"]
    lines += ["  basis 0 0 0.5 basis 0.5 0.5 0.5 basis 0 $(1/3) 0.5 basis 0.5 $(5/6) 0.5"]
    lines += ["region box prism 0 4 0 2 0 1 0 0 0", "create_box 2 box"]
    lines += [f"create_atoms {first} box basis 3 {second} basis 4 {second}", *masses]
    lines += ["pair_style tersoff", f"pair_coeff * * BNC.tersoff {elements}", "thermo_modify norm no"]
    scales: list[float] = (1 + np.linspace(-2e-3, 2e-3, 9)).tolist()
    before = 1.0
    for scale in scales:
        ratio = scale / before
        lines += [f"change_box all x scale {ratio:.15g} y scale {ratio:.15g} remap", "run 0 post no"]
        lines += ['print "RESULT $(pe:%.15g)"']
        before = scale
    energies = np.array(run_lammps(tmp_path, lines))[:, 0]
    fit = np.polynomial.Polynomial.fit(scales, energies, 3)
    roots: list[complex] = fit.deriv().roots().tolist()
    minimum = next(root.real for root in roots if abs(root.real - 1) < 5e-3)
    assert minimum * table == pytest.approx(table, abs=2e-4)
