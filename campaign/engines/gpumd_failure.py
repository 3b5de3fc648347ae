"""Why a GPUMD process failed: its words become an error of the right class."""

import re
from pathlib import Path

from campaign.engines.base import STDERR
from campaign.engines.gpumd_input import LOG
from campaign.engines.symptoms import Symptom, explain, last_line
from campaign.errors import (
    CampaignError,
    EngineNotFoundError,
    InputError,
    Location,
    OutOfMemoryError,
    PhysicsError,
    ResourceError,
    TransientError,
)

_NO_GPU = "it needs a GPU and a driver for its CUDA: nvidia-smi tells what there is"
_SYMPTOMS = (
    Symptom("error while loading shared libraries", EngineNotFoundError, "its CUDA libraries are missing"),
    Symptom("no space left|disk quota", ResourceError, "free some disk space"),
    Symptom("exec format error|permission denied", EngineNotFoundError, "build it again"),
    Symptom("ImportError|ModuleNotFoundError", EngineNotFoundError, "install campaign[nep] again"),
    Symptom("out of memory|bad_alloc", OutOfMemoryError, "use a GPU with more memory, or fewer atoms"),
    Symptom(
        "no cuda-capable device|driver version|no kernel image|invalid device|initialization error",
        EngineNotFoundError,
        _NO_GPU,
    ),
    # Atoms that are far away lead to it, as does a GPU that is broken: it may pass.
    Symptom(
        "illegal memory access|launch failure|cuda ?error|terminate called",
        TransientError,
        "look at the GPU: nvidia-smi",
    ),
    Symptom("^a temperature of .+ more than", PhysicsError, "use a smaller timestep, or look at the start"),
    Symptom(
        "this number is (inf|nan)", PhysicsError, "a file that it goes on from has a number that is none"
    ),
    Symptom(
        "maximum number of neighbors exceeds",
        InputError,
        "the potential's file asks for more than there can be",
    ),
    Symptom("three times of the .* cutoff", InputError, "more cells are needed"),
    Symptom(
        "less than 5 times .* per GPU",
        InputError,
        "let CUDA_VISIBLE_DEVICES name one GPU for each run: all that it sees it uses",
    ),
    Symptom("not allowed in the used potential", InputError, "use a potential that knows these elements"),
    Symptom("failed to open|cannot open", ResourceError, "a file of its input is missing"),
    Symptom("invalid keyword|invalid ensemble", InputError, "this version of GPUMD is too old or too new"),
)


def read_failure(directory: Path, returncode: int) -> CampaignError:
    """Error of the right class for a process that failed, with file and line of its last message."""
    message = last_message(directory / LOG)
    if message is None and returncode >= 0:  # what looks after GPUMD failed itself
        message = last_line(directory / STDERR)
    return explain("GPUMD", message, returncode, directory / LOG, _SYMPTOMS)


_KIND = re.compile(r"^(CUDA|Input) Error:?\s*$")
_TEXT = re.compile(r"^\s+Error (?:text|message): *(.*)$")
_PLAIN = re.compile(
    r"^campaign: |^(Error|Failed to open)\b|^The (maximum number|longest direction)|^A periodic direction|"
    r"less than three times|not allowed in the used potential|^This number is|error while loading|"
    r"^The first line of the potential|[Nn]o space left|bad_alloc|terminate called|^\s*what\(\):"
)


def last_message(log: Path) -> tuple[str, Location] | None:
    """Last error message in a log: that of a block, after ``Error text:``, or a line of its own."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return None
    for number in range(len(lines), 0, -1):
        line = lines[number - 1]
        if found := _TEXT.match(line):
            kinds = [
                kind[1] for before in lines[max(0, number - 6) : number] if (kind := _KIND.match(before))
            ]
            text = found[1].strip().rstrip(".")
            return f"CUDA error: {text}" if kinds[-1:] == ["CUDA"] else text, Location(log, number)
        if _PLAIN.search(line):
            return line.strip().rstrip(".").removeprefix("campaign: "), Location(log, number)
    return None
