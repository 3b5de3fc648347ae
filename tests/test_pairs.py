"""Any two materials: what lies above what, layers, cells, strain from positions, identity, NEMD."""

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from ase import Atoms
from pydantic import ValidationError

from campaign.errors import SpecError
from campaign.plan import make_plan
from campaign.plan_file import load_plan, save_plan
from campaign.potentials import get_potential
from campaign.protocols import nemd, nemd_settings
from campaign.protocols.base import read_result
from campaign.protocols.nemd_geometry import final_geometry
from campaign.protocols.nemd_settings import NemdSettings
from campaign.spec import json_schema, load_spec
from campaign.structures.blocks import LayerBlock, Match, MultilayerSettings
from campaign.structures.io import read_structure, write_structure
from campaign.structures.layers import build, check_strain, realised
from campaign.structures.materials import MATERIALS, Material
from campaign.structures.sites import Stacking
from campaign.structures.stack import stack_of_one
from campaign.structures.supercells import determinant, rectangular
from tests.nemd_cases import PROTOCOL, REPLICA, fake_engine
from tests.pairs import LATTICE_CONSTANTS_A, PAIRS, above, distances, layers_of, pair, settings_of

TMDS = ("mos2", "ws2", "wse2", "mose2")
BONDS_A = {"mos2": 2.41, "ws2": 2.405, "wse2": 2.526, "mose2": 2.527}
"""Measured metal-chalcogen distances; sources in `campaign.structures.materials`."""


def bilayer(material: str, stacking: Stacking) -> list[Any]:
    return layers_of(stack_of_one(MATERIALS[material], 2, supercell=rectangular((3, 2)), stacking=stacking))


# --- stackings ---


@pytest.mark.parametrize(
    ("stacking", "expected"),
    [
        ("AA", {"BB", "NN"}),
        ("AAp", {"BN", "NB"}),
        ("AB", {"BN", "N-"}),
        ("ABp", {"BB", "N-"}),
        ("ApB", {"B-", "NN"}),
    ],
)
def test_stackings_of_hbn(stacking: Stacking, expected: set[str]) -> None:
    assert above(*bilayer("hbn", stacking)) == expected


@pytest.mark.parametrize(("stacking", "expected"), [("AA", {"CC"}), ("AB", {"CC", "C-"})])
def test_stackings_of_graphene(stacking: Stacking, expected: set[str]) -> None:
    assert above(*bilayer("graphene", stacking)) == expected


@pytest.mark.parametrize(
    ("stacking", "expected"),
    [
        ("AA", {"MoMo", "SS"}),
        ("AAp", {"MoS", "SMo"}),
        ("AB", {"MoS", "S-"}),
        ("ABp", {"MoMo", "S-"}),
        ("ApB", {"Mo-", "SS"}),
    ],
)
def test_stackings_of_dichalcogenides(stacking: Stacking, expected: set[str]) -> None:
    """2H bulk is AA': metal above chalcogens and chalcogens above metal."""
    assert above(*bilayer("mos2", stacking)) == expected
    if stacking == "AAp":
        assert MATERIALS["mos2"].natural_stacking == stacking


def test_domain_wall_of_graphene_on_hbn_is_halfway_between_abp_and_ab() -> None:
    block = {"layers": 1, "cells": (5, 3)}
    moved = {}
    for stacking in ("ABp", "DW", "AB"):
        structure = MultilayerSettings.model_validate(
            {
                "lower": {"material": "hbn", **block},
                "upper": {"material": "graphene", **block},
                "cell_from": "lower",
                "stacking": stacking,
            }
        )
        moved[stacking] = layers_of(build(settings_of(structure)))[1]
    bond = LATTICE_CONSTANTS_A["hbn"] / math.sqrt(3)
    for other in ("ABp", "AB"):
        # half a bond along y, up to the lattice and the exchange of the two carbon atoms
        nearest = distances(moved["DW"], moved[other], lateral=True).min(axis=1)
        assert nearest == pytest.approx(np.full(len(nearest), bond / 2))


