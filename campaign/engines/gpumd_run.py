"""Runs GPUMD in the present directory and looks after it, as ``python -m campaign.engines.gpumd_run``.

GPUMD neither looks for a request to stop nor at its own numbers, and it overwrites its restart file in place.
So this process, which is the engine's process for everything else, starts it and

- makes a checkpoint (``state.xyz``) of each block that has ended,
- ends it where a temperature is no number or far too high,
- ends it, with the last checkpoint, when it is asked to stop.

One process of GPUMD computes all blocks of a segment: to start one takes seconds, and what is read back from
a restart file has been rounded. GPUMD ends with this process, and this one with what started it.
"""

import math
import os
import subprocess
import sys
import time
from pathlib import Path

from campaign.engines.base import STOP_FILE
from campaign.engines.child import dying_with_parent
from campaign.engines.gpumd_input import COMPUTE, LOG, STATE, THERMO, Facts
from campaign.engines.gpumd_output import LogProgress, average_cell
from campaign.engines.gpumd_state import read_restart, scale_to_average, write_state
from campaign.engines.gpus import gpus_here, one_gpu

BINARY_VARIABLE = "CAMPAIGN_GPUMD"
"""Names the program; the input holds no path."""

PHYSICS_CODE = 3
"""Exit code where the simulation went wrong; the log says how."""

POLL_S = 0.2
SETTLE_S = 0.05
"""Between a look at the log and the next one, between which a restart file is read."""

STOP_WAIT_S = 4.0
"""How long a block may go on after a request to stop, where there is a checkpoint to go on from; less than
what `campaign.execution.process` waits before it kills."""


class _Watch:
    """Looks at GPUMD in ``directory`` while it runs."""

    def __init__(self, directory: Path, facts: Facts, process: "subprocess.Popen[bytes]") -> None:
        self._directory = directory
        self._facts = facts
        self._process = process
        self._series = directory / (COMPUTE if facts.series == "compute" else THERMO)
        self._columns = len(facts.atoms_of_layer) if facts.series == "compute" else 1
        self._read = 0
        self.checkpoint = facts.first
        self._asked: tuple[float, int] | None = None

    def wait(self) -> int:
        """Wait until GPUMD has ended or was ended; return the exit code, negative for a signal."""
        while True:
            ended = self._process.poll() is not None
            problem = self._problem()
            if problem is not None:
                self._kill()
                with (self._directory / LOG).open("a") as log:
                    log.write(f"\ncampaign: {problem}\n")
                return PHYSICS_CODE
            self._take_checkpoint()
            if ended:
                return self._process.returncode
            if self._should_end():
                self._kill()
                return 0
            time.sleep(POLL_S)

    def _kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _problem(self) -> str | None:
        """Say what is wrong with the temperatures in the rows that are new, if anything."""
        try:
            with self._series.open("rb") as file:
                file.seek(self._read)
                text = file.read()
        except FileNotFoundError:
            return None
        whole = text.rfind(b"\n") + 1
        self._read += whole
        for row in text[:whole].splitlines():
            if not row.startswith(b"#"):
                for temperature_K in map(_number, row.split()[: self._columns]):
                    if not temperature_K <= self._facts.limit_K:  # also where it is no number
                        return (
                            f"a temperature of {temperature_K:g} K in {self._series.name}, "
                            f"more than {self._facts.limit_K:g} K"
                        )
        return None

    def _done(self) -> int:
        """MD steps of the stage in blocks that have ended, as the log says."""
        log = (self._directory / LOG).read_text(errors="replace")
        return self._facts.first + LogProgress.of(log).in_blocks

    def _take_checkpoint(self) -> None:
        done = self._done()
        if done == self.checkpoint:
            return
        restart = read_restart(self._directory, self._facts)
        if self._process.poll() is None:
            # A restart file is whole when the log tells of the end of its block, and stays so for a block.
            # Should another one have ended meanwhile, it may be that of either: the next look takes it.
            time.sleep(SETTLE_S)
            if self._done() != done:
                return
        if restart is not None:
            write_state(self._directory, self._facts, restart, done)
            self.checkpoint = done

    def _should_end(self) -> bool:
        """Whether it was asked to stop, has something to go on from, and has had time to end its block."""
        if self._asked is None:
            if (self._directory / STOP_FILE).exists():
                self._asked = (time.monotonic(), self.checkpoint)
            return False
        since, before = self._asked
        ended_block = self.checkpoint > before
        waited = time.monotonic() - since > STOP_WAIT_S
        return self.checkpoint > self._facts.first and (ended_block or waited)


def _number(word: bytes) -> float:
    try:
        return float(word)
    except ValueError:  # builds for Windows have words of their own for what is no number
        return math.nan


def main() -> int:
    """Run GPUMD on the input in the present directory; return the exit code."""
    directory = Path.cwd()
    facts = Facts.read(directory)
    # GPUMD uses all GPUs that it sees, and refuses structures that are too short for several.
    with one_gpu(gpus_here()) as environment, (directory / LOG).open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - the engine's own command, without a shell
            (os.environ[BINARY_VARIABLE],),
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=dying_with_parent(),  # noqa: PLW1509 - one system call, loaded before
        )
        watch = _Watch(directory, facts, process)
        code = watch.wait()
    if code < 0:
        os.kill(os.getpid(), -code)  # it ends as GPUMD did: whoever waits knows what a signal means
    if code == 0 and facts.averages_cell and watch.checkpoint == facts.step_last:
        cell = average_cell(directory, facts, watch.checkpoint)
        scale_to_average(directory / STATE, cell["cell_x"], cell["cell_y"])
    return code


if __name__ == "__main__":
    sys.exit(main())
