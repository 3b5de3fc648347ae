"""The ledger's file, and who may write it: one SQLite file that only the driver opens for writing.

Rollback journal (WAL must not be shared between hosts), ``synchronous=FULL``, grouped commits. Every write is
in a transaction that checks the epoch: a driver whose campaign was taken over ends itself.
"""

import logging
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from campaign.errors import BusyError, LedgerError, ResourceError, TakenOverError
from campaign.layout import Layout
from campaign.ledger.records import Holder, utc_now

logger = logging.getLogger(__name__)

LEDGER_FORMAT = 3
LEASE_LOST_AFTER_S = 60.0
"""Time without a heartbeat after which a driver on another host counts as dead; on one host a lock tells."""

WATCH_S = 2.0

_SCHEMA = (
    """CREATE TABLE stages(
        id TEXT PRIMARY KEY, kind TEXT NOT NULL, protocol TEXT NOT NULL, engine TEXT, potential TEXT,
        atoms INTEGER NOT NULL, steps INTEGER NOT NULL,
        state TEXT NOT NULL CHECK(state IN ('pending', 'running', 'done', 'failed')),
        attempts INTEGER NOT NULL DEFAULT 0, failure_class TEXT, message TEXT) WITHOUT ROWID""",
    # `segments` and `steps` are what the attempt itself committed. `counted` is whether a failure counts
    # against the budget of its class; a retry forgives.
    """CREATE TABLE attempts(
        number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, stage_id TEXT NOT NULL REFERENCES stages(id),
        epoch INTEGER NOT NULL,
        state TEXT NOT NULL CHECK(state IN ('running', 'done', 'failed', 'cancelled')),
        slot TEXT NOT NULL, job TEXT, host TEXT, pid INTEGER, submitted TEXT NOT NULL, started TEXT,
        finished TEXT, wall_s REAL, segments INTEGER NOT NULL DEFAULT 0,
        steps INTEGER NOT NULL DEFAULT 0, failure_class TEXT, message TEXT, log_tail TEXT,
        counted INTEGER NOT NULL DEFAULT 1)""",
    "CREATE INDEX attempts_of_stage ON attempts(stage_id)",
    "CREATE INDEX running_stages ON stages(state) WHERE state IN ('running', 'failed')",
    """CREATE TABLE epochs(
        epoch INTEGER PRIMARY KEY, host TEXT NOT NULL, pid INTEGER NOT NULL, since TEXT NOT NULL,
        heartbeat TEXT NOT NULL, released INTEGER NOT NULL DEFAULT 0)""",
    f"PRAGMA user_version = {LEDGER_FORMAT}",
)


