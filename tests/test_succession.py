"""Care for the job of a driver's successor, with a queue that only notes what it is asked."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from campaign.errors import ResourceError
from campaign.execution import detached
from campaign.execution.detached import DriverJobs, Succession
from tests.standin_campaign import wait_for


class NotingQueue:
    """Stands in for `DriverJobs`."""

    def __init__(self, walltime_s: float) -> None:
        self.ids: list[str] = []
        self.calls: list[tuple[str, str | None]] = []
        self.resource = "driver"
        resources = {"driver": SimpleNamespace(walltime_s=walltime_s)}
        self.site = SimpleNamespace(site=SimpleNamespace(resources=resources))
        self.silent = 0

    def submit(self, after: str | None = None) -> str:
        if self.silent:
            self.silent -= 1
            raise ResourceError("SLURM does not answer")
        self.ids.append(str(2 + sum(call == "submit" for call, _ in self.calls)))
        self.calls.append(("submit", after))
        return self.ids[-1]

    def let_start(self, job_id: str) -> None:
        self.calls.append(("let start", job_id))

    def cancel(self, job_id: str) -> None:
        self.calls.append(("cancel", job_id))


@contextmanager
def succession(queue: NotingQueue) -> Iterator[Succession]:
    care = Succession(cast("DriverJobs", cast("Any", queue)), "1")
    try:
        yield care
    finally:
        care.end(needed=True)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("SETTLED_S", "ASK_AGAIN_S", "LOOK_EVERY_S"):
        monkeypatch.setattr(detached, name, 0.01)


def test_a_successor_waits_for_the_end_of_the_driver_and_goes_when_it_is_not_needed() -> None:
    queue = NotingQueue(walltime_s=1000)
    queue.silent = 2
    with succession(queue) as care:
        wait_for(lambda: care.successor() == "2", seconds=20)
        care.end(needed=False)
    assert queue.calls == [("submit", "1"), ("cancel", "2")]


def test_a_successor_that_somebody_cancelled_is_replaced() -> None:
    queue = NotingQueue(walltime_s=1000)
    with succession(queue) as care:
        wait_for(lambda: care.successor() == "2", seconds=20)
        queue.ids.clear()
        wait_for(lambda: care.successor() == "3", seconds=20)
    assert queue.calls == [("submit", "1"), ("submit", "1")]


def test_before_the_walltime_it_is_let_start_once_and_replaced_by_one_that_may() -> None:
    queue = NotingQueue(walltime_s=0.02)
    with succession(queue) as care:
        wait_for(lambda: ("let start", "2") in queue.calls or ("submit", None) in queue.calls, seconds=20)
        queue.ids.clear()
        wait_for(lambda: care.successor() == "3", seconds=20)
    assert queue.calls[-1] == ("submit", None)
    assert sum(call == "let start" for call, _ in queue.calls) <= 1
