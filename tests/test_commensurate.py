"""The search for common cells: analytic twists, the paper's cells, known pairs, and every cell it gives."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from campaign.structures.commensurate import CommensurateCell, Lattice, commensurate_cells
from campaign.structures.supercells import (
    Supercell,
    cell_matrix,
    determinant,
    lattice_points,
    rectangular,
    twist_deg,
)

HBN_TWISTED_M = {85: (0.3869, 87_724), 86: (0.3824, 89_788)}
"""(m, 1) cells of twisted h-BN near 0.385 degrees, with the atoms of both layers."""

SW_MOD_A = {"mos2": 3.118, "ws2": 3.128, "wse2": 3.288}
TERSOFF_A = {"graphene": 2.4920, "hbn": 2.4979}
LATTICES = {name: Lattice(a, 3) for name, a in SW_MOD_A.items()} | {
    name: Lattice(a, 2) for name, a in TERSOFF_A.items()
}


def search(lower: Lattice, upper: Lattice, **changes: Any) -> tuple[CommensurateCell, ...]:
    values: dict[str, Any] = {
        "max_strain": 0.01,
        "max_atoms": 400,
        "twist_range_deg": (0.0, 0.0),
        "orthogonal": False,
        "cell_from": "mean",
    }
    return commensurate_cells(lower, upper, **(values | changes))


def analytic_twist_deg(m: int, r: int) -> float:
    """Lopes dos Santos et al. 2012, Eq. 1."""
    return math.degrees(math.acos((3 * m**2 + 3 * m * r + r**2 / 2) / (3 * m**2 + 3 * m * r + r**2)))


def primitive(a: float) -> NDArray[np.float64]:
    return a * np.array([[1, 0], [0.5, math.sqrt(3) / 2]])


# --- known answers ---


@pytest.mark.parametrize(("m", "r"), [(1, 1), (2, 1), (3, 1), (1, 2), (6, 1), (3, 2), (31, 1)])
def test_twists_of_one_material_are_the_analytic_ones(m: int, r: int) -> None:
    """A cell has 3 m^2 + 3 m r + r^2 primitive cells of each layer (r no multiple of 3)."""
    angle = analytic_twist_deg(m, r)
    number = 3 * m**2 + 3 * m * r + r**2
    same = Lattice(2.46, 2)
    cells = search(
        same, same, max_strain=1e-9, max_atoms=4 * number, twist_range_deg=(angle - 1e-6, angle + 1e-6)
    )
    assert cells[0].atoms == 4 * number
    assert cells[0].twist_deg == pytest.approx(angle, abs=1e-9)
    assert cells[0].strain < 1e-12


def test_twisted_hbn_of_the_paper() -> None:
    same = Lattice(2.5, 2)
    cells = search(same, same, max_strain=1e-9, max_atoms=90_000, twist_range_deg=(0.38, 0.39))
    assert [(round(cell.twist_deg, 4), cell.atoms) for cell in cells] == list(HBN_TWISTED_M.values())
    for m, (angle, _) in HBN_TWISTED_M.items():
        assert analytic_twist_deg(m, 1) == pytest.approx(angle, abs=5e-5)


def test_moire_of_the_paper() -> None:
    """Graphene and h-BN fitted to it: 56 on 55 is the smallest cell without further strain."""
    graphene = 1.42 * math.sqrt(3)
    pair = Lattice(graphene * 56 / 55, 2), Lattice(graphene, 2)
    (hexagonal,) = search(*pair, max_strain=1e-9, max_atoms=30_000)
    assert hexagonal.atoms == 12_322
    (orthogonal,) = search(*pair, max_strain=1e-9, max_atoms=30_000, orthogonal=True)
    assert orthogonal.atoms == 24_644
    assert orthogonal.lower == rectangular((55, 55))
    assert orthogonal.upper == rectangular((56, 56))


@pytest.mark.parametrize(
    ("lower", "upper", "twist", "norms", "mismatch"),
    [
        ("mos2", "graphene", (0, 0), (16, 25), 0.001),
        ("mos2", "hbn", (0, 0), (16, 25), 0.002),
        ("ws2", "hbn", (0, 0), (16, 25), 0.002),
        ("wse2", "graphene", (0, 0), (9, 16), 0.010),
        ("wse2", "hbn", (0, 0), (9, 16), 0.013),
        ("wse2", "hbn", (0, 30), (4, 7), 0.005),
        ("wse2", "mos2", (0, 30), (19, 21), 0.003),
        ("wse2", "ws2", (0, 30), (19, 21), 0.0002),
    ],
)
def test_cells_of_pairs_with_dichalcogenides(
    lower: str, upper: str, twist: tuple[float, float], norms: tuple[int, int], mismatch: float
) -> None:
    """Squared lengths in lattice constants: 4 on 5 is (16, 25), 2 on the root of 7 is (4, 7)."""
    cells = search(LATTICES[lower], LATTICES[upper], twist_range_deg=twist)
    found = {(determinant(cell.lower), determinant(cell.upper)): cell for cell in cells}
    cell = found[norms]
    assert abs(cell.strain_upper[0] - cell.strain_lower[0]) == pytest.approx(mismatch, abs=7e-4)


def test_strain_is_shared_or_put_on_one_side() -> None:
    pair = LATTICES["mos2"], LATTICES["graphene"]
    mismatch = 4 * 3.118 / (5 * 2.4920) - 1
    upper, lower, mean = (search(*pair, cell_from=side)[0] for side in ("upper", "lower", "mean"))
    assert upper.strain_upper == (0.0, 0.0)
    assert lower.strain_lower == (0.0, 0.0)
    assert lower.strain_upper == pytest.approx((mismatch, mismatch))
    assert upper.strain_lower == pytest.approx((-mismatch, -mismatch), rel=2e-3)
    assert mean.strain_upper[0] == pytest.approx(mismatch / 2, rel=1e-3)


def test_an_angle_of_60_degrees_turns_a_layer_of_two_elements() -> None:
    same = Lattice(2.5, 2)
    (parallel,) = search(same, same, count=1)
    (antiparallel,) = search(same, same, twist_range_deg=(60.0, 60.0), count=1)
    assert (parallel.atoms, parallel.twist_deg) == (4, 0)
    assert (antiparallel.atoms, antiparallel.twist_deg) == (4, 60)


# --- whatever is asked ---


QUESTIONS = st.fixed_dictionaries(
    {
        "max_strain": st.floats(0.001, 0.03),
        "max_atoms": st.just(250),
        "twist_range_deg": st.tuples(st.floats(-60, 60), st.floats(0, 30)).map(
            lambda pair: (pair[0], min(60.0, pair[0] + pair[1]))
        ),
        "orthogonal": st.booleans(),
        "cell_from": st.sampled_from(["lower", "upper", "mean"]),
    }
)


@settings(max_examples=60, deadline=None)
@given(
    ratio=st.floats(0.7, 1.4),
    atoms=st.tuples(st.sampled_from([2, 3]), st.sampled_from([2, 3])),
    question=QUESTIONS,
)
def test_every_cell_is_what_it_says(ratio: float, atoms: tuple[int, int], question: dict[str, Any]) -> None:
    lower, upper = Lattice(2.5, atoms[0]), Lattice(2.5 * ratio, atoms[1])
    twist = question["twist_range_deg"]
    cells = commensurate_cells(lower, upper, **question)
    for cell in cells:
        # the vectors of both layers in one frame: the upper lattice turned by the twist
        angle = math.radians(cell.twist_deg)
        turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        low = np.array(cell.lower) @ primitive(lower.constant_A)
        up = np.array(cell.upper) @ primitive(upper.constant_A) @ turn
        lengths = np.linalg.norm(low, axis=1), np.linalg.norm(up, axis=1)
        cosines = np.sum(low * up, axis=1) / (lengths[0] * lengths[1])
        # of lattices with a threefold axis, so turned by 120 degrees at most
        assert np.allclose(cosines, cosines[0])
        assert min(abs(cosines[0] - 1), abs(cosines[0] + 0.5)) < 1e-9
        assert math.isclose(
            low[0] @ low[1], 0 if question["orthogonal"] else lengths[0][0] ** 2 / 2, abs_tol=1e-6
        )
        common = {"lower": lengths[0], "upper": lengths[1], "mean": (lengths[0] + lengths[1]) / 2}[
            question["cell_from"]
        ]
        assert np.allclose(common / lengths[0] - 1, cell.strain_lower, atol=1e-9)
        assert np.allclose(common / lengths[1] - 1, cell.strain_upper, atol=1e-9)
        assert cell.strain <= question["max_strain"] + 1e-8
        assert cell.atoms <= 250
        areas = [abs(np.linalg.det(vectors)) for vectors in (low, up)]
        own = [abs(np.linalg.det(primitive(side.constant_A))) for side in (lower, upper)]
        assert round(areas[0] / own[0]) * atoms[0] + round(areas[1] / own[1]) * atoms[1] == cell.atoms
        assert any(twist[0] - 1e-6 <= cell.twist_deg + turned <= twist[1] + 1e-6 for turned in (-120, 0, 120))
    assert [cell.atoms for cell in cells] == sorted(cell.atoms for cell in cells)
    commensurate_cells.cache_clear()
    assert commensurate_cells(lower, upper, **question) == cells
    if not question["orthogonal"]:
        assert _fewest_atoms(lower, upper, question) == (cells[0].atoms if cells else None)


def _fewest_atoms(lower: Lattice, upper: Lattice, question: dict[str, Any]) -> int | None:
    """Smallest hexagonal cell, by trying all pairs of vectors."""
    grid = np.array([(i, j) for i in range(-14, 15) for j in range(-14, 15) if i or j])
    vectors = [grid @ primitive(side.constant_A) for side in (lower, upper)]
    lengths = [np.linalg.norm(of_side, axis=1) for of_side in vectors]
    low, up = lengths[0][:, None], lengths[1][None, :]
    common = {"lower": low, "upper": up, "mean": (low + up) / 2}[question["cell_from"]]
    strain = np.maximum(abs(common / low - 1), abs(common / up - 1))
    angles = [np.degrees(np.arctan2(of_side[:, 1], of_side[:, 0])) for of_side in vectors]
    twist = angles[0][:, None] - angles[1][None, :]
    first, last = question["twist_range_deg"]
    inside = (twist - first + 1e-7) % 120 <= last - first + 2e-7
    numbers = [
        np.rint((of_side / side.constant_A) ** 2)
        for of_side, side in zip(lengths, (lower, upper), strict=True)
    ]
    atoms = lower.atoms_per_cell * numbers[0][:, None] + upper.atoms_per_cell * numbers[1][None, :]
    fits = (strain <= question["max_strain"]) & inside & (atoms <= question["max_atoms"])
    return int(atoms[fits].min()) if fits.any() else None


@given(
    rows=st.tuples(*[st.tuples(st.integers(-6, 6), st.integers(-6, 6))] * 2).filter(
        lambda n: determinant(n) > 0
    )
)
def test_lattice_points_fill_a_supercell(rows: Supercell) -> None:
    points = lattice_points(rows)
    assert len({tuple(point) for point in points.tolist()}) == len(points) == determinant(rows)
    # each is a lattice point: whole in the primitive vectors
    coordinates = points @ np.array(rows) / determinant(rows)
    assert np.allclose(coordinates, np.rint(coordinates))
    matrix = cell_matrix(rows, 2.5)
    assert np.allclose(
        matrix @ matrix.T, np.array(rows) @ primitive(2.5) @ primitive(2.5).T @ np.array(rows).T
    )
    assert twist_deg(rows, rows) == 0
