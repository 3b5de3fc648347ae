"""What the command line shows: whole words in any width, what matters first, and what to do next."""

import io
import json
import math
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from campaign.cli import inspection, progress, requests, run, specs, summary, watch, why
from campaign.cli.app import err
from campaign.cli.grid import MOST_ROWS, make_grid, render
from campaign.cli.text import duration, remedy
from campaign.compare import PlanReport, RunCounts, StageCounts
from campaign.errors import BusyError, ExitCode, FailureClass
from campaign.execution.lock import DriverLock
from campaign.execution.requests import read_requests, write_request
from campaign.execution.slurm import JobState
from campaign.execution.snapshot import show_submitted
from campaign.layout import Layout
from campaign.ledger import Ending, Holder, Ledger
from campaign.numbers import with_error
from campaign.plan import CalculationPlan, Plan
from campaign.results import Campaign
from campaign.runs import Dimension, RunTable
from tests.synthetic import make_campaign, nemd_result, plan_spec

WIDTHS = st.integers(30, 120)


@contextmanager
def captured(width: int = 80, *, terminal: bool = False) -> Iterator[io.StringIO]:
    """Let all modules print to one text, as wide as a terminal."""
    text = io.StringIO()
    console = Console(
        file=text, width=width, highlight=False, soft_wrap=True, force_terminal=terminal, color_system=None
    )
    with (
        patch.object(inspection, "out", console),
        patch.object(why, "out", console),
        patch.object(run, "out", console),
        patch.object(specs, "out", console),
        patch.object(progress, "err", console),
        patch.object(watch, "out", console),
    ):
        yield text


def calculation(sizes: dict[str, int]) -> CalculationPlan:
    """A full grid without settings or stages."""
    dimensions = tuple(
        Dimension(name, {name: tuple(f"{name}{i}" for i in range(size))}, {}) for name, size in sizes.items()
    )
    cells = list(np.ndindex(*sizes.values()))
    runs = RunTable("nemd", dimensions, [], cells, [0] * len(cells), [()] * len(cells))
    return CalculationPlan("nemd", "nemd", "lammps", dimensions, runs, {}, ())


@given(width=WIDTHS, seeds=st.integers(1, 200))
def test_grid_fits_and_cuts_no_word(width: int, seeds: int) -> None:
    ensemble = calculation({"timestep": 1, "preheat_fraction": 3, "potential": 2, "seed": seeds})
    lines = [line.plain for line in render(make_grid(ensemble, "d" * 6 * seeds), width)]
    text = " ".join(" ".join(lines).split())
    assert max(map(len, lines)) <= width
    assert "timestep=timestep0" in text
    for fraction in range(3):
        for potential in range(2):
            assert f"preheat_fraction{fraction} | potential{potential}" in text
    assert text.count("timestep") == 2  # once for all rows, with its label
    assert text.count("D") == 6 * seeds or text.count(f"{seeds} done") == 6


def test_a_grid_of_many_runs_is_told_in_numbers() -> None:
    ensemble = calculation({"temperature": 10, "direction": 10, "seed": 1000})
    lines = [str(line) for line in render(make_grid(ensemble, "dfrp" * 25_000), 80)]
    assert len(lines) < 150  # not a letter for each of 100,000 runs
    assert sum("250" in line for line in lines) == MOST_ROWS


def snapshot(plan: Plan, **changes: Any) -> dict[str, Any]:
    """Give the driver's picture of a campaign in which nothing has happened."""
    return {
        "driver": {"pid": 7, "host": socket.gethostname(), "epoch": 1, "state": "running"},
        "updated": datetime.now(UTC).isoformat(),
        "counts": {c.name: {"pending": len(c.runs), "total": len(c.runs)} for c in plan.calculations},
        "states": {c.name: "p" * len(c.runs) for c in plan.calculations},
        "running": {},
        "failed": {},
        "held": [],
        "time_left_s": None,
        **changes,
    }


def failure(run_id: str, failure_class: str = "physics", n_runs: int = 1) -> dict[str, Any]:
    return {"class": failure_class, "message": "Lost atoms", "runs": [run_id], "n_runs": n_runs}


