"""Faults in whole campaigns: what is committed stays, nothing of it is repeated, nobody is left behind.

The engine is the stand-in, but for the last tests, which kill real LAMMPS.
"""

import contextlib
import os
import random
import shutil
import signal
import subprocess
from functools import partial
from pathlib import Path

import pytest

import campaign
from campaign.errors import FailureClass
from campaign.execution.commit import read_manifest, verify
from campaign.execution.requests import write_request
from campaign.execution.segments import committed_segments, damaged_segments
from campaign.layout import Layout
from campaign.ledger import Ledger
from tests.nemd_cases import small_spec
from tests.standin_campaign import (
    GONE_S,
    LONG_S,
    attempts_of,
    committed,
    drive,
    engine_starts,
    engines_alive,
    plan_of,
    run,
    wait_for,
    write_spec,
)

KILLS = 20


def production(root: Path) -> str:
    """Id of the only production."""
    plan, _ = plan_of(root.parent / "spec.yaml")
    return plan.calculations[0].runs[0].stages[2]


def work(root: Path, stage_id: str) -> list[tuple[str | None, int, int]]:
    """Failure class, segments and MD steps of each attempt at a stage."""
    return [(item.failure_class, item.segments, item.steps) for item in attempts_of(root, stage_id)]


def check_whole(root: Path, runs: int) -> None:
    """Everything is done and whole, committed once, and nothing is left over."""
    layout = Layout(root)
    assert len(committed(root)) == 1 + 3 * runs
    for stage_id in committed(root):
        verify(layout.stage(stage_id))
    with Ledger.open(layout, read_only=True) as ledger:
        assert ledger.counts() == {"done": 1 + 3 * runs}
        done = [
            sum(item.state == "done" for item in ledger.attempts(stage_id)) for stage_id in ledger.states()
        ]
    assert set(done) == {1}
    assert campaign.open(root).results["toy"].ds["value"].notnull().all()
    wait_for(lambda: not engines_alive(root), seconds=GONE_S)  # a `sleep` of the stand-in outlives its shell
    assert [path for path in layout.segments.rglob("*") if path.is_file()] == []


def check_segments(root: Path, stage_id: str) -> None:
    """The segments of a finished stage follow each other, each with the attempt that committed it."""
    told = read_manifest(Layout(root).stage(stage_id))["segments"]
    assert [one["first"] for one in told] == [0, *(one["last"] for one in told[:-1])]
    by = {item.id: item.segments for item in attempts_of(root, stage_id)}
    assert {name: sum(one["attempt"] == name for one in told) for name in by} == by


@pytest.mark.slow
def test_twenty_kills_of_the_driver_at_random_moments(root: Path) -> None:
    generator = random.Random(2025)
    write_spec(root.parent, ["pieces-slow"], 12)
    runs = 12
    for _ in range(KILLS):
        process = drive(root, 2)
        # Half of them while it starts, the others while it works.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(generator.uniform(0.2, 6.0))
        process.kill()
        process.wait()
        wait_for(lambda: not engines_alive(root), seconds=GONE_S)
    assert drive(root, 2).wait(LONG_S) == 0
    check_whole(root, runs)
    starts = engine_starts(root)
    plan, _ = plan_of(root.parent / "spec.yaml")
    with Ledger.open(Layout(root), read_only=True) as ledger:
        attempts = [item for stage_id in ledger.states() for item in ledger.attempts(stage_id)]
    lost = [item for item in attempts if item.failure_class == "lost worker"]
    assert len(lost) <= 2 * KILLS
    assert sum(item.state == "failed" for item in attempts) == len(lost)
    # An equilibration has one segment, a production five; a kill costs at most the one in flight in a slot.
    assert 6 * runs <= starts.total() <= 6 * runs + len(lost)
    for one in plan.calculations[0].runs:
        check_segments(root, one.stages[2])


