"""Damaged files, impossible places and slips of the finger: one clear line, an exit code, no traceback."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from campaign.cli import doctor
from campaign.cli.doctor import Finding
from campaign.errors import ResourceError
from campaign.layout import Layout
from campaign.ledger import Ledger
from campaign.plan_file import load_plan
from tests.synthetic import SNAPSHOT, make_campaign, nemd_result, plan_spec
from tests.test_cli import SMALL, campaign, write_spec

GARBAGE = {
    "empty": b"",
    "null": b"null",
    "list": b"[]",
    "mapping": b"{}",
    "truncated": b'{"format": 1, "camp',
    "bytes": b"\x00\xff\xfe\x80garbage",
}


def complaint(*arguments: str, cwd: Path, code: int = 2) -> str:
    """The one line that a command leaves on stderr."""
    done = campaign(*arguments, cwd=cwd)
    lines = [line for line in done.stderr.strip().splitlines() if not line.startswith("writing ")]
    assert done.returncode == code, done.stderr
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A campaign with a failed run, one finished one, and a ledger."""
    plan = plan_spec(tmp_path)
    first, second, *_ = plan.runs
    results = {first.id: nemd_result(np.random.default_rng(1))}
    status = {
        "states": {"nemd": "df" + "p" * 6},
        "driver": {"state": "finished", "pid": 1, "host": "node7"},
        "failed": {
            second.stages[2]: {"class": "lost worker", "message": "gone", "runs": [second.id], "n_runs": 1}
        },
    }
    layout = make_campaign(tmp_path, plan, results, status=SNAPSHOT | status)
    layout.identity.write_text(json.dumps({"format": 1, "campaign": "synthetic", "created": "now"}))
    Ledger.open(layout).close()
    return layout


# Specs


