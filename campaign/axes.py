"""Axes of an ensemble: from the lists in a spec to labelled dimensions and cells.

``axes`` span a product, each group of ``zip`` is one dimension with several coordinates, ``exclude`` removes
cells of that grid, and ``include`` adds cells, also with values that no axis lists. ``seed`` is an axis like
any other; its values label replicas and never enter settings.

An axis is the dotted path of a field with a list of scalars, or a name of the user's own with labelled values
that set one or several fields::

    atoms: [{label: 60, set: {structure.upper.cells: [5, 3], structure.lower.cells: [5, 3]}}]
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from campaign.document import Path_, Problems, did_you_mean

Label = str | int | float

SEED = "seed"

MAX_RUNS = 1_000_000
"""More runs than these are refused whatever the spec's limit: nothing is ever made for each of 10^9 runs."""

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
    """One dimension; ``keys`` are its coordinates as the spec writes them: fields, ``seed`` or own names."""

    keys: tuple[str, ...]
    points: tuple[Point, ...]

    @property
    def named(self) -> bool:
        """Whether its values carry labels of the user's own and say themselves which fields they set."""
        return (
            self.keys != (SEED,)
            and len(self.keys) == 1
            and any(self.keys[0] not in p.values for p in self.points)
        )

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
        axes.append(Axis((key,), tuple(_points(key, raw, (*spec.where, "axes", key), problems))))
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
    excluded = _excluded(axes, spec, problems)
    cells = [
        cell
        for cell in product(*(range(len(axis.points)) for axis in axes))
        if not any(all(cell[i] in chosen for i, chosen in rule.items()) for rule in excluded)
    ]
    points = [list(axis.points) for axis in axes]
    seen = set(cells)
    for number, raw in enumerate(spec.include):
        cell = _included(axes, points, raw, (*spec.where, "include", number), problems)
        if cell is not None and cell not in seen:
            seen.add(cell)
            cells.append(cell)
    if not cells and not len(problems):
        problems.add((*spec.where, "exclude"), "every run is excluded, so there is nothing to run", key=True)
    return _trimmed(axes, points, cells)


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


def _zipped(group: Mapping[str, Any], path: Path_, problems: Problems) -> Axis | None:
    if not group:
        problems.add(path, "a zip group without axes")
        return None
    columns = [_points(key, raw, (*path, key), problems, labelled=False) for key, raw in group.items()]
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


def _points(key: str, raw: Any, path: Path_, problems: Problems, *, labelled: bool = True) -> list[Point]:
    if key == SEED and isinstance(raw, dict):
        return _seed_range(raw, path, problems)
    if not isinstance(raw, list):
        problems.add(path, f"{key} should be a list of values, not {raw!r}", hint=f"write [{raw}]")
        return []
    if not raw:
        problems.add(
            path, f"{key} has no values, so there is nothing to run", hint="give one or leave the axis out"
        )
    if labelled and key != SEED and any(isinstance(value, dict) for value in raw):
        return _labelled(key, raw, path, problems)
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
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            problems.add(at, f"seed should be a whole number from 0, not {value!r}")
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
        problems.add(path, "count is missing in seed", hint="write {count: 4} or a list [1, 2, 5]")
    for name, least in (("count", 1), ("base", 0)):
        value = raw.get(name, least)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            at = (*path, name)
            problems.add(at, f"{name} of seed should be a whole number of at least {least}, not {value!r}")
        elif name == "count" and value > MAX_RUNS:
            message = f"{value:,} seeds are more than the {MAX_RUNS:,} runs that a campaign may have"
            problems.add((*path, name), message)
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
    """No coordinate twice, and no field (or part of it) set by two axes."""
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


def _same(left: object, right: object) -> bool:
    return left == right and isinstance(left, bool) == isinstance(right, bool)


def _excluded(axes: Sequence[Axis], spec: AxesSpec, problems: Problems) -> list[dict[int, set[int]]]:
    keys = {key: (i, j) for i, axis in enumerate(axes) for j, key in enumerate(axis.keys)}
    rules = []
    for number, raw in enumerate(spec.exclude):
        path = (*spec.where, "exclude", number)
        if not raw:
            problems.add(path, "an empty exclude would remove every run")
            continue
        rule: dict[int, set[int]] = {}
        for key, value in raw.items():
            if not _known_axis(key, keys, (*path, key), problems):
                continue
            i, j = keys[key]
            found = {n for n, point in enumerate(axes[i].points) if _same(point.labels[j], value)}
            if not found:
                hint = did_you_mean(str(value), [str(point.labels[j]) for point in axes[i].points])
                problems.add((*path, key), f"{value!r} is no value of the axis {key}", hint=hint)
            rule[i] = rule.get(i, found) & found
        rules.append(rule)
    return rules


def _known_axis(key: str, keys: Iterable[str], path: Path_, problems: Problems) -> bool:
    if key in keys:
        return True
    problems.add(path, f"{key!r} is no axis of this calculation", hint=did_you_mean(key, keys), key=True)
    return False


def _included(
    axes: Sequence[Axis], points: list[list[Point]], raw: Mapping[str, Any], path: Path_, problems: Problems
) -> tuple[int, ...] | None:
    """Cell of one ``include``; values that are new are added to ``points``."""
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
    for axis, known in zip(axes, points, strict=True):
        labels = [raw[key] for key in axis.keys]
        index = next((n for n, point in enumerate(known) if list(point.labels) == labels), None)
        if index is None:
            point = _new_point(axis, raw, path, problems)
            if point is None:
                return None
            index = len(known)
            known.append(point)
        cell.append(index)
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
        Axis(axis.keys, tuple(known[i] for i in kept))
        for axis, known, kept in zip(axes, points, used, strict=True)
    ]
    return Expansion(tuple(kept_axes), tuple(renumbered))