def test_a_stacking_that_a_pair_does_not_have_is_refused() -> None:
    with pytest.raises(SpecError, match="graphene on graphene has no stacking AAp; known are AA, AB"):
        stack_of_one(MATERIALS["graphene"], 2, stacking="AAp")
    with pytest.raises(SpecError, match="3 layers does not close"):
        stack_of_one(MATERIALS["hbn"], 3, vacuum_A=None)


# --- layers of one material ---


@pytest.mark.parametrize("material", TMDS)
def test_a_monolayer_of_a_dichalcogenide_is_a_trigonal_prism(material: str) -> None:
    atoms = stack_of_one(MATERIALS[material], 1, supercell=((3, 1), (-1, 4)))
    metal, chalcogen = MATERIALS[material].elements
    assert len(atoms) == 3 * 13
    assert atoms.arrays["sublayer"].tolist() == [0] * 13 + [1] * 13 + [2] * 13
    metals, others = atoms[atoms.symbols == metal], atoms[atoms.symbols == chalcogen]
    near = distances(metals, others)
    assert np.all((near < BONDS_A[material] + 0.01).sum(axis=1) == 6)
    assert np.all((distances(others, metals) < BONDS_A[material] + 0.01).sum(axis=1) == 3)
    assert near.min() == pytest.approx(BONDS_A[material], abs=5e-3)
    upper, lower = (atoms[atoms.arrays["sublayer"] == k] for k in (2, 0))
    assert np.allclose(upper.positions[:, :2], lower.positions[:, :2])


@pytest.mark.parametrize("material", MATERIALS)
def test_bulk_closes_over_the_cell_along_z(material: str) -> None:
    """The layer above the top one is the bottom one: in the same stacking, at the same distance."""
    definition = MATERIALS[material]
    atoms = stack_of_one(definition, 2, vacuum_A=None)
    assert atoms.pbc.all()
    assert atoms.cell.lengths()[2] == pytest.approx(2 * definition.layer_distance_A)
    bottom, top = layers_of(atoms)
    middles = [layer.positions[:, 2].mean() for layer in (bottom, top)]
    assert middles[1] - middles[0] == pytest.approx(definition.layer_distance_A)
    assert above(bottom, top) == above(top, bottom)
    doubled = layers_of(stack_of_one(definition, 4, vacuum_A=None))
    assert above(doubled[3], doubled[0]) == above(doubled[0], doubled[1])


