"""From a spec to runs and stages: expand the axes, validate every condition once, identify all stages.

A condition is what the runs of all seeds share. The data of a plan, and reading it, is in `campaign.runs`.
"""

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from campaign.axes import (
    MAX_RUNS,
    SEED,
    Axis,
    Expansion,
    Label,
    blamed,
    coordinate_names,
    coordinate_units,
    expand,
    grid_size,
    label_text,
    merged,
    parse_axes,
)
from campaign.document import Path_, Problems
from campaign.errors import SpecError
from campaign.plan_file import garbage_collection_paused
from campaign.runs import (
    CalculationPlan,
    Dimension,
    Group,
    Plan,
    Run,
    RunTable,
    StageSummary,
    StageTable,
    StructureRow,
    flattened,
)

if TYPE_CHECKING:
    from campaign.quantities import Settings
    from campaign.replicas import Stages
    from campaign.spec import CampaignSpec

__all__ = [
    "CalculationPlan",
    "Dimension",
    "Group",
    "Plan",
    "Run",
    "RunTable",
    "StageSummary",
    "StageTable",
    "StructureRow",
    "make_plan",
]

DEFAULT_SEED_LABEL = 1
"""Of the only replica of a calculation without a seed axis; a seed axis added later takes that run over."""

ENOUGH_PROBLEMS = 30
"""A mistake in a setting shows in every condition: after these many errors no further condition is tried."""


def make_plan(spec: "CampaignSpec", *, allow_large: bool = False) -> "tuple[Plan, Stages]":
    """Plan a spec; nothing is run.

    Parameters
    ----------
    spec
        From `campaign.spec.load_spec`.
    allow_large
        Accept more runs than the spec's ``limits.runs``.

    Returns
    -------
    tuple
        The plan, and the stages with their settings by id, each after the ones it needs.

    Raises
    ------
    SpecError
        One line for each error, up to ten, at the value that is to blame.
    """
    # Imported late: `campaign status` reads plans without pydantic and xarray.
    from campaign.replicas import Stages

    axes = check_size(spec, allow_large=allow_large)
    problems = Problems(spec.positions)
    stages = Stages(spec.seed)
    with garbage_collection_paused():
        planned = [_Planner(spec, name, axes[name], stages, problems).plan() for name in spec.calculations]
    problems.check()
    plan = Plan(
        campaign=spec.campaign,
        description=spec.description,
        seed=spec.seed,
        spec_sha256=hashlib.sha256(spec.text.encode()).hexdigest(),
        calculations=tuple(calculation for calculation in planned if calculation is not None),
        stages=stages.table,
    )
    return plan, stages


def check_size(spec: "CampaignSpec", *, allow_large: bool) -> dict[str, tuple[Axis, ...]]:
    """Count the runs of a spec before any is made, and return the axes of each calculation.

    Raises
    ------
    SpecError
        An axis is wrong, or there are more runs than the spec's ``limits.runs``, or than `MAX_RUNS`.
    """
    problems = Problems(spec.positions)
    axes = {
        name: parse_axes(calculation.axes_spec(("calculations", name)), problems)
        for name, calculation in spec.calculations.items()
    }
    sizes = {name: grid_size(axes[name]) + len(spec.calculations[name].include) for name in axes}
    total = sum(sizes.values())
    limit = MAX_RUNS if allow_large else min(spec.limits.runs, MAX_RUNS)
    if total > limit:
        largest = max(sizes, key=sizes.__getitem__)
        hint = "confirm with --yes, or raise limits.runs" if total <= MAX_RUNS else "make several campaigns"
        message = f"the axes span {total:,} runs, more than the limit of {limit:,}"
        problems.add(("calculations", largest, "axes"), message, hint=hint, key=True)
    problems.check()
    return axes


