"""What is wrong in the settings of a calculation, as far as it can be known while other things are wrong.

A condition is what the runs of all seeds share. `campaign.plan` looks at all of them, once nothing else is
wrong. Here one is looked at for each value of each axis, and a part that is wrong is replaced by its default;
then nothing is told that could follow from a default that nobody asked for.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, takewhile
from typing import Any

from pydantic import ValidationError

from campaign.axes import SEED, Axis, Point, blamed, label_text, merged, overlaps
from campaign.document import Path_, Problems, did_you_mean
from campaign.errors import CampaignError, SpecError
from campaign.fields import field_paths
from campaign.protocols import base as protocols
from campaign.protocols.base import BrokenRule, BrokenRulesError, CalculationProtocol
from campaign.quantities import Settings
from campaign.structures.materials import MATERIALS, Material, with_definitions
from campaign.validation import ValidationProblem, validation_problems

MAX_CONDITIONS = 1000
"""An axis may have very many values, and the first mistakes are told soon."""

MAX_RUNS_SEEN = 200_000
"""Of a larger grid only the first runs are looked through."""

ENOUGH_PROBLEMS = 30
"""No further conditions are looked at then."""

_PASSES = 8
"""So often what is wrong is left out and the rest is tried: once for each level of nested settings."""

NumberedPoints = tuple[tuple[int, Point], ...]
"""Value of a run on each axis, with its number there."""


@dataclass(frozen=True)
class Written:
    """What a spec says of one calculation beside its axes; ``where`` is the calculation's path."""

    protocol: str
    engine: str
    settings: Mapping[str, Any]
    materials: Mapping[str, Material]
    where: Path_


def check_settings(
    written: Written,
    axes: Sequence[Axis],
    runs: Iterable[NumberedPoints],
    unknown: set[str],
    problems: Problems,
) -> None:
    """Check settings with the first values of the axes; with the others too if something is wrong.

    Parameters
    ----------
    written
        The calculation; its protocol is known.
    axes, runs
        Those that can be used, and the values that each run has on them.
    unknown
        Dotted paths of fields, ``engine``, and whatever else is not known: nothing is told that could follow
        from these fields, and no rule of several fields if any could be meant.
    problems
        Where to tell what is wrong.
    """
    protocol = protocols.get_protocol(written.protocol)
    schema = protocol.settings.model_json_schema()
    known = field_paths(schema)
    # An axis of no field was told; which one it was to be is not known.
    sure = known | {"engine"} >= unknown.union(*(axis.fields for axis in axes))
    conditions = 0
    found: dict[tuple[ValidationProblem, Path_], tuple[int, list[str]]] = {}
    for points in _conditions(axes, runs):
        values = {path: value for point in points for path, value in point.values.items() if path in known}
        places = {path: place for point in points for path, place in point.where.items()}
        data = with_definitions(merged(written.settings, values), written.materials)
        labels = [
            f"{key}={label_text(label)}"
            for axis, point in zip(axes, points, strict=True)
            for key, label in zip(axis.keys, point.labels, strict=True)
            if key != SEED
        ]
        conditions += 1
        for problem in _wrong(protocol, schema, written.engine, data, unknown if sure else None):
            one = _with_own_materials(problem, data, written.materials)
            place, _ = blamed(one.path, written.settings, written.where, places)
            number, shared = found.get((one, place), (0, labels))
            found[one, place] = (number + 1, [label for label in shared if label in labels])
        if not (found or len(problems)) or len(found) > ENOUGH_PROBLEMS:
            break
    for (one, place), (number, shared) in found.items():
        in_settings = place[: len(written.where) + 1] == (*written.where, "settings")
        tells = one.of_several_fields and shared and number < conditions
        context = f" (in {', '.join(shared)})" if tells else ""
        problems.add(place, one.message, hint=one.hint, key=one.key and in_settings, context=context)


