"""The contract between protocols and engines.

A protocol describes a simulation in the words of the field: a timestep, a potential and a list of steps
(`Thermalise`, `NpT`, `NVT`, `NVE`, `Preheat`, `HeatFlow`). An engine turns that into its own
input (`Engine.prepare`), says how far its process has come (`Engine.progress`) and reads what it wrote
(`Engine.collect`). Engines never decide anything about the physics, and never start what computes: that is
done once, in ``execution``.

A long stage is a chain of segments, one process each, on one axis of MD steps; `campaign.engines.segments`
joins what they wrote.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Protocol, runtime_checkable

from pydantic import Field

from campaign.errors import CampaignError, SpecError
from campaign.quantities import NonNegative, Positive, Settings, Temperature, Timestep

if TYPE_CHECKING:
    import xarray as xr


class Thermalise(Settings):
    """Draw velocities from the Maxwell-Boltzmann distribution."""

    step: Literal["thermalise"] = "thermalise"
    temperature_K: Temperature


class NpT(Settings):
    """Constant in-plane pressure; at its end the cell is set to its average over the last half.

    ``pressure_GPa`` acts along x and y, each on its own; z is free (non-periodic). In a triclinic cell the
    tilt of the second vector is free, too, at no shear stress.
    """

    step: Literal["npt"] = "npt"
    temperature_K: Temperature
    duration_ps: Positive
    thermostat_damping_fs: Positive
    barostat_damping_fs: Positive
    pressure_GPa: float = 0.0


class NVT(Settings):
    """Constant volume and temperature (Nose-Hoover)."""

    step: Literal["nvt"] = "nvt"
    temperature_K: Temperature
    duration_ps: Positive
    thermostat_damping_fs: Positive


class NVE(Settings):
    """Constant volume and energy: no thermostat."""

    step: Literal["nve"] = "nve"
    duration_ps: Positive


class Preheat(Settings):
    """Bring two groups of layers to different temperatures before a heat flow starts (Langevin on both)."""

    step: Literal["preheat"] = "preheat"
    hot_layers: tuple[int, ...]
    cold_layers: tuple[int, ...]
    frozen_layers: tuple[int, ...]
    hot_temperature_K: Temperature
    cold_temperature_K: Temperature
    duration_ps: Positive
    damping_fs: Positive


class HeatFlow(Settings):
    """Langevin source and sink, everything else at constant energy, frozen layers not integrated.

    Layers count from 0 at the bottom. ``upper_layers`` are the layers above the interface, so that an engine
    can record the energy of each side. Series are recorded every ``sampling_interval_fs`` from the start of
    the step, build-up included; the reduction decides what it uses.
    """

    step: Literal["heat_flow"] = "heat_flow"
    source_layers: tuple[int, ...]
    sink_layers: tuple[int, ...]
    frozen_layers: tuple[int, ...]
    upper_layers: tuple[int, ...]
    source_temperature_K: Temperature
    sink_temperature_K: Temperature
    damping_fs: Positive
    duration_ps: Positive
    sampling_interval_fs: NonNegative


Step = Annotated[Thermalise | NpT | NVT | NVE | Preheat | HeatFlow, Field(discriminator="step")]


class Simulation(Settings):
    """What an engine computes in one stage. Everything in it decides the outcome."""

    potential: str
    timestep_fs: Timestep
    steps: tuple[Step, ...]


STOP_FILE = "stop"
"""Name of a file in the process's directory that asks it to end after its present block, with its state."""

STDOUT, STDERR = "stdout.log", "stderr.log"
"""Names of the files there that have what the process printed."""


