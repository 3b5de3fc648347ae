"""Jobs of a site with a scripted cluster in place of Dask's and SLURM's, and a clock of their own."""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from campaign.execution import jobs as module
from campaign.execution.cluster import Kind
from campaign.execution.jobs import SlurmJobs
from campaign.execution.slurm import JobState
from campaign.site import NamedSite, Place, Resource, Site

GPU, MORE, CPU = Kind("gpu"), Kind("gpu", 1), Kind("cpu")
SITE = Site(
    scheduler="slurm",
    resources={
        "gpu": Resource(walltime="1:00:00", memory_GB=4, gpus=1, jobs=3),
        "cpu": Resource(walltime="1:00:00", memory_GB=4, cores=4, slots=4, jobs=2),
    },
    stages={"default": "gpu", "build": "cpu"},
)
NEEDS_S = 100.0
FACTS = {"kind": "gpu", "job": "1", "node": "n1", "left_s": 3000.0, "killed": 0}
"""What a worker says of itself."""


@dataclass
class ScriptedCluster:
    """Submits at once what its spec says, unless it shall refuse; jobs are numbered from 1."""

    refusal: str = ""
    refused_kind: str = ""
    """Empty for all."""
    worker_spec: dict[str, Any] = field(default_factory=dict)
    workers: dict[str, Any] = field(default_factory=dict)
    submitted: list[Any] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    new_spec: Mapping[str, Any] = field(default_factory=lambda: {"cls": object, "options": {}})

    def scale(self, jobs: int) -> None:
        assert jobs == len(self.worker_spec)
        for name in [name for name in self.workers if name not in self.worker_spec]:
            self.cancelled.append(self.workers.pop(name).job_id)
        for name in [name for name in self.worker_spec if name not in self.workers]:
            options = self.worker_spec[name]["options"]
            refused = self.refusal if options["job_name"].endswith(self.refused_kind) else ""
            job_id = None if refused else options.get("adopted", str(len(self.submitted) + 1))
            if job_id and "adopted" not in options:
                self.submitted.append(options)
            self.workers[name] = SimpleNamespace(job_id=job_id, refused=refused)

    @property
    def kinds(self) -> list[str]:
        """Kinds of the jobs that were submitted."""
        return [options["job_name"].rpartition(".")[2] for options in self.submitted]


@dataclass
class ScriptedWatch:
    """What SLURM says of jobs."""

    states: dict[str, JobState] = field(default_factory=dict)
    problem: str = ""

    def state(self, job_id: str) -> JobState | None:
        return self.states.get(job_id)

    def hurry(self) -> None: ...

    def close(self) -> None: ...


class Scene:
    """Jobs of a site with a clock of their own."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, left: Mapping[str, str] | None = None, site: Site = SITE
    ) -> None:
        self.now = 1000.0
        self.cluster, self.watch = ScriptedCluster(), ScriptedWatch()
        self.workers: dict[str, Any] = {}
        self.lingering = False
        """Whether jobs that were cancelled are there for some time."""
        monkeypatch.setattr(module, "JobWatch", lambda _: self.watch)
        clock = SimpleNamespace(monotonic=lambda: self.now)
        monkeypatch.setattr(module, "time", clock)
        monkeypatch.setattr("campaign.execution.cluster.time", clock)
        self.left = cast("Any", SimpleNamespace(found=left or {}, problem="", error=None))
        # Dask's own picture of its workers names five, or none: only the scheduler itself is to be asked.
        scheduler = SimpleNamespace(identity=lambda: {"workers": self.workers})
        client = SimpleNamespace(
            scheduler=scheduler, sync=lambda function: function(), scheduler_info=lambda: {"workers": {}}
        )
        named = NamedSite("here", Path("here.yaml"), site)
        self.looks: list[float] = []
        self.jobs = SlurmJobs(
            client,
            self.cluster,
            named,
            Path("/jobs"),
            name="c-1.2",
            needs_s=NEEDS_S,
            left=self.left,
            look=self.look,
        )

    def look(self, wait_s: float) -> Any:
        """Begin to look for jobs that are ours and not known."""
        self.looks.append(wait_s)
        self.left = cast("Any", SimpleNamespace(found=None, problem="", error=None, close=lambda: None))
        return self.left

    def request(self, wanted: Mapping[Kind, int], busy: Set[str] = frozenset()) -> Mapping[str, str]:
        """One look of the driver, a second after the one before."""
        self.now += 1
        if not self.lingering:
            self.watch.states |= dict.fromkeys(self.cluster.cancelled, JobState("CANCELLED"))
        self.jobs.slots()
        return self.jobs.request(wanted, busy)

    def start(
        self, job_id: str, node: str = "n1", left_s: float = 3000, killed: int = 0, kind: str = "gpu"
    ) -> str:
        """A worker of a job registers."""
        address = f"tls://{node}:{job_id}{killed}"
        facts = {**FACTS, "kind": kind, "job": job_id, "node": node, "left_s": left_s, "killed": killed}
        self.workers[address] = {"campaign": facts}
        self.watch.states[job_id] = JobState("RUNNING", "None", node)
        self.jobs.slots()
        return address

    def end(self, job_id: str, state: str, node: str = "n1") -> None:
        self.workers = {
            key: worker for key, worker in self.workers.items() if worker["campaign"]["job"] != job_id
        }
        self.watch.states[job_id] = JobState(state, node=node)


def with_places(*also: Place, jobs: int) -> Site:
    """Site whose GPUs may be had in more places, with so many jobs in all."""
    gpu = SITE.resources["gpu"].model_copy(update={"also": list(also), "jobs": jobs})
    return SITE.model_copy(update={"resources": {**SITE.resources, "gpu": gpu}})
