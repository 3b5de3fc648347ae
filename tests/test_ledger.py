import errno
import fcntl
import shutil
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from campaign.errors import BusyError, ExitCode, FailureClass, LedgerError, ResourceError, TakenOverError
from campaign.execution.lock import DriverLock, current_holder
from campaign.layout import Layout
from campaign.ledger import Ending, Holder, Ledger
from campaign.plan import StageSummary

STAGES = tuple(f"{number:032x}" for number in range(4))


def stage(stage_id: str) -> StageSummary:
    return StageSummary(
        id=stage_id,
        kind="produce",
        protocol="standin",
        engine="standin",
        needs=(),
        atoms=10,
        steps=100,
        potential="lj",
        version=1,
        files={},
    )


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


@pytest.fixture
def ledger(layout: Layout) -> Ledger:
    ledger = Ledger.open(layout)
    ledger.acquire(Holder.this_process())
    ledger.register(map(stage, STAGES))
    return ledger


def test_registering_again_keeps_states(ledger: Ledger) -> None:
    (attempt,) = ledger.begin([(STAGES[0], "slot", None)])
    ledger.commit(attempt)
    ledger.register(map(stage, STAGES))
    assert ledger.state(STAGES[0]) == "done"
    assert ledger.counts() == {"done": 1, "pending": 3}


def test_an_attempt_is_on_record_before_it_ends_and_tells_how(ledger: Ledger, layout: Layout) -> None:
    (attempt,) = ledger.begin([(STAGES[0], "tcp://here", None)])
    ledger.started(attempt, "node7", 42, "2026-01-01T00:00:00.000+00:00")
    with Ledger.open(layout, read_only=True) as reader:
        (found,) = reader.attempts(STAGES[0])
        assert (found.id, found.state, found.slot, found.host, found.pid) == (
            attempt,
            "running",
            "tcp://here",
            "node7",
            42,
        )
    ledger.fail(attempt, FailureClass.PHYSICS, "lost atoms", again=False, log_tail="last\nlines")
    (found,) = ledger.attempts(STAGES[0])
    assert (found.state, found.failure_class, found.message, found.log_tail) == (
        "failed",
        "physics",
        "lost atoms",
        "last\nlines",
    )
    assert ledger.failed()[STAGES[0]] == found


def test_a_transaction_is_all_or_nothing(ledger: Ledger) -> None:
    def write_and_fail() -> None:
        with ledger.transaction():
            ledger.begin([(STAGES[0], "slot", None)])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_and_fail()
    assert ledger.state(STAGES[0]) == "pending"
    assert ledger.attempts(STAGES[0]) == []


def test_reconcile_settles_only_what_was_running_and_costs_no_budget(ledger: Ledger, layout: Layout) -> None:
    done, lost, failed, _ = STAGES
    ledger.begin([(done, "a", None), (lost, "b", None)])
    (attempt,) = ledger.begin([(failed, "c", None)])
    ledger.fail(attempt, FailureClass.BAD_INPUT, "no", again=False)
    asked: list[str] = []

    def committed(stage_id: str) -> bool:
        asked.append(stage_id)
        return stage_id == done

    with Ledger.open(layout) as second:
        second.acquire(Holder.this_process())
        kept = Ending(wall_s=5.0, segments=2, steps=40)
        assert second.reconcile(committed, lambda *_: kept) == {"done": 1, "pending": 1}
        assert sorted(asked) == sorted([done, lost])
        assert [second.state(item) for item in STAGES] == ["done", "pending", "failed", "pending"]
        assert second.failures(lost)[FailureClass.LOST_WORKER] == 0
        record = second.attempts(lost)[0]
        assert record.failure_class == "lost worker"
        for record in (second.attempts(lost)[0], second.attempts(done)[0]):
            assert (record.segments, record.steps, record.wall_s) == (2, 40, 5.0)


def test_retry_forgives_and_touches_only_failed_stages(ledger: Ledger) -> None:
    first, second, *_ = STAGES
    for _ in range(3):
        (attempt,) = ledger.begin([(first, "slot", None)])
        ledger.fail(attempt, FailureClass.TIMEOUT, "silent", again=True)
    assert ledger.failures(first) == {"timeout": 3}
    (attempt,) = ledger.begin([(first, "slot", None)])
    ledger.fail(attempt, FailureClass.TIMEOUT, "silent", again=False)
    assert ledger.retry([first, second, "unknown"]) == [first]
    assert ledger.state(first) == "pending"
    assert ledger.failures(first) == {}
    assert len(ledger.attempts(first)) == 4


def test_speed_is_atom_steps_over_the_wall_time_of_what_was_committed(ledger: Ledger) -> None:
    first, second, third = ledger.begin([(stage_id, "slot", None) for stage_id in STAGES[:3]])
    ledger.commit(first, Ending(wall_s=1.0, segments=1, steps=100))
    assert ledger.speeds() == {("standin", "lj"): 10 * 100 / 1.0}
    ledger.progressed(second, Ending(wall_s=3.0, segments=2, steps=60))  # a pilot that goes on
    ledger.fail(third, FailureClass.TRANSIENT, "died at once", again=True, ending=Ending(wall_s=9.0))
    assert ledger.speeds() == {("standin", "lj"): 10 * 160 / 4.0}
    ledger.fail(second, FailureClass.LOST_WORKER, "its worker died", again=True)
    assert ledger.speeds() == {("standin", "lj"): 10 * 160 / 4.0}


