"""``plan.json`` and ``status.json``: written by a driver, read by all other commands.

Plans of 10^5 runs are read by ``campaign status`` within half a second: columns, and nothing heavy imported.
"""

import gc
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from campaign.errors import LedgerError
from campaign.layout import FORMAT_VERSION, write_atomic
from campaign.runs import CalculationPlan, Dimension, Group, Plan, RunTable, StageClass, StageTable

WRITTEN_ANEW = "`campaign run` writes it anew"

_STATUS = {"driver": dict, "updated": str, "states": dict, "failed": dict}
"""What every snapshot holds."""


def save_plan(plan: Plan, path: Path) -> None:
    """Write ``plan.json`` atomically."""
    write_atomic(path, json.dumps(plan_json(plan), separators=(",", ":")))


def plan_json(plan: Plan) -> dict[str, Any]:
    """Plan as plain data, in compact columns."""
    stages = plan.stages
    return {
        "format": FORMAT_VERSION,
        "campaign": plan.campaign,
        "description": plan.description,
        "seed": plan.seed,
        "spec_sha256": plan.spec_sha256,
        "calculations": [
            {
                "name": calculation.name,
                "protocol": calculation.protocol,
                "engine": calculation.engine,
                "dimensions": [asdict(dimension) for dimension in calculation.dimensions],
                "settings": dict(calculation.settings),
                "groups": [asdict(group) for group in calculation.groups],
                "cells": _columns(calculation.runs.cells),
                "run_groups": calculation.runs.groups,
                "stages": _columns(calculation.runs.stages),
            }
            for calculation in plan.calculations
        ],
        "stages": {
            "classes": [asdict(common) for common in stages.classes],
            "ids": " ".join(stages.ids),
            "which": stages.which,
            "needs": _columns(stages.needs),
        },
    }


def load_plan(path: Path) -> Plan:
    """Read ``plan.json``.

    Raises
    ------
    LedgerError
        It is not there, damaged, or of another version.
    """
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise LedgerError(
            "no campaign here", where=str(path.parent), hint="start one with `campaign run SPEC --dir DIR`"
        ) from None
    except (ValueError, RecursionError):
        raise LedgerError("damaged plan", where=str(path), hint=WRITTEN_ANEW) from None
    if not isinstance(data, dict) or "format" not in data:
        raise LedgerError("damaged plan", where=str(path), hint=WRITTEN_ANEW)
    if data.get("format") != FORMAT_VERSION:
        raise LedgerError(
            f"format {data.get('format')} is unknown to this version, which reads {FORMAT_VERSION}",
            where=str(path),
        )
    try:
        with garbage_collection_paused():
            return _plan(data)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        raise LedgerError("damaged plan", where=str(path), hint=WRITTEN_ANEW) from None


def _plan(data: Mapping[str, Any]) -> Plan:
    columns = data["stages"]
    stages = StageTable(
        ids=columns["ids"].split(),
        classes=[StageClass(**raw) for raw in columns["classes"]],
        which=columns["which"],
        needs=_rows(columns["needs"]),
    )
    return Plan(
        campaign=data["campaign"],
        description=data["description"],
        seed=data["seed"],
        spec_sha256=data["spec_sha256"],
        calculations=tuple(_calculation(raw, stages) for raw in data["calculations"]),
        stages=stages,
    )


def read_status(path: Path) -> dict[str, Any] | None:
    """Read ``status.json``; None where no driver has run yet.

    Raises
    ------
    LedgerError
        It is damaged.
    """
    try:
        status = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        status = None
    whole = (
        isinstance(status, dict)
        and all(isinstance(status.get(name), kind) for name, kind in _STATUS.items())
        and all(isinstance(states, str) for states in status["states"].values())
        and all(isinstance(failure, dict) for failure in status["failed"].values())
        and "state" in status["driver"]
    )
    if not whole:
        raise LedgerError("damaged status", where=str(path), hint=WRITTEN_ANEW)
    found: dict[str, Any] = status
    return found


@contextmanager
def garbage_collection_paused() -> Iterator[None]:
    """Pause it while 10^5 small objects that stay are made; looking through them again doubles the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _calculation(raw: Mapping[str, Any], stages: StageTable) -> CalculationPlan:
    dimensions = tuple(
        Dimension(
            name=dimension["name"],
            coordinates={name: tuple(labels) for name, labels in dimension["coordinates"].items()},
            units=dimension["units"],
            keys=dimension.get("keys", {}),
        )
        for dimension in raw["dimensions"]
    )
    runs = RunTable(
        calculation=raw["name"],
        dimensions=dimensions,
        stage_ids=stages.ids,
        cells=_rows(raw["cells"]),
        groups=raw["run_groups"],
        stages=_rows(raw["stages"]),
    )
    groups = tuple(Group(**group) for group in raw["groups"])
    return CalculationPlan(
        raw["name"], raw["protocol"], raw["engine"], dimensions, runs, raw["settings"], groups
    )


_GAP = -1


def _columns(rows: Sequence[tuple[int, ...]]) -> list[list[int]] | int:
    """Rows as a few long columns, which JSON reads much faster; shorter rows are padded with -1 at their end.

    Rows without entries are written as their number.
    """
    width = max(map(len, rows), default=0)
    if not width:
        return len(rows)
    return [[row[i] if i < len(row) else _GAP for row in rows] for i in range(width)]


def _rows(columns: list[list[int]] | int) -> list[tuple[int, ...]]:
    if isinstance(columns, int):
        return [()] * columns
    rows = list(zip(*columns, strict=True))
    if _GAP in columns[-1]:
        return [row if row[-1] != _GAP else tuple([i for i in row if i != _GAP]) for row in rows]
    return rows
