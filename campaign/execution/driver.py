"""The loop that drives a campaign: it owns the ledger, the slots and the store, and trusts nothing else.

It can die at any moment. What is committed on disk stays; what was in flight is settled by the next start
(`campaign.execution.settle`).
"""

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from campaign.errors import FailureClass, LedgerError, ResourceError
from campaign.execution.commit import is_committed
from campaign.execution.dispatch import Dispatcher, Flight, failure
from campaign.execution.lock import DriverLock
from campaign.execution.looks import Looks
from campaign.execution.place import Place
from campaign.execution.requests import (
    HANDED_OVER,
    HANDING_OVER,
    RUNNING,
    STOPPING,
    Request,
    read_requests,
)
from campaign.execution.result_rows import ResultRows
from campaign.execution.schedule import (
    BUDGETS,
    Schedule,
    conditions_of,
    endings_of,
    speed_key,
    time_left_s,
)
from campaign.execution.segments import SEGMENT_S, work_of
from campaign.execution.settle import retry, settle_the_past
from campaign.execution.snapshot import RunBoard, failure_entry, running_entry, snapshot, write_snapshot
from campaign.execution.worker import STOP, AttemptOutcome
from campaign.layout import Layout, write_atomic
from campaign.ledger import Holder, Ledger, utc_now
from campaign.plan import Plan
from campaign.plan_file import save_plan
from campaign.protocols.base import Stage
from campaign.site import NamedSite
from campaign.store.reader import check_format

logger = logging.getLogger(__name__)

TICK_S = 1.0
HEARTBEAT_S = 10.0
UNREAD_AT_ONCE = 200
"""Results that are read between two heartbeats: some seconds on a slow disk."""

STOP_GRACE_S = 15.0
"""How long running attempts have to end after a stop request before their workers are ended."""

HANDOVER_GRACE_S = 60.0
"""The same where another driver goes on, which has all the time there is."""

SnapshotWatcher = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class DriverResult:
    """How a campaign was left: runs by state for each calculation, and what was held back and why.

    ``handed_over``: it was interrupted for a driver that follows, to which all jobs were left.
    """

    counts: Mapping[str, Mapping[str, int]]
    interrupted: bool
    held: Mapping[str, str]
    handed_over: bool = False

    @property
    def failed(self) -> int:
        """Number of failed runs."""
        return sum(counts["failed"] for counts in self.counts.values())


def run_campaign(
    root: Path,
    plan: Plan,
    stages: Mapping[str, Stage],
    *,
    spec_text: str | None = None,
    workers: int | None = None,
    threads: int = 1,
    segment_s: float = SEGMENT_S,
    site: NamedSite | None = None,
    successor: Callable[[], str | None] | None = None,
    on_snapshot: SnapshotWatcher | None = None,
) -> DriverResult:
    """Run what is missing of a plan in its directory, until nothing can be done or somebody asks to stop.

    Parameters
    ----------
    root
        Directory of the campaign.
    plan, stages
        As `campaign.plan.make_plan` gives them.
    spec_text
        Text of the spec, kept as ``spec.yaml``.
    workers
        Attempts at a time; None for as many as the cores hold.
    threads
        Threads of an engine in one attempt.
    segment_s
        Time between two checkpoints of a long stage: the most of a run that can be lost.
    site
        A cluster on which attempts run; it decides on ``workers`` and ``threads``. None for this machine.
    successor
        Given to a driver that others follow: the job of the next one, if it has one by now. At SIGTERM, or
        when the next one asks, all jobs are left to it.
    on_snapshot
        Called about every second with what ``status.json`` holds.

    Raises
    ------
    BusyError
        Another driver holds the campaign.
    LedgerError
        The ledger cannot be used, or another driver took the campaign over.
    StoreError
        The store cannot be used.
    ResourceError
        No worker starts, or SLURM does not answer.
    """
    layout = Layout(root.resolve())
    layout.root.mkdir(parents=True, exist_ok=True)
    with DriverLock(layout.lock) as holder, Ledger.open(layout) as ledger:
        if (layout.store / "zarr.json").exists():
            check_format(layout.store)  # before anything is written
        # What comes later, also while this one waits for the lease, is for the loop and not for the past.
        waiting = read_requests(layout)
        ledger.acquire(holder)
        for directory in (layout.stages, layout.attempts, layout.requests):
            directory.mkdir(exist_ok=True)
        if spec_text is not None:
            write_atomic(layout.spec, spec_text)
        save_plan(plan, layout.plan)
        place = Place(workers, threads, segment_s, site)
        driver = _Driver(
            layout,
            plan,
            stages,
            ledger,
            holder=holder,
            waiting=waiting,
            place=place,
            successor=successor,
            on_snapshot=on_snapshot,
        )
        try:
            return driver.run()
        finally:
            with contextlib.suppress(LedgerError, ResourceError):  # another driver's by now, or a full disk
                ledger.release()


