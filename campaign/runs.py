"""Runs and stages of a planned campaign as data; `campaign.plan_file` writes and reads them.

Plans of 10^5 runs are read by ``campaign status`` within half a second, so this module imports nothing heavy,
and runs and stages are kept as columns: a `Run` or a `StageSummary` is made when it is asked for.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, MutableSequence, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, overload

from campaign.axes import Label, label_text
from campaign.document import did_you_mean
from campaign.errors import SpecError

MAX_CANDIDATES = 10

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
    which: MutableSequence[int]
    needs: Sequence[tuple[int, ...]]

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
        assert isinstance(self.needs, list)  # a plan that was read is not made any further
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
    cells: Sequence[tuple[int, ...]]
    groups: Sequence[int]
    stages: Sequence[tuple[int, ...]]

    @property
    def result_stages(self) -> list[str]:
        """Id of the stage whose result is the run's, of each run; much faster than a `Run` for each."""
        ids = self.stage_ids
        return [ids[stages[-1]] for stages in self.stages]

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
class StructureRow:
    """What the structure of some runs comes to before anything is run.

    Attributes
    ----------
    lower, upper
        Names of the materials.
    lower_layers, upper_layers
        Numbers of their layers.
    atoms
        Of the whole structure.
    cell_x_A, cell_y_A
        Lengths of the cell.
    strain_lower_x, strain_lower_y, strain_upper_x, strain_upper_y
        Of each material against the potential's own lattice constant; positive is stretched.
    twist_deg
        Angle of the upper lattice against the lower one.
    runs
        How many runs have it.
    """

    lower: str
    upper: str
    lower_layers: int
    upper_layers: int
    atoms: int
    cell_x_A: float
    cell_y_A: float
    strain_lower_x: float
    strain_lower_y: float
    strain_upper_x: float
    strain_upper_y: float
    twist_deg: float
    runs: int

    @property
    def title(self) -> str:
        """``4 graphene on 5 hbn``."""
        return f"{self.upper_layers} {self.upper} on {self.lower_layers} {self.lower}"

    @property
    def cell(self) -> str:
        """``12.5 x 21.6``, in angstrom."""
        return f"{self.cell_x_A:.1f} x {self.cell_y_A:.1f}"

    @property
    def strains(self) -> tuple[str, str]:
        """Strain of the lower and the upper material in per cent, along x and y where they differ."""
        return (
            _strain(self.strain_lower_x, self.strain_lower_y),
            _strain(self.strain_upper_x, self.strain_upper_y),
        )


def _strain(x: float, y: float) -> str:
    along_x, along_y = f"{100 * x:+.2f}", f"{100 * y:+.2f}"
    return along_x if along_x == along_y else f"{along_x}, {along_y}"


@dataclass(frozen=True)
class CalculationPlan:
    """One calculation: its grid and its runs.

    ``settings`` are the resolved settings that all groups share, by dotted path; each group holds the others.
    ``structures`` are those that differ.
    """

    name: str
    protocol: str
    engine: str
    dimensions: tuple[Dimension, ...]
    runs: RunTable
    settings: Mapping[str, Any]
    groups: tuple[Group, ...]
    structures: tuple[StructureRow, ...] = ()

    def settings_of(self, run: Run) -> dict[str, Any]:
        """Return the resolved settings of one run, by dotted path."""
        return {**self.settings, **self.groups[run.group].settings}


@dataclass(frozen=True)
class Plan:
    """What a spec comes to: runs, stages and labels.

    ``seed`` is the base of all random seeds, ``made_from`` a digest of all that the plan follows from; empty
    where that is not known.
    """

    campaign: str
    description: str
    seed: int
    spec_sha256: str
    calculations: tuple[CalculationPlan, ...]
    stages: StageTable = field(repr=False)
    made_from: str = ""

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
            It names a calculation that is not there, or a label or a value that no calculation has.
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
        found: list[Run] = []
        problems: list[SpecError] = []
        for calculation in calculations:
            try:
                found += _select(calculation, wanted)
            except SpecError as error:  # labels may be those of some calculations only
                problems.append(error)
        if len(problems) == len(calculations):  # the one that sees what was meant is the most useful
            raise next(
                (problem for problem in problems if "did you mean" in (problem.hint or "")), problems[0]
            )
        return tuple(found)

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
        if not hits:
            raise SpecError(f"{calculation.name} has no {given}={value}", hint=_values_hint(value, labels))
        allowed[i] = allowed.get(i, hits) & hits
    for number, cell in enumerate(calculation.runs.cells):
        if all(cell[i] in hits for i, hits in allowed.items()):
            yield calculation.runs[number]


def _values_hint(value: str, labels: Sequence[Label]) -> str:
    """Say which label was meant, or which there are; numbers that look alike mean nothing."""
    if any(isinstance(label, str) for label in labels):
        hint = did_you_mean(value, map(str, labels))
        if hint is not None:
            return hint
    shown = [label_text(label) for label in labels]
    few = shown if len(shown) <= MAX_CANDIDATES else [*shown[:3], "...", shown[-1]]
    return f"its values are {', '.join(few)}"


def flattened(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted paths; lists stay whole."""
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= flattened(item, f"{prefix}.{key}" if prefix else key)
    return flat
