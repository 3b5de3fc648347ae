"""The command line as a user meets it: what it prints, where, with which exit code, and that it goes on."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from campaign.cli import main
from campaign.execution.driver import DriverResult
from tests.synthetic import make_campaign, plan_spec

SPECS = Path(__file__).parents[1] / "specs"

SMALL = """\
campaign: tiny
description: Far too small and too short; only to see that everything works.
calculations:
  nemd:
    settings:
      structure:
        lower: {material: hbn, layers: 4, cells: [3, 2]}
        upper: {material: graphene, layers: 3, cells: [3, 2]}
        cell_from: mean
        stacking: ABp
      bath_offset_K: 100
      timestep_fs: 1
      npt_ps: 0.3
      nvt_ps: 0.1
      build_up_ps: 0.2
      production_ps: 1
      sampling_interval_ps: 0.05
    axes:
      direction: [forward, backward]
      seed: {count: 2}
"""


HEAVY = {"dask", "matplotlib", "numpy", "pandas", "xarray", "zarr"}

ENVIRONMENT = {"COLUMNS": "100", "NO_COLOR": "1"}  # a fixed width, so that nothing wraps


def campaign(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command line in this process, which saves a second of imports."""
    with (
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(io.StringIO()) as output,
        contextlib.redirect_stderr(io.StringIO()) as errors,
        patch.dict(os.environ, ENVIRONMENT),
        patch.object(sys, "argv", ["campaign", *arguments]),
        pytest.raises(SystemExit) as end,
    ):
        main()
    code = end.value.code
    assert code is None or isinstance(code, int)
    return subprocess.CompletedProcess(arguments, code or 0, output.getvalue(), errors.getvalue())


