"""Across runs: means and errors of an ensemble, its steady state, its convergence, and what it agrees with.

Runs of different seeds are independent, so the spread between them is the honest error of a mean: every
standard error here is of that kind. Errors from within runs are combined beside it and compared with it,
never used instead of it. Runs of one seed, such as both directions, start from one equilibrated structure:
where they are averaged together, the error of a conductance takes them as one observation (``n_seeds``).

The input is a calculation's dataset, either the labelled grid (axes as dimensions) or the flat one (one
dimension ``run``, axes as coordinates along it). A run counts when it is done (``state``) and passed its
gates (``valid``). ``attrs["ratio"]`` of the dataset, such as ``"itc:heat_flux:temperature_jump"``, names the
result whose mean over runs is a ratio of means, weighted by ``window`` where windows differ.
"""

from campaign.analysis.checks import (
    MEMORY_PS,
    MINIMUM_RUNS,
    PUBLISHED_ITC,
    RESOLVED_RUNS,
    PublishedValue,
    compare_with_published,
    convergence,
    ensemble_checks,
    rectification,
)
from campaign.analysis.mean import CampaignAccessor, ensemble_mean

__all__ = [
    "MEMORY_PS",
    "MINIMUM_RUNS",
    "PUBLISHED_ITC",
    "RESOLVED_RUNS",
    "CampaignAccessor",
    "PublishedValue",
    "compare_with_published",
    "convergence",
    "ensemble_checks",
    "ensemble_mean",
    "rectification",
]
