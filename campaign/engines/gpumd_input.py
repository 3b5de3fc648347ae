"""Input of GPUMD for one segment: the model, the facts that reading the output needs, the file names.

One process of GPUMD computes one step of a simulation at most. Grouping method 0, which is the only one that
thermostats look at, is read at its start and differs between steps; and the average cell of an `NpT` is known
at its end only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from campaign.engines.facts import FactsFile

if TYPE_CHECKING:
    from collections.abc import Iterator

MODEL = "model.xyz"
SCRIPT = "run.in"
POTENTIAL = "nep.txt"
RESTART = "restart.xyz"
THERMO = "thermo.out"
COMPUTE = "compute.out"
LOG = "log.gpumd"
STATE = "state.xyz"

ROLES, LAYERS = 0, 1
"""Grouping methods: what thermostats do with the atoms, and their layers."""

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Facts(FactsFile):
    """What reading the output needs besides the output; lies beside the input as ``gpumd.json``.

    All steps are MD steps of the stage, except for intervals.

    Attributes
    ----------
    series
        Which file tells of the step: ``compute`` (one with two thermostats) or ``thermo``.
    averages_cell
        Whether the step is an `NpT`, at whose end the cell becomes its average.
    timestep_fs
        Timestep.
    step_first, step_last
        The step of the simulation of which the segment is a part.
    first, last
        The segment.
    recorded_first, steps_total
        The step that is recorded, which is the last one.
    sample_steps, frame_steps
        MD steps between two samples of a series, and between two rows of the file that they are taken from.
    block_steps
        MD steps of a block (``run`` in GPUMD's words), after which there is a checkpoint.
    atoms_of_layer
        Number of atoms in each layer, bottom to top.
    upper_layers
        Layers above the interface, where there is one.
    slab_fraction
        Thickness of the structure over the height of the cell; GPUMD's pressures are per volume of the cell.
    cell
        The nine numbers of the cell at the start, in angstrom, vector by vector.
    limit_K
        A temperature above it means that the simulation went wrong.
    carried
        Averages of the segment before: ``cell_x``, ``cell_y`` in angstrom, and their ``cell_samples``.
    """

    FILE: ClassVar[str] = "gpumd.json"

    series: Literal["compute", "thermo"]
    averages_cell: bool
    timestep_fs: float
    step_first: int
    step_last: int
    first: int
    last: int
    recorded_first: int
    steps_total: int
    sample_steps: int
    frame_steps: int
    block_steps: int
    atoms_of_layer: tuple[int, ...]
    upper_layers: tuple[int, ...]
    slab_fraction: float
    cell: tuple[float, ...]
    limit_K: float
    carried: Mapping[str, float] = field(default_factory=dict)

    @property
    def atoms(self) -> int:
        """Number of atoms."""
        return sum(self.atoms_of_layer)

    @property
    def is_recorded(self) -> bool:
        """Whether the segment's step is the one whose series are kept."""
        return self.step_first == self.recorded_first

    def blocks(self, reached: int | None = None) -> "Iterator[int]":
        """MD steps of each block, up to ``reached`` (None: up to the segment's end)."""
        done, last = self.first, self.last if reached is None else reached
        while done < last:
            steps = min(self.block_steps, last - done)
            yield steps
            done += steps


def write_model(
    path: Path,
    symbols: Sequence[str],
    positions: Floats,
    *,
    masses: Floats,
    cell: Floats,
    groups: Sequence[Integers],
    velocities: Floats | None = None,
) -> None:
    """Write ``model.xyz`` of a slab, periodic along x and y, in linear time.

    Parameters
    ----------
    symbols
        Element of each atom.
    positions
        Shape (atoms, 3), in angstrom.
    masses
        Shape (atoms,), in u.
    cell
        Shape (3, 3), rows are the vectors, in angstrom.
    groups
        For each grouping method the group of each atom, shape (atoms,), from 0.
    velocities
        Shape (atoms, 3), in angstrom/fs; None where GPUMD is to draw them.
    """
    velocity = "" if velocities is None else "vel:R:3:"
    lattice = " ".join(f"{number:.12g}" for number in np.asarray(cell).flat)
    header = (
        f'pbc="T T F" Lattice="{lattice}" '
        f"Properties=species:S:1:pos:R:3:mass:R:1:{velocity}group:I:{len(groups)}"
    )
    columns = [list(symbols), *positions.T.tolist(), masses.tolist()]
    formats = ["%s", "%.10f", "%.10f", "%.10f", "%.6f"]
    if velocities is not None:
        columns += velocities.T.tolist()
        formats += ["%.10g"] * 3
    columns += [group.tolist() for group in groups]
    formats += ["%d"] * len(groups)
    row = " ".join(formats) + "\n"
    with path.open("w") as file:
        file.write(f"{len(positions)}\n{header}\n")
        file.writelines(row % atom for atom in zip(*columns, strict=True))


def role_groups(layer: Integers, roles: Mapping[str, Sequence[int]]) -> tuple[Integers, dict[str, int]]:
    """Group each atom by what is done with its layer; groups are numbered as GPUMD wants it, none is empty.

    Parameters
    ----------
    layer
        Layer of each atom, shape (atoms,).
    roles
        Layers by role; a layer without a role is in none of the named groups.

    Returns
    -------
    tuple
        Group of each atom, shape (atoms,), and the number of each role's group; no number for no layers.
    """
    group_of_layer = np.full(int(layer.max()) + 1, -1)
    numbers: dict[str, int] = {}
    for role, layers in roles.items():
        if layers:
            numbers[role] = len(numbers)
            group_of_layer[list(layers)] = numbers[role]
    group_of_layer[group_of_layer < 0] = len(numbers)
    return group_of_layer[layer], numbers
