"""Attempts on their way to slots and back: the only part of the driver that talks to Dask.

One task in a slot, placed by us; its result is taken and released at once, because a finished future on a
dying worker would be computed again.
"""

import contextlib
import logging
import queue
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from campaign.engines.base import Progress
from campaign.errors import FailureClass, ResourceError
from campaign.execution.cluster import Cluster
from campaign.execution.worker import AttemptOutcome, AttemptRequest, run_attempts
from campaign.ledger import Ending
from campaign.protocols.base import Stage

logger = logging.getLogger(__name__)

RESULT_TIMEOUT_S = 30.0
"""A finished result that cannot be fetched for so long was lost with its worker."""

MISSING_SLOT_S = 5.0
"""A task whose worker is gone for so long, without an answer, is lost."""

NO_SLOT_S = 120.0
"""Without any worker for so long there will be none."""


@dataclass
class Flight:
    """An attempt that was submitted.

    ``rate`` is the speed that was measured for its like, ``segments`` how many it has committed.
    """

    attempt_id: str
    stage_id: str
    stage: Stage
    slot: str
    submitted: str
    rate: float | None = None
    started: str | None = None
    progress: Progress | None = None
    segments: int = 0


@dataclass
class Ticket:
    """One Dask task: its future and the attempts that travel in it."""

    future: Any
    slot: str
    flights: tuple[Flight, ...]
    missing_since: float | None = None


class Dispatcher:
    """Slots of a cluster and the tasks on them."""

    def __init__(self, cluster: Cluster, root: Path, threads: int, segment_s: float) -> None:
        self._cluster = cluster
        self._root = root
        self._threads = threads
        self._segment_s = segment_s
        self._slots = set(cluster.slots())
        self._tickets: dict[str, Ticket] = {}
        self._ended: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._last_slot = time.monotonic()

    def __bool__(self) -> bool:
        """Whether anything is in flight."""
        return bool(self._tickets)

    @property
    def flights(self) -> Iterator[Flight]:
        """All attempts in flight."""
        return (flight for ticket in self._tickets.values() for flight in ticket.flights)

    @property
    def number_of_slots(self) -> int:
        """Slots that are alive, busy or free."""
        return len(self._slots)

    def free_slots(self) -> list[str]:
        """Slots without a task."""
        return sorted(self._slots - {ticket.slot for ticket in self._tickets.values()})

    def submit(self, flights: Sequence[Flight]) -> None:
        """Send attempts, which share a slot, as one task; the first one's id is its key."""
        slot = flights[0].slot
        requests = [
            AttemptRequest(
                self._root,
                item.attempt_id,
                item.stage,
                threads=self._threads,
                segment_s=self._segment_s,
                rate=item.rate,
            )
            for item in flights
        ]
        future = self._cluster.client.submit(
            run_attempts,
            requests,
            key=flights[0].attempt_id,
            workers=[slot],
            allow_other_workers=False,
            pure=False,
            retries=0,
        )
        self._tickets[future.key] = Ticket(future, slot, tuple(flights))
        future.add_done_callback(lambda done: self._ended.put(done.key))

    def wake(self) -> None:
        """End a `wait`; may be called in a signal handler."""
        self._ended.put(None)

    def wait(self, timeout_s: float) -> list[Ticket]:
        """Wait until something ends, at most ``timeout_s``; return what ended, no longer in flight."""
        keys: list[str | None] = []
        with contextlib.suppress(queue.Empty):
            keys.append(self._ended.get(timeout=max(0.0, timeout_s)))
            while True:
                keys.append(self._ended.get_nowait())
        return [self._tickets.pop(key) for key in keys if key is not None and key in self._tickets]

    def outcomes(self, ticket: Ticket) -> list[AttemptOutcome]:
        """Take the outcomes of a task; a lost worker's are failures of that class."""
        from distributed import CancelledError, KilledWorker  # takes a second

        try:
            outcomes: list[AttemptOutcome] = ticket.future.result(timeout=RESULT_TIMEOUT_S)
        except (KilledWorker, CancelledError, TimeoutError) as error:
            self._slots.discard(ticket.slot)
            logger.warning("worker %s was lost (%s)", ticket.slot, type(error).__name__)
            failure_class, message = FailureClass.LOST_WORKER, "the worker process died"
        except Exception as error:
            logger.exception("task %s ended without an outcome", ticket.future.key)
            failure_class, message = FailureClass.INTERNAL, f"{type(error).__name__}: {error}"
        else:
            return outcomes
        finally:
            ticket.future.release()
        return [failure(flight, failure_class, message) for flight in ticket.flights]

    def refresh(self) -> None:
        """Look which workers are alive.

        They come back at new addresses, and a task for a dead one would wait for ever.

        Raises
        ------
        ResourceError
            No worker is left, and none came back.
        """
        now = time.monotonic()
        self._slots = set(self._cluster.slots())
        if self._slots:
            self._last_slot = now
        elif now - self._last_slot > NO_SLOT_S:
            raise ResourceError("no worker process is left, and none came back")
        for key, ticket in self._tickets.items():
            if ticket.slot in self._slots or ticket.future.done():
                ticket.missing_since = None
            elif ticket.missing_since is None:
                ticket.missing_since = now
            elif now - ticket.missing_since > MISSING_SLOT_S:
                ticket.future.cancel()
                self._ended.put(key)

    def kill(self) -> None:
        """End all workers at once, and with them their engines."""
        self._cluster.kill()


def failure(flight: Flight, failure_class: FailureClass, message: str) -> AttemptOutcome:
    """Outcome of an attempt that told nothing itself."""
    return AttemptOutcome(
        flight.attempt_id,
        flight.stage_id,
        "failed",
        Ending(),
        failure_class=failure_class,
        message=message,
    )