def campaign_process(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command line as a process."""
    return subprocess.run(
        [sys.executable, "-m", "campaign", *arguments],
        cwd=cwd,
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def write_spec(directory: Path, old: str = "", new: str = "") -> Path:
    assert old in SMALL
    path = directory / "spec.yaml"
    path.write_text(SMALL.replace(old, new, 1) if old else SMALL)
    return path


def heavy_imports(*arguments: str, cwd: Path) -> set[str]:
    """Heavy modules that a command imported; it must succeed."""
    code = (
        "import atexit, sys; from campaign.cli import main; "
        f"atexit.register(lambda: print(*(sys.modules.keys() & {HEAVY}), file=sys.stderr)); main()"
    )
    command = (sys.executable, "-c", code, *arguments)
    return set(subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True).stderr.split())


def test_commands_that_should_answer_at_once_import_nothing_heavy(tmp_path: Path) -> None:
    plan = plan_spec(tmp_path)
    status = {
        "driver": {"pid": 1, "host": "node7", "state": "finished"},
        "updated": "2026-11-22T10:00:00+00:00",
        "states": {"nemd": "d" * len(plan.calculations[0].runs)},
        "failed": {},
    }
    layout = make_campaign(tmp_path, plan, {}, status=status)
    layout.identity.write_text(json.dumps({"format": 1, "campaign": "synthetic", "created": "now"}))
    assert heavy_imports("--help", cwd=tmp_path) == set()
    assert heavy_imports("status", cwd=tmp_path) == set()
    assert heavy_imports("check", "spec.yaml", cwd=tmp_path) == {"numpy"}


BAD_INPUT = {
    "malformed YAML": ("description: Far", 'description: "Far', "spec.yaml:"),
    "unknown key": ("timestep_fs: 1\n", "timestep: 1\n", "spec.yaml:12:7: "),
    "wrong type": ("timestep_fs: 1\n", "timestep_fs: fast\n", "spec.yaml:12:"),
    "timestep of 50 fs": ("timestep_fs: 1\n", "timestep_fs: 50\n", "spec.yaml:12:"),
    "bath below 0 K": ("bath_offset_K: 100", "bath_offset_K: 400", "spec.yaml:11:"),
    "negative temperature": ("bath_offset_K: 100", "temperature_K: -300", "spec.yaml:11:"),
    "unknown potential": ("bath_offset_K: 100", "potential: tersof-lj", "spec.yaml:11:"),
    "unknown material": ("material: hbn", "material: hnb", "spec.yaml:7:"),
    "too much strain": (
        "cells: [3, 2]}\n        cell_from: mean\n        stacking: ABp",
        "cells: [4, 3]}\n        cell_from: mean\n        stacking: moire",
        "% along x",
    ),
    "no free layer": ("layers: 4", "layers: 3", "spec.yaml:"),
    "axes of nothing": ("direction: [forward, backward]", "direction: []", "spec.yaml:19:"),
    "unknown axis value": ("[forward, backward]", "[forward, sideways]", "spec.yaml:19:"),
    "too many runs": ("seed: {count: 2}", "seed: {count: 6000}", "--yes"),
    "unknown engine": ("  nemd:\n", "  nemd:\n    engine: lamps\n", "spec.yaml:5:"),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_gets_one_clear_line_before_anything_is_spent(name: str, tmp_path: Path) -> None:
    old, new, expected = BAD_INPUT[name]
    spec = write_spec(tmp_path, old, new)
    done = campaign("run", spec.name, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not (tmp_path / "campaigns").exists()


def test_a_directory_of_another_campaign_is_refused_and_not_touched(tmp_path: Path) -> None:
    spec = write_spec(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    (other / "campaign.json").write_text(json.dumps({"format": 1, "campaign": "mine", "created": "now"}))
    done = campaign("run", spec.name, "--dir", "other", cwd=tmp_path)
    assert done.returncode == 2
    assert "belongs to the campaign 'mine'" in done.stderr
    assert [path.name for path in other.iterdir()] == ["campaign.json"]


def test_a_missing_engine_ends_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = write_spec(tmp_path)
    monkeypatch.setenv("CAMPAIGN_LAMMPS", str(tmp_path / "lmp"))
    done = campaign("run", spec.name, cwd=tmp_path)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert str(tmp_path / "lmp") in done.stderr
    assert not (tmp_path / "campaigns").exists()


def test_template_is_a_good_spec_and_never_overwrites(tmp_path: Path) -> None:
    assert campaign("init", cwd=tmp_path).returncode == 0
    assert campaign("check", "campaign.yaml", cwd=tmp_path).returncode == 0
    again = campaign("init", cwd=tmp_path)
    assert again.returncode == 2
    assert "there already" in again.stderr


def test_schema_describes_the_settings(tmp_path: Path) -> None:
    done = campaign("schema", cwd=tmp_path)
    assert done.returncode == 0
    assert "bath_offset_K" in json.dumps(json.loads(done.stdout))


def test_plan_and_dry_run_write_nothing(tmp_path: Path) -> None:
    spec = write_spec(tmp_path)
    planned = campaign("plan", spec.name, "--json", cwd=tmp_path)
    report = json.loads(planned.stdout)
    # build, two equilibrations that both directions share, four productions, four reductions
    assert report["runs"]["total"] == 4
    assert report["stages"]["total"] == 1 + 2 + 4 + 4
    assert campaign("run", spec.name, "--dry-run", cwd=tmp_path).returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == [spec.name]


def test_the_same_command_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_spec(tmp_path).rename(tmp_path / "my spec.yaml")

    def stopped(*_: object, **options: object) -> DriverResult:
        assert (options["workers"], options["threads"]) == (1, 1)
        return DriverResult({}, interrupted=True, held={})

    monkeypatch.setattr("campaign.execution.driver.run_campaign", stopped)
    monkeypatch.setattr("campaign.cli.run.conclude", lambda *_, **__: None)
    done = campaign("run", "my spec.yaml", "--workers", "1", "--yes", cwd=tmp_path)
    assert done.returncode == 130
    again = "campaign run 'my spec.yaml' --dir campaigns/tiny --workers 1 --yes"
    assert done.stderr.splitlines()[-1] == f"stopped; the same command goes on: {again}"


def test_nothing_is_wrong_when_a_reader_has_seen_enough(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "campaign", "potentials"]
    done = subprocess.run(command, cwd=tmp_path, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_doctor_finds_the_engine(tmp_path: Path) -> None:
    done = campaign("doctor", "--json", cwd=tmp_path)
    findings = {finding["what"]: finding["ok"] for finding in json.loads(done.stdout)}
    assert done.returncode == 0
    assert findings["engine lammps"] is True
    assert list(tmp_path.iterdir()) == []


def attempts(directory: Path, run: str) -> list[dict[str, Any]]:
    record = json.loads(campaign("why", run, str(directory), "--json", cwd=directory).stdout)
    return [attempt for stage in record["stages"] for attempt in stage["attempts"]]


@pytest.mark.lammps
@pytest.mark.slow
def test_interrupt_then_the_same_command_goes_on_and_a_third_time_costs_nothing(tmp_path: Path) -> None:
    spec = write_spec(tmp_path)
    command = [sys.executable, "-m", "campaign", "run", spec.name, "--workers", "2"]
    environment = {**os.environ, **ENVIRONMENT}
    directory = tmp_path / "campaigns" / "tiny"
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as first:
        deadline = time.monotonic() + 120
        while not list(directory.glob("stages/*/*")) and time.monotonic() < deadline:
            time.sleep(0.1)
        first.send_signal(signal.SIGINT)
        _, errors = first.communicate(timeout=60)
    assert first.returncode == 130, errors
    assert "Traceback" not in errors
    kept = {path.name: path.stat().st_mtime_ns for path in directory.glob("stages/*/*")}
    assert kept

    second = campaign_process("run", spec.name, "--workers", "2", "--json", cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    (row,) = [row for row in json.loads(second.stdout)["conditions"] if row["labels"]["direction"] == "both"]
    assert row["n"] + row["n_excluded"] == 4
    assert row["units"] == "MW m^-2 K^-1"
    committed = {path.name: path.stat().st_mtime_ns for path in directory.glob("stages/*/*")}
    assert committed.items() >= kept.items()
    assert len(committed) == 11
    assert not list(directory.glob("attempts/*"))
    assert (directory / "report.html").stat().st_size > 10_000

    counted = attempts(directory, "direction=forward,seed=1")
    third = campaign_process("run", spec.name, cwd=tmp_path)
    assert third.returncode == 0
    assert attempts(directory, "direction=forward,seed=1") == counted
    assert "Interfacial thermal conductance" in third.stdout

    status = campaign("status", cwd=tmp_path)
    assert "DD" in status.stdout
    grown = SMALL.replace("count: 2", "count: 3").replace("production_ps: 1", "production_ps: 1.5")
    spec.write_text(grown)
    report = json.loads(campaign("plan", spec.name, "--json", cwd=tmp_path).stdout)
    assert report["runs"]["changed"] == 4
    assert report["runs"]["new"] == 2
    assert [change["field"] for change in report["changes"]] == ["production_ps"]
    assert report["stages"]["reused"] == 3  # the structure and two equilibrations


def test_the_schema_beside_the_specs_is_the_current_one() -> None:
    from campaign.spec import json_schema

    committed = json.loads((SPECS / "campaign.schema.json").read_text())
    assert committed == json_schema(), "run: campaign schema specs/campaign.schema.json"


@pytest.mark.parametrize("path", sorted(SPECS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_spec_of_the_project_is_good(path: Path, tmp_path: Path) -> None:
    done = campaign("check", str(path), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
