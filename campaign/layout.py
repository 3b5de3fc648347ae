"""Where everything lies in a campaign directory, and the one way to write a file there.

All paths inside a campaign are relative to its directory, so it can be moved. Nothing half-written is ever
visible: files are written beside their place, fsynced and renamed.
"""

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

FORMAT_VERSION = 1

_libc = ctypes.CDLL(None, use_errno=True)  # Python has no syncfs


@dataclass(frozen=True)
class Layout:
    """Paths of one campaign directory."""

    root: Path

    @property
    def identity(self) -> Path:
        """``campaign.json``: name, format version, time of creation."""
        return self.root / "campaign.json"

    @property
    def spec(self) -> Path:
        """The text of the spec as it was last run."""
        return self.root / "spec.yaml"

    @property
    def plan(self) -> Path:
        """``plan.json``: runs, labels and stage ids of the spec as it was last run."""
        return self.root / "plan.json"

    @property
    def ledger(self) -> Path:
        """SQLite; only the driver opens it for writing."""
        return self.root / "ledger.sqlite"

    @property
    def lock(self) -> Path:
        """``flock`` of the driver."""
        return self.root / "driver.lock"

    @property
    def status(self) -> Path:
        """``status.json``: snapshot, replaced atomically every second or so."""
        return self.root / "status.json"

    @property
    def requests(self) -> Path:
        """Requests (``stop-*.json``, ``retry-*.json``) that the driver applies and removes."""
        return self.root / "requests"

    @property
    def stages(self) -> Path:
        """Committed stages."""
        return self.root / "stages"

    @property
    def segments(self) -> Path:
        """Committed segments of stages that are not finished."""
        return self.root / "segments"

    @property
    def attempts(self) -> Path:
        """Working directories of attempts; on the file system of ``stages``, so that a rename commits."""
        return self.root / "attempts"

    @property
    def jobs(self) -> Path:
        """Output of the jobs of a cluster, and the keys of their connections; readable by the user only."""
        return self.root / "jobs"

    @property
    def driver_job(self) -> Path:
        """The last job that was submitted for a driver, its site and the campaign's name."""
        return self.jobs / "driver.json"

    @property
    def store(self) -> Path:
        """Zarr results."""
        return self.root / "results.zarr"

    @property
    def report(self) -> Path:
        """Self-contained HTML report."""
        return self.root / "report.html"

    @property
    def log(self) -> Path:
        """Log of the driver."""
        return self.root / "driver.log"

    def stage(self, stage_id: str) -> Path:
        """Directory of a committed stage; it exists only when the stage is committed."""
        return self.stages / stage_id[:2] / stage_id

    def segments_of(self, stage_id: str) -> Path:
        """Directory of a stage's committed segments, ``0001`` and so on."""
        return self.segments / stage_id[:2] / stage_id

    def attempt(self, attempt_id: str) -> Path:
        """Working directory of an attempt."""
        return self.attempts / attempt_id


def fsync_directory(path: Path) -> None:
    """Make a rename inside ``path`` durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_filesystem(path: Path) -> None:
    """Put all that was written to a file system on disk: one wait for many small files."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _libc.syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(descriptor)


def write_atomic(path: Path, data: bytes | str, *, durable: bool = True) -> None:
    """Write a file so that readers see the old or the new content, never a part.

    ``durable=False`` skips the fsync, for snapshots that may be lost in a power failure.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with aside.open("wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    aside.replace(path)
    if durable:
        fsync_directory(path.parent)
