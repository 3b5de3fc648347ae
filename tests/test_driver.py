"""The driver with real Dask workers and a stand-in engine; each test starts a cluster, for seconds."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from campaign.errors import BusyError, FailureClass, ResourceError, StoreError
from campaign.execution import driver, looks, requests, result_rows
from campaign.execution.cluster import Cluster, Kind, Workers
from campaign.execution.driver import run_campaign
from campaign.execution.place import Place
from campaign.execution.requests import driver_is_alive, read_requests, write_request
from campaign.layout import Layout
from campaign.ledger import Ledger
from campaign.store import Store
from tests.standin_campaign import (
    GONE_S,
    LONG_S,
    committed,
    drive,
    engine_starts,
    engines_alive,
    plan_of,
    run,
    wait_for,
    write_spec,
)
from tests.test_cli import campaign


def failure_classes(root: Path) -> list[str]:
    """Classes of all failed attempts."""
    return [name for classes in failures(root).values() for name in classes]


def failures(root: Path) -> dict[str, list[str]]:
    """Classes of the failed attempts of each stage that has any."""
    found = {}
    with Ledger.open(Layout(root), read_only=True) as ledger:
        for stage_id in ledger.states():
            classes = [item.failure_class for item in ledger.attempts(stage_id) if item.failure_class]
            if classes:
                found[stage_id] = classes
    return found


def status(root: Path) -> dict[str, Any]:
    snapshot: dict[str, Any] = json.loads(Layout(root).status.read_text())
    return snapshot


def test_every_fault_costs_its_budget_and_no_more(root: Path) -> None:
    potentials = ["steady", "flaky", "half", "signal", "broken", "nan", "bug", "lost"]
    result = run(root, potentials)
    states = dict(zip(potentials, status(root)["states"]["toy"], strict=True))
    assert states == {
        "steady": "d",
        "flaky": "d",
        "half": "d",
        "signal": "d",
        "lost": "d",
        "broken": "f",
        "nan": "f",
        "bug": "f",
    }
    assert result.failed == 3
    assert not result.interrupted
    plan, _ = plan_of(root.parent / "spec.yaml")
    produce = {run.labels["potential"]: run.stages[2] for run in plan.calculations[0].runs}
    found = failures(root)
    assert {name: found.get(stage_id, []) for name, stage_id in produce.items()} == {
        "steady": [],
        "flaky": ["transient"] * 2,
        "half": ["transient"],
        "signal": ["transient"],
        "broken": ["transient"] * 3,
        "nan": ["physics"],
        "bug": ["internal"],
        "lost": ["lost worker"],
    }
    # 1 structure, 8 equilibrations; 5 productions and 5 reductions; each committed once.
    assert len(committed(root)) == 1 + 8 + 5 + 5
    starts = engine_starts(root)
    assert starts.total() == 8 + sum(
        {"steady": 1, "flaky": 3, "half": 2, "signal": 2, "broken": 3, "nan": 1, "lost": 2}.values()
    )
    assert len(Store.open(Layout(root).store, campaign="standins").stage_ids("toy")) == 5
    entry = status(root)["failed"][produce["broken"]]
    assert entry["class"] == "transient"
    assert entry["runs"] == [
        run.id for run in plan.calculations[0].runs if run.labels["potential"] == "broken"
    ]

    again = run(root, potentials)  # nothing to do: failed stages are not repeated unasked
    assert again.counts == result.counts
    assert engine_starts(root) == starts


def test_stages_purged_from_the_disk_are_made_again_where_they_are_needed(root: Path) -> None:
    run(root, ["steady"], seeds=2)
    before = {path.name for path in Layout(root).stages.glob("??/*")}
    starts = engine_starts(root).total()
    shutil.rmtree(Layout(root).stages)
    run(root, ["steady"], seeds=2)
    assert engine_starts(root).total() == starts  # the results are in the store: nothing is read from stages
    shutil.rmtree(Layout(root).store)
    result = run(root, ["steady"], seeds=2)
    assert result.counts["toy"]["done"] == 2
    assert engine_starts(root).total() == 2 * starts
    assert {path.name for path in Layout(root).stages.glob("??/*")} == before


def test_after_like_failures_a_condition_is_held_back_until_a_retry(root: Path) -> None:
    result = run(root, ["nan", "steady"], seeds=6)
    assert result.counts["toy"]["done"] == 6
    assert 3 <= result.failed < 6
    assert list(result.held) == ["toy potential=nan"]
    # One more may have been in flight when the third failed.
    assert sum(classes == ["physics"] for classes in failures(root).values()) in {3, 4}
    before = engine_starts(root).total()
    write_request(Layout(root), "retry", {"stages": list(status(root)["failed"])})
    again = run(root, ["nan", "steady"], seeds=6)
    assert engine_starts(root).total() > before
    assert list(again.held) == ["toy potential=nan"]


def test_without_its_engine_a_stage_waits_and_the_rest_goes_on(root: Path) -> None:
    result = run(root, ["absent"], seeds=2)
    assert list(result.held) == ["engine standin"]
    assert result.counts["toy"]["pending"] == 2
    assert set(failure_classes(root)) == {FailureClass.ENGINE_NOT_FOUND}
    assert engine_starts(root).total() == 0


def test_a_killed_driver_is_resumed_and_nothing_is_repeated(root: Path) -> None:
    write_spec(root.parent, ["slow"], 6)
    process = drive(root, 2)
    wait_for(lambda: len(committed(root)) > 8)  # the structure, six equilibrations, and a production or two
    process.kill()
    process.wait()
    wait_for(lambda: not engines_alive(root), seconds=GONE_S)
    assert not driver_is_alive(Layout(root))
    with Ledger.open(Layout(root), read_only=True) as ledger:
        states = ledger.states()
    plan, _ = plan_of(root.parent / "spec.yaml")
    running = next(one for one in plan.runs if "running" in {states[stage] for stage in one.stages})
    Layout(root).identity.write_text(json.dumps({"format": 1, "campaign": "standins", "created": "now"}))
    told = campaign("why", running.id, str(root), cwd=root).stdout
    assert ": pending, since its driver ended" in told
    assert ": lost with its driver on " in told
    before = set(committed(root))

    assert drive(root, 2).wait(LONG_S) == 0
    assert before < set(committed(root))
    assert len(committed(root)) == 1 + 3 * 6
    with Ledger.open(Layout(root), read_only=True) as ledger:
        assert ledger.counts() == {"done": 19}
        attempts = [item for stage_id in ledger.states() for item in ledger.attempts(stage_id)]
    # Lost was at most what was in flight; what was committed by then was attempted once.
    lost = [item for item in attempts if item.failure_class == "lost worker"]
    assert before.isdisjoint(item.stage_id for item in lost)
    assert len(attempts) == 19 + len(lost)
    assert sum(item.epoch == 1 for item in lost) == len(lost)
    assert 12 <= engine_starts(root).total() <= 12 + 2
    assert list(Layout(root).attempts.iterdir()) == []
    assert len(Store.open(Layout(root).store, campaign="standins").stage_ids("toy")) == 6


def test_a_stop_ends_within_seconds_and_the_next_start_goes_on(root: Path) -> None:
    write_spec(root.parent, ["hang", "steady"], 1)
    process = drive(root, 2)
    wait_for(lambda: len(engines_alive(root)) == 1 and len(committed(root)) == 5)
    plan, stages = plan_of(root.parent / "spec.yaml")
    with pytest.raises(BusyError, match=f"process {process.pid} on "):
        run_campaign(root, plan, stages, workers=1)
    write_request(Layout(root), "stop", {})
    assert process.wait(LONG_S) == 130  # this engine would never end by itself
    assert engines_alive(root) == []
    assert status(root)["driver"]["state"] == "stopped"
    assert status(root)["counts"]["toy"] == {"pending": 1, "running": 0, "done": 1, "failed": 0, "total": 2}
    assert failure_classes(root) == ["cancelled"]

    # It goes on, and Ctrl-C in the terminal, which reaches the workers too, is a stop as well.
    process = drive(root, 2)
    wait_for(lambda: len(engines_alive(root)) == 1)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(LONG_S) == 130
    assert failure_classes(root) == ["cancelled"] * 2
    assert engines_alive(root) == []


def test_a_driver_whose_campaign_was_taken_ends_itself(root: Path) -> None:
    write_spec(root.parent, ["hang"], 1)
    process = drive(root, 1, heartbeat_s=0)
    wait_for(lambda: len(engines_alive(root)) == 1)
    thief = (
        "import sys; from pathlib import Path; from campaign.layout import Layout; "
        "from campaign.ledger import Holder, Ledger; "
        "Ledger.open(Layout(Path(sys.argv[1]))).acquire(Holder.this_process())"
    )
    subprocess.run((sys.executable, "-c", thief, str(root)), check=True)
    assert process.wait(LONG_S) not in {0, 130}
    assert engines_alive(root) == []
    assert "does not hold the campaign" in (root.parent / "drive.log").read_text()


def test_a_stop_is_heeded_while_a_driver_waits_for_the_campaign_and_an_older_one_is_not(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root.mkdir(exist_ok=True)
    write_request(Layout(root), "stop", {})
    acquire = Ledger.acquire

    def waiting(ledger: Ledger, holder: Any) -> int:
        write_request(Layout(root), "stop", {})
        return acquire(ledger, holder)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "acquire", waiting)
        assert run(root, ["steady"]).interrupted
    write_request(Layout(root), "stop", {})
    assert not run(root, ["steady"]).interrupted
    assert read_requests(Layout(root)) == []


def test_a_retry_that_comes_while_the_workers_end_is_done_too(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Place.open
    retries: list[list[str]] = []

    @contextmanager
    def opening(place: Place, *more: Any) -> Iterator[Cluster]:
        with opened(place, *more) as cluster:
            yield cluster
        if not retries:
            retries.append(list(failures(root)))
            write_request(Layout(root), "retry", {"stages": retries[0]})

    monkeypatch.setattr(Place, "open", opening)
    assert run(root, ["nan"]).failed == 1
    assert failures(root) == {retries[0][0]: ["physics"] * 2}


def test_a_disk_that_fails_for_a_moment_ends_no_campaign(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed: list[str] = []

    def at_first(module: Any, name: str, calls: int = 0) -> None:
        """Let a call fail after so many."""
        real, left = getattr(module, name), [calls]

        def call(*arguments: Any) -> Any:
            left[0] -= 1
            if left[0] == -1:
                failed.append(name)
                raise OSError(116, "Stale file handle")
            return real(*arguments)

        monkeypatch.setattr(module, name, call)

    at_first(driver, "write_snapshot")
    at_first(driver, "read_requests", 1)  # the first one is of the start
    at_first(result_rows, "manifest_sha256")
    assert run(root, ["steady"], seeds=2).counts["toy"]["done"] == 2
    assert sorted(failed) == ["manifest_sha256", "read_requests", "write_snapshot"]
    assert len(Store.open(Layout(root).store, campaign="standins").stage_ids("toy")) == 2


def test_results_that_cannot_be_written_do_not_end_a_campaign_as_finished(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: object) -> None:
        raise ResourceError("cannot write results: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(result_rows.ResultRows, "flush", full)
        with pytest.raises(ResourceError, match="No space left"):
            run(root, ["steady"])
    assert status(root)["driver"]["state"] == "stopped"  # with what to do to go on
    before = Layout(root).ledger.read_bytes()
    store = Layout(root).store / "zarr.json"
    attributes = json.loads(store.read_text())
    attributes["attributes"]["format"] = 99
    store.write_text(json.dumps(attributes))
    with pytest.raises(StoreError, match="format 99"):
        run(root, ["steady"])
    assert Layout(root).ledger.read_bytes() == before


def test_results_that_are_read_at_the_start_keep_no_sign_of_life_from_others(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(root, ["steady"], seeds=3)
    shutil.rmtree(Layout(root).store)
    beats: list[None] = []
    monkeypatch.setattr(driver, "UNREAD_AT_ONCE", 1)
    monkeypatch.setattr(Ledger, "heartbeat", lambda _: beats.append(None))
    run(root, ["steady"], seeds=3)
    assert len(beats) == 3  # nothing else is done
    assert len(Store.open(Layout(root).store, campaign="standins").stage_ids("toy")) == 3


def test_speeds_are_asked_for_once_for_all_that_is_placed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = [0]
    most = [0]
    speeds, place = Ledger.speeds, driver._Driver._place

    def asking(ledger: Ledger) -> Any:
        asked[0] += 1
        return speeds(ledger)

    def placing(one: Any, dispatcher: Any) -> None:
        before = asked[0]
        place(one, dispatcher)
        most[0] = max(most[0], asked[0] - before)

    monkeypatch.setattr(Ledger, "speeds", asking)
    monkeypatch.setattr(driver._Driver, "_place", placing)
    run(root, ["steady"], seeds=4)
    assert most == [1]


def test_a_campaign_whose_output_nobody_reads_any_more_is_stopped(root: Path) -> None:
    pictures = []

    def watch(picture: dict[str, Any]) -> None:
        pictures.append(picture)
        raise BrokenPipeError

    assert run(root, ["steady"], on_snapshot=watch).interrupted
    assert len(pictures) == 1
    result = run(root, ["steady"])
    assert not result.interrupted
    assert result.counts["toy"]["done"] == 1


def test_looks_at_attempts_leave_most_of_the_time_to_the_rest(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a slow file system; how often others look at the result is not decided by it."""
    starts: list[float] = []

    def slow(*_: object) -> None:
        starts.append(time.monotonic())
        time.sleep(0.5)

    monkeypatch.setattr(looks.Looks, "_look", slow)
    assert run(root, ["slow"], 8).failed == 0
    assert len(starts) > 1
    assert min(after - before for before, after in itertools.pairwise(starts)) >= 0.5 / looks.LOOK_SHARE