# --- the eight pairs ---


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_are_built_whole(name: str) -> None:
    """Three bonds everywhere, also across the boundary (six of a metal); strain is that of the positions."""
    settings = settings_of(pair(name, 2, 3))
    facts, atoms = realised(settings), build(settings)
    assert len(atoms) == facts.number_of_atoms
    assert facts.cell_A[1, 0] == 0
    assert np.allclose(atoms.cell.array, facts.cell_A)
    for side, block in (("lower", settings.structure.lower), ("upper", settings.structure.upper)):
        strain = facts.strain[side]
        assert abs(strain.largest) <= 0.007 + 1e-9
        indices = range(2) if side == "lower" else range(2, 5)
        for layer in (layers_of(atoms)[k] for k in indices):
            first, second = (block.definition.elements * 2)[:2]
            assert len(layer) == block.definition.atoms_per_cell * determinant(block.whole)
            own = LATTICE_CONSTANTS_A[block.name]
            plane = layer[
                (layer.symbols == first) & (layer.arrays["sublayer"] == layer.arrays["sublayer"][-1] // 2)
            ]
            if block.definition.alike:
                plane = layer[: len(layer) // 2]
            # six neighbours on the lattice; cells of these pairs are strained alike along x and y
            between = np.sort(distances(plane, plane), axis=1)[:, 1:7]
            assert between == pytest.approx(np.full(between.shape, own * (1 + strain.x)), rel=2e-3)
            if block.definition.kind == "tmd":
                metals, others = layer[layer.symbols == first], layer[layer.symbols == second]
                bond = math.hypot(own / math.sqrt(3), block.definition.chalcogen_height_A)
                assert np.all((distances(metals, others) < 1.05 * bond).sum(axis=1) == 6)
                assert np.all((distances(others, metals) < 1.05 * bond).sum(axis=1) == 3)
            else:
                bond = own / math.sqrt(3)
                near = distances(layer, layer)
                assert np.all(((near > 0.1) & (near < 1.05 * bond)).sum(axis=1) == 3)
    for low, up in itertools.pairwise(layers_of(atoms)):
        assert up.positions[:, 2].min() - low.positions[:, 2].max() == pytest.approx(3.4)


@pytest.mark.parametrize(
    ("name", "max_strain", "atoms", "cell", "twist"),
    [
        ("graphene/mos2", 0.007, 2 * 48 + 2 * 50, (12.47, 21.59), 0),
        ("hbn/ws2", 0.007, 2 * 48 + 2 * 50, (12.50, 21.65), 0),
        ("graphene/wse2", 0.007, 2 * 27 + 2 * 32, (9.92, 17.17), 0),
        ("ws2/wse2", 0.001, 3 * (38 + 42), (14.33, 24.83), 12.520),
    ],
)
def test_matched_cells_are_the_known_ones(
    name: str, max_strain: float, atoms: int, cell: tuple[float, float], twist: float
) -> None:
    """Orthogonal cells of 5:4, 4:3 and the roots of 21 and 19 hold two hexagonal ones."""
    facts = realised(settings_of(pair(name, max_strain=max_strain)))
    assert facts.number_of_atoms == atoms
    assert facts.cell_A.diagonal()[:2] == pytest.approx(cell, abs=0.01)
    assert facts.twist_deg == pytest.approx(twist, abs=1e-3)


def test_a_matched_cell_is_repeated() -> None:
    once = realised(settings_of(pair("graphene/mos2")))
    more = realised(settings_of(pair("graphene/mos2", match=Match(repeat=(2, 3)))))
    assert more.number_of_atoms == 6 * once.number_of_atoms
    assert np.allclose(more.cell_A[:2], once.cell_A[:2] * [[2], [3]])


def test_twisted_hbn_of_the_paper() -> None:
    structure = pair(
        "hbn/hbn", match=Match(max_atoms=90_000, twist_deg=0.385, orthogonal=False), max_strain=1e-6
    )
    facts = realised(settings_of(structure))
    assert facts.number_of_atoms == 87_724
    assert facts.twist_deg == pytest.approx(0.3869, abs=5e-5)
    assert np.linalg.norm(facts.cell_A[0]) == pytest.approx(np.linalg.norm(facts.cell_A[1]))
    assert len(build(settings_of(structure))) == 87_724


def test_a_twisted_bilayer_is_turned_by_its_twist() -> None:
    structure = pair("hbn/hbn", match=Match(twist_deg=21.79, orthogonal=False), max_strain=1e-6)
    atoms = build(settings_of(structure))
    assert len(atoms) == 28
    angles = []
    for layer in layers_of(atoms):
        boron, nitrogen = (layer[layer.symbols == symbol] for symbol in "BN")
        # directions of the bonds from B to N, modulo 120 degrees
        images = np.array([(i, j, 0) for i in (-1, 0, 1) for j in (-1, 0, 1)]) @ atoms.cell.array
        bonds = (nitrogen.positions[:, None] + images - boron.positions[0]).reshape(-1, 3)
        bonds = bonds[np.linalg.norm(bonds, axis=1) < 1.6]
        assert len(bonds) == 3
        turned = np.degrees(np.arctan2(bonds[:, 1], bonds[:, 0])) % 120
        assert np.ptp(turned) < 1e-6
        angles.append(turned[0])
    assert (angles[1] - angles[0]) % 120 == pytest.approx(21.7868, abs=1e-3)


def test_strain_of_a_sheared_layer_is_its_largest_in_any_direction() -> None:
    """Against the singular values of the deformation; small strain, so to second order."""
    structure = pair(
        "graphene/hbn",
        match=None,
        lower=LayerBlock(material="hbn", layers=1, supercell=((30, 0), (0, 30))),
        upper=LayerBlock(material="graphene", layers=1, supercell=((30, 0), (1, 30))),
        cell_from="upper",
        max_strain=0.03,
    )
    settings = settings_of(structure)
    facts = realised(settings)
    own = LATTICE_CONSTANTS_A["hbn"] * 30 * np.array([[1, 0], [0.5, math.sqrt(3) / 2]])
    deformation = np.linalg.solve(own, facts.cell_A[:2, :2])
    stretches = np.linalg.svd(deformation, compute_uv=False) - 1
    assert abs(facts.strain["lower"].largest) == pytest.approx(abs(stretches).max(), abs=3e-4)
    assert len(build(settings)) == 4 * 900
    strict = settings_of(structure.model_copy(update={"max_strain": 0.01}))
    with pytest.raises(SpecError, match=r"hbn \(supercell .* is strained by -2\.\d+%, more than 1\.00%"):
        check_strain(strict)


def test_a_shift_moves_the_upper_block_only() -> None:
    structure = pair("graphene/mos2", 2, 2)
    plain = build(settings_of(structure))
    moved = build(settings_of(structure.model_copy(update={"shift_A": (0.5, -0.3)})))
    difference = moved.positions - plain.positions
    lengths = plain.cell.lengths()
    difference -= np.rint(difference / lengths) * lengths
    upper = plain.arrays["layer"] >= 2
    assert np.allclose(difference[upper], [0.5, -0.3, 0])
    assert np.allclose(difference[~upper], 0)


def test_natural_distances_are_the_materials_own() -> None:
    atoms = build(settings_of(pair("graphene/mos2", 2, 2, spacing_A=None)))
    middles = [np.ptp(layer.positions[:, 2]) / 2 + layer.positions[:, 2].min() for layer in layers_of(atoms)]
    mos2, graphene = MATERIALS["mos2"], MATERIALS["graphene"]
    between = (mos2.gap + graphene.gap) / 2 + mos2.chalcogen_height_A
    assert np.diff(middles) == pytest.approx([mos2.layer_distance_A, between, graphene.layer_distance_A])
    assert atoms.positions[:, 2].min() == pytest.approx(20)
    assert atoms.cell.lengths()[2] - atoms.positions[:, 2].max() == pytest.approx(20)


def test_sublayers_survive_the_file_and_older_files_have_none(tmp_path: Path) -> None:
    atoms = build(settings_of(pair("graphene/mos2")))
    path = tmp_path / "structure.npz"
    write_structure(atoms, path)
    assert np.array_equal(read_structure(path).arrays["sublayer"], atoms.arrays["sublayer"])
    with np.load(path) as data:
        older = {name: data[name] for name in data if name != "sublayer"}
    np.savez(path, **older)
    assert not read_structure(path).arrays["sublayer"].any()


# --- what cannot be matched ---


@pytest.mark.parametrize(
    ("structure", "where", "words"),
    [
        (pair("mos2/wse2", match=Match()), "structure.match", "no common cell of up to 400 atoms"),
        (
            pair("graphene/graphene", stacking="moire", match=Match(twist_deg=21.8), max_strain=1e-6),
            "structure.match",
            r"within a strain of 0.0001 %; there is one at twist_deg: 21.79, with 56 atoms",
        ),
        (pair("graphene/hbn", match=Match()), "structure.stacking", "equal cells give no moire"),
        (pair("graphene/mos2", stacking="AB"), "structure.stacking", "no single stacking holds"),
        (pair("mos2/mos2", match=Match(twist_deg=60)), "structure.match.twist_deg", "a single stacking"),
    ],
)
def test_a_match_that_fails_says_why(structure: MultilayerSettings, where: str, words: str) -> None:
    with pytest.raises(SpecError, match=words) as caught:
        settings_of(structure)
    assert caught.value.where == where


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "tmd"}, "a tmd has two elements"),
        ({"chalcogen_height_A": 1.0}, "left out of a honeycomb"),
        ({"elements": ("Zz",)}, "'Zz' is no chemical element"),
        ({"natural_stacking": "AAp"}, "no stacking AAp"),
        ({"kind": "tmd", "elements": ("Mo", "Mo"), "chalcogen_height_A": 1.0}, "are different elements"),
        ({"kind": "tmd", "elements": ("Mo", "S"), "chalcogen_height_A": 2.0}, "less than the layer is thick"),
    ],
)
def test_materials_that_make_no_sense_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Material.model_validate(MATERIALS["graphene"].model_dump() | {"name": "mine"} | change)


