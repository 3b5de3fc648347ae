"""``campaign status``: what happened, from snapshot and plan.

Nothing here starts or needs a driver, and nothing is written.
"""

import json
import socket
import sys
from typing import Any

from rich.text import Text

from campaign.cli.app import out
from campaign.cli.grid import LEGEND, count_letters, counts_text, make_grid, render
from campaign.cli.queued import AwaitedDriver, awaited_driver, queue_line
from campaign.cli.text import ago, command, duration, folded, jobs_line, plural, remedy, run_again
from campaign.cli.why import show_why
from campaign.errors import LedgerError
from campaign.execution.lock import current_holder
from campaign.execution.requests import DRIVING, SILENT_S, age_s, driver_is_alive
from campaign.layout import Layout
from campaign.plan_file import load_plan, read_status
from campaign.runs import CalculationPlan

__all__ = ["driver_line", "is_elsewhere", "read_snapshot", "run_states", "show_status", "show_why"]


def read_snapshot(layout: Layout) -> dict[str, Any]:
    """Read the driver's last snapshot.

    Raises
    ------
    LedgerError
        No driver has run in this directory yet, or the snapshot is damaged.
    """
    snapshot = read_status(layout.status)
    if snapshot is None:
        raise LedgerError(
            "this campaign was never run", where=str(layout.root), hint="start it with `campaign run SPEC`"
        )
    return snapshot


def driver_line(
    layout: Layout, snapshot: dict[str, Any], *, alive: bool, awaited: AwaitedDriver | None
) -> str:
    """Who drives the campaign, if one is ``alive``; or how and when the last one ended, and what follows."""
    driver = snapshot["driver"]
    age = age_s(snapshot)
    holder = current_holder(layout.lock)
    go_on = f"\n{awaited or _how_to_go_on(layout)}"
    if holder is not None and (driver["state"] not in DRIVING or holder.pid != driver["pid"]):
        return f"driver {holder.pid} on {holder.host} is starting"
    if driver["state"] not in DRIVING:
        return f"{driver['state']} {ago(age)}" + ("" if driver["state"] == "finished" else go_on)
    who = f"driver {driver['pid']} on {driver['host']}"
    here = driver["host"] == socket.gethostname()
    if alive:
        since = f", silent for {duration(age)}" if age > SILENT_S else f"; as of {ago(age)}"
        return f"{who}: {driver['state']}{since}"
    if here:
        return f"no driver is running: {who} ended without a word {ago(age)}{go_on}"
    return f"{who}: {driver['state']}, but silent for {duration(age)}: it may be dead{go_on}"


def _how_to_go_on(layout: Layout) -> str:
    return f"to go on: {run_again(layout)}"


def is_elsewhere(snapshot: dict[str, Any]) -> bool:
    """Whether the driver is, or was until it died, on another host."""
    driver = snapshot["driver"]
    return driver["host"] != socket.gethostname() and driver["state"] in DRIVING


def run_states(snapshot: dict[str, Any], calculation: CalculationPlan, *, at_work: bool) -> str:
    """States of the runs of a calculation, a letter for each (`campaign.cli.grid`).

    ``at_work``: a driver is, or may be; what a dead one left is not running.
    """
    states: str = snapshot["states"].get(calculation.name, "")
    if len(states) != len(calculation.runs):  # of a spec that is being started just now
        states = "p" * len(calculation.runs)
    return states if at_work else states.replace("r", "p")


def show_status(layout: Layout, *, as_json: bool) -> None:
    """Print states by axis, running runs and failures grouped by class."""
    snapshot = read_snapshot(layout)
    if as_json:
        json.dump(snapshot, sys.stdout, indent=1)
        sys.stdout.write("\n")
        return
    alive = driver_is_alive(layout)
    awaited = None if alive else awaited_driver(layout, snapshot)
    at_work = alive or is_elsewhere(snapshot)
    plan = load_plan(layout.plan)
    out.print(f"{plan.campaign} in {layout.root}", style="bold", markup=False)
    out.print(driver_line(layout, snapshot, alive=alive, awaited=awaited), markup=False)
    jobs = jobs_line(snapshot)
    if jobs and at_work:
        out.print(folded(jobs, out.width, "  "), markup=False)
    for calculation in plan.calculations:
        states = run_states(snapshot, calculation, at_work=at_work)
        out.print()
        heading = Text(f"{calculation.name}: {plural(len(states), 'run')}: ", style="bold")
        out.print(heading.append_text(counts_text(count_letters(states))))
        for line in render(make_grid(calculation, states), out.width):
            out.print(line)
    out.print(Text(LEGEND, style="dim"))
    if snapshot.get("time_left_s") and alive:
        out.print(f"time left: about {duration(snapshot['time_left_s'])}")
    _show_failures(layout, snapshot)
    _show_requests(layout, alive=alive)
    for held in snapshot.get("held", []):
        out.print(folded(f"held back: {held}", out.width, "  "), markup=False)
    if awaited is not None:  # the last: all else is known at once
        queued = queue_line(awaited) or f"job {awaited.job} has ended; {_how_to_go_on(layout)}"
        out.print(f"\n{queued}", markup=False)


def _show_failures(layout: Layout, snapshot: dict[str, Any]) -> None:
    by_class: dict[str, list[dict[str, Any]]] = {}
    for failure in snapshot["failed"].values():
        by_class.setdefault(failure["class"], []).append(failure)
    for name, failures in sorted(by_class.items(), key=lambda item: -len(item[1])):
        example = failures[0]
        runs = sum(failure["n_runs"] for failure in failures)
        out.print(
            f"\n{name}: {plural(len(failures), 'stage')}, {plural(runs, 'run')}", style="red", markup=False
        )
        message = f"  for example {example['runs'][0]}: {example['message']}"
        advice, next_command = remedy(layout, name, name)
        out.print(folded(message, out.width, "    "), markup=False)
        out.print(f"  see: {command('why', example['runs'][0], layout.root)}", markup=False)
        out.print(folded(f"  next: {advice}", out.width, "    "), markup=False)
        out.print(f"    {next_command}", markup=False)


def _show_requests(layout: Layout, *, alive: bool) -> None:
    from campaign.execution.requests import read_requests

    stages = {
        stage
        for request in read_requests(layout)
        if request.kind == "retry"
        for stage in (*request.payload.get("stages", ()), *request.payload.get("held", ()))
    }
    if stages:
        whom = "the driver" if alive else "the next `campaign run`"
        out.print(f"\na retry of {plural(len(stages), 'stage')} waits for {whom}", markup=False)
