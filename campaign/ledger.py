"""The durable record of stages and attempts: one SQLite file that only the driver opens for writing.

Rollback journal (WAL must not be shared between hosts), ``synchronous=FULL``, grouped commits. Four states
are stored; ready and blocked follow from them::

    pending -> running       begin      the intent, committed before the attempt is submitted
    running -> done          commit     the stage's directory is there
    running -> pending       fail(again=True), and reconcile after the death of a driver
    running -> failed        fail(again=False)
    failed  -> pending       retry

Every write is in a transaction that checks the epoch: a driver whose campaign was taken over ends itself.
"""

import logging
import os
import socket
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Self

from campaign.errors import BusyError, FailureClass, LedgerError, ResourceError
from campaign.layout import Layout
from campaign.plan import StageSummary

logger = logging.getLogger(__name__)

State = Literal["pending", "running", "done", "failed"]

LEDGER_FORMAT = 2
LEASE_LOST_AFTER_S = 60.0
"""Time without a heartbeat after which a driver on another host counts as dead; on one host a lock tells."""

WATCH_S = 2.0

DRIVER_DIED = "the driver ended while this attempt was running"

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
        slot TEXT NOT NULL, host TEXT, pid INTEGER, submitted TEXT NOT NULL, started TEXT, finished TEXT,
        wall_s REAL, segments INTEGER NOT NULL DEFAULT 0,
        steps INTEGER NOT NULL DEFAULT 0, failure_class TEXT, message TEXT, log_tail TEXT,
        counted INTEGER NOT NULL DEFAULT 1)""",
    "CREATE INDEX attempts_of_stage ON attempts(stage_id)",
    "CREATE INDEX running_stages ON stages(state) WHERE state IN ('running', 'failed')",
    """CREATE TABLE epochs(
        epoch INTEGER PRIMARY KEY, host TEXT NOT NULL, pid INTEGER NOT NULL, since TEXT NOT NULL,
        heartbeat TEXT NOT NULL, released INTEGER NOT NULL DEFAULT 0)""",
    f"PRAGMA user_version = {LEDGER_FORMAT}",
)


def utc_now() -> str:
    """Tell the time as ISO 8601 in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True)
class Holder:
    """A driver: where it runs and since when."""

    host: str
    pid: int
    since: str

    @classmethod
    def this_process(cls) -> Self:
        """Name the calling process, as of now."""
        return cls(socket.gethostname(), os.getpid(), utc_now())

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"


