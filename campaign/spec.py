"""The spec of a campaign: a YAML 1.2 file, checked as a whole before anything is spent.

A spec holds one or more calculations. Each has settings (fields of its protocol), and axes that vary fields
over an ensemble of runs; see `campaign.axes` for how they expand. Every error is one line
``file:line:column: message; hint``.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PrivateAttr, ValidationError

from campaign.axes import SEED, AxesSpec, Axis, parse_axes
from campaign.document import Document, Path_, Problems, did_you_mean, read_document
from campaign.engines import base as engines
from campaign.errors import SpecError
from campaign.fields import field_paths, list_length, names_at, spec_schema
from campaign.protocols import base as protocols
from campaign.quantities import Count, Settings
from campaign.structures.materials import MATERIALS, Material

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

TEMPLATE = (Path(__file__).parent / "template.yaml").read_text(encoding="utf-8")
"""What ``campaign init`` writes."""

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


class Limits(Settings):
    """Guards against a slip of the finger."""

    runs: Count = Field(default=10_000, description="More runs than these need --yes.")


class CalculationSpec(Settings):
    """One calculation and its axes."""

    protocol: str = Field(description="What is computed; default: the name of the calculation.")
    engine: str = Field(default="lammps", description="What does the physics.")
    settings: dict[str, Any] = Field(default={}, description="Fields that are the same in all runs.")
    axes: dict[str, Any] = Field(default={}, description="Fields that vary; all combinations are run.")
    zip: list[dict[str, Any]] = Field(default=[], description="Groups of fields that vary together.")
    include: list[dict[str, Any]] = Field(default=[], description="Runs beside the grid of the axes.")
    exclude: list[dict[str, Any]] = Field(default=[], description="Runs of the grid to leave out.")

    def axes_spec(self, where: Path_) -> AxesSpec:
        """Axes as written, for `campaign.axes`."""
        return AxesSpec(self.axes, self.zip, self.include, self.exclude, where)


class CampaignSpec(Settings):
    """A whole spec; make one with `load_spec`."""

    campaign: Name = Field(description="Name of the campaign: letters, digits, - and _.")
    description: str = Field(default="", description="Free text, shown with the results.")
    seed: Annotated[int, Field(ge=0)] = Field(default=0, description="Base of all random seeds.")
    limits: Limits = Limits()
    materials: dict[Name, Material] = Field(
        default={}, description="Layered materials besides the built-in ones, by name."
    )
    notify: str = Field(
        default="",
        description="Command of the shell that is told of the first failure of a class, of what is held "
        "back, and of the end; the message is on its standard input.",
    )
    calculations: Annotated[dict[Name, CalculationSpec], Field(min_length=1)]

    _document: Document = PrivateAttr()

    @property
    def positions(self) -> Document:
        """Where everything stands in the file."""
        return self._document

    @property
    def text(self) -> str:
        """Text of the file."""
        return self._document.text

    @property
    def source(self) -> Path:
        """The file."""
        return self._document.source

    @classmethod
    def of(cls, document: Document) -> "CampaignSpec":
        """Validate a parsed file, up to the values of settings, which `campaign.plan` checks for each run.

        Raises
        ------
        SpecError
            One line for each error, up to ten.
        """
        problems = Problems(document)
        spec = _validated(document, problems)
        for name, calculation in spec.calculations.items():
            _check_names(calculation, ("calculations", name), document, problems)
        problems.check()
        for name, calculation in spec.calculations.items():
            where: Path_ = ("calculations", name)
            axes = parse_axes(calculation.axes_spec(where), problems)
            for axis in axes:
                _check_axis(axis, calculation, where, problems)
        problems.check()
        return spec


def load_spec(path: Path | str) -> CampaignSpec:
    """Read and check a spec.

    Raises
    ------
    SpecError
        One line for each error, up to ten.
    """
    return CampaignSpec.of(read_document(Path(path)))


def json_schema() -> dict[str, Any]:
    """JSON Schema of specs, with the settings of every installed protocol, for editors."""
    settings = {name: protocols.get_protocol(name).settings for name in protocols.protocol_names()}
    return spec_schema(CampaignSpec, settings, engines.engine_names())


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
    """

    path: Path_
    message: str
    hint: str | None = None
    key: bool = False
    of_several_fields: bool = False


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
            yield ValidationProblem(path[:-1], f"{name} is missing", key=True)
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


