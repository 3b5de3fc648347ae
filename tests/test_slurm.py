"""Campaigns of real LAMMPS on a real SLURM, and what is done to them: each with exact counts."""

import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from campaign.errors import FailureClass
from campaign.execution.commit import read_manifest
from campaign.execution.job_scripts import DRIVER_GONE_S
from campaign.execution.requests import write_request
from campaign.execution.segments import committed_segments
from campaign.ledger import Attempt, Ledger
from tests.local_slurm import LocalSlurm, local_slurm, needs_slurm, skip_without_root
from tests.slurm_cases import QUIET_S, Case
from tests.standin_campaign import engines_alive, plan_of, wait_for

pytestmark = [pytest.mark.slurm, pytest.mark.lammps, pytest.mark.slow, needs_slurm]

SHORT_PS, LONG_PS = 15, 40

MEMORY_GB = 0.4
"""Enough for a worker and a small LAMMPS, 0.3 in all, and too little for 100,000 atoms."""


@pytest.fixture(scope="module")
def slurm() -> Iterator[LocalSlurm]:
    with local_slurm(nodes=3, gpus=2) as started:
        yield started


@pytest.fixture(scope="module")
def network() -> Iterator[LocalSlurm]:
    """One whose nodes have addresses of their own, and jobs that have no more memory than they asked for."""
    skip_without_root()
    with local_slurm(nodes=3, gpus=2, netns=True, cgroup=True) as started:
        yield started


@pytest.fixture
def make_case(tmp_path: Path) -> Iterator[Callable[..., Case]]:
    cases: list[Case] = []

    def make(slurm: LocalSlurm, seeds: int, production_ps: float, **gpu: Any) -> Case:
        cases.append(Case(tmp_path, slurm, seeds, production_ps, **gpu))
        return cases[-1]

    yield make
    for process in (process for one in cases for process in one.drivers):
        if process.poll() is None:  # of a test that failed; its jobs end with its SLURM
            process.kill()
            process.wait()


@pytest.fixture
def case(slurm: LocalSlurm, make_case: Callable[..., Case]) -> Callable[..., Case]:
    return partial(make_case, slurm)


def test_a_campaign_over_several_gpu_jobs(case: Callable[..., Case]) -> None:
    one = case(4, SHORT_PS)
    one.finish()
    attempts = one.attempts()
    assert len(attempts) == one.stages
    gpu_jobs = {
        read_manifest(one.layout.stage(item.stage_id))["job"]
        for item in attempts
        if read_manifest(one.layout.stage(item.stage_id))["gpus"] is not None
    }
    assert len(gpu_jobs) == 2
    assert {item.job for item in attempts} > gpu_jobs
    assert one.gpus_overlap() == []
    for item in attempts:  # build and reduce hold no GPU
        manifest = read_manifest(one.layout.stage(item.stage_id))
        assert (manifest["gpus"] is None) == (manifest["kind"] in {"build", "reduce"})


def test_the_partition_that_starts_first_is_used(case: Callable[..., Case], slurm: LocalSlurm) -> None:
    one = case(2, SHORT_PS, jobs=3, also=[{"partition": "short", "walltime": "0:05:00", "jobs": 1}])
    slurm.run("scontrol", "update", "partitionname=gpu", "state=down")
    most = 0
    try:
        process = one.drive()
        while process.poll() is None:
            lines = slurm.run("squeue", "-h", "-t", "PD,R", "-o", "%P %j").splitlines()
            most = max(most, sum("gpu" in line.split()[1].rpartition(".")[2] for line in lines))
            time.sleep(0.5)
        assert process.returncode == 0
        one.check_whole()
    finally:
        slurm.run("scontrol", "update", "partitionname=gpu", "state=up")
    assert most == 3  # never more than is stated for all places
    manifests = [read_manifest(one.layout.stage(item.stage_id)) for item in one.attempts()]
    (job,) = {manifest["job"] for manifest in manifests if manifest["gpus"] is not None}
    assert "Partition=short" in slurm.run("scontrol", "show", "job", job)