def test_live_panel_shows_in_what_runs_differ_whatever_the_width(tmp_path: Path) -> None:
    plan = plan_spec(tmp_path)
    stage = {
        "kind": "produce",
        "steps_done": 6070,
        "steps_total": 18000,
        "rate": 1.72e5,
        "runs": ["nemd/direction=forward,seed=2"],
    }
    names = progress.Names(plan)
    for width in (40, 60, 80):
        console = Console(file=io.StringIO(), width=width)
        with console.capture() as shown:
            console.print(progress.panel(snapshot(plan, running={"a": stage}), names, width))
        assert "produce  forward 2  step 6,070 of 18,000" in shown.get()
        assert ("atom-step/s" in shown.get()) == (width > 60)
        assert "…" not in shown.get()


@pytest.mark.parametrize("terminal", [True, False])
def test_each_failure_is_told_once_and_the_last_state_stays(tmp_path: Path, *, terminal: bool) -> None:
    plan = plan_spec(tmp_path)
    old, new = (
        {"a": failure("nemd/direction=forward,seed=1")},
        failure("nemd/direction=forward,seed=2", n_runs=3),
    )
    with captured(terminal=terminal) as text, progress.progress(plan) as watch:
        watch(snapshot(plan, failed=old))
        watch(snapshot(plan, failed=old | {"b": new}))
        watch(snapshot(plan, failed=old | {"b": new}))
        ended = snapshot(plan, failed=old | {"b": new})
        ended["driver"]["state"] = "finished"
        ended["counts"] = {"nemd": {"done": 6, "failed": 2, "total": 8}}
        watch(ended)
    shown = text.getvalue()
    assert shown.count("failed: nemd/direction=forward,seed=2 and 2 more runs (physics): Lost atoms") == 1
    assert "failed: nemd/direction=forward,seed=1" not in shown
    assert shown.rstrip().endswith("8 runs: 6 done, 2 failed")
    if not terminal:
        assert shown.count("8 runs: 6 done, 2 failed") == 1


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Stderr as a pipe that nobody reads any more."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        monkeypatch.setattr(err, "_file", pipe)
        monkeypatch.setattr(err, "quiet", False)
        yield


@pytest.mark.usefixtures("unread")
def test_a_driver_learns_that_nobody_reads_and_then_nothing_is_written(tmp_path: Path) -> None:
    plan = plan_spec(tmp_path)
    with progress.progress(plan) as watch:
        with pytest.raises(BrokenPipeError):
            watch(snapshot(plan))
        err.print("the driver ends in order")


def test_records_of_the_driver_go_to_its_log_and_not_to_the_terminal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import logging

    layout = Layout(tmp_path)
    with run.driver_log(layout):
        logging.getLogger("campaign.execution.driver").warning("attempt 1: cancelled")
    assert "attempt 1: cancelled" in layout.log.read_text()
    assert caplog.records == []
    logging.getLogger("campaign").warning("again for all")
    assert len(caplog.records) == 1


def status(layout: Layout, picture: dict[str, Any]) -> str:
    layout.status.write_text(json.dumps(picture))
    with captured() as text:
        inspection.show_status(layout, as_json=False)
    return text.getvalue()


def test_status_says_whether_a_driver_runs(tmp_path: Path) -> None:
    plan = plan_spec(tmp_path)
    layout = make_campaign(tmp_path, plan, {})
    running = snapshot(plan, states={"nemd": "rrpppppp"})
    shown = status(layout, running)
    assert "no driver is running" in shown
    assert "8 runs: 8 pending" in shown  # what a dead driver was at is not running
    with DriverLock(layout.lock):
        shown = status(layout, running)
        assert f"driver {os.getpid()} on" in shown
        assert "is starting" in shown  # the one of the picture has ended
        shown = status(layout, running | {"driver": running["driver"] | {"pid": os.getpid()}})
        assert f"driver {os.getpid()} on" in shown
        assert "running; as of" in shown
        assert "2 running" in shown
    elsewhere = running | {"driver": running["driver"] | {"host": "another"}}
    assert "another: running" in status(layout, elsewhere)
    long_ago = (datetime.now(UTC) - timedelta(minutes=5)).isoformat()
    assert "may be dead" in status(layout, elsewhere | {"updated": long_ago})
    finished = running | {"driver": running["driver"] | {"state": "finished"}, "updated": long_ago}
    assert "finished 5 min ago" in status(layout, finished)


