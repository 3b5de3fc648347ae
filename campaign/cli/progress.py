"""Live progress of a campaign on stderr: a redrawn panel on a terminal, one line now and then elsewhere."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from campaign.cli.app import err
from campaign.cli.grid import counts_text
from campaign.cli.inspection import duration

LINE_EVERY_S = 10.0
MOST_RUNNING = 12


class Watcher(Protocol):
    """What the driver calls with each snapshot."""

    def __call__(self, snapshot: dict[str, Any]) -> None:
        """Show it."""
        ...


@contextmanager
def progress() -> Iterator[Watcher]:
    """Show snapshots as they come: a live panel on a terminal, else a line every ten seconds."""
    if not err.is_terminal:
        yield _Lines()
        return
    with Live(console=err, refresh_per_second=4, transient=True) as live:
        yield lambda snapshot: live.update(panel(snapshot))


class _Lines:
    def __init__(self) -> None:
        self._last = 0.0

    def __call__(self, snapshot: dict[str, Any]) -> None:
        now = time.monotonic()
        ended = snapshot["driver"]["state"] in {"finished", "stopped"}
        if now - self._last < LINE_EVERY_S and not ended:
            return
        self._last = now
        rates = [stage["rate"] for stage in snapshot["running"].values() if stage.get("rate")]
        speed = f", {sum(rates):.2g} atom-step/s" if rates else ""
        steps = ", ".join(
            f"{stage['steps_done']}/{stage['steps_total']}"
            for stage in list(snapshot["running"].values())[:4]
            if stage.get("steps_total")
        )
        at = f", at step {steps}" if steps else ""
        err.print(f"{headline(snapshot).plain}{speed}{at}", markup=False)


def headline(snapshot: dict[str, Any]) -> Text:
    """Say how many runs are in each state, and the time left."""
    counts: Counter[str] = Counter()
    for found in snapshot["counts"].values():
        counts.update({state: n for state, n in found.items() if state != "total"})
    line = Text(f"{counts.total()} runs: ").append(counts_text(counts))
    if snapshot["driver"]["state"] == "stopping":
        line.append("; stopping", style="yellow")
    elif snapshot.get("time_left_s") and snapshot["driver"]["state"] == "running":
        line.append(f"; about {duration(snapshot['time_left_s'])} left")
    return line


def panel(snapshot: dict[str, Any]) -> Group:
    """Headline and one line for each running stage: step, speed, runs that wait for it."""
    table = Table.grid(padding=(0, 2))
    for stage in list(snapshot["running"].values())[:MOST_RUNNING]:
        total, done = stage.get("steps_total"), stage.get("steps_done")
        step = f"step {done:,} of {total:,}" if total and done is not None else "starting"
        rate = f"{stage['rate']:.2e} atom-step/s" if stage.get("rate") else ""
        runs = stage["runs"][0] + (f" and {len(stage['runs']) - 1} more" if len(stage["runs"]) > 1 else "")
        table.add_row(stage["kind"], step, rate, Text(runs, style="dim"))
    if len(snapshot["running"]) > MOST_RUNNING:
        table.add_row("", f"and {len(snapshot['running']) - MOST_RUNNING} more", "", "")
    return Group(headline(snapshot), table)