def test_what_somebody_cancelled_is_not_resubmitted_unasked(case: Callable[..., Case]) -> None:
    one = case(2, LONG_PS)
    process = one.drive()
    entry = one.wait_for_production(process)
    one.slurm.run("scancel", entry["job"])
    process.wait(400)
    assert one.failures() == {FailureClass.JOB_CANCELLED: 1}
    (failed,) = [item for item in one.attempts() if item.failure_class]
    assert (failed.stage_id, failed.job, failed.segments > 0) == (entry["stage"], entry["job"], True)
    assert f"job {entry['job']} on {entry['node']}: somebody cancelled the job" in (failed.message or "")
    with Ledger.open(one.layout, read_only=True) as ledger:
        assert ledger.counts() == {"done": one.stages - 2, "failed": 1, "pending": 1}
    one.check_nothing_left()
    assert one.drive().wait(60) == 0  # nothing to do: it waits to be asked for
    assert len(one.attempts()) == one.stages - 1
    write_request(one.layout, "retry", {"stages": [entry["stage"]]})
    one.finish()
    assert len(one.attempts()) == one.stages + 1


def test_a_chain_over_four_jobs_ends_each_before_its_walltime(case: Callable[..., Case]) -> None:
    one = case(1, 400 * LONG_PS, jobs=1, walltime="0:00:45")  # more than four jobs can do, on any machine
    stage_id = one.runs[0].stages[2]

    def handed_over() -> list[Attempt]:
        return [
            item for item in one.attempts() if item.failure_class == FailureClass.WALLTIME and item.segments
        ]

    process = one.drive()
    one.wait_for_production(process)
    wait_for(lambda: len(handed_over()) >= 4, seconds=500)
    write_request(one.layout, "stop", {})
    assert process.wait(120) == 130
    one.check_nothing_left()
    attempts = [item for item in one.attempts() if item.stage_id == stage_id]
    assert {item.failure_class for item in attempts[:-1]} == {FailureClass.WALLTIME}
    assert len({item.job for item in attempts[:4]}) == 4
    chain = committed_segments(one.layout, stage_id)
    assert len(chain) >= 4
    # Nothing was computed twice or lost: the steps that attempts committed are those of the chain.
    assert sum(item.steps for item in attempts) == chain[-1].last
    with Ledger.open(one.layout, read_only=True) as ledger:
        assert ledger.failures(stage_id)[FailureClass.WALLTIME] == sum(
            not item.segments for item in attempts[:-1]
        )


def test_a_job_that_slurm_ends_at_its_walltime_goes_on_in_another(case: Callable[..., Case]) -> None:
    """The site's walltime is ten minutes, but somebody shortened this job."""
    one = case(1, LONG_PS)
    process = one.drive()
    entry = one.wait_for_production(process)
    soon = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + 2))
    with one.paused():  # SLURM takes up to half a minute to see it
        one.slurm.run("scontrol", "update", f"jobid={entry['job']}", f"EndTime={soon}")
        wait_for(one.failures, seconds=180)
    assert process.wait(400) == 0
    one.check_whole()
    assert one.failures() == {FailureClass.WALLTIME: 1}
    assert len(one.attempts()) == one.stages + 1


