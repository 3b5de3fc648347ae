"""Attempts at a stage of several segments: what is committed stays, and nothing of it is computed again."""

import shutil
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from campaign.errors import FailureClass
from campaign.execution import looks, segments
from campaign.execution.cluster import Slot
from campaign.execution.commit import commit_directory, read_manifest, verify
from campaign.execution.dispatch import Flight
from campaign.execution.segments import committed_segments, work_of
from campaign.execution.worker import STOP, AttemptOutcome, AttemptRequest, run_attempt, run_attempts
from campaign.layout import Layout
from campaign.ledger import Ending, Ledger
from campaign.potentials import add_nep, file_hashes
from campaign.protocols.base import Stage, read_result
from tests.standin_campaign import engine_starts, plan_of, write_spec

Produce = Callable[[str], Stage]


@pytest.fixture
def produce(layout: Layout) -> Produce:
    """The second MD stage with the faults of ``potential``; what it needs is committed."""

    def reach(potential: str) -> Stage:
        plan, stages = plan_of(write_spec(layout.root.parent, [potential], 1))
        build, equilibrate, produce, _ = (stages[item] for item in plan.calculations[0].runs[0].stages)
        requests = [AttemptRequest(layout.root, stage.kind, stage) for stage in (build, equilibrate)]
        assert "failed" not in {outcome.status for outcome in run_attempts(requests)}
        return produce

    return reach


def attempt(layout: Layout, stage: Stage, name: str) -> AttemptOutcome:
    return run_attempt(AttemptRequest(layout.root, name, stage))


def starts(layout: Layout, stage: Stage) -> int:
    """How many processes were started for it."""
    return engine_starts(layout.root)[f"produce-{stage.random_seed}"]


def spans(layout: Layout, stage: Stage) -> list[tuple[int, int]]:
    return [(segment.first, segment.last) for segment in committed_segments(layout, stage.id)]


def check_result(layout: Layout, stage: Stage) -> None:
    directory = layout.stage(stage.id)
    verify(directory)
    result = read_result(directory)
    assert result["time"].values.tolist() == [10.0 * (i + 1) for i in range(10)]
    assert (result["value"] == 2.0).all()
    assert not layout.segments_of(stage.id).exists()


def test_a_stage_of_five_segments_is_committed_as_one(layout: Layout, produce: Produce) -> None:
    stage = produce("pieces")
    outcome = attempt(layout, stage, "only")
    assert outcome.status == "committed"
    assert (outcome.ending.segments, outcome.ending.steps) == (5, 100)
    # A driver that starts after the death of the last one asks what a committed stage was.
    told = work_of(layout, stage.id, "only")
    assert (told.segments, told.steps, told.host) == (5, 100, outcome.ending.host)
    assert work_of(layout, stage.id, "another").segments == 0
    check_result(layout, stage)
    manifest = read_manifest(layout.stage(stage.id))
    assert [(one["first"], one["last"]) for one in manifest["segments"]] == [
        (first, first + 20) for first in range(0, 100, 20)
    ]
    assert starts(layout, stage) == 5
    log = (layout.stage(stage.id) / "log.standin").read_text()
    assert log.count("step 50 of 100") == 5


def test_an_attempt_goes_on_after_the_last_committed_segment(layout: Layout, produce: Produce) -> None:
    stage = produce("pieces-flaky")
    first = attempt(layout, stage, "first")
    assert (first.failure_class, first.ending.segments, first.ending.steps) == (FailureClass.TRANSIENT, 2, 40)
    assert spans(layout, stage) == [(0, 20), (20, 40)]
    second = attempt(layout, stage, "second")
    assert (second.status, second.ending.segments, second.ending.steps) == ("failed", 1, 20)
    third = attempt(layout, stage, "third")
    assert (third.status, third.ending.segments, third.ending.steps) == ("committed", 2, 40)
    check_result(layout, stage)
    # Five segments and the two that failed: none that was committed is computed again.
    assert starts(layout, stage) == 7
    by = [one["attempt"] for one in read_manifest(layout.stage(stage.id))["segments"]]
    assert by == ["first", "first", "second", "third", "third"]


def test_only_the_last_two_states_are_kept(layout: Layout, produce: Produce) -> None:
    stage = produce("pieces-flaky")
    for name in ("first", "second"):
        attempt(layout, stage, name)
    chain = committed_segments(layout, stage.id)
    kept = [(segment.directory / "state.restart").exists() for segment in chain]
    assert kept == [False, True, True]


