"""Where attempts run: the only module that knows what kind of Dask cluster that is.

Dask is transport, never truth, and never retries.
"""

import contextlib
import logging
import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import forkserver
from typing import Any

from campaign.errors import ResourceError

START_TIMEOUT_S = 60.0

_CONFIG = {
    # `retries=0` is not enough: the task of a worker that was killed would start again elsewhere.
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.scheduler.work-stealing": False,
    # Engines are processes of their own; a worker must never be paused or killed because of its share.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
    "distributed.worker.profile.enabled": False,
    "distributed.worker.multiprocessing-method": "forkserver",
    "distributed.admin.log-length": 0,
    "distributed.admin.low-level-log-length": 0,
}
_PRELOADED = ["distributed", "campaign.execution.worker", "xarray", "dask.array", "scipy.io"]
"""What every worker needs; the first `xarray.Variable` would import ``dask.array``."""
_QUIET = ("distributed", "tornado", "asyncio", "bokeh")


def usable_cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0))


def default_workers(threads: int) -> int:
    """As many workers as fit on the usable cores with ``threads`` each, at least one."""
    return max(1, usable_cores() // threads)


@dataclass(frozen=True)
class Cluster:
    """An open cluster: a Dask client, and the slots on which attempts can be placed."""

    client: Any
    cluster: Any

    def slots(self) -> list[str]:
        """Addresses of the live workers, one slot each; a worker that came back has a new one."""
        return list(self.client.nthreads())

    def kill(self) -> None:
        """End all workers at once; their engines end with them."""
        for nanny in self.cluster.workers.values():
            nanny.auto_restart = False
            if nanny.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(nanny.pid, signal.SIGKILL)


@contextlib.contextmanager
def open_cluster(workers: int | None, threads: int) -> Iterator[Cluster]:
    """Start workers on this machine: one process and one attempt at a time each; stop them at the end.

    Parameters
    ----------
    workers
        Number of worker processes; None for as many as the cores hold.
    threads
        Threads that an engine uses in one attempt.

    Raises
    ------
    ResourceError
        No worker starts.
    """
    # Dask takes a second to import, which a campaign with nothing left to do need not wait for.
    import dask
    from distributed import Client, LocalCluster

    _start_forkserver()
    levels = {name: logging.getLogger(name).level for name in _QUIET}
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with (
            dask.config.set(_CONFIG),
            tempfile.TemporaryDirectory(prefix="campaign-", ignore_cleanup_errors=True) as scratch,
            contextlib.ExitStack() as stack,
        ):
            try:
                cluster = stack.enter_context(
                    LocalCluster(
                        n_workers=workers or default_workers(threads),
                        threads_per_worker=1,
                        processes=True,
                        # No dashboard; any port for the HTTP server, or Dask would complain about a busy one.
                        scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
                        memory_limit=0,
                        local_directory=scratch,
                        silence_logs=logging.CRITICAL,
                        host="127.0.0.1",
                    )
                )
                client = stack.enter_context(Client(cluster, timeout=START_TIMEOUT_S, set_as_default=False))
                client.wait_for_workers(1, timeout=START_TIMEOUT_S)
            except (RuntimeError, TimeoutError, OSError) as error:
                raise ResourceError(
                    f"the workers did not start: {error}",
                    hint="the machine may be overloaded: type the same command again",
                ) from error
            yield Cluster(client, cluster)
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _start_forkserver() -> None:
    """Start the process from which all workers are forked, also those that replace lost ones.

    It imports what they need once. And it ignores Ctrl-C, which goes to the terminal's whole group, as do its
    children: only the driver shall act on it, in its own order.
    """
    if threading.current_thread() is not threading.main_thread():
        return  # signals can be set in the main thread only, and nobody types Ctrl-C at another
    multiprocessing.set_forkserver_preload(_PRELOADED)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGINT, before)
