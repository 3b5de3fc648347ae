"""What a node tells of itself in a short job: ``python -m campaign.execution.probe FOLDER``.

``campaign doctor --site`` leaves its questions in FOLDER, a `REQUEST`, and finds the `ANSWER` there: what was
found of each, or a ``problem``. The two also show each other what the file system does between them.
"""

import errno
import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from campaign.errors import CampaignError
from campaign.execution.lock import try_lock
from campaign.execution.slot import node, versions_of
from campaign.execution.slurm import ask, states_of_jobs
from campaign.layout import write_atomic

REQUEST, ANSWER = "request.json", "answer.json"
LOCK = "lock"
"""File that the doctor holds locked."""

ASIDE, DONE = "aside", "done"
"""Directories ``node-aside`` and ``driver-aside`` get the ending ``done``, and then have the file `TIME`."""

TIME = "time"
"""Holds the time of whoever renamed its directory, in s since 1970."""

GREETING = b"campaign doctor\n"
SEEN_WITHIN_S = 45.0
"""So long one side may not see what the other one did; caches of NFS hold names for up to 30 s."""

CONNECTED_WITHIN_S = 10.0

PACKAGES = ("campaign", "dask", "distributed")
"""Must be the same on both sides: they speak to each other."""


def versions() -> dict[str, str]:
    """Versions of Python and of what must be alike on both sides."""
    return versions_of(PACKAGES)


def environment() -> dict[str, Any]:
    """Import what workers need."""
    import distributed.cli.dask_worker

    import campaign.execution.worker

    del distributed, campaign
    return {"versions": versions(), "python": sys.executable}


def engine(name: str) -> dict[str, Any]:
    """Start an engine once."""
    from campaign.engines.base import get_engine

    info = get_engine(name).check()
    return {"version": info.version, "device": info.device, "path": info.path}


def gpus() -> dict[str, Any]:
    """Tell which GPUs the job may use, and their names where the driver's tool tells them."""
    names: list[str] = []
    tool = shutil.which("nvidia-smi")
    if tool is not None:
        answer = subprocess.run(  # noqa: S603 - the tool found above, no shell
            (tool, "--query-gpu=name", "--format=csv,noheader"),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        if answer.returncode == 0:
            names = [line.strip() for line in answer.stdout.splitlines() if line.strip()]
    return {"visible": os.environ.get("CUDA_VISIBLE_DEVICES", ""), "names": names}


def network(host: str | None, port: int, interface: str | None) -> dict[str, Any]:
    """Reach the doctor as a worker would reach the scheduler; without ``host`` only look at the interface."""
    if interface is not None:
        from distributed.utils import get_ip_interface

        get_ip_interface(interface)
    if host is None:
        return {"reached": ""}
    with socket.create_connection((host, port), CONNECTED_WITHIN_S) as connection:
        answer = connection.recv(len(GREETING), socket.MSG_WAITALL)
    if answer != GREETING:
        msg = f"something else answers at {host}:{port}"
        raise OSError(msg)
    return {"reached": f"{host}:{port}"}


def lock(folder: Path) -> dict[str, Any]:
    """Try to take the lock that the doctor holds."""
    with (folder / LOCK).open("a") as file:
        return {"refused": not try_lock(file, fcntl.LOCK_EX)}


def rename(folder: Path) -> dict[str, Any]:
    """Rename directories, and wait for one that the doctor renames when it has seen ours.

    ``clock`` is between which times of this node the doctor's clock showed its time.
    """
    before = time.time()
    rename_in(folder, "node")
    other = folder / f"driver-{DONE}" / TIME
    deadline = time.monotonic() + SEEN_WITHIN_S
    while True:
        list(folder.iterdir())  # makes NFS look again
        if other.exists():
            break
        if time.monotonic() > deadline:
            msg = f"a directory renamed by the driver was not seen within {SEEN_WITHIN_S:g} s"
            raise TimeoutError(msg)
        time.sleep(0.2)
    return {"clock": [before, float(other.read_text()), time.time()]}


def rename_in(folder: Path, who: str) -> None:
    """Rename a directory with a file, as a commit does, and see that none takes the place of another.

    Raises
    ------
    OSError
        The file system does it in another way.
    """
    aside, done = folder / f"{who}-{ASIDE}", folder / f"{who}-{DONE}"
    for _ in range(2):
        aside.mkdir()
        (aside / TIME).write_text(repr(time.time()))
        try:
            aside.rename(done)
        except OSError as error:
            if done.is_dir() and error.errno in {errno.ENOTEMPTY, errno.EEXIST}:
                shutil.rmtree(aside)
                return
            raise
    msg = "a directory takes the place of another one that has files"
    raise OSError(msg)


def slurm() -> dict[str, Any]:
    """Ask SLURM as a driver would."""
    states_of_jobs()
    return {"version": ask(("sbatch", "--version")).strip()}


def answer(folder: Path) -> dict[str, Any]:
    """Answer all questions; nothing that goes wrong with one keeps the others from being asked."""
    request = json.loads((folder / REQUEST).read_text())
    questions: dict[str, Callable[[], Mapping[str, Any]]] = {
        "rename": lambda: rename(folder),
        "environment": environment,
        **{f"engine {name}": lambda name=name: engine(name) for name in request["engines"]},  # type: ignore[misc]
        "gpus": gpus,
        **({"slurm": slurm} if request["drives"] else {}),
        "locks": lambda: lock(folder),
        "network": lambda: network(request["host"], request["port"], request["interface"]),
    }
    found: dict[str, Any] = {"node": node()}
    for name, question in questions.items():
        try:
            found[name] = dict(question())
        except Exception as error:  # whatever it is, the doctor tells it, and what to do
            told = str(error) or type(error).__name__
            if isinstance(error, CampaignError):
                told = error.message if error.where is None else f"{error.where}: {error.message}"
            found[name] = {"problem": " ".join(told.split())}
    return found


def main() -> None:
    """Answer the questions in the folder that the command line names."""
    folder = Path(sys.argv[1])
    write_atomic(folder / ANSWER, json.dumps(answer(folder)))


if __name__ == "__main__":
    main()
