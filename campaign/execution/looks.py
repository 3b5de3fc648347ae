"""Looks at attempts in flight: how far their engines are, where they run, what they have committed."""

import contextlib
import json
import time
from collections.abc import Iterable

from campaign.engines.base import get_engine
from campaign.execution.dispatch import Flight
from campaign.execution.segments import WORK, committed_segments, work_in
from campaign.execution.worker import STARTED
from campaign.layout import Layout
from campaign.ledger import Ledger

LOOK_SHARE = 0.2
"""Share of a driver's time that looks may take: each opens files, slowly on a network (docs/scale.md)."""


class Looks:
    """Keeps flights, and the ledger, up to date with what lies in the directories of their attempts."""

    def __init__(self, layout: Layout, ledger: Ledger) -> None:
        self._layout = layout
        self._ledger = ledger
        self._again = -float("inf")

    def look(self, flights: Iterable[Flight]) -> None:
        """Look at all of them, unless the last look took so long that it is too early."""
        began = time.monotonic()
        if began < self._again:
            return
        self._look(flights)
        self._again = began + (time.monotonic() - began) / LOOK_SHARE

    def _look(self, flights: Iterable[Flight]) -> None:
        started, came_further = [], []
        for flight in flights:
            if flight.stage.engine is None:
                continue
            directory = self._layout.attempt(flight.attempt_id)
            with contextlib.suppress(OSError, ValueError):  # the attempt may end while we look
                if flight.started is None:
                    facts = json.loads((directory / STARTED).read_text())
                    flight.started = facts["started"]
                    started.append((flight.attempt_id, facts))
                flight.progress = (
                    get_engine(flight.stage.engine).progress(directory / WORK) or flight.progress
                )
                if self._count_segments(flight):
                    came_further.append(flight)
        if started or came_further:
            with self._ledger.transaction():
                for attempt_id, facts in started:
                    self._ledger.started(attempt_id, facts["host"], facts["pid"], facts["started"])
                for flight in came_further:
                    self._ledger.progressed(flight.attempt_id, flight.work)

    def _count_segments(self, flight: Flight) -> bool:
        """Look for segments that the stage did not have before; whether there are any."""
        new = committed_segments(self._layout, flight.stage_id, after=flight.segments)
        flight.segments += len(new)
        flight.work = work_in(new, flight.attempt_id, flight.work)
        return bool(new)
