"""One driver for each campaign on this host: a lock that the kernel gives back however its holder dies."""

import errno
import fcntl
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from campaign.errors import BusyError, ResourceError
from campaign.ledger import Holder

PATIENCE_S = 1.0
"""So long a lock is tried for: whoever looks whether a driver lives holds it for a moment."""

_TRY_AGAIN_S = 0.05


def try_lock(file: IO[Any], how: int) -> bool:
    """Take a lock of ``flock`` if it is free.

    Raises
    ------
    OSError
        This file system cannot lock files.
    """
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in {errno.EWOULDBLOCK, errno.EACCES}:
            return False
        raise
    return True


class DriverLock:
    """``flock`` on a file that names its holder; the kernel releases it however the process dies."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[str] | None = None

    def acquire(self) -> Holder:
        """Take the lock.

        Raises
        ------
        BusyError
            Another driver holds it; the message says which.
        ResourceError
            The file system cannot lock files.
        """
        file = self.path.open("a+")
        try:
            self._wait_for(file)
        except BaseException:
            file.close()
            raise
        holder = Holder.this_process()
        file.truncate(0)
        file.write(json.dumps(asdict(holder)))
        file.flush()
        self._file = file
        return holder

    def _wait_for(self, file: IO[str]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        where = str(self.path.parent)
        try:
            while not try_lock(file, fcntl.LOCK_EX):
                if time.monotonic() > deadline:
                    who = _read_holder(file) or "another driver"
                    raise BusyError(
                        f"the campaign is held by {who}", where=where, hint="wait, or `campaign stop`"
                    )
                time.sleep(_TRY_AGAIN_S)
        except OSError as error:
            raise ResourceError(
                f"this file system cannot lock files: {error.strerror}",
                where=where,
                hint="choose another directory with --dir",
            ) from error

    def release(self) -> None:
        """Give the lock back."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Holder:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


def _read_holder(file: IO[str]) -> Holder | None:
    file.seek(0)
    try:
        return Holder(**json.load(file))
    except (ValueError, TypeError):  # between taking the lock and writing the name
        return None


def current_holder(lock: Path) -> Holder | None:
    """Return the driver that holds ``lock`` on this host, or None; none does where files cannot be locked."""
    try:
        file = lock.open("r")
    except FileNotFoundError:
        return None
    with file:
        try:
            free = try_lock(file, fcntl.LOCK_SH)
        except OSError:
            return None
        return None if free else _read_holder(file) or Holder("unknown", 0, "unknown")
