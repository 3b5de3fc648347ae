"""One driver for each campaign on this host: a lock that the kernel gives back however its holder dies."""

import fcntl
import json
from dataclasses import asdict
from pathlib import Path
from typing import IO

from campaign.errors import BusyError
from campaign.ledger import Holder


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
        """
        file = self.path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _read_holder(file)
            file.close()
            who = "another driver" if holder is None else str(holder)
            raise BusyError(
                f"the campaign is held by {who}", where=str(self.path.parent), hint="wait, or `campaign stop`"
            ) from error
        holder = Holder.this_process()
        file.truncate(0)
        file.write(json.dumps(asdict(holder)))
        file.flush()
        self._file = file
        return holder

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
    """Return the driver that holds ``lock`` on this host, or None."""
    try:
        file = lock.open("r")
    except FileNotFoundError:
        return None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return _read_holder(file) or Holder("unknown", 0, "unknown")
    return None
