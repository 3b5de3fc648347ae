"""Numbers and texts of a report, ready to be shown."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from campaign.analysis import MINIMUM_RUNS, RESOLVED_RUNS
from campaign.errors import SpecError
from campaign.numbers import with_error
from campaign.protocols.base import Check, Severity, get_protocol
from campaign.report.ensemble import RUN, Condition, Ensemble

Floats = NDArray[np.float64]

MAX_CELLS = 2000
"""Larger ensembles show counts for each condition instead of one cell for each run."""
MAX_REMARKS = 200
STORAGE_SHOWN = 2.0
"""|z| from which a storage rate is more than noise."""
VERDICTS = {
    "steady": "steady within errors",
    "not steady": "not steady",
    "too few runs": f"fewer than {MINIMUM_RUNS} runs",
}
MARKS = {"done": "done", "excluded": "gate", "running": "run", "failed": "fail", "pending": "wait"}
"""Words in the cells of the grid; colour never carries the meaning alone."""


@dataclass(frozen=True)
class HeadlineRow:
    """Conductance of one condition, in MW m^-2 K^-1, as text."""

    title: str
    pooled: bool
    n: int
    n_flagged: int
    n_excluded: int
    n_missing: int
    ratio: str
    interval: str
    paper: str
    published: str
    source: str
    z: str
    is_number: bool


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
    """What one gate or flag is, and what came out of it."""

    name: str
    severity: str
    meaning: str
    limit: str
    measured: str
    outcome: str


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
    published, comparison = condition.published, condition.comparison
    missing = "not resolved" if condition.n else "-"
    interval = f"{mean['itc_lower']:.1f} to {mean['itc_upper']:.1f}"
    if condition.n < RESOLVED_RUNS:
        values = condition.used["itc"].values
        of_runs = ("runs: " if values.size > 1 else "run: ") + ", ".join(f"{value:.4g}" for value in values)
    else:
        of_runs = with_error(mean["itc_mean_of_runs"], mean["itc_standard_deviation_of_runs"])
    return HeadlineRow(
        title=condition.title,
        pooled=condition.pooled,
        n=condition.n,
        n_flagged=condition.n_flagged,
        n_excluded=int(mean["n_excluded"]),
        n_missing=int(mean["n_missing"]),
        ratio=with_error(mean["itc"], mean["itc_standard_error"]) if condition.resolved else missing,
        interval=interval if condition.resolved else "-",
        paper=of_runs if condition.n else "-",
        published="" if published is None else with_error(published.mean, published.standard_error),
        source="" if published is None else published.source,
        z=comparison,
        is_number=comparison[:1] in {"+", "-"},
    )


def structure_note(ensemble: Ensemble) -> str:
    """In what the cells differ from the published ones; empty where they do not, or nothing is published."""
    compared = [c for c in ensemble.conditions if c.published is not None and c.n]
    sizes = {int(n) for c in compared for n in c.used["number_of_atoms"].values if math.isfinite(n)}
    published = {(c.published.number_of_atoms, c.published.structure) for c in compared if c.published}
    if not sizes or sizes == {number for number, _ in published}:
        return ""
    layers = Counter(
        f"{c.settings['structure.lower.layers']} and {c.settings['structure.upper.layers']}"
        for c in compared
        if {"structure.lower.layers", "structure.upper.layers"} <= c.settings.keys()
    )
    stackings = sorted({str(c.settings.get("structure.stacking", "moire")) for c in compared})
    start = "of one stacking, without a moire" if "moire" not in stackings else "with a moire"
    if set(stackings) > {"moire"}:
        start = "some of one stacking, some with a moire"
    theirs = "; ".join(f"{number:,} atoms in {text}" for number, text in sorted(published))
    ours = f"{_range([*sizes], ',')} atoms"
    if layers:
        ours += f" in {' or '.join(layers)} layers"
    areas = np.concatenate([c.used["area"].values for c in compared if "area" in c.used] or [np.array([])])
    if np.isfinite(areas).any():
        ours += f" of {_range(areas)} nm²"
    return f"The published cell is another one: {theirs}. Cells here: {ours}, {start}."


def stacking_note(ensemble: Ensemble) -> str:
    """Which stackings finished runs ended in, and what their names mean."""
    if "final_stacking" not in ensemble.table:
        return ""
    done = np.isin(ensemble.states, ["done", "excluded"])
    names = ensemble.table["final_stacking"].values.astype(str)[done]
    found = Counter(name for name in names.tolist() if name)
    if not found:
        return ""
    counts = ", ".join(f"{name} {n}" for name, n in found.most_common())
    note = f"Stacking of most of the interface at the end, by number of runs: {counts}."
    if set(found) != {"moire"}:
        note += (
            " AA, AB and ABp are the three stackings of graphene on h-BN (ABp has the lowest energy); DW "
            "(domain wall) is what is none of the three."
        )
    flags = ensemble.table["flags"].values.astype(str)[done] if "flags" in ensemble.table else np.array([])
    slid = sum("stacking_kept" in text.split(", ") for text in flags.tolist())
    if slid > 0.5 * done.sum():
        potentials = {str(condition.settings.get("potential")) for condition in ensemble.conditions}
        note += f" {slid} of {done.sum()} runs have left the stacking of their label: "
        if potentials == {"tersoff-lj"}:
            note += "with Lennard-Jones layers slide, so "
        note += "the label holds only for the start."
    return note


def steady_state(ensemble: Ensemble) -> list[SteadyRow]:
    """Drift between the halves of the window, averaged over runs; both directions together first."""
    rows = []
    for condition in [*ensemble.pooled, *ensemble.conditions]:
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
        more = checks["additional_build_up"].item() if "additional_build_up" in checks else 0.0
        rows.append(
            SteadyRow(
                title=condition.title,
                drifts=drifts,
                storage=_storage(condition),
                verdict=VERDICTS[str(checks["steady_state"].item())],
                additional_build_up=f"{more:.0f} ps" if more > 0 else "",
            )
        )
    return rows


def _storage(condition: Condition) -> str:
    """Part of the heat flow that a condition stores, where it is told from zero."""
    fraction = condition.stored_fraction
    if fraction is None:
        return "-"
    z = condition.checks["storage_z"].item()
    if not abs(z) >= STORAGE_SHOWN:
        return "none seen"
    return f"{with_error(100 * fraction.value, 100 * fraction.standard_error)} % (z = {z:+.1f})"


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
    """Gates and flags over all finished runs: definition, limits, measured range and outcome."""
    table = ensemble.table
    if "check_passed" not in table or "check" not in table["check_passed"].dims:
        return []
    done = np.array([state in {"done", "excluded"} for state in ensemble.states])
    passed, values, limits = (
        table[name].transpose(RUN, "check").values for name in ("check_passed", "check_value", "check_limit")
    )
    judged = done[:, None] & np.isfinite(limits)
    known = _known_checks(ensemble)
    return [
        _check_row(known[str(name)], values[own, column], limits[own, column], passed[own, column])
        for column, (name, own) in enumerate(zip(table["check"].values, judged.T, strict=True))
        if str(name) in known
    ]


def _check_row(check: Check, values: Floats, limits: Floats, passed: NDArray[np.bool_]) -> CheckRow:
    units = "" if check.units == "1" else f" {check.units}"
    side = "at most" if check.comparison == "<=" else "at least"
    gate = check.severity is Severity.GATE
    # what could not be computed raises no flag: a gate of its own says why
    count = passed.sum() if gate else (~passed & ~np.isnan(values)).sum()
    return CheckRow(
        name=check.name.replace("_", " "),
        severity=str(check.severity),
        meaning=check.meaning,
        limit=f"{side} {_range(limits)}{units}" if limits.size else "-",
        measured=f"{_range(values)}{units}" if np.isfinite(values).any() else "-",
        outcome=f"{'passed' if gate else 'raised'}: {count} of {passed.size}",
    )


def _range(values: Floats | Sequence[float], form: str = ".3g") -> str:
    """``3.1`` or ``3.1 to 4.2``, of the finite values."""
    finite = [value for value in values if math.isfinite(value)]
    ends = dict.fromkeys(f"{value:{form}}" for value in (min(finite), max(finite)))
    return " to ".join(ends)


def _known_checks(ensemble: Ensemble) -> dict[str, Check]:
    done = np.flatnonzero(ensemble.table["state"].values == "done")
    found: dict[str, Check] = {}
    for index in done[:MAX_REMARKS]:  # runs of another version may have other checks
        found |= {check.name: check for check in _checks_of(ensemble, int(index))}
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
        raised = [c for c in _checks_of(ensemble, index) if c.severity is Severity.FLAG and c.raised]
        found.append(Remark(ensemble.runs[index].id, "flag", "; ".join(check.reason for check in raised)))
    missing = sum(state in {"failed", "excluded"} for state in ensemble.states)
    return found[:MAX_REMARKS], missing + len(flagged)
