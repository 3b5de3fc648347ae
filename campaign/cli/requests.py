"""``campaign stop`` and ``campaign retry``: requests that the driver applies; nothing else is written."""

import time
from collections.abc import Mapping
from typing import Any

from campaign.cli.app import err
from campaign.cli.inspection import read_snapshot
from campaign.cli.text import plural
from campaign.document import did_you_mean
from campaign.errors import FailureClass, LedgerError, SpecError
from campaign.layout import Layout
from campaign.plan_file import load_plan
from campaign.runs import Plan

WAIT_S = 60.0


def request_retry(layout: Layout, what: list[str]) -> None:
    """Leave a request to retry failed runs: of a failure class, of some labels, or all.

    Raises
    ------
    LedgerError
        A selector matches no failed run.
    SpecError
        A selector names nothing that there is.
    """
    from campaign.execution.requests import write_request

    snapshot = read_snapshot(layout)
    plan = load_plan(layout.plan)
    chosen: set[str] = set()
    for selector in what:
        found = _failed(selector, snapshot["failed"], plan)
        if not found:
            classes = ", ".join(_classes(snapshot["failed"])) or "none"
            raise LedgerError(
                f"no failed run matches {selector!r}",
                where=str(layout.root),
                hint=f"classes of failures here: {classes}",
            )
        chosen |= found
    write_request(layout, "retry", {"stages": sorted(chosen)})
    err.print(f"asked for {plural(len(chosen), 'stage')} to be tried again", markup=False)
    if snapshot["driver"]["state"] != "running":
        err.print(f"next: campaign run {layout.spec} --dir {layout.root}", markup=False)


def _failed(selector: str, failed: Mapping[str, Any], plan: Plan) -> set[str]:
    """Failed stages that a selector means."""
    if selector == "all":
        return set(failed)
    if selector in set(FailureClass):
        return {stage for stage, failure in failed.items() if failure["class"] == selector}
    if not any(sign in selector for sign in "=/"):
        names = [calculation.name for calculation in plan.calculations]
        is_stage = len(selector) >= 8 and any(stage.startswith(selector) for stage in plan.stages)
        if selector not in names and not is_stage:
            near = did_you_mean(selector, [*(known.value for known in FailureClass), *names])
            classes = ", ".join(_classes(failed)) or "none"
            hint = near if near and near.startswith("did") else f"classes of failures here: {classes}"
            message = f"{selector!r} is no class of failures, no labels (seed=3), and no run"
            raise SpecError(message, hint=hint)
    runs = plan.matching(selector)
    return {stage for run in runs for stage in run.stages if stage in failed}


def _classes(failed: Mapping[str, Any]) -> list[str]:
    return sorted({failure["class"] for failure in failed.values()})


def request_stop(layout: Layout, *, wait: bool) -> None:
    """Ask the driver to stop, and wait until it has.

    Raises
    ------
    LedgerError
        It has not ended in time.
    """
    from campaign.execution.requests import driver_is_alive, write_request

    if not driver_is_alive(layout):
        err.print("no driver is running; `campaign run` goes on when you want it", markup=False)
        return
    write_request(layout, "stop", {})
    err.print("asked the driver to stop", markup=False)
    deadline = time.monotonic() + WAIT_S
    while wait and driver_is_alive(layout):
        if time.monotonic() > deadline:
            raise LedgerError(
                f"the driver has not ended within {WAIT_S:.0f} s",
                where=str(layout.root),
                hint="see driver.log there",
            )
        time.sleep(0.2)
    if wait:
        err.print("stopped; what was finished is kept, `campaign run` goes on", markup=False)
