"""Structures as files: uncompressed npz, all numbers exact, arrays by name."""

import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from campaign.errors import ResourceError

if TYPE_CHECKING:
    from ase import Atoms


def write_structure(atoms: "Atoms", path: Path) -> None:
    """Write positions (angstrom), atomic numbers, layers, sublayers, cell, periodicity and ``info``.

    The file is not synced: it lies in the directory of an attempt, and committing the stage does that.
    ``info`` must be plain data (JSON).
    """
    # savez adds ".npz" to a name without it, but takes an open file as it is.
    with path.open("wb") as file:
        np.savez(
            file,
            numbers=atoms.numbers,
            positions=atoms.positions,
            layer=atoms.arrays["layer"],
            sublayer=atoms.arrays.get("sublayer", np.zeros(len(atoms), dtype=np.int64)),
            cell=atoms.cell.array,
            pbc=atoms.pbc,
            info=np.array(json.dumps(atoms.info, allow_nan=False)),
        )


def read_structure(path: Path) -> "Atoms":
    """Read what `write_structure` wrote.

    Raises
    ------
    ResourceError
        The file is not there, or is not a whole structure.
    """
    from ase import Atoms

    try:
        with np.load(path, allow_pickle=False) as data:
            atoms = Atoms(
                numbers=data["numbers"], positions=data["positions"], cell=data["cell"], pbc=data["pbc"]
            )
            atoms.set_array("layer", data["layer"])
            # files from before there were dichalcogenides have flat layers only
            flat = np.zeros_like(data["layer"])
            atoms.set_array("sublayer", data.get("sublayer", flat))
            atoms.info.update(json.loads(str(data["info"])))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ResourceError(f"not a structure: {error}", where=str(path)) from error
    return atoms