def _with_own_materials(
    problem: ValidationProblem, data: Any, own: Mapping[str, Material]
) -> ValidationProblem:
    """Name the materials of the spec, too, where one is not known; settings know the built-in ones only."""
    if not own or problem.path[-1:] != ("material",) or problem.missing:
        return problem
    name = data
    for part in problem.path:
        name = name.get(part) if isinstance(name, dict) else None
    known = [*own, *MATERIALS]
    if not isinstance(name, str) or name in known:
        return problem
    message = f"{'.'.join(map(str, problem.path))} should be one of {', '.join(known)}, not {name!r}"
    hint = did_you_mean(name, known)
    return replace(problem, message=message, hint=hint if hint and hint.startswith("did") else None)


def without(data: Any, paths: Iterable[Path_]) -> Any:
    """Plain data without the values at these paths; lists stay whole."""
    for path in paths:
        *parents, last = path
        copy = node = dict(data)
        for part in parents:
            if not isinstance(node.get(part), dict):
                break
            node[part] = dict(node[part])
            node = node[part]
        else:
            node.pop(last, None)
        data = copy
    return data


def _conditions(axes: Sequence[Axis], runs: Iterable[NumberedPoints]) -> Iterator[tuple[Point, ...]]:
    """Find for each value of each axis the first run that has it."""
    varied = [i for i, axis in enumerate(axes) if axis.keys != (SEED,)]
    seen: set[tuple[int, int]] = set()
    left = MAX_CONDITIONS
    for number, run in enumerate(islice(runs, MAX_RUNS_SEEN)):
        new = {(i, run[i][0]) for i in varied} - seen
        if (new or number == 0) and left:
            left -= 1
            seen |= new
            yield tuple(point for _, point in run)


def _wrong(
    protocol: CalculationProtocol,
    schema: Mapping[str, Any],
    engine: str,
    data: dict[str, Any],
    unknown: set[str] | None,
) -> Iterator[ValidationProblem]:
    """Yield what is wrong in one condition; with ``unknown`` None it may be any field that is not known."""
    sure, doubtful = unknown is not None, set(unknown or ())
    left_out: set[str] = set()
    for _ in range(_PASSES):
        try:
            settings = protocol.settings.model_validate_json(json.dumps(data), strict=True)
        except ValidationError as error:
            found = list(validation_problems(error, data, schema))
        else:
            if sure:
                yield from _broken(protocol, settings, engine, doubtful)
            return
        for one in found:
            # A field that is missing may be what an unknown value gives, or an axis that is misspelt.
            certain = sure and not (doubtful if one.missing else _overlaps(one.path, doubtful))
            alone = not (one.missing or one.of_several_fields or _overlaps(one.path, left_out))
            if certain or alone:
                yield one
        fields = [_field(one.path) for one in found]
        if () in fields:
            return
        data = without(data, fields)
        left_out.update(map(".".join, fields))
        doubtful |= left_out
        # A misspelt field has its default, which nobody asked for.
        sure = sure and not any(one.key and not one.missing for one in found)


def _broken(
    protocol: CalculationProtocol, settings: Settings, engine: str, doubtful: set[str]
) -> Iterator[ValidationProblem]:
    """Yield the rules that settings break and that do not follow from a doubtful field."""
    try:
        protocol.validate(settings, engine)
    except BrokenRulesError as error:
        rules = error.rules
    except SpecError as error:  # of a protocol that does not say what it follows from
        rules = () if doubtful else (BrokenRule(error, ()),)
    except CampaignError:  # not the spec's fault: the plan tells it when the spec is right
        return
    else:
        return
    for rule in rules:
        if not any(_overlaps((field,), doubtful) for field in rule.fields):
            told = rule.error
            path = tuple(str(told.where).split(".")) if told.where else ()
            yield ValidationProblem(path, told.message, told.hint, of_several_fields=True)


def _overlaps(path: Path_, names: Iterable[str]) -> bool:
    """Whether a path names, contains or lies in one of these fields; the whole settings contain all."""
    name = ".".join(map(str, path))
    return any(not name or overlaps(name, other) for other in names)


def _field(path: Path_) -> tuple[str, ...]:
    """Field of settings in which a path lies; a list is one field."""
    return tuple(takewhile(lambda part: isinstance(part, str), path))  # type: ignore[arg-type]