@pytest.mark.parametrize("damage", ["state.restart", "result.nc", "manifest.json"])
def test_a_damaged_segment_is_made_again_from_the_one_before(
    layout: Layout, produce: Produce, damage: str
) -> None:
    stage = produce("pieces-flaky")
    attempt(layout, stage, "first")
    last = committed_segments(layout, stage.id)[-1].directory / damage
    last.write_bytes(last.read_bytes()[:-2])
    second = attempt(layout, stage, "second")
    assert (second.ending.segments, second.ending.steps) == (1, 20)
    assert spans(layout, stage) == [(0, 20), (20, 40)]
    assert attempt(layout, stage, "third").status == "committed"
    check_result(layout, stage)


def test_a_segment_that_another_attempt_commits_meanwhile_is_kept(
    layout: Layout, produce: Produce, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = produce("pieces-flaky")
    attempt(layout, stage, "first")
    last = committed_segments(layout, stage.id)[-1].directory
    aside = layout.root / "aside"
    last.rename(aside)

    def chain_of(*_: object) -> list[segments.CommittedSegment]:
        found = committed_segments(layout, stage.id)
        aside.rename(last)  # just after the look
        return found

    monkeypatch.setattr(segments, "committed_segments", chain_of)
    assert len(segments.usable_segments(layout, stage.id, "state.restart")) == 1
    assert spans(layout, stage) == [(0, 20), (20, 40)]


def test_a_look_reads_only_what_the_one_before_did_not_see(
    layout: Layout, produce: Produce, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = produce("pieces-flaky")
    outcome = attempt(layout, stage, "first")
    aside = layout.root / "aside"
    committed_segments(layout, stage.id)[-1].directory.rename(aside)
    read: list[str] = []
    real = segments.CommittedSegment.read

    def reading(directory: Path) -> segments.CommittedSegment:
        read.append(directory.name)
        return real(directory)

    monkeypatch.setattr(segments.CommittedSegment, "read", reading)
    told: list[Ending] = []
    ledger = SimpleNamespace(
        transaction=nullcontext, started=lambda *_: None, progressed=lambda _, work: told.append(work)
    )
    flight = Flight("first", stage.id, stage, Slot("here"), "now")
    look = looks.Looks(layout, cast("Ledger", ledger))
    look._look([flight])
    look._look([flight])
    aside.rename(layout.segments_of(stage.id) / "0002")
    look._look([flight])
    assert read == ["0001", "0002"]
    assert [(work.segments, work.steps) for work in told] == [(1, 20), (2, 40)]
    assert told[-1].wall_s == work_of(layout, stage.id, "first").wall_s
    assert outcome.ending.segments == 2


def test_without_a_usable_state_a_stage_starts_over(layout: Layout, produce: Produce) -> None:
    stage = produce("pieces-flaky")
    attempt(layout, stage, "first")
    for segment in committed_segments(layout, stage.id):
        (segment.directory / "state.restart").unlink()
    attempt(layout, stage, "second")
    assert spans(layout, stage) == [(0, 20)]
    assert work_of(layout, stage.id, "first").segments == 0


def test_a_copy_that_comes_second_with_a_segment_goes_on_from_the_other(
    layout: Layout, produce: Produce, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Split brain: the same attempt's work is done twice, and the other one was faster."""
    stage = produce("pieces")
    other = produce("pieces-flaky")  # leaves two segments
    attempt(layout, other, "other")

    def after_the_other(staging: Path, target: Path, *more: object) -> bool:
        if target.name == "0002":
            shutil.copytree(layout.segments_of(other.id) / "0002", target)
        return commit_directory(staging, target, *more)  # type: ignore[arg-type]

    monkeypatch.setattr("campaign.execution.segments.commit_directory", after_the_other)
    outcome = attempt(layout, stage, "late")
    assert (outcome.status, outcome.ending.segments, outcome.ending.steps) == ("committed", 4, 80)
    told = read_manifest(layout.stage(stage.id))["segments"]
    assert [one["attempt"] for one in told] == ["late", "other", "late", "late", "late"]


def test_a_copy_that_comes_second_with_the_whole_stage_ends(
    layout: Layout, produce: Produce, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = produce("pieces")

    def after_the_other(staging: Path, target: Path, *more: object) -> bool:
        if target.name == "0003":
            shutil.copytree(target.with_name("0002"), target)
            manifest = target / "manifest.json"
            manifest.write_text(manifest.read_text().replace('"late"', '"other"'))
            layout.stage(stage.id).mkdir(parents=True)
            (layout.stage(stage.id) / "manifest.json").write_text("{}")
        return commit_directory(staging, target, *more)  # type: ignore[arg-type]

    monkeypatch.setattr("campaign.execution.segments.commit_directory", after_the_other)
    outcome = attempt(layout, stage, "late")
    assert (outcome.status, outcome.failure_class) == ("failed", FailureClass.TRANSIENT)
    assert "another attempt finished this stage" in outcome.message


def test_a_request_to_stop_keeps_what_was_computed(layout: Layout, produce: Produce) -> None:
    stage = produce("pieces-slow")
    found: list[AttemptOutcome] = []
    thread = threading.Thread(target=lambda: found.append(attempt(layout, stage, "stopped")))
    thread.start()
    deadline = time.monotonic() + 20
    while not spans(layout, stage) and time.monotonic() < deadline:
        time.sleep(0.01)
    (layout.attempt("stopped") / STOP).touch()
    thread.join(20)
    (outcome,) = found
    assert (outcome.status, outcome.failure_class) == ("failed", FailureClass.CANCELLED)
    reached = spans(layout, stage)[-1][1]
    assert 20 <= reached == outcome.ending.steps < 100
    assert f"MD step {reached} of 100" in outcome.message
    assert attempt(layout, stage, "on").ending.steps == 100 - reached
    check_result(layout, stage)


def test_where_no_speed_is_known_the_first_piece_measures_it(
    layout: Layout, produce: Produce, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "PILOT_S", 0.1)
    stage = produce("slow")  # 0.4 s in all
    outcome = attempt(layout, stage, "only")
    assert outcome.status == "committed"
    check_result(layout, stage)
    told = read_manifest(layout.stage(stage.id))["segments"]
    assert len(told) == outcome.ending.segments == 2  # a pilot, and the rest in one piece
    assert 0 < told[0]["last"] < 100


def test_a_piece_that_takes_long_to_begin_is_not_ended_before_its_first_step(
    layout: Layout, produce: Produce, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the minimisation of a large structure does; ended there, it would begin for ever."""
    monkeypatch.setattr(segments, "PILOT_S", 0.1)
    stage = produce("late")
    assert attempt(layout, stage, "only").status == "committed"
    (calls,) = (layout.root / "calls").glob("produce-*")
    assert len(calls.read_text().splitlines()) <= 2


def test_a_known_speed_sets_the_length_of_segments(layout: Layout, produce: Produce) -> None:
    stage = produce("slow")
    # 10 atoms at 150 atom-step/s: 30 steps in two seconds; then the measured speed is ten times that.
    request = AttemptRequest(layout.root, "only", stage, segment_s=2.0, rate=150.0)
    assert run_attempt(request).status == "committed"
    told = read_manifest(layout.stage(stage.id))["segments"]
    assert (told[0]["first"], told[0]["last"]) == (0, 30)
    assert len(told) == 2


def test_segments_do_not_shrink_where_a_process_takes_longer_to_begin_than_they_last(
    layout: Layout, produce: Produce
) -> None:
    """Half a second to begin, for segments of a tenth: at least half of each computes."""
    stage = produce("late")
    request = AttemptRequest(layout.root, "only", stage, segment_s=0.1, rate=1000.0)
    assert run_attempt(request).status == "committed"
    told = read_manifest(layout.stage(stage.id))["segments"]
    assert told[0]["last"] == 10  # what the speed alone makes in this time
    assert len(told) == 2


def test_a_potential_that_changed_since_the_plan_is_not_used(
    layout: Layout, produce: Produce, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results under an identity with the old file's hash would be taken for those of the old file."""
    monkeypatch.setenv("CAMPAIGN_POTENTIALS", str(tmp_path / "library"))
    model = tmp_path / "model"
    model.write_text("nep4 1 C\n")
    stage = produce("pieces")
    stage = replace(stage, files=file_hashes(add_nep(model, "pieces", {"graphene": 2.46})))
    model.write_text("nep4 1 C\nother\n")
    add_nep(model, "pieces", {"graphene": 2.46}, replace=True)
    outcome = attempt(layout, stage, "only")
    assert (outcome.status, outcome.failure_class) == ("failed", FailureClass.RESOURCE)
    assert "nep.txt of pieces changed since the plan was made" in outcome.message
