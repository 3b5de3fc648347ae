"""Live progress of a campaign on stderr: a redrawn panel on a terminal, one line now and then elsewhere."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from campaign.cli.app import err
from campaign.cli.grid import counts_text
from campaign.cli.text import duration, folded, jobs_line, plural
from campaign.execution.requests import HANDING_OVER, RUNNING, STOPPING
from campaign.runs import Plan

LINE_EVERY_S = 10.0
MOST_RUNNING = 12
MOST_FAILURES = 20


class Watcher(Protocol):
    """What the driver calls with each snapshot."""

    def __call__(self, snapshot: dict[str, Any]) -> None:
        """Show it."""
        ...


@contextmanager
def progress(plan: Plan) -> Iterator[Watcher]:
    """Show snapshots as they come: a live panel on a terminal, else a line every ten seconds.

    Failures are told when they happen, and the last state stays. The watcher raises BrokenPipeError once
    nobody reads any more.
    """
    failures, names = _Failures(), Names(plan)
    last: dict[str, Any] = {}
    lines = _Lines()

    def watcher(show: Watcher) -> Watcher:
        def watch(snapshot: dict[str, Any]) -> None:
            last.update(snapshot)
            failures(snapshot)
            show(snapshot)
            if err.quiet:
                raise BrokenPipeError

        return watch

    try:
        if err.is_terminal:
            with Live(console=err, refresh_per_second=4, transient=True) as live:
                yield watcher(lambda snapshot: live.update(panel(snapshot, names, err.width)))
        else:
            yield watcher(lines)
    finally:
        if last and headline(last).plain != lines.last:
            err.print(headline(last))


class _Failures:
    """Tells of each stage that fails while we look, above the panel."""

    def __init__(self) -> None:
        self._seen: set[str] | None = None
        self._told = 0

    def __call__(self, snapshot: dict[str, Any]) -> None:
        failed = snapshot["failed"]
        # The first picture is drawn before anything runs: its failures are of another day.
        new = [] if self._seen is None else [failed[stage] for stage in failed if stage not in self._seen]
        self._seen = set(failed)
        for failure in new[: MOST_FAILURES - self._told]:
            more = f" and {plural(failure['n_runs'] - 1, 'more run')}" if failure["n_runs"] > 1 else ""
            told = f"failed: {failure['runs'][0]}{more} ({failure['class']}): {failure['message']}"
            err.print(folded(told, err.width, "  "), style="red", markup=False)
        before = self._told
        self._told = min(MOST_FAILURES, self._told + len(new))
        if before < MOST_FAILURES <= before + len(new):
            err.print("more failures are not shown here; see: campaign status", style="red", markup=False)


class _Lines:
    def __init__(self) -> None:
        self._when = 0.0
        self.last = ""

    def __call__(self, snapshot: dict[str, Any]) -> None:
        now = time.monotonic()
        if now - self._when < LINE_EVERY_S or snapshot["driver"]["state"] != "running":
            return
        self._when = now
        rates = [stage["rate"] for stage in snapshot["running"].values() if stage.get("rate")]
        speed = f", {sum(rates):.2g} atom-step/s" if rates else ""
        steps = ", ".join(
            f"{stage['steps_done']}/{stage['steps_total']}"
            for stage in list(snapshot["running"].values())[:4]
            if stage.get("steps_total") and stage.get("steps_done") is not None
        )
        at = f", at step {steps}" if steps else ""
        jobs = jobs_line(snapshot)
        self.last = f"{headline(snapshot).plain}{speed}{at}{f'; {jobs}' if jobs else ''}"
        err.print(self.last, markup=False)


def headline(snapshot: dict[str, Any]) -> Text:
    """Say how many runs are in each state, and the time left."""
    counts: Counter[str] = Counter()
    for found in snapshot["counts"].values():
        counts.update({state: n for state, n in found.items() if state != "total"})
    line = Text(f"{plural(counts.total(), 'run')}: ").append_text(counts_text(counts))
    state = snapshot["driver"]["state"]
    if state in {STOPPING, HANDING_OVER}:
        line.append(f"; {state}", style="yellow")
    elif (snapshot.get("time_left_s") or 0) >= 1 and state == RUNNING:
        line.append(f"; about {duration(snapshot['time_left_s'])} left")
    return line


class Names:
    """Short names of runs, the labels in which they differ: ``forward 2``."""

    def __init__(self, plan: Plan) -> None:
        self._several = len(plan.calculations) > 1
        self._varying: Mapping[str, set[str]] = {
            calculation.name: {
                name
                for dimension in calculation.dimensions
                for name, labels in dimension.coordinates.items()
                if len(set(labels)) > 1
            }
            for calculation in plan.calculations
        }

    def short(self, run: str) -> str:
        """Short name of the run with this id."""
        calculation, _, labels = run.partition("/")
        pairs = [label.partition("=") for label in labels.split(",")]
        values = [value for name, _, value in pairs if name in self._varying[calculation]]
        return " ".join([calculation] * (self._several or not values) + values)

    def joined(self, runs: list[str], width: int) -> str:
        """Short names of as many runs as fit, at least one."""
        names = [self.short(run) for run in runs]
        text = ", ".join(names)
        while len(text) > width and len(names) > 1:
            names.pop()
            text = ", ".join([*names, "…"])
        return text


def panel(snapshot: dict[str, Any], names: Names, width: int) -> Group:
    """Headline and one line for each running stage: what, for which runs, its step and its speed.

    What a narrow terminal has no room for is left out, the speed first; nothing is cut.
    """
    rows = []
    for stage in list(snapshot["running"].values())[:MOST_RUNNING]:
        total, done = stage.get("steps_total"), stage.get("steps_done")
        step = f"step {done:,} of {total:,}" if total and done is not None else "running"
        rate = f"{stage['rate']:.2g} atom-step/s" if stage.get("rate") else ""
        rows.append((stage["kind"], names.joined(stage["runs"], width // 3), step, rate))
    columns = 4
    while columns > 2 and _width(rows, columns) > width:
        columns -= 1
    table = Table.grid(padding=(0, 2))
    for _ in range(columns):
        table.add_column(no_wrap=True, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row[:columns]))
    if len(snapshot["running"]) > MOST_RUNNING:
        table.add_row("", f"and {len(snapshot['running']) - MOST_RUNNING} more")
    jobs = jobs_line(snapshot)
    return Group(headline(snapshot), *([Text(folded(jobs, width, "  "))] if jobs else []), table)


def _width(rows: list[tuple[str, str, str, str]], columns: int) -> int:
    return sum(max((len(row[n]) for row in rows), default=0) + 2 for n in range(columns)) - 2
