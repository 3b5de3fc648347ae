"""Checkpoints of GPUMD: ``restart.xyz``, which is not written in one go, becomes ``state.xyz``, which is.

A restart file holds positions, velocities, masses and groups, to six digits in most versions. It knows
neither its MD step nor the exact cell; both are added here.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from campaign.engines.gpumd_input import RESTART, STATE, Facts, Floats, Integers, write_model
from campaign.errors import TransientError
from campaign.layout import write_atomic

_LATTICE = re.compile(r'Lattice="([^"]+)"')
_STEP = re.compile(r"^step=(\d+) ")
_PROPERTIES = re.compile(r"Properties=(\S+)")


@dataclass(frozen=True)
class State:
    """A checkpoint: ``step`` MD steps of the stage were done.

    ``cell`` has the shape (3, 3), rows are the vectors, in angstrom; ``positions`` (atoms, 3) in angstrom;
    ``velocities`` (atoms, 3) in angstrom/fs; ``masses`` (atoms,) in u; ``symbols`` (atoms,); ``roles`` and
    ``layers`` (atoms,) are the groups.
    """

    step: int
    cell: Floats
    symbols: npt.NDArray[np.str_]
    positions: Floats
    masses: Floats
    velocities: Floats
    roles: Integers
    layers: Integers

    @classmethod
    def read(cls, path: Path) -> "State":
        """Read ``state.xyz``.

        Raises
        ------
        TransientError
            It is missing or damaged.
        """
        try:
            with path.open() as file:
                atoms, header = int(file.readline()), file.readline()
                columns = _columns(header)
                numbers = np.loadtxt(file, usecols=range(1, _width(columns)), ndmin=2)
            symbols = np.loadtxt(path, usecols=0, skiprows=2, dtype=str, ndmin=1)
            step, cell = int(_STEP.match(header)[1]), _cell_of(header)  # type: ignore[index]
            positions, masses, velocities, groups = (
                numbers[:, columns[name].start - 1 : columns[name].stop - 1]
                for name in ("pos", "mass", "vel", "group")
            )
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise TransientError(f"not a state of GPUMD: {error}", where=str(path)) from error
        if len(numbers) != atoms:
            raise TransientError(f"has {len(numbers)} of {atoms} atoms", where=str(path))
        roles, layers = groups.astype(np.int64).T
        return cls(step, cell, symbols, positions, masses[:, 0], velocities, roles, layers)

    def write(self, path: Path) -> None:
        """Write ``state.xyz``."""
        write_model(
            path,
            self.symbols.tolist(),
            self.positions,
            masses=self.masses,
            cell=self.cell,
            groups=(self.roles, self.layers),
            velocities=self.velocities,
        )
        atoms, header, rows = path.read_text().split("\n", 2)
        write_atomic(path, f"{atoms}\nstep={self.step} {header}\n{rows}", durable=False)


def read_restart(directory: Path, facts: Facts) -> str | None:
    """Read the text of a restart file; None where there is none, or it is cut short."""
    try:
        text = (directory / RESTART).read_text()
    except FileNotFoundError:
        return None
    if not text.endswith("\n") or text.count("\n") != facts.atoms + 2:
        return None
    header = text.split("\n", 2)[1]
    last = text[text.rfind("\n", 0, -1) + 1 :].split()
    return text if len(last) == _width(_columns(header)) else None


def write_state(directory: Path, facts: Facts, restart: str, step: int) -> None:
    """Make ``state.xyz`` of a whole restart file that was written after ``step`` MD steps of the stage."""
    atoms, header, rows = restart.split("\n", 2)
    # Six digits of the cell are enough where the barostat moves it; else it is known exactly.
    cell = _cell_of(header).flat if facts.averages_cell else facts.cell
    lattice = " ".join(f"{number:.12g}" for number in cell)
    header = _LATTICE.sub(f'Lattice="{lattice}"', header)
    write_atomic(directory / STATE, f"{atoms}\nstep={step} {header}\n{rows}", durable=False)


def scale_to_average(path: Path, length_x_A: float, length_y_A: float) -> None:
    """Give a state the average cell of its `NpT`; positions are scaled with it."""
    state = State.read(path)
    factor = np.array([length_x_A, length_y_A, state.cell[2, 2]]) / np.diag(state.cell)
    replace(state, cell=state.cell * factor, positions=state.positions * factor).write(path)


def _cell_of(header: str) -> Floats:
    found = _LATTICE.search(header)
    if found is None:
        msg = "no Lattice in it"
        raise ValueError(msg)
    return np.array(found[1].split(), dtype=np.float64).reshape(3, 3)


def _columns(header: str) -> dict[str, slice]:
    """Columns of each property, by its name; versions differ in what they write."""
    found = _PROPERTIES.search(header)
    if found is None:
        msg = "no Properties in it"
        raise ValueError(msg)
    words = found[1].split(":")
    columns, start = {}, 0
    for name, count in zip(words[::3], map(int, words[2::3]), strict=True):
        columns[name] = slice(start, start + count)
        start += count
    return columns


def _width(columns: dict[str, slice]) -> int:
    return max(int(column.stop) for column in columns.values())
