import itertools
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from campaign.errors import ResourceError, SpecError
from campaign.structures.io import read_structure, write_structure
from campaign.structures.layers import (
    BuildSettings,
    LayerBlock,
    MultilayerSettings,
    build,
    check_strain,
    number_of_atoms,
    realised,
)
from campaign.structures.stacking import InterfaceRegistry, interface_registry
from tests.reference import REFERENCE, needs_reference

LATTICE_CONSTANTS_A = {"graphene": 2.4920, "hbn": 2.4979}
STACKINGS: tuple[Literal["AA", "AB", "ABp"], ...] = ("AA", "AB", "ABp")


def multilayer(**changes: Any) -> MultilayerSettings:
    values: dict[str, Any] = {
        "lower": LayerBlock(material="hbn", layers=5, cells=(5, 3)),
        "upper": LayerBlock(material="graphene", layers=4, cells=(5, 3)),
        "cell_from": "mean",
        "stacking": "ABp",
    }
    return MultilayerSettings(**(values | changes))


def moire(n: int, m: int, extra: int = 1, layers: int = 1) -> MultilayerSettings:
    return MultilayerSettings(
        lower=LayerBlock(material="hbn", layers=layers, cells=(n, m)),
        upper=LayerBlock(material="graphene", layers=layers, cells=(n + extra, m + extra)),
        cell_from="mean",
        stacking="moire",
        max_strain=0.2,
    )


def build_settings(structure: MultilayerSettings) -> BuildSettings:
    return BuildSettings(structure=structure, lattice_constants_A=LATTICE_CONSTANTS_A)


def cell_lengths(settings: BuildSettings) -> NDArray[np.float64]:
    return realised(settings).cell_A.diagonal()


def layer_parts(structure: MultilayerSettings) -> list[dict[str, NDArray[np.float64]]]:
    """Fractional xy of the atoms of each layer by element."""
    atoms = build(build_settings(structure))
    scaled, layer, symbols = atoms.get_scaled_positions(), atoms.arrays["layer"], np.array(atoms.symbols)
    return [
        {e: scaled[(layer == k) & (symbols == e), :2] for e in set(symbols[layer == k])}
        for k in range(layer.max() + 1)
    ]


def on_top(first: NDArray[np.float64], second: NDArray[np.float64], structure: MultilayerSettings) -> float:
    """Fraction of the atoms of the first that have one of the second exactly above or below."""
    lengths = np.array(cell_lengths(build_settings(structure))[:2])
    difference = first[:, None] - second[None]
    distance = np.linalg.norm((difference - np.rint(difference)) * lengths, axis=-1)
    return float(np.mean(distance.min(axis=1) < 1e-6))


def registry_of(
    structure: MultilayerSettings,
    noise_A: float = 0.0,
    slide_A: tuple[float, float] = (0.0, 0.0),
    seed: int = 0,
) -> InterfaceRegistry:
    atoms = build(build_settings(structure))
    positions = atoms.positions + np.random.default_rng(seed).normal(0, noise_A, atoms.positions.shape)
    low, up = structure.lower.layers - 1, structure.lower.layers
    layer = atoms.arrays["layer"]
    positions[layer == up, :2] += slide_A
    return interface_registry(
        positions[layer == up],
        atoms.numbers[layer == up],
        positions[layer == low],
        atoms.numbers[layer == low],
        atoms.cell.lengths()[:2],
    )


# --- the model of the paper ---