def test_a_driver_that_lost_the_campaign_cannot_write(ledger: Ledger, layout: Layout) -> None:
    with Ledger.open(layout) as thief:
        thief.acquire(Holder.this_process())
        for write in (
            lambda: ledger.begin([(STAGES[0], "slot", None)]),
            lambda: ledger.register([]),
            lambda: ledger.retry([]),
            ledger.heartbeat,
        ):
            with pytest.raises(TakenOverError, match="does not hold the campaign") as raised:
                write()
            assert raised.value.exit_code == ExitCode.BUSY
        assert thief.attempts(STAGES[0]) == []


ELSEWHERE = Holder("node7", 42, "2026-01-01T00:00:00+00:00")


@pytest.mark.parametrize("jump", ["none", "2020-01-01T00:00:00.000+00:00", "2040-01-01T00:00:00.000+00:00"])
def test_a_living_driver_on_another_host_keeps_the_campaign(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, jump: str
) -> None:
    with Ledger.open(layout) as elsewhere, Ledger.open(layout) as here:
        elsewhere.acquire(ELSEWHERE)

        def beat(_: float) -> None:
            if jump != "none":  # its clock is years off, and it is alive all the same
                monkeypatch.setattr("campaign.ledger.file.utc_now", lambda: jump)
            elsewhere.heartbeat()

        with pytest.raises(BusyError, match="process 42 on node7 since 2026"):
            here.acquire(Holder.this_process(), wait=beat)
        elsewhere.release()
        assert here.acquire(Holder.this_process()) == 2


def test_a_silent_driver_on_another_host_loses_it_after_a_minute_of_silence(layout: Layout) -> None:
    with Ledger.open(layout) as elsewhere:
        elsewhere.acquire(ELSEWHERE)
    # What its clock said last is of no interest.
    with sqlite3.connect(layout.ledger) as connection:
        connection.execute("UPDATE epochs SET heartbeat = '2040-01-01T00:00:00+00:00'")
    waited = [0.0]

    def wait(seconds: float) -> None:
        waited[0] += seconds

    with Ledger.open(layout) as here:
        assert here.acquire(Holder.this_process(), wait=wait, clock=lambda: waited[0]) == 2
    assert 60 < waited[0] < 65


@pytest.mark.parametrize("read_only", [True, False])
def test_an_unknown_version_is_refused_and_left_alone(layout: Layout, *, read_only: bool) -> None:
    with sqlite3.connect(layout.ledger) as connection:
        connection.execute("CREATE TABLE future(x)")
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = layout.ledger.read_bytes()
    with pytest.raises(LedgerError, match="format 99"):
        Ledger.open(layout, read_only=read_only)
    assert layout.ledger.read_bytes() == before


