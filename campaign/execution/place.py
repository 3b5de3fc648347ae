"""Where a driver runs attempts: the one choice between this machine and a site."""

from contextlib import AbstractContextManager
from dataclasses import dataclass

from campaign.execution import job_scripts, jobs
from campaign.execution.cluster import HERE, Cluster, Kind, open_workers
from campaign.layout import Layout
from campaign.plan import StageSummary
from campaign.site import NamedSite


@dataclass(frozen=True)
class Place:
    """Where attempts run: on a site, or on this machine with as many workers and threads."""

    workers: int | None
    threads: int
    longest_segment_s: float
    site: NamedSite | None

    @property
    def segment_s(self) -> float:
        """Length of segments, which fit the jobs of a site."""
        if self.site is None:
            return self.longest_segment_s
        return job_scripts.segment_s(self.site.site, self.longest_segment_s)

    def threads_of(self, kind: Kind) -> int:
        """Threads of an engine in a kind of slot."""
        return self.threads if self.site is None else self.site.site.resources[kind.resource].threads

    def kind_of(self, stage: StageSummary, out_of_memory: int) -> Kind:
        """Kind of slot that a stage needs which so often had too little memory."""
        if self.site is None:
            return HERE
        return Kind(self.site.site.resource_of(stage.kind), out_of_memory)

    def open(self, layout: Layout, campaign: str, epoch: int) -> AbstractContextManager[Cluster]:
        """Open the cluster."""
        if self.site is None:
            return open_workers(self.workers, self.threads)
        return jobs.open_jobs(self.site, layout, campaign=campaign, epoch=epoch, needs_s=self.segment_s)
