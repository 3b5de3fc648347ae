"""A driver in a job of its own, and the job of its successor, which waits for the end of the first.

A successor starts when the job before it ends, however it ends; some time before a walltime it is let go
earlier. It asks the driver that is still at work to hand over, and goes on with its jobs.
"""

import contextlib
import json
import logging
import threading
import time
from dataclasses import dataclass

from campaign.errors import ResourceError
from campaign.execution.cluster import Kind
from campaign.execution.job_scripts import check_path, import_jobqueue, job_prefix, job_script
from campaign.execution.slurm import ask, jobs_named, site_environment
from campaign.layout import Layout, write_atomic
from campaign.site import NamedSite

logger = logging.getLogger(__name__)

MAX_LEAD_S = 3600.0
"""A successor may start so long before the walltime of the driver's job: jobs wait in queues."""

TOLD_BEFORE_S = 120
"""Seconds before its walltime at which SLURM tells a driver that did not find a successor by then."""

SETTLED_S = 20.0
"""A driver is followed by another once it has lived for so long."""

ASK_AGAIN_S = 30.0

LOOK_EVERY_S = 300.0
"""A successor that somebody took from the queue is missed after so long."""


@dataclass(frozen=True)
class DriverJobs:
    """The jobs of the drivers of a campaign on a site."""

    site: NamedSite
    layout: Layout
    campaign: str

    @property
    def name(self) -> str:
        """Their name in the queue; not that of the driver's own jobs, which it cancels."""
        return f"{job_prefix(self.layout, self.campaign).removesuffix('.')}-driver"

    @property
    def resource(self) -> str:
        """Resource of the site that they ask for."""
        if self.site.site.driver is None:
            raise ResourceError(f"{self.site.name} names no resource for drivers", hint="add `driver: NAME`")
        return self.site.site.driver

    @property
    def ids(self) -> list[str]:
        """Ids of those that wait or run.

        Raises
        ------
        ResourceError
            SLURM does not answer.
        """
        with site_environment(self.site.site):
            return [job_id for job_id, _, _ in jobs_named(self.name)]

    @property
    def waiting(self) -> list[str]:
        """Ids of those that wait in the queue: of a driver at work, its successors.

        Raises
        ------
        ResourceError
            SLURM does not answer.
        """
        with site_environment(self.site.site):
            return [job_id for job_id, state, _ in jobs_named(self.name) if state == "PENDING"]

    def submit(self, after: str | None = None) -> str:
        """Submit a driver's job, to start when the job ``after`` has ended; return its id.

        Raises
        ------
        ResourceError
            SLURM refuses it or does not answer, or cannot use the directory.
        """
        check_path(self.layout)
        folder = self.layout.jobs.resolve()
        folder.mkdir(mode=0o700, exist_ok=True)
        arguments = ("-m", "campaign", "drive", str(self.layout.root.resolve()), "--site", self.site.argument)
        kind = Kind(self.resource)
        script = folder / "driver.sh"
        script.write_text(
            job_script(self.site.site, kind, name=self.name, log_directory=folder, arguments=arguments)
        )
        order = () if after is None else (f"--dependency=afterany:{after}",)
        with site_environment(self.site.site):
            said = ask(("sbatch", "--parsable", f"--signal=B:TERM@{TOLD_BEFORE_S}", *order, str(script)))
        job_id = said.strip().partition(";")[0]
        self.note(job_id)
        return job_id

    def note(self, job_id: str) -> None:
        """Leave word for other commands which job the next driver has."""
        told = {"job": job_id, "site": self.site.argument, "campaign": self.campaign}
        write_atomic(self.layout.driver_job, json.dumps(told))

    def cancel(self, job_id: str) -> None:
        """Cancel one of them, if SLURM answers."""
        with site_environment(self.site.site), contextlib.suppress(ResourceError):
            ask(("scancel", job_id))

    def let_start(self, job_id: str) -> None:
        """Let a successor start although the job before it has not ended.

        Raises
        ------
        ResourceError
            SLURM does not answer.
        """
        with site_environment(self.site.site):
            ask(("scontrol", "update", f"jobid={job_id}", "dependency="))


def lead_s(walltime_s: float) -> float:
    """Time before its walltime at which a driver's successor may start, in s."""
    return min(MAX_LEAD_S, walltime_s / 4)


class Succession:
    """Care for the successor of the driver in this job: a thread, because SLURM may take long to answer.

    A driver that dies within its first seconds has none, or drivers would follow each other for ever.
    """

    def __init__(self, jobs: DriverJobs, own: str) -> None:
        self._jobs = jobs
        self._own = own
        self._successor: str | None = None
        self._is_let = False
        self._look_at = 0.0
        self._over = threading.Event()
        walltime_s = jobs.site.site.resources[jobs.resource].walltime_s
        self._let_start_at = time.monotonic() + walltime_s - lead_s(walltime_s)
        import_jobqueue()  # here: in a thread it cannot set its handlers of signals, and fails
        self._thread = threading.Thread(target=self._run, name="succession", daemon=True)
        self._thread.start()

    def successor(self) -> str | None:
        """Job of the driver that follows, if it was submitted by now."""
        return self._successor

    def end(self, *, needed: bool) -> None:
        """Care no more; cancel the successor if it is not needed."""
        self._over.set()
        self._thread.join()
        if self._successor is not None and not needed:
            self._jobs.cancel(self._successor)

    def _run(self) -> None:
        self._over.wait(SETTLED_S)
        while not self._over.is_set():
            try:
                self._care(time.monotonic())
            except Exception as error:  # nobody else would try again
                logger.warning("this driver's successor: %s: %s", type(error).__name__, error)
            self._over.wait(ASK_AGAIN_S)

    def _care(self, now: float) -> None:
        """Submit a successor where there is none, see whether it is still there, let it start in time."""
        if self._successor is not None and now > self._look_at:
            self._look_at = now + LOOK_EVERY_S
            if self._successor not in self._jobs.ids:
                logger.warning("job %s, which was to follow, is gone", self._successor)
                self._successor = None
        may_start = now > self._let_start_at
        if self._successor is None:
            waiting = self._jobs.waiting
            if waiting:  # SLURM took it, although it did not say so
                self._successor, self._is_let = waiting[-1], False
                self._jobs.note(self._successor)
                self._look_at = now + LOOK_EVERY_S
                return
            self._successor = self._jobs.submit(after=None if may_start else self._own)
            self._is_let = may_start
            self._look_at = now + LOOK_EVERY_S
            logger.info("job %s follows this driver", self._successor)
        elif may_start and not self._is_let:
            self._jobs.let_start(self._successor)
            self._is_let = True
