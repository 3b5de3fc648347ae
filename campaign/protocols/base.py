"""The contract between a calculation and everything around it.

A protocol turns the settings of one run into a chain of stages, reduces their outputs to a small dataset with
units, and judges it. It knows nothing of Dask, files of the campaign, the ledger or other runs.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache, cached_property
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

from campaign.errors import Location, SpecError
from campaign.quantities import Settings, digest, random_seed

if TYPE_CHECKING:
    import xarray as xr

StageKind = Literal["build", "relax", "equilibrate", "produce", "reduce"]


@dataclass(frozen=True)
class Stage:
    """A step with its own resources and identity: the committed object. Equal stages are computed once.

    Attributes
    ----------
    kind
        What it does; also its resource class.
    protocol
        Name of the protocol that made it.
    settings
        All that decides the outcome, defaults resolved (a `Simulation` for stages of an engine).
    version
        Our integer for what it computes: of the builder, the engine (``results_version``) or the reduction.
    needs
        Ids of the stages whose outputs it reads, by role.
    engine
        Name of the engine, or None for stages that run in Python.
    files
        Potential files by name with their SHA-256.
    replica
        (base seed, replica label) for stages that draw random numbers, else None.
    atoms, steps
        Size, for progress and cost; they follow from the settings and do not enter the identity.
    keeps_state
        Whether another stage goes on from the engine's state at its end; else that is dropped.
    """

    kind: StageKind
    protocol: str
    settings: Settings
    version: int
    needs: Mapping[str, str] = field(default_factory=dict)
    engine: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    replica: tuple[int, int] | None = None
    atoms: int = 0
    steps: int = 0
    keeps_state: bool = False

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that decides the outcome, as plain data; ``id`` is its digest."""
        return {
            "kind": self.kind,
            "protocol": self.protocol,
            "settings": self.settings.model_dump(mode="json"),
            "version": self.version,
            "needs": dict(self.needs),
            "engine": self.engine,
            "files": dict(self.files),
            "random_seed": self.random_seed,
        }

    @cached_property
    def id(self) -> str:
        """Stage id: digest of the identity, 32 hexadecimal digits."""
        return digest(self.identity)

    @cached_property
    def random_seed(self) -> int | None:
        """Seed of the stage's random numbers (1..900,000,000), a hash; None where nothing is drawn."""
        if self.replica is None:
            return None
        return random_seed(*self.replica, self.settings.model_dump(mode="json"), dict(self.needs))


class Severity(StrEnum):
    """Whether a check excludes a run from statistics (gate) or only marks it (flag)."""

    GATE = "gate"
    FLAG = "flag"


@dataclass(frozen=True)
class Check:
    """Outcome of one gate or flag of one run.

    ``value`` and ``limit`` are in ``units``; a gate that did not pass excludes the run, with ``reason``.
    ``meaning`` says what the value is, and ``comparison`` on which side of the limit it has to lie.
    """

    name: str
    severity: Severity
    passed: bool
    value: float
    limit: float
    units: str
    reason: str
    meaning: str = ""
    comparison: Literal["<=", ">="] = "<="

    @property
    def raised(self) -> bool:
        """Whether it found something; where its value could not be computed, a gate of its own says why."""
        return not self.passed and not math.isnan(self.value)


@dataclass(frozen=True)
class Variable:
    """A variable that a protocol promises in its reduced dataset."""

    units: str
    long_name: str
    dims: tuple[str, ...] = ()


@dataclass(frozen=True)
class BrokenRule:
    """A rule that settings break; ``fields`` are the dotted names of all fields that it follows from."""

    error: SpecError
    fields: tuple[str, ...]


class BrokenRulesError(SpecError):
    """Settings break one or several rules; it reads as the first of them."""

    def __init__(
        self,
        message: str,
        *,
        where: Location | str | None = None,
        hint: str | None = None,
        rules: Sequence[BrokenRule] = (),
    ) -> None:
        super().__init__(message, where=where, hint=hint)
        self.rules = tuple(rules)