@pytest.mark.parametrize(
    ("asked", "handed_over"),
    [(("handover",), True), (("stop", "handover"), False), (("handover", "stop"), False)],
)
def test_a_driver_hands_over_when_asked_unless_somebody_wants_an_end(
    root: Path, monkeypatch: pytest.MonkeyPatch, asked: tuple[requests.Kind, ...], *, handed_over: bool
) -> None:
    wanted = list(asked)
    changes: list[Mapping[Kind, int]] = []  # what the jobs were to be, after somebody asked

    def request(_: Workers, wanted: Mapping[Kind, int], busy: Set[str]) -> Mapping[str, str]:
        changes.append(wanted)
        return {}

    monkeypatch.setattr(Workers, "request", request)
    monkeypatch.setattr(driver, "TICK_S", 0.01)

    shown = []

    def ask(picture: dict[str, Any]) -> None:
        shown.append(picture["driver"]["state"])
        while wanted and picture["running"]:
            write_request(Layout(root), wanted.pop(0), {})
            changes.clear()

    result = run(root, ["slow"], 8, successor=lambda: "7", on_snapshot=ask)
    assert (result.interrupted, result.handed_over) == (True, handed_over)
    ended = ("handing over", "handed over") if handed_over else ("stopping", "stopped")
    assert tuple(dict.fromkeys(shown)) == ("running", *ended)
    assert status(root)["driver"]["state"] == ended[1]
    assert (changes == []) == handed_over  # those that wait are for the next driver


def test_a_driver_that_nobody_follows_is_not_asked_to_hand_over(root: Path) -> None:
    wanted = [True]

    def ask(picture: dict[str, Any]) -> None:
        if picture["running"] and wanted:
            wanted.clear()
            write_request(Layout(root), "handover", {})

    assert not run(root, ["slow"], 8, on_snapshot=ask).interrupted
    assert read_requests(Layout(root)) == []