def test_default_is_the_model_of_the_paper(tmp_path: Path) -> None:
    """arXiv:2502.13601, Methods: 307,828 atoms, 13.8 x 23.9 nm."""
    structure = MultilayerSettings()
    atoms = build(build_settings(structure))
    assert len(atoms) == number_of_atoms(structure) == 307_828
    assert [round(length / 10, 1) for length in atoms.cell.lengths()[:2]] == [13.8, 23.9]
    np.testing.assert_allclose(atoms.cell.lengths()[:2], [137.73, 238.56], atol=5e-3)
    counts = np.bincount(atoms.arrays["layer"])
    assert tuple(counts) == (12_100,) * 13 + (12_544,) * 12
    assert atoms.info["strain_upper_x"] == pytest.approx(1.42 * math.sqrt(3) / 2.4920 - 1)
    assert atoms.info["strain_lower_y"] == pytest.approx(1.42 * math.sqrt(3) * 56 / 55 / 2.4979 - 1)

    write_structure(atoms, tmp_path / "structure.npz")
    again = read_structure(tmp_path / "structure.npz")
    assert np.array_equal(again.positions, atoms.positions)
    assert np.array_equal(again.numbers, atoms.numbers)
    assert np.array_equal(again.arrays["layer"], atoms.arrays["layer"])
    assert np.array_equal(again.cell.array, atoms.cell.array)
    assert again.pbc.tolist() == [True, True, False]
    assert again.info == atoms.info


# --- geometry ---


@settings(max_examples=30, deadline=None)
@given(
    layers=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    cells=st.tuples(st.integers(1, 5), st.integers(1, 4)),
    stacking=st.sampled_from(STACKINGS),
    order=st.sampled_from(["natural", "straight"]),
    swapped=st.booleans(),
)
def test_every_atom_has_three_neighbours_at_the_bond_length(
    layers: tuple[int, int], cells: tuple[int, int], stacking: str, order: str, swapped: bool
) -> None:
    hbn, graphene = (
        LayerBlock(material="hbn", layers=layers[0], cells=cells),
        LayerBlock(material="graphene", layers=layers[1], cells=cells),
    )
    lower, upper = (graphene, hbn) if swapped else (hbn, graphene)
    structure = multilayer(lower=lower, upper=upper, stacking=stacking, layer_order=order)
    atoms = build(build_settings(structure))
    assert len(atoms) == number_of_atoms(structure)
    layer = atoms.arrays["layer"]
    assert np.all(np.diff(layer) >= 0)
    scaled = atoms.get_scaled_positions(wrap=False)[:, :2]
    assert scaled.min() >= 0
    assert scaled.max() < 1
    x, y, _ = atoms.cell.lengths()
    bond = x / cells[0] / math.sqrt(3)
    for k, block in enumerate([lower] * lower.layers + [upper] * upper.layers):
        here = atoms[layer == k]
        assert set(here.symbols) == set(block.definition.elements)
        assert np.ptp(here.positions[:, 2]) == 0
        shifts = np.array([(i * x, j * y, 0) for i in (-1, 0, 1) for j in (-1, 0, 1)])
        images = (here.positions[None] + shifts[:, None]).reshape(-1, 3)
        symbols = np.tile(here.numbers, len(shifts))
        distance = np.linalg.norm(here.positions[:, None] - images[None], axis=-1)
        bonded = np.abs(distance - bond) < 1e-6
        assert np.all(bonded.sum(axis=1) == 3)
        assert np.sort(distance, axis=1)[:, 1].min() > bond - 1e-6
        if len(block.definition.elements) == 2:
            assert not np.any(bonded & (here.numbers[:, None] == symbols[None]))


def test_layers_lie_at_the_spacing_within_the_vacuum() -> None:
    atoms = build(build_settings(multilayer(spacing_A=3.3, vacuum_A=12.0)))
    heights = np.unique(atoms.positions[:, 2])
    np.testing.assert_allclose(heights, 12 + 3.3 * np.arange(9))
    assert atoms.cell.lengths()[2] == pytest.approx(8 * 3.3 + 24)


def test_natural_order_is_aa_prime_and_bernal() -> None:
    """AA' h-BN: B above N and N above B. Bernal graphite: half of the atoms above an atom."""
    structure = multilayer()
    layers = layer_parts(structure)
    for low, up in itertools.pairwise(layers[:5]):
        assert on_top(low["B"], up["N"], structure) == on_top(low["N"], up["B"], structure) == 1
    for low, up in itertools.pairwise(layers[5:]):
        assert on_top(low["C"], up["C"], structure) == 0.5


