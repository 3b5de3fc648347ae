"""Runs and stages of a planned campaign as data, and ``plan.json``.

Plans of 10^5 runs are read by ``campaign status`` within half a second, so this module imports nothing heavy,
and runs and stages are kept as columns: a `Run` or a `StageSummary` is made when it is asked for.
"""

import gc
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, overload

from campaign.axes import Label, label_text
from campaign.document import did_you_mean
from campaign.errors import LedgerError, SpecError
from campaign.layout import FORMAT_VERSION, write_atomic

MAX_CANDIDATES = 10

WRITTEN_ANEW = "`campaign run` writes it anew"

_STATUS = {"driver": dict, "updated": str, "states": dict, "failed": dict}
"""What every snapshot holds."""

_STAGE = re.compile(r"[0-9a-f]{8,32}")


@dataclass(frozen=True)
class Dimension:
    """One axis of an ensemble.

    Attributes
    ----------
    name
        Name of the dimension; of its coordinate too where there is one.
    coordinates
        Labels along the dimension, one coordinate for a product axis, several for a zip.
    units
        Units of the coordinates that have any.
    keys
        What the spec calls the coordinates that have a shorter name: the dotted path of the field.
    """

    name: str
    coordinates: Mapping[str, tuple[Label, ...]]
    units: Mapping[str, str]
    keys: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def size(self) -> int:
        """Number of labels."""
        return len(next(iter(self.coordinates.values())))

    @cached_property
    def _points(self) -> tuple[tuple[dict[str, Label], str], ...]:
        rows = [
            dict(zip(self.coordinates, labels, strict=True))
            for labels in zip(*self.coordinates.values(), strict=True)
        ]
        return tuple(
            (row, ",".join(f"{name}={label_text(label)}" for name, label in row.items())) for row in rows
        )


@dataclass(frozen=True)
class Run:
    """One cell of an ensemble.

    Attributes
    ----------
    id
        Readable, stable and safe in a shell: ``nemd/direction=forward,seed=1``.
    labels
        Label of each coordinate.
    cell
        Index along each dimension of the calculation.
    stages
        Ids of its stages, each after the ones it needs.
    group
        Index into the calculation's ``groups``: runs of a group differ in nothing but the seed.
    """

    id: str
    calculation: str
    labels: Mapping[str, Label]
    cell: tuple[int, ...]
    stages: tuple[str, ...]
    group: int

    @property
    def result_stage(self) -> str:
        """Stage whose result is the run's."""
        return self.stages[-1]


@dataclass(frozen=True)
class Group:
    """What the runs of one condition share, all seeds of it.

    Attributes
    ----------
    settings
        Resolved settings that are not the same in all groups, by dotted path.
    labels
        Labels that the protocol gives, such as the pair of materials.
    """

    settings: Mapping[str, Any]
    labels: Mapping[str, str]


@dataclass(frozen=True)
class StageClass:
    """What stages of one sort have in common."""

    kind: str
    protocol: str
    engine: str | None
    potential: str | None
    version: int
    files: Mapping[str, str]
    atoms: int
    steps: int


@dataclass(frozen=True)
class StageSummary:
    """A stage without its settings; ``files`` are the potential files with their SHA-256."""

    id: str
    kind: str
    protocol: str
    engine: str | None
    needs: tuple[str, ...]
    atoms: int
    steps: int
    potential: str | None
    version: int
    files: Mapping[str, str]


@dataclass(frozen=True)
class StageTable(Mapping[str, StageSummary]):
    """Stages of a plan by id, each after the ones it needs, as columns.

    Attributes
    ----------
    ids, which
        Id of each stage, and the index of its class in ``classes``.
    needs
        Positions of the stages that each one needs.
    """

    ids: list[str]
    classes: list[StageClass]
    which: list[int]
    needs: list[tuple[int, ...]]

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {stage_id: i for i, stage_id in enumerate(self.ids)}

    def position(self, stage_id: str) -> int | None:
        """Return the position of a stage, or None."""
        return self._positions.get(stage_id)

    def append(self, stage_id: str, which: int, needs: Iterable[str]) -> int:
        """Append a stage that is not there yet, while a plan is made, and return its position."""
        position = self._positions[stage_id] = len(self.ids)
        self.ids.append(stage_id)
        self.which.append(which)
        self.needs.append(tuple([self._positions[needed] for needed in needs]))
        return position

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __contains__(self, stage_id: object) -> bool:
        return stage_id in self._positions

    def __getitem__(self, stage_id: str) -> StageSummary:
        position = self._positions[stage_id]
        common = self.classes[self.which[position]]
        return StageSummary(
            id=stage_id,
            kind=common.kind,
            protocol=common.protocol,
            engine=common.engine,
            needs=tuple(self.ids[i] for i in self.needs[position]),
            atoms=common.atoms,
            steps=common.steps,
            potential=common.potential,
            version=common.version,
            files=common.files,
        )


