"""The spec of a campaign: a YAML 1.2 file, checked as a whole before anything is spent.

A spec holds one or more calculations. Each has settings (fields of its protocol), and axes that vary fields
over an ensemble of runs; see `campaign.axes` for how they expand. Every error is one line
``file:line:column: message; hint``.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PrivateAttr, ValidationError

from campaign.axes import SEED, AxesSpec, Axis, fields_without_values, parse_axes, runs_of
from campaign.conditions import Written, check_settings, without
from campaign.document import Document, Path_, Problems, did_you_mean, read_document
from campaign.engines import base as engines
from campaign.errors import SpecError
from campaign.fields import field_paths, spec_schema
from campaign.protocols import base as protocols
from campaign.quantities import Count, Settings
from campaign.structures.materials import MATERIALS, Material
from campaign.validation import Name, validation_problems

TEMPLATE = (Path(__file__).parent / "template.yaml").read_text(encoding="utf-8")
"""What ``campaign init`` writes."""


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
        "back, and of the end; the message is on its standard input, CAMPAIGN_EVENT in its environment is "
        "`failure`, `held` or `ended`, and CAMPAIGN_DIRECTORY the campaign's directory.",
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
        """Validate a parsed file.

        A check goes on wherever it does not depend on what is wrong elsewhere. Settings are checked for the
        first values of the axes; for all of them where something is wrong, else `campaign.plan` does that.

        Raises
        ------
        SpecError
            One line for each error, up to ten.
        """
        problems = Problems(document)
        spec, wrong = _read(document, problems)
        if spec is not None:
            for name in spec.calculations:
                _check_calculation(spec, name, wrong, document, problems)
        problems.check()
        assert spec is not None  # else something was told
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


def _read(document: Document, problems: Problems) -> tuple["CampaignSpec | None", frozenset[Path_]]:
    """Validate a parsed file by its types; what is wrong goes to ``problems``.

    Returns the spec, without the parts that are wrong, and their paths; None where too little is left.
    """
    data = document.data
    if not isinstance(data, dict):
        raise SpecError(
            "a spec is a mapping with campaign and calculations",
            where=document.locate(()),
            hint="`campaign init` writes a template",
        )
    wrong: set[Path_] = set()
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
                path = ("materials", name, "name")
                problems.add(path, "unknown key 'name'", hint="its key is its name", key=True)
                wrong.add(path)
        named = {
            name: {**raw, "name": name} if isinstance(raw, dict) else raw for name, raw in materials.items()
        }
        data = {**data, "materials": named}
    schema = CampaignSpec.model_json_schema()
    spec = None
    for told in (False, True):  # as it is; then without what is wrong, to go on with the rest
        try:
            # Strict JSON is what YAML means: lists for tuples and 300 for 300.0, but neither "300" nor true.
            spec = CampaignSpec.model_validate_json(json.dumps(data), strict=True)
            break
        except ValidationError as error:
            found = list(validation_problems(error, data, schema))
        if not told:
            for one in found:
                problems.add(one.path, one.message, hint=one.hint, key=one.key)
            wrong |= {one.path for one in found}
            data = {"campaign": "unnamed", **without(data, {_part(path) for path in wrong if path})}
    if spec is None:
        return None, frozenset(wrong)
    for name in spec.materials.keys() & MATERIALS.keys():
        problems.add(("materials", name), f"{name} is built in; choose another name", key=True)
        wrong.add(("materials", name))
    spec._document = document
    return spec, frozenset(wrong)


def _part(path: Path_) -> Path_:
    """Return what is left out of a spec for an error at ``path``: a field of a calculation or of the spec."""
    if path[:1] != ("calculations",):
        return path[:1]
    # The protocol decides what everything else in a calculation means.
    return path[:2] if path[2:3] == ("protocol",) else path[:3]


def _check_calculation(
    spec: CampaignSpec, name: str, wrong: frozenset[Path_], document: Document, problems: Problems
) -> None:
    """Tell whatever is wrong in one calculation; ``wrong`` are the parts that were told already."""
    calculation = spec.calculations[name]
    where: Path_ = ("calculations", name)
    lacking = {path[2] for path in wrong if path[:2] == where and len(path) > 2}
    unknown = set(_check_names(calculation, where, document, problems))
    axes_spec = calculation.axes_spec(where)
    before = len(problems)
    axes = parse_axes(axes_spec, problems)
    if "protocol" in unknown:
        return
    for axis in axes:
        _check_axis(axis, calculation, where, problems)
    if len(problems) > before or not lacking.isdisjoint({"axes", "zip", "include", "exclude"}):
        # Rules about axes cannot be judged without them, nor which runs they leave.
        unknown |= fields_without_values(axes, axes_spec) | ({"exclude"} if calculation.exclude else set())
        axes = tuple(axis for axis in axes if axis.points)
        axes_spec = replace(axes_spec, include=(), exclude=())
    runs = runs_of(axes, axes_spec, problems)
    if lacking <= {"engine", "include", "exclude"} and all(path[:1] != ("materials",) for path in wrong):
        written = Written(
            calculation.protocol, calculation.engine, calculation.settings, spec.materials, where
        )
        check_settings(written, axes, runs, unknown | ({"engine", "exclude"} & lacking), problems)


def _check_names(
    calculation: CalculationSpec, where: Path_, document: Document, problems: Problems
) -> Iterator[str]:
    """Tell what is unknown of protocol and engine, and yield which."""
    for field, known in (("protocol", protocols.protocol_names()), ("engine", engines.engine_names())):
        name = getattr(calculation, field)
        if name not in known:
            what = "calculation" if field == "protocol" else field
            own = document.holds((*where, field))  # else the calculation's name is the protocol's
            path = (*where, field) if own else where
            problems.add(path, f"unknown {what} {name!r}", hint=did_you_mean(name, known), key=not own)
            yield field


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
