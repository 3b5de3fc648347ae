"""SLURM's own commands: what became of jobs, and why, with accounting and without.

`JobWatch` asks in a thread of its own, at most once in `POLL_S` however large the campaign, because a SLURM
that does not answer must not hold up the driver.
"""

import logging
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from campaign.errors import FailureClass, ResourceError
from campaign.site import Site

logger = logging.getLogger(__name__)

POLL_S = 30.0
"""Time between two questions to SLURM."""

ANSWER_S = 25.0
"""How long an answer may take."""

FORGOTTEN_AFTER = 2
"""Polls in which nobody knows a job any more before it is taken as ended, for an unknown reason."""

MOST_UNKNOWN = 5
"""Refusals in a row, for a reason that we do not know, before no more is asked for."""

ENDINGS: Mapping[str, tuple[FailureClass, str]] = {
    "COMPLETED": (FailureClass.LOST_WORKER, "the job ended by itself"),
    "FAILED": (FailureClass.LOST_WORKER, "the job failed"),
    "TIMEOUT": (FailureClass.WALLTIME, "the job reached its walltime"),
    "DEADLINE": (FailureClass.WALLTIME, "the job reached its deadline"),
    "OUT_OF_MEMORY": (FailureClass.OUT_OF_MEMORY, "the job needed more memory than it asked for"),
    "NODE_FAIL": (FailureClass.NODE_FAILURE, "the node failed"),
    "BOOT_FAIL": (FailureClass.NODE_FAILURE, "the node did not start"),
    "PREEMPTED": (FailureClass.PREEMPTED, "the job was pre-empted"),
    "REVOKED": (FailureClass.PREEMPTED, "the job was revoked"),
    "CANCELLED": (FailureClass.JOB_CANCELLED, "somebody cancelled the job"),
}
"""States in which a job has ended, and what that means for the attempts in it."""

IMPOSSIBLE = (
    "BadConstraints",
    "PartitionNodeLimit",
    "PartitionTimeLimit",
    "PartitionConfig",
    "InvalidAccount",
    "InvalidQOS",
    "QOSNotAllowed",
    "AccountNotAllowed",
)
"""Reasons for which a job waits for ever; and all limits of a single job, ``...PerJob...``."""

UNANSWERED = (
    "unable to contact",
    "timed out",
    "connect failure",
    "connection",
    "communication",
    "bytes were transmitted",
    "unexpected message",
    "slurmctld",
    "does not answer",
)
"""What sbatch says, in small letters, when it has no answer: SLURM may have taken the job all the same."""

PASSING = (
    *UNANSWERED,
    "limit",
    "policy",
    "temporarily",
    "try again",
    "too many",
    "submission is disabled",
    "in maintenance",
    "inactive or drain",
)
"""What it says when it may take the same job later, however often it has refused it."""

PERMANENT = (
    "invalid",
    "node configuration",
    "memory specification",
    "not permitted",
    "unrecognized option",
    "is not here",
)
"""What it says when it never will, whatever else it says."""


@dataclass(frozen=True)
class JobState:
    """What SLURM said of a job: its state, why it waits, and its node."""

    state: str
    reason: str = ""
    node: str = ""

    @property
    def ended(self) -> bool:
        """Whether nothing of it runs or will run."""
        return self.state in ENDINGS

    @property
    def hopeless(self) -> bool:
        """Whether it waits for what will never be."""
        return self.state == "PENDING" and (self.reason in IMPOSSIBLE or "PerJob" in self.reason)


def is_passing(refusal: str, before: int) -> bool:
    """Whether sbatch may take the same job later, which it refused so often ``before`` this.

    What limits it, or has no answer, may pass at any time; what nobody knows has some tries.
    """
    text = refusal.lower()
    if any(words in text for words in PERMANENT):
        return False
    return any(words in text for words in PASSING) or before + 1 < MOST_UNKNOWN


def is_unanswered(refusal: str) -> bool:
    """Whether SLURM may have taken a job although sbatch reported an error."""
    return any(words in refusal.lower() for words in UNANSWERED)


def said_by_sbatch(text: str) -> str:
    """Find what sbatch itself said in an error of dask-jobqueue, in one line."""
    lines = [line.strip() for line in text.splitlines()]
    said = [line.partition("error: ")[2] for line in lines if "error: " in line]
    return "; ".join(dict.fromkeys(said)) or (lines[-1] if lines else "no answer")