@dataclass(frozen=True)
class Attempt:
    """One attempt as the ledger tells it; times as ISO 8601 in UTC.

    ``segments`` and ``steps`` (MD steps) are what it committed.
    """

    id: str
    stage_id: str
    epoch: int
    state: str
    slot: str
    host: str | None
    pid: int | None
    submitted: str
    started: str | None
    finished: str | None
    wall_s: float | None
    segments: int
    steps: int
    failure_class: str | None
    message: str | None
    log_tail: str | None

    def as_dict(self) -> dict[str, object]:
        """Plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Ending:
    """What is known of an attempt when it ended; what nobody saw is None.

    ``segments`` and ``steps`` (MD steps) are what it committed of its stage.
    """

    started: str | None = None
    finished: str | None = None
    host: str | None = None
    pid: int | None = None
    wall_s: float | None = None
    segments: int = 0
    steps: int = 0


_ATTEMPT_COLUMNS = ", ".join(Attempt.__dataclass_fields__)


class Ledger:
    """The open ledger. Writing needs `acquire` first; see the module for the states and their transitions."""

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
            A driver on another host is alive.
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
        LedgerError
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
                raise LedgerError(
                    f"this driver does not hold the campaign, {who} does", where=str(self._path.parent)
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
            raise ResourceError(
                f"cannot write: {error}", where=str(self._path), hint="what was finished is kept"
            ) from error
        except BaseException:
            self._roll_back()
            raise

    def _roll_back(self) -> None:
        if self._connection.in_transaction:  # SQLite may have done it already
            self._connection.execute("ROLLBACK")

    # Writing

    def register(self, stages: Iterable[StageSummary]) -> None:
        """Add stages as pending; those that are known stay as they are."""
        with self.transaction():
            self._connection.executemany(
                "INSERT OR IGNORE INTO stages(id, kind, protocol, engine, potential, atoms, steps, state) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, 'pending')",
                ((s.id, s.kind, s.protocol, s.engine, s.potential, s.atoms, s.steps) for s in stages),
            )

    def begin(self, placements: Iterable[tuple[str, str]]) -> list[str]:
        """Record the intent to run stages, given as (stage id, slot); return the ids of the attempts.

        An attempt's id is the name of its directory: the stage's first digits, the number of the attempt, and
        random digits, so that it cannot meet a directory that a lost ledger knew.
        """
        attempt_ids = []
        with self.transaction():
            for stage_id, slot in placements:
                self._move(stage_id, "pending", "running")
                number = self._connection.execute(
                    "UPDATE stages SET attempts = attempts + 1 WHERE id = ? RETURNING attempts", (stage_id,)
                ).fetchone()["attempts"]
                attempt_id = f"{stage_id[:16]}-{number}-{os.urandom(3).hex()}"
                self._connection.execute(
                    "INSERT INTO attempts(id, stage_id, epoch, state, slot, submitted) "
                    "VALUES (?, ?, ?, 'running', ?, ?)",
                    (attempt_id, stage_id, self._epoch, slot, utc_now()),
                )
                attempt_ids.append(attempt_id)
        return attempt_ids

    def started(self, attempt_id: str, host: str, pid: int, started: str) -> None:
        """Record where and when a worker took the attempt up."""
        with self.transaction():
            self._connection.execute(
                "UPDATE attempts SET host = ?, pid = ?, started = ? WHERE id = ? AND state = 'running'",
                (host, pid, started, attempt_id),
            )

    def progressed(self, attempt_id: str, work: Ending) -> None:
        """Record what a running attempt has committed so far, and the time that took."""
        with self.transaction():
            self._connection.execute(
                "UPDATE attempts SET segments = ?, steps = ?, wall_s = ? WHERE id = ? AND state = 'running'",
                (work.segments, work.steps, work.wall_s, attempt_id),
            )

    def commit(self, attempt_id: str, ending: Ending | None = None) -> None:
        """Record that the attempt's stage is committed on disk: it is done."""
        with self.transaction():
            self._move(self._end(attempt_id, "done", ending or Ending()), "running", "done")

    def fail(
        self,
        attempt_id: str,
        failure_class: FailureClass,
        message: str,
        *,
        again: bool,
        counted: bool = True,
        log_tail: str = "",
        ending: Ending | None = None,
    ) -> None:
        """Record an end without a committed stage, which goes back to pending (``again``) or is failed.

        ``counted`` is whether it counts against the budget of its class. A cancelled attempt never counts.
        """
        cancelled = failure_class == FailureClass.CANCELLED
        with self.transaction():
            stage_id = self._end(attempt_id, "cancelled" if cancelled else "failed", ending or Ending())
            self._connection.execute(
                "UPDATE attempts SET failure_class = ?, message = ?, log_tail = ?, counted = ? WHERE id = ?",
                (failure_class, message, log_tail, counted and not cancelled, attempt_id),
            )
            self._move(stage_id, "running", "pending" if again else "failed")
            if not again:
                self._connection.execute(
                    "UPDATE stages SET failure_class = ?, message = ? WHERE id = ?",
                    (failure_class, message, stage_id),
                )

    def reconcile(
        self, committed: Callable[[str], bool], work_of: Callable[[str, str], Ending]
    ) -> Counter[str]:
        """Settle what an earlier driver left running: done if committed on disk, else pending.

        Looks only at stages that the ledger holds as running. ``work_of`` tells what an attempt, by the ids
        of stage and attempt, has committed. The death of a driver is no fault of the stage: it costs no
        budget.

        Returns
        -------
        Counter
            How many stages are ``done`` and ``pending`` now.
        """
        settled: Counter[str] = Counter()
        with self.transaction():
            rows = self._connection.execute(
                "SELECT id, stage_id FROM attempts WHERE state = 'running'"
            ).fetchall()
            for row in rows:
                if committed(row["stage_id"]):
                    self.commit(row["id"])
                    settled["done"] += 1
                else:
                    self.fail(
                        row["id"],
                        FailureClass.LOST_WORKER,
                        DRIVER_DIED,
                        again=True,
                        counted=False,
                        ending=work_of(row["stage_id"], row["id"]),
                    )
                    settled["pending"] += 1
        return settled

    def retry(self, stage_ids: Iterable[str]) -> list[str]:
        """Set failed stages back to pending with a fresh budget; return those that were failed."""
        again = []
        with self.transaction():
            for stage_id in stage_ids:
                changed = self._connection.execute(
                    "UPDATE stages SET state = 'pending', failure_class = NULL, message = NULL "
                    "WHERE id = ? AND state = 'failed'",
                    (stage_id,),
                )
                if changed.rowcount:
                    self._connection.execute(
                        "UPDATE attempts SET counted = 0 WHERE stage_id = ?", (stage_id,)
                    )
                    again.append(stage_id)
        return again

    def forget(self, stage_ids: Iterable[str]) -> None:
        """Set done stages whose directories are gone back to pending."""
        with self.transaction():
            for stage_id in stage_ids:
                self._move(stage_id, "done", "pending")

    def restore(self, finished: Iterable[tuple[str, str | None, Ending]]) -> None:
        """Set registered stages to done, each with the attempt that its manifest names, for a rebuild.

        ``finished`` has the stage's id, the attempt's id and how it ended; no attempt where only results are
        left of a stage.
        """
        with self.transaction():
            for stage_id, attempt_id, ending in finished:
                self._connection.execute("UPDATE stages SET state = 'done' WHERE id = ?", (stage_id,))
                if attempt_id is None:
                    continue
                self._connection.execute("UPDATE stages SET attempts = 1 WHERE id = ?", (stage_id,))
                started = ending.started or utc_now()
                self._connection.execute(
                    "INSERT INTO attempts(id, stage_id, epoch, state, slot, host, submitted, started, "
                    "finished, wall_s, segments, steps) VALUES (?, ?, ?, 'done', '', ?, ?, ?, ?, ?, ?, ?)",
                    (
                        attempt_id,
                        stage_id,
                        self._epoch,
                        ending.host,
                        started,
                        started,
                        ending.finished,
                        ending.wall_s,
                        ending.segments,
                        ending.steps,
                    ),
                )

    def _move(self, stage_id: str, old: State, new: State) -> None:
        changed = self._connection.execute(
            "UPDATE stages SET state = ? WHERE id = ? AND state = ?", (new, stage_id, old)
        )
        if changed.rowcount != 1:
            row = self._connection.execute("SELECT state FROM stages WHERE id = ?", (stage_id,)).fetchone()
            found = "unknown" if row is None else row["state"]
            raise LedgerError(f"stage {stage_id} is {found}, so it cannot go from {old} to {new}")

    def _end(self, attempt_id: str, state: str, ending: Ending) -> str:
        row = self._connection.execute(
            "UPDATE attempts SET state = ?, started = coalesce(?, started), finished = ?, "
            "host = coalesce(?, host), pid = coalesce(?, pid), wall_s = coalesce(?, wall_s), "
            "segments = max(segments, ?), steps = max(steps, ?) "
            "WHERE id = ? AND state = 'running' RETURNING stage_id",
            (
                state,
                ending.started,
                ending.finished or utc_now(),
                ending.host,
                ending.pid,
                ending.wall_s,
                ending.segments,
                ending.steps,
                attempt_id,
            ),
        ).fetchone()
        if row is None:
            raise LedgerError(f"attempt {attempt_id} is not running")
        return str(row["stage_id"])

    # Reading

    def states(self) -> dict[str, State]:
        """State of every stage by id."""
        return {row[0]: row[1] for row in self._connection.execute("SELECT id, state FROM stages")}

    def state(self, stage_id: str) -> State | None:
        """State of one stage; None if the ledger does not know it."""
        row = self._connection.execute("SELECT state FROM stages WHERE id = ?", (stage_id,)).fetchone()
        return None if row is None else row["state"]

    def counts(self) -> Counter[str]:
        """Count the stages in each state."""
        rows = self._connection.execute("SELECT state, count(*) FROM stages GROUP BY state")
        return Counter({row[0]: row[1] for row in rows})

    def attempts(self, stage_id: str) -> list[Attempt]:
        """All attempts of a stage, the first one first."""
        rows = self._connection.execute(
            f"SELECT {_ATTEMPT_COLUMNS} FROM attempts WHERE stage_id = ? ORDER BY number",  # noqa: S608  # constant
            (stage_id,),
        )
        return [Attempt(**dict(row)) for row in rows]

    def failures(self, stage_id: str) -> Counter[str]:
        """Failed attempts of a stage that count against the budget, by class."""
        rows = self._connection.execute(
            "SELECT failure_class, count(*) FROM attempts "
            "WHERE stage_id = ? AND state = 'failed' AND counted GROUP BY failure_class",
            (stage_id,),
        )
        return Counter({row[0]: row[1] for row in rows})

    def outcomes(self) -> Counter[str]:
        """Count all attempts by state; failed ones by their class, as in ``failed (physics)``."""
        rows = self._connection.execute(
            "SELECT state, CASE state WHEN 'failed' THEN failure_class END AS class, count(*) "
            "FROM attempts GROUP BY state, class ORDER BY state, class"
        )
        return Counter({f"{state} ({kind})" if state == "failed" else state: n for state, kind, n in rows})

    def failed(self) -> dict[str, Attempt]:
        """Find the last attempt of every failed stage, in the order in which they failed."""
        rows = self._connection.execute(
            f"SELECT {_ATTEMPT_COLUMNS}, max(number) FROM attempts "  # noqa: S608  # constant
            "WHERE stage_id IN (SELECT id FROM stages WHERE state = 'failed') "
            "GROUP BY stage_id ORDER BY max(number)"
        )
        return {row["stage_id"]: Attempt(**dict(zip(row.keys()[:-1], row, strict=False))) for row in rows}

    def endings(self) -> Iterator[tuple[str, str | None]]:
        """Tell how stages ended, in order: id of each done or failed one, its failure class or None."""
        rows = self._connection.execute(
            "SELECT stage_id, attempts.failure_class, max(number) FROM attempts "
            "JOIN stages ON stages.id = attempts.stage_id "
            "WHERE stages.state IN ('done', 'failed') GROUP BY stage_id ORDER BY max(number)"
        )
        return ((row[0], row[1]) for row in rows)

    def ended(self, attempt_ids: Iterable[str]) -> list[str]:
        """Find those of ``attempt_ids`` that ended and whose stage is not failed: nobody needs them."""
        query = (
            "SELECT 1 FROM attempts JOIN stages ON stages.id = attempts.stage_id "
            "WHERE attempts.id = ? AND attempts.state != 'running' AND stages.state != 'failed'"
        )
        return [item for item in attempt_ids if self._connection.execute(query, (item,)).fetchone()]

    def speeds(self) -> Mapping[tuple[str, str | None], float]:
        """Measured speed in atom-step/s by engine and potential, over all that was committed."""
        rows = self._connection.execute(
            "SELECT engine, potential, sum(CAST(atoms AS REAL) * attempts.steps) / sum(wall_s) FROM attempts "
            "JOIN stages ON stages.id = attempts.stage_id "
            "WHERE attempts.steps > 0 AND wall_s > 0 AND engine IS NOT NULL "
            "GROUP BY engine, potential"
        )
        return {(row[0], row[1]): row[2] for row in rows}


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
