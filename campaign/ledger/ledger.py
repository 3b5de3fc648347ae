"""Stages and attempts, and what may become of them.

Four states are stored; ready and blocked follow from them::

    pending -> running       begin      the intent, committed before the attempt is submitted
    running -> done          commit     the stage's directory is there
    running -> pending       fail(again=True), and reconcile after the death of a driver
    running -> failed        fail(again=False)
    failed  -> pending       retry
    done    -> pending       forget     its directory is gone
"""

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

from campaign.compare import Measured
from campaign.errors import FailureClass, LedgerError
from campaign.ledger.file import LedgerFile
from campaign.ledger.records import Attempt, DriverLife, Ending, State, utc_now
from campaign.plan import StageSummary

DRIVER_DIED = "the driver ended while this attempt was running"

_ATTEMPT_COLUMNS = ", ".join(Attempt.__dataclass_fields__)


class Ledger(LedgerFile):
    """The open ledger. Writing needs `acquire` first; see the module for the states and their transitions."""

    # Writing

    def register(self, stages: Iterable[StageSummary]) -> None:
        """Add stages as pending; those that are known stay as they are."""
        with self.transaction():
            self._connection.executemany(
                "INSERT OR IGNORE INTO stages(id, kind, protocol, engine, potential, atoms, steps, state) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, 'pending')",
                ((s.id, s.kind, s.protocol, s.engine, s.potential, s.atoms, s.steps) for s in stages),
            )

    def begin(self, placements: Iterable[tuple[str, str, str | None]]) -> list[str]:
        """Record the intent to run stages, as (stage id, slot, job of a cluster); return the attempts' ids.

        An attempt's id is the name of its directory: the stage's first digits, the number of the attempt, and
        random digits, so that it cannot meet a directory that a lost ledger knew.
        """
        attempt_ids = []
        with self.transaction():
            for stage_id, slot, job in placements:
                self._move(stage_id, "pending", "running")
                number = self._connection.execute(
                    "UPDATE stages SET attempts = attempts + 1 WHERE id = ? RETURNING attempts", (stage_id,)
                ).fetchone()["attempts"]
                attempt_id = f"{stage_id[:16]}-{number}-{os.urandom(3).hex()}"
                self._connection.execute(
                    "INSERT INTO attempts(id, stage_id, epoch, state, slot, job, submitted) "
                    "VALUES (?, ?, ?, 'running', ?, ?, ?)",
                    (attempt_id, stage_id, self._epoch, slot, job, utc_now()),
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
                work = work_of(row["stage_id"], row["id"])
                if committed(row["stage_id"]):
                    self.commit(row["id"], work)
                    settled["done"] += 1
                else:
                    self.fail(
                        row["id"],
                        FailureClass.LOST_WORKER,
                        DRIVER_DIED,
                        again=True,
                        counted=False,
                        ending=work,
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
        cursor = self._connection.cursor()
        cursor.row_factory = None  # pairs: half the time, for 10^5 runs
        return dict(cursor.execute("SELECT id, state FROM stages"))

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

    def history(self) -> Iterator[tuple[str, Attempt]]:
        """Kind of stage and attempt, of all attempts, the first one first; without their logs."""
        columns = ", ".join(
            "NULL AS log_tail" if name == "log_tail" else f"attempts.{name}"
            for name in Attempt.__dataclass_fields__
        )
        rows = self._connection.execute(
            f"SELECT stages.kind, {columns} FROM attempts JOIN stages ON stages.id = attempts.stage_id "  # noqa: S608  # constant
            "ORDER BY number"
        )
        return ((kind, Attempt(*values)) for kind, *values in rows)

    def drivers(self) -> list[DriverLife]:
        """All drivers that held the campaign, the first one first."""
        columns = ", ".join(DriverLife.__dataclass_fields__)
        rows = self._connection.execute(f"SELECT {columns} FROM epochs ORDER BY epoch")  # noqa: S608  # constant
        return [DriverLife(*row) for row in rows]

    def failures(self, stage_id: str) -> Counter[str]:
        """Failed attempts of a stage that count against the budget, by class."""
        rows = self._connection.execute(
            "SELECT failure_class, count(*) FROM attempts "
            "WHERE stage_id = ? AND state = 'failed' AND counted GROUP BY failure_class",
            (stage_id,),
        )
        return Counter({row[0]: row[1] for row in rows})

    def counted(self, failure_class: FailureClass) -> Counter[str]:
        """Count the failures of a class that count against its budget, by stage."""
        rows = self._connection.execute(
            "SELECT stage_id, count(*) FROM attempts WHERE failure_class = ? AND counted GROUP BY stage_id",
            (failure_class,),
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

    def measured(self) -> list[Measured]:
        """Speeds as in `speeds`, those in jobs apart from the others, with the spread between attempts."""
        rows = self._connection.execute(
            "SELECT engine, potential, in_jobs, sum(atom_steps) / sum(wall_s), count(*), "
            "avg(atom_steps / wall_s), avg(atom_steps / wall_s * atom_steps / wall_s) FROM ("
            "SELECT engine, potential, job IS NOT NULL AS in_jobs, wall_s, "
            "CAST(atoms AS REAL) * attempts.steps AS atom_steps FROM attempts "
            "JOIN stages ON stages.id = attempts.stage_id "
            "WHERE attempts.steps > 0 AND wall_s > 0 AND engine IS NOT NULL) "
            "GROUP BY engine, potential, in_jobs"
        )
        found = []
        for engine, potential, in_jobs, speed, number, mean, mean_square in rows:
            variance = max(0.0, mean_square - mean**2) * number / max(1, number - 1)
            found.append(
                Measured(engine, potential, bool(in_jobs), speed, number, math.sqrt(variance) / mean)
            )
        return found