def test_straight_order_repeats_each_layer() -> None:
    structure = multilayer(layer_order="straight")
    layers = layer_parts(structure)
    for low, up in itertools.pairwise(layers[:5]):
        assert on_top(low["B"], up["B"], structure) == on_top(low["N"], up["N"], structure) == 1
    for low, up in itertools.pairwise(layers[5:]):
        assert on_top(low["C"], up["C"], structure) == 1


@pytest.mark.parametrize(
    ("stacking", "above_boron", "above_nitrogen"), [("ABp", 1, 0), ("AA", 1, 1), ("AB", 0, 1)]
)
@pytest.mark.parametrize("swapped", [False, True])
def test_interface_registry_is_the_one_asked_for(
    stacking: str, above_boron: float, above_nitrogen: float, swapped: bool
) -> None:
    structure = multilayer(stacking=stacking)
    if swapped:
        structure = multilayer(stacking=stacking, lower=structure.upper, upper=structure.lower)
    low, up = structure.lower.layers - 1, structure.lower.layers
    layers = layer_parts(structure)
    graphene, hbn = (layers[low], layers[up]) if swapped else (layers[up], layers[low])
    assert on_top(hbn["B"], graphene["C"], structure) == above_boron
    assert on_top(hbn["N"], graphene["C"], structure) == above_nitrogen


# --- strain and bad input ---


def test_strain_counts_against_the_potential() -> None:
    strain = realised(build_settings(multilayer())).strain
    mean = (2.4920 + 2.4979) / 2
    assert strain["lower"] == pytest.approx((mean / 2.4979 - 1, mean / 2.4979 - 1, 0))
    assert strain["upper"] == pytest.approx((mean / 2.4920 - 1, mean / 2.4920 - 1, 0))
    assert realised(build_settings(multilayer(cell_from="upper"))).strain["upper"] == (0, 0, 0)
    assert realised(build_settings(multilayer(cell_from="lower"))).strain["lower"] == (0, 0, 0)


def test_more_strain_than_allowed_is_refused() -> None:
    settings = build_settings(moire(10, 10).model_copy(update={"max_strain": 0.02, "cell_from": "upper"}))
    for function in (check_strain, build):
        with pytest.raises(
            SpecError, match=r"hbn \(10 x 10 cells\) is strained by \+9\.74% along x"
        ) as caught:
            function(settings)
        assert caught.value.where == "structure.max_strain"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stacking": "moire"}, "equal cells give no moire"),
        ({"upper": {"material": "graphene", "layers": 4, "cells": (6, 3)}}, "stacking must be moire"),
        (
            {"upper": {"material": "graphene", "layers": 4, "cells": (6, 3)}, "stacking": "moire"},
            "different numbers of cells along y",
        ),
        ({"upper": {"material": "graphene", "layers": 4}}, "need cells, or match"),
        ({"match": {}}, "leave them out of lower and upper"),
        ({"stacking": "AAp"}, "graphene on hbn has no AAp; stacking must be AA, AB, ABp or DW"),
        (
            {"upper": {"material": "mos3", "layers": 4, "cells": (5, 3)}},
            "should be 'graphene', 'hbn', 'mos2'",
        ),
        ({"upper": {"material": "graphene", "layers": 0, "cells": (5, 3)}}, "greater than or equal to 1"),
        ({"spacing_A": 1.0}, "greater than or equal to 2.5"),
    ],
)
def test_settings_that_cannot_be_built_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        multilayer(**changes)


def test_a_material_without_lattice_constant_is_refused() -> None:
    with pytest.raises(ValidationError, match="no lattice constant of hbn"):
        BuildSettings(structure=multilayer(), lattice_constants_A={"graphene": 2.4920})


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "structure.npz"
    write_structure(build(build_settings(multilayer())), path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ResourceError, match=r"structure\.npz: not a structure"):
        read_structure(path)


# --- registry from positions ---


