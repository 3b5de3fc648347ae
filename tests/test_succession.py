"""Care for the job of a driver's successor, with a queue that only notes what it is asked."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from campaign.cli import detach
from campaign.errors import BusyError, LedgerError, ResourceError
from campaign.execution import detached
from campaign.execution.detached import DriverJobs, Succession
from campaign.execution.requests import driver_job, read_requests
from campaign.layout import Layout
from campaign.site import NamedSite, Resource, Site
from tests.standin_campaign import wait_for, write_spec

ROOT = Path(__file__).parent.parent
SITE = Site(
    scheduler="slurm",
    resources={"cpu": Resource(walltime="1:00:00", memory_GB=1)},
    stages={"default": "cpu"},
    driver="cpu",
)


class NotingQueue:
    """Stands in for `DriverJobs`."""

    def __init__(self, walltime_s: float) -> None:
        self.ids: list[str] = []
        self.calls: list[tuple[str, str | None]] = []
        self.resource = "driver"
        resources = {"driver": SimpleNamespace(walltime_s=walltime_s)}
        self.site = SimpleNamespace(site=SimpleNamespace(resources=resources))
        self.silent = 0
        self.error: Exception = ResourceError("SLURM does not answer")
        self.waiting: list[str] = []

    def note(self, job_id: str) -> None:
        self.calls.append(("note", job_id))

    def submit(self, after: str | None = None) -> str:
        if self.silent:
            self.silent -= 1
            raise self.error
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


@pytest.mark.parametrize("error", [ResourceError("SLURM does not answer"), OSError(28, "No space left")])
def test_a_successor_waits_for_the_end_of_the_driver_and_goes_when_it_is_not_needed(error: Exception) -> None:
    queue = NotingQueue(walltime_s=1000)
    queue.silent, queue.error = 2, error
    with succession(queue) as care:
        wait_for(lambda: care.successor() == "2", seconds=20)
        care.end(needed=False)
    assert queue.calls == [("submit", "1"), ("cancel", "2")]


def test_a_successor_that_slurm_took_without_an_answer_is_the_one() -> None:
    queue = NotingQueue(walltime_s=1000)
    queue.waiting, queue.ids = ["7"], ["7"]
    with succession(queue) as care:
        wait_for(lambda: care.successor() == "7", seconds=20)
        time.sleep(0.1)
    assert queue.calls == [("note", "7")]


def test_only_what_waits_is_a_successor_and_a_path_with_a_space_is_told_before_a_job_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    queue = "5|RUNNING|{0}\n6|PENDING|{0}\n7|COMPLETING|{0}\n"
    named = NamedSite("here", tmp_path / "here.yaml", SITE)
    jobs = DriverJobs(named, Layout(tmp_path), "c")
    monkeypatch.setattr("campaign.execution.slurm.ask", lambda _: queue.format(jobs.name))
    assert jobs.waiting == ["6"]
    with pytest.raises(ResourceError, match="the path has a space"):
        DriverJobs(named, Layout(tmp_path / "a b"), "c").submit()


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


class Drive:
    """A driver's job 5 whose campaign ends as it is told, and what it leaves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
        self.layout = Layout(root)
        self.layout.jobs.mkdir(parents=True)
        self.layout.spec.write_text(write_spec(root.parent, ["steady"], 1).read_text())
        self.needed: list[bool] = []
        self.asked: list[str] = []
        self.now = 1000.0
        care = SimpleNamespace(successor=lambda: "6", end=lambda *, needed: self.needed.append(needed))
        clock = SimpleNamespace(monotonic=lambda: self.now, sleep=self.sleep)
        monkeypatch.setattr(detach, "time", clock)
        monkeypatch.setattr(detached, "Succession", lambda *_: care)
        monkeypatch.setattr("campaign.site.find_site", lambda _: NamedSite("here", root / "here.yaml", SITE))
        monkeypatch.setattr("campaign.execution.driver.run_campaign", self.run)
        monkeypatch.setenv("SLURM_JOB_ID", "5")
        self.error: Exception = OSError(5, "Input/output error")
        self.lives_s = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def run(self, *_: Any, **__: Any) -> None:
        self.now += self.lives_s
        raise self.error

    def drive(self, last_job: str) -> bool:
        """Whether the job of the last driver is still known afterwards."""
        self.layout.driver_job.write_text(json.dumps({"job": last_job, "site": "here", "campaign": "c"}))
        with pytest.raises(type(self.error)):
            detach.drive(self.layout.root, "here")
        return self.layout.driver_job.exists()


@pytest.fixture
def one_drive(monkeypatch: pytest.MonkeyPatch, root: Path) -> Drive:
    return Drive(monkeypatch, root)


@pytest.mark.parametrize(
    ("error", "lives_s", "followed"),
    [
        (OSError(5, "Input/output error"), detach.FOLLOWED_S + 1, True),
        (ResourceError("the disk is full"), detach.FOLLOWED_S + 1, True),
        (OSError(5, "Input/output error"), 1.0, False),
        (LedgerError("another driver took it"), detach.FOLLOWED_S + 1, False),
    ],
)
def test_a_driver_that_the_disk_failed_is_followed_unless_it_had_just_begun(
    one_drive: Drive, error: Exception, lives_s: float, *, followed: bool
) -> None:
    one_drive.error, one_drive.lives_s = error, lives_s
    assert one_drive.drive("6") == followed
    assert one_drive.needed == [followed]


def test_a_driver_that_gives_up_asks_again_and_again_and_leaves_alone_what_is_another_s(
    one_drive: Drive,
) -> None:
    one_drive.error = BusyError("another one is at work")
    assert one_drive.drive("99")
    asked = [request.kind for request in read_requests(one_drive.layout)]
    assert set(asked) == {"handover"}
    assert len(asked) == pytest.approx(detach.HOLD_ON_S / detach.ASK_AGAIN_S, abs=1)
    assert not one_drive.drive("5")


@pytest.mark.parametrize("text", ["", "[]", '{"job": "7"}'])
def test_a_damaged_word_of_the_last_job_is_told(tmp_path: Path, text: str) -> None:
    layout = Layout(tmp_path)
    layout.jobs.mkdir()
    layout.driver_job.write_text(text)
    with pytest.raises(LedgerError, match=r"driver\.json: the file is damaged; remove it"):
        driver_job(layout)


def test_a_successor_is_submitted_although_nobody_has_imported_dask_yet() -> None:
    """Its thread would be the first, and dask_jobqueue cannot be imported first in a thread."""
    script = """
import sys
from campaign.execution import detached
from campaign.execution.job_scripts import import_jobqueue
from tests.test_succession import NotingQueue, succession, wait_for

class Queue(NotingQueue):
    def submit(self, after=None):
        import_jobqueue()  # as the script of a job does
        return super().submit(after)

assert "dask_jobqueue" not in sys.modules
detached.SETTLED_S = 0.0
with succession(Queue(walltime_s=1000)) as care:
    wait_for(care.successor, seconds=25)
"""
    done = subprocess.run(
        (sys.executable, "-c", script), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
