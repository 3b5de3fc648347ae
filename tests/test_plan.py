"""Plans: identities that stay, runs that are found, work that is recognised, and what it costs."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from campaign.analysis import RESOLVED_RUNS
from campaign.compare import compare
from campaign.errors import SpecError
from campaign.plan import Plan, make_plan
from campaign.protocols.base import Stage
from campaign.spec import load_spec
from tests.planning import SPEC, ToyProtocol, ToySettings, plan_of, swap, use_toy

SPECS = Path(__file__).parent.parent / "specs"
GOLDEN = Path(__file__).parent / "data" / "golden_ids.json"


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    use_toy(monkeypatch)


def results(plan: Plan) -> dict[frozenset[tuple[str, object]], str]:
    """Result stage by labels."""
    return {frozenset(run.labels.items()): run.result_stage for run in plan.runs}


# Identities


def test_equal_stages_of_several_runs_are_one() -> None:
    plan, stages = plan_of(SPEC)

    kinds = [stage.kind for stage in plan.stages.values()]
    # The build is shared by all, the equilibration by both directions.
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "build": 1,
        "equilibrate": 3,
        "produce": 6,
        "reduce": 6,
    }
    assert list(stages) == list(plan.stages)


def test_stages_come_after_the_ones_they_need() -> None:
    plan, stages = plan_of(SPEC)
    seen: set[str] = set()
    for stage_id, stage in stages.items():
        assert set(stage.needs.values()) <= seen
        assert plan.stages[stage_id].needs == tuple(stage.needs.values())
        seen.add(stage_id)
    for run in plan.runs:
        assert [plan.stages[stage_id].kind for stage_id in run.stages] == [
            "build",
            "equilibrate",
            "produce",
            "reduce",
        ]


def test_filled_in_identities_are_those_of_the_protocol() -> None:
    plan, stages = plan_of(swap("count: 3", "count: 6"))
    for run in plan.runs:
        model = ToySettings.model_validate({"temperature_K": 300, "direction": run.labels["direction"]})
        own = ToyProtocol().stages(model, "lammps", (7, int(run.labels["seed"])))
        assert run.stages == tuple(stage.id for stage in own)
        assert [stages[stage_id] for stage_id in run.stages] == list(own)
        assert [stages[stage_id].random_seed for stage_id in run.stages] == [
            stage.random_seed for stage in own
        ]


def test_a_protocol_whose_settings_depend_on_the_seed_is_asked_for_every_seed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = ToyProtocol.stages

    def odd(
        self: ToyProtocol, model: ToySettings, engine: str, replica: tuple[int, int]
    ) -> tuple[Stage, ...]:
        warmer = model.model_copy(update={"temperature_K": model.temperature_K + replica[1]})
        return original(self, warmer, engine, replica)

    monkeypatch.setattr(ToyProtocol, "stages", odd)
    plan, stages = plan_of(swap("count: 3", "count: 5"))
    for run in plan.runs:
        produce = stages[run.stages[2]]
        assert produce.settings.model_dump()["temperature_K"] == 300 + int(run.labels["seed"])


def test_ids_are_those_of_earlier_releases() -> None:
    plan, _ = plan_of(SPEC)
    found = {run.id: list(run.stages) for run in plan.runs}
    assert found == json.loads(GOLDEN.read_text()), (
        "an edited spec must cost only what is new, across releases too"
    )


@pytest.mark.parametrize(
    "text",
    [
        swap("[forward, backward]", "\n        - backward\n        - forward"),
        swap("300", "3.0e2"),
        swap("{temperature_K: 300}", "{timestep_fs: 1.0, temperature_K: 300, potential: tersoff-lj}"),
        swap("{temperature_K: 300}", "{temperature_K: 300, structure: {upper: {layers: 4}}}"),
        swap("campaign: demo", "description: other words  # and a comment\ncampaign: other"),
        swap("{count: 3}", "[3, 1, 2]"),
        SPEC.replace("      direction: [forward, backward]\n", "") + "      direction: [forward, backward]\n",
        swap("  toy:", "  other_name:\n    protocol: toy"),
    ],
    ids=[
        "order of values",
        "number format",
        "key order and defaults",
        "nested default",
        "name",
        "seeds as a list",
        "axis order",
        "calculation's name",
    ],
)
def test_ids_do_not_depend_on(text: str) -> None:
    assert results(plan_of(text)[0]) == results(plan_of(SPEC)[0])


@pytest.mark.parametrize(
    "setting",
    [
        "temperature_K: 301",
        "potential: tersoff-ilp",
        "timestep_fs: 0.5",
        "production_ps: 13",
        "frozen_layers: [0, 1]",
        "structure: {upper: {layers: 5}}",
        "structure: {lower: {cells: [5, 4]}}",
        "structure: {stacking: AB}",
    ],
)
def test_every_field_changes_the_ids(setting: str) -> None:
    fields = setting if "temperature" in setting else f"temperature_K: 300, {setting}"
    changed = results(plan_of(swap("temperature_K: 300", fields))[0])
    assert not set(changed.values()) & set(results(plan_of(SPEC)[0]).values())


def test_the_base_seed_changes_everything_random_and_nothing_else() -> None:
    before, after = (set(plan_of(text)[0].stages) for text in (SPEC, swap("seed: 7", "seed: 8")))
    build = {stage.id for stage in plan_of(SPEC)[0].stages.values() if stage.kind == "build"}
    assert before & after == build


def test_a_seed_axis_added_later_takes_over_the_single_run() -> None:
    single, _ = plan_of(swap("      seed: {count: 3}\n", ""))
    several, _ = plan_of(SPEC)
    assert (
        single.find("direction=forward").result_stage == several.find("direction=forward,seed=1").result_stage
    )


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    temperatures=st.lists(st.integers(1, 5000), min_size=1, max_size=4, unique=True),
    directions=st.lists(st.sampled_from(["forward", "backward"]), min_size=1, unique=True),
    seeds=st.lists(st.integers(0, 99), min_size=1, max_size=5, unique=True),
    order=st.permutations(["temperature_K", "direction", "seed"]),
)
def test_runs_are_unique_and_their_cells_fit_the_dimensions(
    temperatures: list[int], directions: list[str], seeds: list[int], order: list[str]
) -> None:
    values = {"temperature_K": temperatures, "direction": directions, "seed": seeds}
    axes = json.dumps({name: values[name] for name in order})
    plan, stages = plan_of(f"campaign: a\ncalculations: {{toy: {{axes: {axes}}}}}\n")
    (calculation,) = plan.calculations

    runs = list(calculation.runs)
    assert len({run.id for run in runs}) == len({run.cell for run in runs}) == len(runs)
    assert len(runs) == len(temperatures) * len(directions) * len(seeds)
    assert len({run.result_stage for run in runs}) == len(runs)
    for run in runs:
        for dimension, index in zip(calculation.dimensions, run.cell, strict=True):
            assert dimension.coordinates[dimension.name][index] == run.labels[dimension.name]
        assert calculation.settings_of(run)["temperature_K"] == run.labels["temperature"]
        assert plan.find(run.id) == run
        assert set(run.stages) <= set(stages)


# Labels and dimensions


def test_labels_have_the_type_of_their_field_and_units() -> None:
    plan, _ = plan_of(swap("direction: [forward, backward]", "timestep_fs: [1, 0.5]"))
    (calculation,) = plan.calculations
    dimension = calculation.dimensions[0]
    assert (dimension.name, dimension.coordinates, dimension.units) == (
        "timestep",
        {"timestep": (1.0, 0.5)},
        {"timestep": "fs"},
    )
    assert [run.id for run in calculation.runs][::3] == ["toy/timestep=1,seed=1", "toy/timestep=0.5,seed=1"]
    assert isinstance(calculation.runs[0].labels["timestep"], float)


def test_zip_and_include_make_one_dimension_with_two_coordinates() -> None:
    text = SPEC + "    zip: [{structure.upper.layers: [4, 6], structure.lower.layers: [5, 7]}]\n"
    text += (
        "    include: [{direction: forward, seed: 9, structure.upper.layers: 8, structure.lower.layers: 9}]\n"
    )
    plan, _ = plan_of(text)
    (calculation,) = plan.calculations
    assert calculation.dimensions[2].name == "structure_upper_layers_structure_lower_layers"
    assert calculation.dimensions[2].coordinates == {
        "structure_upper_layers": (4, 6, 8),
        "structure_lower_layers": (5, 7, 9),
    }
    assert len(calculation.runs) == 2 * 3 * 2 + 1
    assert calculation.runs[-1].cell == (0, 3, 2)


def test_groups_hold_what_differs_and_the_protocol_s_labels() -> None:
    (calculation,) = plan_of(SPEC)[0].calculations
    assert [group.settings for group in calculation.groups] == [
        {"direction": "forward"},
        {"direction": "backward"},
    ]
    assert {group.labels["pair"] for group in calculation.groups} == {"graphene/hbn"}
    assert "direction" not in calculation.settings
    assert calculation.settings["structure.upper.cells"] == [5, 3]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("toy/direction=forward,seed=2", "toy/direction=forward,seed=2"),
        ("seed=2,direction=forward", "toy/direction=forward,seed=2"),
        ("toy/seed=3, direction=backward", "toy/direction=backward,seed=3"),
    ],
)
def test_find(text: str, expected: str) -> None:
    assert plan_of(SPEC)[0].find(text).id == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "seed=2",
            "2 runs match 'seed=2'; choose one of toy/direction=forward,seed=2 toy/direction=backward,seed=2",
        ),
        ("seed=9", "toy has no seed=9; its values are 1, 2, 3"),
        ("direction=forwrd,seed=1", "toy has no direction=forwrd; did you mean 'forward'?"),
        ("sed=2", "toy has no label 'sed'; did you mean 'seed'?"),
        ("tou/seed=2", "no calculation 'tou' in this campaign; did you mean 'toy'?"),
        ("toy/forward", "'forward' is no label of a run; write it as name=value"),
    ],
)
def test_what_cannot_be_found_is_explained(text: str, expected: str) -> None:
    with pytest.raises(SpecError) as caught:
        plan_of(SPEC)[0].find(text)
    assert str(caught.value).startswith(expected)


def test_a_run_that_was_left_out_is_explained() -> None:
    plan, _ = plan_of(SPEC + "    exclude: [{direction: forward, seed: 2}]\n")
    with pytest.raises(
        SpecError, match=r"no run matches 'direction=forward,seed=2'; runs are named like toy"
    ):
        plan.find("direction=forward,seed=2")


def test_many_values_are_not_all_listed() -> None:
    with pytest.raises(SpecError, match=r"toy has no seed=99; its values are 1, 2, 3, \.\.\., 40$"):
        plan_of(SPEC.replace("count: 3", "count: 40"))[0].find("seed=99")


def test_matching_gives_all_runs_of_some_labels() -> None:
    plan, _ = plan_of(SPEC)
    assert [run.labels["seed"] for run in plan.matching("direction=forward")] == [1, 2, 3]
    assert len(plan.matching("toy")) == 6


# The real thing


def test_the_paper_s_ensemble_is_planned_and_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    plan, _ = make_plan(load_spec(SPECS / "paper" / "itc.yaml"))
    assert len(list(plan.runs)) == 40
    assert {stage.atoms for stage in plan.stages.values()} == {307_828}
    steps = {stage.kind: stage.steps for stage in plan.stages.values() if stage.engine}
    assert steps == {"equilibrate": 1_500_000, "produce": 5_000_000}
    settings = plan.calculations[0].settings
    assert (settings["temperature_K"], settings["bath_offset_K"], settings["timestep_fs"]) == (300, 30, 0.5)
    report = compare(plan)
    md = [row for row in report.cost if row.atom_steps]
    # 0.75 ns and 2.5 ns in steps of 0.5 fs.
    assert sum(row.atom_steps for row in md) == 40 * 307_828 * 6_500_000


def test_the_demonstration_fits_two_minutes_on_two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    plan, _ = make_plan(load_spec(SPECS / "demo.yaml"))
    report = compare(plan)
    assert {run.labels["direction"] for run in plan.runs} == {"forward", "backward"}
    assert len({run.labels["seed"] for run in plan.runs}) >= RESOLVED_RUNS  # or there is no result to show
    assert report.core_hours is not None
    assert report.core_hours * 3600 / 2 < 120
