"""Runs of a dataset: which of them count, and how they are read.

A run counts when it is done (``state``) and passed its gates (``valid``). A flat dataset (one dimension
``run``) is arranged as conditions and replicas, so that everything else sees a grid.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from campaign.errors import StoreError
from campaign.physics.statistics import Moments, RatioArrays, masked_ratio_of_means

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]
Arrays = dict[str, xr.DataArray]

RUN = "run"
SEED = "seed"
CONDITION = "condition"
REPLICA = "replica"
ERROR = "_standard_error"

_SLAB_VALUES = 2**23  # 64 MB of floats are in memory at once, whatever the size of a variable
_NOT_AXES = frozenset({RUN, "run_id", "stage_id", "manifest_sha256", "state", "valid", "reason"})
_PRESENT = "_present"
_OTHER_RATIOS = {  # other forms of the conductance, whose mean of ratios would be biased just as well
    "itc_interface": ("interface_heat_flow", "area_temperature_jump"),
    "itc_extrapolated": ("heat_flux", "temperature_jump_extrapolated"),
}


@dataclass(frozen=True)
class Ensemble:
    """A dataset with runs along ``dims``, and masks (over all dimensions of runs) of which of them count."""

    data: xr.Dataset
    dims: tuple[str, ...]
    planned: xr.DataArray
    done: xr.DataArray
    valid: xr.DataArray

    @classmethod
    def of(cls, dataset: xr.Dataset, dim: str | Iterable[str]) -> "Ensemble":
        """Take a dataset with its runs along ``dim``, one axis or several.

        Raises
        ------
        ValueError
            An axis is unknown, or these are variables of a campaign without those that tell which runs count.
        """
        if "calculation" in dataset.attrs and not {"valid", "state"} <= set(dataset.variables):
            raise ValueError("`valid` or `state` is not here: take the mean first, and variables of it after")
        dims = (dim,) if isinstance(dim, str) else tuple(dim)
        data, dims = (dataset, dims) if set(dims) <= set(dataset.dims) else _gather(dataset, dims)
        of_runs = next((data[name].dims for name in ("valid", "state") if name in data.variables), ())
        shape = {str(d): data.sizes[d] for d in dict.fromkeys([*of_runs, *dims])}
        planned = xr.DataArray(np.ones(tuple(shape.values()), dtype=bool), dims=tuple(shape))
        if _PRESENT in data.variables:
            planned = planned & data[_PRESENT].variable
        done = planned
        if "state" in data.variables:
            state = data["state"].variable.astype(str)
            planned = planned & (state != "")  # a cell that the spec leaves out is not a missing run
            done = planned & (state == "done")
        valid = done
        if "valid" in data.variables:
            valid = done & (data["valid"].variable == True)  # noqa: E712 - elementwise; holes may be NaN
        return cls(data, dims, planned, done, valid)

    @property
    def kept(self) -> tuple[str, ...]:
        """Dimensions of runs that stay."""
        return tuple(str(d) for d in self.valid.dims if d not in self.dims)

    def moments(self, variable: xr.DataArray) -> tuple[Moments, tuple[str, ...]]:
        """Moments over the valid runs, and the dimensions that stay; reads the variable slab by slab."""
        if not set(self.valid.dims) <= set(variable.dims):
            variable = variable.broadcast_like(self.valid)
        payload = {str(d): size for d, size in variable.sizes.items() if d not in self.valid.dims}
        order = (*self.kept, *payload, *self.dims)
        # slabs of whole runs, so that each row of a store is read once
        along = max(map(str, self.valid.dims), key=lambda d: variable.sizes[d])
        length = variable.sizes[along]
        step = max(1, _SLAB_VALUES * max(1, length) // max(1, variable.size))
        parts = []
        for start in range(0, max(1, length), step):
            slab = {along: slice(start, start + step)}
            # Loaded first: a transposed lazy array would be read element by element.
            loaded = variable.isel(slab).load()
            values = loaded.transpose(*order).to_numpy().astype(float, copy=False)
            mask = self.valid.isel(slab).expand_dims(payload).transpose(*order).to_numpy()
            parts.append(Moments.of(values, mask & np.isfinite(values), range(-len(self.dims), 0)))
        if along in self.dims:
            total = parts[0]
            for part in parts[1:]:
                total = total.merge(part)
        else:
            axis = order.index(along)
            total = Moments(
                *(np.concatenate([getattr(p, f) for p in parts], axis) for f in ("n", "mean", "squares"))
            )
        return total, (*self.kept, *payload)

    @cached_property
    def seeds(self) -> NDArray[np.int64] | None:
        """Number of each run's seed, shape (kept..., runs); None where there is no seed, or each has one run.

        Runs of one seed (heat forward and backward, say) start from the same equilibrated structure, so that
        together they are one observation.
        """
        if SEED not in self.data.coords or (self.dims == (SEED,) and self.data[SEED].dims == (SEED,)):
            return None
        seed = self.data[SEED]
        if not set(seed.dims) <= set(self.valid.dims) or set(seed.dims) <= set(self.kept):
            return None
        _, number = np.unique(seed.to_numpy(), return_inverse=True)
        return self.runs_last(seed.copy(data=number.reshape(seed.shape)))

    def runs_last(self, variable: xr.DataArray) -> NDArray[Any]:
        """Values with the shape (kept..., runs)."""
        values = variable.broadcast_like(self.valid).transpose(*self.kept, *self.dims).to_numpy()
        return values.reshape(*values.shape[: len(self.kept)], -1)


def _gather(dataset: xr.Dataset, dims: Sequence[str]) -> tuple[xr.Dataset, tuple[str, ...]]:
    """Arrange rows of a flat dataset as (condition, replica); a condition's labels agree but for ``dims``."""
    along = {str(name) for name, c in dataset.coords.items() if c.dims == (RUN,)} - _NOT_AXES
    if unknown := [d for d in dims if d not in along]:
        known = sorted({str(d) for d in dataset.dims} | along)
        raise ValueError(f"there is no axis {', '.join(unknown)} here; known are: {', '.join(known)}")
    axes = sorted(along - set(dims))
    if not axes:
        return dataset, (RUN,)
    labels = dataset[axes].reset_coords()[axes].to_dataframe()[axes]
    groups = labels.groupby(axes, sort=True, dropna=False)
    condition, replica = groups.ngroup().to_numpy(), groups.cumcount().to_numpy()
    rows = np.full((groups.ngroups, int(replica.max(initial=0)) + 1), -1)
    rows[condition, replica] = np.arange(condition.size)
    # texts and states that lie along the runs as coordinates become variables, labels belong to the condition
    flat = dataset.reset_coords([n for n in ("state", "valid") if n in dataset.coords])
    flat = flat.drop_vars([str(n) for n, c in flat.coords.items() if RUN in c.dims])
    picked = flat.isel({RUN: xr.DataArray(np.maximum(rows, 0), dims=(CONDITION, REPLICA))})
    picked[_PRESENT] = (CONDITION, REPLICA), rows >= 0
    first = rows[:, 0]
    coords: dict[str, Any] = {
        name: (CONDITION, dataset[name].to_numpy()[first], dataset[name].attrs) for name in axes
    }
    if SEED in dims:
        coords[SEED] = ((CONDITION, REPLICA), dataset[SEED].to_numpy()[np.maximum(rows, 0)])
    return picked.assign_coords(coords), (REPLICA,)


