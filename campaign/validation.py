"""Errors of pydantic in the words of a spec: what a user wrote where, and what to do about it."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, ValidationError

from campaign.axes import SEED
from campaign.document import Path_, did_you_mean
from campaign.fields import list_length, names_at

_NAME, _WORD, _VARIABLE = r"^[A-Za-z0-9][A-Za-z0-9_-]*$", r"^[^\s]+$", r"^[A-Za-z_][A-Za-z0-9_]*$"

Name = Annotated[str, Field(pattern=_NAME, max_length=64)]
Word = Annotated[str, Field(pattern=_WORD)]
Variable = Annotated[str, Field(pattern=_VARIABLE)]

_PATTERNS = {
    _NAME: "letters, digits, - and _, and start with a letter or digit",
    _WORD: "one word without blanks",
    _VARIABLE: "letters, digits and _, and not start with a digit",
}
"""What texts of these patterns are."""

_PLAIN_WORDS = {
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "list_type": "a list",
    "tuple_type": "a list",
    "string_type": "text",
    "float_type": "a number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
}
"""What a user of YAML calls the types that pydantic names."""


@dataclass(frozen=True)
class ValidationProblem:
    """One error of pydantic in the words of a spec.

    Attributes
    ----------
    path
        Where, in the data.
    message, hint
        What is wrong, and what to do.
    key
        Whether the key is meant and not its value.
    of_several_fields
        Whether a rule about several fields failed, so that it may hold for other values of the axes.
    missing
        Whether it is something that is not there.
    """

    path: Path_
    message: str
    hint: str | None = None
    key: bool = False
    of_several_fields: bool = False
    missing: bool = False


def validation_problems(
    error: ValidationError, data: Any, schema: Mapping[str, Any]
) -> Iterator[ValidationProblem]:
    """Translate pydantic's errors in ``data``; ``schema`` is the JSON Schema of the model."""
    seen: set[Path_] = set()
    misspelt: set[tuple[Path_, str | None]] = set()  # with what each was meant to be, which then is missing
    # Unknown keys come first, so that what is missing because of one is not told too.
    errors = sorted(error.errors(include_url=False), key=lambda found: found["type"] != "extra_forbidden")
    for found in errors:
        path = _path_in(data, found["loc"])
        if path in seen:
            continue  # another branch of the same union
        seen.add(path)
        name = ".".join(str(part) for part in path)
        if found["type"] == "extra_forbidden":
            free = set(names_at(schema, path[:-1])) - set(_node(data, path[:-1]))
            hint = did_you_mean(str(path[-1]), free)
            misspelt.add((path[:-1], hint))
            if path == (SEED,):
                hint = "seed is an axis: axes: {seed: {count: 4}}"
            yield ValidationProblem(path, f"unknown key {path[-1]!r}", hint, key=True)
        elif found["type"] == "missing" and isinstance(found["loc"][-1], int):
            length = list_length(schema, path)
            yield ValidationProblem(path, f"{name} needs {length} values, not {len(found['input'])}")
        elif found["type"] == "missing":
            if (path[:-1], did_you_mean(str(path[-1]), [str(path[-1])])) in misspelt:
                continue
            yield ValidationProblem(path[:-1], f"{name} is missing", key=True, missing=True)
        elif (words := _PATTERNS.get(found.get("ctx", {}).get("pattern", ""))) is not None:
            message = f"{name} should be {words}, not {found['input']!r}"
            yield ValidationProblem(path, message, key=found["loc"][-1] == "[key]")
        else:
            several = found["type"] in {"value_error", "assertion_error"}
            yield ValidationProblem(
                path, _sentence(name, found), _value_hint(found), of_several_fields=several
            )


def _node(data: Any, path: Path_) -> Any:
    for part in path:
        data = data[part]
    return data


def _sentence(name: str, found: Mapping[str, Any]) -> str:
    subject = name or "the spec"
    message = str(found["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ").rstrip(".")
    if found["type"] in {"too_short", "too_long"}:
        least = found["type"] == "too_short"
        number = found["ctx"]["min_length" if least else "max_length"]
        bound = f"at {'least' if least else 'most'} {number} {'entry' if number == 1 else 'entries'}"
        return f"{subject} should have {bound}, not {found['ctx']['actual_length']}"
    if not message.startswith("Input should be "):
        return f"{subject}: {message[:1].lower()}{message[1:]}"
    wanted = _PLAIN_WORDS.get(found["type"]) or message.removeprefix("Input should be ")
    value = found["input"]
    shown = "" if isinstance(value, dict | list) else f", not {json.dumps(value)}"
    return f"{subject} should be {wanted}{shown}"


def _value_hint(found: Mapping[str, Any]) -> str | None:
    if found["type"] == "string_type" and isinstance(found["input"], bool | int | float):
        return "put it in quotes"
    if found["type"] not in {"literal_error", "enum"} or not isinstance(found["input"], str):
        return None
    choices = str(found["ctx"]["expected"]).replace(" or ", ", ").replace("'", "").split(", ")
    hint = did_you_mean(found["input"], choices)
    return hint if hint and hint.startswith("did") else None


def _path_in(data: Any, loc: tuple[str | int, ...]) -> Path_:
    """Pydantic's location without the names of union branches, which are not in the data."""
    path: list[str | int] = []
    for number, part in enumerate(loc):
        inside = (isinstance(data, dict) and part in data) or (
            isinstance(data, list) and isinstance(part, int) and part < len(data)
        )
        if inside:
            data = data[part]
            path.append(part)
        elif number == len(loc) - 1 and isinstance(data, dict) and part != "[key]":
            path.append(part)
    return tuple(path)
