"""Requests that others leave for the driver as files: ``stop``, ``retry``, and its successor's ``handover``.

A driver applies and removes them. Where no driver runs, a ``retry`` waits for the next one; an old ``stop``
is dropped, because starting a driver says the opposite.
"""

import json
import socket
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from campaign.errors import LedgerError
from campaign.execution.lock import current_holder
from campaign.layout import Layout, write_atomic
from campaign.plan_file import read_status

RUNNING, STOPPING, HANDING_OVER = "running", "stopping", "handing over"
DRIVING = {RUNNING, STOPPING, HANDING_OVER}
"""States in a snapshot of a driver that is at work."""

SUBMITTED, HANDED_OVER = "submitted", "handed over"
AWAITED = {SUBMITTED, HANDED_OVER}
"""States in a snapshot after which a driver in a job is to begin."""

FOLLOWS_WITHIN_S = 24 * 3600.0
"""A driver that should have followed by now was not put into the queue, or waits there for very long."""

SILENT_S = 30.0
"""A driver on another host whose picture is older than this may be dead."""

Kind = Literal["stop", "retry", "handover"]


@dataclass(frozen=True)
class Request:
    """A request: ``payload`` of a ``retry`` is ``{"stages": [ids]}``, that of the others is empty."""

    kind: Kind
    payload: dict[str, Any]
    path: Path


def write_request(layout: Layout, kind: Kind, payload: dict[str, Any]) -> Path:
    """Leave a request for the driver."""
    layout.requests.mkdir(exist_ok=True)
    # The time orders requests, the random part keeps two of the same moment apart.
    path = layout.requests / f"{kind}-{time.time_ns()}-{uuid.uuid4().hex[:8]}.json"
    write_atomic(path, json.dumps(payload))
    return path


def read_requests(layout: Layout) -> list[Request]:
    """Read the requests in the order in which they were made; other files are left alone."""
    found = []
    kinds: tuple[Kind, ...] = get_args(Kind)
    for kind in kinds:
        for path in layout.requests.glob(f"{kind}-*.json"):
            try:
                payload = json.loads(path.read_text())
            except (OSError, ValueError):
                continue
            if isinstance(payload, dict):
                found.append(Request(kind, payload, path))
    return sorted(found, key=lambda request: request.path.name.split("-")[1])


def age_s(snapshot: Mapping[str, Any]) -> float:
    """Seconds since a snapshot was written, by the clock of this host."""
    return (datetime.now(UTC) - datetime.fromisoformat(snapshot["updated"])).total_seconds()


def driver_is_alive(layout: Layout) -> bool:
    """Whether a driver holds the campaign: on this host by its lock, elsewhere by a picture that is new."""
    if current_holder(layout.lock) is not None:
        return True
    snapshot = read_status(layout.status)
    if snapshot is None or snapshot["driver"]["state"] not in DRIVING:
        return False
    return snapshot["driver"]["host"] != socket.gethostname() and age_s(snapshot) <= SILENT_S


def driver_is_awaited(layout: Layout, snapshot: Mapping[str, Any]) -> bool:
    """Whether a driver's job was submitted that has not begun to drive: the first, or that of a successor."""
    job, driver = driver_job(layout), snapshot["driver"]
    if job is None or age_s(snapshot) > FOLLOWS_WITHIN_S:
        return False
    return driver["state"] in AWAITED or (driver["state"] in DRIVING and driver.get("job") != job["job"])


def driver_job(layout: Layout) -> dict[str, str] | None:
    """Tell the last ``job`` that was submitted for a driver, its ``site`` and the ``campaign``.

    None where the last driver has ended its work, or is in no job.

    Raises
    ------
    LedgerError
        The file that tells it is damaged.
    """
    try:
        found: dict[str, str] = json.loads(layout.driver_job.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        found = {}
    if not isinstance(found, dict) or not {"job", "site", "campaign"} <= found.keys():
        raise LedgerError("the file is damaged", where=str(layout.driver_job), hint="remove it")
    return found
