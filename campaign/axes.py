"""Axes of an ensemble: from the lists in a spec to labelled dimensions and cells.

``axes`` span a product, each group of ``zip`` is one dimension with several coordinates, ``exclude`` removes
cells of that grid, and ``include`` adds cells, also with values that no axis lists. ``seed`` is an axis of
its own, because means are taken over it; its values label replicas and never enter settings.

An axis is the dotted path of a field with a list of scalars, or a name of the user's own with labelled values
that set one or several fields::

    atoms: [{label: 60, set: {structure.upper.cells: [5, 3], structure.lower.cells: [5, 3]}}]
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, product
from typing import Any

from campaign.document import Path_, Problems, did_you_mean

Label = str | int | float

Places = tuple[tuple[int, int], ...]
"""Some keys: the index of the axis of each, and of the key in it."""

Tags = tuple[Hashable, ...]
"""Labels as they are looked up."""

SEED = "seed"

MAX_RUNS = 1_000_000
"""More runs than these are refused whatever the spec's limit: nothing is ever made for each of 10^9 runs."""

MAX_SEED = 2**53
"""Results keep labels as floats, which hold all whole numbers up to here."""

RESERVED = frozenset({"run", "run_id", "stage_id", "manifest_sha256", "state", "reason", "valid"}) | {
    "condition",
    "replica",
    "number_of_runs",
    "n",
    "n_seeds",
    "n_excluded",
    "n_missing",
}
"""Names that results and means of an ensemble have beside their axes."""

UNITS = {
    "K": "K",
    "ps": "ps",
    "fs": "fs",
    "ns": "ns",
    "A": "angstrom",
    "nm": "nm",
    "GPa": "GPa",
    "eV": "eV",
    "meV": "meV",
    "THz": "THz",
    "deg": "degree",
}
"""Unit suffixes of field names, and the units of their coordinates."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_WRITE_SEEDS = "write {count: 4} or a list [1, 2, 5]"


@dataclass(frozen=True)
class Point:
    """One value of an axis.

    Attributes
    ----------
    labels
        One for each key of the axis.
    values
        Fields that it sets, by dotted path.
    where
        Place of each field's value in the spec.
    """

    labels: tuple[Label, ...]
    values: Mapping[str, Any]
    where: Mapping[str, Path_]


@dataclass(frozen=True)
class Axis:
    """One dimension of an ensemble.

    Attributes
    ----------
    keys
        Its coordinates as the spec writes them: fields, ``seed`` or own names.
    points
        Its values.
    named
        Whether its values carry labels of the user's own and say themselves which fields they set.
    """

    keys: tuple[str, ...]
    points: tuple[Point, ...]
    named: bool = False

    @property
    def fields(self) -> dict[str, str]:
        """Fields that it sets, with the key that does."""
        if self.named:
            return {path: self.keys[0] for point in self.points for path in point.values}
        return {key: key for key in self.keys if key != SEED}


@dataclass(frozen=True)
class Expansion:
    """Axes, and the cells of their grid that are runs: one index into each axis' points."""

    axes: tuple[Axis, ...]
    cells: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class AxesSpec:
    """Axes of one calculation as the spec writes them, with the path of the calculation."""

    axes: Mapping[str, Any]
    zip: Sequence[Mapping[str, Any]]
    include: Sequence[Mapping[str, Any]]
    exclude: Sequence[Mapping[str, Any]]
    where: Path_ = ()


def parse_axes(spec: AxesSpec, problems: Problems) -> tuple[Axis, ...]:
    """Parse axes, in the order of the spec and those of ``zip`` last; what is wrong goes to ``problems``."""
    axes = []
    for key, raw in spec.axes.items():
        axes.append(_axis(key, raw, (*spec.where, "axes", key), problems))
    for number, group in enumerate(spec.zip):
        axis = _zipped(group, (*spec.where, "zip", number), problems)
        if axis is not None:
            axes.append(axis)
    _check_keys(axes, spec, problems)
    if grid_size(axes) <= MAX_RUNS:  # otherwise it is refused in any case, and at once
        _check_duplicates(axes, spec, problems)
    return tuple(axes)


def grid_size(axes: Sequence[Axis]) -> int:
    """Count the cells of the grid, before ``exclude`` and ``include``."""
    return math.prod(len(axis.points) for axis in axes)


