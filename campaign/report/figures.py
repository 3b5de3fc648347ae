"""Pictures of an ensemble as SVG, to be put into a page.

Text and axes take the colour of the page's text, backgrounds are transparent, so one picture serves a light
page, a dark one, and paper. Every picture comes with the caption that says what its error bars are.
"""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from campaign import analysis
from campaign.analysis import RESOLVED_RUNS
from campaign.numbers import with_error
from campaign.report.ensemble import RUN, Condition, Ensemble

ITC_LABEL = "ITC (MW m$^{-2}$ K$^{-1}$)"
MAX_CONDITIONS = 40
"""More conditions than these are not drawn side by side."""
MAX_PANELS = 12
MANY_DOTS = 1000
"""More runs of a condition than these are drawn as one picture."""
FAR = 20.0
"""Runs so many median deviations from the median are beyond the axis."""
MAX_LINES = 100
"""Of more runs of a condition than these, only some are drawn as lines."""

FORWARD, BACKWARD, POOLED, PUBLISHED = "#d1495b", "#2f7fc1", "#8a63c4", "#c98a00"
INK = "#010203"
"""Stands for the colour of the page's text until the picture is put into it."""

WIDTH = 9.6  # inches, the width of the page

STYLE = {
    "font.size": 9,
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "Helvetica"],
    "svg.fonttype": "none",
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "figure.facecolor": "none",
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "savefig.facecolor": "none",
}


@dataclass(frozen=True)
class Picture:
    """An SVG image with its title and its caption."""

    title: str
    svg: str
    caption: str


def pictures(ensemble: Ensemble) -> list[Picture]:
    """All pictures for which an ensemble has data."""
    if not ensemble.has_conductance or not any(
        condition.used.sizes[RUN] for condition in ensemble.conditions
    ):
        return []
    makers: tuple[Callable[[Ensemble], Picture | None], ...] = (conductance, convergence, profiles, energies)
    with mpl.rc_context(STYLE):
        found = [maker(ensemble) for maker in makers]
    return [picture for picture in found if picture is not None]


def conductance(ensemble: Ensemble) -> Picture:
    """Conductance of every run, and the ratio of means of each condition."""
    conditions = _drawn([*ensemble.pooled, *ensemble.conditions])
    figure = Figure(figsize=(WIDTH, 1.2 + 0.42 * len(conditions)), layout="constrained")
    axes = figure.subplots()
    left, right = axis_limits(conditions)
    axes.set_xlim(left, right)
    for position, condition in enumerate(conditions):
        colour = _colour(condition)
        values, valid = condition.runs["itc"].values, condition.runs["valid"].values
        spread = _jitter(values.size)
        # As one picture where they are many: each dot is an element of the page otherwise.
        dots: Any = {"rasterized": values.size > MANY_DOTS}
        axes.plot(
            values[valid], position + spread[valid], "o", ms=4, mec="none", mfc=colour, alpha=0.45, **dots
        )
        out = ~valid & np.isfinite(values)
        axes.plot(values[out], position + spread[out], "x", ms=5, color=colour, **dots)
        for beyond, edge, arrow in ((values < left, left, "<"), (values > right, right, ">")):
            heights = position + spread[beyond]
            axes.plot([edge] * heights.size, heights, arrow, ms=4, color=colour, clip_on=False, **dots)
        mean = float(condition.mean["itc"])
        if condition.resolved:
            bounds = [float(condition.mean[f"itc_{side}"]) for side in ("lower", "upper")]
            axes.plot(np.clip(bounds, left, right), [position, position], "-", lw=1, color=colour)
            for bound, edge, arrow in zip(bounds, (left, right), "<>", strict=True):
                if not left <= bound <= right:
                    axes.plot(edge, position, arrow, ms=5, color=colour, clip_on=False)
            error = float(condition.mean["itc_standard_error"])
            axes.errorbar(mean, position, xerr=error, fmt="D", ms=6, lw=2.5, color=colour, mec=INK, mew=0.6)
        elif math.isfinite(mean):
            axes.plot(mean, position, "D", ms=6, mfc="none", mec=colour)
        if condition.published is not None:
            published = condition.published
            axes.plot([published.mean] * 2, [position - 0.4, position + 0.4], "-", lw=1.5, color=PUBLISHED)
            axes.fill_betweenx(
                [position - 0.4, position + 0.4],
                published.mean - published.standard_error,
                published.mean + published.standard_error,
                color=PUBLISHED,
                alpha=0.25,
                lw=0,
            )
    axes.set_yticks(range(len(conditions)), [f"{c.title}  (n = {c.n})" for c in conditions])
    axes.set_ylim(len(conditions) - 0.4, -0.6)
    axes.set_xlabel(ITC_LABEL)
    axes.grid(visible=True, axis="x", lw=0.4, alpha=0.4)
    published_text = (
        " Vertical line and band: published mean and its standard error."
        if any(condition.published for condition in conditions)
        else ""
    )
    caption = (
        "Dots: single runs (seeds); crosses: runs left out by a gate. Diamond with thick bar: ratio of means "
        "with its standard error between seeds; thin line: 95 % interval by Fieller's theorem. Arrow heads: "
        "runs beyond the axis, and intervals that go on beyond it. Open diamond: ratio of means that is not "
        "resolved (fewer than three seeds, or an interval without bounds), so without an error."
        f"{published_text}"
    )
    return Picture("Interfacial thermal conductance", svg_of(figure), caption)