class _Driver:
    def __init__(
        self,
        layout: Layout,
        plan: Plan,
        stages: Mapping[str, Stage],
        ledger: Ledger,
        *,
        holder: Holder,
        waiting: Sequence[Request],
        place: Place,
        successor: Callable[[], str | None] | None,
        on_snapshot: SnapshotWatcher | None,
    ) -> None:
        self._layout = layout
        self._plan = plan
        self._stages = stages
        self._ledger = ledger
        self._holder = holder
        self._where = place
        self._on_snapshot = on_snapshot

        self._dispatcher: Dispatcher | None = None
        self._successor, self._handing_over = successor, False
        self._stop_signals = 0
        self._stopping_since: float | None = None
        self._last_tick = self._last_heartbeat = -float("inf")

        past = settle_the_past(layout, plan, ledger, waiting)
        self._unread = past.unread
        self._out_of_memory = ledger.counted(FailureClass.OUT_OF_MEMORY)
        self._schedule = Schedule(
            plan.stages,
            past.states,
            conditions_of(plan),
            lambda stage: place.kind_of(stage, self._out_of_memory[stage.id]),
        )
        self._board = RunBoard(plan, self._schedule.states)
        self._looks = Looks(layout, ledger)
        self._results = ResultRows(layout, plan, self._board)
        self._failed = {
            stage_id: failure_entry(self._board, attempt)
            for stage_id, attempt in ledger.failed().items()
            if stage_id in plan.stages
        }
        if self._failed:
            self._schedule.remember(endings_of(plan, ledger))
        for stage_id in past.again:  # whoever wants these tried again wants their conditions released
            self._schedule.forgive(stage_id)
        self._schedule.exempt(past.exempt)
        self._speeds = dict(ledger.speeds())

    # The loop

    def run(self) -> DriverResult:
        """Drive until nothing can be done any more, or until asked to stop."""
        finished = False
        with self._signals():
            self._read_unread()
            self._show(RUNNING)
            try:
                while self._schedule.has_ready() and not self._stop_signals:
                    epoch = self._ledger.epoch or 0
                    with self._where.open(self._layout, self._plan.campaign, epoch) as cluster:
                        self._dispatcher = Dispatcher(
                            cluster,
                            self._layout.root,
                            threads_of=self._where.threads_of,
                            segment_s=self._where.segment_s,
                        )
                        self._loop(self._dispatcher)
                        if self._handing_over:
                            cluster.leave()
                        elif self._dispatcher:  # what did not end when it was asked to
                            self._dispatcher.kill()
                    self._apply_requests(over=True)
                self._results.flush()
                finished = not self._stop_signals
            finally:
                # Fails if the campaign is another driver's by now: then nothing of it is ours to write.
                self._abandon()
                self._show("finished" if finished else HANDED_OVER if self._handing_over else "stopped")
        return DriverResult(
            self._board.counts(), self._stop_signals > 0, dict(self._schedule.held), self._handing_over
        )

    def _read_unread(self) -> None:
        """Put what the store lacks into it, with a sign of life now and then."""
        for start in range(0, len(self._unread), UNREAD_AT_ONCE):
            self._results.append(self._unread[start : start + UNREAD_AT_ONCE])
            self._ledger.heartbeat()

    def _loop(self, dispatcher: Dispatcher) -> None:
        while True:
            self._tick(dispatcher)
            if self._stop_signals and self._stopping_since is None:
                self._stopping_since = time.monotonic()
                logger.info("stopping: running attempts are asked to end")
                self._ask_to_stop(dispatcher)
                self._show(self._state)
            if self._stopping_since is not None:
                grace_s = HANDOVER_GRACE_S if self._handing_over else STOP_GRACE_S
                overdue = time.monotonic() - self._stopping_since > grace_s
                if not dispatcher or overdue or self._stop_signals > 1:
                    return
            else:
                self._place(dispatcher)
                if not dispatcher and not self._schedule.has_ready():
                    return
            self._collect(dispatcher)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """First Ctrl-C: stop and keep what is finished. Second: at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def on_signal(number: int, _: object) -> None:
            # SIGTERM: so SLURM tells a job that its time is over.
            follows = self._successor is not None and self._successor() is not None
            self._stop(hand_over=number == signal.SIGTERM and follows)
            self._stop_signals += 1
            if self._dispatcher is not None:
                self._dispatcher.wake()

        stops = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
            stops.append(signal.SIGHUP)
        before = {number: signal.signal(number, on_signal) for number in stops}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, *, hand_over: bool) -> None:
        """Take note of a wish to end; a wish to hand over is nothing against one to stop."""
        if not hand_over:
            self._handing_over = False
        elif not self._stop_signals:
            self._handing_over = True

    def _ask_to_stop(self, dispatcher: Dispatcher) -> None:
        for flight in dispatcher.flights:
            self._ask_to_end(flight)

    # Placing work and recording how it ended

    def _place(self, dispatcher: Dispatcher) -> None:
        batches = [
            pair
            for kind, free in dispatcher.free_slots().items()
            for pair in zip(self._schedule.take(len(free), kind), free, strict=False)
        ]
        if not batches:
            return
        # Intent before act: the attempts are on record before anything can run.
        attempt_ids = iter(
            self._ledger.begin(
                (stage_id, slot.address, slot.job) for batch, slot in batches for stage_id in batch
            )
        )
        now = utc_now()
        placed = [self._plan.stages[item] for batch, _ in batches for item in batch]
        if any(stage.engine is not None and speed_key(stage) not in self._speeds for stage in placed):
            self._speeds = dict(self._ledger.speeds())  # a stage before it may have just measured it
        for batch, slot in batches:
            dispatcher.submit(
                [
                    Flight(
                        next(attempt_ids),
                        item,
                        self._stages[item],
                        slot,
                        now,
                        rate=self._speeds.get(speed_key(self._plan.stages[item])),
                    )
                    for item in batch
                ]
            )
            for stage_id in batch:
                self._board.update(stage_id)

    def _collect(self, dispatcher: Dispatcher) -> None:
        """Wait for what ends, at most until the next tick, and record all of it in one commit."""
        ended = dispatcher.collect(self._last_tick + TICK_S - time.monotonic())
        if not ended:
            return
        with self._ledger.transaction():
            done = [flight.stage_id for flight, outcome in ended if self._record(flight, outcome)]
        self._results.append(done)

    def _record(self, flight: Flight, outcome: AttemptOutcome) -> bool:
        """Write an outcome to the ledger and act on it; return whether the stage is done."""
        stage_id = flight.stage_id
        if outcome.status == "refused":  # it ran before, and what became of it there nobody told
            outcome = failure(flight, FailureClass.LOST_WORKER, outcome.message)
        # The disk is right: the stage may be committed although its attempt could not say so.
        done = outcome.status != "failed" or is_committed(self._layout, stage_id)
        if done:
            self._ledger.commit(flight.attempt_id, outcome.ending)
            self._schedule.done(stage_id)
        else:
            self._record_failure(flight, outcome)
        self._board.update(stage_id)
        return done

    def _record_failure(self, flight: Flight, outcome: AttemptOutcome) -> None:
        stage_id, failure_class = flight.stage_id, outcome.failure_class or FailureClass.INTERNAL
        if outcome.ending.host is None:  # it could not speak for itself: a copy that lives on shall end
            self._ask_to_end(flight)
        outcome = self._with_segments(flight, outcome)
        if failure_class == FailureClass.ENGINE_NOT_FOUND:
            # Not the stage's fault: it waits, with all that need this engine, for a start that finds it.
            again, counted = True, False
            self._schedule.hold(f"engine {flight.stage.engine}", outcome.message)
        elif failure_class == FailureClass.CANCELLED:
            again, counted = True, False
        else:
            # One that came further is not the one that fails again and again: it spends nothing.
            budget = BUDGETS[failure_class]
            counted = not (budget and outcome.ending.segments)
            again = not counted or self._ledger.failures(stage_id)[failure_class] < budget
        self._ledger.fail(
            flight.attempt_id,
            failure_class,
            outcome.message,
            again=again,
            counted=counted,
            log_tail=outcome.log_tail,
            ending=outcome.ending,
        )
        if failure_class == FailureClass.OUT_OF_MEMORY and counted:
            self._out_of_memory[stage_id] += 1
        logger.warning("attempt %s: %s: %s", flight.attempt_id, failure_class, outcome.message)
        if again:
            self._schedule.again(stage_id)
        else:
            self._schedule.failed(stage_id, failure_class)
            self._failed[stage_id] = failure_entry(self._board, self._ledger.attempts(stage_id)[-1])

    def _ask_to_end(self, flight: Flight) -> None:
        with contextlib.suppress(OSError):  # not begun, or ended meanwhile
            (self._layout.attempt(flight.attempt_id) / STOP).touch()

    def _with_segments(self, flight: Flight, outcome: AttemptOutcome) -> AttemptOutcome:
        """Add what an attempt committed that could not say so itself: the disk is right."""
        work = work_of(self._layout, flight.stage_id, flight.attempt_id)
        wall_s = outcome.ending.wall_s or work.wall_s
        return replace(
            outcome,
            ending=replace(outcome.ending, wall_s=wall_s, segments=work.segments, steps=work.steps),
        )

    def _abandon(self) -> None:
        """Settle what is in flight once no worker is left: committed after all, or cancelled."""
        with self._ledger.transaction():
            for flight in self._flights():
                self._record(flight, failure(flight, FailureClass.CANCELLED, "the driver ended"))

    # Every second

    def _tick(self, dispatcher: Dispatcher) -> None:
        now = time.monotonic()
        if now - self._last_tick < TICK_S:
            return
        self._last_tick = now
        if now - self._last_heartbeat > HEARTBEAT_S:
            self._ledger.heartbeat()
            self._speeds = dict(self._ledger.speeds())
            self._last_heartbeat = now
        self._apply_requests()
        if not self._handing_over:  # else all jobs, also those that wait, are the next driver's
            # Nothing more where everything is being stopped.
            ready = self._schedule.ready() if self._stopping_since is None else {}
            for resource, reason in dispatcher.request(ready).items():
                self._schedule.hold(f"resource {resource}", reason)
        dispatcher.refresh()  # after it: a job that was let go has no slots any more
        self._looks.look(dispatcher.flights)
        if self._stopping_since is not None:
            self._ask_to_stop(dispatcher)
        self._show(self._state)

    def _apply_requests(self, *, over: bool = False) -> None:
        """Do what others ask for; once all is ``over``, only what there is to do again."""
        try:
            requests = read_requests(self._layout)
        except OSError as error:
            logger.warning("requests cannot be read now: %s", error)
            return
        for request in requests:
            if over and request.kind != "retry":
                continue
            if request.kind == "stop" or (request.kind == "handover" and self._successor is not None):
                self._stop(hand_over=request.kind == "handover")
                self._stop_signals = max(self._stop_signals, 1)
            elif request.kind == "retry":
                again = retry(self._layout, self._ledger, request.payload.get("stages", ()))
                ours = [stage_id for stage_id in again if stage_id in self._stages]
                self._schedule.retry(ours)
                self._schedule.exempt(request.payload.get("held", ()))
                for stage_id in ours:
                    self._failed.pop(stage_id, None)
                    self._board.update(stage_id)
            with contextlib.suppress(OSError):  # it is applied once more, which changes nothing
                request.path.unlink(missing_ok=True)

    # What others see

    @property
    def _state(self) -> str:
        if self._stopping_since is None:
            return RUNNING
        return HANDING_OVER if self._handing_over else STOPPING

    def _show(self, state: str) -> None:
        done = state in {"stopped", "finished", HANDED_OVER}
        flights = [] if done else self._flights()
        picture = snapshot(
            self._plan.campaign,
            driver={
                "pid": self._holder.pid,
                "host": self._holder.host,
                "epoch": self._ledger.epoch,
                "state": state,
                "site": None if self._where.site is None else self._where.site.argument,
                "job": os.environ.get("SLURM_JOB_ID"),
                "detached": self._successor is not None,
            },
            started=self._holder.since,
            board=self._board,
            running={flight.stage_id: running_entry(self._board, flight) for flight in flights},
            failed=self._failed,
            held=self._schedule.held,
            cluster={} if done or self._dispatcher is None else self._dispatcher.picture(),
            time_left_s=self._time_left_s(flights),
        )
        try:
            write_snapshot(self._layout, picture)
        except OSError as error:  # the next picture may be written
            logger.warning("status.json cannot be written now: %s", error)
        if self._on_snapshot is not None:
            try:
                self._on_snapshot(picture)
            except OSError:  # who watched has gone: a closed terminal or pipe
                logger.warning("nobody watches any more: stopping")
                self._on_snapshot = None
                self._stop_signals = max(self._stop_signals, 1)

    def _flights(self) -> list[Flight]:
        return [] if self._dispatcher is None else list(self._dispatcher.flights)

    def _time_left_s(self, flights: Iterable[Flight]) -> float | None:
        remaining = self._schedule.remaining()
        rates: dict[tuple[str, str | None], list[float]] = {}
        for flight in flights:
            if flight.progress is not None:
                key = speed_key(self._plan.stages[flight.stage_id])
                remaining[key] -= flight.stage.atoms * flight.progress.steps_done
                if flight.progress.rate:
                    rates.setdefault(key, []).append(flight.progress.rate)
        speeds = {**self._speeds, **{key: sum(found) / len(found) for key, found in rates.items()}}
        slots = 1 if self._dispatcher is None else self._dispatcher.number_of_slots
        return time_left_s(remaining, speeds, slots)
