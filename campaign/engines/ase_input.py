"""What the process of the ASE engine is told."""

from pathlib import Path
from typing import Self

import numpy as np
from ase import Atoms

from campaign.engines.base import NpT, Simulation, Thermalise, Workload
from campaign.engines.groups import check_groups
from campaign.engines.slab import layers_of, slab_cell, slab_fraction
from campaign.engines.timeline import TimedStep, recorded_step, sample_steps, timeline
from campaign.errors import InputError
from campaign.layout import write_atomic
from campaign.quantities import Settings

JOB = "ase.json"
LOG = "log.ase"
STATE = "state.npz"
SERIES = "series.bin"
FINAL = "final.npz"
END = "end.json"
FAILURE = "error.json"

LOG_COLUMNS = ("step", "steps", "seconds", "temp", "pe", "etotal", "lx", "ly")
"""Columns of the log: MD steps of the stage, of this process, and the time that these took; then the
state."""


class Job(Settings):
    """A segment as its process reads it (``ase.json``); paths are relative to the process's directory.

    ``thickness_A`` is that of the structure, as layers times their mean distance; it does not change in NpT.
    """

    simulation: Simulation
    random_seed: int
    number: int
    first: int
    last: int
    carried: dict[str, float]
    structure: str
    state: str | None
    atoms_of_layer: tuple[int, ...]
    thickness_A: float

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Read ``ase.json``."""
        return cls.model_validate_json((directory / JOB).read_text())

    def write(self, directory: Path) -> None:
        """Write ``ase.json``."""
        write_atomic(directory / JOB, self.model_dump_json(indent=1), durable=False)

    @property
    def steps(self) -> tuple[TimedStep, ...]:
        """Steps of the whole stage."""
        return timeline(self.simulation)

    @property
    def recorded(self) -> TimedStep:
        """The step whose series are kept: the last one."""
        return recorded_step(self.simulation)

    @property
    def sample_steps(self) -> int:
        """MD steps between two samples of it."""
        return sample_steps(self.recorded, self.simulation.timestep_fs)

    @property
    def atoms(self) -> int:
        """Number of atoms."""
        return sum(self.atoms_of_layer)

    def samples(self, reached: int) -> range:
        """Numbers of the samples of a segment that reached this MD step of the stage, from 1."""
        first, last = (
            max(0, step - self.recorded.first) // self.sample_steps for step in (self.first, reached)
        )
        return range(first + 1, last + 1)


def make_job(workload: Workload, atoms: Atoms, structure: str, state: str | None) -> Job:
    """Describe a segment; see `AseEngine.prepare` for the errors."""
    simulation = workload.simulation
    recorded = recorded_step(simulation)
    if state is None and not isinstance(simulation.steps[0], Thermalise):
        raise InputError("a simulation that starts from a structure begins with velocities (thermalise)")
    sample_steps(recorded, simulation.timestep_fs)  # it must not be longer than the step
    if slab_cell(atoms)[3] and any(isinstance(step, NpT) for step in simulation.steps):
        raise InputError(
            "the engine ase holds the pressure of a slab in an orthogonal cell only", hint="use lammps"
        )
    atoms_of_layer = tuple(np.bincount(layers_of(atoms)).tolist())
    check_groups(simulation, len(atoms_of_layer))
    return Job(
        simulation=simulation,
        random_seed=workload.random_seed,
        number=workload.segment.number,
        first=workload.segment.first,
        last=workload.segment.last,
        carried=dict(workload.segment.carried),
        structure=structure,
        state=state,
        atoms_of_layer=atoms_of_layer,
        thickness_A=slab_fraction(atoms) * float(atoms.cell[2, 2]),
    )
