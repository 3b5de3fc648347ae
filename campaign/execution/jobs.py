"""Where attempts run on a SLURM cluster: jobs with a Dask worker for each slot, as many as there is work for.

One `dask_jobqueue.SLURMCluster`, whose worker kinds carry what each resource of the site asks for. Scaling is
our own: `adapt` and walltimes lose results (DESIGN.md, section 6).
"""

import contextlib
import itertools
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from campaign.errors import FailureClass, ResourceError, TakenOverError
from campaign.execution.cluster import Kind, Loss, Slot, configured
from campaign.execution.handover import (
    LeftJobs,
    end_jobs,
    forget_driver,
    job_security,
    jobs_left,
    kind_of,
    tell_address,
)
from campaign.execution.job_scripts import (
    check_path,
    import_jobqueue,
    job_class,
    job_options,
    job_prefix,
)
from campaign.execution.scaling import Queue, to_ask, to_let_go
from campaign.execution.slurm import ENDINGS, JobWatch, ask, is_unanswered, site_environment
from campaign.execution.troubles import REFUSED_S, Troubles
from campaign.layout import Layout
from campaign.site import NamedSite

logger = logging.getLogger(__name__)

IDLE_S = 30.0
"""So long a job may have nothing to do."""

HEARD_LATE_S = 5.0
"""What a worker says of its time is so old at most; a slot that looks longer than it is would get work."""

VERDICT_S = 400.0
"""So long a lost worker waits for SLURM's word on its job: SLURM waits 300 s for a node by default."""

NO_WORKER_S = 600.0
"""A job that runs without a worker for so long is given up."""

ENDING_S = 120.0
"""A job that was let go counts for so long if SLURM does not say that it has ended: some never do."""

MOST_AT_ONCE = 10
"""Jobs that are submitted at the same time: each is a process here, and a question to SLURM."""

_MORE_CONFIG = {
    # Dask would cancel the job of a worker that it misses, and SLURM never say what happened to its node.
    "distributed.deploy.lost-worker-timeout": "1000 days",
}


@contextlib.contextmanager
def open_jobs(
    named: NamedSite, layout: Layout, *, campaign: str, epoch: int, needs_s: float
) -> Iterator["SlurmJobs"]:
    """Open a cluster on a site, with the jobs that an earlier driver left; at the end no job is left.

    Unless they are left to a driver that follows (`Cluster.leave`).

    Parameters
    ----------
    named
        The site.
    layout
        Where the campaign lies, on a file system that all nodes share.
    campaign, epoch
        Name of the campaign and number of the driver: both are in the jobs' names.
    needs_s
        Time that a slot must still have to be used, in s.

    Raises
    ------
    ResourceError
        SLURM's commands are not here, or the scheduler cannot listen where it should.
    """
    from distributed import Client

    site = named.site.with_places()
    check_path(layout)
    prefix = job_prefix(layout, campaign)
    name = f"{prefix}{epoch}"
    folder = layout.jobs.resolve()
    folder.mkdir(mode=0o700, exist_ok=True)
    with site_environment(site), configured(_MORE_CONFIG), contextlib.ExitStack() as stack:

        def look(wait_s: float) -> LeftJobs:
            left = LeftJobs(lambda: jobs_left(prefix, site), wait_s)
            stack.callback(left.close)
            return left

        left = look(0.0)  # it is answered while the cluster opens
        first = job_options(site, Kind(next(iter(site.resources))), name=name, log_directory=folder)
        try:
            cluster = stack.enter_context(
                import_jobqueue().SLURMCluster(
                    job_cls=job_class(),
                    n_workers=0,
                    security=job_security(folder),
                    scheduler_options={
                        "interface": site.driver_interface or site.interface,
                        "dashboard": False,
                        "dashboard_address": ":0",
                    },
                    silence_logs=logging.CRITICAL,
                    **first,
                )
            )
            client = stack.enter_context(Client(cluster, set_as_default=False))
        except (RuntimeError, ValueError, OSError) as error:
            raise ResourceError(
                f"the cluster {named.name} cannot be used: {error}",
                hint=f"try `campaign doctor --site {named.name}`",
            ) from error
        tell_address(folder, cluster.scheduler_address)
        jobs = SlurmJobs(client, cluster, named, folder, name=name, needs_s=needs_s, left=left, look=look)
        try:
            yield jobs
        except TakenOverError:  # jobs, address and keys are that driver's by now
            jobs.leave()
            raise
        finally:
            jobs.close()
            if not jobs.are_left:
                forget_driver(folder)
                end_jobs(prefix)