class _Planner:
    """Plans one calculation; what is wrong goes to ``problems``."""

    def __init__(
        self,
        spec: "CampaignSpec",
        name: str,
        axes: tuple[Axis, ...],
        stages: "Stages",
        problems: Problems,
    ) -> None:
        from campaign.protocols import base

        self._seed = spec.seed
        self._name = name
        self._where: Path_ = ("calculations", name)
        self._calculation = spec.calculations[name]
        self._materials = spec.materials
        self._protocol = base.get_protocol(self._calculation.protocol)
        self._schema = self._protocol.settings.model_json_schema()
        self._axes = axes
        self._stages = stages
        self._problems = problems

    def plan(self) -> CalculationPlan | None:
        """Plan it, or None if something is wrong."""
        from campaign.replicas import Condition

        before = len(self._problems)
        faults = _Faults()
        grid = expand(self._axes, self._calculation.axes_spec(self._where), self._problems)
        if len(self._problems) > before:
            return None
        split = _SeedSplit(grid)
        chosen = [split.of(cell) for cell in grid.cells]
        settings: dict[tuple[int, ...], Settings] = {}
        conditions: dict[tuple[int, ...], Condition] = {}
        for key in dict.fromkeys(key for key, _ in chosen):
            resolved = self._resolve(grid, split, key, faults)
            if resolved is not None:
                settings[key] = resolved
                conditions[key] = Condition(self._stages, self._maker(resolved), self._seed)
            if len(faults) > ENOUGH_PROBLEMS:
                break
        faults.tell(self._problems)
        if len(self._problems) > before:
            return None
        numbers = {key: number for number, key in enumerate(settings)}
        dumps = {key: one.model_dump(mode="json") for key, one in settings.items()}
        dimensions = self._dimensions(grid, split, dumps)
        if dimensions is None:
            return None
        runs = RunTable(
            calculation=self._name,
            dimensions=dimensions,
            stage_ids=self._stages.table.ids,
            cells=list(grid.cells),
            groups=array("i", [numbers[key] for key, _ in chosen]),
            stages=[conditions[key].positions(label) for key, label in chosen],
        )
        common, groups = _grouped([flattened(dump) for dump in dumps.values()])
        return CalculationPlan(
            name=self._name,
            protocol=self._calculation.protocol,
            engine=self._calculation.engine,
            dimensions=dimensions,
            runs=runs,
            settings=common,
            groups=tuple(
                Group(own, dict(self._protocol.labels(one)))
                for own, one in zip(groups, settings.values(), strict=True)
            ),
            structures=self._structures(settings, Counter(key for key, _ in chosen)),
        )

    def _structures(
        self, settings: "Mapping[tuple[int, ...], Settings]", runs: Mapping[tuple[int, ...], int]
    ) -> tuple[StructureRow, ...]:
        """Structures that differ, in the order of their first condition, with the number of their runs."""
        found: dict[tuple[tuple[str, Any], ...], int] = {}
        for key, one in settings.items():
            facts = tuple(self._protocol.structure(one).items())
            if facts:
                found[facts] = found.get(facts, 0) + runs[key]
        return tuple(StructureRow(**dict(facts), runs=count) for facts, count in found.items())

    def _maker(self, settings: "Settings") -> Any:
        engine = self._calculation.engine
        return lambda replica: self._protocol.stages(settings, engine, replica)

    def _resolve(
        self, grid: Expansion, split: "_SeedSplit", key: tuple[int, ...], faults: "_Faults"
    ) -> "Settings | None":
        """Validate the settings of one condition."""
        from pydantic import ValidationError

        from campaign.structures.materials import with_definitions
        from campaign.validation import validation_problems

        values: dict[str, Any] = {}
        places: dict[str, Path_] = {}
        labels: list[str] = []
        for position, index in zip(split.kept, key, strict=True):
            axis = grid.axes[position]
            point = axis.points[index]
            values |= point.values
            places |= point.where
            labels += [
                f"{name}={label_text(label)}" for name, label in zip(axis.keys, point.labels, strict=True)
            ]
        faults.start(labels)
        data = with_definitions(merged(self._calculation.settings, values), self._materials)
        try:
            settings = self._protocol.settings.model_validate_json(json.dumps(data), strict=True)
        except ValidationError as error:
            for found in validation_problems(error, data, self._schema):
                where, in_axis = self._blame(found.path, places)
                key_meant = found.key and not in_axis
                fault = _Fault(where, found.message, found.hint, key_meant, found.of_several_fields)
                faults.add(fault)
            return None
        try:
            self._protocol.validate(settings, self._calculation.engine)
        except SpecError as error:
            field = tuple(str(error.where).split(".")) if error.where else ()
            where, _ = self._blame(field, places)
            faults.add(_Fault(where, error.message, error.hint))
            return None
        return settings

    def _blame(self, field: Path_, places: Mapping[str, Path_]) -> tuple[Path_, bool]:
        return blamed(field, self._calculation.settings, self._where, places)

    def _dimensions(
        self, grid: Expansion, split: "_SeedSplit", dumps: Mapping[tuple[int, ...], Any]
    ) -> tuple[Dimension, ...] | None:
        """Labels as the fields' own types give them, so that 300 and 300.0 name the same run."""
        before = len(self._problems)
        names = coordinate_names(key for axis in grid.axes for key in axis.keys)
        dimensions = []
        for position, axis in enumerate(grid.axes):
            sample: dict[int, Any] = {}
            if position in split.kept:
                at = split.kept.index(position)
                for key, dump in dumps.items():
                    sample.setdefault(key[at], dump)
            labels = [
                tuple(
                    _typed(key, label, point.values, sample.get(index))
                    for key, label in zip(axis.keys, point.labels, strict=True)
                )
                for index, point in enumerate(axis.points)
            ]
            if len({tuple(map(label_text, row)) for row in labels}) < len(labels):
                self._problems.add(
                    (*self._where, "axes"), f"two values of {axis.keys[0]} mean the same", key=True
                )
            coordinates = {names[key]: tuple(row[i] for row in labels) for i, key in enumerate(axis.keys)}
            units = {names[key]: units for key in axis.keys if (units := coordinate_units(key)) is not None}
            keys = {names[key]: key for key in axis.keys if names[key] != key}
            dimensions.append(Dimension("_".join(coordinates), coordinates, units, keys))
        return tuple(dimensions) if len(self._problems) == before else None


