"""What one driver leaves for the next on a cluster: its jobs, the keys of their connections, and an address.

All of it lies in the campaign's directory or in SLURM's queue, so that a job may outlive its driver.
"""

import json
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from campaign.errors import ResourceError
from campaign.execution.cluster import Kind
from campaign.execution.slurm import POLL_S, ask, is_passing, jobs_named
from campaign.layout import write_atomic
from campaign.site import Site

logger = logging.getLogger(__name__)

ADDRESS = "scheduler.json"
"""Name of the file, among those of the jobs, that has the address of the driver's scheduler."""

_KEYS_LAST_S = 100 * 86400
"""Keys that are older are made anew: they are good for a year, and no job is so old."""

_CERTIFICATE, _KEY = "tls-certificate.pem", "tls-key.pem"

_GONE_WITHIN_S = 30.0
_LOOK_AGAIN_S = 2.0


def job_security(folder: Path) -> Any:
    """Keys of the connections between a driver and its jobs, as files, so that a next driver has the same.

    They are made where there are none; `forget_driver` takes them away.
    """
    from distributed import Security

    certificate, key = folder / _CERTIFICATE, folder / _KEY
    try:
        age_s = time.time() - min(certificate.stat().st_mtime, key.stat().st_mtime)
    except FileNotFoundError:
        age_s = math.inf
    if age_s > _KEYS_LAST_S:
        made = Security.temporary()
        key.touch(mode=0o600)
        key.write_text(made.tls_worker_key)
        write_atomic(certificate, made.tls_worker_cert)
    return key_files(folder)


def key_files(folder: Path) -> Any:
    """Name the files of the keys, as Dask wants them; they need not be there yet."""
    from distributed import Security

    certificate, key = str(folder / _CERTIFICATE), str(folder / _KEY)
    pairs = {f"tls_{role}_cert": certificate for role in ("client", "scheduler", "worker")}
    pairs |= {f"tls_{role}_key": key for role in ("client", "scheduler", "worker")}
    return Security(tls_ca_file=certificate, require_encryption=True, **pairs)


def tell_address(folder: Path, address: str) -> None:
    """Leave the address of a driver's scheduler for its jobs."""
    write_atomic(folder / ADDRESS, json.dumps({"address": address}))


def forget_driver(folder: Path) -> None:
    """Take address and keys away: whatever job is left ends."""
    for name in (ADDRESS, _CERTIFICATE, _KEY):
        (folder / name).unlink(missing_ok=True)


def jobs_left(prefix: str, site: Site) -> dict[str, str]:
    """Names, by id, of the jobs that an earlier driver left and that fit the site; others are cancelled.

    Those that are ending already are left out.

    Raises
    ------
    ResourceError
        SLURM does not answer.
    """
    found = {job_id: name for job_id, state, name in jobs_named(prefix) if state != "COMPLETING"}
    strange = [job_id for job_id, name in found.items() if kind_of(name).resource not in site.resources]
    if strange:
        ask(("scancel", *strange))
    return {job_id: name for job_id, name in found.items() if job_id not in strange}


class LeftJobs:
    """Jobs that an earlier driver left: asked for in a thread, as a SLURM that does not answer is waited for.

    It is asked after ``wait_s``. ``found`` is None until it has answered, ``problem`` why it has not,
    ``error`` why it never will.
    """

    def __init__(self, look: Callable[[], Mapping[str, str]], wait_s: float = 0.0) -> None:
        self.found: Mapping[str, str] | None = None
        self.problem = ""
        self.error: ResourceError | None = None
        self._look = look
        self._wait_s = wait_s
        self._closing = threading.Event()
        threading.Thread(target=self._run, name="jobs left", daemon=True).start()

    def close(self) -> None:
        """Ask no more."""
        self._closing.set()

    def _run(self) -> None:
        wait_s, failures = self._wait_s, 0
        while self.found is None and not self._closing.wait(wait_s):
            try:
                self.found = self._look()
            except ResourceError as error:
                if not is_passing(str(error), failures):
                    self.error = error
                    return
                self.problem = str(error)
                logger.warning("SLURM does not answer: %s", error)
            except Exception as error:  # nobody else would ask
                self.problem = f"{type(error).__name__}: {error}"
                logger.exception("SLURM's answer is not understood")
            wait_s, failures = POLL_S, failures + 1


def kind_of(name: str) -> Kind:
    """Kind of the slots in a job of this name."""
    return Kind.parse(name.rpartition(".")[2])


def end_jobs(prefix: str) -> None:
    """Cancel all jobs of this user whose names start with ``prefix``, and wait until they are gone.

    At an end that must not fail: where SLURM does not answer, a job ends itself without its driver.
    """
    deadline = time.monotonic() + _GONE_WITHIN_S
    try:
        while found := jobs_named(prefix):
            ask(("scancel", *(job_id for job_id, _, _ in found)))
            if time.monotonic() > deadline:
                logger.warning("%d jobs %s... do not go", len(found), prefix)
                return
            time.sleep(_LOOK_AGAIN_S)
    except ResourceError as error:
        logger.warning("jobs %s... may be left, for a minute or two: %s", prefix, error)