def known_ratios(data: xr.Dataset) -> dict[str, tuple[str, str]]:
    """Numerator and denominator of each result that is a ratio of means.

    Raises
    ------
    ValueError
        The result of the protocol is there, and what it is the ratio of is not.
    """
    ratios = dict(_OTHER_RATIOS)
    if "ratio" in data.attrs:
        result, numerator, denominator = str(data.attrs["ratio"]).split(":")
        ratios[result] = (numerator, denominator)
        if result in data.data_vars and (missing := {numerator, denominator} - set(data.data_vars)):
            raise ValueError(
                f"{result} is a ratio of means over runs, and {', '.join(sorted(missing))} is not here: "
                "take the mean first, and variables of it after"
            )
    return {name: parts for name, parts in ratios.items() if {name, *parts} <= set(data.data_vars)}


@dataclass(frozen=True)
class RatioRuns:
    """Numerators, denominators, mask, weights and seeds of a ratio, shape (kept..., runs)."""

    numerators: Floats
    denominators: Floats
    mask: Booleans
    weights: Floats | None
    seeds: NDArray[np.int64] | None

    @classmethod
    def of(cls, ensemble: Ensemble, result: str, parts: tuple[str, str]) -> "RatioRuns":
        """Read what is needed for ``result``; StoreError where it is not the ratio of ``parts``."""
        data = ensemble.data
        values, a, b = (ensemble.runs_last(data[name]).astype(float) for name in (result, *parts))
        mask = ensemble.runs_last(ensemble.valid) & np.isfinite(a) & np.isfinite(b)
        usable = mask & np.isfinite(values) & (a != 0) & (b != 0)
        # the constant between the units is read from the runs themselves, and must be one for all of them
        factors = values[usable] * b[usable] / a[usable]
        factor = float(np.median(factors)) if factors.size else 1.0
        if not np.allclose(factors, factor, rtol=1e-4, atol=0):
            raise StoreError(
                f"{result} is not proportional to {parts[0]} / {parts[1]}",
                hint="the protocol's `ratio` must name the two variables that its result is the ratio of",
            )
        weights = None
        if "window" in data:
            window = ensemble.runs_last(data["window"]).astype(float)
            mask = mask & np.isfinite(window)
            # windows that differ by a sample's rounding are equal
            if window[mask].size and not np.allclose(window[mask], window[mask][0], rtol=1e-3):
                weights = window
        return cls(a * factor, b, mask, weights, ensemble.seeds)

    def ratio_of_means(self, confidence_level: float, first: int | None = None) -> RatioArrays:
        """Ratio of means over the (first) runs; ``n`` and errors are of seeds, see `Ensemble.seeds`."""
        part = (..., slice(first))
        a, b, mask = self.numerators[part], self.denominators[part], self.mask[part]
        weights = None if self.weights is None else self.weights[part]
        if self.seeds is not None:
            factor = np.where(mask, 1.0 if weights is None else weights, 0.0)
            a, b, number = (
                _sums(self.seeds[part], np.where(mask, factor * values, 0.0))
                for values in (a, b, np.ones(()))
            )
            mask, weights = number > 0, None
        return masked_ratio_of_means(a, b, mask, weights=weights, confidence_level=confidence_level)


