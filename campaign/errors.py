"""Errors, grouped by what happens next.

``CampaignError`` is the root. Its children say what a handler does about them:

* ``SpecError`` - the spec is wrong: nothing was spent, the user edits the file (never retried).
* ``InputError`` - an engine refuses its input: never retried, the run's settings or files are wrong.
* ``ResourceError`` - something that the machine must provide is missing: engine, disk, memory.
* ``TransientError`` - the same attempt may succeed elsewhere or later: retried within a budget.
* ``PhysicsError`` - the simulation itself went wrong (NaN, lost atoms): never repeated blindly.
* ``LedgerError`` and ``StoreError`` - the campaign's own files: stop, touch nothing.

Every error says what, where and what to do, in one line.
"""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import ClassVar


class FailureClass(StrEnum):
    """Why an attempt ended without a committed stage; decides whether it is tried again."""

    LOST_WORKER = "lost worker"
    OUT_OF_MEMORY = "out of memory"
    TIMEOUT = "timeout"
    ENGINE_NOT_FOUND = "engine not found"
    BAD_INPUT = "bad input"
    PHYSICS = "physics"
    RESOURCE = "resource"
    TRANSIENT = "transient"
    WALLTIME = "walltime"
    PREEMPTED = "preempted"
    NODE_FAILURE = "node failure"
    JOB_CANCELLED = "job cancelled"
    CANCELLED = "cancelled"
    INTERNAL = "internal"


class ExitCode:
    """Documented exit codes of the command line."""

    OK = 0
    FAILED_RUNS = 1  # the campaign ended, but some runs failed
    USAGE = 2  # wrong spec or wrong command: nothing was spent
    RESOURCE = 3  # an engine or another resource is missing
    BUSY = 4  # another driver holds the campaign
    INTERNAL = 70  # a bug of ours
    INTERRUPTED = 130  # Ctrl-C or `campaign stop`: what was finished is kept


@dataclass(frozen=True)
class Location:
    """A place in a text file; ``line`` and ``column`` count from 1."""

    file: Path
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        parts = [str(self.file), *(str(n) for n in (self.line, self.column) if n is not None)]
        return ":".join(parts)


class CampaignError(Exception):
    """Root of all errors that campaign raises on purpose.

    Parameters
    ----------
    message
        What is wrong, one sentence without a final full stop.
    where
        Location in a file, or a run, stage or attempt.
    hint
        What to do next.
    """

    exit_code: ClassVar[int] = ExitCode.INTERNAL
    failure_class: ClassVar[FailureClass] = FailureClass.INTERNAL

    def __init__(self, message: str, *, where: Location | str | None = None, hint: str | None = None) -> None:
        self.message = message
        self.where = where
        self.hint = hint
        super().__init__(str(self))

    def __str__(self) -> str:
        text = self.message if self.where is None else f"{self.where}: {self.message}"
        return text if self.hint is None else f"{text}; {self.hint}"

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions travel from workers to the driver; keyword-only arguments need help to be pickled.
        return (_rebuild, (type(self), self.message, self.where, self.hint))


def _rebuild(
    kind: type[CampaignError], message: str, where: Location | str | None, hint: str | None
) -> CampaignError:
    return kind(message, where=where, hint=hint)


class SpecError(CampaignError):
    """The spec, or the command, asks for something that cannot be; nothing was spent."""

    exit_code = ExitCode.USAGE
    failure_class = FailureClass.BAD_INPUT


class InputError(CampaignError):
    """An engine refused what it was given."""

    exit_code = ExitCode.FAILED_RUNS
    failure_class = FailureClass.BAD_INPUT


class ResourceError(CampaignError):
    """The machine lacks something: disk, memory, a file."""

    exit_code = ExitCode.RESOURCE
    failure_class = FailureClass.RESOURCE


class EngineNotFoundError(ResourceError):
    """An engine is not installed or does not start."""

    failure_class = FailureClass.ENGINE_NOT_FOUND


class OutOfMemoryError(ResourceError):
    """An engine could not have the memory that it wanted, or was ended because of it."""

    failure_class = FailureClass.OUT_OF_MEMORY


class TransientError(CampaignError):
    """The attempt failed for a reason that need not come again (signal, lost worker)."""

    exit_code = ExitCode.FAILED_RUNS
    failure_class = FailureClass.TRANSIENT


class EngineTimeoutError(TransientError):
    """An engine made no progress for longer than allowed."""

    failure_class = FailureClass.TIMEOUT


class WalltimeError(TransientError):
    """The job in which an attempt runs is about to end."""

    failure_class = FailureClass.WALLTIME


class CancelledAttemptError(CampaignError):
    """A person or the driver asked the attempt to stop."""

    exit_code = ExitCode.INTERRUPTED
    failure_class = FailureClass.CANCELLED


class PhysicsError(CampaignError):
    """The simulation went wrong: NaN, lost atoms, an exploding temperature."""

    exit_code = ExitCode.FAILED_RUNS
    failure_class = FailureClass.PHYSICS


class LedgerError(CampaignError):
    """The campaign directory or its ledger cannot be used as it is."""

    exit_code = ExitCode.USAGE


class BusyError(LedgerError):
    """Another driver holds the campaign."""

    exit_code = ExitCode.BUSY


class TakenOverError(LedgerError):
    """Another driver took the campaign over while this one drove it."""

    exit_code = ExitCode.BUSY


class StoreError(CampaignError):
    """The result store cannot be used as it is."""

    exit_code = ExitCode.USAGE
