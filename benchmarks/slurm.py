"""What a cluster costs: seconds to the first step, share of the allocation, hand-overs, questions to SLURM.

Run ``python -m benchmarks.slurm DIR start|share|handover|driver``; ``DIR`` is scratch space. Each starts a
SLURM of its own on this machine (``slurm/local/up``) and ends it. ``share`` sleeps instead of computing (by
the no-op engine of `noop_plugin/campaign_noop.py`): so it measures campaign and not how four nodes share two
cores. The others run LAMMPS.
"""

import argparse
import contextlib
import itertools
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from benchmarks.durable_runs import install_plugin
from benchmarks.machine import yardstick
from campaign.execution.commit import read_manifest
from campaign.layout import Layout
from campaign.ledger import Attempt, Ledger

LOCAL = Path(__file__).parents[1] / "slurm" / "local"
COMMANDS = ("sbatch", "squeue", "sacct", "scancel")

NEMD = """\
campaign: {name}
calculations:
  nemd:
    settings:
      potential: tersoff-lj
      structure:
        lower: {{material: hbn, layers: 4, cells: [2, 2]}}
        upper: {{material: graphene, layers: 3, cells: [2, 2]}}
        cell_from: mean
        stacking: ABp
      bath_offset_K: 100
      timestep_fs: 1
      npt_ps: 0.5
      nvt_ps: 0.2
      build_up_ps: 2
      production_ps: {production_ps}
      sampling_interval_ps: 0.05
"""

SLEEP = """\
campaign: {name}
calculations:
  noop:
    engine: noop
    settings: {{way: engine, seconds: {seconds}}}
    axes: {{seed: {{count: {runs}}}}}
"""

SITE = """\
scheduler: slurm
environment: {{SLURM_CONF: {conf}}}
resources:
  gpu: {{partition: gpu, walltime: "{walltime}", memory_GB: 0.9, gpus: 1, jobs: {jobs}}}
  driver: {{partition: cpu, walltime: "0:30:00", memory_GB: 0.9}}
stages: {{default: gpu}}
driver: driver
"""


@contextlib.contextmanager
def local_slurm(directory: Path, nodes: int, gpus: int, *, netns: bool = False) -> Iterator[Path]:
    """Start a SLURM, and count the calls of its commands in ``directory/calls``; yields its slurm.conf."""
    place = Path("/tmp") / f"campaign-slurm-benchmark-{os.getpid()}"
    environment = {**os.environ, "CAMPAIGN_SLURM_DIR": str(place)}
    up = (str(LOCAL / "up"), "--nodes", str(nodes), "--gpus", str(gpus), *["--netns"] * netns)
    subprocess.run(up, env=environment, check=True, stdout=subprocess.DEVNULL)
    counted = directory / "bin"
    counted.mkdir(parents=True, exist_ok=True)
    (directory / "calls").unlink(missing_ok=True)
    for name in COMMANDS:
        real = shutil.which(name)
        (counted / name).write_text(f'#!/bin/sh\necho {name} >> "{directory}/calls"\nexec {real} "$@"\n')
        (counted / name).chmod(0o755)
    path = os.environ["PATH"]
    os.environ["PATH"] = f"{counted}:{path}"
    try:
        yield place / "slurm.conf"
    finally:
        os.environ["PATH"] = path
        subprocess.run((str(LOCAL / "down"),), env=environment, check=True, stdout=subprocess.DEVNULL)