def _sums(groups: NDArray[np.int64], values: Floats) -> Floats:
    """Add the values of each group along the last axis, shape (..., groups)."""
    rows, n_groups = values.size // values.shape[-1], int(groups.max(initial=0)) + 1
    index = np.arange(rows)[:, None] * n_groups + groups.reshape(rows, -1)
    sums = np.bincount(index.ravel(), weights=values.ravel(), minlength=rows * n_groups).astype(float)
    return sums.reshape(*values.shape[:-1], n_groups)


def run_counts(ensemble: Ensemble) -> Arrays:
    """Count the runs of each cell: ``n``, ``n_seeds``, ``n_excluded`` and ``n_missing``."""
    masks = {
        "n": (ensemble.valid, "number of valid runs"),
        "n_excluded": (ensemble.done & ~ensemble.valid, "number of runs left out by a gate"),
        "n_missing": (ensemble.planned & ~ensemble.done, "number of runs that are not done"),
    }
    counts = {name: (mask.sum(ensemble.dims).to_numpy(), label) for name, (mask, label) in masks.items()}
    seeds = counts["n"][0]
    if ensemble.seeds is not None:
        valid = ensemble.runs_last(ensemble.valid).astype(float)
        seeds = (_sums(ensemble.seeds, valid) > 0).sum(axis=-1)
    counts["n_seeds"] = (seeds, "number of independent observations: seeds of the valid runs")
    return {name: labelled(number, ensemble.kept, "1", label) for name, (number, label) in counts.items()}


def as_dataset(ensemble: Ensemble, variables: Arrays) -> xr.Dataset:
    """Put variables together with the coordinates that still have a meaning."""
    bare = {name: array.variable for name, array in variables.items()}
    dims = {d for variable in bare.values() for d in variable.dims}
    coords = {
        name: coordinate
        for name, coordinate in ensemble.data.coords.items()
        if set(coordinate.dims) <= dims and name not in _NOT_AXES
    }
    return xr.Dataset(bare, coords=coords, attrs=ensemble.data.attrs)


def labelled(values: Any, dims: tuple[str, ...], units: str, long_name: str, **attrs: str) -> xr.DataArray:
    """Array with units and a name for people."""
    return xr.DataArray(values, dims=dims, attrs={"units": units, "long_name": long_name, **attrs})


def described(variable: xr.DataArray) -> tuple[str, str]:
    """Give units and long name of a variable."""
    name = words(str(variable.name))
    return str(variable.attrs.get("units", "1")), str(variable.attrs.get("long_name", name))


def words(name: str) -> str:
    """``heat_flow`` as ``heat flow``."""
    return name.replace("_", " ")
