"""Short jobs that answer questions about a site (`campaign.execution.probe`), for ``campaign doctor --site``.

Nothing that is made for them is left: `probes` cancels its jobs and removes its folder.
"""

import contextlib
import fcntl
import json
import os
import shutil
import socketserver
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from campaign.errors import ResourceError
from campaign.execution import probe
from campaign.execution.cluster import Kind
from campaign.execution.handover import end_jobs
from campaign.execution.job_scripts import job_script
from campaign.execution.slurm import JobState, ask, seconds_of_limit, states_of_jobs
from campaign.layout import write_atomic
from campaign.site import Site

WALLTIME = "0:02:00"
"""Of a short job; a resource whose own is shorter keeps that."""

RUNS_S = 180.0
"""A short job that has run for so long will not answer any more."""

ASK_EVERY_S = 5.0
"""Time between two questions to SLURM."""

LOOK_EVERY_S = 0.3
LATE_S = 10.0
"""So long after the end of its job an answer may still come to be seen here."""


@dataclass
class Probe:
    """A short job of a resource, and what became of it.

    Attributes
    ----------
    folder
        Where it answers; only while `probes` is open.
    state
        What SLURM last said of it.
    started_s
        Time that it waited, in s; None if nothing was seen of it.
    answer
        What it found.
    last_words
        Last line that it wrote, None if it could not write at all.
    """

    resource: str
    folder: Path
    job_id: str
    state: JobState | None = None
    started_s: float | None = None
    answer: Mapping[str, Any] | None = None
    last_words: str | None = None
    _submitted: float = field(default_factory=time.monotonic)
    _ended: float | None = None

    @property
    def ended(self) -> bool:
        """Whether its job has ended."""
        return self._ended is not None

    def look(self, states: Mapping[str, JobState] | None) -> None:
        """See what became of it; ``states`` are fresh from SLURM."""
        now = time.monotonic()
        if states is not None:
            known = states.get(self.job_id)
            self.state = known or self.state
            # One that SLURM has forgotten has ended.
            if self._ended is None and (known is None or known.ended):
                self._ended = now
        names = {path.name for path in self.folder.iterdir()}  # makes NFS look again
        if f"node-{probe.DONE}" in names and f"driver-{probe.DONE}" not in names:
            probe.rename_in(self.folder, "driver")
        with contextlib.suppress(FileNotFoundError):
            self.answer = json.loads((self.folder / probe.ANSWER).read_text())
        running = self.state is not None and self.state.state == "RUNNING"
        if self.started_s is None and (running or f"node-{probe.DONE}" in names or self.answer):
            self.started_s = now - self._submitted
        if self._ended is not None:
            self._read_output()

    def _read_output(self) -> None:
        for path in self.folder.glob("*.err"):
            lines = [line.strip() for line in path.read_text(errors="replace").splitlines()]
            self.last_words = next((line for line in reversed(lines) if line), "")

    def is_over(self, wait_s: float) -> bool:
        """Whether there is nothing to wait for any more."""
        if self.answer is not None or (self.state is not None and self.state.hopeless):
            return True
        now = time.monotonic()
        if self._ended is not None:
            return now - self._ended > LATE_S
        longest_s = wait_s if self.started_s is None else self.started_s + RUNS_S
        return now - self._submitted > longest_s