def expand(axes: Sequence[Axis], spec: AxesSpec, problems: Problems) -> Expansion:
    """Cells of the grid in order, last axis fastest, without the excluded ones; then those of ``include``."""
    cells = list(product(*(range(len(axis.points)) for axis in axes)))
    for places, excluded in _excluded(axes, spec, problems).items():
        tags = [[_tag(point.labels[j]) for point in axes[i].points] for i, j in places]
        cells = [
            cell
            for cell in cells
            if tuple([tag[cell[i]] for tag, (i, _) in zip(tags, places, strict=True)]) not in excluded
        ]
    known = [{_tags(point.labels): (n, point) for n, point in enumerate(axis.points)} for axis in axes]
    seen = set(cells)
    for number, raw in enumerate(spec.include):
        cell = _included(axes, known, raw, (*spec.where, "include", number), problems)
        if cell is not None and cell not in seen:
            seen.add(cell)
            cells.append(cell)
    if not cells and not len(problems):
        problems.add((*spec.where, "exclude"), "every run is excluded, so there is nothing to run", key=True)
    return _trimmed(axes, [[point for _, point in one.values()] for one in known], cells)


def runs_of(
    axes: Sequence[Axis], spec: AxesSpec, problems: Problems
) -> Iterator[tuple[tuple[int, Point], ...]]:
    """Check ``exclude`` and ``include`` now, then give the runs one by one: the value on each axis, numbered.

    In the order of `expand`, but no grid is made: of a large one the first runs cost nothing.
    """
    rules = _excluded(axes, spec, problems)
    added: list[tuple[tuple[int, Point], ...]] = []
    if spec.include:  # to look up all values of long axes takes its time
        known = [{_tags(point.labels): (n, point) for n, point in enumerate(axis.points)} for axis in axes]
        cells = [
            _included(axes, known, raw, (*spec.where, "include", number), problems)
            for number, raw in enumerate(spec.include)
        ]
        points = [list(one.values()) for one in known]
        added = [tuple(points[i][n] for i, n in enumerate(cell)) for cell in cells if cell is not None]

    def is_run(run: tuple[tuple[int, Point], ...]) -> bool:
        return not any(
            tuple([_tag(run[i][1].labels[j]) for i, j in places]) in excluded
            for places, excluded in rules.items()
        )

    grid = product(*(list(enumerate(axis.points)) for axis in axes))
    return chain(filter(is_run, grid), added)


def fields_without_values(axes: Sequence[Axis], spec: AxesSpec) -> set[str]:
    """Keys of axes that are to set something, and of which no value can be used."""
    wanted = {*spec.axes, *(key for group in spec.zip for key in group)}
    return wanted - {SEED} - {key for axis in axes if axis.points for key in axis.keys}


