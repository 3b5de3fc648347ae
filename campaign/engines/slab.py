"""A structure as engines take it: its layers, and how much of its cell it fills."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from campaign.errors import InputError

if TYPE_CHECKING:
    from ase import Atoms

MIN_VACUUM_A = 5.0
"""Least free space below and above the structure; an atom that crosses it is lost, which is an error."""


def layers_of(atoms: "Atoms") -> npt.NDArray[np.int64]:
    """Layer of each atom, shape (atoms,), from 0 at the bottom."""
    if "layer" not in atoms.arrays or not len(atoms):
        raise InputError("the structure has no layers", hint="write it with campaign.structures.io")
    return np.asarray(atoms.arrays["layer"], dtype=np.int64)


def slab_cell(atoms: "Atoms") -> tuple[float, float, float, float]:
    """Lengths of the cell along x, y and z, and its tilt xy, in angstrom.

    The tilt is that of the equivalent cell, periodic along the same lattice, that leans least: LAMMPS
    communicates over longer distances in cells that lean more.

    Raises
    ------
    InputError
        The first vector is not along x, the second not in the xy plane, the third not along z, or the
        structure is periodic along z.
    """
    cell = np.asarray(atoms.cell.array, dtype=float)
    off = np.array([cell[0, 1], cell[0, 2], cell[1, 2], cell[2, 0], cell[2, 1]])
    if np.abs(off).max() > 1e-9 * np.abs(cell).max() or np.diag(cell).min() <= 0:
        raise InputError(
            "the structure's cell has no shape that engines take",
            hint="its first vector must lie along x, the second in the xy plane, the third along z",
        )
    if atoms.pbc[2]:
        raise InputError("the structure is periodic along z; only slabs can run here")
    x, y, z = np.diag(cell).tolist()
    # A tilt of half the length stays as it is: rounding must not turn it round.
    tilt = float(cell[1, 0] - x * np.rint(cell[1, 0] / x * (1 - 1e-9)))
    return x, y, z, tilt if abs(tilt) > 1e-9 * x else 0.0


def slab_fraction(atoms: "Atoms") -> float:
    """Thickness of the structure, as layers times their mean distance, over the height of its cell.

    Raises
    ------
    InputError
        Too little vacuum, or a single layer.
    """
    layer, height = layers_of(atoms), float(atoms.cell[2, 2])
    layers = int(layer.max()) + 1
    z = atoms.positions[:, 2]
    vacuum_A = min(float(z.min()), height - float(z.max()))
    if vacuum_A < MIN_VACUUM_A:
        raise InputError(
            f"{vacuum_A:g} angstrom of vacuum are too few",
            hint=f"take {MIN_VACUUM_A:g} or more",
        )
    if layers < 2:
        raise InputError("a single layer has no thickness", hint="use at least two layers")
    # The median is the middle of a layer: the plane of a flat one, the metals of a dichalcogenide.
    bottom, top = (float(np.median(z[layer == index])) for index in (0, layers - 1))
    return (top - bottom) * layers / (layers - 1) / height
