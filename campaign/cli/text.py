"""Times, counts and measured numbers as people read them, and lines that break between words."""

import shlex
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from campaign.errors import FailureClass
from campaign.execution.requests import driver_is_alive, driver_is_awaited
from campaign.layout import Layout
from campaign.plan_file import read_status

HOUR_S = 3600
DAY_S = 24 * HOUR_S
YEAR_S = 365.25 * DAY_S

FUTILE = {
    FailureClass.PHYSICS: "change the settings, such as timestep_fs, temperature_K or how it starts,",
    FailureClass.BAD_INPUT: "change the setting that the message names",
}
"""Failures that the same settings give again, and what to do about them in the spec."""


def duration(seconds: float | None) -> str:
    """``75`` -> ``1 min 15 s``; days and years where hours say nothing."""
    if seconds is None:
        return "unknown"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < HOUR_S:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 2 * DAY_S:
        return f"{whole // HOUR_S} h {whole % HOUR_S // 60:02d} min"
    if whole < YEAR_S:
        return f"{whole / DAY_S:.3g} days"
    return f"{whole / YEAR_S:.3g} years"


def ago(seconds: float) -> str:
    """``312`` -> ``5 min ago``."""
    for unit, length in (("days", DAY_S), ("h", HOUR_S), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{max(0, seconds):.0f} s ago"


def plural(number: int, noun: str) -> str:
    """``1 run``, ``1,200 runs``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def folded(text: str, width: int, indent: str = "") -> str:
    """Break text between words; lines after the first are indented. A longer word stays whole.

    Not for commands, which must be copied in one piece.
    """
    return "\n".join(
        textwrap.wrap(
            text, max(width, 20), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        )
    )


def make_table(rows: Sequence[Mapping[str, str]], names: Sequence[str], left: int) -> Table:
    """Table of these columns of the rows; the first ``left`` ones hold words, the others numbers."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for number, name in enumerate(names):
        table.add_column(name, justify="left" if number < left else "right")
    for row in rows:
        table.add_row(*(row.get(name, "") for name in names))
    return table


def fits(console: Console, table: Table) -> bool:
    """Whether nothing of a table is cut."""
    unlimited = console.options.update(max_width=10_000)
    return console.measure(table, options=unlimited).maximum <= console.width


def remedy(layout: Layout, failure_class: str, what: str) -> tuple[str, str]:
    """Tell what to do about failed runs, and the command for it; ``what`` as ``campaign retry`` takes it."""
    if failure_class in FUTILE:
        advice = (
            f"the same settings fail again; {FUTILE[FailureClass(failure_class)]} in your spec, then run it"
        )
        return advice, run_again(layout, "SPEC")
    again = command("retry", what, "--dir", layout.root)
    return "try again", again if is_driven(layout) else f"{again} && {run_again(layout)}"


def is_driven(layout: Layout) -> bool:
    """Whether a driver is at work, or its job is to begin: another one would be refused."""
    snapshot = read_status(layout.status)
    return driver_is_alive(layout) or (snapshot is not None and driver_is_awaited(layout, snapshot))


def command(*words: object) -> str:
    """Command of ours as it can be typed into a shell."""
    return shlex.join(["campaign", *map(str, words)])


def run_again(layout: Layout, spec: str | None = None) -> str:
    """Command that goes on with a campaign, or with another spec for it, where its last driver ran it."""
    driver = (read_status(layout.status) or {}).get("driver") or {}
    site = driver.get("site")
    where = ("--site", site, *(("--detach",) if driver.get("detached") else ())) if site else ()
    return command("run", spec or layout.spec, "--dir", layout.root, *where)


def held_because(held: Iterable[str], condition: str) -> str:
    """Why a condition is held back, from what a snapshot says of ``held``; empty if it is not."""
    reasons = (text.partition(f"{condition}: ") for text in held)
    return next((reason for before, found, reason in reasons if found and not before), "")


def jobs_line(snapshot: Mapping[str, Any]) -> str:
    """Tell what a driver has on a cluster and waits for; empty where it runs on its own machine."""
    cluster = snapshot.get("cluster")
    if not cluster:
        return ""
    jobs = cluster["jobs"]
    counts = f"{plural(jobs['running'], 'job')} running, {jobs['waiting']} waiting"
    return "; ".join((f"on {cluster['site']}: {counts}", *cluster["said"]))
