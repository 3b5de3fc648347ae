"""``campaign watch``: a live view of a campaign that somebody else drives, here or on another machine.

It reads what the driver leaves in the campaign's directory, and never starts one.
"""

import time
from collections import Counter
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from campaign.axes import label_text
from campaign.cli.app import out
from campaign.cli.grid import LEGEND, make_grid, render
from campaign.cli.inspection import driver_line, read_snapshot
from campaign.cli.progress import Names, panel
from campaign.cli.text import folded, plural, with_error
from campaign.execution.requests import driver_is_alive
from campaign.layout import Layout
from campaign.plan_file import load_plan

LOOK_EVERY_S = 1.0
ESTIMATE_SHARE = 0.1
"""Share of the time that may go into reading results: 10^5 runs take seconds."""

MOST_CONDITIONS = 12


class Estimates:
    """Results so far, by condition; read again when the store has changed, seldom where that takes long."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._rows: list[dict[str, Any]] = []
        self._written = 0.0
        self._not_before = 0.0

    def lines(self) -> list[Text]:
        """One line for each condition: its conductance, the standard error, and of how many runs."""
        self._read()
        lines = []
        for row in self._rows[:MOST_CONDITIONS]:
            labels = " ".join(label_text(value) for value in row["labels"].values())
            value = "-" if row["itc"] is None else with_error(row["itc"], row["itc_standard_error"])
            lines.append(Text(f"{labels}: {value} {row['units']} ({plural(row['n'], 'run')})"))
        if len(self._rows) > MOST_CONDITIONS:
            lines.append(Text(f"and {len(self._rows) - MOST_CONDITIONS:,} more conditions"))
        return [Text("ITC ± standard error", style="dim"), *lines] if lines else []

    def _read(self) -> None:
        try:
            written = max(path.stat().st_mtime for path in self._layout.store.glob("*/zarr.json"))
        except (OSError, ValueError):
            return
        began = time.monotonic()
        if written == self._written or began < self._not_before:
            return
        import campaign
        from campaign.cli.summary import condition_rows

        children = campaign.open(self._layout.root).results.children
        self._rows = [row for name, node in children.items() for row in condition_rows(node.ds, name)]
        self._written = written
        self._not_before = time.monotonic() + (time.monotonic() - began) / ESTIMATE_SHARE


def watch(layout: Layout) -> None:
    """Show the campaign until its driver has ended, or until Ctrl-C; once where there is no terminal."""
    estimates = Estimates(layout)
    if not out.is_terminal:
        out.print(picture(layout, estimates))
        return
    try:
        with Live(console=out, auto_refresh=False, screen=False) as live:
            while True:
                live.update(picture(layout, estimates), refresh=True)
                if not driver_is_alive(layout):
                    return
                time.sleep(LOOK_EVERY_S)
    except KeyboardInterrupt:
        out.print("the campaign goes on; `campaign stop` would end it", markup=False)


def picture(layout: Layout, estimates: Estimates) -> RenderableType:
    """All that there is to see now."""
    snapshot, plan, width = read_snapshot(layout), load_plan(layout.plan), out.width
    alive = driver_is_alive(layout)
    parts: list[RenderableType] = [
        Text(f"{plan.campaign} in {layout.root}", style="bold"),
        Text(driver_line(layout, snapshot, alive=alive)),
        panel(snapshot, Names(plan), width) if alive else Text(""),
    ]
    for calculation in plan.calculations:
        states = snapshot["states"].get(calculation.name, "")
        if len(states) == len(calculation.runs):
            parts += [Text(calculation.name, style="bold"), *render(make_grid(calculation, states), width)]
    parts += [Text(LEGEND, style="dim"), *_failures(snapshot, width)]
    table = Table.grid()
    for line in estimates.lines():
        table.add_row(line)
    return Group(*parts, table)


def _failures(snapshot: dict[str, Any], width: int) -> list[Text]:
    """Failures by class, and what is held back."""
    runs: Counter[str] = Counter()
    for failure in snapshot["failed"].values():
        runs[failure["class"]] += failure["n_runs"]
    lines = [Text(f"{name}: {plural(number, 'run')}", style="red") for name, number in runs.most_common()]
    held = (folded(f"held back: {text}", width, "  ") for text in snapshot.get("held", []))
    return [*lines, *(Text(text, style="red") for text in held)]
