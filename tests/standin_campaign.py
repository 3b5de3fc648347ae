"""Campaigns of the stand-in plug-in (``tests/standin``): make them, run them, count what they did."""

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from campaign.execution.commit import read_manifest
from campaign.execution.driver import DriverResult, run_campaign
from campaign.layout import Layout
from campaign.ledger import Attempt, Ledger
from campaign.plan import Plan, make_plan
from campaign.protocols.base import Stage
from campaign.spec import load_spec

LONG_S = 900.0
"""No test takes so long unless something hangs; a machine with much other work is slow."""

GONE_S = 60.0
"""Time in which nothing is left of what was killed, also on a machine with much other work."""

PLUGIN = Path(__file__).parent / "standin"

DRIVE = """
if __name__ == "__main__":  # workers read this file too, and need nothing of it
    import signal
    import sys
    from pathlib import Path
    from campaign.execution import driver
    from campaign.plan import make_plan
    from campaign.spec import load_spec

    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever runs the tests may ignore it, as nohup does
    root, workers, driver.HEARTBEAT_S = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    plan, stages = make_plan(load_spec(root.parent / "spec.yaml"))
    more = {"segment_s": float(sys.argv[4])}
    if len(sys.argv) > 5:
        from campaign import site
        from campaign.execution import slurm

        site.MIN_WALLTIME_S, slurm.POLL_S = 1, 3.0  # no test waits for minutes
        more["site"] = site.find_site(sys.argv[5])
    result = driver.run_campaign(root, plan, stages, workers=workers, **more)
    sys.exit(130 if result.interrupted else 0)
"""


def use_standin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the plug-in for this process and for those that it starts."""
    monkeypatch.syspath_prepend(PLUGIN)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (PLUGIN, PLUGIN.parents[1]))))


def write_spec(directory: Path, potentials: Sequence[str], seeds: int) -> Path:
    path = directory / "spec.yaml"
    path.write_text(
        "campaign: standins\n"
        "calculations:\n"
        "  toy:\n"
        "    protocol: standin\n"
        "    engine: standin\n"
        "    axes:\n"
        f"      potential: [{', '.join(potentials)}]\n"
        f"      seed: {{count: {seeds}}}\n"
    )
    return path


def plan_of(spec: Path) -> tuple[Plan, Mapping[str, Stage]]:
    return make_plan(load_spec(spec))


def run(root: Path, potentials: Sequence[str], seeds: int = 1, **more: Any) -> DriverResult:
    """Run a campaign of stand-ins with two workers, in this process."""
    plan, stages = plan_of(write_spec(root.parent, potentials, seeds))
    return run_campaign(root, plan, stages, workers=2, **more)


def drive(
    root: Path, workers: int, heartbeat_s: float = 10, segment_s: float = 300, site: Path | None = None
) -> "subprocess.Popen[bytes]":
    """Start a driver in its own process and process group; with a site it has its workers there."""
    script = root.parent / "drive.py"
    script.write_text(DRIVE)
    log = (root.parent / "drive.log").open("ab")
    arguments = [root, workers, heartbeat_s, segment_s, *([] if site is None else [site])]
    command = (sys.executable, str(script), *map(str, arguments))
    return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def engine_starts(root: Path) -> Counter[str]:
    """How often the stand-in's process was started for each stage of an engine."""
    calls = root / "calls"
    if not calls.exists():
        return Counter()
    return Counter({path.name: len(path.read_text().splitlines()) for path in calls.iterdir()})


def committed(root: Path) -> list[str]:
    """Ids of the committed stages; each must have a whole manifest."""
    layout = Layout(root)
    found = [path.name for path in layout.stages.glob("??/*")]
    for stage_id in found:
        assert read_manifest(layout.stage(stage_id))["stage"] == stage_id
    return found


def wait_for(condition: Callable[[], object], seconds: float = LONG_S) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def attempts_of(root: Path, stage_id: str) -> list[Attempt]:
    with Ledger.open(Layout(root), read_only=True) as ledger:
        return ledger.attempts(stage_id)


def engines_alive(root: Path) -> list[int]:
    """Ids of processes that work in an attempt's directory of the campaign."""
    alive = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                directory = (path / "cwd").readlink()
            except OSError:
                continue
            if directory.is_relative_to(root / "attempts"):
                alive.append(int(path.name))
    return alive
