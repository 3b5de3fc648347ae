"""Means over runs with their errors, and the accessor ``ds.campaign``."""

from collections.abc import Iterable, Mapping

import numpy as np
import xarray as xr

from campaign.analysis.runs import (
    ERROR,
    Arrays,
    Ensemble,
    Floats,
    RatioRuns,
    as_dataset,
    described,
    known_ratios,
    labelled,
    run_counts,
)
from campaign.physics.statistics import Moments


@xr.register_dataset_accessor("campaign")  # type: ignore[no-untyped-call]
class CampaignAccessor:
    """``ds.campaign``: statistics over the runs of a calculation."""

    def __init__(self, dataset: xr.Dataset) -> None:
        self._dataset = dataset

    def mean(self, dim: str | Iterable[str], *, confidence_level: float = 0.95) -> xr.Dataset:
        """Mean, standard deviation, standard error and n over runs; see `ensemble_mean`."""
        return ensemble_mean(self._dataset, dim, confidence_level=confidence_level)


def ensemble_mean(
    dataset: xr.Dataset, dim: str | Iterable[str], *, confidence_level: float = 0.95
) -> xr.Dataset:
    """Mean over runs along ``dim``, with what is known of its error.

    Parameters
    ----------
    dataset
        Runs of a calculation; see the module.
    dim
        One or several axes, such as ``"seed"`` or ``("direction", "seed")``. In a flat dataset the runs that
        agree in all other axes form a condition; ``"run"`` takes all runs together.
    confidence_level
        Of the interval of a ratio of means.

    Returns
    -------
    xarray.Dataset
        For each numeric variable ``x``: ``x``, ``x_standard_deviation`` (ddof = 1) and ``x_standard_error``;
        NaN where there are no runs, or one run for the latter two. ``x_n`` where valid runs lack an ``x``.

        For a ratio: ``x`` is the ratio of means with ``x_standard_error``, ``x_lower``, ``x_upper``
        (Fieller), all of which take the runs of one seed as one observation; beside it ``x_mean_of_runs`` and
        ``x_standard_deviation_of_runs``, the paper's convention.

        Where the input has errors within runs (``x_standard_error``): ``x_standard_error_within_runs``, the
        error of the mean if these were all, and ``x_spread_over_error``, the spread between runs over them.

        ``n`` valid runs, of ``n_seeds`` seeds; ``n_excluded`` left out by a gate; ``n_missing`` not done.

    Raises
    ------
    ValueError
        ``dim`` is neither a dimension nor an axis of the dataset; or the dataset is a selection of variables
        without those that tell which runs count, or what a ratio is the ratio of.
    StoreError
        A result is not proportional to the ratio of the two variables that it is said to be.
    """
    ensemble = Ensemble.of(dataset, dim)
    data, ratios = ensemble.data, known_ratios(ensemble.data)
    output = run_counts(ensemble)
    for key, variable in data.data_vars.items():
        name = str(key)
        base = name.removesuffix(ERROR)
        # errors within runs are taken with their variable; flags and texts have no mean
        if name == "valid" or variable.dtype.kind not in "iuf" or (base != name and base in data):
            continue
        if not set(variable.dims) & set(ensemble.valid.dims):
            output[name] = variable  # the same for all runs
            continue
        moments, dims = ensemble.moments(variable)
        if name in ratios:
            output |= _ratio(ensemble, name, ratios[name], moments, confidence_level)
        else:
            output |= _plain(variable, moments, dims)
        output |= _within_runs(ensemble, name, moments, dims)
    return as_dataset(ensemble, output)


def _ratio(
    ensemble: Ensemble, name: str, parts: tuple[str, str], moments: Moments, confidence_level: float
) -> Arrays:
    ratio = RatioRuns.of(ensemble, name, parts).ratio_of_means(confidence_level)
    units, label = described(ensemble.data[name])
    level = f"{100 * confidence_level:g} %"
    fieller = f"Fieller's theorem, {level}; infinite where {parts[1]} is not told from zero"
    table = {
        "": (ratio.value, label, "standard error, from the spread between seeds"),
        ERROR: (
            ratio.standard_error,
            f"standard error of the {label}",
            "spread between seeds around the ratio",
        ),
        "_lower": (ratio.lower, f"lower {level} bound of the {label}", fieller),
        "_upper": (ratio.upper, f"upper {level} bound of the {label}", fieller),
        "_mean_of_runs": (moments.average, f"mean of the {label} of single runs", "spread of single runs"),
        "_standard_deviation_of_runs": (
            moments.standard_deviation,
            f"standard deviation of the {label} of single runs",
            "spread of single runs (ddof = 1), not the error of a mean",
        ),
    }
    output = _tabulated(name, ensemble.kept, units, table)
    output[name].attrs |= {
        "estimator": f"ratio of the means over runs of {parts[0]} and {parts[1]}",
        "ancillary_variables": f"{name}{ERROR} {name}_lower {name}_upper n",
    }
    output[f"{name}_mean_of_runs"].attrs |= {
        "estimator": "mean of ratios, as in the paper; biased where the denominator is noisy",
        "ancillary_variables": f"{name}_standard_deviation_of_runs n",
    }
    return output


def _plain(variable: xr.DataArray, moments: Moments, dims: tuple[str, ...]) -> Arrays:
    name, (units, label) = str(variable.name), described(variable)
    table = {
        "": (moments.average, label, "standard error, from the spread between runs"),
        "_standard_deviation": (
            moments.standard_deviation,
            f"standard deviation of the {label}",
            "spread between runs (ddof = 1)",
        ),
        ERROR: (moments.standard_error, f"standard error of the {label}", "spread between runs / sqrt(n)"),
    }
    output = _tabulated(name, dims, units, table)
    output[name].attrs |= {
        "estimator": "mean over runs",
        "ancillary_variables": f"{name}_standard_deviation {name}{ERROR} n",
    }
    return output


def _tabulated(
    name: str, dims: tuple[str, ...], units: str, table: Mapping[str, tuple[Floats, str, str]]
) -> Arrays:
    return {
        name + suffix: labelled(values, dims, units, label, uncertainty=uncertainty)
        for suffix, (values, label, uncertainty) in table.items()
    }


def _within_runs(ensemble: Ensemble, name: str, moments: Moments, dims: tuple[str, ...]) -> Arrays:
    """Count the values where some are missing, and compare the spread with errors within runs."""
    output: Arrays = {}
    units, label = described(ensemble.data[name])
    runs = ensemble.valid.sum(ensemble.dims).to_numpy()
    if np.any(moments.n != runs.reshape(runs.shape + (1,) * (moments.n.ndim - runs.ndim))):
        output[f"{name}_n"] = labelled(moments.n, dims, "1", f"number of valid runs that have the {label}")
    if f"{name}{ERROR}" in ensemble.data:
        errors, error_dims = ensemble.moments(ensemble.data[f"{name}{ERROR}"])
        n = np.maximum(errors.n, 1)
        mean_square = np.where(errors.n > 0, errors.mean**2 + errors.squares / n, np.nan)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = moments.standard_deviation / np.sqrt(mean_square)
        output[f"{name}{ERROR}_within_runs"] = labelled(
            np.sqrt(mean_square / n),
            error_dims,
            units,
            f"standard error of the {label} if errors within runs were all",
            uncertainty="block means within runs, combined; the spread between runs is what counts",
        )
        output[f"{name}_spread_over_error"] = labelled(
            ratio, dims, "1", f"spread of the {label} between runs over its error within runs"
        )
    return output
