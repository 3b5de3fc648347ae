"""One GPU for each engine process on a machine with several, where nobody has shared them out.

A job of a cluster, or a user, does so with ``CUDA_VISIBLE_DEVICES``; what that names is left as it is.
"""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

VISIBLE_VARIABLE = "CUDA_VISIBLE_DEVICES"


def gpus_here(devices: Path = Path("/dev")) -> list[str]:
    """Numbers of this machine's GPUs, as CUDA counts them: from 0, whatever their device files are called."""
    return [str(number) for number, _ in enumerate(devices.glob("nvidia[0-9]*"))]


@contextlib.contextmanager
def one_gpu(gpus: Sequence[str]) -> Iterator[Mapping[str, str]]:
    """Hold a GPU that no other process of ours holds, and say so in the environment that is yielded.

    Where all are held, one is shared. The environment is empty where there is nothing to choose.
    """
    if VISIBLE_VARIABLE in os.environ or len(gpus) < 2:
        yield {}
        return
    with contextlib.ExitStack() as stack:
        chosen = next((gpu for gpu in gpus if _lock(gpu, stack)), gpus[os.getpid() % len(gpus)])
        yield {VISIBLE_VARIABLE: chosen}


def _lock(gpu: str, stack: contextlib.ExitStack) -> bool:
    path = Path(tempfile.gettempdir(), f"campaign-{os.getuid()}-gpu-{gpu}")
    file = stack.enter_context(path.open("w"))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
