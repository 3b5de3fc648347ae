"""An engine and a protocol that compute nothing: for load tests only, never for science.

They go through the real driver, ledger, commit and store, so that what a campaign costs is the cost of
`campaign` itself. Found through entry points, like any plug-in, when this folder is on ``PYTHONPATH``.
Their numbers are noise drawn from the seed of a stage; nothing in them is physics.

``way`` decides what a run is made of, after a build that all runs share:

- ``batch``: one short stage in Python (it travels in batches);
- ``alone``: one stage in Python that travels alone;
- ``engine``: a stage with a process (``/bin/sleep`` for ``seconds``), then a short stage that reads it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import xarray as xr
from pydantic import Field

from campaign.engines.base import NVT, Command, EngineInfo, Output, Progress, Simulation, Workload
from campaign.errors import CampaignError, TransientError
from campaign.protocols.base import Check, Stage, Variable, read_result, write_result
from campaign.quantities import Count, Settings

MIN_DURATION_PS = 1.0
"""MD time of an engine stage that takes no time at all; each second more of sleep is a picosecond more."""


class NoopEngine:
    """Starts ``/bin/sleep``; what it "wrote" is one number."""

    name: ClassVar[str] = "noop"
    results_version: ClassVar[int] = 1
    capabilities: ClassVar[frozenset[str]] = frozenset({"nvt"})
    state_file: ClassVar[str] = "state.restart"

    def check(self) -> EngineInfo:
        """Find it: nothing can be missing."""
        return EngineInfo("noop (computes nothing)", "1", "/bin/sleep", "none", self.capabilities)

    def prepare(self, workload: Workload, directory: Path) -> Command:
        """Write one small input file, as for every engine, and the state that it would leave."""
        (directory / "in.noop").write_text(f"seed {workload.random_seed} last {workload.segment.last}\n")
        (directory / self.state_file).write_text("none\n")
        (step,) = workload.simulation.steps
        seconds = getattr(step, "duration_ps", MIN_DURATION_PS) - MIN_DURATION_PS
        return Command(("/bin/sleep", f"{seconds:g}"), keep=("in.noop",))

    def segment_end(self, simulation: Simulation, step: int) -> int:  # noqa: ARG002
        """End a segment anywhere."""
        return step

    def progress(self, directory: Path) -> Progress | None:  # noqa: ARG002
        """Say nothing: it is over before anyone could look."""
        return None

    def collect(self, directory: Path) -> Output:
        """Make one number from the seed."""
        _, seed, _, last = (directory / "in.noop").read_text().split()
        value = float(np.random.default_rng(int(seed)).normal())
        return Output(xr.Dataset({"value": ((), value, {"units": "K"})}), int(last))

    def diagnose(self, directory: Path, returncode: int) -> CampaignError:
        """Tell a killed process: ``/bin/sleep`` does not fail."""
        return TransientError(f"the no-op ended with {returncode}", where=str(directory))


class NoopSettings(Settings):
    """Settings of a run that does nothing."""

    way: Literal["batch", "alone", "engine"] = "batch"
    points: Annotated[int, Field(ge=0)] = 0
    """Points of a spectrum beside four scalars; 0 for none."""
    seconds: Annotated[float, Field(ge=0)] = 0.0
    """How long an engine sleeps."""
    variant: Count = 1
    """Does nothing but tell conditions apart."""


class NoopProtocol:
    """Stages that write random numbers."""

    name: ClassVar[str] = "noop"
    settings: ClassVar[type[Settings]] = NoopSettings
    variables: ClassVar[Mapping[str, Variable]] = {
        name: Variable("K", "noise") for name in ("first", "second", "third", "fourth")
    }
    ratio: ClassVar[tuple[str, str, str] | None] = None

    def validate(self, settings: NoopSettings, engine: str) -> None:
        """Accept every combination."""

    def stages(self, settings: NoopSettings, engine: str, replica: tuple[int, int]) -> tuple[Stage, ...]:
        """Make the stages that the module names."""
        build = Stage("build", self.name, NoopSettings(), 1, atoms=1)
        if settings.way == "engine":
            duration_ps = MIN_DURATION_PS + settings.seconds
            step = NVT(temperature_K=300.0, duration_ps=duration_ps, thermostat_damping_fs=100.0)
            simulation = Simulation(potential=f"none-{settings.variant}", timestep_fs=1.0, steps=(step,))
            needs = {"structure": build.id}
            produce = Stage("produce", self.name, simulation, 1, needs, engine, {}, replica, 1, 1000)
            return build, produce, Stage("reduce", self.name, settings, 1, {"produce": produce.id})
        kind: Any = "reduce" if settings.way == "batch" else "produce"
        return build, Stage(kind, self.name, settings, 1, {"structure": build.id}, None, {}, replica)

    def execute(self, stage: Stage, inputs: Mapping[str, Path], directory: Path) -> None:
        """Write noise."""
        if stage.kind == "build":
            (directory / "structure.npz").write_bytes(b"nothing")
            write_result(xr.Dataset({"atoms": ((), 1.0)}), directory)
            return
        write_result(noise(stage, inputs), directory)

    def labels(self, settings: NoopSettings) -> Mapping[str, str]:  # noqa: ARG002
        """Give none."""
        return {}

    def checks(self, result: xr.Dataset) -> tuple[Check, ...]:  # noqa: ARG002
        """Check nothing."""
        return ()


def noise(stage: Stage, inputs: Mapping[str, Path]) -> xr.Dataset:
    """Four scalars and, if the settings ask for it, a spectrum; a gate that always passes."""
    settings: Any = stage.settings
    rng = np.random.default_rng(stage.random_seed or 0)
    numbers = rng.normal(size=4)
    if "produce" in inputs:
        numbers[0] = float(read_result(inputs["produce"])["value"])
    variables: dict[str, Any] = {
        name: ((), number, {"units": "K"})
        for name, number in zip(NoopProtocol.variables, numbers.tolist(), strict=True)
    }
    variables["valid"] = ((), True)
    if settings.points:
        frequency = np.linspace(0.0, 60.0, settings.points)
        variables["frequency"] = (("frequency",), frequency, {"units": "THz"})
        variables["spectrum"] = (("frequency",), rng.normal(size=settings.points), {"units": "ps"})
    return xr.Dataset(variables)
