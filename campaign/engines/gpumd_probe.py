"""What a binary of GPUMD can do: found by what it accepts, since its banner lags behind it.

It reads an input of four atoms that runs nothing, with one line of each keyword that we use. What it refuses
is tried again alone.
"""

import os
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from campaign.engines.child import dying_with_parent
from campaign.engines.gpumd_failure import last_message, read_failure
from campaign.engines.gpumd_input import LOG, MODEL, SCRIPT, write_model
from campaign.engines.gpumd_output import read_version
from campaign.engines.gpus import gpus_here, one_gpu
from campaign.errors import EngineNotFoundError, ResourceError, TransientError

KEYWORDS: Mapping[str, str] = {
    "velocity": "velocity 300 seed 1",
    "time_step": "time_step 1",
    "minimize": "minimize fire 0.01 10",
    "fix": "fix 0",
    "compute": "compute 1 10 1 temperature potential",
    "dump_thermo": "dump_thermo 10",
    "dump_restart": "dump_restart 10",
    "ensemble npt_scr": "ensemble npt_scr 300 300 100 0 0 0 50 50 50 1000",
    "ensemble nvt_nhc": "ensemble nvt_nhc 300 300 100",
    "ensemble heat_lan": "ensemble heat_lan 300 100 10 1 2",
}
"""A line of each keyword that we write, the kind of ensemble being a part of it."""

_POTENTIAL = "lj.txt"
_LENNARD_JONES = "lj 1 Ar\n0.01 3.4 10\n"
"""With a cutoff of 7 angstrom or less, GPUMD 4.9 to 5.6 ask for larger blocks of threads than a GPU has."""

_TIMEOUT_S = 300


@dataclass(frozen=True)
class Probe:
    """What was found: the banner's version, the GPU, and for each keyword that is refused what was said."""

    version: str
    device: str
    refused: Mapping[str, str]


def keyword_of(line: str) -> str:
    """Keyword of a line of ``run.in``, as in `KEYWORDS`."""
    words = line.split()
    return " ".join(words[:2]) if words[0] == "ensemble" else words[0]


def probe(binary: Path) -> Probe:
    """Look at a binary; once, unless it changes.

    Raises
    ------
    EngineNotFoundError
        It does not start, finds no GPU, or is another program.
    ResourceError
        It starts, but something else is missing.
    TransientError
        The GPU does not answer now.
    """
    status = binary.stat()
    return _probe(binary, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=8)
def _probe(binary: Path, size: int, mtime_ns: int) -> Probe:
    del size, mtime_ns  # they make a changed file a new key
    log = _try(binary, tuple(KEYWORDS.values()))
    if "GPUMD" not in log.text:
        raise EngineNotFoundError(
            "this program is not GPUMD: it prints no banner", where=str(binary), hint="name another one"
        )
    refused = {}
    if log.message is not None:
        for keyword, line in KEYWORDS.items():
            alone = _try(binary, (line,))
            if alone.message is not None:
                refused[keyword] = alone.message
    device = re.search(r"Device name: +(.+)", log.text)
    return Probe(read_version(log.text), device[1].strip() if device else "unknown", refused)


@dataclass(frozen=True)
class _Answer:
    """What it printed, and what it said against the input, if anything."""

    text: str
    message: str | None


def _try(binary: Path, lines: Sequence[str]) -> _Answer:
    with tempfile.TemporaryDirectory(prefix="campaign-") as scratch:
        directory = Path(scratch)
        _write_input(directory, lines)
        try:
            with one_gpu(gpus_here()) as environment, (directory / LOG).open("wb") as log:
                done = subprocess.run(  # noqa: S603 - the binary that was found, no shell
                    (str(binary),),
                    cwd=directory,
                    env={**os.environ, **environment},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    timeout=_TIMEOUT_S,
                    check=False,
                    preexec_fn=dying_with_parent(),
                )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise EngineNotFoundError(
                f"GPUMD does not start: {error}", where=str(binary), hint="build it again"
            ) from error
        text = (directory / LOG).read_text(errors="replace")
        if done.returncode == 0:
            return _Answer(text, None)
        failure = read_failure(directory, done.returncode)
        message = last_message(directory / LOG)
        if message is None:
            raise EngineNotFoundError(
                f"GPUMD does not start: {failure.message}",
                where=str(binary),
                hint=failure.hint or "build it again",
            )
        if isinstance(failure, ResourceError | TransientError):  # no GPU, no library, no memory; a GPU in use
            raise type(failure)(failure.message, where=str(binary), hint=failure.hint)
        return _Answer(text, message[0])


def _write_input(directory: Path, lines: Sequence[str]) -> None:
    (directory / _POTENTIAL).write_text(_LENNARD_JONES)
    (directory / SCRIPT).write_text("\n".join((f"potential {_POTENTIAL}", *lines)) + "\n")
    write_model(
        directory / MODEL,
        ["Ar"] * 4,
        np.array([[10.0, 10, 10], [14, 10, 10], [10, 14, 10], [10, 10, 14]]),
        masses=np.full(4, 39.948),
        cell=np.diag([50.0, 50, 50]),
        groups=(np.array([0, 1, 2, 2]), np.array([0, 1, 1, 1])),
    )