def test_a_ledger_that_another_process_writes_is_busy_not_broken(
    layout: Layout, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = sqlite3.connect
    monkeypatch.setattr(
        sqlite3, "connect", lambda *names, **more: connect(*names, **{**more, "timeout": 0.1})
    )
    other = Ledger.open(layout)
    with connect(layout.ledger, isolation_level=None) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(BusyError, match="a driver writes the ledger; try again"):
            Ledger.open(layout, read_only=True)
        with pytest.raises(BusyError, match="a driver writes the ledger; try again"):
            other.acquire(Holder.this_process())
        writer.execute("ROLLBACK")
    assert ledger.counts() == {"pending": 4}


def test_what_is_no_ledger_is_refused_and_left_alone(layout: Layout) -> None:
    layout.ledger.write_bytes(b"not a database, but long enough to look at" * 100)
    before = layout.ledger.read_bytes()
    with pytest.raises(LedgerError, match="cannot be used"):
        Ledger.open(layout)
    assert layout.ledger.read_bytes() == before


def test_reading_needs_a_ledger(layout: Layout) -> None:
    with pytest.raises(LedgerError, match="no ledger"):
        Ledger.open(layout, read_only=True)
    assert not layout.ledger.exists()


def test_a_commit_cut_short_by_a_kill_is_rolled_back(ledger: Ledger, layout: Layout) -> None:
    """A kill in the middle of a commit leaves a hot journal; readers must not see the write."""
    script = f"""
import os, sqlite3
connection = sqlite3.connect({str(layout.ledger)!r}, isolation_level=None)
connection.execute("PRAGMA journal_mode = TRUNCATE")
connection.execute("PRAGMA cache_size = 1")
connection.execute("PRAGMA cache_spill = 1")
connection.execute("BEGIN IMMEDIATE")
connection.execute("UPDATE stages SET state = 'done'")
connection.execute("CREATE TABLE filler(x)")
for _ in range(200):
    connection.execute("INSERT INTO filler VALUES (randomblob(4000))")
os.kill(os.getpid(), 9)
"""
    assert subprocess.run((sys.executable, "-c", script), check=False).returncode == -9
    assert (layout.root / "ledger.sqlite-journal").stat().st_size > 0
    with Ledger.open(layout, read_only=True) as reader:
        assert reader.counts() == {"pending": 4}


def test_one_lock_holder_and_it_is_named(layout: Layout) -> None:
    assert current_holder(layout.lock) is None
    with DriverLock(layout.lock) as holder:
        assert current_holder(layout.lock) == holder
        with pytest.raises(
            BusyError, match=f"process {holder.pid} on {holder.host} since {holder.since[:10]}"
        ):
            DriverLock(layout.lock).acquire()
    assert current_holder(layout.lock) is None


def test_who_looks_whether_a_driver_lives_keeps_none_from_starting(layout: Layout) -> None:
    layout.lock.touch()
    with layout.lock.open() as looker:
        fcntl.flock(looker, fcntl.LOCK_SH)
        threading.Timer(0.2, looker.close).start()
        with DriverLock(layout.lock) as holder:
            assert current_holder(layout.lock) == holder


def test_a_file_system_without_locks_is_no_other_driver(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.raises(ResourceError, match="cannot lock files: No locks available"):
        DriverLock(layout.lock).acquire()
    assert current_holder(layout.lock) is None


class LedgerMachine(RuleBasedStateMachine):
    """The ledger against a dict: only the legal transitions happen, and each attempt ends once."""

    stage_ids = st.sampled_from(STAGES)

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.directory = Path(tempfile.mkdtemp())
        self.ledger = Ledger.open(Layout(self.directory))
        # Durability has its own test; without it a thousand transitions take a second instead of minutes.
        self.ledger._connection.execute("PRAGMA synchronous = OFF")
        self.ledger.acquire(Holder.this_process())
        self.ledger.register(map(stage, STAGES))
        self.states = dict.fromkeys(STAGES, "pending")
        self.running: dict[str, str] = {}
        self.attempts = dict.fromkeys(STAGES, 0)
        self.charged: dict[str, list[str]] = {item: [] for item in STAGES}

    def teardown(self) -> None:
        self.ledger.close()
        shutil.rmtree(self.directory)

    @rule(stage_id=stage_ids)
    def begin(self, stage_id: str) -> None:
        if self.states[stage_id] != "pending":
            with pytest.raises(LedgerError):
                self.ledger.begin([(stage_id, "slot", None)])
            return
        (attempt,) = self.ledger.begin([(stage_id, "slot", None)])
        self.states[stage_id], self.running[stage_id] = "running", attempt
        self.attempts[stage_id] += 1

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        stage_id = data.draw(st.sampled_from(sorted(self.running)))
        attempt = self.running.pop(stage_id)
        self.ledger.commit(attempt)
        self.states[stage_id] = "done"
        with pytest.raises(LedgerError):
            self.ledger.commit(attempt)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), again=st.booleans(), failure_class=st.sampled_from(FailureClass))
    def fail(self, data: st.DataObject, *, again: bool, failure_class: FailureClass) -> None:
        stage_id = data.draw(st.sampled_from(sorted(self.running)))
        attempt = self.running.pop(stage_id)
        self.ledger.fail(attempt, failure_class, "message", again=again)
        self.states[stage_id] = "pending" if again else "failed"
        if failure_class != FailureClass.CANCELLED:
            self.charged[stage_id].append(failure_class)
        with pytest.raises(LedgerError):
            self.ledger.fail(attempt, failure_class, "message", again=again)

    @rule(stage_id=stage_ids)
    def forget(self, stage_id: str) -> None:
        if self.states[stage_id] != "done":
            with pytest.raises(LedgerError):
                self.ledger.forget([stage_id])
            return
        self.ledger.forget([stage_id])
        self.states[stage_id] = "pending"

    @rule(stage_id=stage_ids)
    def retry(self, stage_id: str) -> None:
        failed = self.states[stage_id] == "failed"
        assert self.ledger.retry([stage_id]) == ([stage_id] if failed else [])
        if failed:
            self.states[stage_id], self.charged[stage_id] = "pending", []

    @rule(on_disk=st.sets(stage_ids))
    def new_driver(self, on_disk: set[str]) -> None:
        self.ledger.acquire(Holder.this_process())
        self.ledger.reconcile(on_disk.__contains__, lambda *_: Ending())
        for stage_id in self.running:
            self.states[stage_id] = "done" if stage_id in on_disk else "pending"
        self.running.clear()

    @invariant()
    def agrees(self) -> None:
        assert self.ledger.states() == self.states
        for stage_id in STAGES:
            found = self.ledger.attempts(stage_id)
            assert len(found) == self.attempts[stage_id]
            assert [item.id for item in found if item.state == "running"] == (
                [self.running[stage_id]] if stage_id in self.running else []
            )
            assert sorted(self.ledger.failures(stage_id).elements()) == sorted(self.charged[stage_id])


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
