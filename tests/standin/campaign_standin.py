"""A stand-in engine and protocol for tests of execution: they compute nothing, and fail as they are told.

Found through entry points, like any plug-in, so that Dask workers know them. The engine is a shell script.
Which fault each call of a stage has is in `FAULTS` under the name of the "potential". Every start of the
script adds a line to ``calls/<kind of stage>-<random seed>`` in the campaign's directory.

A stage has 100 steps; the script writes a value every 10 and then looks for a request to stop. With a
potential of `PIECES` the second MD stage ends a segment every 20 steps, so it has five.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import xarray as xr

from campaign.engines.base import NVT, Command, EngineInfo, Output, Progress, Simulation, Workload
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
    "fill": ("fill",),
    "pieces": (),
    "pieces-flaky": ("none", "none", "exit", "none", "exit"),
    "pieces-lost": ("none", "none", "crash", "none", "none", "crash"),
    "pieces-slips": ("none", "exit", "exit", "exit", "none", "exit"),
    "pieces-nan": ("none", "none", "nan"),
    "pieces-stuck": ("none", "none", *("exit",) * 9),
    "pieces-slow": ("slow",) * 99,
    "pieces-slower": ("slower",) * 99,
    "late": ("late",) * 9,
}
PIECES = tuple(name for name in FAULTS if name.startswith("pieces"))

EQUILIBRATE_PS = 0.5

SCRIPT = """
echo start >> "$1"
[ "$2" != late ] || sleep 0.5
echo "step 50 of 100" > log.standin
value=2.0 pause=0
case "$2" in
  exit) echo "ERROR: told to fail" >> log.standin; exit 3 ;;
  hang) exec sleep 1000 ;;
  signal) kill -9 $$ ;;
  half) printf '10 2.0\\n20 2' > output.txt; exit 0 ;;
  nan) value=nan ;;
  crash) kill -9 $PPID; sleep 5 ;;
  slow) pause=0.04 ;;
  slower) pause=0.4 ;;
  fill) dd if=/dev/zero of=fill bs=64k count=160 2> stderr.txt || true ;;
esac
step=$3
while [ $step -lt $4 ] && [ ! -e stop ]; do
  sleep $pause
  step=$((step + 10))
  echo "$step $value" >> output.txt
done
echo end >> output.txt
echo "state $step" > state.restart
"""


class StandinEngine:
    name: ClassVar[str] = "standin"
    results_version: ClassVar[int] = 1
    capabilities: ClassVar[frozenset[str]] = frozenset({"nvt"})
    state_file: ClassVar[str] = "state.restart"

    def check(self) -> EngineInfo:
        return EngineInfo("standin", "1", "/bin/sh", "none", self.capabilities)

    def segment_end(self, simulation: Simulation, step: int) -> int:
        return -(-step // 10) * 10

    def prepare(self, workload: Workload, directory: Path) -> Command:
        potential = workload.simulation.potential
        if potential == "absent":
            raise EngineNotFoundError("the stand-in is not installed")
        (step,) = workload.simulation.steps
        assert isinstance(step, NVT)
        kind = "equilibrate" if step.duration_ps == EQUILIBRATE_PS else "produce"
        segment = workload.segment
        before = 100 if kind == "produce" and segment.number == 1 else segment.first
        if "state" in workload.inputs:
            assert workload.inputs["state"].read_text() == f"state {before}\n"
        calls = directory.parents[2] / "calls"
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
        last = segment.last
        if potential in PIECES and kind == "produce":
            last = min(last, segment.first + 20)
        argv = ("sh", "engine.sh", str(count), fault, str(segment.first), str(last))
        return Command(argv, keep=("log.standin",))

    def progress(self, directory: Path) -> Progress | None:
        rate = 1e6  # no time at all, as its process is
        return Progress(50, 100, rate) if (directory / "log.standin").exists() else None

    def collect(self, directory: Path) -> Output:
        *lines, end = (directory / "output.txt").read_text().splitlines()
        if end != "end":
            raise TransientError("output.txt is cut short", where=str(directory))
        rows = np.array([[float(word) for word in line.split()] for line in lines]).reshape(-1, 2)
        dataset = xr.Dataset({"value": ("time", rows[:, 1], {"units": "K"})}, coords={"time": rows[:, 0]})
        return Output(dataset, int((directory / self.state_file).read_text().split()[1]))

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
            keeps_state = kind == "equilibrate"
            return Stage(kind, self.name, simulation, 1, needs, engine, {}, replica, 10, 100, keeps_state)

        equilibrate = md("equilibrate", EQUILIBRATE_PS, {"structure": build.id})
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

    def structure(self, settings: StandinSettings) -> Mapping[str, Any]:
        return {}

    def checks(self, result: xr.Dataset) -> tuple[Check, ...]:
        return ()