def test_a_node_that_goes_down_costs_a_segment(case: Callable[..., Case]) -> None:
    one = case(2, LONG_PS)
    process = one.drive()
    entry = one.wait_for_production(process)
    node = entry["node"]
    in_it = sum(item["node"] == node for item in one.status()["running"].values())
    one.slurm.run("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    try:
        assert process.wait(500) == 0
    finally:
        one.slurm.run("scontrol", "update", f"nodename={node}", "state=resume")
    one.check_whole()
    assert set(one.failures()) == {FailureClass.NODE_FAILURE}
    assert 1 <= one.failures()[FailureClass.NODE_FAILURE] <= in_it
    assert len(one.attempts()) == one.stages + one.failures().total()


def test_a_job_that_is_preempted_goes_on_in_another(case: Callable[..., Case]) -> None:
    one = case(1, LONG_PS)
    process = one.drive()
    entry = one.wait_for_production(process)
    both = ("-p", "short", "-w", entry["node"], "--gres=gpu:2", "--mem=100M")
    one.slurm.run("sbatch", *both, "-o", "/dev/null", "--wrap", "sleep 5")
    assert process.wait(400) == 0
    one.check_whole()
    assert one.failures() == {FailureClass.PREEMPTED: 1}
    assert len(one.attempts()) == one.stages + 1
    (failed,) = [item for item in one.attempts() if item.failure_class]
    assert (failed.stage_id, failed.job, failed.segments > 0) == (entry["stage"], entry["job"], True)
    with Ledger.open(one.layout, read_only=True) as ledger:
        assert ledger.failures(entry["stage"]) == {}  # a segment was committed, so no budget is spent


def test_a_driver_that_is_killed_and_started_again_while_its_jobs_run(case: Callable[..., Case]) -> None:
    one = case(2, LONG_PS)
    process = one.drive()
    one.wait_for_production(process)
    process.kill()
    process.wait()
    flying = sum(item.state == "running" for item in one.attempts())
    assert one.jobs()
    before = {path.name for path in one.layout.stages.glob("??/*")}
    one.finish()
    assert one.failures() == {FailureClass.LOST_WORKER: one.failures()[FailureClass.LOST_WORKER]}
    assert 1 <= one.failures().total() <= flying
    assert len(one.attempts()) == one.stages + one.failures().total()
    assert before.isdisjoint(item.stage_id for item in one.attempts() if item.epoch == 2)


def test_jobs_whose_driver_has_gone_end_themselves(case: Callable[..., Case]) -> None:
    one = case(1, 20 * LONG_PS)
    process = one.drive()
    one.wait_for_production(process)
    process.kill()
    process.wait()
    assert engines_alive(one.root)
    assert one.jobs()
    wait_for(lambda: not (one.jobs() or engines_alive(one.root)), seconds=DRIVER_GONE_S + QUIET_S)
    assert committed_segments(one.layout, one.runs[0].stages[2])  # to go on from


@pytest.mark.parametrize("how", ["campaign stop", "Ctrl-C"])
def test_a_stop_leaves_no_job_and_the_next_start_goes_on(case: Callable[..., Case], how: str) -> None:
    one = case(2, LONG_PS)
    process = one.drive()
    one.wait_for_production(process)
    if how == "Ctrl-C":
        os.killpg(process.pid, signal.SIGINT)
    else:
        write_request(one.layout, "stop", {})
    assert process.wait(90) == 130
    one.check_nothing_left()
    assert set(one.failures()) == {FailureClass.CANCELLED}
    cancelled = one.failures().total()
    one.finish()
    assert len(one.attempts()) == one.stages + cancelled
    steps = Counter[str]()
    for item in one.attempts():
        steps[item.stage_id] += item.steps
    for run in one.runs:
        assert steps[run.stages[2]] == read_manifest(one.layout.stage(run.stages[2]))["segments"][-1]["last"]


def test_an_impossible_request_is_told_and_nothing_waits(case: Callable[..., Case]) -> None:
    one = case(1, SHORT_PS, memory_GB=4000.0)
    process = one.drive()
    assert process.wait(120) == 0
    (held,) = one.status()["held"]
    assert held.startswith("resource gpu: SLURM refuses its jobs: ")
    assert one.status()["counts"]["nemd"]["pending"] == 1
    one.check_nothing_left()


def test_a_queue_that_refuses_jobs_for_a_while_is_waited_for(
    case: Callable[..., Case], slurm: LocalSlurm
) -> None:
    one = case(1, SHORT_PS)
    slurm.run("scontrol", "update", "partitionname=gpu", "state=inactive")
    process = one.drive()
    try:
        wait_for(lambda: "SLURM refuses jobs" in str(one.status().get("cluster")), seconds=90)
        assert process.poll() is None
    finally:
        slurm.run("scontrol", "update", "partitionname=gpu", "state=up")
    assert process.wait(300) == 0
    one.check_whole()
    assert len(one.attempts()) == one.stages


def test_a_controller_that_is_restarted_is_waited_for(case: Callable[..., Case], slurm: LocalSlurm) -> None:
    one = case(2, LONG_PS)
    process = one.drive()
    one.wait_for_production(process)
    pid = int((slurm.directory / "slurmctld.pid").read_text())
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), seconds=30)
    time.sleep(5)
    subprocess.run(("slurmctld",), env={**os.environ, "SLURM_CONF": str(slurm.conf)}, check=True)
    assert process.wait(500) == 0
    one.check_whole()
    assert len(one.attempts()) == one.stages