def ask(argv: Sequence[str], *, timeout_s: float = ANSWER_S) -> str:
    """Run one of SLURM's commands; return what it printed.

    Raises
    ------
    ResourceError
        It is not there, does not answer, or says that something is wrong.
    """
    try:
        done = subprocess.run(  # noqa: S603 - SLURM's own commands, no shell
            argv,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        raise ResourceError(f"{argv[0]} is not here", hint="run this where SLURM's commands are") from None
    except OSError as error:  # this machine can start no more processes now
        raise ResourceError(f"{argv[0]} does not start: {error}") from error
    except subprocess.TimeoutExpired:
        raise ResourceError(f"{argv[0]} does not answer") from None
    if done.returncode != 0:
        raise ResourceError(said_by_sbatch(done.stderr) if done.stderr.strip() else f"{argv[0]} failed")
    return done.stdout


@contextmanager
def site_environment(site: Site) -> Iterator[None]:
    """Give SLURM's commands the variables of the site."""
    before = {name: os.environ.get(name) for name in site.environment}
    os.environ.update(site.environment)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


_FORMAT = "%i|%T|%r|%N"


def parse_squeue(text: str) -> Iterator[tuple[str, JobState]]:
    """Jobs by id from ``squeue -h -o`` with our format."""
    for job_id, state, reason, node in _rows(text, 4):
        yield job_id, JobState(state, reason, node)


def parse_sacct(text: str) -> Iterator[tuple[str, JobState]]:
    """Jobs by id from ``sacct -X -n -P -o JobID,State,NodeList``."""
    for job_id, state, node in _rows(text, 3):
        # "CANCELLED by 1000"
        yield job_id, JobState(state.split()[0], node="" if node == "None assigned" else node)


def _rows(text: str, columns: int) -> Iterator[list[str]]:
    """Split an answer into the columns that were asked for; what is no row of a job is left out."""
    for line in text.splitlines():
        row = [part.strip() for part in line.split("|", columns - 1)]
        if len(row) == columns and row[0] and row[1]:
            yield row


def seconds_of_limit(text: str) -> float | None:
    """Seconds of ``D-HH:MM:SS``, ``HH:MM:SS`` or ``MM:SS``; None for ``UNLIMITED`` and the like."""
    days, dash, clock = text.rpartition("-")
    try:
        parts = [int(part) for part in clock.split(":")]
        whole = int(days) if dash else 0
    except ValueError:
        return None
    return whole * 86400.0 + sum(part * 60.0**power for power, part in enumerate(reversed(parts)))


def states_of_jobs(*, timeout_s: float = ANSWER_S) -> dict[str, JobState]:
    """States of this user's jobs by id, also of those that ended some minutes ago."""
    argv = ("squeue", "--me", "-h", "-t", "all", "-o", _FORMAT)
    return dict(parse_squeue(ask(argv, timeout_s=timeout_s)))


def jobs_named(prefix: str) -> list[tuple[str, str, str]]:
    """Id, state and name of this user's jobs that wait, run or end, whose name starts with ``prefix``."""
    rows = _rows(ask(("squeue", "--me", "-h", "-o", "%i|%T|%j")), 3)
    return [(job_id, state, name) for job_id, state, name in rows if name.startswith(prefix)]


class JobWatch:
    """What SLURM says of the jobs of one driver.

    Parameters
    ----------
    jobs
        Gives the ids that are of interest now.
    """

    def __init__(self, jobs: Callable[[], Iterable[str]]) -> None:
        self._jobs = jobs
        self._known: dict[str, JobState] = {}
        self._unknown: dict[str, int] = {}
        self._wanted = threading.Event()
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self.problem = ""
        """Why the last question was not answered; empty if it was."""
        self._accounting = shutil.which("sacct") is not None
        self._thread = threading.Thread(target=self._run, name="squeue", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ask no more."""
        self._closing.set()
        self._wanted.set()

    def state(self, job_id: str) -> JobState | None:
        """Tell what SLURM last said of a job, if it said anything."""
        with self._lock:
            return self._known.get(job_id)

    def hurry(self) -> None:
        """Ask as soon as `POLL_S` allows; otherwise it waits until there is something to ask about."""
        self._wanted.set()

    def _run(self) -> None:
        while not self._closing.is_set():
            self._wanted.wait(POLL_S)
            self._wanted.clear()
            began = time.monotonic()
            try:
                jobs = list(self._jobs())
                if not jobs or self._closing.is_set():
                    continue
                self._ask_about(jobs)
            except ResourceError as error:
                self.problem = str(error)
                logger.warning("SLURM does not answer: %s", error)
            except Exception as error:  # nobody else would ask
                self.problem = f"{type(error).__name__}: {error}"
                logger.exception("SLURM's answer is not understood")
            else:
                self.problem = ""
            # Never more than one question in this time, whoever hurries.
            self._closing.wait(max(0.0, POLL_S - (time.monotonic() - began)))

    def _ask_about(self, jobs: Sequence[str]) -> None:
        open_jobs = [job for job in jobs if job not in self._known or not self._known[job].ended]
        missing = [job for job in open_jobs if self._unknown.get(job)]
        asked = open_jobs
        if missing and self._accounting:
            asked = missing
            # squeue has forgotten them; the accounting, if there is any, has not.
            argv = ("sacct", "-X", "-n", "-P", "-j", ",".join(missing), "-o", "JobID,State,NodeList")
            try:
                found = dict(parse_sacct(ask(argv)))
            except ResourceError as error:
                logger.info("no accounting: %s", error)
                self._accounting = "disabled" not in str(error)  # anything else may pass
                found = {}
        else:
            found = states_of_jobs()
        with self._lock:
            for job in asked:
                if job in found:
                    self._known[job] = found[job]
                    self._unknown.pop(job, None)
                else:
                    self._unknown[job] = self._unknown.get(job, 0) + 1
                    if self._unknown[job] > FORGOTTEN_AFTER:
                        self._known[job] = JobState("COMPLETED", "SLURM has forgotten it")
