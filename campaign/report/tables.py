"""Numbers and texts of a report, ready to be shown."""

import math
from dataclasses import dataclass

import numpy as np

from campaign.errors import SpecError
from campaign.protocols.base import Check, Severity, get_protocol
from campaign.report.ensemble import RUN, Condition, Ensemble, with_error

MAX_CELLS = 2000
"""Larger ensembles show counts for each condition instead of one cell for each run."""
MAX_REMARKS = 200
MARKS = {"done": "done", "excluded": "gate", "running": "run", "failed": "fail", "pending": "wait"}
"""Words in the cells of the grid; colour never carries the meaning alone."""


@dataclass(frozen=True)
class HeadlineRow:
    """Conductance of one condition, in MW m^-2 K^-1, as text."""

    title: str
    pooled: bool
    n: int
    n_excluded: int
    n_missing: int
    ratio: str
    interval: str
    paper: str
    published: str
    source: str
    z: str


@dataclass(frozen=True)
class SteadyRow:
    """Steady state of one condition over its runs."""

    title: str
    drifts: dict[str, str]
    storage: str
    verdict: str
    additional_build_up: str


@dataclass(frozen=True)
class GridRow:
    """States of the runs of one condition: (state, word, explanation) of each, or counts."""

    title: str
    cells: list[tuple[str, str, str]]
    counts: str


@dataclass(frozen=True)
class CheckRow:
    """How often one gate or flag passed."""

    name: str
    severity: str
    passed: int
    not_passed: int


@dataclass(frozen=True)
class Remark:
    """What is to be said of one run."""

    run: str
    state: str
    text: str


def headline(ensemble: Ensemble) -> list[HeadlineRow]:
    """One row for each condition; those joined over both directions first."""
    return [_headline_row(condition) for condition in [*ensemble.pooled, *ensemble.conditions]]


def _headline_row(condition: Condition) -> HeadlineRow:
    mean = {str(name): variable.item() for name, variable in condition.mean.data_vars.items()}
    lower, upper = mean["itc_lower"], mean["itc_upper"]
    bounded = math.isfinite(lower) and math.isfinite(upper)
    published = condition.published
    return HeadlineRow(
        title=condition.title,
        pooled=condition.pooled,
        n=int(mean["n"]),
        n_excluded=int(mean["n_excluded"]),
        n_missing=int(mean["n_missing"]),
        ratio=with_error(mean["itc"], mean["itc_standard_error"]),
        interval=f"{lower:.1f} to {upper:.1f}" if bounded else ("not bounded" if mean["n"] > 1 else "-"),
        paper=with_error(mean["itc_mean_of_runs"], mean["itc_standard_deviation_of_runs"]),
        published="" if published is None else with_error(published.mean, published.standard_error),
        source="" if published is None else published.source,
        z=f"{condition.z:+.1f}" if bounded and math.isfinite(condition.z) else "",
    )


def steady_state(ensemble: Ensemble) -> list[SteadyRow]:
    """Drift between the halves of the window, averaged over runs."""
    rows = []
    for condition in ensemble.conditions:
        if not condition.used.sizes[RUN]:
            continue
        checks = condition.checks
        drifts = {
            str(name).removesuffix("_drift_z").replace("_", " "): f"{checks[name].item():+.1f}"
            if math.isfinite(checks[name].item())
            else "-"
            for name in checks.data_vars
            if str(name).endswith("_drift_z")
        }
        stored = checks["storage_fraction"].item() if "storage_fraction" in checks else math.nan
        more = checks["additional_build_up"].item() if "additional_build_up" in checks else 0.0
        rows.append(
            SteadyRow(
                title=condition.title,
                drifts=drifts,
                storage=f"{100 * stored:+.1f} %" if math.isfinite(stored) else "-",
                verdict=str(checks["steady_state"].item()),
                additional_build_up=f"{more:.0f} ps" if more > 0 else "",
            )
        )
    return rows


def grid(ensemble: Ensemble) -> list[GridRow]:
    """States of all runs by condition."""
    states, reasons = ensemble.states, ensemble.table["reason"].values.tolist()
    single = len(ensemble.runs) <= MAX_CELLS
    members: dict[int, list[int]] = {}
    for index, run in enumerate(ensemble.runs):
        members.setdefault(run.group, []).append(index)
    rows = []
    for condition, indices in zip(ensemble.conditions, members.values(), strict=True):
        cells = []
        for index in indices if single else ():
            explanation = f"{ensemble.runs[index].id}: {states[index]}"
            if reasons[index]:
                explanation += f" ({reasons[index]})"
            cells.append((states[index], MARKS[states[index]], explanation))
        found = [states[index] for index in indices]
        counts = ", ".join(f"{found.count(state)} {state}" for state in MARKS if state in found)
        rows.append(GridRow(condition.title, cells, counts))
    return rows


def checks(ensemble: Ensemble) -> list[CheckRow]:
    """Gates and flags over all finished runs."""
    table = ensemble.table
    if "check_passed" not in table or "check" not in table["check_passed"].dims:
        return []
    done = np.array([state in {"done", "excluded"} for state in ensemble.states])
    passed = table["check_passed"].transpose(RUN, "check").values
    judged = done[:, None] & np.isfinite(table["check_limit"].transpose(RUN, "check").values)
    severities = _severities(ensemble)
    return [
        CheckRow(
            name=str(name).replace("_", " "),
            severity=severities.get(str(name), ""),
            passed=int((judged & passed)[:, column].sum()),
            not_passed=int((judged & ~passed)[:, column].sum()),
        )
        for column, name in enumerate(table["check"].values)
    ]


def _severities(ensemble: Ensemble) -> dict[str, Severity]:
    done = np.flatnonzero(ensemble.table["state"].values == "done")
    found: dict[str, Severity] = {}
    for index in done[:MAX_REMARKS]:  # runs of another version may have other checks
        found |= {check.name: check.severity for check in _checks_of(ensemble, int(index))}
    return found


def _checks_of(ensemble: Ensemble, index: int) -> tuple[Check, ...]:
    """Gates and flags of one finished run, as its protocol words them."""
    try:
        protocol = get_protocol(ensemble.calculation.protocol)
    except SpecError:
        return ()
    result = ensemble.table.isel({RUN: index})
    if "check_limit" not in result:
        return ()
    own = np.isfinite(result["check_limit"].values) | np.isfinite(result["check_value"].values)
    return protocol.checks(result.isel(check=np.flatnonzero(own)))


def remarks(ensemble: Ensemble) -> tuple[list[Remark], int]:
    """First runs that failed, were left out or are flagged, with the reasons; and the number of all."""
    reasons = ensemble.table["reason"].values.tolist()
    found = [
        Remark(run.id, state, reason)
        for state in ("failed", "excluded")
        for run, own, reason in zip(ensemble.runs, ensemble.states, reasons, strict=True)
        if own == state
    ]
    flagged = []
    if "flags" in ensemble.table:
        flagged = np.flatnonzero(ensemble.table["flags"].values.astype(str) != "").tolist()
    for index in flagged[: max(0, MAX_REMARKS - len(found))]:
        raised = [c for c in _checks_of(ensemble, index) if c.severity is Severity.FLAG and not c.passed]
        found.append(Remark(ensemble.runs[index].id, "flag", "; ".join(check.reason for check in raised)))
    missing = sum(state in {"failed", "excluded"} for state in ensemble.states)
    return found[:MAX_REMARKS], missing + len(flagged)
