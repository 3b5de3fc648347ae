"""What a worker in a job knows of it: resource, job, node, and how long the job still has.

The job's script sets it in the environment; Dask loads this module as a preload of each worker, which then
tells the driver when it registers. A worker on this machine is in no job and has all the time there is.
"""

import contextlib
import os
import platform
import socket
import time
from collections.abc import Iterable
from importlib import metadata
from typing import Any

from campaign.execution.process import killed_for_memory

KIND = "CAMPAIGN_KIND"
END = "CAMPAIGN_JOB_END"
"""End of the job, in s since 1970 by the node's clock."""

WALLTIME = "CAMPAIGN_WALLTIME"
MAX_MARGIN_S = 120.0
MIN_MARGIN_S = 10.0


def margin_s(walltime_s: float) -> float:
    """Time before the end of a job at which its runs write their last checkpoint: s, 10 to 120."""
    return min(MAX_MARGIN_S, max(MIN_MARGIN_S, walltime_s / 20))


def prologue(kind: str, walltime_s: int) -> list[str]:
    """Lines of shell that tell a job's workers what they are."""
    # SLURM tells the end itself from 23.02 on. By the node's clock, as it is read by: no two are compared.
    return [
        f"export {KIND}={kind} {WALLTIME}={walltime_s}",
        f"export {END}=${{SLURM_JOB_END_TIME:-$(( $(date +%s) + {walltime_s} ))}}",
    ]


def seconds_left() -> float:
    """Time until the runs of this worker have to end, in s; infinite where no job ends."""
    end = os.environ.get(END)
    if end is None:
        return float("inf")
    return float(end) - time.time() - margin_s(float(os.environ[WALLTIME]))


def node() -> str:
    """Name of this machine, as the cluster calls it."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Versions of Python and of packages; one that is not there is left out."""
    found = {"python": platform.python_version()}
    for name in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def facts(_worker: Any) -> dict[str, Any]:
    """Tell the driver what this worker is."""
    return {
        "kind": os.environ.get(KIND, ""),
        "job": os.environ.get("SLURM_JOB_ID", ""),
        "node": node(),
        "left_s": seconds_left(),
        "killed": killed_for_memory(),
    }


def dask_setup(worker: Any) -> None:
    """Add the facts to what a worker says when it registers (a hook of Dask)."""
    worker.startup_information["campaign"] = facts
