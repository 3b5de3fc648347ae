"""Every kind of bad input is one line with its line and column; the schema and the template are usable."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from campaign.document import Document, did_you_mean
from campaign.errors import ExitCode, SpecError
from campaign.plan import make_plan
from campaign.spec import TEMPLATE, json_schema, load_spec
from tests.planning import planned, use_toy, write_spec

GOOD = """\
campaign: demo
description: a demonstration
calculations:
  toy:
    settings: {temperature_K: 300}
    axes:
      direction: [forward, backward]
      seed: {count: 4}
"""

Change = Callable[[str], str]


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    use_toy(monkeypatch)


def swap(old: str, new: str) -> str:
    assert GOOD.count(old) == 1, old
    return GOOD.replace(old, new)


SETTINGS = "{temperature_K: 300}"
DIRECTION = "direction: [forward, backward]"
LABELLED = (
    "atoms: [{label: a, set: {structure.upper.cells: [1, 2]}}, "
    "{label: b, set: {structure.upper.cells: [1, 0]}}]"
)

BAD: dict[str, tuple[str, str]] = {
    # malformed YAML
    "unclosed list": (swap("backward]", "backward"), "8:11: expected ',' or ']', but got ':'"),
    "tab": (swap("    axes:", "\taxes:"), "6:1: found character '\\t' that cannot start any token"),
    "duplicate key": (GOOD + "campaign: again\n", '9:1: found duplicate key "campaign"; give each key once'),
    "two documents": (GOOD + "---\na: 1\n", "9:1: only one YAML document is allowed"),
    "empty": ("", "1:1: a spec is a mapping with campaign and calculations; `campaign init`"),
    "a list": ("- 1\n", "1:1: a spec is a mapping"),
    "key that is no text": (swap("direction:", "1:"), "7:7: the key 1 is not text; put it in quotes"),
    # wrong type
    "text for a number": (swap("300", '"300"'), '5:31: temperature_K should be a number, not "300"'),
    "true for a number": (swap("300", "true"), "5:31: temperature_K should be a number, not true"),
    "number for a mapping": (
        swap(SETTINGS, "{temperature_K: 300, structure: 3}"),
        "5:47: structure should be a mapping",
    ),
    "float for a count": (
        swap(SETTINGS, "{temperature_K: 300, structure: {upper: {layers: 1.5}}}"),
        "5:64: structure.upper.layers should be a whole number, not 1.5",
    ),
    "scalar axis": (
        swap("[forward, backward]", "forward"),
        "7:18: direction should be a list of values, not 'forward'; write [forward]",
    ),
    "one seed that is no list": (
        swap("{count: 4}", "4"),
        "8:13: seed should be a list of values, not 4; write {count: 4} or a list [1, 2, 5]",
    ),
    "settings no mapping": (
        swap(SETTINGS, "3"),
        "5:15: calculations.toy.settings should be a mapping, not 3",
    ),
    "item of a list": (
        swap(SETTINGS, "{temperature_K: 300, frozen_layers: [0, a]}"),
        '5:55: frozen_layers.1 should be a whole number, not "a"',
    ),
    # wrong range
    "negative temperature": (swap("300", "-5"), "5:31: temperature_K should be greater than 0, not -5"),
    "nan": (swap("300", ".nan"), "5:31: temperature_K should be a finite number"),
    "timestep of 50 fs on an axis": (
        swap(DIRECTION, "timestep_fs: [1, 50]"),
        "7:24: timestep_fs should be less than or equal to 5, not 50",
    ),
    "labelled value out of range": (
        swap(DIRECTION, LABELLED),
        "7:109: structure.upper.cells.1 should be greater than or equal to 1, not 0",
    ),
    "seed count of 0": (
        swap("count: 4", "count: 0"),
        "8:21: count of seed should be a whole number of at least 1, not 0",
    ),
    "negative seed": (swap("{count: 4}", "[-1]"), "8:14: seed should be a whole number from 0 to "),
    "seed of 20 digits": (
        swap("{count: 4}", "[10000000000000000000]"),
        "8:14: seed should be a whole number from 0 to 9007199254740992, not 10000000000000000000",
    ),
    "seeds from 20 digits on": (
        swap("count: 4", "count: 4, base: 10000000000000000000"),
        "8:30: base of seed should be at most 9007199253740992, not 10000000000000000000",
    ),
    "included seed of 20 digits": (
        GOOD + "    include: [{seed: 10000000000000000000, direction: forward}]\n",
        "9:22: seed should be a whole number from 0 to ",
    ),
    "infinite axis value": (
        swap(DIRECTION, "timestep_fs: [1, .inf]"),
        "7:24: timestep_fs should be a finite number",
    ),
    # unknown names
    "unknown key": (
        swap("description", "descripton"),
        "2:1: unknown key 'descripton'; did you mean 'description'?",
    ),
    "unknown key of a calculation": (
        swap("settings", "setings"),
        "5:5: unknown key 'setings'; did you mean 'settings'?",
    ),
    "unknown setting": (
        swap(SETTINGS, "{temperature_K: 300, timestp_fs: 1}"),
        "5:36: unknown key 'timestp_fs'; did you mean 'timestep_fs'?",
    ),
    "unknown nested setting": (
        swap(SETTINGS, "{temperature_K: 300, structure: {upper: {layer: 3}}}"),
        "5:56: unknown key 'layer'; did you mean 'layers'?",
    ),
    "seed as a setting": (
        swap(SETTINGS, "{temperature_K: 300, seed: 3}"),
        "5:36: unknown key 'seed'; seed is an axis",
    ),
    "unknown axis": (
        swap("direction:", "dirction:"),
        "7:7: toy has no field 'dirction'; did you mean 'direction'?",
    ),
    "unknown nested axis": (
        swap(DIRECTION, "structure.upper.layrs: [3]"),
        "7:7: toy has no field 'structure.upper.layrs'; did you mean 'structure.upper.layers'?",
    ),
    "axis without its path": (
        swap(DIRECTION, "layers: [3]"),
        "7:7: toy has no field 'layers'; did you mean 'structure.lower.layers' or 'structure.upper.layers'?",
    ),
    "unknown key of seed": (
        swap("{count: 4}", "{count: 4, bas: 1}"),
        "8:24: unknown key 'bas' in seed; did you mean 'base'?",
    ),
    "unknown choice": (
        swap("backward", "bckward"),
        "7:28: direction should be 'forward' or 'backward', not \"bckward\"; did you mean 'backward'?",
    ),
    "unknown calculation": (swap("toy:", "tou:"), "4:3: unknown calculation 'tou'; did you mean 'toy'?"),
    "unknown protocol": (
        swap("    axes:", "    protocol: toi\n    axes:"),
        "6:15: unknown calculation 'toi'; did you mean 'toy'?",
    ),
    "unknown engine": (
        swap("    axes:", "    engine: lamps\n    axes:"),
        "6:13: unknown engine 'lamps'; did you mean 'lammps'?",
    ),
    "unknown potential": (
        swap(SETTINGS, "{temperature_K: 300, potential: foo}"),
        "5:47: unknown potential 'foo'; use tersoff-lj",
    ),
    "bad name": (
        swap("campaign: demo", "campaign: a/b"),
        "1:11: campaign should be letters, digits, - and _",
    ),
    # missing
    "no campaign": (swap("campaign: demo\n", ""), "1:1: campaign is missing"),
    "no calculations": (
        "campaign: demo\ncalculations: {}\n",
        "2:15: calculations should have at least 1 entry, not 0",
    ),
    "missing setting": (swap(SETTINGS, "{}"), "5:5: temperature_K is missing"),
    # rules of the protocol
    "rule about a setting": (
        swap(SETTINGS, "{temperature_K: 300, frozen_layers: [7]}"),
        "5:51: frozen layers must be in the lower side",
    ),
    "rule about an axis value": (
        swap(DIRECTION, "structure.upper.layers: [3, 9]"),
        "7:35: too many layers (in structure.upper.layers=9)",
    ),
    # axes
    "axis without values": (
        swap("[forward, backward]", "[]"),
        "7:18: direction has no values, so there is nothing to run",
    ),
    "everything excluded": (
        GOOD + "    exclude: [{direction: forward}, {direction: backward}]\n",
        "9:5: every run is excluded, so there is nothing to run",
    ),
    "empty exclude": (GOOD + "    exclude: [{}]\n", "9:15: an empty exclude would remove every run"),
    "exclude of no axis": (
        GOOD + "    exclude: [{directon: forward}]\n",
        "9:16: 'directon' is no axis of this calculation; did you mean 'direction'?",
    ),
    "exclude of no value": (GOOD + "    exclude: [{seed: 9}]\n", "9:22: 9 is no value of the axis seed"),
    "incomplete include": (
        GOOD + "    include: [{seed: 9}]\n",
        "9:15: an included run needs every axis; missing: direction",
    ),
    "include out of range": (
        GOOD + "    include: [{seed: 9, direction: up}]\n",
        "9:36: direction should be 'forward' or 'backward', not \"up\"",
    ),
    "include of no label": (
        swap(DIRECTION, LABELLED.replace("[1, 0]", "[1, 1]")) + "    include: [{atoms: c, seed: 1}]\n",
        "9:23: 'c' is no label of the axis atoms; known are: a, b",
    ),
    "too many runs": (
        swap("count: 4", "count: 40000"),
        "6:5: the axes span 80,000 runs, more than the limit of 10,000; confirm with --yes",
    ),
    "field in settings and axes": (
        swap(SETTINGS, "{temperature_K: 300, direction: forward}"),
        "7:7: direction is both an axis and a setting; remove one of them",
    ),
    "field in two axes": (
        GOOD + "    zip: [{direction: [forward], timestep_fs: [1]}]\n",
        "9:12: two axes for direction",
    ),
    "field inside another axis": (
        swap(
            DIRECTION,
            "structure.upper.layers: [3]\n      size: [{label: a, set: {structure.upper: {layers: 3}}}]",
        ),
        "8:7: size and structure.upper.layers set the same field structure.upper",
    ),
    "value twice": (swap("{count: 4}", "[1, 2, 1]"), "8:20: seed 1 is there twice"),
    "value twice, written otherwise": (
        swap(DIRECTION, "timestep_fs: [1, 1.0]"),
        "7:24: timestep_fs 1.0 is there twice",
    ),
    "zip of different lengths": (
        GOOD + "    zip: [{timestep_fs: [1, 2], production_ps: [1]}]\n",
        "9:11: zipped axes differ in length: timestep_fs has 2, production_ps has 1",
    ),
    "structured value without a label": (
        swap(DIRECTION, "structure.upper.cells: [[1, 2]]"),
        "7:31: a value of the axis structure.upper.cells is not a number or text; make it an axis",
    ),
    "labelled value that sets an unknown field": (
        swap(DIRECTION, "atoms: [{label: a, set: {structure.upper.cell: [1, 2]}}]"),
        "7:32: toy has no field 'structure.upper.cell'; did you mean 'structure.upper.cells'?",
    ),
    "label without set": (
        swap(DIRECTION, "atoms: [{label: a}]"),
        "7:15: a value of the axis atoms needs a label and the fields",
    ),
    "labelled values of a field": (
        swap(DIRECTION, "direction: [{label: f, set: {timestep_fs: 1}}]"),
        "7:7: labelled values need a name of your own, but direction is a field",
    ),
    "labelled values of a field that they set": (
        swap(DIRECTION, "timestep_fs: [{label: fine, set: {timestep_fs: 0.5, production_ps: 3}}]"),
        "7:7: labelled values need a name of your own, but timestep_fs is a field",
    ),
    "setting that a labelled value sets": (
        swap(DIRECTION, "timestep_fs: [{label: fine, set: {timestep_fs: 0.5, temperature_K: 10}}]"),
        "7:59: temperature_K is both an axis and a setting; remove one of them",
    ),
    "seed in a zip": (
        swap("      seed: {count: 4}\n", "    zip: [{seed: [1, 2], timestep_fs: [0.5, 1]}]\n"),
        "8:12: seed cannot vary together with others: means are taken over seeds; make it an axis of its own",
    ),
    "name that results have": (
        swap(DIRECTION, "state: [{label: a, set: {timestep_fs: 1}}]"),
        "7:7: state is something else in results; give the axis another name",
    ),
    "name that means have": (
        swap(DIRECTION, "n: [{label: a, set: {timestep_fs: 1}}]"),
        "7:7: n is something else in results; give the axis another name",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_with_its_place(case: str, tmp_path: Path) -> None:
    text, expected = BAD[case]
    with pytest.raises(SpecError) as caught:
        planned(tmp_path, text)
    lines = str(caught.value).splitlines()
    assert any(line.startswith(f"{tmp_path / 'spec.yaml'}:{expected}") for line in lines), lines
    assert all(line.startswith(f"{tmp_path / 'spec.yaml'}:") for line in lines)
    assert caught.value.exit_code == ExitCode.USAGE


def test_a_mistake_in_a_labelled_value_is_the_only_one_that_is_told(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        planned(tmp_path, swap(DIRECTION, "atoms: [{label: 60, sets: {structure.upper.cells: [1, 2]}}]"))
    (line,) = str(caught.value).splitlines()
    assert "needs a label and the fields that it sets" in line


def test_the_same_mistake_in_every_condition_is_told_once(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        planned(tmp_path, swap("300", "-5"))
    assert len(str(caught.value).splitlines()) == 1


def test_all_errors_are_listed_in_the_order_of_the_file_up_to_ten(tmp_path: Path) -> None:
    unknown = "".join(f"x{n}: 1\n" for n in range(12))
    with pytest.raises(SpecError) as caught:
        load_spec(write_spec(tmp_path, GOOD + unknown))
    lines = str(caught.value).splitlines()
    assert [line.split(":")[1] for line in lines[:10]] == [str(n) for n in range(9, 19)]
    assert lines[10:] == ["... and 2 more errors"]


AT_ONCE: dict[str, tuple[str, list[str]]] = {
    "campaign, names and keys": (
        swap("campaign: demo", "campaign: mi ni")
        .replace("    axes:", "    engine: lamps\n    axes:")
        .replace(SETTINGS, "{temperature_K: 300, timestp_fs: 1}"),
        [
            "1:11: campaign should be letters",
            "5:36: unknown key 'timestp_fs'",
            "6:13: unknown engine 'lamps'",
        ],
    ),
    "axes and settings": (
        swap("count: 4", "count: 0")
        .replace(SETTINGS, "{temperature_K: hot, timestep_fs: 50}")
        .replace("backward]", "sideways]"),
        [
            "5:31: temperature_K should be a number",
            "5:49: timestep_fs should be less than or equal to 5",
            "7:28: direction should be",
            "8:21: count of seed",
        ],
    ),
    "a type, and a rule about other settings": (
        swap(SETTINGS, "{temperature_K: 300, structure: {stacking: XX}}").replace(DIRECTION, "direction: []"),
        ["5:58: structure.stacking should be", "7:18: direction has no values"],
    ),
    "a wrong calculation does not hide another": (
        GOOD.replace("toy:", "tou:")
        + "  second: {protocol: toy, settings: {temperature_K: -1}, include: 3}\n",
        [
            "4:3: unknown calculation 'tou'",
            "9:53: temperature_K should be greater than 0",
            "9:67: calculations.second.include should be a list",
        ],
    ),
    "rules of exclude and include": (
        swap("300", "hot") + "    exclude: [{seed: 9}]\n    include: [{seed: 1}]\n",
        [
            "5:31: temperature_K should be a number",
            "9:22: 9 is no value of the axis seed",
            "10:15: an included run needs every axis; missing: direction",
        ],
    ),
    "a material and an axis": (
        "materials: {x: 3}\n" + swap("count: 4", "count: 0"),
        ["1:16: materials.x should be a mapping", "9:21: count of seed"],
    ),
}


@pytest.mark.parametrize("case", AT_ONCE)
def test_errors_of_all_layers_are_told_at_once(case: str, tmp_path: Path) -> None:
    text, expected = AT_ONCE[case]
    with pytest.raises(SpecError) as caught:
        load_spec(write_spec(tmp_path, text))
    lines = [line.removeprefix(f"{tmp_path / 'spec.yaml'}:") for line in str(caught.value).splitlines()]
    assert len(lines) == len(expected), lines
    assert all(line.startswith(start) for line, start in zip(lines, expected, strict=True)), lines


GUESSES = {
    "a field with an axis of no values": swap(SETTINGS, "{}").replace(DIRECTION, "temperature_K: []"),
    "a field whose axis is misspelt": swap(SETTINGS, "{}").replace(DIRECTION, "temprature_K: [300]"),
    "a rule of a field that is misspelt": swap(
        SETTINGS, "{temperature_K: 300, structure: {lower: {layer: 9}}, frozen_layers: [7]}"
    ),
    "a rule of a field that is wrong": swap(
        SETTINGS, "{temperature_K: 300, structure: {lower: {layers: many}}, frozen_layers: [7]}"
    ),
    "settings of a protocol that is not known": swap("toy:", "tou:").replace("300", "hot"),
    "settings under another name": swap("settings", "setings").replace("300", "hot"),
}


@pytest.mark.parametrize("case", GUESSES)
def test_what_may_follow_from_another_error_is_not_told(case: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        load_spec(write_spec(tmp_path, GUESSES[case]))
    assert len(str(caught.value).splitlines()) == 1, str(caught.value)


def test_runs_that_are_excluded_are_not_checked(tmp_path: Path) -> None:
    axes = "structure.upper.layers: [9, 3]\n      structure.lower.layers: [3, 5]"
    text = swap(DIRECTION, axes) + "    exclude: [{structure.upper.layers: 9, structure.lower.layers: 3}]\n"
    with pytest.raises(SpecError) as caught:
        load_spec(write_spec(tmp_path, text))  # 9 and 5 are left
    assert "too many layers (in structure.upper.layers=9, structure.lower.layers=5)" in str(caught.value)
    load_spec(write_spec(tmp_path, text.replace("[3, 5]", "[3]")))
    with pytest.raises(SpecError) as caught:  # what is excluded cannot be known
        load_spec(write_spec(tmp_path, text.replace("[3, 5]", "[3]").replace("count: 4", "count: 0")))
    assert "too many layers" not in str(caught.value)


@pytest.mark.parametrize("problem", ["missing", "binary", "directory"])
def test_a_file_that_cannot_be_read(problem: str, tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    if problem == "binary":
        path.write_bytes(b"a: 1\nb: \xff\n")
    elif problem == "directory":
        path.mkdir()
    with pytest.raises(SpecError, match=r"spec\.yaml"):
        load_spec(path)


def test_a_boolean_with_an_anchor_is_one() -> None:
    document = Document(Path("spec.yaml"), "a: &yes true\nb: *yes\nc: &one 1\n")
    assert json.dumps(document.data) == '{"a": true, "b": true, "c": 1}'


def test_aliases_and_merges_are_understood_and_still_have_places(tmp_path: Path) -> None:
    text = swap(
        SETTINGS, "\n      structure: {upper: &side {layers: 0}, lower: *side}\n      temperature_K: 300"
    )
    with pytest.raises(SpecError, match=r"6:41: structure.lower.layers should be greater.*, not 0"):
        planned(tmp_path, text)


def test_more_runs_than_the_limit_need_confirmation(tmp_path: Path) -> None:
    text = swap("campaign: demo", "campaign: demo\nlimits: {runs: 7}")
    with pytest.raises(SpecError, match="8 runs, more than the limit of 7"):
        planned(tmp_path, text)
    plan, _ = planned(tmp_path, text, allow_large=True)
    assert len(list(plan.runs)) == 8


def test_numbers_are_yaml_1_2(tmp_path: Path) -> None:
    plan, _ = planned(tmp_path, swap(SETTINGS, "{temperature_K: 3e2, timestep_fs: 5e-1}"))
    assert plan.calculations[0].settings["temperature_K"] == 300.0
    assert plan.calculations[0].settings["timestep_fs"] == 0.5


def test_did_you_mean() -> None:
    assert did_you_mean("temprature", ["temperature", "direction"]) == "did you mean 'temperature'?"
    assert did_you_mean("AA'", ["AA", "AAp", "ABp"]) == "did you mean 'AAp'?"
    assert did_you_mean("h-BN", ["graphene", "hbn", "mos2"]) == "did you mean 'hbn'?"
    assert did_you_mean("x", ["b", "a"]) == "known are: a, b"
    assert did_you_mean("x", [f"name{n}" for n in range(50)]) is None


def lookup(schema: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in node:
        node = schema["$defs"][node["$ref"].removeprefix("#/$defs/")]
    return node


def test_schema_types_the_settings_of_each_protocol() -> None:
    schema = json_schema()
    json.dumps(schema)
    part = schema["properties"]["calculations"]["properties"]["toy"]["then"]["properties"]
    settings = lookup(schema, part["settings"])
    assert settings["properties"]["temperature_K"]["exclusiveMinimum"] == 0
    assert settings["additionalProperties"] is False
    assert "required" not in settings, "a field that settings leave out may be an axis"
    model = lookup(schema, settings["properties"]["structure"])
    assert "layers" in lookup(schema, model["properties"]["upper"])["properties"]
    assert {"seed", "direction", "structure.upper.layers"} <= set(part["axes"]["properties"])
    assert "campaign" in schema["required"]
    assert "protocol" not in schema["$defs"]["CalculationSpec"].get("required", [])


def test_every_reference_of_the_schema_leads_somewhere() -> None:
    schema = json_schema()

    def check(node: Any) -> None:
        if isinstance(node, dict):
            if "$ref" in node:
                assert node["$ref"].removeprefix("#/$defs/") in schema["$defs"]
            for child in node.values():
                check(child)
        elif isinstance(node, list):
            for child in node:
                check(child)

    check(schema)


def test_the_schema_accepts_and_rejects(tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(json_schema())
    assert not list(validator.iter_errors(load_spec(write_spec(tmp_path, GOOD)).positions.data))
    bad = load_spec(write_spec(tmp_path, GOOD)).positions.data
    bad["calculations"]["toy"]["settings"]["temprature_K"] = 3
    assert list(validator.iter_errors(bad))


def test_the_template_loads_and_plans(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()  # the real protocol
    plan, _ = make_plan(load_spec(write_spec(tmp_path, TEMPLATE)))
    assert len(list(plan.runs)) == 8


def test_the_template_s_commented_axes_work_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    lines = []
    skipping = False
    for line in TEMPLATE.splitlines():
        skipping = line.lstrip().startswith("# zip:") or (skipping and line.lstrip().startswith("#   -"))
        lines.append(
            line if skipping else line.replace("# structure.", "structure.").replace("# atoms:", "atoms:")
        )
    text = "\n".join(lines).replace("#   - {label", "  - {label").replace("# exclude:", "exclude:")
    text = text.replace("#   - {direction: backward", "  - {direction: backward")
    text = text.replace(", cells: [5, 3]}", "}").replace("        stacking: ABp", "        #")
    plan, _ = make_plan(load_spec(write_spec(tmp_path, text)))
    assert [dimension.name for dimension in plan.calculations[0].dimensions] == [
        "potential",
        "direction",
        "seed",
        "stacking",
        "atoms",
    ]
    assert len(list(plan.runs)) == 2 * 4 * 2 * 2 - 4
