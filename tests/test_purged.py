"""Campaigns that were moved, or lost stages to a clean-up of the disk, and what doctor, plan and run say."""

import json
import shutil
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import campaign as package
from campaign.execution.commit import is_committed
from campaign.execution.disk import drop_states
from campaign.execution.driver import run_campaign
from campaign.layout import Layout
from campaign.plan_file import load_plan
from campaign.runs import Run
from tests.standin_campaign import engine_starts, plan_of, use_standin, write_spec
from tests.test_cli import SMALL, campaign

RUNS = 3


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_standin(monkeypatch)
        layout = Layout(place / "made" / "here")
        layout.root.mkdir(parents=True)
        layout.identity.write_text(json.dumps({"format": 1, "campaign": "standins", "created": "now"}))
        drive(layout, write_spec(place, ["steady"], RUNS))
    return layout.root


def drive(layout: Layout, spec: Path) -> None:
    plan, stages = plan_of(spec)
    result = run_campaign(layout.root, plan, stages, workers=2, spec_text=spec.read_text())
    assert result.counts["toy"]["done"] == len(plan.calculations[0].runs)


@pytest.fixture
def layout(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """The finished campaign, moved to another place."""
    use_standin(monkeypatch)
    shutil.copytree(finished, tmp_path / "moved")
    return Layout(tmp_path / "moved")


def go_on(layout: Layout, spec: str = "spec.yaml") -> Counter[str]:
    """Run the campaign again from its own spec; return the engine starts that this took."""
    before = engine_starts(layout.root)
    drive(layout, layout.root / spec)
    return engine_starts(layout.root) - before


def planned(layout: Layout, spec: str = "spec.yaml") -> dict[str, Any]:
    done = campaign("plan", spec, "--dir", ".", "--json", cwd=layout.root)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def finding(layout: Layout, what: str, *options: str) -> dict[str, Any]:
    done = campaign("doctor", str(layout.root), "--json", *options, cwd=layout.root)
    found: dict[str, Any] = {one["what"]: one for one in json.loads(done.stdout)}[what]
    assert done.returncode == 3 or found["ok"] is not False
    return found


def runs(layout: Layout) -> list[Run]:
    return list(load_plan(layout.plan).runs)


def longer(layout: Layout) -> str:
    """Write a spec that goes on from the same equilibrations with longer productions; return its name."""
    text = layout.spec.read_text()
    (layout.root / "longer.yaml").write_text(
        text.replace("    axes:", "    settings: {length_ps: 2.0}\n    axes:")
    )
    return "longer.yaml"


def texts(path: Path) -> str:
    """All that a file says; a ledger row by row."""
    if path.suffix == ".sqlite":
        with sqlite3.connect(path) as connection:
            return "\n".join(connection.iterdump())
    if path.name == "manifest.json":
        manifest = json.loads(path.read_text())
        if manifest["engine"] == "standin":
            del manifest["command"]  # the stand-in counts its starts in a file that it is given by its path
        return json.dumps(manifest)
    return path.read_bytes().decode(errors="replace")


def test_a_moved_campaign_goes_on_and_holds_no_path_of_its_old_place(layout: Layout, finished: Path) -> None:
    old = str(finished)
    holding = [path for path in layout.root.rglob("*") if path.is_file() and old in texts(path)]
    assert holding == []
    shown = campaign("status", str(layout.root), cwd=layout.root)
    assert shown.returncode == 0
    assert f"{RUNS} done" in shown.stdout
    assert package.open(layout.root).results["toy"].ds["value"].notnull().all()
    assert planned(layout)["stages"]["to_compute"] == 0
    assert go_on(layout) == {}
    assert finding(layout, "stages", "--verify")["ok"]


@pytest.mark.lammps
def test_a_real_campaign_goes_on_at_another_place(tmp_path: Path) -> None:
    text = SMALL.replace("[forward, backward]", "[forward]").replace("count: 2", "count: 1")
    (tmp_path / "spec.yaml").write_text(text)
    assert campaign("run", "spec.yaml", "--dir", "old/place", cwd=tmp_path).returncode == 0
    (tmp_path / "old" / "place").rename(tmp_path / "new")
    layout = Layout(tmp_path / "new")
    files = [path for path in layout.root.rglob("*") if path.is_file()]
    assert [path for path in files if "old/place" in texts(path)] == []
    attempts = texts(layout.ledger).count('INSERT INTO "attempts"')
    assert attempts == len(load_plan(layout.plan).stages)
    again = campaign("run", "new/spec.yaml", "--dir", "new", cwd=tmp_path)
    assert again.returncode == 0
    assert "1 run: 1 done" in again.stderr
    assert campaign("status", "new", cwd=tmp_path).returncode == 0
    assert texts(layout.ledger).count('INSERT INTO "attempts"') == attempts
    assert package.open(layout.root).results["nemd"].ds["itc"].shape == (1, 1)


def test_what_nobody_needs_is_missed_and_not_made_again(layout: Layout) -> None:
    shutil.rmtree(layout.stages)
    stages = planned(layout)["stages"]
    assert (stages["gone"], stages["made_again"], stages["to_compute"]) == (stages["total"], 0, 0)
    told = campaign("plan", "spec.yaml", "--dir", ".", cwd=layout.root).stdout
    told = " ".join(told.split())
    assert "10 finished stages are gone from the disk; nothing here needs them" in told
    assert "campaign retry gone --dir ." in told
    found = finding(layout, "ledger")
    assert found["ok"] is None
    assert "10 stages of 10 that it calls done are missing" in found["detail"]
    assert "nothing needs them any more" in found["detail"]
    assert go_on(layout) == {}


def test_what_is_needed_is_planned_and_made_again(layout: Layout) -> None:
    first, second, _ = runs(layout)
    for run in (first, second):
        shutil.rmtree(layout.stage(run.stages[1]))
    spec = longer(layout)
    stages = planned(layout, spec)["stages"]
    # Productions and reductions of all runs, and two of the equilibrations that they go on from.
    assert (stages["gone"], stages["made_again"], stages["to_compute"]) == (0, 2, 2 * RUNS + 2)
    assert planned(layout)["stages"]["gone"] == 2
    told = campaign("plan", spec, "--dir", ".", cwd=layout.root).stdout
    assert "2 finished stages are gone from the disk and will be made again" in told
    assert go_on(layout, spec).total() == RUNS + 2


def test_what_nobody_needs_is_made_again_when_asked_for(layout: Layout) -> None:
    first, *_ = runs(layout)
    result = package.open(layout.root).results["toy"].ds["value"].load()
    for stage_id in first.stages[1:]:
        shutil.rmtree(layout.stage(stage_id))
    layout.stage(first.result_stage).mkdir()
    (layout.stage(first.result_stage) / "log.standin").write_text("left by the clean-up")
    asked = campaign("retry", "gone", "--dir", str(layout.root), cwd=layout.root)
    assert "asked for 3 stages gone from the disk to be made again" in asked.stderr
    assert go_on(layout).total() == 2
    assert all(is_committed(layout, stage_id) for stage_id in first.stages)
    assert "all there" in finding(layout, "ledger")["detail"]
    assert package.open(layout.root).results["toy"].ds["value"].equals(result)
    again = campaign("retry", "gone", "--dir", str(layout.root), cwd=layout.root)
    assert again.returncode == 2
    assert "no finished stage is gone" in again.stderr


def test_without_a_ledger_what_is_committed_is_not_planned_again(layout: Layout) -> None:
    layout.ledger.unlink()
    report = planned(layout)
    assert (report["stages"]["to_compute"], report["runs"]["reused"]) == (0, RUNS)
    assert go_on(layout) == {}


def test_a_result_that_the_store_lacks_is_made_again(layout: Layout) -> None:
    first, *_ = runs(layout)
    shutil.rmtree(layout.store)
    shutil.rmtree(layout.stage(first.result_stage))
    report = planned(layout)
    assert report["stages"]["made_again"] == 1
    assert report["runs"]["reused"] == RUNS - 1
    assert "1 of them is still needed" in finding(layout, "ledger")["detail"]
    assert go_on(layout) == {}  # from its production, which is there
    assert is_committed(layout, first.result_stage)


def test_a_stage_without_its_restart_file_is_made_again_where_a_run_goes_on_from_it(layout: Layout) -> None:
    first, *_ = runs(layout)
    drop_states(layout, [layout.stage(first.stages[1]) / "state.restart"])
    assert planned(layout)["stages"]["to_compute"] == 0
    spec = longer(layout)
    assert planned(layout, spec)["stages"]["made_again"] == 1
    assert go_on(layout, spec).total() == RUNS + 1


def test_what_a_clean_up_left_of_a_stage_is_no_obstacle(layout: Layout) -> None:
    first, *_ = runs(layout)
    for path in layout.stage(first.stages[1]).iterdir():
        if path.suffix != ".standin":
            path.unlink()
    assert "it has no manifest" in finding(layout, "stages")["detail"]
    assert go_on(layout, longer(layout)).total() == RUNS + 1


def test_a_file_that_is_gone_or_changed_is_found_by_doctor(layout: Layout) -> None:
    first, *_ = runs(layout)
    log = layout.stage(first.stages[1]) / "log.standin"
    text = log.read_text()
    log.write_text(text.replace("50", "51"))
    assert finding(layout, "stages")["ok"]
    assert "log.standin was changed" in finding(layout, "stages", "--verify")["detail"]
    log.unlink()
    found = finding(layout, "stages")
    assert "log.standin is missing" in found["detail"]
    assert "nothing needs them any more: `campaign rebuild` sets damaged ones aside" in found["detail"]
    assert "`campaign retry gone`" in found["detail"]
    done = campaign("rebuild", ".", cwd=layout.root)
    assert done.returncode == 0
    told = " ".join(done.stdout.split())
    assert "1 stage damaged and set aside, and nothing needs them any more" in told
    assert "to be made again" not in told
    assert "campaign retry gone --dir ." in told
    assert f"{first.stages[1]}: log.standin is missing" in told
    assert finding(layout, "stages", "--verify")["ok"]
    assert go_on(layout).total() == 0
    asked = campaign("retry", "gone", "--dir", str(layout.root), cwd=layout.root)
    assert asked.returncode == 0
    assert go_on(layout).total() == 1
    assert is_committed(layout, first.stages[1])


def test_damaged_stages_that_are_still_needed_are_made_again_by_a_run(layout: Layout) -> None:
    first, *_ = runs(layout)
    shutil.rmtree(layout.store)  # so that results are to be read again
    damaged = (first.result_stage, first.stages[1])
    for stage_id in damaged:
        (layout.stage(stage_id) / "manifest.json").unlink()
    told = finding(layout, "stages")["detail"]
    assert "then `campaign run` makes the 1 again that are still needed" in told
    assert "the others after `campaign retry gone`" in told
    told = " ".join(campaign("rebuild", ".", cwd=layout.root).stdout.split())
    assert f"1 stage damaged and set aside, to be made again: {first.result_stage}" in told
    assert f"1 stage damaged and set aside, and nothing needs them any more: {first.stages[1]}" in told
    go_on(layout)
    assert is_committed(layout, first.result_stage)
    assert not is_committed(layout, first.stages[1])