def merged(settings: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Add the fields that axes set to settings; only the mappings on the way are copied."""
    merged = dict(settings)
    for path, value in values.items():
        node = merged
        *parents, last = path.split(".")
        for part in parents:
            below = node.get(part)
            node[part] = dict(below) if isinstance(below, dict) else {}
            node = node[part]
        node[last] = value
    return merged


def blamed(
    path: Path_, settings: Mapping[str, Any], where: Path_, places: Mapping[str, Path_]
) -> tuple[Path_, bool]:
    """Where a field's value stands: in the axis that sets it (then True), else in the settings as written.

    ``where`` is the path of the calculation, ``places`` where the axes set which field.
    """
    parts = [str(part) for part in path]
    for length in range(len(parts), 0, -1):
        place = places.get(".".join(parts[:length]))
        if place is not None:
            return (*place, *path[length:]), True
    inside = [place for name, place in places.items() if name.startswith(".".join(parts) + ".")]
    if inside and not _reaches(settings, path):
        return inside[0], True
    if path == ("engine",):
        return (*where, "engine"), False
    return (*where, "settings", *path), False


def _reaches(settings: Any, path: Path_) -> bool:
    """Whether settings as written have a value at ``path``."""
    for part in path:
        entries = settings if isinstance(settings, dict) else {}
        entries = dict(enumerate(settings)) if isinstance(settings, list) else entries
        if part not in entries:
            return False
        settings = entries[part]
    return True


def coordinate_names(keys: Iterable[str]) -> dict[str, str]:
    """Name each coordinate by the last part of its path without unit, or by all of it if names collide."""
    listed = list(keys)
    names = {key: _without_unit(key.rsplit(".", 1)[-1]) for key in listed}
    for longer in (lambda key: _without_unit(key.replace(".", "_")), lambda key: key.replace(".", "_")):
        count = Counter(names.values())
        names = {key: longer(key) if count[name] > 1 else name for key, name in names.items()}
    return names


def coordinate_units(key: str) -> str | None:
    """Units of a coordinate from the suffix of its field, or None."""
    return UNITS.get(key.rsplit("_", 1)[-1]) if "_" in key else None


def label_text(label: Label) -> str:
    """Label as it stands in a run's name: safe in a shell, the same for 300 and 300.0."""
    if isinstance(label, bool):
        return str(label).lower()
    if isinstance(label, float) and label.is_integer() and abs(label) < 1e15:
        return str(int(label))
    return re.sub(r"[^A-Za-z0-9._+-]", "_", str(label))


def _without_unit(name: str) -> str:
    stem, _, suffix = name.rpartition("_")
    return stem if stem and suffix in UNITS else name


def _axis(key: str, raw: Any, path: Path_, problems: Problems) -> Axis:
    if key != SEED and isinstance(raw, list) and any(isinstance(value, dict) for value in raw):
        return Axis((key,), tuple(_labelled(key, raw, path, problems)), named=True)
    return Axis((key,), tuple(_points(key, raw, path, problems)))


def _zipped(group: Mapping[str, Any], path: Path_, problems: Problems) -> Axis | None:
    if not group:
        problems.add(path, "a zip group without axes")
        return None
    if SEED in group:
        message = "seed cannot vary together with others: means are taken over seeds"
        problems.add((*path, SEED), message, hint="make it an axis of its own, in axes", key=True)
        return None
    columns = [_points(key, raw, (*path, key), problems) for key, raw in group.items()]
    lengths = {key: len(points) for key, points in zip(group, columns, strict=True)}
    if len(set(lengths.values())) > 1 and all(lengths.values()):
        described = ", ".join(f"{key} has {length}" for key, length in lengths.items())
        problems.add(path, f"zipped axes differ in length: {described}")
        return None
    return Axis(tuple(group), tuple(_joined(parts) for parts in zip(*columns, strict=False)))


def _joined(parts: Sequence[Point]) -> Point:
    values: dict[str, Any] = {}
    where: dict[str, Path_] = {}
    for part in parts:
        values |= part.values
        where |= part.where
    return Point(tuple(label for part in parts for label in part.labels), values, where)


def _points(key: str, raw: Any, path: Path_, problems: Problems) -> list[Point]:
    if key == SEED and isinstance(raw, dict):
        return _seed_range(raw, path, problems)
    if not isinstance(raw, list):
        hint = _WRITE_SEEDS if key == SEED else f"write [{raw}]"
        problems.add(path, f"{key} should be a list of values, not {raw!r}", hint=hint)
        return []
    if not raw:
        problems.add(
            path, f"{key} has no values, so there is nothing to run", hint="give one or leave the axis out"
        )
    points = []
    for index, value in enumerate(raw):
        at = (*path, index)
        if _is_label(key, value, at, problems):
            points.append(_plain_point(key, value, at))
    return points


def _plain_point(key: str, value: Label, at: Path_) -> Point:
    return Point((value,), {}, {}) if key == SEED else Point((value,), {key: value}, {key: at})


def _is_label(key: str, value: Any, at: Path_, problems: Problems) -> bool:
    if key == SEED:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_SEED:
            problems.add(at, f"seed should be a whole number from 0 to {MAX_SEED}, not {value!r}")
            return False
        return True
    if isinstance(value, list | dict) or value is None:
        hint = f"make it an axis with a name of your own and values {{label: ..., set: {{{key}: ...}}}}"
        problems.add(at, f"a value of the axis {key} is not a number or text", hint=hint)
        return False
    if isinstance(value, float) and not math.isfinite(value):
        problems.add(at, f"{key} should be a finite number, not {value}")
        return False
    return True


def _seed_range(raw: Mapping[str, Any], path: Path_, problems: Problems) -> list[Point]:
    before = len(problems)
    for name in raw:
        if name not in {"count", "base"}:
            hint = did_you_mean(name, ["count", "base"])
            problems.add((*path, name), f"unknown key {name!r} in seed", hint=hint, key=True)
    if "count" not in raw:
        problems.add(path, "count is missing in seed", hint=_WRITE_SEEDS)
    for name, least in (("count", 1), ("base", 0)):
        value = raw.get(name, least)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            at = (*path, name)
            problems.add(at, f"{name} of seed should be a whole number of at least {least}, not {value!r}")
        elif name == "count" and value > MAX_RUNS:
            message = f"{value:,} seeds are more than the {MAX_RUNS:,} runs that a campaign may have"
            problems.add((*path, name), message)
        elif value > MAX_SEED - MAX_RUNS:
            problems.add((*path, name), f"base of seed should be at most {MAX_SEED - MAX_RUNS}, not {value}")
    if len(problems) > before:
        return []
    base = raw.get("base", 1)
    return [Point((label,), {}, {}) for label in range(base, base + raw["count"])]


def _labelled(key: str, raw: Sequence[Any], path: Path_, problems: Problems) -> list[Point]:
    """Values of an axis with a name of the user's own: each has a label and sets fields."""
    if not _NAME.fullmatch(key):
        problems.add(
            path, f"the name of an axis with labelled values is letters, digits and _, not {key!r}", key=True
        )
    points: list[Point] = []
    for index, value in enumerate(raw):
        at = (*path, index)
        if (
            not isinstance(value, dict)
            or set(value) != {"label", "set"}
            or not isinstance(value["set"], dict)
        ):
            hint = "write {label: ..., set: {field: value, ...}}"
            problems.add(
                at, f"a value of the axis {key} needs a label and the fields that it sets", hint=hint
            )
            continue
        if not _is_label(key, value["label"], (*at, "label"), problems):
            continue
        fields = value["set"]
        if points and set(fields) != set(points[0].values):
            problems.add(
                (*at, "set"), f"all values of {key} must set the same fields: {', '.join(points[0].values)}"
            )
            continue
        if not fields:
            problems.add((*at, "set"), f"a value of {key} sets no field")
        points.append(Point((value["label"],), fields, {name: (*at, "set", name) for name in fields}))
    return points


def _check_keys(axes: Sequence[Axis], spec: AxesSpec, problems: Problems) -> None:
    """No coordinate twice or with a name of the results', and no field (or part of it) set by two axes."""
    taken: dict[str, str] = {}
    counted: list[tuple[str, Path_]] = [(key, ("axes", key)) for key in spec.axes]
    counted += [(key, ("zip", number, key)) for number, group in enumerate(spec.zip) for key in group]
    places: dict[str, Path_] = {}
    for key, tail in counted:
        if key in places:
            problems.add((*spec.where, *tail), f"two axes for {key}", key=True)
        places.setdefault(key, (*spec.where, *tail))
    names = coordinate_names(places)
    for key, place in places.items():
        if list(names.values()).count(names[key]) > 1:
            problems.add(place, f"another axis has the name {names[key]} too", key=True)
        if names[key] in RESERVED:
            message = f"{names[key]} is something else in results"
            problems.add(place, message, hint="give the axis another name", key=True)
    for axis in axes:
        for path, key in axis.fields.items():
            for other, owner in taken.items():
                if overlaps(path, other) and owner != key:
                    problems.add(places[key], f"{key} and {owner} set the same field {path}", key=True)
            taken[path] = key


def overlaps(path: str, other: str) -> bool:
    """Whether two dotted paths name the same field or one contains the other."""
    return path == other or path.startswith(f"{other}.") or other.startswith(f"{path}.")


def _check_duplicates(axes: Sequence[Axis], spec: AxesSpec, problems: Problems) -> None:
    for axis in axes:
        seen: set[tuple[str, ...]] = set()
        for index, point in enumerate(axis.points):
            text = tuple(label_text(label) for label in point.labels)
            if text in seen:
                shown = ", ".join(
                    f"{key} {label}" for key, label in zip(axis.keys, point.labels, strict=True)
                )
                problems.add(
                    _place(axis, spec, index), f"{shown} is there twice, or cannot be told apart in run names"
                )
            seen.add(text)


def _place(axis: Axis, spec: AxesSpec, index: int) -> Path_:
    key = axis.keys[0]
    if key in spec.axes and len(axis.keys) == 1:
        return (*spec.where, "axes", key, index)
    number = next(n for n, group in enumerate(spec.zip) if tuple(group) == axis.keys)
    return (*spec.where, "zip", number, key, index)


def _tag(value: Any) -> Hashable:
    """Give what is equal for equal labels: 300 and 300.0, but not 1 and true; no label equals a list."""
    return (type(value), str(value)) if isinstance(value, bool | list | dict) else value


def _tags(labels: Iterable[Any]) -> tuple[Hashable, ...]:
    return tuple(map(_tag, labels))


def _excluded(axes: Sequence[Axis], spec: AxesSpec, problems: Problems) -> Mapping[Places, set[Tags]]:
    """Labels that are excluded, by their keys: thousands of rules usually name the same few axes."""
    if not spec.exclude:
        return {}
    keys = {key: (i, j) for i, axis in enumerate(axes) for j, key in enumerate(axis.keys)}
    known = {key: {_tag(point.labels[j]) for point in axes[i].points} for key, (i, j) in keys.items()}
    rules: defaultdict[Places, set[Tags]] = defaultdict(set)
    for number, raw in enumerate(spec.exclude):
        path = (*spec.where, "exclude", number)
        if not raw:
            problems.add(path, "an empty exclude would remove every run")
            continue
        named = sorted(key for key in raw if _known_axis(key, keys, (*path, key), problems))
        for key in named:
            if _tag(raw[key]) not in known[key]:
                i, j = keys[key]
                hint = did_you_mean(str(raw[key]), [str(point.labels[j]) for point in axes[i].points])
                problems.add((*path, key), f"{raw[key]!r} is no value of the axis {key}", hint=hint)
        rules[tuple(keys[key] for key in named)].add(_tags(raw[key] for key in named))
    return rules


def _known_axis(key: str, keys: Iterable[str], path: Path_, problems: Problems) -> bool:
    if key in keys:
        return True
    problems.add(path, f"{key!r} is no axis of this calculation", hint=did_you_mean(key, keys), key=True)
    return False


def _included(
    axes: Sequence[Axis],
    known: Sequence[dict[Tags, tuple[int, Point]]],
    raw: Mapping[str, Any],
    path: Path_,
    problems: Problems,
) -> tuple[int, ...] | None:
    """Cell of one ``include``; values that are new are added to ``known``, by axis and with their indices."""
    before = len(problems)
    every = [key for axis in axes for key in axis.keys]
    for key in raw:
        _known_axis(key, every, (*path, key), problems)
    missing = [key for key in every if key not in raw]
    if missing:
        problems.add(path, f"an included run needs every axis; missing: {', '.join(missing)}")
    if len(problems) > before:
        return None
    cell = []
    for axis, values in zip(axes, known, strict=True):
        labels = _tags(raw[key] for key in axis.keys)
        if labels not in values:
            point = _new_point(axis, raw, path, problems)
            if point is None:
                return None
            values[labels] = len(values), point
        cell.append(values[labels][0])
    return tuple(cell)


def _new_point(axis: Axis, raw: Mapping[str, Any], path: Path_, problems: Problems) -> Point | None:
    if axis.named:
        (key,) = axis.keys
        hint = f"known are: {', '.join(str(point.labels[0]) for point in axis.points)}"
        problems.add((*path, key), f"{raw[key]!r} is no label of the axis {key}", hint=hint)
        return None
    if not all(_is_label(key, raw[key], (*path, key), problems) for key in axis.keys):
        return None
    return _joined([_plain_point(key, raw[key], (*path, key)) for key in axis.keys])


def _trimmed(axes: Sequence[Axis], points: list[list[Point]], cells: list[tuple[int, ...]]) -> Expansion:
    """Drop values that no cell uses any more, so that no dimension has an empty row."""
    used = [sorted({cell[i] for cell in cells}) for i in range(len(axes))]
    if all(len(kept) == len(all_) for kept, all_ in zip(used, points, strict=True)):
        renumbered = cells
    else:
        maps = [{old: new for new, old in enumerate(kept)} for kept in used]
        renumbered = [tuple(m[i] for m, i in zip(maps, cell, strict=True)) for cell in cells]
    kept_axes = [
        replace(axis, points=tuple(known[i] for i in kept))
        for axis, known, kept in zip(axes, points, used, strict=True)
    ]
    return Expansion(tuple(kept_axes), tuple(renumbered))