def test_status_and_watch_know_of_a_driver_that_is_to_come(tmp_path: Path) -> None:
    plan = plan_spec(tmp_path)
    layout = make_campaign(tmp_path, plan, {})
    layout.jobs.mkdir()
    layout.driver_job.write_text(json.dumps({"job": "12", "site": "gpu", "campaign": plan.campaign}))
    show_submitted(layout, plan, "gpu")
    follows = "its driver is job 12 on gpu"
    with captured() as text:
        inspection.show_status(layout, as_json=False)
    for part in ("submitted 0 s ago", follows, "8 runs: 8 pending"):
        assert part in text.getvalue()
    view = watch.View(layout)
    view.picture()
    assert view.goes_on
    for state, said in (
        (JobState("PENDING", "Priority"), "job 12 waits (Priority)\n"),
        (JobState("PENDING", "PartitionTimeLimit"), "never will begin"),
        (JobState("RUNNING"), "about to begin"),
        (JobState("CANCELLED"), "job 12 has ended; to go on: campaign run"),
        (None, "job 12 has ended; to go on: campaign run"),
    ):
        states = {} if state is None else {"12": state}
        with (
            captured() as text,
            patch("campaign.execution.slurm.states_of_jobs", lambda timeout_s, states=states: states),
            patch(
                "campaign.site.find_site", lambda name: SimpleNamespace(site=SimpleNamespace(environment={}))
            ),
        ):
            inspection.show_status(layout, as_json=False)
            view._ask_queue_at = 0.0  # SLURM is asked seldom, and not for the first picture
            view.picture()
        assert said in text.getvalue().splitlines(keepends=True)[-1]  # SLURM may take long to answer
        assert view.goes_on == (state is not None and not state.ended)
    picture = snapshot(plan, states={"nemd": "ddpppppp"})
    dead = picture["driver"] | {"host": "another", "job": "11"}
    long_ago = (datetime.now(UTC) - timedelta(minutes=5)).isoformat()
    for driver in (dead | {"state": "handed over"}, dead):  # in the second case its node failed
        assert follows in status(layout, picture | {"driver": driver, "updated": long_ago})
    assert follows not in status(layout, picture | {"driver": dead | {"state": "finished"}})
    layout.driver_job.unlink()
    assert "to go on: campaign run" in status(layout, picture | {"driver": dead, "updated": long_ago})
    first, second, *_ = plan.runs
    with Ledger.open(layout) as ledger:
        ledger.acquire(Holder.this_process())
        ledger.register(plan.stages.values())
        ledger.restore((stage_id, None, Ending()) for run in (first, second) for stage_id in run.stages)
    status(layout, picture | {"states": {"nemd": "d"}})  # of a spec that had one run
    show_submitted(layout, plan, "gpu")  # shows what is known of the runs
    assert json.loads(layout.status.read_text())["states"] == {"nemd": "ddpppppp"}


def test_watch_shows_states_speeds_failures_and_results_so_far(tmp_path: Path) -> None:
    plan = plan_spec(tmp_path)
    random = np.random.default_rng(3)
    runs = [plan.find(f"direction=forward,seed={seed}") for seed in (1, 2, 3)]
    layout = make_campaign(tmp_path, plan, {one.id: nemd_result(random) for one in runs})
    running, broken = list(plan.runs)[3:5]
    stage = {"kind": "produce", "steps_done": 9, "steps_total": 18, "rate": 5e4, "runs": [running.id]}
    elsewhere = {"pid": 7, "host": "another", "epoch": 2, "state": "running"}
    states = {"nemd": "dddrfppp"}
    failed = {"a": failure(broken.id)}
    picture = snapshot(plan, driver=elsewhere, running={"b": stage}, states=states, failed=failed)
    layout.status.write_text(json.dumps(picture))
    with captured() as text:
        watch.watch(layout)  # not a terminal: once
    shown = text.getvalue()
    for part in (
        "driver 7 on another: running; as of",
        "step 9 of 18",
        "5e+04 atom-step/s",
        "physics: 1 run",
    ):
        assert part in shown
    assert "DDDr" in shown.replace(" ", "")
    conditions = summary.condition_rows(Campaign(tmp_path).results["nemd"].ds, "nemd")
    assert with_error(conditions[0]["itc"], conditions[0]["itc_standard_error"]) in shown


