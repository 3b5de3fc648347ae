"""The report: everything in one file, right numbers in it, whatever the campaign's state."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import campaign
from campaign.analysis import compare_with_published, ensemble_mean
from campaign.errors import LedgerError
from campaign.layout import Layout
from campaign.report import write_report
from campaign.report.ensemble import Ensemble, load_ensemble, with_error
from campaign.report.tables import checks, grid, headline, remarks, steady_state
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
        "driver": {"state": "running"},
        "updated": "2026-11-22T12:00:00+00:00",
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
    assert forward.z == f"{compare_with_published(value, error, 'tersoff-lj'):+.1f}"
    assert (forward.n, forward.n_excluded, forward.n_missing) == (3, 1, 0)
    assert (backward.n, backward.n_excluded, backward.n_missing) == (1, 0, 3)
    assert backward.z == ""
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
    passed = {row.name: (row.severity, row.passed, row.not_passed) for row in checks(ensemble)}
    assert passed == {"closure": ("gate", 5, 0), "balance": ("gate", 4, 1), "jump resolved": ("flag", 4, 1)}
    found, number = remarks(ensemble)
    assert [remark.state for remark in found] == ["failed", "excluded", "flag"]
    assert number == 3
    verdicts = {row.title: row.verdict for row in steady_state(ensemble)}
    assert verdicts == {"forward": "steady", "backward": "too few runs"}


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
        (1234.5, 250.0, "1234 ± 250"),
        (0.12345, 0.0123, "0.123 ± 0.012"),
        (2.0, np.nan, "2"),
        (np.nan, 1.0, "-"),
    ],
)
def test_errors_have_two_digits(value: float, error: float, text: str) -> None:
    assert with_error(value, error) == text
