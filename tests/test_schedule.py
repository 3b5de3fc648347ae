from collections.abc import Mapping
from random import Random

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from campaign.execution.cluster import Kind
from campaign.execution.schedule import HOLD_AFTER, MOST_IN_BATCH, Schedule, Speed, time_left_s
from campaign.ledger import State
from campaign.plan import StageSummary


def plan_stages(runs: int, steps: int = 100) -> dict[str, StageSummary]:
    """Stages of runs that share one structure: ``build``, ``equilibrate-0``, ``produce-0``, ``reduce-0``."""
    stages: dict[str, StageSummary] = {}

    def add(name: str, kind: str, needs: tuple[str, ...]) -> str:
        engine = None if kind in {"build", "reduce"} else "standin"
        size = steps if engine else 0
        stages[name] = StageSummary(name, kind, "toy", engine, needs, 10, size, "lj", 1, {})
        return name

    build = add("build", "build", ())
    for run in range(runs):
        state = add(f"equilibrate-{run}", "equilibrate", (build,))
        series = add(f"produce-{run}", "produce", (build, state))
        add(f"reduce-{run}", "reduce", (series,))
    return stages


def schedule_of(
    stages: Mapping[str, StageSummary],
    states: Mapping[str, State] | None = None,
    conditions: Mapping[str, str] | None = None,
) -> Schedule:
    return Schedule(stages, states or {}, conditions or dict.fromkeys(stages, "all"))


def fail_next(schedule: Schedule, failure_class: str) -> str:
    ((stage_id,),) = schedule.take(1)
    schedule.failed(stage_id, failure_class)
    return stage_id


@settings(max_examples=60, deadline=None)
@given(runs=st.integers(1, 5), slots=st.integers(1, 4), number=st.integers(0, 999))
def test_every_stage_runs_once_after_what_it_needs(runs: int, slots: int, number: int) -> None:
    random = Random(number)
    stages = plan_stages(runs)
    schedule = schedule_of(stages)
    running: list[list[str]] = []
    finished: list[str] = []
    while True:
        batches = schedule.take(slots - len(running))
        for batch in batches:
            for stage_id in batch:
                assert set(stages[stage_id].needs) <= set(finished)
        running += batches
        assert len(running) <= slots
        if not running:
            break
        batch = running.pop(random.randrange(len(running)))
        for stage_id in batch:
            if random.random() < 0.2:
                schedule.again(stage_id)
            else:
                finished.append(stage_id)
                schedule.done(stage_id)
    assert sorted(finished) == sorted(stages)
    assert not schedule.has_ready()
    assert schedule.remaining().total() == 0


def test_a_begun_run_is_finished_before_another_begins() -> None:
    done: dict[str, State] = {"build": "done", "equilibrate-1": "done"}
    schedule = schedule_of(plan_stages(3), done)
    assert schedule.take(2) == [["produce-1"], ["equilibrate-0"]]


def test_the_longest_goes_first() -> None:
    stages = {
        name: StageSummary(name, "equilibrate", "toy", "standin", (), 10, steps, "lj", 1, {})
        for name, steps in (("short", 10), ("long", 1000), ("middle", 100))
    }
    conditions = {name: name for name in stages}
    assert schedule_of(stages, conditions=conditions).take(3) == [["long"], ["middle"], ["short"]]


def test_the_first_stage_of_every_condition_is_its_pilot() -> None:
    stages = plan_stages(6)
    conditions = {name: "hot" if name[-1] in "012" else "cold" for name in stages}
    schedule = schedule_of(stages, {"build": "done"}, conditions)
    assert schedule.take(2) == [["equilibrate-0"], ["equilibrate-3"]]
    # No slot is kept empty for a pilot that runs.
    assert schedule.take(1) == [["equilibrate-1"]]
    for name in ("equilibrate-1", "equilibrate-3"):
        schedule.done(name)
    assert schedule.take(2) == [["produce-3"], ["produce-1"]]


def test_a_condition_with_something_done_needs_no_pilot() -> None:
    stages = plan_stages(4)
    conditions = {name: "hot" if name[-1] in "01" else "cold" for name in stages}
    finished = ("build", "equilibrate-1", "produce-1", "reduce-1")
    done: dict[str, State] = dict.fromkeys(finished, "done")
    assert schedule_of(stages, done, conditions).take(2) == [["equilibrate-2"], ["equilibrate-0"]]