@dataclass(frozen=True)
class _Fault:
    """Something wrong in the settings of a condition."""

    where: Path_
    message: str
    hint: str | None
    key: bool = False
    depends_on_axes: bool = True


class _Faults:
    """Faults of many conditions; each is told once, with the labels that all conditions with it share.

    What is wrong in every condition does not depend on the axes, and is told without labels.
    """

    def __init__(self) -> None:
        self._conditions = 0
        self._labels: list[str] = []
        self._found: dict[_Fault, tuple[int, list[str]]] = {}

    def __len__(self) -> int:
        return len(self._found)

    def start(self, labels: list[str]) -> None:
        """Go on to the next condition."""
        self._conditions += 1
        self._labels = labels

    def add(self, fault: _Fault) -> None:
        """Note a fault of the present condition."""
        number, shared = self._found.get(fault, (0, self._labels))
        self._found[fault] = (number + 1, [label for label in shared if label in self._labels])

    def tell(self, problems: Problems) -> None:
        """Give all faults to ``problems``."""
        for fault, (number, labels) in self._found.items():
            tells = fault.depends_on_axes and labels and number < self._conditions
            context = f" (in {', '.join(labels)})" if tells else ""
            problems.add(fault.where, fault.message, hint=fault.hint, key=fault.key, context=context)


class _SeedSplit:
    """Separates the seed of a cell from its condition; ``kept`` are the axes that decide the condition."""

    def __init__(self, grid: Expansion) -> None:
        self.kept = [i for i, axis in enumerate(grid.axes) if axis.keys != (SEED,)]
        self._axis = next((i for i, axis in enumerate(grid.axes) if axis.keys == (SEED,)), None)
        self._labels = [] if self._axis is None else [int(p.labels[0]) for p in grid.axes[self._axis].points]

    def of(self, cell: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
        """Condition and seed label of a cell."""
        label = DEFAULT_SEED_LABEL if self._axis is None else self._labels[cell[self._axis]]
        return tuple([cell[i] for i in self.kept]), label


def _typed(key: str, label: Label, values: Mapping[str, Any], dump: Any) -> Label:
    if key == SEED or key not in values:
        return label
    for part in key.split("."):
        dump = dump[part] if isinstance(dump, dict) and part in dump else None
    return dump if isinstance(dump, str | int | float) else label


def _grouped(every: list[dict[str, Any]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Separate the settings that all conditions share from those of each that they do not."""
    common = dict(every[0])
    for one in every[1:]:
        common = {path: value for path, value in common.items() if path in one and one[path] == value}
    return common, [{path: value for path, value in one.items() if path not in common} for one in every]