def _validated(document: Document, problems: Problems) -> CampaignSpec:
    data = document.data
    if not isinstance(data, dict):
        raise SpecError(
            "a spec is a mapping with campaign and calculations",
            where=document.locate(()),
            hint="`campaign init` writes a template",
        )
    calculations = data.get("calculations")
    if isinstance(calculations, dict):
        filled = {
            name: {"protocol": name, **raw} if isinstance(raw, dict) else raw
            for name, raw in calculations.items()
        }
        data = {**data, "calculations": filled}
    materials = data.get("materials")
    if isinstance(materials, dict):
        for name, raw in materials.items():
            if isinstance(raw, dict) and "name" in raw:
                problems.add(
                    ("materials", name, "name"), "unknown key 'name'", hint="its key is its name", key=True
                )
        problems.check()
        named = {
            name: {"name": name, **raw} if isinstance(raw, dict) else raw for name, raw in materials.items()
        }
        data = {**data, "materials": named}
    try:
        # Strict JSON mode is what YAML means: lists for tuples and 300 for 300.0, but neither "300" nor true.
        spec = CampaignSpec.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        schema = CampaignSpec.model_json_schema()
        for found in validation_problems(error, data, schema):
            problems.add(found.path, found.message, hint=found.hint, key=found.key)
        problems.check()
        raise
    for name in spec.materials.keys() & MATERIALS.keys():
        problems.add(("materials", name), f"{name} is built in; choose another name", key=True)
    spec._document = document
    return spec


def _check_names(calculation: CalculationSpec, where: Path_, document: Document, problems: Problems) -> None:
    for field, known in (("protocol", protocols.protocol_names()), ("engine", engines.engine_names())):
        name = getattr(calculation, field)
        if name not in known:
            what = "calculation" if field == "protocol" else field
            own = document.holds((*where, field))  # else the calculation's name is the protocol's
            path = (*where, field) if own else where
            problems.add(path, f"unknown {what} {name!r}", hint=did_you_mean(name, known), key=not own)


def _check_axis(axis: Axis, calculation: CalculationSpec, where: Path_, problems: Problems) -> None:
    """Axes name fields of the protocol, and none that the settings fix."""
    schema = protocols.get_protocol(calculation.protocol).settings.model_json_schema()
    known = field_paths(schema)
    zips = {key: ("zip", n, key) for n, group in enumerate(calculation.zip) for key in group}
    for key in axis.keys:
        place = (*where, *zips.get(key, ("axes", key)))
        if axis.named and key in known:
            message = f"labelled values need a name of your own, but {key} is a field"
            problems.add(place, message, hint="give the axis another name", key=True)
    for path, key in axis.fields.items():
        place = (*where, *zips.get(key, ("axes", key)))
        at = (*place, 0, "set", path) if axis.named else place
        if path not in known:
            hint = "seed is an axis of its own" if path == SEED else _field_hint(path, known)
            problems.add(at, f"{calculation.protocol} has no field {path!r}", hint=hint, key=True)
        elif _holds(calculation.settings, path):
            problems.add(at, f"{path} is both an axis and a setting", hint="remove one of them", key=True)


def _field_hint(path: str, known: frozenset[str]) -> str | None:
    longer = sorted(name for name in known if name.endswith(f".{path}"))
    return f"did you mean {' or '.join(map(repr, longer[:3]))}?" if longer else did_you_mean(path, known)


def _holds(settings: Any, path: str) -> bool:
    for part in path.split("."):
        if not isinstance(settings, dict) or part not in settings:
            return False
        settings = settings[part]
    return True
