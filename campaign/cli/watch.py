"""``campaign watch``: a live view of a campaign that somebody else drives, here or on another machine.

It reads what the driver leaves in the campaign's directory, and never starts one.
"""

import io
import time
from collections import Counter
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from campaign.cli.app import out
from campaign.cli.grid import LEGEND, count_letters, counts_text, make_grid, render
from campaign.cli.inspection import driver_line, is_elsewhere, read_snapshot, run_states
from campaign.cli.progress import Names, panel
from campaign.cli.queued import AwaitedDriver, awaited_driver, queue_line
from campaign.cli.text import folded, plural
from campaign.execution.requests import driver_is_alive
from campaign.layout import Layout
from campaign.plan_file import load_plan
from campaign.runs import CalculationPlan, Plan

LOOK_EVERY_S = 1.0
ASK_QUEUE_EVERY_S = 30.0
ESTIMATE_SHARE = 0.1
"""Share of the time that may go into reading results: 10^5 runs take seconds."""

MOST_CONDITIONS = 12


class Estimates:
    """Results so far, by condition; read again when the store has changed, seldom where that takes long."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._text = ""
        self._written = 0.0
        self._not_before = 0.0

    def text(self) -> str:
        """Give the table that ``campaign run`` ends with, of what there is by now."""
        try:
            written = max(path.stat().st_mtime for path in self._layout.store.glob("*/zarr.json"))
        except (OSError, ValueError):  # no result yet
            return ""
        began = time.monotonic()
        if written != self._written and began >= self._not_before:
            self._text, self._written = self._read(), written
            self._not_before = time.monotonic() + (time.monotonic() - began) / ESTIMATE_SHARE
        return self._text

    def _read(self) -> str:
        import campaign
        from campaign.cli.summary import condition_rows, print_results

        table = io.StringIO()
        console = Console(file=table, width=out.width, highlight=False, soft_wrap=True, emoji=False)
        for name, node in campaign.open(self._layout.root).results.children.items():
            rows = condition_rows(node.ds, name)
            if rows:
                print_results(console, name, rows[:MOST_CONDITIONS])
            if len(rows) > MOST_CONDITIONS:
                console.print(f"and {len(rows) - MOST_CONDITIONS:,} more conditions: see the report")
        return table.getvalue().rstrip()


class View:
    """All that there is to see of a campaign; what does not change is read once."""

    def __init__(self, layout: Layout) -> None:
        self.goes_on = True
        """Whether a driver was at work, or about to follow, when it was last looked at."""

        self._layout = layout
        self._estimates = Estimates(layout)
        self._plan: Plan | None = None
        self._planned = 0
        self._queued = ""
        self._ask_queue_at = time.monotonic() + LOOK_EVERY_S

    def picture(self) -> RenderableType:
        """Look at it now; what a terminal has no room for is told in fewer lines, the results last."""
        snapshot, plan, width = read_snapshot(self._layout), self._read_plan(), out.width
        alive = driver_is_alive(self._layout)
        awaited = None if alive else awaited_driver(self._layout, snapshot)
        if awaited is not None and self._has_ended(awaited):
            awaited = None
        self.goes_on = alive or awaited is not None
        first = (
            Text(f"{plan.campaign} in {self._layout.root}", style="bold"),
            Text(driver_line(self._layout, snapshot, alive=alive, awaited=awaited)),
            *([Text(self._queued)] if awaited is not None and self._queued else []),
        )
        last = (*_failures(snapshot, width), Text(self._estimates.text()))
        running = panel(snapshot, Names(plan), width) if alive else Text("")
        at_work = alive or is_elsewhere(snapshot)
        states = [(one, run_states(snapshot, one, at_work=at_work)) for one in plan.calculations]
        counts = _counts(states)
        for middle in (
            (running, *_grids(states, width), Text(LEGEND, style="dim")),
            (running, *counts),
            counts,
        ):
            shown = Group(*first, *middle, *last)
            if not out.is_terminal or len(out.render_lines(shown)) <= out.height:
                break
        return shown

    def _has_ended(self, awaited: AwaitedDriver) -> bool:
        """Whether the job of a driver that is to begin has ended; SLURM is asked seldom, and not at first."""
        if time.monotonic() < self._ask_queue_at:
            return False
        self._queued = queue_line(awaited)
        if self._queued:
            self._ask_queue_at = time.monotonic() + ASK_QUEUE_EVERY_S
        return not self._queued

    def _read_plan(self) -> Plan:
        written = self._layout.plan.stat().st_mtime_ns
        if self._plan is None or written != self._planned:
            self._plan, self._planned = load_plan(self._layout.plan), written
        return self._plan


def watch(layout: Layout) -> None:
    """Show the campaign until its last driver has ended, or Ctrl-C; once where there is no terminal."""
    view = View(layout)
    if not out.is_terminal:
        out.print(view.picture())
        return
    try:
        with Live(console=out, auto_refresh=False) as live:
            while True:
                live.update(view.picture(), refresh=True)
                if not view.goes_on:
                    return
                time.sleep(LOOK_EVERY_S)
    except KeyboardInterrupt:
        out.print("the campaign goes on; `campaign stop` would end it", markup=False)


def _grids(states: list[tuple[CalculationPlan, str]], width: int) -> list[Text]:
    lines = []
    for calculation, letters in states:
        lines += [Text(calculation.name, style="bold"), *render(make_grid(calculation, letters), width)]
    return lines


def _counts(states: list[tuple[CalculationPlan, str]]) -> list[Text]:
    return [
        Text(f"{calculation.name}: ", style="bold").append_text(counts_text(count_letters(letters)))
        for calculation, letters in states
    ]


def _failures(snapshot: dict[str, Any], width: int) -> list[Text]:
    """Failures by class, and what is held back."""
    runs: Counter[str] = Counter()
    for failure in snapshot["failed"].values():
        runs[failure["class"]] += failure["n_runs"]
    lines = [Text(f"{name}: {plural(number, 'run')}", style="red") for name, number in runs.most_common()]
    held = (folded(f"held back: {text}", width, "  ") for text in snapshot.get("held", []))
    return [*lines, *(Text(text, style="red") for text in held)]
