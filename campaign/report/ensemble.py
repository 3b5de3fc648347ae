"""What a report shows of one calculation: its runs as a flat table, and the conditions they form."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr

from campaign.analysis import (
    MEMORY_PS,
    MINIMUM_RUNS,
    PUBLISHED_ITC,
    RESOLVED_RUNS,
    PublishedValue,
    compare_with_published,
    ensemble_checks,
    ensemble_mean,
)
from campaign.axes import Label, label_text
from campaign.physics.statistics import RatioEstimate, ratio_of_means
from campaign.plan import CalculationPlan, Run
from campaign.results import Campaign

RUN, SEED, DIRECTION = "run", "seed", "direction"
STATES = ("done", "excluded", "running", "failed", "pending")

_SCALARS = (
    "itc",
    "itc_standard_error",
    "transmitted_power",
    "area_temperature_jump",
    "heat_flow",
    "temperature_jump",
    "storage_rate",
    "window",
    "number_of_atoms",
    "area",
    "final_stacking",
    "flags",
    "state",
    "reason",
    "valid",
    "run_id",
    "heat_flow_first_half",
    "heat_flow_second_half",
    "temperature_jump_first_half",
    "temperature_jump_second_half",
    "interface_temperature_first_half",
    "interface_temperature_second_half",
)
_ARRAYS = ("layer_temperature", "check_value", "check_limit", "check_passed")
_SERIES = ("elapsed_time", "source_energy", "sink_energy")
"""Ten times as large as the rest together: read for the runs that are drawn."""


@dataclass(frozen=True)
class Condition:
    """Runs that differ in nothing but the seed (or, pooled, the direction of the heat flow).

    Attributes
    ----------
    labels
        Labels of the condition as text that can stand alone (``300 K``, ``layers 5``), without the seed.
    runs
        Results of its runs along ``run``, in the order of the plan.
    settings
        Resolved settings of its first run, by dotted path.
    pooled
        Whether it joins both directions; such a condition repeats runs of others.
    """

    labels: Mapping[str, str]
    runs: xr.Dataset
    settings: Mapping[str, Any]
    pair: str
    pooled: bool = False

    @property
    def title(self) -> str:
        """Labels in one line."""
        return ", ".join(self.labels.values()) or "all runs"

    @cached_property
    def used(self) -> xr.Dataset:
        """Runs that count: done, and all gates passed."""
        return self.runs.isel({RUN: np.flatnonzero(self.runs["valid"].values)})

    @cached_property
    def mean(self) -> xr.Dataset:
        """Statistics over the runs, see `campaign.analysis.ensemble_mean`."""
        scalars = [name for name, variable in self.runs.data_vars.items() if variable.dims == (RUN,)]
        return ensemble_mean(self.runs[scalars], RUN)

    @cached_property
    def checks(self) -> xr.Dataset:
        """Steady state over the runs, see `campaign.analysis.ensemble_checks`."""
        return ensemble_checks(self.runs, RUN)

    @property
    def published(self) -> PublishedValue | None:
        """The published conductance that this condition can be compared with."""
        at_300_K = math.isclose(float(self.settings.get("temperature_K", math.nan)), 300.0)
        if self.pair != "graphene/hbn" or not at_300_K:
            return None
        return PUBLISHED_ITC.get(str(self.settings.get("potential")))

    @property
    def n(self) -> int:
        """Number of runs that count."""
        return int(self.mean["n"])

    @property
    def n_seeds(self) -> int:
        """Number of seeds of these runs: of independent observations."""
        return int(self.mean["n_seeds"])

    @property
    def n_flagged(self) -> int:
        """Number of runs that count and have raised a flag."""
        return int((self.used["flags"].values.astype(str) != "").sum()) if "flags" in self.used else 0

    @property
    def resolved(self) -> bool:
        """Whether the conductance has an error: from three seeds on, where its interval is bounded."""
        bounds = float(self.mean["itc_lower"]), float(self.mean["itc_upper"])
        return self.n_seeds >= RESOLVED_RUNS and all(math.isfinite(bound) for bound in bounds)

    @property
    def comparison(self) -> str:
        """Normal deviate from the published value, or why there is none; empty without such a value."""
        if self.published is None or not self.n:
            return ""
        build_up_ps = float(self.settings.get("build_up_ps", math.nan))
        if build_up_ps < MEMORY_PS:
            return f"not comparable: build-up of {build_up_ps:g} ps"
        value, error = float(self.mean["itc"]), float(self.mean["itc_standard_error"])
        if self.n_seeds < MINIMUM_RUNS:
            return f"fewer than {MINIMUM_RUNS} seeds"
        if not self.resolved or not error > 0:
            return "not resolved"
        return f"{compare_with_published(value, error, str(self.settings['potential']), n=self.n_seeds):+.1f}"

    @property
    def stored_fraction(self) -> RatioEstimate | None:
        """Mean storage rate over mean heat flow; None where it cannot be told."""
        if self.n < MINIMUM_RUNS or not {"storage_rate", "heat_flow"} <= set(self.used.data_vars):
            return None
        rate, flow = self.used["storage_rate"].values, self.used["heat_flow"].values
        known = np.isfinite(rate) & np.isfinite(flow)
        if known.sum() < MINIMUM_RUNS or not flow[known].sum():
            return None
        return ratio_of_means(rate[known], flow[known])


@dataclass(frozen=True)
class Ensemble:
    """One calculation of a campaign.

    Attributes
    ----------
    runs
        Runs of the plan.
    table
        Their results and states along ``run``, in the same order.
    conditions
        Conditions in the order of the plan.
    pooled
        Conditions joined over both directions, where the ensemble has both.
    unread
        Series of the runs over the cells of the calculation, not in memory; see `series`.
    """

    calculation: CalculationPlan
    runs: Sequence[Run]
    table: xr.Dataset
    conditions: tuple[Condition, ...]
    pooled: tuple[Condition, ...]
    unread: xr.Dataset

    @property
    def has_conductance(self) -> bool:
        """Whether the calculation measures an interfacial thermal conductance."""
        return {"itc", "transmitted_power", "area_temperature_jump"} <= set(self.table.data_vars)

    def series(self, runs: xr.Dataset) -> xr.Dataset:
        """Read the series of some runs of ``table``, along ``run``."""
        dims = [str(dim) for dim in self.unread["stage_id"].dims]
        if not dims:
            return self.unread.expand_dims(RUN).isel({RUN: runs["cell"].values}).load()
        places = np.unravel_index(runs["cell"].values, [self.unread.sizes[dim] for dim in dims])
        return self.unread.isel(
            {d: xr.DataArray(p, dims=RUN) for d, p in zip(dims, places, strict=True)}
        ).load()

    @cached_property
    def states(self) -> list[str]:
        """State of each run; one that is done, but failed a gate, is ``excluded``."""
        pairs = zip(self.table["state"].values.tolist(), self.table["valid"].values.tolist(), strict=True)
        return ["excluded" if state == "done" and not valid else state for state, valid in pairs]

    @property
    def counts(self) -> dict[str, int]:
        """Number of runs in each state that occurs."""
        found = Counter(self.states)
        return {state: found[state] for state in STATES if found[state]}


def load_ensemble(campaign: Campaign, calculation: CalculationPlan) -> Ensemble:
    """Read what a report needs of one calculation into memory."""
    dataset = campaign.results[calculation.name].to_dataset()
    names = [name for name in (*_SCALARS, *_ARRAYS) if name in dataset]
    dims = dataset["state"].dims
    coordinates = [name for name, coordinate in dataset.coords.items() if set(coordinate.dims) & set(dims)]
    dataset = dataset.drop_vars(coordinates)
    table = dataset[names].load()
    if not dims:
        table = table.expand_dims(RUN)
    elif dims != (RUN,):
        table = table.stack({RUN: dims}, create_index=False)
    table = table.transpose(RUN, ...).assign_coords(cell=(RUN, np.arange(table.sizes[RUN])))
    runs = list(calculation.runs)
    position = {run_id: i for i, run_id in enumerate(table["run_id"].values.tolist())}
    table = table.isel({RUN: [position[run.id] for run in runs]})
    if all(SEED in run.labels for run in runs):
        table = table.assign_coords({SEED: (RUN, [run.labels[SEED] for run in runs])})
    members: dict[int, list[int]] = {}
    for index, run in enumerate(runs):
        members.setdefault(run.group, []).append(index)
    conditions = tuple(_condition(calculation, runs, table, indices) for indices in members.values())
    unread = dataset[[name for name in ("stage_id", *_SERIES) if name in dataset]]
    return Ensemble(calculation, runs, table, conditions, _pooled(calculation, runs, table), unread)


def _condition(
    calculation: CalculationPlan,
    runs: Sequence[Run],
    table: xr.Dataset,
    members: Sequence[int],
    *,
    pooled: bool = False,
) -> Condition:
    first = runs[members[0]]
    units = {name: unit for d in calculation.dimensions for name, unit in d.units.items()}
    labels = {
        name: _label_text(name, value, units.get(name))
        for name, value in first.labels.items()
        if name != SEED
    }
    if pooled:
        labels[DIRECTION] = "both directions"
    pair = calculation.groups[first.group].labels.get("pair", "")
    chosen = table.isel({RUN: list(members)})
    return Condition(labels, chosen, calculation.settings_of(first), pair, pooled)


def _pooled(calculation: CalculationPlan, runs: Sequence[Run], table: xr.Dataset) -> tuple[Condition, ...]:
    """Conditions over both directions, where each direction has runs that count."""
    members: dict[tuple[Any, ...], list[int]] = {}
    directions: dict[tuple[Any, ...], dict[Any, bool]] = {}
    for index, (run, valid) in enumerate(zip(runs, table["valid"].values.tolist(), strict=True)):
        key = tuple(value for name, value in run.labels.items() if name not in {SEED, DIRECTION})
        members.setdefault(key, []).append(index)
        found = directions.setdefault(key, {})
        direction = run.labels.get(DIRECTION)
        found[direction] = found.get(direction, False) or valid
    return tuple(
        _condition(calculation, runs, table, sorted(indices, key=_seed_of(runs)), pooled=True)
        for key, indices in members.items()
        if len(directions[key]) > 1 and all(directions[key].values())
    )


def _seed_of(runs: Sequence[Run]) -> Callable[[int], int]:
    """Order by seed, so that convergence takes both directions in turn."""
    return lambda index: int(runs[index].labels.get(SEED, 0))


def _label_text(name: str, value: Label, units: str | None) -> str:
    if isinstance(value, str):
        return value
    # A temperature says what it is; 30 K could be one, and is a bath's offset.
    own_name = "" if name == "temperature" else f"{name.replace('_', ' ')} "
    return f"{own_name}{label_text(value)} {units or ''}".rstrip()
