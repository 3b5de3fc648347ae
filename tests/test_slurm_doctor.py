"""``campaign doctor --site``, against a real SLURM on this machine, and the scripts that a SLURM gets."""

import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from campaign.cli.doctor import Finding
from campaign.cli.doctor_site import _of_job
from campaign.execution import probe, probing
from campaign.execution.cluster import Kind
from campaign.execution.job_scripts import job_script
from campaign.execution.jobs import open_jobs
from campaign.execution.slurm import JobState
from campaign.layout import Layout
from campaign.site import Resource, find_site
from tests.local_slurm import LocalSlurm, local_slurm, needs_slurm
from tests.test_cli import campaign
from tests.test_site import SITE, site_file


@pytest.fixture(scope="module")
def slurm() -> Iterator[LocalSlurm]:
    with local_slurm(nodes=2, gpus=2) as started:
        yield started


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is on this machine: nothing is seen late. And this SLURM may be asked often."""
    monkeypatch.setattr(probing, "LATE_S", 1.0)
    monkeypatch.setattr(probing, "ASK_EVERY_S", 1.0)


def changed_site(slurm: LocalSlurm, folder: Path, **changes: Any) -> Path:
    """The site of a local SLURM, with other values at its top."""
    yaml = YAML(typ="safe")
    data = yaml.load(slurm.site.read_text()) | changes
    path = folder / "changed.yaml"
    with path.open("w") as file:
        yaml.dump(data, file)
    return path


def examined(site: Path, cwd: Path, *options: str, code: int) -> dict[str, dict[str, Any]]:
    done = campaign("doctor", "--site", str(site), "--json", *options, cwd=cwd)
    assert done.returncode == code, done.stdout + done.stderr
    return {finding["what"]: finding for finding in json.loads(done.stdout)}


def jobs_of(slurm: LocalSlurm) -> list[str]:
    return slurm.run("squeue", "-h", "-o", "%i %j").splitlines()


# With SLURM


@pytest.mark.slurm
@pytest.mark.lammps
@needs_slurm
def test_a_good_site_passes_and_nothing_is_left(slurm: LocalSlurm, tmp_path: Path) -> None:
    found = examined(slurm.site, tmp_path, code=0)
    assert {what for what, finding in found.items() if not finding["ok"]} == set()
    assert found["gpu GPU"]["detail"].startswith("CUDA_VISIBLE_DEVICES=")
    assert " on cpu, " in found["gpu engine lammps"]["detail"]
    assert "cpu engine lammps" not in found, "builds and reductions need none"
    for check in ("job", "shared folder", "clock", "environment", "locks", "network"):
        assert {f"gpu {check}", f"cpu {check}"} <= found.keys()
    assert "answers on n" in found["driver slurm"]["detail"]
    assert "gpu slurm" not in found
    assert list(tmp_path.iterdir()) == []
    assert jobs_of(slurm) == []


@pytest.mark.slurm
@needs_slurm
def test_what_sbatch_refuses_is_told_in_its_words_and_jobs_that_end_at_once(
    slurm: LocalSlurm, tmp_path: Path
) -> None:
    short = {"walltime": "0:10:00", "memory_GB": 1}
    places = [{"partition": "cpu"}, {"partition": "gone"}]
    resources = {
        "nowhere": short | {"partition": "absent"},
        "many": short | {"gpus": 9},
        "long": short | {"walltime": "9-00:00:00"},
        "several": short | {"partition": "short,gpu"},  # too long for one of them
        "placed": short | {"partition": "gpu", "jobs": 3, "also": places},
        "unshared": short | {"directives": ["-o /absent/out", "-e /absent/err"]},
        "gpuless": short | {"partition": "cpu", "gpus": 1, "directives": ["--gres=none"]},
    }
    site = changed_site(
        slurm, tmp_path, resources=resources, stages={"default": "unshared", "build": "gpuless"}, driver=None
    )
    found = examined(site, tmp_path, code=3)
    wrong = {what: finding["detail"] for what, finding in found.items() if finding["ok"] is False}
    assert set(wrong) == {
        "nowhere directives",
        "placed@3 directives",
        "many directives",
        "long directives",
        "unshared job",
        "gpuless GPU",
    }
    assert "invalid partition specified: absent" in wrong["nowhere directives"]
    assert "node configuration is not available" in wrong["many directives"]
    assert wrong["long directives"] == "walltime 9-00:00:00 is more than the 1-00:00:00 of the partition gpu"
    assert f"could not write into {tmp_path}" in wrong["unshared job"]
    assert "0 of 1 GPU in CUDA_VISIBLE_DEVICES" in wrong["gpuless GPU"]
    assert all(found[what]["todo"] for what in wrong)
    assert found["several job"]["ok"]
    assert found["placed job"]["ok"]
    assert found["placed@2 job"]["ok"]


@pytest.mark.slurm
@needs_slurm
def test_a_broken_environment_is_told_by_the_last_line_of_the_job(slurm: LocalSlurm, tmp_path: Path) -> None:
    found = examined(changed_site(slurm, tmp_path, python="/absent/python"), tmp_path, code=3)
    assert re.search(r"job \d+ on n\d ended without an answer .*/absent/python", found["gpu job"]["detail"])
    lost = changed_site(
        slurm, tmp_path, engines={"lammps": "/absent/lmp"}, interface="ib7", driver_interface="lo"
    )
    found = examined(lost, tmp_path, code=3)
    assert {what for what, finding in found.items() if finding["ok"] is False} == {
        "gpu engine lammps",
        "gpu network",
        "cpu network",
        "driver network",
    }
    assert "'ib7' is not a valid network interface" in found["gpu network"]["detail"]
    assert found["address"]["detail"].endswith("127.0.0.1")


@pytest.mark.slurm
@needs_slurm
def test_a_full_cluster_is_not_waited_for_without_end(slurm: LocalSlurm, tmp_path: Path) -> None:
    for _ in slurm.nodes:
        slurm.run("sbatch", "--exclusive", "-t", "5", "-o", "/dev/null", "--wrap", "sleep 300")
    began = time.monotonic()
    try:
        found = examined(slurm.site, tmp_path, "--wait", "6", code=3)
        assert time.monotonic() - began < 60
        assert re.search(r"still waits after 6 s \(.+\) and is cancelled", found["cpu job"]["detail"])
        assert "--wait 60" in found["cpu job"]["todo"]
        assert not any("campaign-doctor" in job for job in jobs_of(slurm))
    finally:
        slurm.run("scancel", "--me")


@pytest.mark.slurm
@needs_slurm
def test_the_script_of_a_plan_is_what_slurm_gets(slurm: LocalSlurm, tmp_path: Path) -> None:
    named = find_site(str(slurm.site))
    layout = Layout(tmp_path)
    with open_jobs(named, layout, campaign="c", epoch=1, needs_s=1.0) as jobs:
        deadline = time.monotonic() + 60
        while not (names := jobs_of(slurm)) and time.monotonic() < deadline:
            jobs.request({Kind("gpu"): 1}, set())
            time.sleep(0.5)
        job_id, name = names[0].split()
        got = slurm.run("scontrol", "write", "batch_script", job_id, "-")
    planned = job_script(named.site, Kind("gpu"), name=name.removesuffix(".gpu"), log_directory=layout.jobs)
    assert got.strip() == planned.strip()


# Without


def test_a_site_without_slurm_or_scratch_is_told(tmp_path: Path) -> None:
    site = site_file(tmp_path, f"{SITE}environment: {{PATH: {tmp_path}}}\nscratch: $ABSENT/campaigns\n")
    found = examined(site, tmp_path, code=3)
    assert found["slurm"]["detail"].startswith("sbatch is not here")
    assert "a variable in it is not set" in found["folder"]["detail"]
    assert os.environ["PATH"] != str(tmp_path), "variables of a site are for its commands only"
    done = campaign("doctor", str(tmp_path), "--site", str(site), cwd=tmp_path)
    assert done.returncode == 2


def told(answer: Mapping[str, Any], **resource: Any) -> dict[str, Finding]:
    job = probing.Probe("gpu", Path("/absent"), "7", started_s=1.0, answer={"node": "n1", **answer})
    asked = Resource.model_validate({"walltime": "1:00:00", "memory_GB": 1} | resource)
    return {finding.what: finding for finding in _of_job(job, asked, 60.0)}


@pytest.mark.parametrize(
    ("clock", "ok", "detail"),
    [
        ([100.0, 100.2, 100.4], True, "n1 is at most 0.2 s off"),
        ([100.0, 130.0, 140.0], True, "n1 is at most 30.0 s off"),  # seen late: it may be right
        ([100.0, 160.0, 101.0], False, "n1 is at least 59 s behind"),
        ([900.0, 100.0, 901.0], False, "n1 is at least 800 s ahead"),
    ],
)
def test_clocks(clock: list[float], ok: bool, detail: str) -> None:
    found = told({"rename": {"clock": clock}})
    assert (found["gpu clock"].ok, found["gpu clock"].detail) == (ok, detail)
    assert found["gpu shared folder"].ok


def test_locks_that_a_node_does_not_see_are_no_error() -> None:
    assert told({"locks": {"refused": False}})["gpu locks"].ok is None
    assert told({"locks": {"problem": "no locks available"}})["gpu locks"].ok is None
    assert told({"locks": {"refused": True}})["gpu locks"].ok


def test_other_versions_and_other_gpus_are_told() -> None:
    versions = probe.versions() | {"distributed": "1.0"}
    found = told({"environment": {"versions": versions, "python": "/p"}})["gpu environment"]
    assert not found.ok
    assert found.detail.startswith("distributed 1.0 there, ")
    names = {"visible": "0,1", "names": ["A100", "A100"]}
    assert told({"gpus": names}, gpus=2)["gpu GPU"].detail == "CUDA_VISIBLE_DEVICES=0,1: A100, A100"
    assert not told({"gpus": names}, gpus=4)["gpu GPU"].ok
    assert "gpu GPU" not in told({"gpus": names})


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (JobState("PENDING", "PartitionTimeLimit"), "would wait for ever: PartitionTimeLimit"),
        (JobState("PENDING", "Priority"), "still waits after 60 s (Priority)"),
        (None, "SLURM does not say why"),
    ],
)
def test_a_job_that_does_not_start_is_told(state: JobState | None, said: str) -> None:
    job = probing.Probe("gpu", Path("/absent"), "7", state=state)
    (found,) = _of_job(job, Resource(walltime="1:00:00", memory_GB=1), 60.0)
    assert (found.what, found.ok) == ("gpu job", False)
    assert said in found.detail


def test_both_sides_of_a_rename(tmp_path: Path) -> None:
    probe.rename_in(tmp_path, "driver")
    assert [path.name for path in tmp_path.iterdir()] == ["driver-done"]
    (tmp_path / "driver-aside").mkdir()
    with pytest.raises(OSError, match="exists"):
        probe.rename_in(tmp_path, "driver")
    found = probe.rename(tmp_path)  # the driver's is there already
    before, shown, after = found["clock"]
    assert shown <= before <= after


def test_what_goes_wrong_with_one_question_leaves_the_others(tmp_path: Path) -> None:
    request = {"engines": ["absent"], "host": "127.0.0.1", "port": 1, "interface": None, "drives": True}
    (tmp_path / probe.REQUEST).write_text(json.dumps(request))
    probe.rename_in(tmp_path, "driver")
    found = probe.answer(tmp_path)
    assert "unknown engine 'absent'" in found["engine absent"]["problem"]
    assert "refused" in found["network"]["problem"]
    assert found["environment"]["versions"] == probe.versions()
    with probing.listening("127.0.0.1") as port:
        assert probe.network("127.0.0.1", port, "lo") == {"reached": f"127.0.0.1:{port}"}
