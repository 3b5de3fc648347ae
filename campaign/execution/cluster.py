"""Where attempts run: slots, and the cluster on this machine (`campaign.execution.jobs` has that of SLURM).

Dask is transport, never truth, and never retries.
"""

import contextlib
import logging
import math
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from multiprocessing import forkserver
from typing import Any, Protocol

from campaign.errors import FailureClass, ResourceError
from campaign.site import PLACE

START_TIMEOUT_S = 60.0
NO_SLOT_S = 120.0
"""Without any worker on this machine for so long there will be none."""

CONFIG = {
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
QUIET = ("distributed", "tornado", "asyncio", "bokeh")


def usable_cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0))


def default_workers(threads: int) -> int:
    """As many workers as fit on the usable cores with ``threads`` each, at least one."""
    return max(1, usable_cores() // threads)


@dataclass(frozen=True)
class Kind:
    """A kind of slot: a resource of the site, and how often its memory was raised."""

    resource: str = ""
    raised: int = 0

    def __str__(self) -> str:
        return self.resource + "+" * self.raised

    @property
    def anywhere(self) -> "Kind":
        """The kind of slots that its place is one of (`campaign.site.Site.with_places`)."""
        return Kind(self.resource.partition(PLACE)[0], self.raised)

    @classmethod
    def parse(cls, text: str) -> "Kind":
        """Kind that is written so."""
        resource = text.rstrip("+")
        return cls(resource, len(text) - len(resource))


HERE = Kind()
"""The kind of all workers on this machine."""


@dataclass(frozen=True)
class Slot:
    """A live worker: where it is, and until when (monotonic, in s) attempts may run in it.

    ``killed`` is how many processes of its node had been killed for want of memory when it began.
    """

    address: str
    kind: Kind = HERE
    job: str | None = None
    node: str | None = None
    until: float = math.inf
    killed: int = 0

    def left_s(self) -> float:
        """Time that attempts still have in it, in s."""
        return self.until - time.monotonic()


@dataclass(frozen=True)
class Loss:
    """Why a worker was lost."""

    failure_class: FailureClass
    message: str


class Cluster(Protocol):
    """Slots on which attempts can be placed, by a Dask client."""

    client: Any

    def slots(self) -> Mapping[str, Slot]:
        """Find the live workers by address, one slot each; a worker that came back has a new one.

        Raises
        ------
        ResourceError
            There is none, and there will be none.
        """
        ...

    def request(self, wanted: Mapping[Kind, int], busy: Set[str]) -> Mapping[str, str]:
        """Say how many slots of each kind have something to do, and the addresses of the busy ones.

        Returns what cannot be had: the name of a resource, and why.
        """
        ...

    def why_lost(self, slot: Slot, since: float) -> Loss | None:
        """Tell why a worker was lost, missing ``since`` (monotonic, in s); None while that is not known."""
        ...

    def picture(self) -> Mapping[str, Any]:
        """Describe what it has and waits for, for the status."""
        ...

    def leave(self) -> None:
        """Leave what jobs there are to the driver that follows."""
        ...

    def kill(self) -> None:
        """End all workers at once; their engines end with them."""
        ...


class Workers:
    """Workers on this machine."""

    def __init__(self, client: Any, cluster: Any) -> None:
        self.client = client
        self._cluster = cluster
        self._last_slot = time.monotonic()

    def slots(self) -> Mapping[str, Slot]:
        """See `Cluster.slots`."""
        found = {address: Slot(address) for address in self.client.nthreads()}
        now = time.monotonic()
        if found:
            self._last_slot = now
        elif now - self._last_slot > NO_SLOT_S:
            raise ResourceError("no worker process is left, and none came back")
        return found

    def request(self, wanted: Mapping[Kind, int], busy: Set[str]) -> Mapping[str, str]:
        """Keep what there is; see `Cluster.request`."""
        del wanted, busy
        return {}

    def why_lost(self, slot: Slot, since: float) -> Loss:
        """See `Cluster.why_lost`."""
        del slot, since
        return Loss(FailureClass.LOST_WORKER, "the worker process died")

    def picture(self) -> Mapping[str, Any]:
        """Nothing that a status needs; see `Cluster.picture`."""
        return {}

    def leave(self) -> None:
        """Nothing: workers on this machine end with their driver; see `Cluster.leave`."""

    def kill(self) -> None:
        """See `Cluster.kill`."""
        for nanny in self._cluster.workers.values():
            nanny.auto_restart = False
            if nanny.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(nanny.pid, signal.SIGKILL)


@contextlib.contextmanager
def open_workers(workers: int | None, threads: int) -> Iterator[Cluster]:
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
    from distributed import Client, LocalCluster

    _start_forkserver()
    with (
        configured(),
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
        yield Workers(client, cluster)


@contextlib.contextmanager
def configured(more: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Set Dask up as we need it, and keep it quiet, for as long as a cluster is open."""
    import dask

    levels = {name: logging.getLogger(name).level for name in QUIET}
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with dask.config.set({**CONFIG, **(more or {})}):
            yield
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