def test_killed_workers_cost_the_segment_in_flight_and_no_budget(root: Path) -> None:
    """More kills than the budget of lost workers allows, but each attempt came further."""
    assert run(root, ["pieces-lost"]).failed == 0
    stage_id = production(root)
    assert work(root, stage_id) == [("lost worker", 2, 40), ("lost worker", 2, 40), (None, 1, 20)]
    with Ledger.open(Layout(root), read_only=True) as ledger:
        assert ledger.failures(stage_id) == {}
    assert engine_starts(root).total() == 1 + 5 + 2
    check_segments(root, stage_id)
    check_whole(root, 1)


def test_segments_left_by_a_kill_after_the_commit_go_with_the_next_driver(root: Path) -> None:
    run(root, ["pieces"])
    left = Layout(root).segments_of(production(root)) / "0001"
    left.mkdir(parents=True)
    (left / "manifest.json").write_text("{}")
    assert run(root, ["pieces"]).failed == 0
    assert engine_starts(root).total() == 1 + 5
    check_whole(root, 1)


def test_a_stage_that_comes_no_further_spends_its_budget(root: Path) -> None:
    assert run(root, ["pieces-stuck"]).failed == 1
    stage_id = production(root)
    assert work(root, stage_id) == [("transient", 2, 40), *[("transient", 0, 0)] * 3]
    assert [segment.last for segment in committed_segments(Layout(root), stage_id)] == [20, 40]
    assert damaged_segments(Layout(root), hashes=True) == (1, 2, [])
    result = committed_segments(Layout(root), stage_id)[0].directory / "result.nc"
    whole = result.read_bytes()
    result.write_bytes(whole[:-1] + b"!")
    assert damaged_segments(Layout(root), hashes=False) == (1, 2, [])
    assert "was changed" in damaged_segments(Layout(root), hashes=True)[2][0]
    result.write_bytes(whole)
    # A retry goes on after the segments that are there.
    write_request(Layout(root), "retry", {"stages": [stage_id]})
    run(root, ["pieces-stuck"])
    assert {segment.attempt for segment in committed_segments(Layout(root), stage_id)} == {
        attempts_of(root, stage_id)[0].id
    }


def test_an_attempt_that_came_further_is_tried_again_with_its_budget_used_up(root: Path) -> None:
    assert run(root, ["pieces-slips"]).failed == 0
    stage_id = production(root)
    assert work(root, stage_id) == [
        ("transient", 1, 20),
        ("transient", 0, 0),
        ("transient", 0, 0),
        ("transient", 1, 20),
        (None, 3, 60),
    ]
    check_whole(root, 1)


def test_what_failed_for_its_physics_starts_over(root: Path) -> None:
    assert run(root, ["pieces-nan"]).failed == 1
    stage_id = production(root)
    assert work(root, stage_id) == [("physics", 2, 40)]
    assert len(committed_segments(Layout(root), stage_id)) == 2  # kept, to be looked at
    assert run(root, ["pieces-nan"]).failed == 1
    assert len(work(root, stage_id)) == 1  # never repeated unasked
    write_request(Layout(root), "retry", {"stages": [stage_id]})
    assert run(root, ["pieces-nan"]).failed == 0
    assert work(root, stage_id)[1:] == [(None, 5, 100)]
    check_whole(root, 1)


def test_a_terminal_that_is_closed_between_segments_loses_nothing(root: Path) -> None:
    write_spec(root.parent, ["pieces-slower"], 1)
    process = drive(root, 1)
    wait_for(lambda: committed_segments(Layout(root), production(root)))
    process.send_signal(signal.SIGHUP)
    assert process.wait(LONG_S) == 130
    stage_id = production(root)
    ((failure_class, segments, steps),) = work(root, stage_id)
    assert failure_class == "cancelled"
    assert len(committed_segments(Layout(root), stage_id)) == segments
    assert run(root, ["pieces-slower"]).failed == 0
    assert work(root, stage_id)[1][2] == 100 - steps
    check_whole(root, 1)