def test_a_node_that_is_cut_off_and_comes_back(network: LocalSlurm, make_case: Callable[..., Case]) -> None:
    """Both copies compute, on a file system that they share; each stage is committed once."""
    one = make_case(network, 1, 2 * LONG_PS)
    process = one.drive()
    entry = one.wait_for_production(process)
    number = int(entry["node"][-1])
    try:
        with one.paused():  # then the copy that nobody hears of goes on beside the other one
            network.cut_off(number)
            wait_for(
                lambda: sum(item.stage_id == entry["stage"] for item in one.attempts()) == 2, seconds=180
            )
    finally:
        network.cut_off(number, back=True)
    assert process.wait(500) == 0
    one.check_whole()
    assert one.failures().total() == 1
    assert set(one.failures()) <= {FailureClass.NODE_FAILURE, FailureClass.LOST_WORKER}
    assert len(one.attempts()) == one.stages + 1


def test_a_node_whose_daemon_is_killed(network: LocalSlurm, make_case: Callable[..., Case]) -> None:
    one = make_case(network, 1, 2 * LONG_PS)
    process = one.drive()
    entry = one.wait_for_production(process)
    node = entry["node"]
    with one.paused():  # its node is missed after ten seconds and more
        os.kill(int((network.directory / f"slurmd.{node}.pid").read_text()), signal.SIGKILL)
        wait_for(one.failures, seconds=180)
    assert process.wait(500) == 0
    one.check_whole()
    assert one.failures() == {FailureClass.NODE_FAILURE: 1}
    assert len(one.attempts()) == one.stages + 1
    (failed,) = [item for item in one.attempts() if item.failure_class]
    assert (failed.stage_id, failed.job) == (entry["stage"], entry["job"])


def test_what_ran_out_of_memory_asks_for_more(
    network: LocalSlurm, make_case: Callable[..., Case], tmp_path: Path
) -> None:
    """100,800 atoms do not fit beside the worker."""
    one = make_case(network, 1, 0.5, memory_GB=MEMORY_GB)
    spec = (tmp_path / "spec.yaml").read_text().replace("cells: [2, 2]", "cells: [60, 60]")
    (tmp_path / "spec.yaml").write_text(spec)
    plan, _ = plan_of(tmp_path / "spec.yaml")
    stage_id = plan.calculations[0].runs[0].stages[1]

    def iterates() -> bool:
        """The second attempt has all its memory: LAMMPS tells of iterations."""
        logs = one.layout.attempts.glob(f"{stage_id[:16]}-2-*/segment/log.lammps")
        return any(len(re.findall(r"^ +\d+ ", log.read_text(), re.MULTILINE)) > 2 for log in logs)

    process = one.drive(segment_s=300)
    wait_for(iterates, seconds=400)
    write_request(one.layout, "stop", {})
    assert process.wait(120) == 130
    one.check_nothing_left()
    failed, stopped = (item for item in one.attempts() if item.stage_id == stage_id)
    assert failed.failure_class == FailureClass.OUT_OF_MEMORY
    assert stopped.failure_class == FailureClass.CANCELLED
    asked = [network.run("scontrol", "show", "job", str(item.job)) for item in (failed, stopped)]
    found = [re.search(r"mem=([\d.]+)([MG])", text) for text in asked]
    megabytes = [float(match[1]) * {"M": 1, "G": 1024}[match[2]] for match in found if match is not None]
    assert megabytes == pytest.approx([1024 * MEMORY_GB, 2 * 1024 * MEMORY_GB], abs=1)