def test_cells_are_given_once() -> None:
    with pytest.raises(ValidationError, match="two ways to say the same"):
        LayerBlock(material="hbn", layers=1, cells=(1, 1), supercell=((1, 0), (0, 1)))
    with pytest.raises(ValidationError, match="counter-clockwise"):
        LayerBlock(material="hbn", layers=1, supercell=((0, 1), (1, 0)))


# --- NEMD of all pairs ---


def final_series(atoms: Atoms) -> xr.Dataset:
    return xr.Dataset(
        {
            "final_position": (("atom", "direction"), atoms.positions),
            "layer": ("atom", atoms.arrays["layer"]),
            "atomic_number": ("atom", atoms.numbers),
            "cell_length": ("direction", atoms.cell.array.diagonal()),
        }
    )


@pytest.mark.parametrize("element", ["Mo", "S"])
def test_a_broken_bond_of_a_dichalcogenide_is_seen(element: str) -> None:
    atoms = build(settings_of(pair("graphene/mos2", 2, 2)))
    whole = final_geometry(final_series(atoms), (1, 2), label="moire", named=False)
    assert whole.shortest_bond == pytest.approx(2.41 / 2.59, abs=0.02)
    assert whole.longest_bond == pytest.approx(0.947, abs=0.02)
    assert whole.stacking == "moire"
    assert np.isnan(whole.fractions).all()
    assert all(check.passed for check in whole.checks("moire"))
    atoms.positions[np.flatnonzero(atoms.symbols == element)[-1], 2] += 1.6
    broken = final_geometry(final_series(atoms), (1, 2), label="moire", named=False)
    assert [check.name for check in broken.checks("moire") if not check.passed] == ["bond_long"]


