"""Supercells of a hexagonal lattice: vectors, lattice points and orientation, exact in integers.

The primitive vectors are a1 = (a, 0) and a2 = (a/2, sqrt(3) a/2). A supercell is a matrix of integers, whose
rows are its vectors in a1 and a2. In a structure its first vector lies along x, so the matrix also says how
the lattice is turned.
"""

import math

import numpy as np
from numpy.typing import NDArray

Vector = tuple[int, int]
Supercell = tuple[Vector, Vector]

SITE_UNITS = 6
"""Lattice points and sites are whole numbers of 1/6 of the supercell's determinant: sites may be halves."""


def rectangular(cells: tuple[int, int]) -> Supercell:
    """Supercell of ``n`` by ``m`` rectangles of a (zigzag, along x) by sqrt(3) a (armchair, along y)."""
    n, m = cells
    return (n, 0), (-m, 2 * m)


def determinant(supercell: Supercell) -> int:
    """Primitive cells that it holds; negative where the vectors are left-handed."""
    (i, j), (k, m) = supercell
    return i * m - j * k


def norm(vector: Vector) -> int:
    """Squared length of a lattice vector in units of a^2: i^2 + i j + j^2."""
    i, j = vector
    return i * i + i * j + j * j


def turned_60(vector: Vector) -> Vector:
    """Vector turned by 60 degrees, counter-clockwise."""
    i, j = vector
    return -j, i + j


def cell_matrix(supercell: Supercell, lattice_constant_A: float) -> NDArray[np.float64]:
    """Vectors of a supercell in angstrom as rows, shape (2, 2), the first along x, the second in y > 0."""
    length = math.sqrt(norm(supercell[0]))
    return lattice_constant_A * np.array(
        [
            [length, 0.0],
            [_twice_dot(supercell) / 2 / length, math.sqrt(3) * (determinant(supercell) / length / 2)],
        ]
    )


def is_orthogonal(supercell: Supercell) -> bool:
    """Whether its vectors are at right angles."""
    return _twice_dot(supercell) == 0


def _twice_dot(supercell: Supercell) -> int:
    """Twice the scalar product of its vectors in units of a^2."""
    (i, j), (k, m) = supercell
    return 2 * i * k + 2 * j * m + i * m + j * k


def direction_deg(vector: Vector) -> float:
    """Angle of a lattice vector from a1 in degrees, from -180 to 180."""
    i, j = vector
    return math.degrees(math.atan2(math.sqrt(3) * j, 2 * i + j))


def twist_deg(lower: Supercell, upper: Supercell) -> float:
    """Angle by which the upper lattice is turned against the lower one, in degrees, in (-60, 60].

    Counter-clockwise is positive. Layers of two elements have a threefold axis: 60 degrees swap their sites.
    """
    return reduced_angle(direction_deg(lower[0]) - direction_deg(upper[0]))


def reduced_angle(angle_deg: float) -> float:
    """Angle modulo 120 degrees, in (-60, 60]; what is 0 to rounding is 0."""
    reduced = 60 - (60 - angle_deg) % 120
    return 0.0 if abs(reduced) < 1e-9 else reduced


def lattice_points(supercell: Supercell) -> NDArray[np.int64]:
    """Lattice points within a supercell, shape (determinant, 2), sorted.

    Coordinates are fractional in the supercell, in units of 1 / determinant.
    """
    corners = np.array([(0, 0), supercell[0], supercell[1], np.add(*supercell)])
    low, high = corners.min(axis=0), corners.max(axis=0)
    grid = np.stack(
        np.meshgrid(np.arange(low[0], high[0] + 1), np.arange(low[1], high[1] + 1), indexing="ij"), axis=-1
    ).reshape(-1, 2)
    fractional = grid @ _adjugate(supercell)
    inside = np.all((fractional >= 0) & (fractional < determinant(supercell)), axis=1)
    points: NDArray[np.int64] = fractional[inside]
    return points[np.lexsort((points[:, 1], points[:, 0]))]


def site_lattice(supercell: Supercell, repeat: tuple[int, int], site: float) -> NDArray[np.float64]:
    """All places of one kind of site in a repeated supercell, fractional, shape (points, 2), in [0, 1).

    Site ``s`` lies ``s`` times a / sqrt(3) from a lattice point, along a2 - a1 / 2; it may be half a number.
    """
    units = SITE_UNITS * determinant(supercell)
    shift = round(2 * site) * np.array([-1, 2]) @ _adjugate(supercell)
    points = (SITE_UNITS * lattice_points(supercell) + shift) % units / units
    n, m = repeat
    columns = (np.arange(n)[:, None, None] + points[:, 0]) / n
    rows = (np.arange(m)[:, None] + points[:, 1]) / m
    return np.stack(np.broadcast_arrays(columns, rows), axis=-1).reshape(-1, 2)


def _adjugate(supercell: Supercell) -> NDArray[np.int64]:
    (i, j), (k, m) = supercell
    return np.array([[m, -j], [-k, i]])
