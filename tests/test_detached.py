"""Drivers in jobs of their own on a real SLURM: they hand over, are killed, and are stopped from outside."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from campaign.errors import FailureClass
from tests.local_slurm import LocalSlurm, local_slurm, needs_slurm
from tests.slurm_cases import Case
from tests.standin_campaign import wait_for

pytestmark = [pytest.mark.slurm, pytest.mark.lammps, pytest.mark.slow, needs_slurm]

PRODUCTION_PS = 150


@pytest.fixture(scope="module")
def slurm() -> Iterator[LocalSlurm]:
    with local_slurm(nodes=3, gpus=2) as started:
        yield started


class Detached(Case):
    """A campaign whose driver is in a job."""

    def command(self, *arguments: str, code: int = 0) -> str:
        """What a command of ours said."""
        done = subprocess.run(
            (sys.executable, "-m", "campaign", *arguments),
            cwd=self.root.parent,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    def detach(self) -> str:
        spec, directory = str(self.root.parent / "spec.yaml"), str(self.root)
        return self.command("run", spec, "--dir", directory, "--site", str(self.site), "--detach", "--yes")

    def driver_jobs(self) -> dict[str, str]:
        """State of the jobs of drivers, by id."""
        lines = self.slurm.run("squeue", "-h", "-o", "%i %T %j").splitlines()
        return {job: state for job, state, name in map(str.split, lines) if "-driver." in name}

    def epoch(self) -> int:
        driver = self.status().get("driver", {})
        return int(driver["epoch"]) if driver.get("state") == "running" else 0

    def produces(self, epoch: int) -> bool:
        running = self.status().get("running", {}).values()
        return self.epoch() == epoch and any(
            one["kind"] == "produce" and one["steps_done"] for one in running
        )

    def finish(self, segment_s: float = 0) -> None:
        del segment_s
        wait_for(lambda: self.status()["driver"]["state"] == "finished", seconds=500)
        wait_for(lambda: not self.driver_jobs(), seconds=60)
        self.check_whole()


@pytest.fixture
def case(slurm: LocalSlurm, tmp_path: Path) -> Iterator[Callable[[int], Detached]]:
    cases: list[Detached] = []

    def make(seeds: int) -> Detached:
        cases.append(Detached(tmp_path, slurm, seeds, PRODUCTION_PS))
        return cases[-1]

    yield make
    for one in cases:
        for job in one.driver_jobs():  # of a test that failed
            slurm.run("scancel", job)


def successor(one: Detached) -> str:
    """Wait for the successor of the driver, which waits for its end; return its job."""
    wait_for(lambda: sorted(one.driver_jobs().values()) == ["PENDING", "RUNNING"], seconds=120)
    return next(job for job, state in one.driver_jobs().items() if state == "PENDING")


def test_a_driver_hands_over_and_its_jobs_go_on(case: Callable[[int], Detached]) -> None:
    one = case(2)
    assert "its driver is job" in one.detach()
    wait_for(lambda: one.produces(1), seconds=240)
    assert "is job" in one.command(
        "run", "spec.yaml", "--dir", str(one.root), "--site", str(one.site), code=4
    )
    jobs = {item.job for item in one.attempts() if item.state == "running"}
    one.slurm.run("scontrol", "update", f"jobid={successor(one)}", "dependency=")  # as before a walltime
    wait_for(lambda: one.produces(2), seconds=240)
    one.finish()
    assert {item.job for item in one.attempts() if item.epoch == 2} & jobs  # not a new one for each
    assert set(one.failures()) == {FailureClass.CANCELLED}
    assert one.failures().total() <= 2
    assert len(one.attempts()) == one.stages + one.failures().total()
    assert "its driver is job" not in one.detach()  # there is nothing to compute any more
    assert one.driver_jobs() == {}


def test_a_driver_whose_job_is_killed_is_followed(case: Callable[[int], Detached]) -> None:
    one = case(2)
    one.detach()
    wait_for(lambda: one.produces(1), seconds=240)
    successor(one)
    os.kill(one.status()["driver"]["pid"], signal.SIGKILL)
    wait_for(lambda: one.produces(2), seconds=240)
    one.finish()
    assert set(one.failures()) == {FailureClass.LOST_WORKER}
    assert one.failures().total() <= 2
    assert len(one.attempts()) == one.stages + one.failures().total()


def test_a_driver_in_a_job_is_stopped_from_outside(case: Callable[[int], Detached]) -> None:
    one = case(2)
    one.detach()
    wait_for(lambda: one.produces(1), seconds=240)
    successor(one)
    assert "running" in one.command("status", str(one.root))
    one.command("stop", str(one.root))
    wait_for(lambda: not one.driver_jobs(), seconds=60)
    one.check_nothing_left()
    assert set(one.failures()) == {FailureClass.CANCELLED}
    one.detach()
    one.finish()
