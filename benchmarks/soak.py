"""A campaign of short LAMMPS runs whose driver, jobs, nodes and network fail at random, until it is done.

Run ``python -m benchmarks.soak DIR --seed N`` as root (it cuts nodes from a network); ``DIR`` is new. It
starts a SLURM of four nodes on this machine, a campaign with its driver in a job, and every few seconds one
fault: a job cancelled, a node set down, a node cut off, a worker, an engine or the driver killed, or a
hand-over to the next driver. In the end everything has to be done, each stage committed once, ledger, stages
and store alike, and nothing left behind; never may there be more jobs than the site states. It prints what
happened.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from benchmarks.machine import yardstick
from benchmarks.slurm import NEMD, attempts, local_slurm
from campaign.layout import Layout
from campaign.ledger import Ledger
from campaign.plan_file import read_status

BACK_AFTER_S = (15.0, 40.0)
"""A node that was set down or cut off comes back after so long, in s."""

BETWEEN_S = (4.0, 16.0)
"""Time between two faults, in s."""

PRODUCTION_PS = 4


class Soak:
    """A campaign, and what is done to it.

    Parameters
    ----------
    directory
        Where it lies.
    conf
        Configuration of its SLURM.
    seed
        Of the faults.
    runs
        Number of runs.
    """

    def __init__(self, directory: Path, conf: Path, seed: int, runs: int) -> None:
        self.layout = Layout(directory / "soak")
        self.events: list[tuple[datetime, str]] = []
        self._environment = {**os.environ, "SLURM_CONF": str(conf)}
        self._random = random.Random(seed)
        self._back: list[tuple[float, Callable[[], None]]] = []
        self._spec = directory / "soak.yaml"
        axes = f"    axes: {{seed: {{count: {runs}}}}}\n"
        self._spec.write_text(NEMD.format(name="soak", production_ps=PRODUCTION_PS) + axes)
        yaml = YAML(typ="safe")
        site = yaml.load((conf.parent / "local-slurm.yaml").read_text())
        site["resources"]["gpu"] |= {"walltime": "0:02:00", "jobs": 4}
        site["resources"]["driver"]["walltime"] = "0:05:00"  # its own hand-overs come to the others
        self._stated = {name: resource.get("jobs", 1) for name, resource in site["resources"].items()}
        self._most: Counter[str] = Counter()
        self._site = directory / "site.yaml"
        with self._site.open("w") as file:
            yaml.dump(site, file)
        network = self.slurm("scontrol", "show", "config").partition("ClusterName")[2].split()[1]
        self._links = {f"n{number}": f"{network}n{number}" for number in range(1, 5)}

    # Looking

    def slurm(self, *argv: str) -> str:
        """Output of one of SLURM's commands; what is gone already is no error."""
        done = subprocess.run(argv, env=self._environment, capture_output=True, text=True, check=False)
        return done.stdout

    def campaign(self, *arguments: str) -> int:
        """Exit code of one of our commands."""
        command = (sys.executable, "-m", "campaign", *arguments)
        return subprocess.run(
            command, env=self._environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
        ).returncode

    def jobs(self, state: str, *, drivers: bool) -> list[str]:
        """Ids of jobs that are drivers, or that are not."""
        lines = self.slurm("squeue", "-h", "-t", state, "-o", "%i %j").splitlines()
        found = (line.split() for line in lines)
        return [job for job, name in found if ("-driver." in name) == drivers]

    def engines(self) -> list[int]:
        """Ids of the processes that compute."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if (path / "cwd").readlink().is_relative_to(self.layout.attempts):
                    found.append(int(path.name))
        return found

    def status(self) -> dict[str, Any]:
        """Read the driver's last picture."""
        return read_status(self.layout.status) or {"driver": {"state": "none"}, "failed": {}}

    def is_done(self) -> bool:
        """Whether its driver has ended with everything done; what is held back is not."""
        picture = self.status()
        counts = picture.get("counts", {}).values()
        done = bool(counts) and all(found["done"] == found["total"] for found in counts)
        return done and picture["driver"]["state"] == "finished"

    # Faults: each says whether there was something to break

    def cancel_job(self) -> bool:
        """Cancel a job in which something may run."""
        jobs = self.jobs("RUNNING", drivers=False)
        if jobs:
            self.slurm("scancel", self._random.choice(jobs))
        return bool(jobs)

    def node_down(self) -> bool:
        """Set a node down; it comes back."""
        node = self._random.choice(sorted(self._links))
        self.slurm("scontrol", "update", f"nodename={node}", "state=down", "reason=soak")
        self._later(lambda: self.slurm("scontrol", "update", f"nodename={node}", "state=resume"))
        return True

    def cut_off(self) -> bool:
        """Take a node from the network; it comes back."""
        link = self._random.choice(sorted(self._links.values()))
        subprocess.run(("ip", "link", "set", link, "down"), check=True)
        self._later(lambda: subprocess.run(("ip", "link", "set", link, "up"), check=True))
        return True

    def kill_engine(self) -> bool:
        """Kill LAMMPS."""
        return self._kill(self.engines())

    def kill_worker(self) -> bool:
        """Kill the process that started an engine."""
        parents = set()
        for engine in self.engines():
            with suppress(OSError):
                parents.add(int(Path(f"/proc/{engine}/stat").read_text().rpartition(")")[2].split()[1]))
        return self._kill(sorted(parents - {1}))

    def kill_driver(self) -> bool:
        """Kill the driver."""
        driver = self.status()["driver"]
        return driver["state"] == "running" and self._kill([driver["pid"]])

    def hand_over(self) -> bool:
        """Let the successor start, as it does before a walltime."""
        waiting = self.jobs("PENDING", drivers=True)
        if waiting and self.status()["driver"]["state"] == "running":
            self.slurm("scontrol", "update", f"jobid={waiting[0]}", "dependency=")
            return True
        return False

    def _kill(self, pids: list[int]) -> bool:
        if not pids:
            return False
        with suppress(ProcessLookupError):
            os.kill(self._random.choice(pids), signal.SIGKILL)
        return True

    def _later(self, repair: Callable[[], object]) -> None:
        self._back.append(
            (time.monotonic() + self._random.uniform(*BACK_AFTER_S), lambda: (repair(), None)[1])
        )

    def _repair(self, *, everything: bool = False) -> None:
        due = [item for item in self._back if everything or item[0] < time.monotonic()]
        self._back = [item for item in self._back if item not in due]
        for _, repair in due:
            repair()

    # The whole of it

    def run(self, faults: int, limit_s: float) -> None:
        """Drive, break, and go on until it is done; no fault comes after so many."""
        kinds = (
            self.cancel_job, self.node_down, self.cut_off, self.kill_engine, self.kill_worker,
            self.kill_driver, self.hand_over,
        )  # fmt: skip
        deadline, next_fault = time.monotonic() + limit_s, 0.0
        try:
            while not self.is_done():
                if time.monotonic() > deadline:
                    raise TimeoutError("the campaign did not end")
                self._keep_going()
                self._count_jobs()
                self._repair(everything=len(self.events) >= faults)
                if len(self.events) < faults and time.monotonic() > next_fault and self.engines():
                    kind = self._random.choice(kinds)
                    if kind():
                        self.events.append((datetime.now(UTC), kind.__name__))
                        next_fault = time.monotonic() + self._random.uniform(*BETWEEN_S)
                time.sleep(1)
        finally:
            self._repair(everything=True)

    def _keep_going(self) -> None:
        """Do what a user would: start the driver where none is, and ask for what was cancelled again."""
        if self.status()["failed"]:
            self.campaign("retry", "all", "--dir", str(self.layout.root))
        if not (self.jobs("PENDING,RUNNING,COMPLETING", drivers=True)):
            arguments = ("--dir", str(self.layout.root), "--site", str(self._site), "--detach", "--yes")
            self.campaign("run", str(self._spec), *arguments)

    def _count_jobs(self) -> None:
        names = self.slurm("squeue", "-h", "-t", "PENDING,RUNNING", "-o", "%j").splitlines()
        there = Counter(name.rpartition(".")[2].rstrip("+") for name in names if "-driver." not in name)
        self._most |= there

    def check(self) -> dict[str, Any]:
        """Look whether it is whole; return the figures.

        Raises
        ------
        AssertionError
            It is not.
        """
        deadline = time.monotonic() + 120
        while self.slurm("squeue", "-h") or self.engines():
            assert time.monotonic() < deadline, "jobs or engines are left"
            time.sleep(1)
        too_many = {name: most for name, most in self._most.items() if most > self._stated[name]}
        assert not too_many, f"more jobs at a time than the site states: {too_many}"
        everything = attempts(self.layout)
        done = Counter(item.stage_id for item in everything if item.state == "done")
        with Ledger.open(self.layout, read_only=True) as ledger:
            states = ledger.counts()
        assert set(states) == {"done"}, states
        assert set(done.values()) == {1}, "a stage was committed twice"
        committed = {path.name for path in self.layout.stages.glob("??/*")}
        assert committed == set(done), "stages on disk and in the ledger differ"
        assert self.campaign("doctor", str(self.layout.root), "--verify") == 0, "doctor finds faults"
        return {
            "stages": states["done"],
            "attempts": len(everything),
            "failures": dict(Counter(item.failure_class for item in everything if item.failure_class)),
            "faults": dict(Counter(name for _, name in self.events)),
            "jobs": len({item.job for item in everything}),
            "most_jobs_at_a_time": dict(self._most),
            "drivers": max(item.epoch for item in everything),
        }


def main() -> None:
    """Run a campaign through faults."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--faults", type=int, default=60)
    parser.add_argument("--limit-s", type=float, default=3 * 3600.0)
    arguments = parser.parse_args()
    directory = arguments.directory.resolve()
    directory.mkdir(parents=True)
    print(yardstick(), flush=True)
    began = time.perf_counter()
    with local_slurm(directory, 4, 2, netns=True) as conf:
        soak = Soak(directory, conf, arguments.seed, arguments.runs)
        soak.run(arguments.faults, arguments.limit_s)
        figures = soak.check()
    took_s = round(time.perf_counter() - began)
    print(json.dumps({"seed": arguments.seed, "runs": arguments.runs, "seconds": took_s, **figures}))


if __name__ == "__main__":
    main()
