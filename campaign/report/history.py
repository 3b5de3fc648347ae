"""What happened when: drivers, attempts and how they ended, and the runs that were done by then."""

import math
from array import array
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from campaign.errors import FailureClass, LedgerError
from campaign.execution.requests import driver_is_alive
from campaign.layout import Layout
from campaign.ledger import Ledger
from campaign.plan import Plan
from campaign.report.figures import INK, STYLE, WIDTH, Picture, svg_of

Floats = NDArray[np.float64]

MAX_FAILURES = 100
"""More failed attempts than these are counted, not listed."""

_MAX_LABELS = 60
_MAX_HEIGHT = 9.0  # inches
_MANY_BARS = 1000
_UNITS = (("s", 1.0), ("min", 60.0), ("h", 3600.0), ("d", 86400.0))
_LONGEST = 300.0
"""The time axis takes the first unit in which it is not longer."""

DONE, GOING, CANCELLED = "done", "running", "handed over or cancelled"
ENDED, DIED = "ended in order", "died"
_COLOURS = {
    DONE: "#3c8d5a",
    GOING: "#8fbfe0",
    CANCELLED: "#9a9a9a",
    ENDED: INK,
    DIED: "#d1495b",
    FailureClass.NODE_FAILURE: "#7a1fa2",
    FailureClass.JOB_CANCELLED: "#c98a00",
    FailureClass.LOST_WORKER: "#d1495b",
    FailureClass.PHYSICS: "#e07020",
    FailureClass.WALLTIME: "#2f7fc1",
}
_OTHER_FAILURES = "#a0303c"
_HANDED_OVER = {FailureClass.CANCELLED, None}


@dataclass(frozen=True)
class Failure:
    """An attempt that ended without a committed stage, as text."""

    ended: str
    stage: str
    failure_class: str
    place: str
    message: str


@dataclass(frozen=True)
class History:
    """The picture, the first failures, and the number of all failures."""

    picture: Picture
    failures: list[Failure]
    n_failures: int


@dataclass(frozen=True)
class _Bars:
    """Attempts as bars: place and lane in it, begin and end in s since the epoch, what became of them."""

    lanes: list[tuple[str, int]]
    begins: "array[float]"
    ends: "array[float]"
    outcomes: list[str]
    runs_done: list[float]


@dataclass(frozen=True)
class _Life:
    """A driver: its start and its last sign of life in s since the epoch, and what became of it."""

    since: float
    until: float
    outcome: str


def read_history(layout: Layout, plan: Plan) -> History | None:
    """Read the history of a campaign; None where there is no ledger, or nothing was tried yet."""
    try:
        with Ledger.open(layout, read_only=True) as ledger:
            drivers = ledger.drivers()
            bars, failures, number = _read(
                ledger, plan, max((one.heartbeat for one in drivers), default=None)
            )
    except LedgerError:
        return None
    if not bars.lanes:
        return None
    alive = driver_is_alive(layout)
    lives = [
        _Life(
            _seconds(driver.since),
            _seconds(driver.heartbeat),
            # A later one took the campaign over, or nobody is there: one that did not say that it ended died.
            ENDED if driver.released else GOING if alive and driver == drivers[-1] else DIED,
        )
        for driver in drivers
    ]
    with mpl.rc_context(STYLE):
        picture = _draw(bars, lives)
    return History(picture, failures, number)


def _read(ledger: Ledger, plan: Plan, heard: str | None) -> tuple[_Bars, list[Failure], int]:
    """Go through all attempts once; of those that went well only numbers are kept.

    What has not ended goes on until a driver was heard last.
    """
    runs_of = Counter(run.result_stage for run in plan.runs)
    bars = _Bars([], array("d"), array("d"), [], [])
    lanes: dict[tuple[str, str], int] = {}
    busy_until: dict[str, list[float]] = {}
    failures: list[Failure] = []
    number = 0
    for kind, attempt in ledger.history():
        place = f"job {attempt.job}" if attempt.job else attempt.host or "never begun"
        end = _seconds(attempt.finished or heard or attempt.submitted)
        begin = min(end, _seconds(attempt.started or attempt.submitted))
        outcome = _outcome(attempt.state, attempt.failure_class)
        if not attempt.slot or (place, attempt.slot) not in lanes:  # a rebuilt ledger knows no slots
            lanes[place, attempt.slot] = _free_lane(busy_until.setdefault(place, []), begin)
        lane = lanes[place, attempt.slot]
        busy_until[place][lane] = max(busy_until[place][lane], end)
        bars.lanes.append((place, lane))
        bars.begins.append(begin)
        bars.ends.append(end)
        bars.outcomes.append(outcome)
        if outcome == DONE:
            bars.runs_done.extend([end] * runs_of[attempt.stage_id])
        elif outcome not in {GOING, CANCELLED} and not (
            outcome == FailureClass.WALLTIME and attempt.segments
        ):
            # What went on in another job did not fail.
            number += 1
            if number <= MAX_FAILURES:
                ended = (attempt.finished or "")[:19].replace("T", " ")
                stage = f"{kind} {attempt.stage_id[:8]}"
                failures.append(Failure(ended, stage, outcome, place, attempt.message or ""))
    return bars, failures, number


