"""What a report shows of one calculation: its runs as a flat table, and the conditions they form."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr

from campaign.analysis import PUBLISHED_ITC, PublishedValue, compare_with_published
from campaign.plan import CalculationPlan, Run
from campaign.results import Campaign

RUN = "run"
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
    *(
        f"{n}_{half}_half"
        for n in ("heat_flow", "temperature_jump", "interface_temperature")
        for half in ("first", "second")
    ),
)
_ARRAYS = (
    "layer_temperature",
    "elapsed_time",
    "source_energy",
    "sink_energy",
    "check_value",
    "check_limit",
    "check_passed",
)


@dataclass(frozen=True)
class Condition:
    """Runs that differ in nothing but the seed (or, pooled, the direction of the heat flow).

    Attributes
    ----------
    labels
        Labels of the condition as text, without the seed.
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
        return ", ".join(f"{name} {value}" for name, value in self.labels.items()) or "all runs"

    @cached_property
    def used(self) -> xr.Dataset:
        """Runs that count: done, and all gates passed."""
        return self.runs.isel({RUN: np.flatnonzero(self.runs["valid"].values)})

    @cached_property
    def mean(self) -> xr.Dataset:
        """Statistics over the runs, see `campaign.analysis.ensemble_mean`."""
        scalars = [name for name, variable in self.runs.data_vars.items() if variable.dims == (RUN,)]
        mean: xr.Dataset = self.runs[scalars].campaign.mean(RUN)
        return mean

    @cached_property
    def checks(self) -> xr.Dataset:
        """Steady state over the runs, see `campaign.analysis.ensemble_checks`."""
        checks: xr.Dataset = self.runs.campaign.checks(RUN)
        return checks

    @property
    def published(self) -> PublishedValue | None:
        """The published conductance that this condition can be compared with."""
        at_300_K = math.isclose(float(self.settings.get("temperature_K", math.nan)), 300.0)
        if self.pair != "graphene/hbn" or not at_300_K:
            return None
        return PUBLISHED_ITC.get(str(self.settings.get("potential")))

    @property
    def z(self) -> float:
        """Difference to the published value over its standard error; NaN where there is none."""
        if self.published is None:
            return math.nan
        value, error = float(self.mean["itc"]), float(self.mean["itc_standard_error"])
        return compare_with_published(value, error, str(self.settings["potential"]))


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
    """

    calculation: CalculationPlan
    runs: Sequence[Run]
    table: xr.Dataset
    conditions: tuple[Condition, ...]
    pooled: tuple[Condition, ...]

    @property
    def has_conductance(self) -> bool:
        """Whether the calculation measures an interfacial thermal conductance."""
        return {"itc", "transmitted_power", "area_temperature_jump"} <= set(self.table.data_vars)

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
    dataset = dataset[names].load()
    coordinates = [name for name, coordinate in dataset.coords.items() if set(coordinate.dims) & set(dims)]
    dataset = dataset.drop_vars(coordinates)
    table = dataset.stack({RUN: dims}, create_index=False) if dims else dataset.expand_dims(RUN)
    table = table.transpose(RUN, ...)
    runs = list(calculation.runs)
    position = {run_id: i for i, run_id in enumerate(table["run_id"].values.tolist())}
    table = table.isel({RUN: [position[run.id] for run in runs]})
    members: dict[int, list[int]] = {}
    for index, run in enumerate(runs):
        members.setdefault(run.group, []).append(index)
    conditions = tuple(_condition(calculation, runs, table, indices) for indices in members.values())
    return Ensemble(calculation, runs, table, conditions, _pooled(calculation, runs, table))


def _condition(
    calculation: CalculationPlan,
    runs: Sequence[Run],
    table: xr.Dataset,
    members: Sequence[int],
    **pooled: Any,
) -> Condition:
    first = runs[members[0]]
    units = {name: unit for d in calculation.dimensions for name, unit in d.units.items()}
    labels = {
        name: f"{value} {units[name]}" if name in units else str(value)
        for name, value in first.labels.items()
        if name != "seed"
    }
    if pooled:
        labels["direction"] = "both"
    pair = calculation.groups[first.group].labels.get("pair", "")
    return Condition(
        labels, table.isel({RUN: list(members)}), calculation.settings_of(first), pair, pooled=bool(pooled)
    )


def _pooled(calculation: CalculationPlan, runs: Sequence[Run], table: xr.Dataset) -> tuple[Condition, ...]:
    members: dict[tuple[Any, ...], list[int]] = {}
    directions: dict[tuple[Any, ...], set[Any]] = {}
    for index, run in enumerate(runs):
        key = tuple(value for name, value in run.labels.items() if name not in {"seed", "direction"})
        members.setdefault(key, []).append(index)
        directions.setdefault(key, set()).add(run.labels.get("direction"))
    return tuple(
        _condition(calculation, runs, table, indices, pooled=True)
        for key, indices in members.items()
        if len(directions[key]) > 1
    )
