"""What the process of the ASE engine is told, and the calculator that it takes."""

import importlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from ase import Atoms
from ase.calculators.calculator import BaseCalculator

from campaign.engines.base import Simulation, Thermalise, Workload
from campaign.engines.groups import check_groups
from campaign.engines.nep import NepCalculator, nep_version
from campaign.engines.slab import layers_of, slab_fraction
from campaign.engines.timeline import TimedStep, sample_steps, timeline
from campaign.errors import EngineNotFoundError, InputError, ResourceError, SpecError
from campaign.layout import write_atomic
from campaign.potentials import Potential, potential_files
from campaign.potentials.library import FACTS_FILE, NEP_FILE
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
        return self.steps[-1]

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
    steps = timeline(simulation)
    if not steps or isinstance(steps[-1].step, Thermalise):
        raise InputError("no dynamical step at the end of the simulation")
    if state is None and not isinstance(steps[0].step, Thermalise):
        raise InputError("a simulation that starts from a structure begins with velocities (thermalise)")
    sample_steps(steps[-1], simulation.timestep_fs)  # it must not be longer than the step
    atoms_of_layer = [0] * (int(layers_of(atoms).max()) + 1)
    for layer in layers_of(atoms):
        atoms_of_layer[layer] += 1
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
        atoms_of_layer=tuple(atoms_of_layer),
        thickness_A=slab_fraction(atoms) * float(atoms.cell[2, 2]),
    )


def make_calculator(potential: Potential) -> BaseCalculator:
    """Make the calculator of a potential: a NEP model, or what ``potential.json`` of the library names.

    Raises
    ------
    EngineNotFoundError
        The library that has it is not installed.
    ResourceError
        ``potential.json`` names no calculator, or its arguments do not fit.
    """
    files = potential_files(potential)
    if potential.interlayer == "nep":
        return NepCalculator(files[NEP_FILE])
    path = files[FACTS_FILE]
    # Files of the potential are named without a folder.
    kwargs = {
        key: str(files[value]) if isinstance(value, str) and value in files else value
        for key, value in json.loads(path.read_text()).get("kwargs", {}).items()
    }
    try:
        calculator: BaseCalculator = _calculator_class(path)(**kwargs)
    except (TypeError, ValueError) as error:
        raise ResourceError(f"the calculator does not take its kwargs: {error}", where=str(path)) from error
    return calculator


def _calculator_class(path: Path) -> Any:
    """Import the calculator that a ``potential.json`` names; errors as `make_calculator`."""
    dotted = str(json.loads(path.read_text())["calculator"])
    module, _, name = dotted.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise EngineNotFoundError(
            f"{dotted} cannot be imported: {error}",
            where=str(path),
            hint="install the package that has it",
        ) from error
    except (AttributeError, ValueError) as error:
        raise ResourceError(f"there is no calculator {dotted}: {error}", where=str(path)) from error


def calculator_version(potential: Potential) -> str:
    """Tell what computes the forces, for provenance."""
    return nep_version() if potential.interlayer == "nep" else potential.description


_NEEDED: Mapping[str, tuple[str, str]] = {
    "npt": ("stress", "the stress, which a step at constant pressure needs"),
    "heat_flow": ("energies", "energies per atom, which the heat flow across an interface needs"),
}
"""Property that a step needs, by the step's name."""


def check_calculator(calculator: BaseCalculator, steps: Iterable[str]) -> None:
    """Check that a calculator can do what steps of these names need.

    Raises
    ------
    InputError
        It lacks the stress for a step at constant pressure, or energies per atom for a heat flow, of which
        the energies of both sides are recorded.
    """
    lacking = _lacking(calculator.implemented_properties, steps)
    if lacking:
        raise InputError(f"{type(calculator).__name__} does not give {lacking}", where="potential")


def check_potential(potential: Potential, steps: Iterable[str]) -> None:
    """Do the same for an ASE calculator of the library, without making it.

    Some calculators know only when they are made what they can do; these pass here.

    Raises
    ------
    SpecError
        As `check_calculator`; other errors as `make_calculator`.
    """
    kind = _calculator_class(potential_files(potential)[FACTS_FILE])
    has = getattr(kind, "implemented_properties", ())
    lacking = _lacking(has, steps) if has else None
    if lacking:
        raise SpecError(f"{kind.__name__} does not give {lacking}", where="potential")


def _lacking(properties: Sequence[str], steps: Iterable[str]) -> str | None:
    lacks = (what for step, (name, what) in _NEEDED.items() if step in steps and name not in properties)
    return next(lacks, None)
