"""Attempts on their way to slots and back: the only part of the driver that talks to Dask.

One task in a slot, placed by us; its result is taken and released at once, because a finished future on a
dying worker would be computed again.
"""

import contextlib
import logging
import queue
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from campaign.engines.base import Progress
from campaign.errors import FailureClass
from campaign.execution.cluster import Cluster, Kind, Slot
from campaign.execution.worker import AttemptOutcome, AttemptRequest, run_attempts
from campaign.ledger import Ending
from campaign.protocols.base import Stage

logger = logging.getLogger(__name__)

RESULT_TIMEOUT_S = 30.0
"""A finished result that cannot be fetched for so long was lost with its worker."""

MISSING_SLOT_S = 5.0
"""A task whose worker is gone for so long, without an answer, is lost."""


@dataclass
class Flight:
    """An attempt that was submitted.

    ``rate`` is the speed that was measured for its like, ``segments`` how many its stage has, and ``work``
    what it has committed of them itself.
    """

    attempt_id: str
    stage_id: str
    stage: Stage
    slot: Slot
    submitted: str
    rate: float | None = None
    started: str | None = None
    progress: Progress | None = None
    segments: int = 0
    work: Ending = field(default_factory=Ending)


@dataclass
class Ticket:
    """One Dask task: its future and the attempts that travel in it."""

    future: Any
    slot: Slot
    flights: tuple[Flight, ...]
    missing_since: float | None = None


Ended = tuple[Flight, AttemptOutcome]
"""An attempt that is no longer in flight, and how it ended."""


class Dispatcher:
    """Slots of a cluster and the tasks on them."""

    def __init__(
        self, cluster: Cluster, root: Path, *, threads_of: Callable[[Kind], int], segment_s: float
    ) -> None:
        self._cluster = cluster
        self._root = root
        self._threads_of = threads_of
        self._segment_s = segment_s
        self._slots = cluster.slots()
        self._tickets: dict[str, Ticket] = {}
        self._lost: list[tuple[Ticket, float]] = []
        self._ended: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def __bool__(self) -> bool:
        """Whether anything is in flight."""
        return bool(self._tickets or self._lost)

    @property
    def flights(self) -> Iterator[Flight]:
        """All attempts in flight, and those whose end is not explained yet."""
        return (flight for ticket in self._open() for flight in ticket.flights)

    def _open(self) -> list[Ticket]:
        return [*self._tickets.values(), *(ticket for ticket, _ in self._lost)]

    @property
    def number_of_slots(self) -> int:
        """Slots that are alive, busy or free."""
        return len(self._slots)

    def free_slots(self) -> dict[Kind, list[Slot]]:
        """Slots without a task whose time is enough for a segment, by kind."""
        busy = self._busy()
        free: dict[Kind, list[Slot]] = {}
        for address in sorted(self._slots.keys() - busy):
            slot = self._slots[address]
            if slot.left_s() >= self._segment_s:
                free.setdefault(slot.kind, []).append(slot)
        return free

    def _busy(self) -> set[str]:
        return {ticket.slot.address for ticket in self._tickets.values()}

    def request(self, ready: Mapping[Kind, int]) -> Mapping[str, str]:
        """Ask for slots for what is ready, besides those in use; return what cannot be had, and why."""
        wanted = Counter(ready)
        # What was lost will want another slot, whatever SLURM says of the old one.
        wanted.update(ticket.slot.kind for ticket in self._open())
        return self._cluster.request(wanted, self._busy())

    def picture(self) -> Mapping[str, Any]:
        """Describe the cluster, for the status."""
        return self._cluster.picture()

    def submit(self, flights: Sequence[Flight]) -> None:
        """Send attempts, which share a slot, as one task; the first one's id is its key."""
        slot = flights[0].slot
        requests = [
            AttemptRequest(
                self._root,
                item.attempt_id,
                item.stage,
                threads=self._threads_of(slot.kind),
                segment_s=self._segment_s,
                rate=item.rate,
            )
            for item in flights
        ]
        future = self._cluster.client.submit(
            run_attempts,
            requests,
            key=flights[0].attempt_id,
            workers=[slot.address],
            allow_other_workers=False,
            pure=False,
            retries=0,
        )
        self._tickets[future.key] = Ticket(future, slot, tuple(flights))
        future.add_done_callback(lambda done: self._ended.put(done.key))

    def wake(self) -> None:
        """End a `wait`; may be called in a signal handler."""
        self._ended.put(None)

    def collect(self, timeout_s: float) -> list[Ended]:
        """Wait until something ends, at most ``timeout_s``; return what ended, no longer in flight."""
        keys: list[str | None] = []
        with contextlib.suppress(queue.Empty):
            keys.append(self._ended.get(timeout=max(0.0, timeout_s)))
            while True:
                keys.append(self._ended.get_nowait())
        ended: list[Ended] = []
        for key in keys:
            if key is not None and key in self._tickets:
                ended += self._end(self._tickets.pop(key))
        lost, self._lost = self._lost, []
        for ticket, since in lost:
            ended += self._explain(ticket, since)
        return ended

    def _end(self, ticket: Ticket) -> list[Ended]:
        """Take the outcomes of a task; those of a lost worker are told when it is known why it was lost."""
        from distributed import CancelledError, KilledWorker  # takes a second

        try:
            outcomes: list[AttemptOutcome] = ticket.future.result(timeout=RESULT_TIMEOUT_S)
        except (KilledWorker, CancelledError, TimeoutError) as error:
            logger.warning("worker %s was lost (%s)", ticket.slot.address, type(error).__name__)
            self._slots = {key: slot for key, slot in self._slots.items() if key != ticket.slot.address}
            return self._explain(ticket, time.monotonic())
        except Exception as error:
            logger.exception("task %s ended without an outcome", ticket.future.key)
            message = f"{type(error).__name__}: {error}"
            return [(flight, failure(flight, FailureClass.INTERNAL, message)) for flight in ticket.flights]
        finally:
            ticket.future.release()
        return list(zip(ticket.flights, outcomes, strict=True))

    def _explain(self, ticket: Ticket, since: float) -> list[Ended]:
        loss = self._cluster.why_lost(ticket.slot, since)
        if loss is None:
            self._lost.append((ticket, since))
            return []
        return [(flight, failure(flight, loss.failure_class, loss.message)) for flight in ticket.flights]

    def refresh(self) -> None:
        """Look which workers are alive.

        They come back at new addresses, and a task for a dead one would wait for ever.

        Raises
        ------
        ResourceError
            No worker is left, and none will come.
        """
        now = time.monotonic()
        self._slots = self._cluster.slots()
        for key, ticket in self._tickets.items():
            if ticket.slot.address in self._slots or ticket.future.done():
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
