"""What SLURM says, and what follows for jobs and attempts; no SLURM is needed."""

import math
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from campaign.errors import FailureClass, ResourceError
from campaign.execution import slot, slurm
from campaign.execution.cluster import Kind
from campaign.execution.job_scripts import job_options, segment_s
from campaign.execution.slurm import (
    ENDINGS,
    MOST_UNKNOWN,
    JobState,
    JobWatch,
    is_passing,
    parse_sacct,
    parse_squeue,
    said_by_sbatch,
    seconds_of_limit,
)
from campaign.site import Resource, Site

SITE = Site(
    scheduler="slurm",
    account="physics",
    environment={"SLURM_CONF": "/etc/a b.conf"},
    engines={"lammps": "/opt/lmp"},
    setup=["module load gcc"],
    resources={
        "cpu": Resource(partition="main", walltime="1:00:00", memory_GB=2),
        "gpu": Resource(
            walltime="1-00:00:00", cores=8, memory_GB=16, gpus=1, gpu_type="a100", account="other"
        ),
    },
    stages={"default": "gpu", "build": "cpu"},
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1-02:03:04", 93784),
        ("02:03:04", 7384),
        ("3:04", 184),
        ("UNLIMITED", None),
        ("INVALID", None),
        ("", None),
    ],
)
def test_limits_as_sinfo_writes_them(text: str, seconds: float | None) -> None:
    assert seconds_of_limit(text) == seconds


def test_jobs_as_squeue_writes_them() -> None:
    text = "7|RUNNING|None|n1\n8|PENDING|QOSMaxJobs|\n9|PENDING|PartitionTimeLimit|\n"
    found = dict(parse_squeue(text))
    assert found["7"] == JobState("RUNNING", "None", "n1")
    assert not found["7"].ended
    assert [found[job].hopeless for job in ("7", "8", "9")] == [False, False, True]


def test_lines_that_are_no_jobs_are_left_out() -> None:
    assert dict(parse_squeue("\n7|RUNNING|None|n1\nslurm_load_jobs: a warning\n")).keys() == {"7"}
    assert dict(parse_sacct("7|TIMEOUT|n1\n8||n1\n\n")).keys() == {"7"}


def test_a_command_that_cannot_be_asked_now_is_no_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    done = slurm.ask(("printf", r"7|RUNNING|\377|n1"))
    assert dict(parse_squeue(done)).keys() == {"7"}

    def no_process(*_: object, **__: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "run", no_process)
    with pytest.raises(ResourceError, match="squeue does not start"):
        slurm.ask(("squeue",))


def test_a_limit_of_a_single_job_is_never_met() -> None:
    assert JobState("PENDING", "QOSMaxCpuPerJobLimit").hopeless
    assert not JobState("RUNNING", "QOSMaxCpuPerJobLimit").hopeless


def test_jobs_as_sacct_writes_them() -> None:
    found = dict(parse_sacct("7|CANCELLED by 1000|n1\n8|NODE_FAIL|None assigned\n"))
    assert found == {"7": JobState("CANCELLED", node="n1"), "8": JobState("NODE_FAIL")}
    assert [ENDINGS[state.state][0] for state in found.values()] == [
        FailureClass.JOB_CANCELLED,
        FailureClass.NODE_FAILURE,
    ]


@pytest.mark.parametrize(
    ("said", "tries"),
    [
        ("Batch job submission failed: Unable to contact slurm controller (connect failure)", math.inf),
        ("Batch job submission failed: Socket timed out on send/recv operation", math.inf),
        ("Batch job submission failed: Job violates accounting/QOS policy (job submit limit)", math.inf),
        ("Batch job submission failed: Required partition not available (inactive or drain)", math.inf),
        (
            "Batch job submission failed: Requested time limit is invalid (missing or exceeds some limit)",
            1,
        ),
        ("Batch job submission failed: Requested node configuration is not available", 1),
        ("Memory specification can not be satisfied", 1),
        ("invalid partition specified: gpuu", 1),
        ("Batch job submission failed: I/O error writing script/environment to file", MOST_UNKNOWN),
    ],
)
def test_what_sbatch_may_take_later(said: str, tries: float) -> None:
    error = f"Command exited with non-zero exit code.\nExit code: 1\nstderr:\nsbatch: error: {said}\n\n"
    assert said_by_sbatch(error) == said
    may_pass = [is_passing(said, before) for before in range(20)]
    assert may_pass == [before + 1 < tries for before in range(20)]


def options(kind: Kind, **more: Any) -> dict[str, Any]:
    return job_options(SITE, kind, name="c-1.2", log_directory=Path("/shared/jobs"), **more)


def test_a_job_asks_for_what_its_kind_needs() -> None:
    gpu = options(Kind("gpu"), excluded={"n2", "n1"})
    assert gpu["job_extra_directives"] == [
        "--no-requeue",
        "--open-mode=append",
        "--gres=gpu:a100:1",
        "--exclude=n1,n2",
    ]
    assert (gpu["account"], gpu["job_cpu"], gpu["job_mem"], gpu["job_name"]) == (
        "other",
        8,
        "16384M",
        "c-1.2.gpu",
    )
    lines = gpu["job_script_prologue"]
    assert "export SLURM_CONF='/etc/a b.conf'" in lines
    assert "export CAMPAIGN_LAMMPS=/opt/lmp" in lines
    assert lines[-1] == "module load gcc"
    assert "export DASK_DISTRIBUTED__WORKER__MEMORY__PAUSE=False" in lines
    cpu = options(Kind("cpu"))
    assert not [one for one in cpu["job_extra_directives"] if one.startswith(("--gres", "--exclude"))]
    assert cpu["account"] == "physics"