def _free_lane(busy_until: list[float], begin: float) -> int:
    """Lane of a new slot: one that is over, for a job has a new slot after each driver, or one more."""
    for lane, until in enumerate(busy_until):
        if until <= begin:
            return lane
    busy_until.append(begin)
    return len(busy_until) - 1


def _outcome(state: str, failure_class: str | None) -> str:
    if state in {DONE, GOING}:
        return state
    return CANCELLED if failure_class in _HANDED_OVER else str(failure_class)


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _draw(bars: _Bars, lives: list[_Life]) -> Picture:
    begins, ends = np.asarray(bars.begins), np.asarray(bars.ends)
    origin = min(begins.min(), *(life.since for life in lives))
    span = max(ends.max(), *(life.until for life in lives)) - origin
    unit, per = next((pair for pair in _UNITS if span / pair[1] <= _LONGEST), _UNITS[-1])
    places = _places(bars.lanes)
    row_of = {lane: row for row, lane in enumerate(places)}
    n_rows = len(places)
    height = min(_MAX_HEIGHT, 0.3 + 0.14 * n_rows)
    figure = Figure(figsize=(WIDTH, height + 2.4), layout="constrained")
    above, axes, below = figure.subplots(3, 1, sharex=True, height_ratios=[0.35, max(height, 0.6), 1.0])
    above.broken_barh(
        [((life.since - origin) / per, (life.until - life.since) / per) for life in lives],
        (0.1, 0.8),
        color=[_COLOURS[life.outcome] for life in lives],
        alpha=0.5,
    )
    above.set_yticks([0.5], ["drivers"])
    # As one picture where they are many: each bar is an element of the page otherwise.
    many = len(begins) > _MANY_BARS
    left, right, rows = (
        (begins - origin) / per,
        (ends - origin) / per,
        np.array([row_of[lane] for lane in bars.lanes]),
    )
    for name, colour, members in _by_outcome(bars.outcomes):
        corners = _rectangles(left[members], right[members], rows[members])
        collection = PolyCollection(corners, facecolor=colour, edgecolor=colour, lw=0.6, rasterized=many)
        collection.set_label(name)
        axes.add_collection(collection)
    axes.set_ylim(n_rows, 0)
    _name_places(axes, [place for place, _ in places])
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=5, handlelength=1)
    done = (np.sort(bars.runs_done) - origin) / per
    times, counts = [0, *done, span / per], [*range(len(done) + 1), len(done)]
    below.step(times, counts, where="post", color=_COLOURS[DONE])
    below.set_xlim(0, max(span / per, 1e-9))
    below.set_ylim(bottom=0)
    below.set_ylabel("runs done")
    below.set_xlabel(f"time since {datetime.fromtimestamp(origin, UTC):%Y-%m-%d %H:%M:%S} UTC ({unit})")
    caption = (
        "Each row is a slot, a place for one attempt, named by its job or host; a bar is an attempt, in the "
        "colour of how it ended. On top, the drivers, each from its start to its last sign of life: dark if "
        "it ended in order, red if it died, blue if it runs. Below, the number of runs that were done."
    )
    return Picture("Timeline", svg_of(figure), caption)


def _rectangles(left: Floats, right: Floats, rows: NDArray[np.int64]) -> Any:
    """Corners of bars, shape (bars, 4, 2)."""
    x = np.stack([left, left, right, right], axis=1)
    y = np.stack([rows + 0.1, rows + 0.9, rows + 0.9, rows + 0.1], axis=1)
    return np.stack([x, y], axis=2)


def _places(lanes: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Rows of the picture: lanes of each place together, places in the order of their first attempts."""
    most: dict[str, int] = {}
    for place, lane in lanes:
        most[place] = max(lane + 1, most.get(place, 0))
    return [(place, lane) for place, number in most.items() for lane in range(number)]


def _by_outcome(outcomes: list[str]) -> list[tuple[str, str, Any]]:
    """Name, colour and members of each outcome; failures are drawn last, over the others."""
    found = np.asarray(outcomes)
    order = sorted(set(outcomes), key=[DONE, GOING, CANCELLED, *FailureClass].index)
    return [(name, _COLOURS.get(name, _OTHER_FAILURES), np.flatnonzero(found == name)) for name in order]


def _name_places(axes: Any, places: list[str]) -> None:
    """Name the first row of each job or host, and not too many of them."""
    firsts = [row for row, place in enumerate(places) if row == 0 or places[row - 1] != place]
    some = firsts[:: math.ceil(len(firsts) / _MAX_LABELS)]
    axes.set_yticks([row + 0.5 for row in some], [places[row] for row in some], fontsize=6)
