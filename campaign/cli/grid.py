"""States of an ensemble as a grid of letters that fits the terminal."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from campaign.plan import CalculationPlan, Run

LETTERS = {"pending": ".", "running": "r", "done": "D", "failed": "F"}
STYLES = {"pending": "dim", "running": "yellow", "done": "green", "failed": "bold red"}
LEGEND = "D done  r running  F failed  . pending"


@dataclass(frozen=True)
class Row:
    """One line of the grid: its labels, and the states of its runs in the order of the last axis."""

    labels: str
    states: tuple[str, ...]


def grid_rows(calculation: CalculationPlan, states: Sequence[str]) -> tuple[Row, ...]:
    """Group runs by all axes but the last, usually the seed; ``states`` is in the order of the runs."""
    if not calculation.dimensions:
        return (Row(calculation.name, tuple(states)),)
    last = set(calculation.dimensions[-1].coordinates)
    grouped: dict[str, list[str]] = {}
    for run, state in zip(calculation.runs, states, strict=True):
        grouped.setdefault(_labels(run, last), []).append(state)
    return tuple(Row(labels or calculation.name, tuple(found)) for labels, found in grouped.items())


def _labels(run: Run, without: set[str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in run.labels.items() if name not in without)


def render(rows: Sequence[Row], width: int, *, most_rows: int = 40) -> list[Text]:
    """Lines of the grid, at most ``width`` characters each and ``most_rows`` of them.

    Where a row has more runs than fit, or there are more rows than wanted, counts stand for letters.
    """
    lines = []
    space = max((len(row.labels) for row in rows[:most_rows]), default=0)
    space = min(space, max(12, width // 2))
    for row in rows[:most_rows]:
        line = Text(_shortened(row.labels, space).ljust(space) + "  ")
        if space + 2 + len(row.states) <= width:
            for state in row.states:
                line.append(LETTERS[state], style=STYLES[state])
        else:
            line.append(counts_text(Counter(row.states)))
        line.truncate(width)
        lines.append(line)
    if len(rows) > most_rows:
        rest = Counter(state for row in rows[most_rows:] for state in row.states)
        line = Text(f"{len(rows) - most_rows} more rows: ").append(counts_text(rest))
        line.truncate(width)
        lines.append(line)
    return lines


def counts_text(counts: Counter[str]) -> Text:
    """``12 done, 1 failed`` in colour, states that do not occur left out."""
    parts = [
        Text(f"{counts[state]} {state}", style=STYLES[state])
        for state in ("done", "running", "failed", "pending")
        if counts[state]
    ]
    return Text(", ").join(parts)


def _shortened(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
