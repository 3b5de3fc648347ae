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
    """One check: ``value`` compared with ``limit``, and the sentence for a value on the wrong side."""

    severity: Severity
    comparison: Literal["<=", ">="]
    units: str
    sentence: str

    def passes(self, value: float, limit: float) -> bool:
        """Whether the value is on the right side."""
        return value <= limit if self.comparison == "<=" else value >= limit


_GATE, _FLAG = Severity.GATE, Severity.FLAG

CHECKS: Mapping[str, CheckKind] = {
    "finite": CheckKind(_GATE, "<=", "1", "{value:.0f} recorded values are not finite numbers"),
    "window": CheckKind(_GATE, "<=", "1", "{value:.0f} samples of the heat flow are missing"),
    "atoms": CheckKind(_GATE, "<=", "1", "{value:.0f} atoms were lost"),
    "neighbours": CheckKind(_GATE, "<=", "1", "{value:.0f} dangerous builds of the neighbour list"),
    "layer_order": CheckKind(
        _GATE,
        ">=",
        "angstrom",
        "two adjacent layers are {value:.2f} angstrom apart, at least {limit:.2f} are needed",
    ),
    "bond_short": CheckKind(
        _GATE,
        ">=",
        "1",
        "the shortest bond is {value:.2f} times the sum of the covalent radii, below {limit:.2f}",
    ),
    "bond_long": CheckKind(
        _GATE,
        "<=",
        "1",
        "the longest bond is {value:.2f} times the sum of the covalent radii, above {limit:.2f}",
    ),
    "closure": CheckKind(
        _GATE, "<=", "eV", "the energy account is open by {value:.3g} eV, more than {limit:.3g} eV"
    ),
    "balance": CheckKind(
        _GATE, "<=", "eV/ps", "source and sink differ by {value:.3g} eV/ps, more than {limit:.3g} eV/ps"
    ),
    "source": CheckKind(
        _GATE, "<=", "K", "the source is {value:.2f} K off its expected temperature, more than {limit:.2f} K"
    ),
    "sink": CheckKind(
        _GATE, "<=", "K", "the sink is {value:.2f} K off its expected temperature, more than {limit:.2f} K"
    ),
    "jump_resolved": CheckKind(
        _FLAG, ">=", "1", "the temperature jump is only {value:.1f} times its standard error"
    ),
    "conductance_resolved": CheckKind(
        _FLAG, "<=", "1", "the standard error of the conductance is {value:.0%} of it"
    ),
    "heat_flow_steady": CheckKind(
        _FLAG,
        "<=",
        "1",
        "the heat flow changed by {value:.1f} standard errors between the halves of the window",
    ),
    "jump_steady": CheckKind(
        _FLAG, "<=", "1", "the jump changed by {value:.1f} standard errors between the halves of the window"
    ),
    "profile_linear": CheckKind(
        _FLAG, "<=", "1", "the free layers of a side lie {value:.1f} standard errors off a straight profile"
    ),
    "interface_forms": CheckKind(
        _FLAG,
        "<=",
        "eV/ps",
        "heat flows into and out of the interface differ by {value:.3g} eV/ps, more than {limit:.3g} eV/ps",
    ),
    "stacking_kept": CheckKind(
        _FLAG, ">=", "1", "only {value:.0%} of the interface still has the stacking of its label"
    ),
}


def make_check(name: str, value: float, limit: float) -> Check:
    """Check by name; its outcome and its reason follow from value and limit. A value of NaN never passes."""
    kind = CHECKS[name]
    if math.isnan(value):
        return Check(name, kind.severity, False, value, limit, kind.units, f"{name} could not be computed")
    passed = kind.passes(value, limit)
    reason = "" if passed else kind.sentence.format(value=value, limit=limit)
    return Check(name, kind.severity, passed, value, limit, kind.units, reason)


def invalid_reason(checks: Iterable[Check]) -> str:
    """Reasons of all gates that did not pass, or an empty string."""
    return "; ".join(check.reason for check in _failed(checks, Severity.GATE))


def raised_flags(checks: Iterable[Check]) -> str:
    """Names of all flags that are raised, separated by commas."""
    return ", ".join(check.name for check in _failed(checks, Severity.FLAG))


def _failed(checks: Iterable[Check], severity: Severity) -> list[Check]:
    # what could not be computed has a gate of its own that says why
    return [
        check
        for check in checks
        if check.severity is severity and not check.passed and not math.isnan(check.value)
    ]


def stored_checks(result: "xr.Dataset") -> tuple[Check, ...]:
    """Rebuild the checks of a reduced run from its stored values and limits."""
    values, limits = np.asarray(result["check_value"]), np.asarray(result["check_limit"])
    names = [str(name) for name in result["check"].values]
    return tuple(
        make_check(name, float(value), float(limit))
        for name, value, limit in zip(names, values, limits, strict=True)
    )
