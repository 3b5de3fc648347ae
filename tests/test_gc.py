"""What `campaign gc` finds and removes, and that a kill in the middle of it does no harm."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from campaign.errors import BusyError, FailureClass
from campaign.execution import garbage
from campaign.execution.commit import read_manifest, verify
from campaign.execution.disk import drop_states, examine_stage, has_state, lost_stages, stages_on_disk
from campaign.execution.driver import run_campaign
from campaign.execution.garbage import GROUPS, collect_garbage, find_garbage
from campaign.execution.lock import DriverLock
from campaign.layout import Layout
from campaign.ledger import Holder, Ledger
from campaign.plan_file import load_plan
from tests.standin_campaign import engine_starts, plan_of, use_standin, write_spec
from tests.test_cli import campaign

RESTART = len("state 100\n")


class KilledError(BaseException):
    """What a kill is to the code that it ends."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A campaign with two finished runs, a failed one, and one that its plan has no longer."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_standin(monkeypatch)
        root = tmp_path_factory.mktemp("made") / "campaign"
        for potentials in (["steady", "flaky", "nan"], ["steady", "nan"]):
            spec = write_spec(root.parent, potentials, 1)
            plan, stages = plan_of(spec)
            run_campaign(root, plan, stages, workers=2, spec_text=spec.read_text())
    Layout(root).identity.write_text(json.dumps({"format": 1, "campaign": "standins", "created": "now"}))
    return root


