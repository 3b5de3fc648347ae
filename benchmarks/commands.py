"""Plan, status and help of a campaign of 10^5 real runs that are all done: time of each.

Run ``python -m benchmarks.commands DIR``. The runs are those of ``specs/small.yaml`` at 20 temperatures with
2,500 seeds. Nothing is computed: the ledger is told that every stage is done, and the directories of stages
are empty.
"""

import argparse
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

SMALL = Path(__file__).parent.parent / "specs" / "small.yaml"
SEEDS = 2500
COMMANDS = (
    ("plan again, unchanged", ("plan", "{spec}", "--dir", "{root}")),
    ("status", ("status", "{root}")),
    ("help", ("--help",)),
)


def write_spec(path: Path) -> Path:
    """Write the spec of 10^5 runs."""
    temperatures = ", ".join(str(250 + 10 * number) for number in range(20))
    text = SMALL.read_text().replace("campaign: small", "campaign: large\nlimits: {runs: 100000}")
    text = text.replace("      temperature_K: 300\n", "")
    text = text.replace("{count: 6}", f"{{count: {SEEDS}}}\n      temperature_K: [{temperatures}]")
    path.write_text(text)
    return path


def fill(spec_path: Path, root: Path) -> None:
    """Leave plan, ledger and snapshot as a driver does that has finished."""
    from campaign.cli.directory import claim_directory
    from campaign.execution.snapshot import RunBoard, snapshot, write_snapshot
    from campaign.layout import Layout
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
        (layout.stage(stage_id) / "manifest.json").touch()
    picture = snapshot(
        plan.campaign,
        driver={"pid": holder.pid, "host": holder.host, "epoch": 1, "state": "finished"},
        started=holder.since,
        board=RunBoard(plan, dict.fromkeys(plan.stages, "done")),
        running={},
        failed={},
        held={},
        time_left_s=None,
    )
    write_snapshot(layout, picture)


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
        arguments = [word.format(spec=spec, root=root) for word in words]
        for _ in range(3):
            clock = time.perf_counter()
            command = [sys.executable, "-m", "campaign", *arguments]
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
