"""What saturates first when 10^5 runs go through 500 GPUs: shares of the driver's time, SLURM and files.

Run ``python -m benchmarks.scale DIR [--file-ms X]``. What a driver does each second is measured here, with
the plan of `benchmarks.commands`: the picture of all runs, and a look at each attempt in flight. What a stage
costs it was measured by `benchmarks.durable_runs`. The rest is arithmetic, printed as a table;
``docs/scale.md`` says what follows. ``--file-ms`` is what a networked file system takes to open a file.
"""

import argparse
import json
import time
from pathlib import Path

from benchmarks.commands import finished_picture, write_spec
from benchmarks.machine import yardstick
from campaign.engines.base import get_engine
from campaign.engines.lammps_input import Facts
from campaign.execution.segments import SEGMENT_S, WORK
from campaign.execution.snapshot import RunBoard, write_snapshot
from campaign.execution.worker import STARTED
from campaign.layout import Layout
from campaign.plan import make_plan
from campaign.spec import load_spec

FLIGHTS = 500
HOURS = (0.1, 1.0, 10.0)
"""Lengths of a run on a GPU."""

JOB_HOURS = 24.0
ALONE_S, BATCHED_S = 0.017, 0.003
"""What a stage costs the driver, placed alone (with an engine) or in a batch (a reduction); idle core."""

SBATCH_S = 0.1
FILES_OF_LOOK = 4
"""Files and folders that a look at an attempt opens."""

FILES_OF_RUN = 3 * 6


def seconds_of_picture(directory: Path) -> float:
    """Time of one picture of 10^5 runs, in s."""
    plan, _ = make_plan(load_spec(write_spec(directory / "large.yaml")), allow_large=True)
    board = RunBoard(plan, dict.fromkeys(plan.stages, "done"))
    layout = Layout(directory)
    began = time.perf_counter()
    for _ in range(5):
        write_snapshot(layout, finished_picture(plan, board))
    return (time.perf_counter() - began) / 5


def seconds_of_look(directory: Path) -> float:
    """Time of a look at one attempt in flight, in s, on this machine's disk."""
    row = " ".join(["100"] * 11)
    for number in range(FLIGHTS):
        work = directory / "attempts" / str(number) / WORK
        work.mkdir(parents=True)
        (directory / "segments" / str(number)).mkdir(parents=True)
        Facts("heat_flow", 1.0, 10, 0, 1000, 0, 1000, (50, 50), (6, 5), 1.0).write(work)
        (work / "log.lammps").write_text(f"{row}\n" * 50)
        (work.parent / STARTED).write_text(json.dumps({"host": "n1", "pid": 1, "started": ""}))
    engine = get_engine("lammps")
    began = time.perf_counter()
    for number in range(FLIGHTS):
        place = directory / "attempts" / str(number)
        json.loads((place / STARTED).read_text())
        assert engine.progress(place / WORK) is not None
        list((directory / "segments" / str(number)).iterdir())
    return (time.perf_counter() - began) / FLIGHTS


def main() -> None:
    """Measure, and print what 500 GPUs come to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--file-ms", type=float, default=0.0)
    arguments = parser.parse_args()
    arguments.directory.mkdir(parents=True)
    print(yardstick())
    picture_s = seconds_of_picture(arguments.directory)
    look_s = seconds_of_look(arguments.directory) + FILES_OF_LOOK * arguments.file_ms / 1000
    print(f"a picture of 10^5 runs {1000 * picture_s:.0f} ms; a look at an attempt {1000 * look_s:.2f} ms")
    print(
        f"\n{'run of':>8}  {'stages':>8} {'looks':>8} {'picture':>8} {'driver':>8} {'GPUs at 1':>10}", end=""
    )
    print(f"  {'sbatch':>7} {'files/s':>8} {'segments/s':>10}  {'10^5 runs':>10}")
    for hours in HOURS:
        runs_per_s = FLIGHTS / (3600 * hours)
        stages = runs_per_s * (2 * ALONE_S + BATCHED_S)
        looks = FLIGHTS * look_s
        driver = stages + looks + picture_s
        most = FLIGHTS * (1 - picture_s) / (stages + looks)
        sbatch = FLIGHTS / (3600 * JOB_HOURS) * SBATCH_S
        segments = FLIGHTS / min(SEGMENT_S, 3600 * hours)
        days = 1e5 / runs_per_s / 86400
        print(
            f"{hours:>6} h  {stages:>8.2%} {looks:>8.2%} {picture_s:>8.2%} {driver:>8.2%} {most:>10,.0f}",
            end="",
        )
        print(f"  {sbatch:>7.3%} {FILES_OF_RUN * runs_per_s:>8.2f} {segments:>10.2f}  {days:>7.1f} d")


if __name__ == "__main__":
    main()
