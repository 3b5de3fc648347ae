"""A plan beside what is there: what is new, reused or unwanted, and what it costs."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from campaign.compare import DEFAULT_SPEEDS, compare
from campaign.protocols.base import Stage
from tests.planning import SPEC, ToyProtocol, ToySettings, plan_of, swap, use_toy


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    use_toy(monkeypatch)


def test_without_a_past_everything_is_new() -> None:
    report = compare(plan_of(SPEC)[0])
    assert (report.runs.total, report.runs.new, report.stages.to_compute) == (6, 6, 16)
    assert report.changes == ()


def test_what_is_committed_is_reused() -> None:
    plan, _ = plan_of(SPEC)
    done = set(plan.find("direction=forward,seed=1").stages)
    report = compare(plan, plan, done | {"0" * 32})
    assert (report.runs.reused, report.runs.waiting) == (1, 5)
    assert (report.stages.reused, report.stages.to_compute, report.stages.no_longer_wanted) == (4, 12, 1)


def test_what_failed_or_is_begun_costs_nothing_more() -> None:
    plan, _ = plan_of(SPEC)
    whole = {row.kind: row for row in compare(plan, plan).cost}
    first, second = plan.find("direction=forward,seed=1").stages, plan.find("direction=forward,seed=2").stages
    produce = plan.stages[second[2]]
    report = compare(plan, plan, {first[0]}, blocked=set(first[2:]), steps_done={second[2]: 10, "0" * 32: 99})
    assert (report.runs.waiting, report.runs.blocked) == (5, 1)
    assert (report.stages.blocked, report.stages.to_compute, report.stages.begun) == (2, 13, 1)
    assert {row.kind: row.stages for row in report.cost} == {"equilibrate": 3, "produce": 5, "reduce": 5}
    cost = {row.kind: row.atom_steps for row in report.cost}
    assert cost["produce"] == whole["produce"].atom_steps * 5 // 6 - 10 * produce.atoms


def test_a_longer_axis_costs_only_what_is_new() -> None:
    before, _ = plan_of(SPEC)
    report = compare(plan_of(swap("count: 3", "count: 4"))[0], before, set(before.stages))
    assert (report.runs.reused, report.runs.new, report.runs.changed) == (6, 2, 0)
    assert {row.kind: row.stages for row in report.cost} == {"equilibrate": 1, "produce": 2, "reduce": 2}


def test_a_shorter_axis_is_no_longer_wanted() -> None:
    before, _ = plan_of(SPEC)
    report = compare(plan_of(swap("count: 3", "count: 2"))[0], before, set(before.stages))
    assert (report.runs.total, report.runs.no_longer_wanted) == (4, 2)
    assert report.stages.no_longer_wanted == 5


@pytest.mark.parametrize(
    ("change", "field", "old", "new"),
    [
        (lambda text: swap("temperature_K: 300", "temperature_K: 350", text), "temperature_K", 300.0, 350.0),
        (
            lambda text: swap("300}", "300, structure: {upper: {layers: 6}}}", text),
            "structure.upper.layers",
            4,
            6,
        ),
        (lambda text: swap("seed: 7", "seed: 8", text), "seed", 7, 8),
    ],
)
def test_a_changed_cell_says_which_field(
    change: Callable[[str], str], field: str, old: Any, new: Any
) -> None:
    before, _ = plan_of(SPEC)
    report = compare(plan_of(change(SPEC))[0], before, set(before.stages))
    assert report.runs.changed == 6
    (found,) = report.changes
    assert (found.field, found.old, found.new, found.runs) == (field, old, new, 6)
    assert found.example == "toy/direction=forward,seed=1"


def test_cells_are_the_same_after_their_axes_changed_order() -> None:
    before, _ = plan_of(SPEC)
    text = (
        SPEC.replace("      direction: [forward, backward]\n", "") + "      direction: [forward, backward]\n"
    )
    report = compare(plan_of(swap("300", "310", text))[0], before)
    assert (report.runs.changed, report.runs.no_longer_wanted) == (6, 0)


def test_another_version_of_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    before, _ = plan_of(SPEC)
    original = ToyProtocol.stages

    def newer(
        self: ToyProtocol, model: ToySettings, engine: str, replica: tuple[int, int]
    ) -> tuple[Stage, ...]:
        *others, last = original(self, model, engine, replica)
        return (*others, Stage(last.kind, last.protocol, last.settings, 2, last.needs))

    monkeypatch.setattr(ToyProtocol, "stages", newer)
    report = compare(plan_of(SPEC)[0], before, set(before.stages))
    (found,) = report.changes
    assert (found.field, found.old, found.new) == ("version of reduce", 1, 2)
    assert {row.kind: row.stages for row in report.cost} == {"reduce": 6}, "no MD is repeated"


def test_cost_is_atom_steps_over_the_measured_speed() -> None:
    plan, _ = plan_of(SPEC)
    report = compare(plan)
    produce = next(row for row in report.cost if row.kind == "produce")
    assert produce.atom_steps == 6 * 540 * 12000
    assert produce.core_hours == pytest.approx(
        produce.atom_steps / DEFAULT_SPEEDS["lammps", "tersoff-lj"] / 3600
    )
    measured = compare(plan, speeds={("lammps", "tersoff-lj"): 1e6})
    assert next(row for row in measured.cost if row.kind == "produce").speed_from == "this campaign"
    assert measured.core_hours is not None
    assert report.core_hours is not None
    assert measured.core_hours < report.core_hours
    assert (report.atoms, report.steps) == ((540, 540), (1000, 12000))
    assert report.disk_bytes > 0
    assert report.files == sum(row.files for row in report.cost)
    json.dumps(report.to_json())


def test_an_unknown_speed_is_not_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("campaign.compare.DEFAULT_SPEEDS", {})
    assert compare(plan_of(SPEC)[0]).core_hours is None