@pytest.fixture
def layout(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    use_standin(monkeypatch)
    shutil.copytree(made, tmp_path / "campaign")
    return Layout(tmp_path / "campaign")


def litter(layout: Layout) -> None:
    """Leave what kills, clean-ups and rebuilds leave."""
    plan = load_plan(layout.plan)
    steady, _ = plan.calculations[0].runs
    (layout.attempts / f"{steady.stages[1][:16]}-7-abcdef").mkdir()
    (layout.root / f".plan.json.{2**30}").write_text("a part")  # no process has so high a number
    (layout.root / f".status.json.{os.getpid()}").write_text("being written")
    (layout.root / "set-aside" / "2026" / "results.zarr").mkdir(parents=True)
    (layout.root / "set-aside" / "2026" / "results.zarr" / "zarr.json").write_text("{}")
    for stage_id in (steady.stages[2], "ab" * 16):
        segment = layout.root / "segments" / stage_id[:2] / stage_id / "0001"
        segment.mkdir(parents=True)
        (segment / "manifest.json").write_text(json.dumps({"wall_s": 1800.0}))
    (layout.stage("cd" * 16)).mkdir(parents=True)
    (layout.stage("cd" * 16) / "result.nc").write_text("left")


def numbers(layout: Layout) -> dict[str, int]:
    return {group.name: len(group.items) for group in find_garbage(layout)}


def test_each_group_is_found_with_its_size_and_cost_and_nothing_is_changed(layout: Layout) -> None:
    litter(layout)
    before = sorted(layout.root.rglob("*"))
    groups = {group.name: group for group in find_garbage(layout)}
    assert set(groups) == set(GROUPS)
    plan = load_plan(layout.plan)
    steady, _ = plan.calculations[0].runs
    restarts = {layout.stage(steady.stages[1]) / "state.restart"}  # a production leaves none
    assert set(groups["restarts"].items) == restarts
    assert groups["restarts"].size == len(restarts) * RESTART
    assert groups["segments"].core_hours == pytest.approx(0.5)  # that of the finished stage costs nothing
    wall_s = sum(read_manifest(path)["wall_s"] for path in groups["stages"].items)
    assert groups["stages"].core_hours == pytest.approx(wall_s / 3600)
    assert len(groups["stages"].items) == 3
    for name in ("failed", "leftovers", "remains", "set-aside", "temporary"):
        assert len(groups[name].items) == 1, name
    assert sorted(layout.root.rglob("*")) == before


def test_what_is_removed_is_told_to_the_ledger_and_nothing_is_repeated(layout: Layout) -> None:
    litter(layout)
    starts = engine_starts(layout.root)
    removed = collect_garbage(layout)
    assert {group.name for group in removed} == set(GROUPS)
    assert find_garbage(layout) == []
    plan, stages = plan_of(layout.spec)
    with Ledger.open(layout, read_only=True) as ledger:
        done = {stage_id for stage_id, state in ledger.states().items() if state == "done"}
    assert done == set(stages_on_disk(layout))
    assert done <= set(plan.stages)
    for stage_id in done:
        verify(layout.stage(stage_id))
    run_campaign(layout.root, plan, stages, workers=1)
    assert engine_starts(layout.root) == starts


def test_a_failed_stage_keeps_what_a_retry_starts_from(layout: Layout) -> None:
    _, failed = load_plan(layout.plan).calculations[0].runs
    segment = layout.root / "segments" / failed.stages[2][:2] / failed.stages[2] / "0001"
    segment.mkdir(parents=True)
    (segment / "manifest.json").write_text(json.dumps({"wall_s": 3600.0, "threads": 2}))
    collect_garbage(layout, set(GROUPS) - {"failed"})
    assert segment.exists()
    assert has_state(layout, failed.stages[1], "standin")
    (group,) = find_garbage(layout)
    assert group.name == "failed"
    assert len(group.items) == 2
    assert group.core_hours == pytest.approx(2.0)
    collect_garbage(layout)
    assert not segment.exists()


def test_a_dropped_restart_is_made_again_only_for_who_goes_on_from_it(layout: Layout) -> None:
    plan = load_plan(layout.plan)
    steady, failed = plan.calculations[0].runs
    with Ledger.open(layout, read_only=True) as ledger:
        done = {stage_id for stage_id, state in ledger.states().items() if state == "done"}
    for run in (steady, failed):
        drop_states(layout, [layout.stage(run.stages[1]) / "state.restart"])
        assert examine_stage(layout, run.stages[1], hashes=True).problem == ""
        assert not has_state(layout, run.stages[1], "standin")
    assert list(read_manifest(layout.stage(steady.stages[1]))["dropped"]) == ["state.restart"]
    # The failed production goes on from its equilibration; the steady one is done.
    assert lost_stages(layout, plan.stages, done, ()) == [failed.stages[1]]
    done -= {steady.stages[3]}  # its result needs the data of its production, not a state
    drop_states(layout, [layout.stage(steady.stages[2]) / "state.restart"])
    assert lost_stages(layout, plan.stages, done, ()) == [failed.stages[1]]


def test_nothing_is_removed_while_a_driver_is_alive(layout: Layout) -> None:
    litter(layout)
    before = sorted(layout.root.rglob("*"))
    with DriverLock(layout.lock), pytest.raises(BusyError):
        collect_garbage(layout)
    assert sorted(layout.root.rglob("*")) == before


def test_a_running_attempt_of_another_process_is_no_leftover(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Ledger.open(layout) as ledger:
        ledger.acquire(Holder.this_process())
        ledger.retry(ledger.failed())
        failed = next(stage_id for stage_id, state in ledger.states().items() if state == "pending")
        (attempt,) = ledger.begin([(failed, "slot", None)])
    shutil.rmtree(layout.attempts)
    layout.attempt(attempt).mkdir(parents=True)
    assert numbers(layout)["leftovers"] == 1
    monkeypatch.setattr(garbage, "current_holder", lambda _: Holder("here", os.getpid() + 1, "now"))
    assert "leftovers" not in numbers(layout)


def test_a_search_beside_a_campaign_at_work_misses_nothing_and_takes_nothing_for_a_leftover(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    litter(layout)
    begun = layout.attempts / f"{next(iter(load_plan(layout.plan).stages))[:16]}-9-abcdef"
    monkeypatch.setattr(garbage, "current_holder", lambda _: begun.mkdir())  # after the look at the ledger
    real = garbage._files

    def files(path: Path) -> Iterator[Path]:
        yield path.with_name("gone meanwhile")
        yield from real(path)

    monkeypatch.setattr(garbage, "_files", files)
    groups = {group.name: group for group in find_garbage(layout)}
    assert begun.is_dir()
    assert begun not in groups["leftovers"].items
    assert groups["restarts"].size == RESTART * len(groups["restarts"].items)


def test_a_collection_that_fails_gives_the_campaign_back(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    litter(layout)

    def full(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(garbage, "remove", full)
        with pytest.raises(OSError, match="Input/output"):
            collect_garbage(layout)
    with Ledger.open(layout) as ledger:
        elsewhere = Holder("another", 1, "2026-01-01T00:00:00+00:00")
        ledger.acquire(elsewhere, wait=lambda _: pytest.fail("the lease was not given back"))


@contextmanager
def dying(monkeypatch: pytest.MonkeyPatch, step: int) -> Iterator[None]:
    """End the process, as it were, just before the ``step``-th change of the disk or the ledger."""
    calls = iter(range(1, 1000))

    def mortal(module: Any, name: str) -> None:
        real = getattr(module, name)

        def call(*arguments: Any, **more: Any) -> Any:
            if next(calls) == step:
                raise KilledError
            return real(*arguments, **more)

        patch.setattr(module, name, call)

    with monkeypatch.context() as patch:
        for module, name in (
            (Path, "rename"),
            (Path, "replace"),
            (Path, "unlink"),
            (shutil, "rmtree"),
            (Ledger, "forget"),
        ):
            mortal(module, name)
        yield


def test_a_kill_at_any_step_leaves_everything_consistent(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    litter(layout)
    starts = engine_starts(layout.root)
    step, finished = 0, False
    pristine = layout.root.with_name("pristine")
    shutil.copytree(layout.root, pristine)
    while not finished:
        step += 1
        shutil.rmtree(layout.root)
        shutil.copytree(pristine, layout.root)
        with dying(monkeypatch, step):
            try:
                collect_garbage(layout)
                finished = True
            except KilledError:
                pass
        plan = load_plan(layout.plan)
        states = Counter[str]()
        with Ledger.open(layout, read_only=True) as ledger:
            for stage_id, state in ledger.states().items():
                if stage_id in plan.stages:
                    states[state] += 1
        assert states == {"done": 5, "failed": 1, "pending": 1}
        for stage_id in set(stages_on_disk(layout)) - {"cd" * 16}:
            assert examine_stage(layout, stage_id, hashes=True).problem == ""
        collect_garbage(layout)
        assert find_garbage(layout) == []
    assert step > 15
    run_campaign(layout.root, *plan_of(layout.spec), workers=1)
    assert engine_starts(layout.root) == starts


def test_the_command_says_what_can_go_and_removes_it_when_it_is_told_to(layout: Layout) -> None:
    litter(layout)
    told = campaign("gc", str(layout.root), cwd=layout.root)
    assert told.returncode == 0
    assert "committed stages that no run of the plan uses" in told.stdout
    assert f"campaign gc {layout.root} --yes" in told.stdout
    chosen = campaign("gc", str(layout.root), "--only", "leftovers", "--yes", "--json", cwd=layout.root)
    record = json.loads(chosen.stdout)
    assert record["removed"] is True
    assert [group["name"] for group in record["groups"]] == ["leftovers"]
    assert set(numbers(layout)) == set(GROUPS) - {"leftovers"}
    rest = campaign("gc", str(layout.root), "--yes", "--json", cwd=layout.root)
    assert "failed" not in {group["name"] for group in json.loads(rest.stdout)["groups"]}
    assert set(numbers(layout)) == {"failed"}  # `why` and `retry` need it: only when asked for
    wrong = campaign("gc", str(layout.root), "--only", "restart", cwd=layout.root)
    assert wrong.returncode == 2
    assert "did you mean 'restarts'?" in wrong.stderr
    with DriverLock(layout.lock):
        assert campaign("gc", str(layout.root), "--yes", cwd=layout.root).returncode == 4
    layout.ledger.unlink()
    missing = campaign("gc", str(layout.root), cwd=layout.root)
    assert missing.returncode == 2
    assert "campaign rebuild" in missing.stderr


def test_a_failure_class_is_no_reason_to_keep_a_stage_that_no_run_uses(layout: Layout) -> None:
    write_spec(layout.root.parent, ["steady"], 1)
    run_campaign(layout.root, *plan_of(layout.root.parent / "spec.yaml"), workers=1)
    with Ledger.open(layout, read_only=True) as ledger:
        assert {attempt.failure_class for attempt in ledger.failed().values()} == {FailureClass.PHYSICS}
    collect_garbage(layout)
    assert set(stages_on_disk(layout)) == set(load_plan(layout.plan).stages)