def test_watch_shows_the_results_on_a_low_terminal(tmp_path: Path) -> None:
    axes = "\n    axes:\n      temperature_K: [250, 300, 350]\n      direction: [forward, backward]\n"
    plan = plan_spec(tmp_path, axes + "      seed: {count: 4}\n")
    random = np.random.default_rng(3)
    runs = [run for run in plan.runs if run.labels["seed"] != 4]
    layout = make_campaign(tmp_path, plan, {one.id: nemd_result(random) for one in runs})
    stage = {"kind": "produce", "steps_done": 9, "steps_total": 18, "rate": 5e4, "runs": [runs[0].id]}
    layout.status.write_text(
        json.dumps(snapshot(plan, states={"nemd": "dddp" * 6}, running=dict.fromkeys("abcd", stage)))
    )
    last = "interval by Fieller's theorem."
    for height, kept in (
        (60, ("DDD.", "step 9 of 18")),
        (27, ("18 done, 6 pending", "step 9 of 18")),
        (23, ()),
    ):
        console = Console(file=io.StringIO(), width=100, height=height, force_terminal=True, soft_wrap=True)
        with patch.object(watch, "out", console), DriverLock(layout.lock):
            lines = console.render_lines(watch.View(layout).picture())
        text = "\n".join("".join(segment.text for segment in line).rstrip() for line in lines)
        assert len(lines) <= height
        assert text.endswith(last)
        assert all(part in text for part in kept)


def test_watch_ends_with_the_driver(tmp_path: Path) -> None:
    plan = plan_spec(tmp_path)
    layout = make_campaign(tmp_path, plan, {})
    picture = snapshot(plan)
    picture["driver"]["state"] = "finished"
    layout.status.write_text(json.dumps(picture))
    with captured(terminal=True) as text:
        watch.watch(layout)
    assert "finished 0 s ago" in text.getvalue()


def test_a_driver_on_another_host_is_asked_to_stop(tmp_path: Path) -> None:
    plan = plan_spec(tmp_path)
    layout = make_campaign(tmp_path, plan, {})
    picture = snapshot(plan)
    picture["driver"]["host"] = "another"
    layout.status.write_text(json.dumps(picture))
    requests.request_stop(layout, wait=False)
    assert [request.kind for request in read_requests(layout)] == ["stop"]


@pytest.mark.parametrize(("age_s", "silent"), [(0, False), (600, True)])
def test_stop_names_a_driver_that_does_not_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age_s: float, silent: bool
) -> None:
    plan = plan_spec(tmp_path)
    layout = make_campaign(tmp_path, plan, {})
    picture = snapshot(plan)
    picture["updated"] = (datetime.now(UTC) - timedelta(seconds=age_s)).isoformat()
    layout.status.write_text(json.dumps(picture))
    monkeypatch.setattr(requests, "WAIT_S", 0.0)
    with DriverLock(layout.lock), pytest.raises(BusyError) as caught:
        requests.request_stop(layout, wait=True)
    told = str(caught.value)
    assert caught.value.exit_code == ExitCode.BUSY
    assert f"process {os.getpid()} on {socket.gethostname()}, has not ended within 0 s" in told
    assert ("its last sign of life was 10 min ago" in told) is silent
    assert (f"kill -CONT {os.getpid()}" in told) is silent


def test_status_tells_of_failures_and_waiting_requests(tmp_path: Path) -> None:
    plan = plan_spec(tmp_path)
    layout = make_campaign(tmp_path, plan, {})
    shown = status(layout, snapshot(plan, failed={"a": failure("nemd/direction=forward,seed=1")}))
    assert "physics: 1 stage, 1 run" in shown
    assert "the same settings fail again" in shown
    assert "campaign retry" not in shown
    write_request(layout, "retry", {"stages": ["a"]})
    lost = failure("nemd/direction=forward,seed=1", "lost worker")
    shown = status(layout, snapshot(plan, failed={"a": lost}))
    assert "campaign retry 'lost worker'" in shown
    assert "a retry of 1 stage waits for the next `campaign run`" in shown


