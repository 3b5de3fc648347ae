"""``campaign status`` and ``campaign why``: what happened, from snapshot, plan and ledger.

Nothing here starts or needs a driver, and nothing is written.
"""

import json
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.text import Text

from campaign.cli.app import out
from campaign.cli.grid import LEGEND, counts_text, grid_rows, render
from campaign.errors import LedgerError
from campaign.layout import Layout
from campaign.plan import Plan, Run, load_plan

STATES = {"p": "pending", "r": "running", "d": "done", "f": "failed"}
LOG_LINES = 15


def read_snapshot(layout: Layout) -> dict[str, Any]:
    """Read the driver's last snapshot.

    Raises
    ------
    LedgerError
        No driver has run in this directory yet.
    """
    try:
        snapshot: dict[str, Any] = json.loads(layout.status.read_text())
    except FileNotFoundError:
        raise LedgerError(
            "this campaign was never run", where=str(layout.root), hint="start it with `campaign run SPEC`"
        ) from None
    return snapshot


def run_states(snapshot: dict[str, Any], calculation: str) -> list[str]:
    """State of each run of a calculation, in the order of the plan."""
    return [STATES[letter] for letter in snapshot["states"][calculation]]


def duration(seconds: float | None) -> str:
    """``75`` -> ``1 min 15 s``."""
    if seconds is None:
        return "unknown"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def driver_line(snapshot: dict[str, Any]) -> str:
    """Who drives the campaign, and how old the picture is."""
    driver = snapshot["driver"]
    age = (datetime.now(UTC) - datetime.fromisoformat(snapshot["updated"])).total_seconds()
    state = driver["state"]
    if state in {"running", "stopping"} and age > 30:
        state = f"{state}, but silent: it may be dead (`campaign run` goes on from here)"
    return f"driver {driver['pid']} on {driver['host']}: {state}; this picture is {duration(age)} old"


def show_status(layout: Layout, *, as_json: bool) -> None:
    """Print states by axis, running runs and failures grouped by class."""
    snapshot = read_snapshot(layout)
    if as_json:
        json.dump(snapshot, sys.stdout, indent=1)
        sys.stdout.write("\n")
        return
    plan = load_plan(layout.plan)
    out.print(f"{plan.campaign} in {layout.root}", style="bold", markup=False)
    out.print(driver_line(snapshot), markup=False)
    for calculation in plan.calculations:
        states = run_states(snapshot, calculation.name)
        heading = Text(f"\n{calculation.name}: {len(states)} runs: ").append(counts_text(Counter(states)))
        out.print(heading)
        for line in render(grid_rows(calculation, states), out.width):
            out.print(line)
    out.print(Text(LEGEND, style="dim"))
    if snapshot.get("time_left_s") is not None and snapshot["driver"]["state"] == "running":
        out.print(f"time left: about {duration(snapshot['time_left_s'])}")
    _show_failures(layout, snapshot)
    for held in snapshot.get("held", []):
        out.print(f"held back after repeated failures: {held}", markup=False)


def _show_failures(layout: Layout, snapshot: dict[str, Any]) -> None:
    by_class: dict[str, list[dict[str, Any]]] = {}
    for failure in snapshot["failed"].values():
        by_class.setdefault(failure["class"], []).append(failure)
    for name, failures in sorted(by_class.items(), key=lambda item: -len(item[1])):
        example = failures[0]
        runs = sum(failure["n_runs"] for failure in failures)
        out.print(f"\n{name}: {len(failures)} stages, {runs} runs", style="red", markup=False)
        out.print(f"  for example {example['runs'][0]}: {example['message']}", markup=False)
        out.print(f"  see: campaign why '{example['runs'][0]}' {layout.root}", markup=False)
        out.print(f"  again: campaign retry '{name}' --dir {layout.root}", markup=False)


def show_why(layout: Layout, text: str, *, as_json: bool) -> None:
    """Print all about one run."""
    from campaign.ledger import Ledger

    plan = load_plan(layout.plan)
    run = plan.find(text)
    with Ledger.open(layout, read_only=True) as ledger:
        stages = [_stage_record(layout, plan, ledger, stage_id) for stage_id in run.stages]
    record = {
        "run": run.id,
        "labels": dict(run.labels),
        "stages": stages,
        "next": _next_command(layout, run, stages),
    }
    if as_json:
        json.dump(record, sys.stdout, indent=1, default=str)
        sys.stdout.write("\n")
        return
    out.print(run.id, style="bold", markup=False)
    for stage in stages:
        _print_stage(stage)
    out.print(f"\nnext: {record['next']}", markup=False)


def _stage_record(layout: Layout, plan: Plan, ledger: Any, stage_id: str) -> dict[str, Any]:
    summary = plan.stages[stage_id]
    directory = layout.stage(stage_id)
    manifest = json.loads((directory / "manifest.json").read_text()) if directory.exists() else None
    attempts = [attempt.as_dict() for attempt in ledger.attempts(stage_id)]
    where = directory if manifest else (layout.attempt(attempts[-1]["id"]) if attempts else None)
    return {
        "id": stage_id,
        "kind": summary.kind,
        "engine": summary.engine,
        "atoms": summary.atoms,
        "steps": summary.steps,
        "state": ledger.state(stage_id),
        "attempts": attempts,
        "directory": None if where is None else str(where),
        "settings": manifest["identity"]["settings"] if manifest else None,
        "log": _log_tail(where),
    }


def _log_tail(directory: Path | None) -> list[str]:
    if directory is None:
        return []
    for name in ("log.lammps", "stderr.log", "traceback.txt"):
        path = directory / name
        if path.exists() and path.stat().st_size:
            return path.read_text(errors="replace").splitlines()[-LOG_LINES:]
    return []


def _print_stage(stage: dict[str, Any]) -> None:
    size = f", {stage['atoms']} atoms x {stage['steps']} steps" if stage["steps"] else ""
    engine = f" ({stage['engine']}{size})" if stage["engine"] else ""
    out.print(f"\n{stage['kind']}{engine}: {stage['state']}", style="bold", markup=False)
    out.print(f"  stage {stage['id']}", markup=False)
    for attempt in stage["attempts"]:
        took = "" if attempt["wall_s"] is None else f", {duration(attempt['wall_s'])}"
        rate = "" if not attempt["rate"] else f", {attempt['rate']:.3g} atom-step/s"
        out.print(
            f"  attempt {attempt['id']}: {attempt['state']} on {attempt['host'] or '?'}{took}{rate}",
            markup=False,
        )
        if attempt["message"]:
            out.print(f"    {attempt['failure_class']}: {attempt['message']}", markup=False)
    if stage["directory"]:
        out.print(f"  in {stage['directory']}", markup=False)
    if stage["settings"]:
        out.print(f"  settings {json.dumps(stage['settings'])}", markup=False)
    if stage["state"] != "done":
        for line in stage["log"]:
            out.print(f"  | {line}", markup=False, style="dim")


def _next_command(layout: Layout, run: Run, stages: list[dict[str, Any]]) -> str:
    states = {stage["state"] for stage in stages}
    if "failed" in states:
        return (
            f"campaign retry '{run.id}' --dir {layout.root} && campaign run {layout.spec} --dir {layout.root}"
        )
    if states == {"done"}:
        return f"campaign report {layout.root}"
    if "running" in states:
        return f"campaign status {layout.root}"
    return f"campaign run {layout.spec} --dir {layout.root}"