class LedgerFile:
    """The open file: one writer, which holds a lease, and transactions that check it."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        self._epoch: int | None = None
        self._in_transaction = False

    @classmethod
    def open(cls, layout: Layout, *, read_only: bool = False) -> Self:
        """Open the ledger of a campaign; make it where there is none, unless ``read_only``.

        Raises
        ------
        BusyError
            Another process writes it just now.
        LedgerError
            No ledger, not a ledger, or one of an unknown version; the file is left as it is.
        """
        path = layout.ledger
        exists = path.exists() and path.stat().st_size > 0
        if not exists and read_only:
            raise LedgerError(
                "no ledger here", where=str(path), hint="start the campaign with `campaign run SPEC`"
            )
        try:
            if exists:
                _check_format(path)
            connection = _connect(path, writable=not read_only)
            if not exists:
                _create(connection)
        except sqlite3.Error as error:
            _raise_if_locked(error, path)
            raise LedgerError(
                f"cannot be used: {error}",
                where=str(path),
                hint="nothing was touched; `campaign rebuild` makes it again",
            ) from error
        return cls(connection, path)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def epoch(self) -> int | None:
        """Number of this driver among all that held the campaign; None before `acquire`."""
        return self._epoch

    def acquire(
        self,
        holder: Holder,
        *,
        wait: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> int:
        """Become the driver: a new epoch. The caller holds the `DriverLock`, which decides on one host.

        A driver on another host that did not say that it ended is watched: if its heartbeat moves, it is
        alive; if it rests for `LEASE_LOST_AFTER_S`, it is dead. No two clocks are compared, so clocks that
        differ or jump decide nothing. ``wait`` and ``clock`` are the passing of time, in seconds.

        Raises
        ------
        BusyError
            A driver on another host is alive, or writes just now.
        """
        watched, since = None, clock()
        while True:
            with self._write():
                row = self._connection.execute(
                    "SELECT epoch, host, pid, since, heartbeat, released FROM epochs "
                    "ORDER BY epoch DESC LIMIT 1"
                ).fetchone()
                elsewhere = row is not None and not row["released"] and row["host"] != holder.host
                if not elsewhere or (watched == tuple(row) and clock() - since > LEASE_LOST_AFTER_S):
                    self._epoch = self._new_epoch(holder, 0 if row is None else int(row["epoch"]))
                    return self._epoch
            other = Holder(row["host"], row["pid"], row["since"])
            if watched is None:
                watched = tuple(row)
                logger.warning(
                    "%s held the campaign last; waiting up to %g s to see whether it is alive",
                    other,
                    LEASE_LOST_AFTER_S,
                )
            elif watched != tuple(row):
                raise BusyError(f"the campaign is held by {other}", where=str(self._path.parent))
            wait(WATCH_S)

    def _new_epoch(self, holder: Holder, last: int) -> int:
        self._connection.execute(
            "INSERT INTO epochs(epoch, host, pid, since, heartbeat) VALUES (?, ?, ?, ?, ?)",
            (last + 1, holder.host, holder.pid, holder.since, utc_now()),
        )
        return last + 1

    def heartbeat(self) -> None:
        """Say that this driver is alive."""
        with self.transaction():
            self._connection.execute(
                "UPDATE epochs SET heartbeat = ? WHERE epoch = ?", (utc_now(), self._epoch)
            )

    def release(self) -> None:
        """End this epoch: another host need not wait."""
        with self.transaction():
            self._connection.execute("UPDATE epochs SET released = 1 WHERE epoch = ?", (self._epoch,))

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Group writes into one durable commit; all or nothing. Nested uses join the outer one.

        Raises
        ------
        TakenOverError
            This driver no longer holds the campaign; nothing is written.
        """
        if self._in_transaction:
            yield
            return
        with self._write():
            row = self._connection.execute(
                "SELECT epoch, host, pid, since FROM epochs ORDER BY epoch DESC LIMIT 1"
            ).fetchone()
            if self._epoch is None or row is None or row["epoch"] != self._epoch:
                who = "nobody" if row is None else str(Holder(row["host"], row["pid"], row["since"]))
                raise TakenOverError(
                    f"this driver does not hold the campaign, {who} does",
                    where=str(self._path.parent),
                    hint="`campaign status` shows what that one does; what was finished is kept",
                )
            self._in_transaction = True
            try:
                yield
            finally:
                self._in_transaction = False

    @contextmanager
    def _write(self) -> Iterator[None]:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            yield
            self._connection.execute("COMMIT")
        except sqlite3.OperationalError as error:  # a full disk, an I/O error, a file that another one locks
            self._roll_back()
            if self._epoch is None:
                _raise_if_locked(error, self._path)
            raise ResourceError(
                f"cannot write: {error}", where=str(self._path), hint="what was finished is kept"
            ) from error
        except BaseException:
            self._roll_back()
            raise

    def _roll_back(self) -> None:
        if self._connection.in_transaction:  # SQLite may have done it already
            self._connection.execute("ROLLBACK")


def _raise_if_locked(error: sqlite3.Error, path: Path) -> None:
    """Say that another process holds the file, if that is all: it tells nothing against the file."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the other bits say more of the same
    if code == sqlite3.SQLITE_BUSY:
        raise BusyError("a driver writes the ledger", where=str(path), hint="try again") from error


def _connect(path: Path, *, writable: bool) -> sqlite3.Connection:
    mode = "rwc" if writable else "ro"
    connection = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode={mode}", uri=True, timeout=10, isolation_level=None
    )
    connection.row_factory = sqlite3.Row
    if writable:
        connection.execute("PRAGMA journal_mode = TRUNCATE")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
    return connection


def _check_format(path: Path) -> None:
    try:
        connection = _connect(path, writable=False)
        found = connection.execute("PRAGMA user_version").fetchone()[0]
    except sqlite3.OperationalError:
        # A driver was killed inside a commit: its journal has to be rolled back, which needs a writable file.
        connection = _connect(path, writable=True)
        found = connection.execute("PRAGMA user_version").fetchone()[0]
    connection.close()
    if found != LEDGER_FORMAT:
        raise LedgerError(
            f"ledger of format {found} is unknown to this version, which writes {LEDGER_FORMAT}",
            where=str(path),
            hint="nothing was touched; use the version of campaign that made it, or `campaign rebuild`",
        )


def _create(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN EXCLUSIVE")
    for statement in _SCHEMA:
        connection.execute(statement)
    connection.execute("COMMIT")
