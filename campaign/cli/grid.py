"""States of an ensemble as a grid of letters that fits the terminal.

Only columns of a plan are read, and states stay the letters of the snapshot, so that 10^5 runs take no time.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, repeat
from operator import itemgetter

from rich.text import Text

from campaign.axes import label_text
from campaign.cli.text import folded
from campaign.columns import IndexRows
from campaign.runs import CalculationPlan

STATES = {"d": "done", "r": "running", "f": "failed", "p": "pending"}
LETTERS = {"p": ".", "r": "r", "d": "D", "f": "F"}
STYLES = {"pending": "dim", "running": "yellow", "done": "green", "failed": "bold red"}
LEGEND = "D done  r running  F failed  . pending"

MOST_ROWS = 40
MOST_LINES = 3
"""Lines of letters of a row; counts stand for more."""
NARROW = 20
"""Letters stand below the labels where there is less room than this beside them."""


@dataclass(frozen=True)
class Row:
    """One line of the grid: a label for each of its columns, and a letter (p, r, d, f) for each run."""

    labels: tuple[str, ...]
    states: str


@dataclass(frozen=True)
class Grid:
    """Runs by all axes but the last, usually the seed.

    Attributes
    ----------
    common
        Labels that all rows share.
    columns
        Names of the labels of the rows.
    letters
        Names of the labels along a row.
    """

    common: Mapping[str, str]
    columns: tuple[str, ...]
    letters: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def heading(self) -> str:
        """What the labels mean: ``timestep=0.5; rows: direction; letters: seed``."""
        parts = [f"{name}={value}" for name, value in self.common.items()]
        if self.columns:
            parts.append(f"rows: {' | '.join(self.columns)}")
        if self.letters:
            parts.append(f"letters: {', '.join(self.letters)}")
        return "; ".join(parts)


def make_grid(calculation: CalculationPlan, states: str) -> Grid:
    """Group runs by all axes but the last; ``states`` has a letter for each run, in the order of the plan."""
    if not calculation.dimensions:
        return Grid({}, (), (), (Row((), states),))
    *outer, last = calculation.dimensions
    columns_before = IndexRows.of(calculation.runs.cells).columns[:-1]
    places = zip(*columns_before, strict=True) if columns_before else repeat((), len(states))
    grouped: dict[tuple[int, ...], list[str]] = {}
    for place, same in groupby(zip(places, states, strict=True), itemgetter(0)):
        grouped.setdefault(place, []).extend(state for _, state in same)
    values: dict[str, list[str]] = {}
    for position, dimension in enumerate(outer):
        for name, labels in dimension.coordinates.items():
            texts = [label_text(label) for label in labels]
            values[name] = [texts[cell[position]] for cell in grouped]
    common = {name: texts[0] for name, texts in values.items() if len(set(texts)) == 1}
    columns = tuple(name for name in values if name not in common)
    labels_of_rows = zip(*(values[name] for name in columns), strict=True) if columns else [()] * len(grouped)
    rows = tuple(
        Row(tuple(labels), "".join(found))
        for labels, found in zip(labels_of_rows, grouped.values(), strict=True)
    )
    return Grid(common, columns, tuple(last.coordinates), rows)


def render(grid: Grid, width: int) -> list[Text]:
    """Lines of the grid, at most ``width`` characters each unless a single word is longer.

    A row of letters goes over up to three lines; counts stand for more, and for rows beyond forty.
    """
    lines = [Text(line, style="dim") for line in folded(grid.heading, width, "  ").splitlines()]
    shown = grid.rows[:MOST_ROWS]
    labels = _aligned([row.labels for row in shown])
    space = len(labels[0]) if labels else 0
    longest = max((len(row.states) for row in shown), default=0)
    room = width - space - 2 if space else width
    beside = room >= min(longest, NARROW)
    if not beside:
        space, room = 0, width - 2
    as_letters = longest <= room * MOST_LINES
    for row, label in zip(shown, labels, strict=True):
        if not beside:
            lines += [Text(line) for line in folded(" ".join(label.split()), width, "  ").splitlines()]
        indent = " " * (2 if not beside else space + 2 if space else 0)
        first = f"{label}  " if beside and space else indent
        bodies = (
            [_letters(row.states[at : at + room]) for at in range(0, len(row.states), room)]
            if as_letters
            else [counts_text(count_letters(row.states))]
        )
        lines += [Text(indent if n else first).append_text(body) for n, body in enumerate(bodies)]
    if len(grid.rows) > MOST_ROWS:
        rest: Counter[str] = Counter()
        for row in grid.rows[MOST_ROWS:]:
            rest.update(count_letters(row.states))
        lines.append(Text(f"{len(grid.rows) - MOST_ROWS:,} more rows: ").append_text(counts_text(rest)))
    return lines


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [" | ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)) for row in rows]


def _letters(states: str) -> Text:
    line = Text()
    for state, same in groupby(states):
        line.append(LETTERS[state] * len(list(same)), style=STYLES[STATES[state]])
    return line


def count_letters(states: str) -> Counter[str]:
    """Count the runs in each state, by its name."""
    return Counter({name: states.count(letter) for letter, name in STATES.items()})


def counts_text(counts: Mapping[str, int]) -> Text:
    """``12 done, 1 failed`` in colour, states that do not occur left out."""
    parts = [
        Text(f"{counts[state]:,} {state}", style=STYLES[state])
        for state in STATES.values()
        if counts.get(state)
    ]
    return Text(", ").join(parts)
