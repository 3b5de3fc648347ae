"""Judgements over an ensemble: steady state, convergence, both directions, the published value."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import xarray as xr

from campaign.analysis.mean import ensemble_mean
from campaign.analysis.runs import (
    ERROR,
    Ensemble,
    Floats,
    RatioRuns,
    as_dataset,
    described,
    known_ratios,
    labelled,
    run_counts,
    words,
)
from campaign.physics.statistics import Moments, normal_equivalent, z_score
from campaign.physics.transport import additional_build_up

EVERY_RUN_UP_TO = 50
"""Number of runs up to which a convergence has a value at each."""
STEADY_LIMIT = 4.0
"""|z| of a drift from which a condition is not steady."""
RESOLVED_RUNS = 3
"""Seeds that a shown error needs: nobody knows the error of fewer."""
MINIMUM_RUNS = 4
"""Runs that a z needs: the error of fewer is itself too uncertain to divide by."""
MEMORY_PS = 100.0
"""Build-up in ps from which on a conductance may be compared with a published one.

Layers of small cells exchange so little heat that they keep the energy they start with for 100 to 200 ps. A
shorter build-up measures the start: 0 or 100 % of preheating doubles or halves the conductance, and no drift
within a short window shows it.
"""
STORAGE_LIMIT = 0.1
"""Part of the heat flow that a steady condition may store; counts only where it is told from zero."""


@dataclass(frozen=True)
class PublishedValue:
    """A published conductance in MW m^-2 K^-1: mean and sample deviation of ``n`` runs, and their model."""

    mean: float
    standard_deviation: float
    n: int
    source: str
    number_of_atoms: int = 307_828
    structure: str = "13 h-BN and 12 graphene layers of 329 nm², with a whole moire"

    @property
    def standard_error(self) -> float:
        """Standard error of the mean, to compare with; the deviation is of single runs."""
        return self.standard_deviation / math.sqrt(self.n)


PUBLISHED_ITC: Mapping[str, PublishedValue] = MappingProxyType(
    {
        "nep-gr-hbn": PublishedValue(62.5, 10.8, 20, "arXiv:2502.13601, Table I (NEP, 300 K)"),
        "tersoff-ilp": PublishedValue(98.0, 7.6, 20, "arXiv:2502.13601, Table I (Tersoff+ILP, 300 K)"),
        "tersoff-lj": PublishedValue(250.7, 18.5, 20, "arXiv:2502.13601, Table I (Tersoff+LJ, 300 K)"),
    }
)
"""Graphene/h-BN at 300 K by potential. Two of the published Tersoff+ILP runs are identical to all digits."""


def compare_with_published(itc: float, standard_error: float, potential: str, *, n: int) -> float:
    """Compare a conductance of ``n`` seeds with the published one, for graphene/h-BN at 300 K.

    ``(G - G_published) / sqrt(SE^2 + SE_published^2)``, taken as Student's t of ``n - 1`` degrees of freedom
    (fewer than there are, as the published error adds its own) and returned as the equally improbable normal
    deviate ``z``; NaN for fewer than `MINIMUM_RUNS`. Standard errors, never spreads: at the paper's size the
    spread is structural, at ours thermal. Build-ups shorter than `MEMORY_PS` are not to be compared.

    Raises
    ------
    KeyError
        Nothing is published for this potential (`PUBLISHED_ITC`).
    """
    published = PUBLISHED_ITC[potential]
    if n < MINIMUM_RUNS:
        return math.nan
    t = z_score(itc, standard_error, published.mean, published.standard_error)
    return float(normal_equivalent(t, n - 1))


def ensemble_checks(dataset: xr.Dataset, dim: str | Iterable[str] = "seed") -> xr.Dataset:
    """Judge the steady state of each condition over its runs, not run by run.

    For each pair of variables ``x_first_half``, ``x_second_half``: ``x_drift`` (second minus first, mean over
    runs), ``x_drift_standard_error`` from its spread, and ``x_drift_z``, their ratio as the equally
    improbable normal deviate (of few runs a plain ratio is wide); NaN for fewer than `MINIMUM_RUNS`.
    ``storage_fraction`` is the mean of ``storage_rate`` over the mean of ``heat_flow``.

    ``steady_state`` is ``"steady"``, ``"not steady"`` (a drift of |z| >= 4, or storage of more than 10 % of
    the heat flow at |z| >= 4) or ``"too few runs"``; a condition is marked as a whole.
    ``additional_build_up`` (ps, where the dataset has ``window``) is what the largest z suggests.
    """
    ensemble = Ensemble.of(dataset, dim)
    data, kept = ensemble.data, ensemble.kept
    output = run_counts(ensemble)
    worst = np.zeros([data.sizes[d] for d in kept])
    for name in [str(key).removesuffix("_first_half") for key in data if str(key).endswith("_first_half")]:
        first, second = data[f"{name}_first_half"], data[f"{name}_second_half"]
        if set(first.dims) - set(ensemble.valid.dims):
            continue  # profiles: of many layers one would fail by chance
        moments, _ = ensemble.moments(second - first)
        z = _deviate(moments)
        label, units = f"second minus first half of the window, {words(name)}", first.attrs.get("units", "1")
        output[f"{name}_drift"] = labelled(moments.average, kept, units, label)
        output[f"{name}_drift{ERROR}"] = labelled(
            moments.standard_error, kept, units, f"standard error of: {label}"
        )
        output[f"{name}_drift_z"] = labelled(z, kept, "1", f"normal deviate of: {label}")
        worst = np.fmax(worst, np.abs(z))
    if {"storage_rate", "heat_flow"} <= set(data.data_vars):
        rate, _ = ensemble.moments(data["storage_rate"])
        flow, _ = ensemble.moments(data["heat_flow"])
        z = _deviate(rate)
        with np.errstate(divide="ignore", invalid="ignore"):
            fraction = rate.average / flow.average
        output["storage_fraction"] = labelled(fraction, kept, "1", "stored part of the heat flow")
        output["storage_z"] = labelled(z, kept, "1", "normal deviate of the storage rate")
        worst = np.fmax(worst, np.where(np.abs(fraction) > STORAGE_LIMIT, np.abs(z), 0.0))
    steady = worst < STEADY_LIMIT
    enough = output["n"].to_numpy() >= MINIMUM_RUNS
    verdict = np.where(enough, np.where(steady, "steady", "not steady"), "too few runs")
    output["steady_state"] = labelled(verdict, kept, "1", "verdict on the steady state")
    if "window" in data:
        window, _ = ensemble.moments(data["window"])
        more = np.where(steady, 0.0, additional_build_up(worst, window.average))
        output["additional_build_up"] = labelled(more, kept, "ps", "longer build-up that is suggested")
    return as_dataset(ensemble, output)


def convergence(
    dataset: xr.Dataset,
    dim: str | Iterable[str] = "seed",
    *,
    result: str = "itc",
    confidence_level: float = 0.95,
) -> xr.Dataset:
    """Ratio of means of ``result`` over the first runs along ``dim``, in their stored order.

    Over the first 1, 2, ... of them up to `EVERY_RUN_UP_TO`, then at about as many numbers that grow by a
    constant factor, and over all.

    Returns
    -------
    xarray.Dataset
        ``result``, its ``_standard_error``, ``_lower``, ``_upper``, and ``n`` (seeds of the valid runs among
        them), with the dimension ``number_of_runs`` last.
    """
    ensemble = Ensemble.of(dataset, dim)
    ratios = known_ratios(ensemble.data)
    if result not in ratios:
        raise ValueError(f"{result!r} is not a ratio of means here; known are: {', '.join(ratios) or 'none'}")
    runs = RatioRuns.of(ensemble, result, ratios[result])
    total = runs.mask.shape[-1]
    counts = np.arange(1, min(total, EVERY_RUN_UP_TO) + 1)
    if total > EVERY_RUN_UP_TO:
        more = np.geomspace(EVERY_RUN_UP_TO, total, EVERY_RUN_UP_TO).round().astype(int)
        counts = np.union1d(counts, more)
    steps = [runs.ratio_of_means(confidence_level, first=n) for n in counts]
    units, label = described(ensemble.data[result])
    fields = {
        result: ("value", units, label),
        f"{result}{ERROR}": ("standard_error", units, f"standard error of the {label}"),
        f"{result}_lower": ("lower", units, f"lower bound of the {label}"),
        f"{result}_upper": ("upper", units, f"upper bound of the {label}"),
        "n": ("n", "1", "number of seeds of the valid runs"),
    }
    dims = (*ensemble.kept, "number_of_runs")
    output = {
        name: labelled(np.stack([np.asarray(getattr(step, field)) for step in steps], axis=-1), dims, *text)
        for name, (field, *text) in fields.items()
    }
    return as_dataset(ensemble, output).assign_coords(number_of_runs=counts)


def rectification(
    dataset: xr.Dataset, dim: str | Iterable[str] = "seed", *, result: str = "itc"
) -> xr.Dataset:
    """Compare both directions of the heat flow: ratio of means of each, their difference and its ``z``.

    ``z`` is the difference over its error as a normal deviate, by Student's t with the degrees of freedom of
    the direction with fewer runs; NaN where that has fewer than `MINIMUM_RUNS`.

    Forward and backward runs of one seed share their equilibration. That can only make them more alike, so
    the error, which takes them as independent, is on the safe side.

    Raises
    ------
    ValueError
        The axis ``direction`` does not have both directions, or is averaged over.
    """
    mean = ensemble_mean(dataset, dim)
    if "direction" not in mean.dims or not {"forward", "backward"} <= set(mean["direction"].values.tolist()):
        raise ValueError("the two directions are not both there as labels of the dimension 'direction'")
    units, label = described(mean[result])
    value, error = (
        {d: mean[name].sel(direction=d, drop=True) for d in ("forward", "backward")}
        for name in (result, f"{result}{ERROR}")
    )
    forward, backward = (mean["n"].sel(direction=d, drop=True) for d in ("forward", "backward"))
    runs = forward.where(forward < backward, backward)
    difference = value["forward"] - value["backward"]
    difference_error = (error["forward"] ** 2 + error["backward"] ** 2) ** 0.5
    deviate = normal_equivalent(difference / difference_error, np.maximum(runs - 1, 1))
    z = difference.copy(data=deviate).where(runs >= MINIMUM_RUNS)
    output = {
        f"{result}_forward": (value["forward"], units, f"{label}, forward"),
        f"{result}_forward{ERROR}": (error["forward"], units, f"standard error of the {label}, forward"),
        f"{result}_backward": (value["backward"], units, f"{label}, backward"),
        f"{result}_backward{ERROR}": (error["backward"], units, f"standard error of the {label}, backward"),
        f"{result}_difference": (difference, units, f"{label}, forward minus backward"),
        f"{result}_difference{ERROR}": (
            difference_error,
            units,
            f"standard error of the {label}, difference",
        ),
        "z": (z, "1", "normal deviate of: forward minus backward"),
    }
    variables = {
        name: array.assign_attrs(units=unit, long_name=text) for name, (array, unit, text) in output.items()
    }
    return xr.Dataset(variables, attrs=mean.attrs)


def _deviate(moments: Moments) -> Floats:
    """Mean over its standard error as a normal deviate; 0 for no drift, NaN for too few runs."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(moments.mean == 0, 0.0, moments.mean / moments.standard_error)
    deviate = normal_equivalent(ratio, np.maximum(moments.n - 1, 1))
    return np.where(moments.n >= MINIMUM_RUNS, deviate, np.nan)