@dataclass(frozen=True)
class Segment:
    """A piece of a stage, from MD step ``first`` to ``last``, counted over the whole stage.

    Attributes
    ----------
    number
        From 1. It enters the seeds of thermostats: a seed that came again would repeat its noise.
    first, last
        MD steps done before it, and after it; ``last`` is where the engine allows a segment to end.
    carried
        What the segment before handed on besides its state: averages that are still running.
    """

    number: int
    first: int
    last: int
    carried: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Output:
    """What the process of a segment wrote.

    ``dataset`` holds series with units; ``last`` is the MD step that was reached, before the segment's own
    ``last`` if the process was asked to stop, or the engine has to begin anew; ``carried`` is for the next
    segment.
    """

    dataset: "xr.Dataset"
    last: int
    carried: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Workload:
    """A segment of a simulation with everything that an attempt adds to it.

    Attributes
    ----------
    simulation
        What to compute.
    random_seed
        Within 1..900,000,000; written into every input that draws random numbers.
    inputs
        Committed files by role: ``structure`` (``structure.npz``, the built model) and ``state`` (the restart
        file of the segment before, or of an earlier stage of the same engine).
    segment
        The piece to compute.
    threads
        Threads that the engine may use.
    """

    simulation: Simulation
    random_seed: int
    inputs: Mapping[str, Path]
    segment: Segment
    threads: int = 1


@dataclass(frozen=True)
class Command:
    """How to start the engine's process in its directory.

    ``keep`` names the text files (input, log) that are committed with the stage besides its result.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    keep: tuple[str, ...] = ()


@dataclass(frozen=True)
class Progress:
    """How far an engine's process has come.

    ``steps_done`` counts the MD steps of the stage, ``steps_total`` all of them, ``rate`` is in atom-step/s
    and measured over the process so far.
    """

    steps_done: int
    steps_total: int
    rate: float | None


@dataclass(frozen=True)
class EngineInfo:
    """What a check of an engine found."""

    name: str
    version: str
    path: str
    device: str
    capabilities: frozenset[str]


@runtime_checkable
class Engine(Protocol):
    """An MD engine. Stateless: every method can be called in another process."""

    name: ClassVar[str]
    results_version: ClassVar[int]
    """Raised by us when a change of the engine's input changes its results; enters stage identities."""

    capabilities: ClassVar[frozenset[str]]
    """Names of the steps that it can do (``thermalise``, ``npt``, ...)."""

    state_file: ClassVar[str]
    """Name of the restart file that every segment leaves."""

    def check(self) -> EngineInfo:
        """Find the engine and start it once.

        Raises
        ------
        EngineNotFoundError
            The program is not there or does not start; the message says what to install.
        """
        ...

    def segment_end(self, simulation: Simulation, step: int) -> int:
        """First MD step of the stage at or after ``step`` where a segment may end."""
        ...

    def prepare(self, workload: Workload, directory: Path) -> Command:
        """Write all input files of a segment into ``directory`` and return the command.

        The process looks for `STOP_FILE` between blocks of about a second.

        Raises
        ------
        InputError
            The simulation cannot be expressed for this engine.
        """
        ...

    def progress(self, directory: Path) -> Progress | None:
        """Read how far the process in ``directory`` has come; None if it says nothing yet. Cheap."""
        ...

    def collect(self, directory: Path) -> Output:
        """Read what a finished process wrote, as series with units on the time axis of the whole stage.

        A variable whose ``cell_methods`` is `campaign.engines.segments.ACCUMULATED` counts from the start of
        the segment.

        Raises
        ------
        CampaignError
            Output is missing, short, or has NaN.
        """
        ...

    def diagnose(self, directory: Path, returncode: int) -> CampaignError:
        """Turn a process that failed into an error of the right class, with the line of its log."""
        ...


def engine_names() -> tuple[str, ...]:
    """Names of all installed engines (entry points ``campaign.engines``)."""
    return tuple(sorted({entry.name for entry in entry_points(group="campaign.engines")}))


@cache
def get_engine(name: str) -> Engine:
    """Engine by name.

    Raises
    ------
    SpecError
        No engine of that name is installed.
    """
    for entry in entry_points(group="campaign.engines"):
        if entry.name == name:
            engine: Engine = entry.load()()
            return engine
    raise SpecError(f"unknown engine {name!r}", hint=f"installed are: {', '.join(engine_names())}")
