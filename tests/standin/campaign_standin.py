"""A stand-in engine and protocol for tests of execution: they compute nothing, and fail as they are told.

Found through entry points, like any plug-in, so that Dask workers know them. The engine is a shell script.
Which fault each call of a stage has is in `FAULTS` under the name of the "potential". Every start of the
script adds a line to ``calls/<kind of stage>-<random seed>`` in the campaign's directory.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import xarray as xr

from campaign.engines.base import NVT, Command, EngineInfo, Progress, Simulation, Workload
from campaign.errors import CampaignError, EngineNotFoundError, PhysicsError, SpecError, TransientError
from campaign.protocols.base import Check, Stage, Variable, read_result, write_result
from campaign.quantities import Settings

FAULTS: Mapping[str, tuple[str, ...]] = {
    "steady": (),
    "flaky": ("exit", "exit"),
    "broken": ("exit",) * 9,
    "hang": ("hang",) * 9,
    "signal": ("signal",),
    "half": ("half",),
    "nan": ("nan",) * 9,
    "lost": ("crash",),
    "fatal": ("crash",) * 9,
    "slow": ("slow",) * 99,
    "bug": ("bug",) * 9,
    "absent": (),
}

SCRIPT = """
echo start >> "$1"
echo "step 50 of 100" > log.standin
case "$2" in
  exit) echo "ERROR: told to fail" >> log.standin; exit 3 ;;
  hang) exec sleep 1000 ;;
  signal) kill -9 $$ ;;
  half) printf '1.0 2' > output.txt; exit 0 ;;
  nan) printf '1.0 nan 3.0\\nend\\n' > output.txt ;;
  crash) kill -9 $PPID; sleep 5 ;;
  slow) sleep 0.4; printf '1.0 2.0 3.0\\nend\\n' > output.txt ;;
  *) printf '1.0 2.0 3.0\\nend\\n' > output.txt ;;
esac
echo state > state.restart
"""


class StandinEngine:
    name: ClassVar[str] = "standin"
    results_version: ClassVar[int] = 1
    capabilities: ClassVar[frozenset[str]] = frozenset({"nvt"})
    state_file: ClassVar[str] = "state.restart"

    def check(self) -> EngineInfo:
        return EngineInfo("standin", "1", "/bin/sh", "none", self.capabilities)

    def prepare(self, workload: Workload, directory: Path) -> Command:
        potential = workload.simulation.potential
        if potential == "absent":
            raise EngineNotFoundError("the stand-in is not installed")
        kind = "produce" if "state" in workload.inputs else "equilibrate"
        if kind == "produce":
            assert workload.inputs["state"].read_text() == "state\n"
        calls = directory.parent.parent / "calls"
        calls.mkdir(exist_ok=True)
        count = calls / f"{kind}-{workload.random_seed}"
        number = len(count.read_text().splitlines()) if count.exists() else 0
        # Faults are in the second MD stage, so that there is something before them to be kept.
        faults = FAULTS[potential] if kind == "produce" else ()
        fault = faults[number] if number < len(faults) else "none"
        if fault == "bug":
            msg = "a bug in the stand-in"
            raise RuntimeError(msg)
        (directory / "engine.sh").write_text(SCRIPT)
        return Command(("sh", "engine.sh", str(count), fault), keep=("state.restart", "log.standin"))

    def progress(self, directory: Path) -> Progress | None:
        return Progress(50, 100, 1000.0) if (directory / "log.standin").exists() else None

    def collect(self, directory: Path) -> xr.Dataset:
        lines = (directory / "output.txt").read_text().splitlines()
        if lines[-1] != "end":
            raise TransientError("output.txt is cut short", where=str(directory))
        values = np.array([float(word) for word in lines[0].split()])
        return xr.Dataset({"value": ("time", values, {"units": "K"})})

    def diagnose(self, directory: Path, returncode: int) -> CampaignError:
        if returncode == 4:
            return PhysicsError("lost atoms", where=str(directory))
        return TransientError(f"the stand-in ended with {returncode}", where=str(directory))


class StandinSettings(Settings):
    potential: str = "steady"
    length_ps: float = 1.0


class StandinProtocol:
    name: ClassVar[str] = "standin"
    settings: ClassVar[type[Settings]] = StandinSettings
    variables: ClassVar[Mapping[str, Variable]] = {"value": Variable("K", "what the stand-in wrote")}
    ratio: ClassVar[tuple[str, str, str] | None] = None

    def validate(self, settings: StandinSettings, engine: str) -> None:
        if settings.potential not in FAULTS:
            raise SpecError(f"unknown potential {settings.potential!r}", where="potential")

    def stages(self, settings: StandinSettings, engine: str, replica: tuple[int, int]) -> tuple[Stage, ...]:
        build = Stage("build", self.name, StandinSettings(), 1, atoms=10)

        def md(kind: Any, length_ps: float, needs: Mapping[str, str]) -> Stage:
            step = NVT(temperature_K=300.0, duration_ps=length_ps, thermostat_damping_fs=100.0)
            simulation = Simulation(potential=settings.potential, timestep_fs=1.0, steps=(step,))
            return Stage(kind, self.name, simulation, 1, needs, engine, {}, replica, 10, 100)

        equilibrate = md("equilibrate", 1.0, {"structure": build.id})
        produce = md("produce", settings.length_ps, {"structure": build.id, "state": equilibrate.id})
        reduce = Stage("reduce", self.name, settings, 1, {"produce": produce.id})
        return build, equilibrate, produce, reduce

    def execute(self, stage: Stage, inputs: Mapping[str, Path], directory: Path) -> None:
        if stage.kind == "build":
            (directory / "structure.npz").write_bytes(b"atoms")
            write_result(xr.Dataset({"atoms": ((), 10.0)}), directory)
            return
        value = read_result(inputs["produce"])["value"].mean()
        write_result(xr.Dataset({"value": ((), float(value), {"units": "K"})}), directory)

    def labels(self, settings: StandinSettings) -> Mapping[str, str]:
        return {"pair": "none/none"}

    def checks(self, result: xr.Dataset) -> tuple[Check, ...]:
        return ()
