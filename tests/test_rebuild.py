"""Ledger and store made again from the committed stages, also after a kill at any step."""

import json
import shutil
import sqlite3
from collections import Counter
from pathlib import Path

import pytest
import xarray as xr

import campaign
from campaign.errors import BusyError
from campaign.execution import rebuild as rebuilding
from campaign.execution.disk import drop_states, stages_on_disk
from campaign.execution.driver import run_campaign
from campaign.execution.lock import DriverLock
from campaign.execution.rebuild import SET_ASIDE, rebuild
from campaign.layout import Layout
from campaign.ledger import Ledger
from tests.standin_campaign import committed, engine_starts, plan_of, use_standin, write_spec

RUNS = 4


class KilledError(BaseException):
    """What a kill is to the code that it ends."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished campaign of stand-ins; tests work on copies of it, which also shows that it can be moved."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_standin(monkeypatch)
        root = tmp_path_factory.mktemp("finished") / "campaign"
        plan, stages = plan_of(write_spec(root.parent, ["steady", "flaky"], RUNS // 2))
        run_campaign(root, plan, stages, workers=2, spec_text=(root.parent / "spec.yaml").read_text())
    Layout(root).identity.write_text(json.dumps({"format": 1, "campaign": "standins", "created": "now"}))
    return root


@pytest.fixture
def layout(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    use_standin(monkeypatch)
    shutil.copytree(finished, tmp_path / "campaign")
    return Layout(tmp_path / "campaign")


def results(layout: Layout) -> xr.Dataset:
    dataset: xr.Dataset = campaign.open(layout.root).results["toy"].ds.load()
    return dataset


def go_on(layout: Layout) -> Counter[str]:
    """Run the campaign again; return the engine starts that this took."""
    before = engine_starts(layout.root)
    plan, stages = plan_of(layout.spec)
    result = run_campaign(layout.root, plan, stages, workers=1)
    assert result.counts["toy"]["done"] == RUNS
    return engine_starts(layout.root) - before


def states(layout: Layout) -> Counter[str]:
    with Ledger.open(layout, read_only=True) as ledger:
        return ledger.counts()


def attempts(layout: Layout) -> int:
    with Ledger.open(layout, read_only=True) as ledger:
        return sum(len(ledger.attempts(stage_id)) for stage_id in ledger.states())


def test_without_ledger_and_store_everything_is_found_again(layout: Layout) -> None:
    before = results(layout)
    with Ledger.open(layout, read_only=True) as ledger:
        speeds = ledger.speeds()
    layout.ledger.unlink()
    layout.status.unlink()
    shutil.rmtree(layout.store)
    rebuilt = rebuild(layout)
    assert rebuilt.counts["toy"] == {"pending": 0, "running": 0, "done": RUNS, "failed": 0, "total": RUNS}
    assert rebuilt.aside is None
    xr.testing.assert_identical(results(layout).drop_attrs(), before.drop_attrs())
    with Ledger.open(layout, read_only=True) as ledger:
        assert ledger.speeds().keys() == speeds.keys()
    assert go_on(layout) == {}
    assert attempts(layout) == len(committed(layout.root))  # the run tried nothing


def test_damaged_ones_are_set_aside_with_a_damaged_plan(layout: Layout) -> None:
    before = results(layout)
    layout.ledger.write_bytes(b"garbage")
    layout.plan.write_text("{")
    (layout.store / "zarr.json").write_text("garbage")
    rebuilt = rebuild(layout)
    assert rebuilt.aside is not None
    kept = {path.name for path in rebuilt.aside.iterdir()}
    assert kept == {"ledger.sqlite", "plan.json", "results.zarr"}
    assert (rebuilt.aside / "ledger.sqlite").read_bytes() == b"garbage"
    xr.testing.assert_identical(results(layout).drop_attrs(), before.drop_attrs())
    assert go_on(layout) == {}


def test_the_journal_of_a_lost_ledger_is_not_played_back_into_the_new_one(layout: Layout) -> None:
    journal = layout.ledger.with_name("ledger.sqlite-journal")
    layout.ledger.unlink()
    journal.write_bytes(b"of the old ledger")
    rebuilt = rebuild(layout)
    assert rebuilt.aside is not None
    assert (rebuilt.aside / journal.name).read_bytes() == b"of the old ledger"
    assert go_on(layout) == {}


def test_damaged_stages_are_set_aside_and_made_again(layout: Layout) -> None:
    plan, _ = plan_of(layout.spec)
    first, second, third, _ = plan.calculations[0].runs
    for run in (first, second, third):
        # So that the results have to be made from the productions again.
        shutil.rmtree(layout.stage(run.result_stage))
    shutil.rmtree(layout.store)
    log = layout.stage(first.stages[2]) / "log.standin"
    log.write_text(log.read_text().replace("50", "51"))  # of the same size
    (layout.stage(second.stages[2]) / "result.nc").unlink()
    manifest = layout.stage(third.stages[2]) / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 99'))

    rebuilt = rebuild(layout)
    assert rebuilt.damaged == {
        first.stages[2]: "log.standin was changed",
        second.stages[2]: "result.nc is missing",
    }
    assert list(rebuilt.foreign) == [third.stages[2]]
    assert rebuilt.counts["toy"]["done"] == 1
    assert rebuilt.aside is not None
    assert len(list(rebuilt.aside.glob("stages/*/*/manifest.json"))) == 2
    assert states(layout)["pending"] == 2 * 3
    assert '"format": 99' in manifest.read_text()


def test_results_that_only_the_store_has_are_kept(layout: Layout) -> None:
    before = results(layout)
    plan, _ = plan_of(layout.spec)
    purged, broken, *_ = plan.calculations[0].runs
    for stage_id in (*purged.stages[1:], broken.stages[1]):
        shutil.rmtree(layout.stage(stage_id))
    rebuilt = rebuild(layout)
    assert rebuilt.kept_results == 1
    assert states(layout) == {"done": len(plan.stages)}  # nobody needs what is gone
    xr.testing.assert_identical(results(layout).drop_attrs(), before.drop_attrs())
    assert go_on(layout) == {}


def test_a_dropped_restart_file_is_no_damage(layout: Layout) -> None:
    plan, _ = plan_of(layout.spec)
    drop_states(layout, [layout.stage(plan.calculations[0].runs[0].stages[1]) / "state.restart"])
    assert not rebuild(layout).damaged


def test_stages_that_no_run_uses_are_remembered(layout: Layout) -> None:
    write_spec(layout.root.parent, ["steady"], 1)
    text = (layout.root.parent / "spec.yaml").read_text()
    plan, stages = plan_of(layout.root.parent / "spec.yaml")
    run_campaign(layout.root, plan, stages, workers=1, spec_text=text)
    before = engine_starts(layout.root)
    rebuilt = rebuild(layout)
    assert rebuilt.counts["toy"]["done"] == 1
    assert rebuilt.unplanned == 3 * (RUNS - 1)
    plan, stages = plan_of(write_spec(layout.root.parent, ["steady", "flaky"], RUNS // 2))
    assert run_campaign(layout.root, plan, stages, workers=1).counts["toy"]["done"] == RUNS
    assert engine_starts(layout.root) == before
    assert attempts(layout) == len(committed(layout.root))


def test_a_driver_that_is_alive_is_left_alone(layout: Layout) -> None:
    files = {path: path.stat().st_mtime_ns for path in layout.root.iterdir() if path != layout.lock}
    with DriverLock(layout.lock), pytest.raises(BusyError):
        rebuild(layout)
    assert {path: path.stat().st_mtime_ns for path in files} == files


def test_a_ledger_that_a_driver_elsewhere_writes_is_not_replaced(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = sqlite3.connect
    monkeypatch.setattr(
        sqlite3, "connect", lambda *names, **more: connect(*names, **{**more, "timeout": 0.1})
    )
    before = layout.ledger.read_bytes()
    with connect(layout.ledger, isolation_level=None) as writer:
        writer.execute("BEGIN IMMEDIATE")
        with pytest.raises(BusyError, match="a driver writes the ledger"):
            rebuild(layout)
    assert layout.ledger.read_bytes() == before


@pytest.mark.parametrize("step", range(1, 6))
def test_a_rebuild_that_is_killed_at_any_step_is_finished_by_the_next(
    step: int, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = results(layout)
    plan, _ = plan_of(layout.spec)
    (layout.stage(plan.stages.ids[0]) / "result.nc").write_bytes(b"damaged")
    # Its renames: a stage, the ledger and the store aside, then the new ledger and store to their places.
    rename, calls = Path.rename, iter(range(1, 100))

    def rename_or_die(path: Path, target: Path) -> Path:
        if next(calls) == step:
            raise KilledError
        return rename(path, target)

    with monkeypatch.context() as dying:
        dying.setattr(Path, "rename", rename_or_die)
        with pytest.raises(KilledError):
            rebuild(layout)
    (layout.root / rebuilding.BUILDING).mkdir()
    (layout.root / rebuilding.BUILDING / "ledger.sqlite").write_bytes(b"a part")
    if step % 2:
        rebuild(layout)
        assert not (layout.root / rebuilding.BUILDING).exists()
        assert (layout.root / SET_ASIDE).exists()
        assert plan.stages.ids[0] not in stages_on_disk(layout)
    assert go_on(layout) == {}  # a run goes on from each of these states too
    xr.testing.assert_identical(results(layout).drop_attrs(), before.drop_attrs())