@dataclass(frozen=True)
class RunTable(Sequence[Run]):
    """Runs of one calculation, as columns.

    Attributes
    ----------
    stage_ids
        Ids of all stages of the plan.
    cells
        Indices of each run along ``dimensions``.
    groups
        Index of each run's group.
    stages
        Positions of each run's stages in ``stage_ids``, the result's last.
    """

    calculation: str
    dimensions: tuple[Dimension, ...]
    stage_ids: list[str] = field(repr=False)
    cells: list[tuple[int, ...]]
    groups: list[int]
    stages: list[tuple[int, ...]]

    def __len__(self) -> int:
        return len(self.cells)

    @overload
    def __getitem__(self, index: int) -> Run: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Run, ...]: ...
    def __getitem__(self, index: int | slice) -> Run | tuple[Run, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        cell = self.cells[index]
        labels: dict[str, Label] = {}
        texts = []
        for dimension, i in zip(self.dimensions, cell, strict=True):
            row, text = dimension._points[i]
            labels |= row
            texts.append(text)
        name = f"{self.calculation}/{','.join(texts)}" if texts else self.calculation
        ids = self.stage_ids
        stages = tuple([ids[i] for i in self.stages[index]])
        return Run(name, self.calculation, labels, cell, stages, self.groups[index])


@dataclass(frozen=True)
class CalculationPlan:
    """One calculation: its grid and its runs.

    ``settings`` are the resolved settings that all groups share, by dotted path; each group holds the others.
    """

    name: str
    protocol: str
    engine: str
    dimensions: tuple[Dimension, ...]
    runs: RunTable
    settings: Mapping[str, Any]
    groups: tuple[Group, ...]

    def settings_of(self, run: Run) -> dict[str, Any]:
        """Return the resolved settings of one run, by dotted path."""
        return {**self.settings, **self.groups[run.group].settings}


@dataclass(frozen=True)
class Plan:
    """What a spec comes to: runs, stages and labels; ``seed`` is the base of all random seeds."""

    campaign: str
    description: str
    seed: int
    spec_sha256: str
    calculations: tuple[CalculationPlan, ...]
    stages: StageTable = field(repr=False)

    @property
    def runs(self) -> Iterator[Run]:
        """Runs of all calculations."""
        return (run for calculation in self.calculations for run in calculation.runs)

    def calculation(self, name: str) -> CalculationPlan:
        """Return a calculation by name.

        Raises
        ------
        SpecError
            There is none of that name.
        """
        for calculation in self.calculations:
            if calculation.name == name:
                return calculation
        hint = did_you_mean(name, [calculation.name for calculation in self.calculations])
        raise SpecError(f"no calculation {name!r} in this campaign", hint=hint)

    def matching(self, text: str) -> tuple[Run, ...]:
        """Return the runs that a name means: an id, a calculation, some labels, or a stage.

        Labels are written ``direction=forward,seed=2``; fields may have their name in the spec too
        (``structure.stacking=AA``). A stage, or at least eight digits of its id, means the runs that use it.

        Raises
        ------
        SpecError
            It names a calculation or a label that is not there.
        """
        head, slash, tail = text.strip().partition("/")
        if _STAGE.fullmatch(head) and head not in {calculation.name for calculation in self.calculations}:
            return self._using(head)
        if not slash and "=" in head:
            head, tail = "", head
        calculations = self.calculations if not head else (self.calculation(head),)
        wanted = {}
        for part in filter(None, (part.strip() for part in tail.split(","))):
            name, equals, value = part.partition("=")
            if not equals:
                raise SpecError(
                    f"{part!r} is no label of a run",
                    hint="write it as name=value, such as seed=1,direction=forward",
                )
            wanted[name.strip()] = value.strip()
        return tuple(run for calculation in calculations for run in _select(calculation, wanted))

    def _using(self, prefix: str) -> tuple[Run, ...]:
        found = {i for i, stage_id in enumerate(self.stages.ids) if stage_id.startswith(prefix)}
        if len(found) != 1:
            problem = "no stage has" if not found else f"{len(found)} stages have"
            raise SpecError(f"{problem} an id that starts with {prefix!r}")
        return tuple(
            calculation.runs[number]
            for calculation in self.calculations
            for number, stages in enumerate(calculation.runs.stages)
            if not found.isdisjoint(stages)
        )

    def find(self, text: str) -> Run:
        """Find the one run that an id, or enough labels to tell it from all others, means.

        Raises
        ------
        SpecError
            None or several match; the candidates are listed.
        """
        found = self.matching(text)
        if len(found) == 1:
            return found[0]
        candidates = found or tuple(run for calculation in self.calculations for run in calculation.runs[:3])
        listed = " ".join(run.id for run in candidates[:MAX_CANDIDATES])
        more = f" and {len(candidates) - MAX_CANDIDATES} more" if len(candidates) > MAX_CANDIDATES else ""
        if found:
            raise SpecError(f"{len(found)} runs match {text!r}", hint=f"choose one of {listed}{more}")
        raise SpecError(f"no run matches {text!r}", hint=f"runs are named like {listed}")


def _select(calculation: CalculationPlan, wanted: Mapping[str, str]) -> Iterator[Run]:
    """Select runs with all of the labels, by index, so that no other run is made."""
    allowed: dict[int, set[int]] = {}
    known = {name: (i, name) for i, dim in enumerate(calculation.dimensions) for name in dim.coordinates}
    keys = {key: known[name] for dim in calculation.dimensions for name, key in dim.keys.items()}
    for given, value in wanted.items():
        if given not in known and given not in keys:
            hint = did_you_mean(given, {*known, *keys})
            raise SpecError(f"{calculation.name} has no label {given!r}", hint=hint)
        i, name = known.get(given) or keys[given]
        labels = calculation.dimensions[i].coordinates[name]
        hits = {n for n, label in enumerate(labels) if value in {label_text(label), str(label)}}
        allowed[i] = allowed.get(i, hits) & hits
    for number, cell in enumerate(calculation.runs.cells):
        if all(cell[i] in hits for i, hits in allowed.items()):
            yield calculation.runs[number]


def flattened(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted paths; lists stay whole."""
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= flattened(item, f"{prefix}.{key}" if prefix else key)
    return flat


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