EVERYTHING = replace(
    get_potential("tersoff-sw-lj"),
    name="everything",
    elements=("B", "C", "N", "Mo", "W", "S", "Se", "Te"),
    lattice_constants_A={**LATTICE_CONSTANTS_A, "mote2": 3.52},
    layer_terms=(),  # a material of the user's own is taken, too
)


@pytest.fixture
def everything(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(nemd_settings, "get_potential", lambda name: EVERYTHING)
    monkeypatch.setattr(nemd, "get_potential", lambda name: EVERYTHING)
    monkeypatch.setattr(nemd, "file_hashes", lambda potential: {})
    for cache in (nemd._build, nemd._condition, nemd._structure):
        cache.cache_clear()
    with fake_engine(monkeypatch):
        yield
    for cache in (nemd._build, nemd._condition, nemd._structure):
        cache.cache_clear()


def nemd_of(structure: MultilayerSettings) -> NemdSettings:
    return NemdSettings(structure=structure, potential="everything", bath_offset_K=60.0)


@pytest.mark.parametrize("name", PAIRS)
def test_nemd_of_every_pair_validates_and_builds(name: str, everything: Any, tmp_path: Path) -> None:
    settings = nemd_of(pair(name, 4, 3))
    PROTOCOL.validate(settings, "lammps")
    assert PROTOCOL.labels(settings) == {"pair": name}
    stages = PROTOCOL.stages(settings, "lammps", REPLICA)
    PROTOCOL.execute(stages[0], {}, tmp_path)
    built, atoms = read_result(tmp_path), read_structure(tmp_path / "structure.npz")
    facts = PROTOCOL.structure(settings)
    assert facts["atoms"] == len(atoms) == stages[0].atoms
    assert facts["cell_x_A"] == pytest.approx(atoms.cell.array[0, 0])
    assert float(built["twist_angle"]) == facts["twist_deg"]
    assert float(built["strain_upper_x"]) == facts["strain_upper_x"]


def test_nemd_wants_an_orthogonal_cell(everything: Any) -> None:
    with pytest.raises(SpecError, match="the cell of mos2 is not orthogonal") as caught:
        PROTOCOL.validate(nemd_of(pair("graphene/mos2", 4, 3, match=Match(orthogonal=False))), "lammps")
    assert caught.value.where == "structure.match.orthogonal"


def test_limits_of_the_search_are_no_part_of_a_structure(everything: Any) -> None:
    """What was found is built, so a search with other limits that finds the same makes the same stage."""
    ids = {
        PROTOCOL.stages(nemd_of(pair("graphene/mos2", 4, 3, match=match)), "lammps", REPLICA)[0].id
        for match in (Match(), Match(max_atoms=300), Match(twist_deg=(0, 1)))
    }
    assert len(ids) == 1


SPEC = """\
campaign: own
materials:
  mote2:
    kind: tmd
    elements: [Mo, Te]
    lattice_constant_A: 3.52
    chalcogen_height_A: 1.81
    layer_distance_A: 6.98
    natural_stacking: AAp
calculations:
  nemd:
    settings:
      potential: everything
      structure:
        lower: {material: hbn, layers: 4}
        upper: {layers: 3}
        match: {}
        cell_from: mean
    axes:
      structure.upper.material: [mote2, mos2]
"""


def test_own_materials_enter_the_identity_of_what_uses_them(everything: Any, tmp_path: Path) -> None:
    builds: dict[str, list[str]] = {"mote2": [], "mos2": []}
    path = tmp_path / "spec.yaml"
    for height in ("1.81", "1.82"):
        path.write_text(SPEC.replace("1.81", height))
        plan, _ = make_plan(load_spec(path))
        rows = plan.calculation("nemd").structures
        assert [(row.upper, row.lower, row.runs) for row in rows] == [("mote2", "hbn", 1), ("mos2", "hbn", 1)]
        save_plan(plan, tmp_path / "plan.json")
        assert load_plan(tmp_path / "plan.json").calculation("nemd").structures == rows
        for run in plan.runs:
            builds[str(run.labels["material"])].append(run.stages[0])
    assert len(set(builds["mote2"])) == 2
    assert len(set(builds["mos2"])) == 1


def test_stackings_may_be_written_with_the_primes_of_the_paper() -> None:
    blocks = {side: {"material": "hbn", "layers": 3, "cells": [3, 2]} for side in ("lower", "upper")}
    for name in ("AAp", "ABp", "ApB"):
        with_p, with_prime = (
            MultilayerSettings.model_validate({**blocks, "cell_from": "mean", "stacking": text})
            for text in (name, name.replace("p", "'"))
        )
        assert with_prime == with_p
        assert with_prime.stacking == name


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("material: [mote2,", "material: [mote3,", "20:34: .*one of mote2, graphene, .*mean 'mote2'"),
        ("mote2", "mos2", "3:3: mos2 is built in; choose another name"),
        ("kind: tmd", "kind: tmt", "4:11: materials.mote2.kind should be 'honeycomb' or 'tmd'"),
        ("kind: tmd", "kind: tmd\n    name: hbn", "5:5: unknown key 'name'; its key is its name"),
        ("    layer_distance_A: 6.98\n", "", "3:3: materials.mote2.layer_distance_A is missing"),
    ],
)
def test_wrong_materials_are_told_with_their_place(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC.replace(old, new, 1))
    with pytest.raises(SpecError, match=f"spec.yaml:{message}"):
        load_spec(path)


def test_editors_know_materials_by_their_keys() -> None:
    material = json_schema()["$defs"]["Material"]
    assert "name" not in material["properties"]
    assert "name" not in material["required"]
