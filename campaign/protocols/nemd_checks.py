"""Gates and flags of one NEMD run: what they compare, and what they say when they do not pass.

A gate that does not pass takes the run out of statistics. A flag never does: dropping runs by their own jump
or conductance would bias the mean. The reduction stores value, limit and outcome of every check along the
dimension ``check``; this module is the one place that knows their meaning.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from campaign.protocols.base import Check, Severity

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class CheckKind:
    """One check: what its value means, how it compares, and the sentence for the wrong side of the limit."""

    severity: Severity
    comparison: Literal["<=", ">="]
    units: str
    meaning: str
    sentence: str

    def passes(self, value: float, limit: float) -> bool:
        """Whether the value is on the right side."""
        return value <= limit if self.comparison == "<=" else value >= limit


_GATE, _FLAG = Severity.GATE, Severity.FLAG

CHECKS: Mapping[str, CheckKind] = {
    "finite": CheckKind(
        _GATE,
        "<=",
        "1",
        "Recorded values that are not finite numbers.",
        "{value:.0f} recorded values are not finite numbers",
    ),
    "window": CheckKind(
        _GATE,
        "<=",
        "1",
        "Samples of the heat flow that the window lacks.",
        "{value:.0f} samples of the heat flow are missing",
    ),
    "atoms": CheckKind(_GATE, "<=", "1", "Atoms that were lost.", "{value:.0f} atoms were lost"),
    "neighbours": CheckKind(
        _GATE,
        "<=",
        "1",
        "Builds of the neighbour list that came too late (the engine's dangerous builds).",
        "{value:.0f} dangerous builds of the neighbour list",
    ),
    "layer_order": CheckKind(
        _GATE,
        ">=",
        "angstrom",
        "Smallest distance between the mean heights of two adjacent layers at the end.",
        "two adjacent layers are {value:.2f} angstrom apart, at least {limit:.2f} are needed",
    ),
    "bond_short": CheckKind(
        _GATE,
        ">=",
        "1",
        "Shortest bond at the end over the sum of the covalent radii.",
        "the shortest bond is {value:.2f} times the sum of the covalent radii, below {limit:.2f}",
    ),
    "bond_long": CheckKind(
        _GATE,
        "<=",
        "1",
        "Longest bond at the end over the sum of the covalent radii.",
        "the longest bond is {value:.2f} times the sum of the covalent radii, above {limit:.2f}",
    ),
    "closure": CheckKind(
        _GATE,
        "<=",
        "eV",
        "Change of the total energy over the window that the thermostats do not account for.",
        "the energy account is open by {value:.3g} eV, more than {limit:.3g} eV",
    ),
    "balance": CheckKind(
        _GATE,
        "<=",
        "eV/ps",
        "Difference between the heat flows out of the source and into the sink.",
        "source and sink differ by {value:.3g} eV/ps, more than {limit:.3g} eV/ps",
    ),
    "source": CheckKind(
        _GATE,
        "<=",
        "K",
        "Temperature of the source's layers off the one expected at this heat flow.",
        "the source is {value:.2f} K off its expected temperature, more than {limit:.2f} K",
    ),
    "sink": CheckKind(
        _GATE,
        "<=",
        "K",
        "Temperature of the sink's layers off the one expected at this heat flow.",
        "the sink is {value:.2f} K off its expected temperature, more than {limit:.2f} K",
    ),
    "jump_resolved": CheckKind(
        _FLAG,
        ">=",
        "1",
        "Temperature jump over its standard error within the run.",
        "the temperature jump is only {value:.1f} times its standard error",
    ),
    "conductance_resolved": CheckKind(
        _FLAG,
        "<=",
        "1",
        "Standard error of the conductance within the run over the conductance.",
        "the standard error of the conductance is {value:.0%} of it",
    ),
    "heat_flow_steady": CheckKind(
        _FLAG,
        "<=",
        "1",
        "Change of the heat flow between the halves of the window over its standard error.",
        "the heat flow changed by {value:.1f} standard errors between the halves of the window",
    ),
    "jump_steady": CheckKind(
        _FLAG,
        "<=",
        "1",
        "Change of the jump between the halves of the window over its standard error.",
        "the jump changed by {value:.1f} standard errors between the halves of the window",
    ),
    "profile_linear": CheckKind(
        _FLAG,
        "<=",
        "1",
        "Root-mean-square distance of a side's free layers from a straight profile over its standard error; "
        "the larger of both sides.",
        "the free layers of a side lie {value:.1f} standard errors off a straight profile",
    ),
    "interface_forms": CheckKind(
        _FLAG,
        "<=",
        "eV/ps",
        "Difference between the heat flows into and out of the interface by the energies of the two sides.",
        "heat flows into and out of the interface differ by {value:.3g} eV/ps, more than {limit:.3g} eV/ps",
    ),
    "stacking_kept": CheckKind(
        _FLAG,
        ">=",
        "1",
        "Part of the interface that still has the stacking of its label at the end.",
        "only {value:.0%} of the interface still has the stacking of its label",
    ),
}


def make_check(name: str, value: float, limit: float) -> Check:
    """Check by name; its outcome and its reason follow from value and limit. A value of NaN never passes."""
    kind = CHECKS[name]
    passed = not math.isnan(value) and kind.passes(value, limit)
    if math.isnan(value):
        reason = f"{name} could not be computed"
    else:
        reason = "" if passed else kind.sentence.format(value=value, limit=limit)
    return Check(name, kind.severity, passed, value, limit, kind.units, reason, kind.meaning, kind.comparison)


def invalid_reason(checks: Iterable[Check]) -> str:
    """Reasons of all gates that did not pass, or an empty string."""
    return "; ".join(check.reason for check in _failed(checks, Severity.GATE))


def raised_flags(checks: Iterable[Check]) -> str:
    """Names of all flags that are raised, separated by commas."""
    return ", ".join(check.name for check in _failed(checks, Severity.FLAG))


def _failed(checks: Iterable[Check], severity: Severity) -> list[Check]:
    return [check for check in checks if check.severity is severity and check.raised]


def stored_checks(result: "xr.Dataset") -> tuple[Check, ...]:
    """Rebuild the checks of a reduced run from its stored values and limits."""
    values, limits = np.asarray(result["check_value"]), np.asarray(result["check_limit"])
    names = [str(name) for name in result["check"].values]
    return tuple(
        make_check(name, float(value), float(limit))
        for name, value, limit in zip(names, values, limits, strict=True)
    )