def test_a_bomb_of_aliases_is_refused_before_it_is_read(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    (tmp_path / "spec.yaml").write_text("\n".join(lines))
    # as 3.5e9 values it would be read for hours
    assert "more than 100,000 values" in complaint("check", "spec.yaml", cwd=tmp_path)


@pytest.mark.parametrize("text", ["a: " + "[" * 600, "a: " + "[" * 200 + "]" * 200], ids=["open", "closed"])
def test_deep_nesting_is_told(text: str, tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(text)
    assert "nested too deeply" in complaint("check", "spec.yaml", cwd=tmp_path)


def test_line_100_is_no_emoji(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text("#\n" * 99 + "campaign: [x]\n" + SMALL.partition("\n")[2])
    assert complaint("check", "spec.yaml", cwd=tmp_path).startswith(
        "spec.yaml:100:11: campaign should be text"
    )


SLIPS = {
    "2e9 seeds": ("count: 2", "count: 2000000000", "spec.yaml:20:21: 2,000,000,000 seeds are more than"),
    "too many seeds in two axes": (
        "seed: {count: 2}",
        "seed: {count: 300000}\n      temperature_K: [200, 300]",
        "1,200,000 runs, more than the limit",
    ),
    "one number of cells": (
        "cells: [3, 2]",
        "cells: [3]",
        ":7:50: structure.lower.cells needs 2 values",
    ),
    "too few layers": ("layers: 3", "layers: 1", "spec.yaml:8:45: 2 thermostatted layers reach across"),
    "one layer": ("layers: 3", "layers: 1", "has 1 layer of graphene; at least 3"),
    "number for text": (
        "description: Far too small",
        "description: 12 #",
        "spec.yaml:2:14: description should be text, not 12; put it in quotes",
    ),
    "misspelt calculations": (
        "calculations:",
        "calculation:",
        ":3:1: unknown key 'calculation'; did you",
    ),
    "every direction": ("bath_offset_K: 100", "bath_offset_K: 400", "(300 - 400); it must"),
    "one of two temperatures": (
        "direction: [forward, backward]",
        "direction: [forward, backward]\n      temperature_K: [300, 50]",
        "(50 - 100) (in temperature_K=50); it must",
    ),
    "potential without an element": (
        "bath_offset_K: 100",
        "bath_offset_K: 100\n      potential: sw-ilp",
        "spec.yaml:12:18: sw-ilp does not know B, C, N; potentials that can: tersoff-lj, tersoff-ilp,",
    ),
    "no entry": ("calculations:", "calculations: {}\nx:", "at least 1 entry, not 0"),
}


@pytest.mark.parametrize("name", SLIPS)
def test_slips_are_told_where_they_are(name: str, tmp_path: Path) -> None:
    old, new, expected = SLIPS[name]
    spec = write_spec(tmp_path, old, new)
    options = ["--yes"] if "2e9" in name else []
    done = campaign("check", spec.name, *options, cwd=tmp_path)
    assert done.returncode == 2
    assert expected in done.stderr
    assert all(line.startswith("spec.yaml:") for line in done.stderr.strip().splitlines())


def test_every_broken_rule_is_told_at_once(tmp_path: Path) -> None:
    text = SMALL.replace("bath_offset_K: 100", "bath_offset_K: 400\n      potential: tersof-lj")
    text = text.replace("ABp", "XX").replace("production_ps: 1\n", "production_ps: 0.53\n")
    (tmp_path / "spec.yaml").write_text(text)
    lines = campaign("check", "spec.yaml", cwd=tmp_path).stderr.splitlines()
    starts = [
        "10:19: structure.stacking should be ",
        "11:22: the sink would be at -100 K (300 - 400)",
        "12:18: unknown potential 'tersof-lj'; did you mean 'tersoff-lj'?",
        "17:22: 0.53 ps is not a whole number of sampling intervals",
    ]
    assert len(lines) == len(starts), lines
    assert all(line.startswith(f"spec.yaml:{start}") for line, start in zip(lines, starts, strict=True)), (
        lines
    )


def test_a_rule_that_depends_on_a_wrong_setting_is_not_told(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(
        SMALL.replace("bath_offset_K: 100", "bath_offset_K: 400\n      temperature_K: hot")
    )
    assert "temperature_K should be a number" in complaint("check", "spec.yaml", cwd=tmp_path)


def test_the_values_of_axes_that_break_a_rule_are_named_beside_other_errors(tmp_path: Path) -> None:
    text = SMALL.replace("direction: [", "temperature_K: [50, 300]\n      direction: [")
    (tmp_path / "spec.yaml").write_text(text.replace("production_ps: 1\n", "production_ps: 0.53\n"))
    first, second = campaign("check", "spec.yaml", cwd=tmp_path).stderr.splitlines()
    assert "(50 - 100) (in temperature_K=50); it must" in first
    assert "0.53 ps is not a whole number of sampling intervals of 0.05 ps" in second


@pytest.mark.parametrize(
    ("cells", "expected"),
    [("[30000, 20000]", "16,800,000,000 atoms"), ("[1, 1]", "2.49 A long along x, less than 4.2 A")],
)
def test_implausible_sizes_are_refused(cells: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(SMALL.replace("[3, 2]", cells))
    assert expected in complaint("check", "spec.yaml", cwd=tmp_path)


def test_a_duration_that_no_machine_reaches_is_refused(tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(re.sub(r"nvt_ps: \S+", "nvt_ps: 1e99", SMALL))
    told = complaint("check", spec.name, cwd=tmp_path)
    assert "spec.yaml:" in told
    assert "nvt_ps should be less than or equal to 1000000" in told


def test_a_default_that_is_wrong_is_told_at_the_key_above_it(tmp_path: Path) -> None:
    """The upper side is not in the spec: the error stands at ``structure``, not at some other setting."""
    text = SMALL.replace("        upper: {material: graphene, layers: 3, cells: [3, 2]}\n", "")
    text = text.replace("layers: 4, cells: [3, 2]", "layers: 20, cells: [55, 55]").replace("ABp", "moire")
    text = text.replace("      bath_offset_K", "      thermostat_layers: 12\n      bath_offset_K")
    text = text.replace("        cell_from: mean\n", "")
    (tmp_path / "spec.yaml").write_text(text)
    line = text.splitlines().index("      structure:") + 1
    assert complaint("check", "spec.yaml", cwd=tmp_path).startswith(f"spec.yaml:{line}:7: 12 thermostatted")


# Places


@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_file_or_another_campaign_is_no_place(command: str, tmp_path: Path) -> None:
    spec = write_spec(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "campaign.json").write_text('{"format": 1, "campaign": "mine"}')
    options = ["--dry-run"] if command == "run" else []
    assert "no directory" in complaint(command, spec.name, "--dir", "file", *options, cwd=tmp_path)
    assert "'mine'" in complaint(command, spec.name, "--dir", "other", *options, cwd=tmp_path)


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    for command in ("init", "schema"):
        line = complaint(command, "absent/file", cwd=tmp_path, code=3)
        assert line.startswith("campaign: absent/file: cannot be written: No such file")
        assert "is a directory" in complaint(command, ".", cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []
    spec = write_spec(tmp_path)
    done = campaign("run", spec.name, "--dir", "/proc/absent", cwd=tmp_path)
    assert done.returncode == 3
    assert "/proc/absent: the directory cannot be used" in done.stderr


def test_a_bug_is_one_line_and_its_traceback_is_there_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("campaign.cli.specs.check_spec", broken)
    line = complaint("check", "spec.yaml", cwd=tmp_path, code=70)
    assert "bug of campaign: ZeroDivisionError: oh" in line
    monkeypatch.setenv("CAMPAIGN_TRACEBACK", "1")
    assert "Traceback" in campaign("check", "spec.yaml", cwd=tmp_path).stderr


def test_a_folder_of_potentials_that_is_not_there_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = write_spec(tmp_path)
    monkeypatch.setenv("LAMMPS_POTENTIALS", "/absent")
    assert "LAMMPS_POTENTIALS names /absent" in complaint("check", spec.name, cwd=tmp_path, code=3)


def test_more_threads_than_cores_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = write_spec(tmp_path)
    monkeypatch.setenv("CAMPAIGN_LAMMPS", "/absent")
    done = campaign("run", spec.name, "--threads", "9999", cwd=tmp_path)
    assert done.stderr.startswith("campaign: 1 worker of 9,999 threads on ")


# Damaged files of a campaign


DAMAGED: dict[str, Callable[[Layout], Path]] = {
    "status": lambda layout: layout.status,
    "plan": lambda layout: layout.plan,
    "report-status": lambda layout: layout.status,
    "report-plan": lambda layout: layout.plan,
    "report-manifest": lambda layout: next(layout.stages.glob("*/*/manifest.json")),
    "report-store": lambda layout: layout.store / "zarr.json",
}


@pytest.mark.parametrize(
    ("what", "garbage"),
    # Reports take a second each and read through the same functions.
    [
        (what, kind)
        for what in DAMAGED
        for kind in GARBAGE
        if "report" not in what or kind in {"list", "bytes"}
    ],
)
def test_damaged_files_are_named(what: str, garbage: str, layout: Layout) -> None:
    path = DAMAGED[what](layout)
    path.write_bytes(GARBAGE[garbage])
    command = "report" if what.startswith("report") else "status"
    line = complaint(command, str(layout.root), cwd=layout.root)
    assert str(path) in line or str(layout.store) in line


@pytest.mark.parametrize("garbage", GARBAGE)
def test_a_damaged_plan_is_no_obstacle_to_the_next_one(garbage: str, layout: Layout) -> None:
    layout.plan.write_bytes(GARBAGE[garbage])
    done = campaign("plan", str(layout.spec), "--dir", str(layout.root), "--json", cwd=layout.root)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["runs"]["new"] == 8


@pytest.mark.parametrize("garbage", GARBAGE)
def test_a_damaged_identity_is_told_before_anything_is_written(garbage: str, tmp_path: Path) -> None:
    spec = write_spec(tmp_path)
    place = tmp_path / "place"
    place.mkdir()
    (place / "campaign.json").write_bytes(GARBAGE[garbage])
    assert "campaign.json: damaged" in complaint("plan", spec.name, "--dir", "place", cwd=tmp_path)


@pytest.mark.parametrize(
    "command", ["status", "watch", "report", "rebuild", "gc --yes", "retry all --dir", "stop", "why seed=1"]
)
def test_a_campaign_of_an_unknown_format_is_refused_and_left_alone(command: str, layout: Layout) -> None:
    layout.identity.write_text(json.dumps({"format": 99, "campaign": "synthetic", "created": "then"}))
    before = {path: path.stat().st_mtime_ns for path in layout.root.rglob("*")}
    told = complaint(*command.split(), str(layout.root), cwd=layout.root.parent)
    assert "format 99 is unknown to this version" in told
    assert {path: path.stat().st_mtime_ns for path in layout.root.rglob("*")} == before


def test_a_spec_that_is_no_text_is_told_by_the_report(layout: Layout) -> None:
    layout.spec.write_bytes(b"campaign: \xff\xfe")
    assert "spec.yaml: is not UTF-8 text" in complaint("report", str(layout.root), cwd=layout.root)


# Doctor


def findings(root: Path) -> dict[str, dict[str, Any]]:
    done = campaign("doctor", str(root), "--json", cwd=root)
    return {finding["what"]: finding for finding in json.loads(done.stdout)}


def test_doctor_looks_at_everything_in_a_campaign(layout: Layout) -> None:
    found = findings(layout.root)
    parts = ("campaign", "plan", "status", "ledger", "store", "stages")
    assert [found[name]["ok"] for name in parts] == [True] * 6
    assert found["store"]["detail"] == "1 result"
    files = (layout.identity, layout.plan, layout.status, layout.ledger, layout.store / "zarr.json")
    for path in (*files, next(layout.stages.glob("*/*/manifest.json"))):
        path.write_bytes(b"garbage")
    found = findings(layout.root)
    assert [found[name]["ok"] for name in parts] == [False] * 6


def test_doctor_misses_stages_that_the_ledger_calls_done(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ledger, "states", lambda _: {"ab" * 16: "done", "cd" * 16: "pending"})
    found = findings(layout.root)["ledger"]
    assert "1 stage of 1 that it calls done is missing" in found["detail"]
    assert "nothing needs it any more" in found["detail"]


def test_doctor_refuses_a_directory_without_a_campaign(tmp_path: Path) -> None:
    assert "no campaign here" in complaint("doctor", "nowhere", cwd=tmp_path)


def test_doctor_verifies_one_campaign_or_asks_which(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / "campaigns" / name).mkdir(parents=True)
        (tmp_path / "campaigns" / name / "campaign.json").touch()
    told = complaint("doctor", "--verify", cwd=tmp_path)
    assert "not clear which campaign" in told
    assert "campaigns/one, campaigns/two" in told


def test_a_wait_for_no_site_is_refused(tmp_path: Path) -> None:
    assert "--wait is for the nodes of a --site" in complaint("doctor", "--wait", "600", cwd=tmp_path)


def test_doctor_tells_of_a_place_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("campaign.cli.doctor.os.access", lambda *_: False)
    with pytest.raises(ResourceError, match="cannot be written; choose another place"):
        doctor._rename(tmp_path)


def test_doctor_tells_what_runs_nep_models(monkeypatch: pytest.MonkeyPatch) -> None:
    def nep(named: str) -> Finding:
        monkeypatch.setenv("CAMPAIGN_NEP", named)
        monkeypatch.setattr("campaign.potentials.nep.LIBRARIES", {"here": "json", "absent": "nowhere"})
        monkeypatch.setattr("campaign.potentials.nep.metadata.version", lambda _: "1.0")
        monkeypatch.setattr(doctor, "_engines", lambda _: iter(()))
        monkeypatch.setattr(doctor, "_potentials", lambda: iter(()))
        return next(one for one in doctor._findings(None, verify=False) if "NEP" in one.what)

    assert (nep("here").ok, nep("here").detail) == (True, "here 1.0")
    assert nep("absent").ok is None
    assert nep("her").ok is False
    assert "CAMPAIGN_NEP=her names no library for NEP models; write here or absent" in nep("her").detail
    assert "'campaign[nep-fast]' (nep-adapters, a wheel, GPL) or 'campaign[nep]'" in nep("absent").detail


# Selectors


def test_retry_tells_what_a_selector_could_have_been(layout: Layout) -> None:
    def retried(what: str) -> str:
        return complaint("retry", what, "--dir", str(layout.root), cwd=layout.root)

    assert "no labels (seed=3), and no run; did you mean 'lost worker'?" in retried("lost workr")
    assert "classes of failures here: lost worker" in retried("something")
    assert "no failed run matches 'physics'" in retried("physics")
    assert "has no label 'sed'" in retried("sed=3")
    assert "nemd has no seed=99; its values are " in retried("seed=99")
    assert "nemd has no direction=forwrd; did you mean 'forward'?" in retried("direction=forwrd")


def test_runs_are_found_by_the_names_of_fields_and_by_stages(tmp_path: Path) -> None:
    axes = """
    axes:
      structure.stacking: [AA, AB]
      temperature_K: [200, 300]
      seed: {count: 2}
"""
    plan = plan_spec(tmp_path, axes)
    make_campaign(tmp_path, plan, {})
    for one in (plan, load_plan(Layout(tmp_path).plan)):
        run = one.find("structure.stacking=AA,temperature_K=300,seed=2")
        assert run.labels == {"stacking": "AA", "temperature": 300.0, "seed": 2}
        assert one.find(run.result_stage) == run
        assert one.find(run.result_stage[:8]) == run
        assert {found.labels["stacking"] for found in one.matching(run.stages[0])} == {"AA"}