@contextlib.contextmanager
def folder_in(place: Path) -> Iterator[Path]:
    """Make a folder that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix=".campaign-doctor-", dir=place)).resolve()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def address_of(site: Site) -> str:
    """Tell on which address the scheduler of a campaign would listen.

    Raises
    ------
    ResourceError
        The site names an interface that this machine does not have.
    """
    from distributed.utils import get_ip, get_ip_interface

    name = site.driver_interface or site.interface
    try:
        address: str = get_ip() if name is None else get_ip_interface(name)
    except ValueError as error:
        raise ResourceError(str(error)) from None
    return address


class _Greeter(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.sendall(probe.GREETING)


@contextlib.contextmanager
def listening(host: str) -> Iterator[int]:
    """Greet whoever connects to a port of ``host``, which is chosen as the scheduler's is.

    Raises
    ------
    OSError
        This machine cannot listen there.
    """
    with socketserver.ThreadingTCPServer((host, 0), _Greeter) as server:
        thread = threading.Thread(target=server.serve_forever, name="greeter", daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


def test_only(site: Site, resource: str, folder: Path) -> None:
    """Let SLURM look at a resource's script without taking it.

    Raises
    ------
    ResourceError
        It would refuse it, with SLURM's words; or it would let it wait for ever, because of its walltime.
    """
    script = folder / f"{resource}.sh"
    script.write_text(job_script(site, Kind(resource), name="campaign-doctor", log_directory=folder))
    ask(("sbatch", "--test-only", str(script)))
    # Many SLURMs accept a job that is longer than its partition allows. A default one has a star.
    own = site.resources[resource]
    lines = ask(("sinfo", "-h", "-o", "%P|%l")).splitlines()
    limits = dict(line.strip().rsplit("|", 1) for line in lines)
    names = (own.partition or next((name for name in limits if name.endswith("*")), "")).split(",")
    found = [limits.get(name) or limits.get(f"{name}*", "") for name in names]
    longest_s = [seconds_of_limit(limit) for limit in found]
    if all(limit_s is not None and own.walltime_s > limit_s for limit_s in longest_s):
        where = " and ".join(name.rstrip("*") for name in names)
        raise ResourceError(
            f"walltime {own.walltime} is more than the {' and '.join(found)} of the partition {where}"
        )


@contextlib.contextmanager
def probes(
    site: Site, questions: Mapping[str, Mapping[str, Any]], folder: Path
) -> Iterator[tuple[list[Probe], dict[str, str]]]:
    """Submit a short job for each resource that has questions; none is left afterwards.

    Yields the jobs, and the resources whose jobs SLURM refused with what it said.
    """
    tag = f"campaign-doctor-{os.urandom(3).hex()}"
    with contextlib.ExitStack() as stack:
        stack.callback(end_jobs, tag)
        taken: list[Probe] = []
        refused: dict[str, str] = {}
        for resource, asked in questions.items():
            place = folder / resource
            place.mkdir()
            lock = stack.enter_context((place / probe.LOCK).open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
            write_atomic(place / probe.REQUEST, json.dumps(asked))
            script = place / "job.sh"
            script.write_text(_short_script(site, resource, tag, place))
            try:
                job_id = ask(("sbatch", "--parsable", str(script))).strip().partition(";")[0]
            except ResourceError as error:
                refused[resource] = str(error)
            else:
                taken.append(Probe(resource, place, job_id))
        yield taken, refused


def _short_script(site: Site, resource: str, tag: str, folder: Path) -> str:
    """Script as that of a worker's job, but short, and with the probe in place of the worker."""
    own = site.resources[resource]
    if own.walltime_s > RUNS_S:
        own = own.model_copy(update={"walltime": WALLTIME})
    short = site.model_copy(update={"resources": {**site.resources, resource: own}})
    arguments = ("-m", "campaign.execution.probe", str(folder))
    return job_script(short, Kind(resource), name=tag, log_directory=folder, arguments=arguments)


def wait_for(jobs: Sequence[Probe], wait_s: float) -> None:
    """Wait until all jobs have answered, ended, or waited in the queue for ``wait_s``."""
    asked = time.monotonic()
    while not all(job.is_over(wait_s) for job in jobs):
        states = None
        if time.monotonic() - asked > ASK_EVERY_S:
            asked = time.monotonic()
            with contextlib.suppress(ResourceError):  # it may answer the next time
                states = states_of_jobs()
        for job in jobs:
            if not job.is_over(wait_s):
                job.look(states)
        time.sleep(LOOK_EVERY_S)
