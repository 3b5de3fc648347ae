"""``campaign plan`` and ``run`` with ``--site``, as far as no job is submitted: costs, questions, scratch."""

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import typer

from campaign.cli import detach, site_plan
from campaign.cli.directory import campaign_root, link_here, scratch_of
from campaign.compare import compare
from campaign.errors import ExitCode, LedgerError, ResourceError, SpecError
from campaign.execution import handover
from campaign.execution.detached import DriverJobs
from campaign.execution.driver import DriverResult
from campaign.execution.job_scripts import job_prefix
from campaign.layout import Layout
from campaign.site import NamedSite, find_site
from tests.planning import SPEC, plan_of, use_toy
from tests.test_cli import campaign, write_spec
from tests.test_site import SITE, site_file


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, and another one as scratch."""
    (tmp_path / "scratch").mkdir()
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("SCRATCH", str(tmp_path / "scratch"))
    return work


def test_a_plan_on_a_site_tells_jobs_hours_and_scripts(here: Path) -> None:
    spec, site = write_spec(here), site_file(here)
    done = campaign("plan", spec.name, "--site", site.name, cwd=here)
    assert done.returncode == 0, done.stderr
    for part in (
        "on here",
        "at most 1 job of 1:00:00 at a time, 1 in all",
        "longest stage (produce): ",
        "GPU-hours 0.",
        "a factor of 3 either way",
        "#SBATCH --gres=gpu:1",
        f"#SBATCH -o {here}/campaigns/tiny/jobs/tiny-",
    ):
        assert part in " ".join(done.stdout.split())
    data = json.loads(campaign("plan", spec.name, "--site", site.name, "--json", cwd=here).stdout)["on_site"]
    assert set(data["job_scripts"]) == {"gpu"}
    assert data["job_scripts"]["gpu"] in done.stdout
    assert data["gpu_hours"]["low"] < data["gpu_hours"]["likely"] < data["gpu_hours"]["high"]
    assert data["basis"] == ["default"]
    assert not (here / "campaigns").exists(), "a plan makes nothing"


def test_run_does_not_spend_unasked(here: Path) -> None:
    spec = write_spec(here)
    site = site_file(here, f"{SITE}ask_above_gpu_hours: 1.0e-6\nscratch: $SCRATCH\n")
    done = subprocess.run(
        [sys.executable, "-m", "campaign", "run", spec.name, "--site", site.name],
        cwd=here,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    (told,) = done.stderr.strip().splitlines()
    assert re.fullmatch(
        r"campaign: on here it may take \S+ GPU-hours, more than 1e-06; .*--yes goes on.*", told
    )
    assert not (here / "campaigns").exists()


def test_above_a_limit_it_asks(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_toy(monkeypatch)
    report = compare(plan_of(SPEC)[0])
    asked: list[str] = []

    def confirm(text: str, *, err: bool) -> bool:
        assert err
        asked.append(text)
        return False

    def goes_on(limit: float, *, yes: bool = False) -> bool:
        named = find_site(str(site_file(here, f"{SITE}ask_above_gpu_hours: {limit!r}\n")))
        return site_plan.ask_before_spending(named, report, Layout(here), yes=yes)

    monkeypatch.setattr(typer, "confirm", confirm)
    monkeypatch.setattr("sys.stdin", open(os.devnull))  # noqa: PTH123, SIM115 - a terminal's stand-in
    assert goes_on(1e9)
    assert goes_on(1e-9, yes=True)
    with pytest.raises(SpecError, match="--yes goes on"):
        goes_on(1e-9)
    assert asked == []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    assert not goes_on(1e-9)
    assert len(asked) == 1
    assert "more than 1e-09. Go on?" in asked[0]


# A driver in a job


def test_a_driver_that_waits_in_the_queue_is_told_as_data_and_by_why(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def submit(jobs: DriverJobs) -> str:
        jobs.layout.jobs.mkdir()
        told = {"job": "12", "site": "here.yaml", "campaign": jobs.campaign}
        jobs.layout.driver_job.write_text(json.dumps(told))
        return "12"

    monkeypatch.setattr(DriverJobs, "ids", [])
    monkeypatch.setattr(DriverJobs, "submit", submit)
    site_file(here, f"{SITE}driver: gpu\n")
    done = campaign(
        "run", write_spec(here).name, "--site", "here.yaml", "--detach", "--yes", "--json", cwd=here
    )
    assert json.loads(done.stdout) == {"campaign": "tiny", "directory": "campaigns/tiny", "job": "12"}
    assert "  campaign watch campaigns/tiny\n" in done.stderr
    why = json.loads(campaign("why", "direction=forward,seed=1", "--json", cwd=here).stdout)
    assert {stage["state"] for stage in why["stages"]} == {"pending"}
    assert why["next"] == "campaign status campaigns/tiny"


def queued_driver(here: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """A campaign whose driver waits in the queue as job 12."""

    def submit(jobs: DriverJobs) -> str:
        jobs.layout.jobs.mkdir()
        jobs.note("12")
        return "12"

    monkeypatch.setattr(DriverJobs, "ids", [])
    monkeypatch.setattr(DriverJobs, "submit", submit)
    site_file(here, f"{SITE}driver: gpu\n")
    started = ("run", write_spec(here).name, "--site", "here.yaml", "--detach", "--yes")
    assert campaign(*started, cwd=here).returncode == 0
    monkeypatch.setattr(DriverJobs, "ids", ["12"])
    assert campaign(*started, cwd=here).returncode == ExitCode.BUSY
    return Layout(here / "campaigns" / "tiny")


def test_where_slurm_does_not_answer_no_second_driver_starts_and_nothing_is_called_stopped(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(_: DriverJobs) -> list[str]:
        raise ResourceError("squeue does not answer")

    layout = queued_driver(here, monkeypatch)
    monkeypatch.setattr(DriverJobs, "ids", property(silent))
    done = campaign("run", "spec.yaml", cwd=here)
    assert done.returncode == ExitCode.BUSY
    assert "job 12 may drive this campaign, or is about to: squeue does not answer" in done.stderr
    done = campaign("stop", cwd=here)
    assert done.returncode == ExitCode.RESOURCE
    assert "SLURM does not answer, so nothing was stopped" in done.stderr
    assert layout.driver_job.exists()


def test_a_stop_between_two_drivers_ends_what_the_first_left_to_the_next(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = queued_driver(here, monkeypatch)
    (layout.jobs / handover.ADDRESS).touch()
    gone: list[str] = []
    monkeypatch.setattr(DriverJobs, "cancel", lambda _, job_id: gone.append(job_id))
    monkeypatch.setattr(handover, "end_jobs", gone.append)
    done = campaign("stop", cwd=here)
    assert "cancelled its job 12" in done.stderr
    assert gone == ["12", job_prefix(layout, "tiny")]
    assert not (layout.jobs / handover.ADDRESS).exists()
    assert not layout.driver_job.exists()


def test_a_driver_in_a_job_ends_as_others_do_where_work_is_held_back(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def held(*_: object, **__: object) -> DriverResult:
        return DriverResult({}, interrupted=False, held={"engine lammps": "is not there"})

    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setattr("campaign.execution.driver.run_campaign", held)
    monkeypatch.setattr("campaign.execution.detached.Succession", MagicMock())
    monkeypatch.setattr("campaign.cli.run.conclude", lambda *_, **__: None)
    write_spec(here)
    code = detach.drive(here, str(site_file(here)))
    assert code == ExitCode.RESOURCE
    assert "held back: engine lammps: is not there" in capsys.readouterr().err


# Scratch


def scratch_site(folder: Path, scratch: str = "$SCRATCH") -> NamedSite:
    return find_site(str(site_file(folder, f"{SITE}scratch: {scratch}\n")))


def test_campaigns_lie_on_scratch_with_a_link_here(here: Path, tmp_path: Path) -> None:
    named = scratch_site(here)
    root = campaign_root("c", None, named)
    assert root == tmp_path / "scratch" / "c"
    assert campaign_root("c", Path("elsewhere"), named) == Path("elsewhere")
    assert campaign_root("c", None, find_site(str(site_file(here)))) == Path("campaigns/c")
    link_here(root, "c")
    assert campaign_root("c", None, named) == root, "scratch was cleaned up: it is made there again"
    root.mkdir()
    assert Path("campaigns/c").resolve() == root
    assert campaign_root("c", None, named) == Path("campaigns/c")
    assert campaign_root("c", None, None) == Path("campaigns/c")


def test_what_is_in_campaigns_already_is_used(here: Path, tmp_path: Path) -> None:
    Path("campaigns/mine").mkdir(parents=True)
    assert campaign_root("mine", None, scratch_site(here)) == Path("campaigns/mine")
    Path("campaigns/lost").symlink_to(tmp_path / "gone")
    with pytest.raises(LedgerError, match=r"links to .*/gone, which is gone; bring that back, or remove"):
        campaign_root("lost", None, scratch_site(here))


@pytest.mark.parametrize(
    ("scratch", "said"),
    [
        ("$ABSENT/x", "a variable in it is not set"),
        ("near", "must start with /"),
        ("/absent", "is no folder"),
    ],
)
def test_a_scratch_that_is_not_there_is_one_clear_error(scratch: str, said: str, here: Path) -> None:
    with pytest.raises(ResourceError, match=said):
        scratch_of(scratch_site(here, scratch))
    done = campaign("run", write_spec(here).name, "--site", "here.yaml", "--yes", cwd=here)
    assert done.returncode == 3
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_run_makes_the_link_before_anything_else(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site_file(here, f"{SITE}scratch: $SCRATCH\nenvironment: {{PATH: {tmp_path}}}\n")
    spec = write_spec(here)
    done = campaign("run", spec.name, "--site", "here.yaml", cwd=here)
    assert done.returncode == 3
    assert "squeue is not here" in done.stderr
    link = here / "campaigns" / "tiny"
    assert link.resolve() == tmp_path / "scratch" / "tiny"
    assert stat.S_IMODE((link / "jobs").stat().st_mode) == 0o700, "keys are written there"
    link.unlink()
    link.mkdir()
    done = campaign("run", spec.name, "--site", "here.yaml", cwd=here)
    assert "campaigns/tiny is here already: it is used, not the scratch of here" in done.stderr
