"""What `campaign retry` takes, and that what was held back goes on with it."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from campaign.execution.driver import run_campaign
from campaign.execution.requests import read_requests
from campaign.layout import Layout
from campaign.plan import make_plan
from campaign.spec import load_spec
from tests.standin_campaign import committed, engine_starts, use_standin, write_spec
from tests.test_cli import campaign, campaign_process

SEEDS = 6


def make(directory: Path, text: str) -> Layout:
    """Run a campaign of this spec to its end."""
    spec = directory / "spec.yaml"
    spec.write_text(text)
    layout = Layout(directory / "campaign")
    plan, stages = make_plan(load_spec(spec))
    run_campaign(layout.root, plan, stages, workers=2, spec_text=text)
    layout.identity.write_text(json.dumps({"format": 1, "campaign": "standins", "created": "now"}))
    return layout


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """Two calculations that fail by physics, one with few seeds, one with enough to be held back."""
    use_standin(monkeypatch)
    text = write_spec(tmp_path, ["nan", "steady"], SEEDS).read_text()
    other = text[text.index("  toy:") :].replace("toy", "other").replace(f"count: {SEEDS}", "count: 1")
    other = other.replace("seed:", "length_ps: [2.0, 3.0]\n      seed:")
    return make(tmp_path, text + other)


def retried(layout: Layout, *what: str) -> set[str]:
    """Stages that a retry asks for; the request is taken back."""
    done = campaign("retry", *what, "--dir", str(layout.root), cwd=layout.root)
    assert done.returncode == 0, done.stderr
    assert "next: campaign run" in done.stderr
    (request,) = read_requests(layout)
    request.path.unlink()
    return set(request.payload["stages"])


def complaint(layout: Layout, *what: str) -> str:
    done = campaign("retry", *what, "--dir", str(layout.root), cwd=layout.root)
    assert done.returncode == 2
    assert read_requests(layout) == []
    return done.stderr


def test_a_class_a_label_a_run_or_a_stage_can_be_retried(layout: Layout) -> None:
    failed = json.loads(layout.status.read_text())["failed"]
    kinds = {stage_id: entry["runs"][0].split("/")[0] for stage_id, entry in failed.items()}
    of_toy = {stage_id for stage_id, name in kinds.items() if name == "toy"}
    assert of_toy
    assert of_toy < set(failed)
    assert retried(layout, "physics") == retried(layout, "all") == set(failed)
    assert retried(layout, "potential=nan") == set(failed)
    assert retried(layout, "toy") == retried(layout, "toy/potential=nan") == of_toy
    # A label that only one of the calculations has.
    assert retried(layout, "length=2.0") < set(failed) - of_toy
    one = sorted(of_toy)[0]
    assert retried(layout, failed[one]["runs"][0]) == retried(layout, one[:12]) == {one}
    assert retried(layout, one, "other") == {one} | (set(failed) - of_toy)
    assert "no failed run matches 'potential=steady'" in complaint(layout, "potential=steady")
    assert "has no label 'lenth'; did you mean 'length'?" in complaint(layout, "lenth=2.0")


def test_a_run_that_is_held_back_is_tried_alone(layout: Layout) -> None:
    shown = campaign("status", str(layout.root), cwd=layout.root).stdout
    # Three, or four: another one may have been on its way.
    held = re.search(r"held back: toy potential=nan: ([34] failures in a row: physics)", shown)
    assert held
    snapshot = json.loads(layout.status.read_text())
    of_toy = {
        stage_id for stage_id, entry in snapshot["failed"].items() if entry["runs"][0].startswith("toy/")
    }
    spec = load_spec(layout.spec)
    plan, stages = make_plan(spec)
    waiting = next(
        run
        for run in plan.calculation("toy").runs
        if run.labels["potential"] == "nan" and of_toy.isdisjoint(run.stages)
    )
    shown = campaign("plan", str(layout.spec), "--dir", str(layout.root), cwd=layout.root).stdout
    assert re.search(r"runs +16: 8 done, 8 failed or held back", shown)
    assert "nothing to compute" in shown
    told = campaign("why", waiting.id, str(layout.root), cwd=layout.root).stdout
    assert f"it is held back ({held.group(1)})" in " ".join(told.split())
    assert f"campaign retry {waiting.id} --dir {layout.root} && campaign run" in told
    assert retried(layout, waiting.id) == set()  # those that failed are not asked for
    before = engine_starts(layout.root)
    # It may have come as far as its production before its condition was held back.
    left = len({stage for stage in waiting.stages if stages[stage].engine} - set(committed(layout.root)))
    done = campaign("retry", waiting.id, "--dir", str(layout.root), cwd=layout.root)
    assert "asked for 1 run held back to be tried all the same" in done.stderr
    assert "a retry of" in campaign("status", str(layout.root), cwd=layout.root).stdout
    run_campaign(layout.root, plan, stages, workers=2)
    started = engine_starts(layout.root) - before
    assert started.total() == left
    assert Counter(name.split("-")[0] for name in started)["produce"] == 1
    assert read_requests(layout) == []
    assert "held back: toy potential=nan" in campaign("status", str(layout.root), cwd=layout.root).stdout


def test_a_run_that_could_not_begin_says_why_and_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_standin(monkeypatch)
    write_spec(tmp_path, ["absent"], 1)
    done = campaign_process("run", "spec.yaml", "--dir", "here", "--json", cwd=tmp_path)
    assert done.returncode == 3
    assert "held back: engine standin: the stand-in is not installed" in done.stderr
    assert json.loads(done.stdout)["held"] == {"engine standin": "the stand-in is not installed"}