class Rules:
    """Collects the rules that settings break, so that all of them can be told at once."""

    def __init__(self) -> None:
        self._broken: list[BrokenRule] = []

    @contextmanager
    def about(self, *fields: str) -> Iterator[None]:
        """Check a rule that follows from ``fields`` and nothing else."""
        try:
            yield
        except SpecError as error:
            self._broken.append(BrokenRule(error, fields))

    def check(self) -> None:
        """Raise what was collected.

        Raises
        ------
        BrokenRulesError
            A rule is broken.
        """
        if self._broken:
            first = self._broken[0].error
            raise BrokenRulesError(first.message, where=first.where, hint=first.hint, rules=self._broken)


@runtime_checkable
class CalculationProtocol(Protocol):
    """A calculation. Stateless."""

    name: ClassVar[str]
    settings: ClassVar[type[Settings]]
    """Settings of one run; every field, also a nested one (``structure.stacking``), can be an axis."""

    variables: ClassVar[Mapping[str, Variable]]
    """What `reduce` promises."""

    ratio: ClassVar[tuple[str, str, str] | None]
    """(result, numerator, denominator): the result's ensemble mean is the ratio of the means of the two."""

    def validate(self, settings: Any, engine: str) -> None:
        """Check one run's settings beyond what their types say: groups, potentials, strain, capabilities.

        Raises
        ------
        SpecError
            With ``where`` set to the dotted name of the field that is to blame (``structure.frozen_layers``).
            Best a `BrokenRulesError` from `Rules`: then a user is told all that is wrong at once.
        """
        ...

    def stages(self, settings: Any, engine: str, replica: tuple[int, int]) -> tuple[Stage, ...]:
        """Stages of one run, each after the ones it needs; the last one's result is the run's."""
        ...

    def execute(self, stage: Stage, inputs: Mapping[str, Path], directory: Path) -> None:
        """Run a stage that has no engine (build, reduce).

        ``inputs`` are the directories of the committed stages it needs, by role. It writes its outputs into
        ``directory``: ``result.nc`` (read with `read_result`) and whatever else is to be kept.
        """
        ...

    def labels(self, settings: Any) -> Mapping[str, str]:
        """Labels of a run that are not fields, such as the pair of materials."""
        ...

    def structure(self, settings: Any) -> Mapping[str, Any]:
        """Say what the structure of a run comes to: the fields of `campaign.runs.StructureRow` but its runs.

        Empty where a run has no structure with an interface.
        """
        ...

    def checks(self, result: "xr.Dataset") -> tuple[Check, ...]:
        """Gates and flags of one reduced run."""
        ...


def write_result(dataset: "xr.Dataset", directory: Path) -> None:
    """Write a stage's dataset as one small file (``result.nc``, netCDF 3, by scipy)."""
    dataset.to_netcdf(directory / "result.nc", engine="scipy")


def read_result(directory: Path) -> "xr.Dataset":
    """Read a stage's dataset into memory."""
    import xarray as xr

    with xr.open_dataset(directory / "result.nc", engine="scipy", decode_timedelta=False) as dataset:
        return dataset.load()


def protocol_names() -> tuple[str, ...]:
    """Names of all installed protocols (entry points ``campaign.protocols``)."""
    return tuple(sorted({entry.name for entry in entry_points(group="campaign.protocols")}))


@cache
def get_protocol(name: str) -> CalculationProtocol:
    """Protocol by name.

    Raises
    ------
    SpecError
        No protocol of that name is installed.
    """
    for entry in entry_points(group="campaign.protocols"):
        if entry.name == name:
            protocol: CalculationProtocol = entry.load()()
            return protocol
    raise SpecError(f"unknown calculation {name!r}", hint=f"known are: {', '.join(protocol_names())}")