def axis_limits(conditions: Sequence[Condition]) -> tuple[float, float]:
    """Range of the axis: runs, means with their errors, published values; not the intervals.

    A run whose temperature jump happens to be near zero has a conductance of any size: it is left out.
    """
    points: list[float] = []
    for condition in conditions:
        values = condition.runs["itc"].values
        values = values[np.isfinite(values)]
        distance = np.abs(values - np.median(values)) if values.size else values
        points += (
            values[distance <= FAR * np.median(distance)].tolist() if values.size > 2 else values.tolist()
        )
        mean, error = float(condition.mean["itc"]), float(condition.mean["itc_standard_error"])
        if condition.resolved:
            points += [mean - error, mean + error]
        if condition.published is not None:
            mean, error = condition.published.mean, condition.published.standard_error
            points += [mean - error, mean + error]
    finite = [point for point in points if math.isfinite(point)]
    margin = 0.06 * (max(finite) - min(finite)) or 1.0
    return min(finite) - margin, max(finite) + margin


def convergence(ensemble: Ensemble) -> Picture | None:
    """Ratio of means against the number of runs."""
    conditions = [
        condition for condition in [*ensemble.pooled, *ensemble.conditions] if condition.used.sizes[RUN] > 1
    ][:MAX_PANELS]
    if not conditions:
        return None
    figure, panels = _panels(len(conditions), height=2.2)
    for axes, condition in zip(panels, conditions, strict=True):
        running = analysis.convergence(condition.used, RUN)
        count, value = running["number_of_runs"].values, running["itc"].values
        error = np.where(running["n"] < RESOLVED_RUNS, np.nan, running["itc_standard_error"].values)
        colour = _colour(condition)
        axes.fill_between(count, value - error, value + error, color=colour, alpha=0.25, lw=0)
        axes.plot(count, value, "o-", ms=3, lw=1.2, color=colour)
        if condition.published is not None:
            axes.axhline(condition.published.mean, lw=1.2, color=PUBLISHED)
        axes.set_title(condition.title, loc="left")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("number of runs")
    _outer_label(panels, ITC_LABEL)
    caption = (
        "Ratio of means over the first n valid runs, in the order of the plan; band: standard error between "
        "seeds (from three on). Horizontal line: published mean, where there is one."
    )
    return Picture("Convergence with the number of runs", svg_of(figure), caption)


def profiles(ensemble: Ensemble) -> Picture | None:
    """Layer temperatures with the jump marked."""
    conditions = _with_data(ensemble, "layer_temperature")
    if not conditions:
        return None
    figure, panels = _panels(len(conditions), height=2.6)
    for axes, condition in zip(panels, conditions, strict=True):
        _profile(axes, condition)
    _outer_label(panels, "layer temperature (K)")
    caption = (
        "Temperature of each layer, from the bottom: thin lines are single runs (of more than "
        f"{MAX_LINES}, some evenly spread), points the mean over all runs with its standard error between "
        "runs. The arrow marks the jump between the two layers at the interface (dashed); the number is the "
        "mean jump with its standard error between runs. Shaded: layers of the source (red) and of the sink "
        "(blue); frozen layers are not shown."
    )
    return Picture("Layer temperature profiles", svg_of(figure), caption)


def _profile(axes: Any, condition: Condition) -> None:
    temperatures = condition.used["layer_temperature"].transpose(RUN, "layer").values
    first = int(condition.settings.get("frozen_layers", 0))
    layers = np.flatnonzero(np.isfinite(temperatures).any(axis=0))
    layers = layers[layers >= first]
    colour = _colour(condition)
    axes.plot(layers, temperatures[_some(len(temperatures)), layers].T, "-", lw=0.6, color=colour, alpha=0.35)
    mean, n = np.full(temperatures.shape[1], np.nan), temperatures.shape[0]
    mean[layers] = np.nanmean(temperatures[:, layers], axis=0)
    error = np.nanstd(temperatures[:, layers], axis=0, ddof=1) / math.sqrt(n) if n > 1 else None
    axes.errorbar(layers, mean[layers], yerr=error, fmt="o", ms=4, lw=1.2, color=colour, capsize=2)
    _thermostats(axes, condition, first, int(layers[-1]))
    lower = condition.settings.get("structure.lower.layers")
    if isinstance(lower, int) and first < lower <= layers[-1]:
        interface = lower - 0.5
        axes.axvline(interface, lw=0.8, ls="--", color=INK)
        arrow = {"arrowstyle": "<->", "color": INK, "shrinkA": 0, "shrinkB": 0}
        below, above = (interface, mean[lower - 1]), (interface, mean[lower])
        axes.annotate("", xytext=below, xy=above, arrowprops=arrow)
        jump = with_error(
            float(condition.mean["temperature_jump"]),
            float(condition.mean["temperature_jump_standard_error"]),
        )
        bottom = axes.get_xaxis_transform()
        axes.text(interface + 0.1, 0.02, f"{jump} K", transform=bottom, va="bottom", fontsize=8)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_title(condition.title, loc="left")
    axes.set_xlabel("layer")


