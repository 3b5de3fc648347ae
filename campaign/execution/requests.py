"""Requests that other commands leave for the driver as files: ``stop`` and ``retry``.

A driver applies and removes them. Where no driver runs, a ``retry`` waits for the next one; an old ``stop``
is dropped, because starting a driver says the opposite.
"""

import json
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from campaign.execution.lock import current_holder
from campaign.layout import Layout, write_atomic

Kind = Literal["stop", "retry"]


@dataclass(frozen=True)
class Request:
    """A request: ``payload`` of a ``retry`` is ``{"stages": [ids]}``, that of a ``stop`` is empty."""

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
    kinds: tuple[Kind, ...] = ("stop", "retry")
    for kind in kinds:
        for path in layout.requests.glob(f"{kind}-*.json"):
            try:
                payload = json.loads(path.read_text())
            except (OSError, ValueError):
                continue
            if isinstance(payload, dict):
                found.append(Request(kind, payload, path))
    return sorted(found, key=lambda request: request.path.name.split("-")[1])


def driver_is_alive(layout: Layout) -> bool:
    """Whether a driver on this host holds the campaign."""
    return current_holder(layout.lock) is not None
