"""Engine processes: no orphan survives, nothing hangs, every ending has its own error."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from campaign.engines.base import Command
from campaign.errors import CancelledAttemptError, EngineNotFoundError, EngineTimeoutError, OutOfMemoryError
from campaign.execution import process
from campaign.execution.process import run_process


def run(
    script: str,
    directory: Path,
    *,
    timeout_s: float | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    environment: dict[str, str] | None = None,
) -> int:
    command = Command(("/bin/sh", "-c", script), environment or {})
    return run_process(
        command,
        directory,
        threads=3,
        timeout_without_output_s=timeout_s,
        should_stop=should_stop,
        poll_s=0.02,
    )


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_for(condition: Callable[[], bool], timeout_s: float = 10) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def read_pid(path: Path) -> int:
    assert wait_for(lambda: path.exists() and path.read_text().endswith("\n"))
    return int(path.read_text())


def test_return_code_output_and_working_directory(tmp_path: Path) -> None:
    assert run("pwd; echo bad >&2; exit 7", tmp_path) == 7
    assert (tmp_path / "stdout.log").read_text().strip() == str(tmp_path.resolve())
    assert (tmp_path / "stderr.log").read_text() == "bad\n"


def test_a_kill_for_want_of_memory_is_told_from_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vmstat = tmp_path / "vmstat"
    monkeypatch.setattr(process, "VMSTAT", vmstat)
    vmstat.write_text("pgfault 5\noom_kill 2\n")
    assert run("kill -KILL $$", tmp_path) == -signal.SIGKILL
    assert run("echo oom_kill 3 > vmstat; exit 1", tmp_path) == 1
    with pytest.raises(OutOfMemoryError, match="no memory was left; run fewer at a time"):
        run("echo oom_kill 4 > vmstat; kill -KILL $$", tmp_path)


def test_signal_is_a_negative_return_code(tmp_path: Path) -> None:
    assert run("kill -SEGV $$", tmp_path) == -signal.SIGSEGV


def test_threads_are_pinned_and_the_command_has_the_last_word(tmp_path: Path) -> None:
    run("echo $OMP_NUM_THREADS $MKL_NUM_THREADS $OPENBLAS_NUM_THREADS", tmp_path)
    assert (tmp_path / "stdout.log").read_text() == "3 3 3\n"
    run("echo $OMP_NUM_THREADS", tmp_path, environment={"OMP_NUM_THREADS": "1"})
    assert (tmp_path / "stdout.log").read_text() == "1\n"


def test_process_has_its_own_session(tmp_path: Path) -> None:
    run("cut -d' ' -f5,6 /proc/$$/stat; echo $$", tmp_path)
    group, session, pid = (tmp_path / "stdout.log").read_text().split()
    assert group == session == pid
    assert int(group) != os.getpgrp()


@pytest.mark.parametrize("argv", [("no-such-engine",), ("/no/such/engine", "-in", "x")])
def test_missing_program(argv: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(EngineNotFoundError, match=argv[0]):
        run_process(
            Command(argv), tmp_path, threads=1, timeout_without_output_s=None, should_stop=lambda: False
        )


def test_program_that_this_machine_cannot_execute(tmp_path: Path) -> None:
    program = tmp_path / "engine"
    program.write_bytes(b"\x7fELF but not really")
    program.chmod(0o755)
    with pytest.raises(EngineNotFoundError, match="cannot execute"):
        run_process(
            Command((str(program),)),
            tmp_path,
            threads=1,
            timeout_without_output_s=None,
            should_stop=lambda: False,
        )


def test_what_a_full_disk_or_machine_does_is_not_the_program_s_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", busy)
        with pytest.raises(BlockingIOError):
            run("true", tmp_path)
    (tmp_path / "stdout.log").unlink()
    (tmp_path / "stdout.log").symlink_to("/dev/full/nothing")
    with pytest.raises(OSError, match="Not a directory"):
        run("true", tmp_path)


def test_hang_is_ended_but_output_in_any_file_counts(tmp_path: Path) -> None:
    # It writes for a second, longer than the limit, and then hangs.
    script = "for i in 1 2 3 4 5; do echo $i >> log.lammps; sleep 0.2; done; sleep 60"
    started = time.monotonic()
    with pytest.raises(EngineTimeoutError, match=r"nothing for 0\.7 s"):
        run(script, tmp_path, timeout_s=0.7)
    assert (tmp_path / "log.lammps").read_text().split() == ["1", "2", "3", "4", "5"]
    assert time.monotonic() - started < 10


def test_stop_ends_grandchildren(tmp_path: Path) -> None:
    script = "sleep 60 & echo $! > grandchild; wait"
    with pytest.raises(CancelledAttemptError):
        run(script, tmp_path, should_stop=(tmp_path / "grandchild").exists)
    assert wait_for(lambda: not is_running(read_pid(tmp_path / "grandchild")))


def test_normal_end_leaves_no_grandchildren(tmp_path: Path) -> None:
    assert run("sleep 60 & echo $! > grandchild; exit 0", tmp_path) == 0
    assert wait_for(lambda: not is_running(read_pid(tmp_path / "grandchild")))


def test_process_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "GRACE_S", 0.2)
    script = "trap '' TERM; echo $$ > pid; while true; do sleep 0.05; done"
    with pytest.raises(CancelledAttemptError):
        run(script, tmp_path, should_stop=(tmp_path / "pid").exists)
    assert not is_running(read_pid(tmp_path / "pid"))


def test_error_in_our_own_code_ends_the_process(tmp_path: Path) -> None:
    def fail_once_it_runs() -> bool:
        if (tmp_path / "pid").exists():
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        run("echo $$ > pid; exec sleep 60", tmp_path, should_stop=fail_once_it_runs)
    assert not is_running(read_pid(tmp_path / "pid"))


def test_process_dies_with_a_killed_parent(tmp_path: Path) -> None:
    # As in a Dask worker: the process is started from a thread, and the parent is killed without warning.
    parent_code = f"""
import threading
from pathlib import Path
from campaign.engines.base import Command
from campaign.execution.process import run_process

command = Command(("/bin/sh", "-c", "echo $$ > pid; exec sleep 60"))
arguments = {{"threads": 1, "timeout_without_output_s": None, "should_stop": lambda: False}}
thread = threading.Thread(target=run_process, args=(command, Path({str(tmp_path)!r})), kwargs=arguments)
thread.start()
thread.join()
"""
    with subprocess.Popen((sys.executable, "-c", parent_code)) as parent:
        try:
            assert wait_for((tmp_path / "pid").exists, 60)
            pid = read_pid(tmp_path / "pid")
            assert is_running(pid)
        finally:
            parent.kill()
    assert wait_for(lambda: not is_running(pid))


def test_many_threads_can_run_processes_at_once(tmp_path: Path) -> None:
    codes: dict[int, int] = {}

    def one(number: int) -> None:
        directory = tmp_path / str(number)
        directory.mkdir()
        codes[number] = run(f"exit {number}", directory)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert codes == {number: number for number in range(8)}
