"""``campaign why``: all about one run, from plan, ledger, committed stages and logs; nothing is written."""

import json
import math
import sys
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from campaign.cli.app import out
from campaign.cli.text import (
    ago,
    command,
    duration,
    folded,
    held_because,
    is_driven,
    plural,
    remedy,
    run_again,
)
from campaign.errors import FailureClass, SpecError
from campaign.execution.requests import age_s, driver_is_alive
from campaign.layout import Layout
from campaign.numbers import with_error
from campaign.plan_file import load_plan, read_status
from campaign.runs import CalculationPlan, Plan, Run

LOG_LINES = 15
ERROR = "_standard_error"
RESULTS = ("itc", "heat_flow", "temperature_jump")


def show_why(layout: Layout, text: str, *, as_json: bool) -> None:
    """Print all about one run."""
    from campaign.ledger import Ledger

    plan = load_plan(layout.plan)
    run = plan.find(text)
    calculation = plan.calculation(run.calculation)
    # The first driver makes the ledger: there is none while its job waits in the queue.
    with Ledger.open(layout, read_only=True) if layout.ledger.exists() else nullcontext() as ledger:
        stages = [_stage_record(layout, plan, ledger, stage_id) for stage_id in run.stages]
    advice, next_command = _next(layout, run, stages)
    settings = calculation.settings_of(run)
    is_done = stages[-1]["state"] == "done"
    if as_json:
        record = {
            "run": run.id,
            "labels": dict(run.labels),
            "result": _result(layout, calculation, run) if is_done else None,
            "settings": settings,
            "stages": stages,
            "next": next_command,
        }
        json.dump(record, sys.stdout, indent=1, default=str)
        sys.stdout.write("\n")
        return
    out.print(run.id, style="bold", markup=False)
    snapshot = read_status(layout.status)
    if snapshot is not None:
        out.print(f"as of {ago(age_s(snapshot))}", style="dim")
    out.print("\nsettings", style="bold")
    for path, value in settings.items():
        out.print(f"  {path}: {value if isinstance(value, str) else json.dumps(value)}", markup=False)
    for stage in stages:
        _print_stage(stage)
    result = _result(layout, calculation, run) if is_done else None  # the last: it loads much
    if result is not None:
        _print_result(result)
    out.print()
    _line(f"next: {advice}", indent="  ")
    out.print(f"  {next_command}", markup=False)


def _line(text: str, *, indent: str) -> None:
    out.print(folded(text, out.width, indent), markup=False)


def _result(layout: Layout, calculation: CalculationPlan, run: Run) -> dict[str, Any] | None:
    """Read the result of a done run with what gates and flags say; None if it is gone from the disk."""
    from campaign.protocols.base import Severity, get_protocol, read_result

    directory = layout.stage(run.result_stage)
    if not (directory / "result.nc").exists():
        return None
    result = read_result(directory)
    try:
        checks = get_protocol(calculation.protocol).checks(result)
    except SpecError:  # made with a plug-in that is not installed here
        checks = ()
    values = []
    for name in RESULTS:
        if name not in result:
            continue
        error = result.get(name + ERROR)
        kind = "" if error is None else str(error.attrs.get("long_name", ""))
        values.append(
            {
                "name": name,
                "value": _plain(result[name]),
                "standard_error": None if error is None else _plain(error),
                "units": result[name].attrs.get("units", "1"),
                "long_name": result[name].attrs.get("long_name", name),
                "standard_error_kind": kind.partition(", ")[2],
            }
        )
    texts = {
        name: str(result[name].item())
        for name in ("invalid_reason", "flags", "final_stacking")
        if name in result
    }
    raised = [name for name in texts.get("flags", "").split(", ") if name]
    reasons = {check.name: check.reason for check in checks if check.severity is Severity.FLAG}
    return {
        "values": values,
        "valid": bool(result["valid"].item()) if "valid" in result else True,
        "invalid_reason": texts.get("invalid_reason", ""),
        "flags": {name: reasons.get(name, "") for name in raised},
        "final_stacking": texts.get("final_stacking", ""),
    }


def _plain(value: Any) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def _print_result(result: dict[str, Any]) -> None:
    out.print("\nresult", style="bold")
    for one in result["values"]:
        shown = "-" if one["value"] is None else with_error(one["value"], one["standard_error"])
        kind = f" (standard error {one['standard_error_kind']})" if one["standard_error_kind"] else ""
        _line(f"  {one['name']}: {shown} {one['units']}{kind}", indent="    ")
        _line(f"    {one['long_name']}", indent="    ")
    if result["valid"]:
        out.print("  valid: yes")
    else:
        _line(f"  valid: no, left out of means: {result['invalid_reason'] or 'a gate'}", indent="    ")
    for name, reason in result["flags"].items():
        _line(f"  flag {name}: {reason}", indent="    ")
    if not result["flags"]:
        out.print("  flags: none")
    if result["final_stacking"]:
        out.print(f"  stacking at the end: {result['final_stacking']}", markup=False)


