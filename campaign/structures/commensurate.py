"""Commensurate cells of two hexagonal lattices, with and without a twist: a search for coincidences.

A lattice vector of the lower layer and one of the upper coincide if one of them, turned by the twist, is as
long as the other to within the strain. Turning both by 60 degrees gives a second pair and so a hexagonal cell
with the same strain in all directions. No other cell can be better: the shorter vector of any cell, taken
alone, makes a hexagonal cell that is no larger and no more strained. Orthogonal cells have a coincidence as
their shorter side, along x, and one of the perpendicular vectors as the other side, along y; their strain
along x and y may differ.

Without strain two layers of one material have the twists (m, r) of Lopes dos Santos, Peres, Castro Neto,
Phys. Rev. B 86, 155449 (2012), Eq. 1: cos(theta) = (3 m^2 + 3 m r + r^2 / 2) / (3 m^2 + 3 m r + r^2).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from campaign.structures.supercells import (
    Supercell,
    Vector,
    cell_matrix,
    determinant,
    norm,
    turned_60,
    twist_deg,
)

CellFrom = Literal["upper", "lower", "mean"]

_CHUNK = 128
"""Vectors that are tried before those found bound the size of what is looked for."""

SLACK = 1e-9
"""Relative; lattice constants that are equal, or angles at the end of a range, are to count as such."""

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Lattice:
    """Lattice of one layer: lattice constant, and atoms of the layer in a primitive cell."""

    constant_A: float
    atoms_per_cell: int


@dataclass(frozen=True)
class CommensurateCell:
    """A cell of both layers.

    Attributes
    ----------
    lower, upper
        Supercells of the two lattices that are laid on each other.
    atoms
        Of one lower and one upper layer.
    strain_lower, strain_upper
        Along x and y, against the lattice constants that were searched with.
    twist_deg
        Angle of the upper lattice against the lower one, in (-60, 60].
    """

    lower: Supercell
    upper: Supercell
    atoms: int
    strain_lower: tuple[float, float]
    strain_upper: tuple[float, float]
    twist_deg: float

    @property
    def strain(self) -> float:
        """Largest strain of all."""
        return max(map(abs, (*self.strain_lower, *self.strain_upper)))


@lru_cache(maxsize=256)
def commensurate_cells(
    lower: Lattice,
    upper: Lattice,
    *,
    max_strain: float,
    max_atoms: int,
    twist_range_deg: tuple[float, float],
    orthogonal: bool,
    cell_from: CellFrom,
    count: int = 10,
) -> tuple[CommensurateCell, ...]:
    """Find common cells of two layers, those of fewest atoms first.

    Cells of as many atoms are in order of strain (largest of both), then of the twist's absolute value, then
    of their vectors, so the same question always has the same answer.

    Parameters
    ----------
    max_strain
        Largest strain, of either sign, of either layer.
    max_atoms
        Of one lower and one upper layer together.
    twist_range_deg
        Range of the twist, within -60 and 60 degrees.
    orthogonal
        Orthogonal cells instead of hexagonal ones.
    cell_from
        Which layer keeps its lattice, or ``mean``, where both share the strain.
    count
        Most cells that are returned.
    """
    question = _Question(lower, upper, max_strain, cell_from)
    shortest, longest = _stretch_range(max_strain, cell_from)
    vectors_lower, vectors_upper = (_sector(max_atoms // side.atoms_per_cell) for side in (lower, upper))
    lengths_upper = np.sqrt(_norms(vectors_upper)) * upper.constant_A
    found: list[CommensurateCell] = []
    for start in range(0, len(vectors_lower), _CHUNK):
        chunk = vectors_lower[start : start + _CHUNK]
        most = found[count - 1].atoms if len(found) >= count else max_atoms
        if lower.atoms_per_cell * int(_norms(chunk[:1])[0]) > most:
            break
        lengths = np.sqrt(_norms(chunk)) * lower.constant_A
        first = np.searchsorted(lengths_upper, lengths * (shortest - SLACK))
        numbers = np.searchsorted(lengths_upper, lengths * (longest + SLACK)) - first
        within = np.arange(numbers.sum()) - np.repeat(np.cumsum(numbers) - numbers, numbers)
        pairs = np.repeat(chunk, numbers, axis=0), vectors_upper[np.repeat(first, numbers) + within]
        for low, up in _turned_into(*pairs, twist_range_deg):
            if orthogonal:
                found += question.orthogonal(low, up, most)
            else:
                found += question.hexagonal(low, up, most)
        found = _best(found, count)
    return tuple(found)


def _stretch_range(max_strain: float, cell_from: CellFrom) -> tuple[float, float]:
    """Lengths of upper vectors over those of lower ones that ``max_strain`` allows."""
    if cell_from == "lower":
        return 1 / (1 + max_strain), 1 / (1 - max_strain)
    if cell_from == "upper":
        return 1 - max_strain, 1 + max_strain
    return (1 - max_strain) / (1 + max_strain), (1 + max_strain) / (1 - max_strain)


def _sector(most: int) -> Ints:
    """Lattice vectors of directions from 0 to below 60 degrees and norms up to ``most``, shortest first."""
    reach = math.isqrt(most) + 1
    grid = np.stack(np.meshgrid(np.arange(1, reach + 1), np.arange(reach + 1), indexing="ij"), axis=-1)
    vectors: Ints = grid.reshape(-1, 2)
    norms = _norms(vectors)
    vectors, norms = vectors[norms <= most], norms[norms <= most]
    return vectors[np.lexsort((vectors[:, 1], norms))]


def _norms(vectors: Ints) -> Ints:
    i, j = vectors.T
    norms: Ints = i * i + i * j + j * j
    return norms


def _turned_into(low: Ints, up: Ints, twist_range: tuple[float, float]) -> list[tuple[Ints, Ints]]:
    """Pairs of vectors with a twist in the range; the upper one as it is, and turned by 60 degrees."""
    between = _directions(low) - _directions(up)
    chosen = []
    for turn in (0, 1):
        angle = between - 60 * turn
        inside = np.zeros(len(angle), dtype=bool)
        for period in (-120, 0, 120):
            inside |= (angle + period >= twist_range[0] - SLACK) & (angle + period <= twist_range[1] + SLACK)
        turned = np.stack((-up[:, 1], up.sum(axis=1)), axis=1) if turn else up
        chosen.append((low[inside], turned[inside]))
    return chosen


def _directions(vectors: Ints) -> NDArray[np.float64]:
    i, j = vectors.T
    angles: NDArray[np.float64] = np.degrees(np.arctan2(math.sqrt(3) * j, 2 * i + j))
    return angles


@dataclass(frozen=True)
class _Question:
    """Two layers, and the strain that they may have."""

    lower: Lattice
    upper: Lattice
    max_strain: float
    cell_from: CellFrom

    def hexagonal(self, low: Ints, up: Ints, most: int) -> Iterator[CommensurateCell]:
        """Hexagonal cells with the given vectors, of up to ``most`` atoms."""
        atoms = self.lower.atoms_per_cell * _norms(low) + self.upper.atoms_per_cell * _norms(up)
        for one, other in zip(_vectors(low[atoms <= most]), _vectors(up[atoms <= most]), strict=True):
            yield from self._cell((one, turned_60(one)), (other, turned_60(other)), most)

    def orthogonal(self, low: Ints, up: Ints, most: int) -> Iterator[CommensurateCell]:
        """Orthogonal cells with the given vectors along x, which is the shorter side."""
        for one, other in zip(_vectors(low), _vectors(up), strict=True):
            (across, part), (other_across, _) = _perpendicular(one), _perpendicular(other)
            stretch = self.lower.constant_A / self.upper.constant_A
            stretch *= math.sqrt(norm(across) / norm(other_across))
            largest = most * part // (2 * norm(one) * self.lower.atoms_per_cell)
            for times in range(math.ceil(part / math.sqrt(3) - SLACK), largest + 1):
                ideal = times * stretch
                for other_times in {max(1, math.floor(ideal)), max(1, math.ceil(ideal))}:
                    low_cell = (one, (times * across[0], times * across[1]))
                    up_cell = (other, (other_times * other_across[0], other_times * other_across[1]))
                    yield from self._cell(low_cell, up_cell, most)

    def _cell(self, low: Supercell, up: Supercell, most: int) -> Iterator[CommensurateCell]:
        """Give the cell if it is small enough and not strained too much."""
        atoms = self.lower.atoms_per_cell * determinant(low) + self.upper.atoms_per_cell * determinant(up)
        if atoms > most:
            return
        lower, upper = _sides(low, self.lower.constant_A), _sides(up, self.upper.constant_A)
        mean = (lower[0] + upper[0]) / 2, (lower[1] + upper[1]) / 2
        x, y = {"lower": lower, "upper": upper, "mean": mean}[self.cell_from]
        cell = CommensurateCell(
            lower=low,
            upper=up,
            atoms=atoms,
            strain_lower=(x / lower[0] - 1, y / lower[1] - 1),
            strain_upper=(x / upper[0] - 1, y / upper[1] - 1),
            twist_deg=twist_deg(low, up),
        )
        if cell.strain <= self.max_strain + SLACK:
            yield cell


def _vectors(array: Ints) -> list[Vector]:
    return [(i, j) for i, j in array.tolist()]


def _perpendicular(vector: Vector) -> tuple[Vector, int]:
    """Shortest lattice vector at right angles, to the left, and which part of sqrt(3) lengths it has."""
    i, j = vector
    across = -(i + 2 * j), 2 * i + j
    part = math.gcd(*across)
    return (across[0] // part, across[1] // part), part


def _sides(supercell: Supercell, lattice_constant_A: float) -> tuple[float, float]:
    """Length along x and height along y."""
    matrix = cell_matrix(supercell, lattice_constant_A)
    return float(matrix[0, 0]), float(matrix[1, 1])


def _best(cells: list[CommensurateCell], count: int) -> list[CommensurateCell]:
    """Sort, and keep one of those that differ by symmetry only."""

    # rounded, so that what is equal but for rounding is in the order of its vectors
    def rank(cell: CommensurateCell) -> tuple[object, ...]:
        return (
            cell.atoms,
            round(cell.strain, 9),
            round(abs(cell.twist_deg), 7),
            -cell.twist_deg,
            cell.lower,
            cell.upper,
        )

    kept: dict[tuple[object, ...], CommensurateCell] = {}
    for cell in sorted(cells, key=rank):
        length = round(_sides(cell.lower, 1.0)[0], 6)
        kept.setdefault((determinant(cell.lower), determinant(cell.upper), length, *rank(cell)[1:3]), cell)
    return list(kept.values())[:count]
