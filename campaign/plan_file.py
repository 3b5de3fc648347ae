"""``plan.json`` and ``status.json``: written by a driver, read by all other commands.

Plans of 10^5 runs are read by ``campaign status`` within half a second: columns, and nothing heavy imported.
"""

import base64
import gc
import json
import sys
import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from campaign.columns import IndexRows
from campaign.errors import LedgerError
from campaign.layout import FORMAT_VERSION, write_atomic
from campaign.runs import (
    CalculationPlan,
    Dimension,
    Group,
    Plan,
    RunTable,
    StageClass,
    StageTable,
    StructureRow,
)

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
        "made_from": plan.made_from,
        "calculations": [
            {
                "name": calculation.name,
                "protocol": calculation.protocol,
                "engine": calculation.engine,
                "dimensions": [asdict(dimension) for dimension in calculation.dimensions],
                "settings": dict(calculation.settings),
                "groups": [asdict(group) for group in calculation.groups],
                "structures": [asdict(row) for row in calculation.structures],
                "cells": _packed(calculation.runs.cells),
                "run_groups": _text(calculation.runs.groups),
                "stages": _packed(calculation.runs.stages),
            }
            for calculation in plan.calculations
        ],
        "stages": {
            "classes": [asdict(common) for common in stages.classes],
            "ids": " ".join(stages.ids),
            "which": _text(stages.which),
            "needs": _packed(stages.needs),
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
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, zlib.error):
        raise LedgerError("damaged plan", where=str(path), hint=WRITTEN_ANEW) from None


def _plan(data: Mapping[str, Any]) -> Plan:
    columns = data["stages"]
    stages = StageTable(
        ids=columns["ids"].split(),
        classes=[StageClass(**raw) for raw in columns["classes"]],
        which=_numbers(columns["which"]),
        needs=_unpacked(columns["needs"]),
    )
    return Plan(
        campaign=data["campaign"],
        description=data["description"],
        seed=data["seed"],
        spec_sha256=data["spec_sha256"],
        calculations=tuple(_calculation(raw, stages) for raw in data["calculations"]),
        stages=stages,
        made_from=data["made_from"],
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
            keys=dimension["keys"],
        )
        for dimension in raw["dimensions"]
    )
    runs = RunTable(
        calculation=raw["name"],
        dimensions=dimensions,
        stage_ids=stages.ids,
        cells=_unpacked(raw["cells"]),
        groups=_numbers(raw["run_groups"]),
        stages=_unpacked(raw["stages"]),
    )
    groups = tuple(Group(**group) for group in raw["groups"])
    return CalculationPlan(
        name=raw["name"],
        protocol=raw["protocol"],
        engine=raw["engine"],
        dimensions=dimensions,
        runs=runs,
        settings=raw["settings"],
        groups=groups,
        # plans written before they told of structures
        structures=tuple(StructureRow(**row) for row in raw.get("structures", [])),
    )


def _packed(rows: Sequence[tuple[int, ...]]) -> dict[str, Any]:
    """Rows as a few long columns of text, which JSON reads a hundred times faster than numbers."""
    found = IndexRows.of(rows)
    return {"length": len(found), "columns": [_text(column) for column in found.columns]}


def _unpacked(packed: Mapping[str, Any]) -> IndexRows:
    return IndexRows(packed["length"], [_numbers(column) for column in packed["columns"]])


def _text(numbers: Iterable[int]) -> str:
    """Whole numbers as base64 of compressed little-endian 32-bit integers."""
    column = array("i", numbers)
    if sys.byteorder == "big":
        column.byteswap()
    return base64.b64encode(zlib.compress(column.tobytes(), 1)).decode()


def _numbers(text: str) -> "array[int]":
    column = array("i")
    column.frombytes(zlib.decompress(base64.b64decode(text, validate=True)))
    if sys.byteorder == "big":
        column.byteswap()
    return column