def start_campaign(
    directory: Path, name: str, spec: str, site: str, *options: str
) -> "subprocess.Popen[bytes]":
    """Type ``campaign run`` on a site."""
    (directory / f"{name}.yaml").write_text(spec)
    (directory / f"{name}-site.yaml").write_text(site)
    arguments = ("run", f"{name}.yaml", "--dir", name, "--site", f"./{name}-site.yaml", "--yes", *options)
    command = (sys.executable, "-m", "campaign", *arguments)
    return subprocess.Popen(command, cwd=directory, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def attempts(layout: Layout) -> list[Attempt]:
    """All attempts of a campaign."""
    with Ledger.open(layout, read_only=True) as ledger:
        return [item for stage_id in ledger.states() for item in ledger.attempts(stage_id)]


def calls(directory: Path) -> Counter[str]:
    """How often each of SLURM's commands was called."""
    path = directory / "calls"
    return Counter(path.read_text().split()) if path.exists() else Counter()


def measure_start(directory: Path, repeats: int) -> None:
    """Time from typing the command to the first MD step of LAMMPS."""
    with local_slurm(directory, 1, 1) as conf:
        for number in range(repeats):
            name = f"start-{number}"
            layout = Layout(directory / name)
            site = SITE.format(conf=conf, walltime="0:10:00", jobs=1)
            began = time.perf_counter()
            process = start_campaign(directory, name, NEMD.format(name=name, production_ps=5), site)
            reached: dict[str, float] = {}
            while "first step" not in reached and process.poll() is None:
                now = time.perf_counter() - began
                if layout.jobs.exists() and list(layout.jobs.glob("*.err")):
                    reached.setdefault("job starts", now)
                for _ in layout.attempts.glob("*"):
                    reached.setdefault("first attempt", now)
                for log in layout.attempts.glob("*/segment/log.lammps"):
                    if re.search(r"^ *Step .*\n +\d+ ", log.read_text(), re.MULTILINE):
                        reached["first step"] = now
                time.sleep(0.05)
            process.wait()
            print(", ".join(f"{what} {when:.1f} s" for what, when in reached.items()))


def measure_share(directory: Path, runs: int, seconds: float) -> None:
    """Share of the allocated time in which an engine ran."""
    install_plugin()
    with local_slurm(directory, 4, 2) as conf:
        layout = Layout(directory / "share")
        site = SITE.format(conf=conf, walltime="0:30:00", jobs=8)
        began = time.perf_counter()
        start_campaign(
            directory, "share", SLEEP.format(name="share", seconds=seconds, runs=runs), site
        ).wait()
        took = time.perf_counter() - began
        allocated = sum(job_seconds(conf.parent / "jobcomp.txt"))
    manifests = [
        read_manifest(layout.stage(item.stage_id)) for item in attempts(layout) if item.state == "done"
    ]
    engine = sum(manifest.get("engine_wall_s", 0.0) for manifest in manifests)
    print(f"{runs} runs of {seconds:g} s in {took:.0f} s; allocated {allocated:.0f} s in jobs of one slot")
    print(f"in the engine {engine:.0f} s: {engine / allocated:.1%} of the allocated time")
    counts = calls(directory)
    per_minute = {name: round(60 * count / took, 2) for name, count in counts.items()}
    print(f"calls {dict(counts)}; per minute {per_minute}")


def job_seconds(jobcomp: Path) -> Iterator[float]:
    """Time that each job had its resources, in s, as SLURM wrote it down."""
    for line in jobcomp.read_text().splitlines():
        found = dict(re.findall(r"(StartTime|EndTime)=(\S+)", line))
        yield (
            datetime.fromisoformat(found["EndTime"]) - datetime.fromisoformat(found["StartTime"])
        ).total_seconds()


def measure_handover(directory: Path) -> None:
    """Time between the end of an attempt at its job's walltime and the start of the next."""
    with local_slurm(directory, 1, 2) as conf:
        layout = Layout(directory / "handover")
        site = SITE.format(conf=conf, walltime="0:01:00", jobs=1)
        spec = NEMD.format(name="handover", production_ps=200)
        start_campaign(directory, "handover", spec, site).wait()
    chain = [item for item in attempts(layout) if item.segments and item.steps > 1000]
    for one, following in itertools.pairwise(chain):
        lost = datetime.fromisoformat(following.started or "") - datetime.fromisoformat(one.finished or "")
        print(f"job {one.job} -> {following.job}: {lost.total_seconds():.1f} s without an attempt")


def measure_driver(directory: Path) -> None:
    """Time between the end of an attempt that a driver asked to end and its next one, of the next driver."""
    with local_slurm(directory, 2, 1) as conf:
        layout = Layout(directory / "driver")
        site = SITE.format(conf=conf, walltime="0:30:00", jobs=2)
        spec = NEMD.format(name="driver", production_ps=300) + "    axes: {seed: {count: 2}}\n"
        start_campaign(directory, "driver", spec, site, "--detach").wait()
        environment = {**os.environ, "SLURM_CONF": str(conf)}
        for epoch in (2, 3):
            time.sleep(45)
            queue = ("squeue", "-h", "-t", "PENDING", "-o", "%i %j")
            lines = subprocess.run(queue, env=environment, check=True, capture_output=True, text=True).stdout
            (successor,) = (line.split()[0] for line in lines.splitlines() if "-driver." in line)
            update = ("scontrol", "update", f"jobid={successor}", "dependency=")
            subprocess.run(update, env=environment, check=True)
            while not any(item.epoch == epoch and item.started for item in attempts(layout)):
                time.sleep(0.5)
        time.sleep(5)
        subprocess.run((sys.executable, "-m", "campaign", "stop", str(layout.root)), check=True)
    chains = itertools.groupby(attempts(layout), key=lambda item: item.stage_id)
    for _, chain in chains:
        for one, following in itertools.pairwise(chain):
            lost = datetime.fromisoformat(following.started or "") - datetime.fromisoformat(
                one.finished or ""
            )
            print(
                f"driver {one.epoch} -> {following.epoch}, job {one.job} -> {following.job}: "
                f"{lost.total_seconds():.1f} s without an attempt"
            )


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("what", choices=("start", "share", "handover", "driver"))
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    directory = arguments.directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    print(yardstick())
    if arguments.what == "start":
        measure_start(directory, arguments.repeats)
    elif arguments.what == "share":
        measure_share(directory, arguments.runs, arguments.seconds)
    elif arguments.what == "handover":
        measure_handover(directory)
    else:
        measure_driver(directory)


if __name__ == "__main__":
    main()
