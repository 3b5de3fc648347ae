"""Plan, status, resume and help of a campaign of 10^5 real runs that are all done: time of each.

Run ``python -m benchmarks.commands DIR``. The runs are those of ``specs/small.yaml`` at 20 temperatures with
2,500 seeds. Nothing is computed: the ledger is told that every stage is done, the directories of stages hold
a manifest of nothing, and the store holds noise.
"""

import argparse
import json
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from ruamel.yaml import YAML

from benchmarks.machine import yardstick
from campaign.execution.commit import MANIFEST_FORMAT
from campaign.layout import Layout

if TYPE_CHECKING:
    from campaign.execution.snapshot import RunBoard
    from campaign.runs import Plan

SMALL = Path(__file__).parent.parent / "specs" / "small.yaml"
SEEDS = 2500
STORED = (
    "itc",
    "itc_interface",
    "heat_flow",
    "temperature_jump",
    "transmitted_power",
    "area_temperature_jump",
)
COMMANDS = (
    ("plan again, unchanged", ("-m", "campaign", "plan", "{spec}", "--dir", "{root}")),
    ("status", ("-m", "campaign", "status", "{root}")),
    ("resume, the driver alone", ("-c", "{resume}", "{spec}", "{root}")),
    ("run again, with its table and report", ("-m", "campaign", "run", "{spec}", "--dir", "{root}")),
    ("help", ("-m", "campaign", "--help")),
)
MANIFEST = json.dumps(
    {
        "format": MANIFEST_FORMAT,
        "attempt": "none",
        "random_seed": 1,
        "versions": {},
        "host": "none",
        "cpu": "none",
        "started": "2026-01-01T00:00:00.000+00:00",
        "wall_s": 1.0,
        "files": {},
    }
)
RESUME = """
import sys, time
from pathlib import Path
from campaign.execution.driver import run_campaign
from campaign.spec import load_spec
from campaign.unchanged import plan_or_reuse
root = Path(sys.argv[2])
plan, stages = plan_or_reuse(load_spec(Path(sys.argv[1])), root / "plan.json")
wall, cpu = time.perf_counter(), time.process_time()
run_campaign(root, plan, stages)
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
print(f"  of this run_campaign: {wall:.2f} s, processor {cpu:.2f} s", file=sys.stderr)
"""


def write_spec(path: Path) -> Path:
    """Write the spec of 10^5 runs."""
    yaml = YAML()
    document = yaml.load(SMALL.read_text())
    document["campaign"] = "large"
    document["limits"] = {"runs": 2 * 20 * SEEDS}
    nemd = document["calculations"]["nemd"]
    del nemd["settings"]["temperature_K"]
    nemd["axes"] |= {"seed": {"count": SEEDS}, "temperature_K": [250 + 10 * number for number in range(20)]}
    yaml.dump(document, path)
    return path


def fill_store(plan: "Plan", layout: Layout) -> None:
    """Write one row of noise for every run."""
    import numpy as np
    import xarray as xr

    from campaign.protocols.base import get_protocol
    from campaign.store import Row, Store, writer
    from campaign.store.rows import Result

    rng = np.random.default_rng(1)
    variables = {
        name: xr.Variable((), 0.0, {"units": variable.units})
        for name, variable in get_protocol("nemd").variables.items()
        if name in STORED
    }

    def from_memory(_: Path) -> Result:
        noise = {name: rng.normal(200.0, 20.0) for name in variables}
        noise["itc"] = noise["transmitted_power"] / noise["area_temperature_jump"]  # or it would be refused
        row = {name: xr.Variable((), value, variables[name].attrs) for name, value in noise.items()}
        return Result.of({**row, "valid": xr.Variable((), True)})

    store = Store.open(layout.store, campaign=plan.campaign, create=True)
    with mock.patch.object(writer, "read_row", from_memory):
        for calculation in plan.calculations:
            store.append(
                calculation.name,
                (
                    Row(run.result_stage, "0" * 64, layout.root, run.id, run.labels)
                    for run in calculation.runs
                ),
            )
        store.flush()


def finished_picture(plan: "Plan", board: "RunBoard") -> dict[str, Any]:
    """Snapshot of a driver that has finished."""
    from campaign.execution.snapshot import snapshot

    return snapshot(
        plan.campaign,
        driver={"pid": 0, "host": "none", "epoch": 1, "state": "finished"},
        started="",
        board=board,
        running={},
        failed={},
        held={},
        time_left_s=None,
    )


def fill(spec_path: Path, root: Path) -> None:
    """Leave plan, ledger and snapshot as a driver does that has finished."""
    from campaign.cli.directory import claim_directory
    from campaign.execution.snapshot import RunBoard, write_snapshot
    from campaign.ledger import Holder, Ledger
    from campaign.plan_file import save_plan
    from campaign.spec import load_spec
    from campaign.unchanged import plan_or_reuse

    layout = Layout(root)
    clock = time.process_time()
    spec = load_spec(spec_path)
    plan, _ = plan_or_reuse(spec, layout.plan)
    print(f"planned {len(plan.stages):,} stages: processor {time.process_time() - clock:.2f} s", flush=True)
    claim_directory(layout, plan.campaign)
    save_plan(plan, layout.plan)
    holder = Holder.this_process()
    with Ledger.open(layout) as ledger:
        ledger.acquire(holder)
        ledger.register(plan.stages.values())
        ledger.release()
    with sqlite3.connect(layout.ledger) as connection:
        connection.execute("UPDATE stages SET state = 'done'")
    for stage_id in plan.stages:
        layout.stage(stage_id).mkdir(parents=True)
        (layout.stage(stage_id) / "manifest.json").write_text(MANIFEST)
    write_snapshot(layout, finished_picture(plan, RunBoard(plan, dict.fromkeys(plan.stages, "done"))))
    fill_store(plan, layout)


def main() -> None:
    """Fill a directory once, then time each command three times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("directory", type=Path, help="scratch space")
    directory = parser.parse_args().directory
    directory.mkdir(parents=True, exist_ok=True)
    spec, root = write_spec(directory / "large.yaml"), directory / "large"
    if not (root / "status.json").exists():
        fill(spec, root)
    for name, words in COMMANDS:
        print(yardstick(), flush=True)
        arguments = [word.format(spec=spec, root=root, resume=RESUME) for word in words]
        for _ in range(3):
            clock = time.perf_counter()
            command = [sys.executable, *arguments]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
            wall_s, cpu_s = time.perf_counter() - clock, usage.ru_utime + usage.ru_stime
            print(
                f"{name}: {wall_s:.2f} s, processor {cpu_s:.2f} s, "
                f"exit code {os.waitstatus_to_exitcode(status)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