@dataclass
class _Record:
    """One job that was asked for, or ``adopted``; ``name`` is Dask's for it, ``job_name`` SLURM's."""

    name: str
    job_name: str
    kind: Kind
    asked: float
    job_id: str | None = None
    adopted: bool = False
    had_worker: bool = False
    idle_since: float | None = None
    leaving: bool = False
    deserted_since: float | None = None


class SlurmJobs:
    """Slots in jobs; see `campaign.execution.cluster.Cluster`."""

    def __init__(
        self,
        client: Any,
        cluster: Any,
        named: NamedSite,
        folder: Path,
        *,
        name: str,
        needs_s: float,
        left: LeftJobs,
        look: Callable[[float], LeftJobs],
    ) -> None:
        self.client = client
        self._cluster = cluster
        self._named = named
        self._site = named.site.with_places()
        most = {name: resource.jobs for name, resource in named.site.resources.items()}
        self._troubles = Troubles(self._site.resources, most)
        self._folder = folder
        self._name = name
        self._needs_s = needs_s
        self._number = 0
        self._jobs: dict[str, _Record] = {}
        self._slots: dict[str, Slot] = {}
        self._met: dict[str, Slot] = {}
        """All slots of the jobs there are: what a worker says of its time is of the moment when it began."""
        self._ours: set[str] = set()
        """Jobs that were let go, idle as they were; their workers are there for another second or two."""
        self._ending: dict[str, tuple[Kind, float]] = {}
        """Those of them that SLURM may still have, and since when: they count."""
        self._start_s: dict[Kind, float] = {}
        self._lost_jobs: set[str] = set()
        self.are_left = False
        self._watch = JobWatch(self._job_ids)
        self._look = look
        self._left: LeftJobs | None = left

    def leave(self) -> None:
        """See `Cluster.leave`."""
        self.are_left = True
        self._cluster.job_cls.left_running = True

    def close(self) -> None:
        """Ask SLURM no more."""
        self._watch.close()

    def kill(self) -> None:
        """Cancel all jobs."""
        with contextlib.suppress(ResourceError):
            ids = self._job_ids()
            if ids:
                ask(("scancel", *ids))

    def _job_ids(self) -> list[str]:
        ids = [job.job_id for job in list(self._jobs.values()) if job.job_id]
        more = dict.fromkeys([*list(self._lost_jobs), *list(self._ending)])
        return [*ids, *(job for job in more if job not in ids)]

    # Slots

    def slots(self) -> Mapping[str, Slot]:
        """See `Cluster.slots`."""
        now = time.monotonic()
        # Not by `scheduler_info`: it names five workers only from Dask 2025.4 on, or at times none.
        try:
            workers = self.client.sync(self.client.scheduler.identity)["workers"]
        except OSError as error:
            logger.warning("Dask does not tell of its workers: %s", error)
            return self._slots
        found: dict[str, Slot] = {}
        for address, worker in workers.items():
            facts = worker.get("campaign")
            if facts is None or facts["job"] in self._ours or self._has_ended(facts["job"]):
                continue
            known = self._met.get(address)
            if known is None:
                kind = next((job.kind for job in self._jobs.values() if str(job.kind) == facts["kind"]), None)
                if kind is None:
                    continue
                until = now + facts["left_s"] - HEARD_LATE_S
                known = Slot(address, kind.anywhere, facts["job"], facts["node"], until, facts["killed"])
                logger.info("worker %s of job %s on %s", address, known.job, known.node)
                self._troubles.began(kind)
            found[address] = known
        self._slots = found
        there = {job.job_id for job in self._jobs.values()}
        self._met = {key: slot for key, slot in self._met.items() if slot.job in there} | found
        with_worker = {slot.job for slot in found.values()}
        for job in self._jobs.values():
            if job.job_id in with_worker and not job.had_worker:
                job.had_worker = True
                if not job.adopted:  # nobody knows how long that one waited
                    self._start_s[job.kind.anywhere] = now - job.asked
        return found

    def _has_ended(self, job_id: str) -> bool:
        """Whether SLURM has given a job up; on a node that it does not reach the worker may go on."""
        state = self._watch.state(job_id)
        return state is not None and state.ended

    def why_lost(self, slot: Slot, since: float) -> Loss | None:
        """See `Cluster.why_lost`."""
        assert slot.job is not None  # every slot of ours is in a job
        self._lost_jobs.add(slot.job)
        where = f"job {slot.job} on {slot.node}"
        state = self._watch.state(slot.job)
        loss: Loss | None = None
        if state is not None and state.ended:
            failure_class, words = ENDINGS[state.state]
            if slot.job in self._ours:
                failure_class, words = FailureClass.LOST_WORKER, "its driver ended the job"
            loss = Loss(failure_class, f"{where}: {words} ({state.state})")
        elif others := self._others_of(slot):
            # One of a job with several, or the one that the nanny started in its place.
            if any(other.killed > slot.killed for other in others):
                loss = Loss(FailureClass.OUT_OF_MEMORY, f"{where}: killed while no memory was left")
            else:
                loss = Loss(FailureClass.LOST_WORKER, f"{where}: the worker process died; the job goes on")
        elif time.monotonic() - since > VERDICT_S:
            loss = Loss(FailureClass.LOST_WORKER, f"{where}: the worker was lost, and SLURM does not say why")
        if loss is None:
            self._watch.hurry()
        else:
            self._lost_jobs.discard(slot.job)
        return loss

    def _others_of(self, slot: Slot) -> list[Slot]:
        found = (other for other in self._slots.values() if other.job == slot.job)
        return [other for other in found if other.address != slot.address]

    # Scaling

    def request(self, wanted: Mapping[Kind, int], busy: Set[str]) -> Mapping[str, str]:
        """See `Cluster.request`."""
        now = time.monotonic()
        if self._left is not None:
            self._adopt(self._left)
        self._review(now)
        self._retire_spent(busy)
        if self._left is None:  # it is known which jobs there are
            changed = False
            for kind in {*wanted, *(job.kind.anywhere for job in self._jobs.values())}:
                changed |= self._scale(kind, wanted.get(kind, 0), busy, now)
            if changed:
                self._watch.hurry()
        self._correct()
        # Where jobs are at work their resource is there, whatever becomes of new ones.
        at_work = {job.kind.anywhere.resource for job in self._jobs.values() if job.had_worker}
        return {name: why for name, why in self._troubles.nowhere().items() if name not in at_work}

    def _correct(self) -> None:
        """Let Dask submit and cancel, in its own time."""
        gone = [name for name in self._cluster.worker_spec if name not in self._jobs]
        for name in gone:
            del self._cluster.worker_spec[name]
        if gone or set(self._cluster.worker_spec) != set(self._cluster.workers):
            self._cluster.scale(jobs=len(self._cluster.worker_spec))

    def _scale(self, kind: Kind, wanted: int, busy: Set[str], now: float) -> bool:
        """Ask for jobs of a kind in all its places, until enough have started; the rest goes."""
        staying = [job for job in self._jobs.values() if not job.leaving]
        started = [job for job in staying if job.kind.anywhere == kind and job.had_worker]
        waiting: dict[Kind, list[_Record]] = {place: [] for place in self._places(kind)}
        for job in staying:
            if job.kind in waiting and not job.had_worker:
                waiting[job.kind].append(job)
        # As the totals are the user's, nothing is asked for beyond them in place of a job that ends soon.
        at_slurm = [
            *(job.kind for job in self._jobs.values()),
            *(ending for ending, _ in self._ending.values()),
        ]
        in_all = sum(one.anywhere.resource == kind.resource for one in at_slurm)
        there = Counter(one.resource for one in at_slurm)
        left = self._troubles.left(kind.resource, in_all)
        missing = math.ceil(wanted / self._site.resources[kind.resource].slots) - len(started)
        queues = {}
        for place, jobs in waiting.items():
            most = self._site.resources[place.resource].jobs
            room = self._troubles.room(place.resource, there[place.resource], most, now)
            queues[place] = Queue(len(jobs), room)
        asked = to_ask(missing, left, queues)
        for place in itertools.islice(asked.elements(), max(0, MOST_AT_ONCE - len(self._under_way))):
            self._submit(place, now)
        if asked:
            return True
        for place, count in to_let_go(missing, left, queues).items():
            self._let_go(waiting[place], count)
        in_use = {self._slots[address].job for address in busy if address in self._slots}
        for job in started:
            idle = missing < 0 and job.job_id not in in_use
            job.idle_since = (job.idle_since or now) if idle else None
        spare = [job for job in started if job.idle_since is not None and now - job.idle_since > IDLE_S]
        self._let_go(spare, -missing)
        return False

    @property
    def _under_way(self) -> Set[str]:
        """Names of the jobs that Dask is submitting."""
        names: Set[str] = self._cluster.worker_spec.keys() - self._cluster.workers.keys()
        return names

    def _places(self, kind: Kind) -> list[Kind]:
        kinds = (Kind(resource, kind.raised) for resource in self._site.resources)
        return [place for place in kinds if place.anywhere == kind]

    def _let_go(self, jobs: list[_Record], count: int) -> None:
        """Cancel so many of these jobs at most, the last first; none that Dask has not submitted yet."""
        known = [job for job in reversed(jobs) if job.name in self._cluster.workers]
        for job in known[: max(0, count)]:
            self._drop(job)

    def _adopt(self, left: LeftJobs) -> None:
        """Go on with jobs that this driver does not know: of an earlier one, or taken without an answer.

        They wait in the queue or look for this driver.

        Raises
        ------
        ResourceError
            That will never be known.
        """
        if left.error is not None:
            if not self._number:
                raise left.error
            self._look_again()  # it took jobs before
        if left.found is None or self._under_way:  # what it tells of these is known in a moment
            return
        known = {process.job_id for process in self._cluster.workers.values()} | self._ours
        for job_id, job_name in left.found.items():
            if job_id in known or f"left-{job_id}" in self._jobs:
                continue
            kind = kind_of(job_name)
            options = job_options(self._site, kind, name=job_name, log_directory=self._folder)
            job = _Record(f"left-{job_id}", job_name, kind, time.monotonic(), adopted=True)
            self._add(job, {**options, "adopted": job_id})
            logger.info("job %s, which was there before, goes on", job_id)
        self._left = None
        self._correct()

    def _submit(self, kind: Kind, now: float) -> None:
        self._number += 1
        name = f"{self._name}-{self._number}"
        options = job_options(
            self._site,
            kind,
            name=self._name,
            log_directory=self._folder,
            excluded=self._troubles.bad_nodes,
        )
        self._add(_Record(name, f"{self._name}.{kind}", kind, now), options)
        logger.info("asking for a job of %s", kind)

    def _add(self, job: _Record, options: Mapping[str, Any]) -> None:
        spec = self._cluster.new_spec
        worker: dict[str, Any] = {"cls": spec["cls"], "options": {**spec["options"], **options}}
        if options["processes"] > 1:
            worker["group"] = [f"-{number}" for number in range(options["processes"])]
        self._jobs[job.name] = job
        self._cluster.worker_spec[job.name] = worker

    def _retire_spent(self, busy: Set[str]) -> None:
        """Let go of jobs whose time is too short for another segment, once nothing runs in them.

        What runs there goes on to the end of its job; another one is asked for as long before as the last
        one took to start, if the totals leave room for it.
        """
        for job in list(self._jobs.values()):
            slots = [slot for slot in self._slots.values() if slot.job == job.job_id]
            left_s = max((slot.left_s() for slot in slots), default=math.inf)
            if left_s < self._needs_s and not any(slot.address in busy for slot in slots):
                logger.info("job %s has no time for more", job.job_id)
                self._drop(job)
            elif left_s < min(self._needs_s, self._start_s.get(job.kind.anywhere, 0.0)):
                job.leaving = True  # the next one should be there when this one ends

    def _drop(self, job: _Record) -> None:
        """Cancel a job that is not needed."""
        if job.job_id is not None:
            self._ours.add(job.job_id)
            if not self._has_ended(job.job_id):
                self._ending[job.job_id] = job.kind, time.monotonic()
                self._watch.hurry()
        del self._jobs[job.name]

    def _review(self, now: float) -> None:
        """Take note of what became of the jobs."""
        self._ending = {
            job_id: (kind, since)
            for job_id, (kind, since) in self._ending.items()
            if not self._has_ended(job_id) and now - since < ENDING_S
        }
        for job in list(self._jobs.values()):
            process = self._cluster.workers.get(job.name)
            if process is None:  # Dask has not come to it yet
                continue
            is_new, job.job_id = job.job_id is None, process.job_id
            if process.refused:
                del self._jobs[job.name]
                self._troubles.refused(job.kind.resource, process.refused, now)
                if is_unanswered(process.refused):
                    self._look_again()
            elif job.job_id is not None:
                if is_new:
                    self._troubles.accepted(job.kind.resource)
                self._look_at(job, job.job_id, now)

    def _look_again(self) -> None:
        """Ask for nothing until it is known what SLURM took although it did not say so."""
        if self._left is not None:
            self._left.close()
        self._left = self._look(REFUSED_S)

    def _look_at(self, job: _Record, job_id: str, now: float) -> None:
        state = self._watch.state(job_id)
        if state is None:
            return
        there = state.state in {"RUNNING", "COMPLETING"}  # some nodes never come to an end
        if not there or job_id in {slot.job for slot in self._slots.values()}:
            job.deserted_since = None
        elif job.deserted_since is None:
            job.deserted_since = now
        elif now - job.deserted_since > NO_WORKER_S:
            if state.state == "RUNNING" and not job.had_worker:
                self._troubles.give_up(
                    job.kind.resource,
                    f"job {job_id} runs on {state.node}, and its worker does not reach the driver; "
                    f"see {self._log_of(job, job_id)}, and interface in {self._named.source}",
                )
            self._drop(job)
            return
        if state.hopeless:
            self._troubles.give_up(job.kind.resource, f"job {job_id} would wait for ever: {state.reason}")
            self._drop(job)
        elif state.ended:
            logger.info("job %s ended: %s", job_id, state.state)
            del self._jobs[job.name]
            was_ending = job.adopted and not job.had_worker  # perhaps: it says nothing of the next one
            if state.state in {"NODE_FAIL", "BOOT_FAIL"}:
                self._troubles.node_failed(state.node, now)
            elif state.state == "CANCELLED" and not was_ending:
                self._troubles.cancelled(job.kind)
            elif not job.had_worker and not was_ending:
                self._troubles.never_began(job.kind, state.node, state.state, self._log_of(job, job_id))

    def _log_of(self, job: _Record, job_id: str) -> str:
        return f"{self._folder.name}/{job.job_name}-{job_id}.err"

    def picture(self) -> Mapping[str, Any]:
        """See `Cluster.picture`."""
        running = sum(job.had_worker for job in self._jobs.values())
        waiting = [job.job_id for job in self._jobs.values() if job.job_id and not job.had_worker]
        states = {self._watch.state(job_id) for job_id in waiting}
        reasons = {state.reason for state in states if state is not None and state.state == "PENDING"}
        said = self._troubles.told(time.monotonic())
        problem = self._watch.problem or (self._left.problem if self._left else "")
        if problem:
            said.append(f"SLURM does not answer ({problem})")
        if reasons - {"None", ""}:
            said.append(f"waiting for {', '.join(sorted(reasons - {'None', ''}))}")
        return {
            "site": self._named.name,
            "jobs": {"running": running, "waiting": len(self._jobs) - running},
            "said": said,
        }
