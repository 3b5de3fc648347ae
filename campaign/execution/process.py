"""The one module that runs engine processes: process group, death with the parent, time limit, stop, logs.

No orphan keeps burning an allocation: a process ends with the Python process that started it
(`campaign.engines.child`), and its whole process group ends when the attempt stops for any reason.

That death is tied to the *thread* that started the process. `run_process` waits in that same thread until the
process is gone, so a thread of a pool (a Dask worker's) can run it.
"""

import errno
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from campaign.engines.base import STDERR, STDOUT, STOP_FILE, Command
from campaign.engines.child import dying_with_parent
from campaign.errors import CancelledAttemptError, EngineNotFoundError, EngineTimeoutError, OutOfMemoryError

GRACE_S = 5.0
"""Time between SIGTERM and SIGKILL."""

STOP_GRACE_S = 8.0
"""Time in which a process that was asked to stop can reach the end of its block."""

VMSTAT = Path("/proc/vmstat")

_NO_PROGRAM = frozenset({errno.ENOENT, errno.EACCES, errno.ENOEXEC, errno.ENOTDIR})
"""Errors of a program that is not one of this machine, or whose interpreter is missing; others may pass."""


def run_process(
    command: Command,
    directory: Path,
    *,
    threads: int,
    timeout_without_output_s: float | None,
    should_stop: Callable[[], bool],
    should_end: Callable[[], bool] = lambda: False,
    poll_s: float = 0.5,
) -> int:
    """Run an engine's process in ``directory`` until it ends.

    Its output goes to ``stdout.log`` and ``stderr.log`` there.

    Parameters
    ----------
    command
        What to start; its environment is added to ours.
    directory
        Working directory, which exists.
    threads
        Threads that numerical libraries may use (``OMP_NUM_THREADS`` and its kin).
    timeout_without_output_s
        How long all files in ``directory`` may stay unchanged; None for ever.
    should_stop
        Asked every ``poll_s`` seconds; True asks the process to end at its next block, by a file named
        `STOP_FILE`, and ends it if it has not done so within `STOP_GRACE_S`.
    should_end
        Asked as often; True asks the process to end at its next block, however long that takes.
    poll_s
        Time between two looks, in seconds.

    Returns
    -------
    int
        Return code; ``-n`` if signal n ended the process.

    Raises
    ------
    EngineNotFoundError
        The program does not exist or cannot be executed.
    OSError
        A file cannot be written, or no process be started, now.
    EngineTimeoutError
        Nothing was written for ``timeout_without_output_s``.
    CancelledAttemptError
        ``should_stop`` said so, and the process did not end by itself.
    OutOfMemoryError
        It was killed while the system killed something for want of memory.
    """
    killed_before = killed_for_memory()
    process = _start(command, directory, threads)
    try:
        last_change = time.monotonic()
        last_output = _output_state(directory)
        stopping_since: float | None = None
        ending = False
        pause_s = min(0.01, poll_s)
        while not _has_ended(process):
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, poll_s)  # short processes are noticed at once
            now = time.monotonic()
            if stopping_since is None and should_stop():
                stopping_since = now
                (directory / STOP_FILE).touch()
            elif stopping_since is not None and now - stopping_since > STOP_GRACE_S:
                raise CancelledAttemptError("asked to stop, within a block", where=str(directory))
            if not ending and should_end():
                (directory / STOP_FILE).touch()
                ending = True
            if timeout_without_output_s is None:
                continue
            output = _output_state(directory)
            if output != last_output:
                last_output, last_change = output, now
            elif now - last_change > timeout_without_output_s:
                raise EngineTimeoutError(
                    f"{Path(command.argv[0]).name} wrote nothing for {timeout_without_output_s:g} s",
                    where=str(directory),
                )
    finally:
        returncode = _end(process)
    if returncode == -signal.SIGKILL and killed_for_memory() > killed_before:
        raise OutOfMemoryError(
            f"{Path(command.argv[0]).name} was killed: no memory was left",
            where=str(directory),
            hint="run fewer at a time, or with more memory",
        )
    return returncode


def _start(command: Command, directory: Path, threads: int) -> subprocess.Popen[bytes]:
    environment = _environment(command.environment, threads)
    program = shutil.which(command.argv[0], path=environment.get("PATH"))
    if program is None:
        raise EngineNotFoundError(
            f"cannot execute {command.argv[0]}", where=str(directory), hint="try `campaign doctor`"
        )
    with (directory / STDOUT).open("wb") as stdout, (directory / STDERR).open("wb") as stderr:
        try:
            return subprocess.Popen(  # noqa: S603 - an engine's own command, without a shell
                (program, *command.argv[1:]),
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
                preexec_fn=dying_with_parent(),  # noqa: PLW1509 - one system call, loaded before
            )
        except OSError as error:
            if error.errno not in _NO_PROGRAM:
                raise
            raise EngineNotFoundError(
                f"cannot execute {program}: {error.strerror}",
                where=str(directory),
                hint="try `campaign doctor`",
            ) from error


def _environment(extra: Mapping[str, str], threads: int) -> dict[str, str]:
    pinned = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    return {**os.environ, **pinned, **extra}


def _output_state(directory: Path) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and times of the files that a working process changes."""
    state = []
    with os.scandir(directory) as entries:
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:  # removed by the process meanwhile
                continue
            state.append((entry.name, status.st_size, status.st_mtime_ns))
    return tuple(sorted(state))


def killed_for_memory() -> int:
    """Count what this machine's kernel has killed for want of memory, in containers and jobs too."""
    try:
        found = re.search(r"^oom_kill (\d+)$", VMSTAT.read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found.group(1)) if found else 0


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    # WNOWAIT leaves the zombie in place, so that its id cannot be reused before its group was killed.
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _end(process: subprocess.Popen[bytes]) -> int:
    """End the whole process group, whatever state it is in, and return the leader's return code."""
    if not _has_ended(process):
        _signal_group(process, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_S
        while not _has_ended(process) and time.monotonic() < deadline:
            time.sleep(0.02)
    _signal_group(process, signal.SIGKILL)  # the leader if it did not go, and children that it left behind
    return process.wait()


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):  # nobody left to signal
        return
