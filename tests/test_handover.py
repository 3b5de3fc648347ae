"""What one driver leaves to the next: its jobs, which are asked for, their keys and its address."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from campaign.errors import ResourceError, TakenOverError
from campaign.execution import handover
from campaign.execution import jobs as module
from campaign.layout import Layout
from campaign.site import NamedSite
from tests.scripted_jobs import SITE, ScriptedCluster, ScriptedWatch
from tests.standin_campaign import wait_for


def test_left_jobs_are_asked_for_until_slurm_answers_unless_it_never_will(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(handover, "POLL_S", 0.01)
    answers: list[Any] = [ResourceError("squeue does not answer"), {"7": "c-1.1.gpu"}]

    def look() -> Mapping[str, str]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return dict(answer)

    left = handover.LeftJobs(look)
    wait_for(lambda: left.found is not None, seconds=60)
    assert left.found == {"7": "c-1.1.gpu"}
    answers.append(ResourceError("squeue is not here"))
    left = handover.LeftJobs(look)
    wait_for(lambda: left.error is not None, seconds=60)
    assert answers == []
    answers += [ValueError("an answer that nobody understands"), {"8": "c-1.1.gpu"}]
    left = handover.LeftJobs(look)
    wait_for(lambda: left.found is not None, seconds=60)


def test_jobs_that_are_ending_are_not_left(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def ask(argv: Any) -> str:
        asked.append(argv[0])
        return "7|RUNNING|c-1.1.gpu\n8|COMPLETING|c-1.1.gpu\n9|COMPLETING|c-1.1.gone\n10|PENDING|c-2.1.gpu\n"

    monkeypatch.setattr("campaign.execution.slurm.ask", ask)
    assert handover.jobs_left("c-1.", SITE) == {"7": "c-1.1.gpu"}
    assert asked == ["squeue"]


def test_a_driver_that_lost_the_campaign_leaves_jobs_and_keys_to_the_one_that_took_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Cluster(ScriptedCluster):
        scheduler_address = "tls://here"
        job_cls = SimpleNamespace(left_running=False)

        def __init__(self, **_: Any) -> None:
            super().__init__()

        def __enter__(self) -> "Cluster":
            return self

        def __exit__(self, *_: object) -> None: ...

    asked: list[str] = []

    def ask(argv: Any) -> str:
        asked.append(argv[0])
        return ""

    monkeypatch.setattr(module, "import_jobqueue", lambda: SimpleNamespace(SLURMCluster=Cluster))
    monkeypatch.setattr(module, "JobWatch", lambda _: ScriptedWatch())
    monkeypatch.setattr("distributed.Client", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(handover, "ask", ask)
    monkeypatch.setattr("campaign.execution.slurm.ask", lambda _: "7|RUNNING|c-1.2.gpu")
    layout = Layout(tmp_path)
    named = NamedSite("here", Path("here.yaml"), SITE)

    def lose() -> None:
        with module.open_jobs(named, layout, campaign="c", epoch=1, needs_s=1.0):
            (layout.jobs / handover.ADDRESS).write_text("of the other driver")
            raise TakenOverError("another driver holds it")

    with pytest.raises(TakenOverError):
        lose()
    assert Cluster.job_cls.left_running
    assert (layout.jobs / handover.ADDRESS).read_text() == "of the other driver"
    assert list(layout.jobs.glob("*.pem"))
    assert "scancel" not in asked