def test_short_stages_travel_together_but_not_after_a_failure() -> None:
    runs = 3 * MOST_IN_BATCH
    stages = plan_stages(runs)
    done: dict[str, State] = {name: "done" for name in stages if not name.startswith("reduce")}
    schedule = schedule_of(stages, done)
    first, second = schedule.take(2)
    assert len(first) == len(second) == MOST_IN_BATCH
    for stage_id in first:
        schedule.again(stage_id)
    for stage_id in second:
        schedule.done(stage_id)
    sizes = []
    while batches := schedule.take(1):
        sizes.append(len(batches[0]))
        assert len(batches[0]) == 1 or not set(batches[0]) & set(first)
    assert sum(sizes) == runs - MOST_IN_BATCH


def test_what_needs_a_failed_stage_is_never_offered_nor_counted() -> None:
    schedule = schedule_of(plan_stages(1), {"build": "done"})
    assert schedule.remaining() == {("standin", "lj"): 2000}
    fail_next(schedule, "physics")
    assert not schedule.has_ready()
    assert schedule.remaining().total() == 0
    schedule.retry(["equilibrate-0"])
    assert schedule.take(1) == [["equilibrate-0"]]


def test_like_failures_hold_their_condition_only() -> None:
    stages = plan_stages(10)
    conditions = {name: "hot" if name[-1] in "012348" else "cold" for name in stages}
    piloted = [name for name in stages if name[-1] in "89"]
    done: dict[str, State] = dict.fromkeys(("build", *piloted), "done")
    schedule = schedule_of(stages, done, conditions)
    failed = [fail_next(schedule, "physics") for _ in range(HOLD_AFTER)]
    assert {conditions[name] for name in failed} == {"hot"} == set(schedule.held)
    assert [batch[0] for batch in schedule.take(9)] == ["equilibrate-5", "equilibrate-6", "equilibrate-7"]
    assert not schedule.has_ready()
    schedule.exempt(["equilibrate-4", "produce-4"])
    assert schedule.take(9) == [["equilibrate-4"]]
    schedule.done("equilibrate-4")
    assert schedule.take(9) == [["produce-4"]]
    assert set(schedule.held) == {"hot"}
    schedule.retry(failed[:1])
    assert schedule.held == {}
    assert {batch[0] for batch in schedule.take(9)} == {failed[0], "equilibrate-3"}


@pytest.mark.parametrize(
    ("endings", "held"),
    [
        (["physics"] * HOLD_AFTER, True),
        (["physics"] * (HOLD_AFTER - 1), False),
        (["physics", "physics", None, "physics"], False),
        (["physics", "physics", "timeout"], False),
    ],
)
def test_a_condition_stays_held_over_a_restart(endings: list[str | None], *, held: bool) -> None:
    states: dict[str, State] = {f"equilibrate-{i}": "failed" if e else "done" for i, e in enumerate(endings)}
    schedule = schedule_of(plan_stages(9), {"build": "done", **states})
    schedule.remember((f"equilibrate-{i}", "equilibrate", ending) for i, ending in enumerate(endings))
    assert bool(schedule.held) == held


def test_an_engine_that_is_not_there_holds_all_that_needs_it() -> None:
    schedule = schedule_of(plan_stages(2), {"build": "done"})
    schedule.hold("engine standin", "not installed")
    assert not schedule.has_ready()
    assert schedule.take(4) == []


def test_time_left_is_unknown_without_a_speed() -> None:
    left: dict[Speed, float] = {("lammps", "a"): 100.0, ("lammps", "b"): 300.0}
    assert time_left_s(left, {("lammps", "a"): 10.0}, 2) is None
    assert time_left_s(left, {("lammps", "a"): 10.0, ("lammps", "b"): 30.0}, 2) == 10.0


def test_stages_are_taken_by_the_kind_of_slot_that_they_need() -> None:
    stages = plan_stages(4)
    cpu, gpu = Kind("cpu"), Kind("gpu")
    schedule = Schedule(
        stages,
        {},
        dict.fromkeys(stages, "all"),
        lambda stage: gpu if stage.kind in {"equilibrate", "produce"} else cpu,
    )
    assert schedule.ready() == {cpu: 1}
    assert schedule.take(5, gpu) == []
    ((structure,),) = schedule.take(5, cpu)
    schedule.done(structure)
    assert schedule.ready() == {gpu: 4}
    schedule.hold("resource gpu", "SLURM refuses its jobs")
    assert schedule.ready() == {}
    assert not schedule.has_ready()
    assert schedule.take(5, gpu) == []