def _thermostats(axes: Any, condition: Condition, first: int, last: int) -> None:
    """Shade the layers of source and sink."""
    n = condition.settings.get("thermostat_layers")
    if isinstance(n, int):
        source_below = condition.settings.get("direction") == "backward"
        colours = (FORWARD, BACKWARD) if source_below else (BACKWARD, FORWARD)
        for start, colour in zip((first - 0.5, last - n + 0.5), colours, strict=True):
            axes.axvspan(start, start + n, color=colour, alpha=0.1, lw=0)


def energies(ensemble: Ensemble) -> Picture | None:
    """Cumulative thermostat energies and what they leave in the system."""
    shown = [condition for condition in ensemble.conditions if condition.n][:MAX_PANELS]
    if not shown or "source_energy" not in ensemble.unread:
        return None
    drawn = [
        (condition, ensemble.series(condition.used.isel({RUN: _some(condition.n)}))) for condition in shown
    ]
    conditions = [
        (condition, series) for condition, series in drawn if series["source_energy"].notnull().any()
    ]
    if not conditions:
        return None
    columns = _columns(len(conditions))
    rows = math.ceil(len(conditions) / columns)
    figure = Figure(figsize=(WIDTH, 3.6 * rows), layout="constrained")
    grid = figure.subplots(2 * rows, columns, squeeze=False, sharex="col", height_ratios=[2, 1] * rows)
    for index, (condition, used) in enumerate(conditions):
        top = grid[2 * (index // columns), index % columns]
        bottom = grid[2 * (index // columns) + 1, index % columns]
        time = used["elapsed_time"].transpose("sample", RUN).values
        source = used["source_energy"].transpose("sample", RUN).values
        sink = used["sink_energy"].transpose("sample", RUN).values
        for values, colour, label in ((source, FORWARD, "source"), (-sink, BACKWARD, "sink, sign changed")):
            axes_lines = top.plot(time, values, "-", lw=0.8, color=colour, alpha=0.6)
            axes_lines[0].set_label(label)
        bottom.plot(time, source + sink, "-", lw=0.8, color=POOLED, alpha=0.6)
        bottom.axhline(0, lw=0.6, color=INK)
        build_up = condition.settings.get("build_up_ps")
        if build_up:
            for axes in (top, bottom):
                axes.axvspan(0, float(build_up), color=INK, alpha=0.07, lw=0)
        top.set_title(condition.title, loc="left")
        bottom.tick_params(labelbottom=True)
        bottom.set_xlabel("time (ps)")
        if index % columns == 0:
            top.set_ylabel("energy (eV)")
            bottom.set_ylabel("net (eV)")
    grid[0, 0].legend(loc="upper left")
    for empty in range(len(conditions), rows * columns):
        grid[2 * (empty // columns), empty % columns].set_visible(False)
        grid[2 * (empty // columns) + 1, empty % columns].set_visible(False)
    caption = (
        "Energy that the source has put into each run, and that the sink has taken out (sign changed): in "
        "balance the two lines of a run are parallel. Below, source plus sink: the energy that stays in the "
        "system. The time starts with the heat flow; shaded: build-up, left out of all averages. "
        f"One line for each run (of more than {MAX_LINES} runs, some evenly spread), no error bars."
    )
    return Picture("Cumulative thermostat energies", svg_of(figure), caption)


def _with_data(ensemble: Ensemble, name: str) -> list[Condition]:
    found = [c for c in ensemble.conditions if name in c.used and np.isfinite(c.used[name].values).any()]
    return found[:MAX_PANELS]


def _drawn(conditions: Sequence[Condition]) -> list[Condition]:
    return [c for c in conditions if np.isfinite(c.runs["itc"].values).any()][:MAX_CONDITIONS]


def _colour(condition: Condition) -> str:
    if condition.pooled:
        return POOLED
    return BACKWARD if condition.labels.get("direction") == "backward" else FORWARD


def _jitter(n: int) -> Any:
    """Offsets that keep equal values apart; the same every time."""
    return ((np.arange(n) * 0.618034) % 1 - 0.5) * 0.5


def _some(n: int) -> slice:
    """Choose runs that are drawn as lines: all, or some evenly spread."""
    return slice(None, None, math.ceil(n / MAX_LINES))


def _columns(n: int) -> int:
    return 2 if n == 4 else min(3, n)


def _panels(n: int, height: float) -> tuple[Figure, list[Any]]:
    columns = _columns(n)
    rows = math.ceil(n / columns)
    figure = Figure(figsize=(WIDTH, height * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for unused in grid[n:]:
        unused.set_visible(False)
    return figure, list(grid[:n])


def _outer_label(panels: Sequence[Any], label: str) -> None:
    for axes in panels:
        if axes.get_subplotspec().is_first_col():
            axes.set_ylabel(label)


def svg_of(figure: Figure) -> str:
    """Picture as SVG that takes its colour of text from the page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor")