def test_retry_is_offered_only_where_it_can_help() -> None:
    offered = {name for name in FailureClass if "retry" in remedy(Layout(Path("c")), name, name)[1]}
    assert offered == set(FailureClass) - {FailureClass.PHYSICS, FailureClass.BAD_INPUT}


def test_commands_can_be_typed_as_they_are_shown() -> None:
    layout = Layout(Path("my campaigns/a"))
    assert remedy(layout, "lost worker", "lost worker")[1] == (
        "campaign retry 'lost worker' --dir 'my campaigns/a' && "
        "campaign run 'my campaigns/a/spec.yaml' --dir 'my campaigns/a'"
    )


def test_result_of_a_run_comes_with_its_error_its_kind_and_its_flags(tmp_path: Path) -> None:
    plan = plan_spec(tmp_path)
    chosen = plan.find("direction=forward,seed=1")
    result = nemd_result(np.random.default_rng(1), flags="jump_resolved")
    layout = make_campaign(tmp_path, plan, {chosen.id: result})
    record = why._result(layout, plan.calculations[0], chosen)
    assert record is not None
    assert record["valid"]
    assert record["flags"] == {"jump_resolved": "the temperature jump is only 3.0 times its standard error"}
    assert record["final_stacking"] == "AB"
    with captured() as text:
        why._print_result(record)
    assert (
        f"itc: {with_error(result['itc'].item(), result['itc_standard_error'].item())} MW" in text.getvalue()
    )


def results(root: Path, runs: dict[str, float]) -> tuple[list[dict[str, Any]], str]:
    """Conditions and printed table of a campaign with these runs done, with their jumps."""
    plan = plan_spec(root)
    random = np.random.default_rng(3)
    done = {}
    for text, jump in runs.items():
        chosen = plan.find(text)
        done[chosen.id] = nemd_result(random, direction=str(chosen.labels["direction"]), mean_jump=jump)
    layout = make_campaign(root, plan, done)
    status = snapshot(plan)
    layout.status.write_text(json.dumps(status))
    conditions = summary.condition_rows(Campaign(root).results["nemd"].ds, "nemd")
    output = io.StringIO()
    summary.print_results(Console(file=output, width=80, soft_wrap=True), "nemd", conditions)
    return conditions, output.getvalue()


def test_table_shows_no_digits_without_meaning(tmp_path: Path) -> None:
    few, shown = results(tmp_path / "few", {f"direction=forward,seed={seed}": 60 for seed in (1, 2)})
    assert [row["labels"]["direction"] for row in few] == ["forward", "backward"]  # not both: one has no runs
    assert "not resolved" in shown
    assert "±" not in shown.replace("ITC ± standard error", "")
    _, shown = results(tmp_path / "more", {f"direction=forward,seed={seed}": 60 for seed in (1, 2, 3, 4)})
    assert "not resolved" not in shown
    assert "Fieller" in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown


def test_both_directions_are_joined_where_both_have_runs(tmp_path: Path) -> None:
    runs = {
        f"direction={direction},seed={seed}": 60.0 for direction in ("forward", "backward") for seed in (1, 2)
    }
    rows, _ = results(tmp_path, runs)
    assert [(row["labels"]["direction"], row["n"]) for row in rows] == [
        ("forward", 2),
        ("backward", 2),
        ("both", 4),
    ]


@pytest.mark.parametrize("axes", ["\n", "\n    axes: {temperature_K: [300, 400]}\n"])
def test_a_campaign_without_seeds_has_its_conductance_too(tmp_path: Path, axes: str) -> None:
    plan = plan_spec(tmp_path, axes)
    random = np.random.default_rng(1)
    make_campaign(tmp_path, plan, {run.id: nemd_result(random) for run in plan.runs})
    dataset = Campaign(tmp_path).results["nemd"].ds
    rows = summary.condition_rows(dataset, "nemd")
    assert [row["itc"] for row in rows] == pytest.approx(dataset["itc"].values.ravel().tolist())
    assert [(row["n"], row["n_seeds"]) for row in rows] == [(1, 1)] * dataset["itc"].size