@pytest.mark.parametrize(("raised", "memory"), [(0, 2048), (1, 4096), (2, 8192), (3, 8192)])
def test_more_memory_up_to_the_most_that_the_site_allows(raised: int, memory: int) -> None:
    assert options(Kind("cpu", raised))["job_mem"] == f"{memory}M"


def test_segments_fit_the_shortest_job() -> None:
    assert segment_s(SITE, 300) == 300
    short = SITE.model_copy(update={"resources": {"cpu": Resource(walltime="0:02:00", memory_GB=1)}})
    assert 3 * segment_s(short, 300) + slot.margin_s(120) == 120


def test_time_left_in_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(slot.END, raising=False)
    assert slot.seconds_left() == float("inf")
    monkeypatch.setenv(slot.WALLTIME, "3600")
    monkeypatch.setenv(slot.END, str(time.time() + 600))
    assert slot.seconds_left() == pytest.approx(600 - 120, abs=1)


class Answers:
    """A scripted SLURM: what each command answers, in order; the last answer stays."""

    def __init__(self, **answers: list[str]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def __call__(self, argv: Sequence[str], **_: Any) -> str:
        self.asked.append(argv[0])
        left = self.answers[argv[0]]
        answer = left.pop(0) if len(left) > 1 else left[0]
        if answer.startswith("error: "):
            raise ResourceError(answer.removeprefix("error: "))
        return answer


def watch(monkeypatch: pytest.MonkeyPatch, answers: Answers, until: Any, *others: str) -> JobWatch:
    monkeypatch.setattr(slurm, "ask", answers)
    monkeypatch.setattr(slurm, "POLL_S", 0.05)
    monkeypatch.setattr("shutil.which", lambda name: name)
    found = JobWatch(lambda: ["7", *others])
    deadline = time.monotonic() + 20
    while not until(found) and time.monotonic() < deadline:
        found.hurry()
        time.sleep(0.01)
    found.close()
    assert until(found)
    return found


def ended(found: JobWatch) -> bool:
    state = found.state("7")
    return state is not None and state.ended


def test_accounting_knows_what_squeue_has_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Answers(squeue=["7|RUNNING|None|n1", ""], sacct=["7|NODE_FAIL|n1"])
    assert watch(monkeypatch, answers, ended).state("7") == JobState("NODE_FAIL", node="n1")


def test_what_runs_is_not_forgotten_while_others_are_sought(monkeypatch: pytest.MonkeyPatch) -> None:
    """An accounting that is late knows neither of them."""
    answers = Answers(squeue=["7|RUNNING|None|n1\n8|RUNNING|None|n2", "8|RUNNING|None|n2"], sacct=[""])
    found = watch(monkeypatch, answers, lambda found: ended(found) and answers.asked.count("squeue") > 4, "8")
    assert found.state("8") == JobState("RUNNING", "None", "n2")


def test_without_accounting_a_forgotten_job_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Answers(squeue=["7|RUNNING|None|n1", ""], sacct=["error: Slurm accounting storage is disabled"])
    state = watch(monkeypatch, answers, ended).state("7")
    assert state is not None
    assert (state.state, state.reason) == ("COMPLETED", "SLURM has forgotten it")
    assert answers.asked.count("sacct") == 1


def test_an_accounting_that_fails_once_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Answers(squeue=["7|RUNNING|None|n1", ""], sacct=["error: Connection refused", "7|NODE_FAIL|n1"])
    assert watch(monkeypatch, answers, ended).state("7") == JobState("NODE_FAIL", node="n1")


def test_an_answer_that_nobody_understands_is_not_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    parse = slurm.parse_squeue
    answers = Answers(squeue=["not understood", "7|TIMEOUT|None|n1"])

    def parsing(text: str) -> Any:
        if text == "not understood":
            raise ValueError(text)
        return parse(text)

    monkeypatch.setattr(slurm, "parse_squeue", parsing)
    assert watch(monkeypatch, answers, ended).problem == ""


def test_a_slurm_that_does_not_answer_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Answers(
        squeue=["error: squeue does not answer", "error: squeue does not answer", "7|TIMEOUT|None|n1"]
    )
    found = watch(monkeypatch, answers, ended)
    assert found.problem == ""
    assert len(answers.asked) >= 3


def test_slurm_is_asked_at_most_so_often(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Answers(squeue=["7|RUNNING|None|n1"])
    monkeypatch.setattr(slurm, "ask", answers)
    monkeypatch.setattr(slurm, "POLL_S", 0.5)
    found = JobWatch(lambda: ["7"])
    began = time.monotonic()
    while time.monotonic() - began < 1.8:
        found.hurry()
        time.sleep(0.01)
    took = time.monotonic() - began
    found.close()
    assert 1 <= len(answers.asked) <= 1 + took / 0.5