def _stage_record(layout: Layout, plan: Plan, ledger: Any, stage_id: str) -> dict[str, Any]:
    summary = plan.stages[stage_id]
    directory = layout.stage(stage_id)
    manifest = json.loads((directory / "manifest.json").read_text()) if directory.exists() else None
    attempts = [] if ledger is None else [attempt.as_dict() for attempt in ledger.attempts(stage_id)]
    state = (None if ledger is None else ledger.state(stage_id)) or "pending"
    if state == "running" and not driver_is_alive(layout):  # the next driver settles it
        state = "pending, since its driver ended"
        attempts[-1]["state"] = "lost with its driver"
    where = directory if manifest else (layout.attempt(attempts[-1]["id"]) if attempts else None)
    return {
        "id": stage_id,
        "kind": summary.kind,
        "engine": summary.engine,
        "atoms": summary.atoms,
        "steps": summary.steps,
        "state": state,
        "attempts": attempts,
        "directory": None if where is None else str(where),
        "settings": manifest["identity"]["settings"] if manifest else None,
        "log": _log_tail(where),
    }


def _log_tail(directory: Path | None) -> list[str]:
    if directory is None:
        return []
    for pattern in ("log.*", "segment/log.*", "segment/stderr.log", "traceback.txt"):
        for path in sorted(directory.glob(pattern)):
            if path.stat().st_size:
                return path.read_text(errors="replace").splitlines()[-LOG_LINES:]
    return []


def _print_stage(stage: dict[str, Any]) -> None:
    size = f", {stage['atoms']:,} atoms x {stage['steps']:,} steps" if stage["steps"] else ""
    engine = f" ({stage['engine']}{size})" if stage["engine"] else ""
    out.print(f"\n{stage['kind']}{engine}: {stage['state']}", style="bold", markup=False)
    out.print(f"  stage {stage['id']}", markup=False)
    for attempt in stage["attempts"]:
        wall_s = attempt["wall_s"] or _seconds_since_start(attempt)
        # Of one that could not tell, only when somebody noticed is known.
        at_most = "" if attempt["wall_s"] or attempt["finished"] is None else "at most "
        took = "" if wall_s is None else f", {at_most}{duration(wall_s)}"
        _line(
            f"  attempt {attempt['id']}: {_ended(attempt)} on {attempt['host'] or '?'}"
            f"{f' in job {job}' if (job := attempt['job']) else ''}{took}"
            f"{_work(attempt, stage['atoms'])}",
            indent="    ",
        )
        if attempt["message"]:
            _line(f"    {attempt['failure_class']}: {attempt['message']}", indent="      ")
    if stage["directory"]:
        out.print(f"  in {stage['directory']}", markup=False)
    if stage["state"] != "done":
        for line in stage["log"]:
            out.print(f"  | {line}", markup=False, style="dim")


def _seconds_since_start(attempt: dict[str, Any]) -> float | None:
    """Time of an attempt that could not tell it itself: to its end, or until now."""
    if attempt["started"] is None:
        return None
    end = datetime.now(UTC) if attempt["finished"] is None else datetime.fromisoformat(attempt["finished"])
    return (end - datetime.fromisoformat(attempt["started"])).total_seconds()


def _ended(attempt: dict[str, Any]) -> str:
    """State of an attempt; one that its job's end cut short did its part."""
    handed_over = attempt["failure_class"] == FailureClass.WALLTIME and attempt["segments"]
    return "went on in another job" if handed_over else str(attempt["state"])


def _work(attempt: dict[str, Any], atoms: int) -> str:
    """Say what an attempt committed, and how fast."""
    if not attempt["steps"]:
        return ""
    pieces = plural(attempt["segments"], "segment")
    rate = f", {atoms * attempt['steps'] / attempt['wall_s']:.2g} atom-step/s" if attempt["wall_s"] else ""
    return f", {attempt['steps']:,} MD steps in {pieces}{rate}"


def _next(layout: Layout, run: Run, stages: list[dict[str, Any]]) -> tuple[str, str]:
    """Say what to do next, and the command for it."""
    failed = [stage for stage in stages if stage["state"] == "failed"]
    if failed:
        return remedy(layout, failed[0]["attempts"][-1]["failure_class"], run.id)
    states = {stage["state"] for stage in stages}
    if states == {"done"}:
        return "look at the ensemble", command("report", layout.root)
    held = _held(layout, run)
    if held:
        again = command("retry", run.id, "--dir", layout.root)
        advice = f"it is held back ({held}); try this one all the same"
        return advice, again if is_driven(layout) else f"{again} && {run_again(layout)}"
    if is_driven(layout):
        return "see how far it is", command("status", layout.root)
    return "go on", run_again(layout)


def _held(layout: Layout, run: Run) -> str:
    """Why a run's condition is held back; empty if it is not."""
    from campaign.execution.schedule import condition_of

    return held_because((read_status(layout.status) or {}).get("held", []), condition_of(run))