@pytest.mark.parametrize("stacking", STACKINGS)
@pytest.mark.parametrize("cells", [(5, 3), (24, 14)])
def test_registry_is_recognised_under_thermal_noise(stacking: str, cells: tuple[int, int]) -> None:
    structure = multilayer(
        stacking=stacking,
        lower=LayerBlock(material="hbn", layers=1, cells=cells),
        upper=LayerBlock(material="graphene", layers=1, cells=cells),
    )
    for noise_A in (0.0, 0.1):
        registry = registry_of(structure, noise_A)
        assert registry.label == stacking
        assert getattr(registry, stacking) == 1


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), shift=st.tuples(st.integers(-3, 3), st.integers(-3, 3)))
def test_registry_does_not_know_the_origin(seed: int, shift: tuple[int, int]) -> None:
    """Sliding by a lattice vector, and a common drift out of the cell, change nothing."""
    structure = multilayer(lower=LayerBlock(material="hbn", layers=1, cells=(5, 3)), stacking="AB")
    a = cell_lengths(build_settings(structure))[0] / 5
    i, j = shift
    slide = (i * a + j * a / 2, j * a * math.sqrt(3) / 2)
    assert registry_of(structure, 0.1, slide, seed).AB == 1


def test_sliding_passes_through_the_stackings_as_the_sliding_surface_does() -> None:
    """Upper graphene from ABp along y by one bond: AA, by two: AB (7 and 13 of 20 in the authors' grid)."""
    structure = multilayer()
    bond = cell_lengths(build_settings(structure))[0] / 5 / math.sqrt(3)
    labels = [registry_of(structure, slide_A=(0, f * bond)).label for f in (0, 0.5, 1, 1.5, 2, 2.5, 3)]
    assert labels == ["ABp", "DW", "AA", "DW", "AB", "DW", "ABp"]


@pytest.mark.parametrize(("n", "m"), [(10, 6), (30, 17)])
def test_moire_contains_all_in_equal_parts(n: int, m: int) -> None:
    """An unrelaxed moire has all shifts equally often: each disc of 0.5 A, of a cell of sqrt(3)/2 a^2."""
    structure = moire(n, m)
    x = cell_lengths(build_settings(structure))[0]
    disc = math.pi * 0.5**2 / (math.sqrt(3) / 2 * (x / n) ** 2)
    for noise_A in (0.0, 0.1):
        registry = registry_of(structure, noise_A)
        assert registry.label == "moire"
        for fraction in (registry.AA, registry.AB, registry.ABp):
            assert fraction == pytest.approx(disc, rel=0.15)
        assert registry.AA + registry.AB + registry.ABp + registry.DW == pytest.approx(1)


def test_a_layer_with_a_missing_atom_is_refused() -> None:
    atoms = build(build_settings(multilayer()))
    layer, lengths = atoms.arrays["layer"], atoms.cell.lengths()[:2]
    graphene, hbn = atoms[layer == 5], atoms[layer == 4]
    with pytest.raises(ValueError, match="59 atoms"):
        interface_registry(graphene.positions[1:], graphene.numbers[1:], hbn.positions, hbn.numbers, lengths)
    with pytest.raises(ValueError, match="not one of a graphene layer and an h-BN layer"):
        interface_registry(hbn.positions, hbn.numbers, hbn.positions, hbn.numbers, lengths)


@needs_reference
@pytest.mark.parametrize("stacking", ["ABp", "AA"])
def test_names_are_those_of_the_authors(stacking: str) -> None:
    """Their relaxed bilayers, in a hexagonal cell; here made rectangular."""
    from ase import Atoms
    from ase.io import read

    bilayer = read(REFERENCE / "binding" / f"gr-hbn.{stacking}.CONTCAR", format="vasp")
    assert isinstance(bilayer, Atoms)
    a1, a2 = bilayer.cell.array[:2]
    rectangle = np.array([a1, 2 * a2 - a1])
    xy = np.concatenate([bilayer.positions, bilayer.positions + a2])
    numbers = np.tile(bilayer.numbers, 2)
    lengths = np.linalg.norm(rectangle, axis=1)
    carbon = numbers == 6
    registry = interface_registry(xy[~carbon], numbers[~carbon], xy[carbon], numbers[carbon], lengths)
    assert registry.label == stacking
