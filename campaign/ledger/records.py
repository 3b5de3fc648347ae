"""What the ledger tells: drivers, attempts, and how they ended."""

import os
import socket
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Literal, Self

State = Literal["pending", "running", "done", "failed"]
"""State of a stage."""


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
class DriverLife:
    """A driver that held the campaign: where, since when, and its last sign of life (ISO 8601 in UTC).

    ``released`` is whether it said that it ended: else it runs, or it died.
    """

    epoch: int
    host: str
    pid: int
    since: str
    heartbeat: str
    released: bool


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
    job: str | None
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