def test_a_full_disk_ends_what_needs_it_and_leaves_what_is_committed(root: Path) -> None:
    """A real file system of 3 MB, made larger for the second start."""
    root.mkdir()
    mount = ("mount", "-t", "tmpfs", "-o", "size=3m", "none", str(root))
    if shutil.which("mount") is None or subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("no small file system can be mounted here: it takes root")
    try:
        write_spec(root.parent, ["steady", "fill"], 2)
        first = drive(root, 1)
        assert first.wait(LONG_S) != 0
        before = set(committed(root))
        assert before
        for path in root.glob("attempts/*/segment/fill"):
            path.unlink()
        subprocess.run(("mount", "-o", "remount,size=100m", str(root)), check=True)
        starts = engine_starts(root)
        for stage_id in before:
            verify(Layout(root).stage(stage_id))
        with Ledger.open(Layout(root), read_only=True) as ledger:
            failed = list(ledger.failed())
        write_request(Layout(root), "retry", {"stages": failed})
        assert drive(root, 2).wait(LONG_S) == 0
        check_whole(root, 4)
        again = engine_starts(root) - starts
        seeds = {read_manifest(Layout(root).stage(stage_id))["random_seed"] for stage_id in before}
        assert not {name for name in again if int(name.partition("-")[2]) in seeds}
    finally:
        subprocess.run(("umount", str(root)), check=True)


# With LAMMPS


@pytest.mark.lammps
@pytest.mark.slow
def test_lammps_survives_kills_of_its_driver_its_worker_and_itself(root: Path) -> None:
    generator = random.Random(7)
    (root.parent / "spec.yaml").write_text(small_spec("killed", 15, "direction: [forward, backward]"))
    layout = Layout(root)

    def segments() -> list[Path]:
        return sorted(layout.segments.glob("??/*/*/manifest.json"))

    def kill(victim: str, driver: int) -> bool:
        """Kill in mid-run; False if the engine that was chosen had just ended by itself."""
        alive = engines_alive(root)
        if not alive:
            return False
        engine = generator.choice(alive)
        try:
            os.kill(engine, signal.SIGSTOP)  # from here on it ends only by our hand
            status = Path(f"/proc/{engine}/status").read_text()
        except (ProcessLookupError, FileNotFoundError):
            return False
        if "State:\tZ" in status:
            return False
        if not status.startswith("Name:\tlmp"):  # still our own code, which is not LAMMPS yet
            os.kill(engine, signal.SIGCONT)
            return False
        worker = int(status.partition("PPid:")[2].split()[0])
        os.kill({"driver": driver, "worker": worker, "engine": engine}[victim], signal.SIGKILL)
        return True

    def committed_more_than(before: int) -> bool:
        return len(segments()) > before

    for victim in ("driver", "worker", "engine", "driver"):
        process = drive(root, 2, segment_s=0.5)
        before = len(segments())
        wait_for(partial(committed_more_than, before))
        wait_for(partial(kill, victim, process.pid))
        if victim != "driver":
            wait_for(partial(committed_more_than, before + 2))
            process.send_signal(signal.SIGINT)
        process.wait(LONG_S)
        wait_for(lambda: not engines_alive(root), seconds=GONE_S)
    assert drive(root, 2, segment_s=0.5).wait(LONG_S) == 0
    plan, _ = plan_of(root.parent / "spec.yaml")
    for one in plan.calculations[0].runs:
        check_segments(root, one.stages[2])
        told = read_manifest(layout.stage(one.stages[2]))["segments"]
        assert len(told) > 3
        assert len({part["attempt"] for part in told}) > 1
    with Ledger.open(layout, read_only=True) as ledger:
        assert ledger.counts() == {"done": 6}
        outcomes = ledger.outcomes()
    assert outcomes["failed (transient)"] == 1  # LAMMPS itself, ended by a signal
    assert outcomes[f"failed ({FailureClass.LOST_WORKER})"] >= 3
    ds = campaign.open(root).results["nemd"].ds
    for gate in ("finite", "window", "atoms", "neighbours"):
        assert ds["check_passed"].sel(check=gate).all(), gate
    # What thermostats gave is stitched over all kills: lost tallies would be electronvolts.
    assert (abs(ds["check_value"].sel(check="closure")) < 1e-3 * 112).all()