def test_pairs_are_labels_where_they_are_an_axis(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    axes = """
    axes:
      pair:
        - {label: graphene/hbn, set: {structure.upper.material: graphene}}
        - {label: one, set: {structure.upper.material: hbn}}
      seed: {count: 2}
"""
    for number, text in enumerate((axes, "\n    axes: {seed: {count: 2}}\n")):
        root = tmp_path / str(number)
        plan = plan_spec(root, text)
        make_campaign(root, plan, {run.id: nemd_result(random) for run in plan.runs})
        rows = summary.condition_rows(Campaign(root).results["nemd"].ds, "nemd")
        found = [row["labels"].get("pair") for row in rows]
        assert found == (["graphene/hbn", "one"] if number == 0 else [None])


def test_flags_are_counted() -> None:
    line = summary.flags_line({"done": 4, "flagged": 3, "flags": {"stacking_kept": 3, "jump_resolved": 1}})
    assert line == "3 of 4 runs are flagged: stacking_kept (3), jump_resolved (1); see the report"
    assert "none of 1 run is" in summary.flags_line({"done": 1, "flagged": 0, "flags": {}})


def test_news_of_an_edited_spec() -> None:
    runs = RunCounts(total=6, reused=0, waiting=1, blocked=0, changed=0, new=5, no_longer_wanted=0)
    report = PlanReport("c", runs, StageCounts(6, 0, 0, 6, 0, 0, 0, 0), (), (), (0, 0), (0, 0), ())
    assert specs.news(report) == "0 of 6 runs are done; 5 new"
    # such as a lattice constant in the library, which no plan holds
    report = replace(report, runs=replace(runs, changed=4, new=1))
    assert specs.news(report) == "0 of 6 runs are done; 4 changed, 1 new"


@pytest.mark.parametrize("width", [40, 60, 80])
def test_plan_of_two_potentials_fits(tmp_path: Path, width: int) -> None:
    from campaign.compare import compare

    axes = "\n    axes:\n      potential: [tersoff-lj, tersoff-ilp]\n      seed: {count: 400}\n"
    report = compare(plan_spec(tmp_path, axes))
    with captured(width) as text:
        specs._print_report(report, Layout(Path("c")))
    shown = text.getvalue()
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= width
    assert "equilibrate" in shown
    assert "tersoff-ilp" in shown
    assert "0 done" not in shown
    if width == 80:
        assert "per second" in shown


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "unknown"),
        (59, "59 s"),
        (75, "1 min 15 s"),
        (7260, "2 h 01 min"),
        (5 * 86400, "5 days"),
        (2.87e9, "90.9 years"),
    ],
)
def test_durations_are_readable(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@given(value=st.floats(-1e6, 1e6), error=st.floats(1e-6, 1e8))
def test_a_value_has_the_digits_of_its_error(value: float, error: float) -> None:
    shown, shown_error = (float(part.replace(",", "")) for part in with_error(value, error).split(" ± "))
    unit = 10.0 ** (math.floor(math.log10(error)) - 1)
    assert shown == pytest.approx(value, abs=0.51 * unit)
    assert shown_error == pytest.approx(error, abs=0.51 * unit)


def test_runs_that_are_left_out_say_why(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    plan = plan_spec(tmp_path, "\n    axes: {seed: {count: 3}}\n")

    def line(*reasons: str) -> str | None:
        results = {
            run.id: nemd_result(random).assign(valid=reason == "", invalid_reason=reason)
            for run, reason in zip(plan.runs, reasons, strict=True)
        }
        root = tmp_path / "-".join(("campaign", *reasons))
        root.mkdir()
        make_campaign(root, plan, results)
        return summary.excluded_line(Campaign(root).results["nemd"].ds)

    first, second, _ = (run.id for run in plan.runs)
    assert line("", "", "") is None
    assert line("", "too hot", "") == f"1 run is left out of all means, namely {second}: too hot"
    assert line("cold", "hot", "") == f"2 runs are left out of all means, such as {first}: cold"
