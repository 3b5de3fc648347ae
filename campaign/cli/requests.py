"""``campaign stop`` and ``campaign retry``: requests that the driver applies; nothing else is written."""

import time

from campaign.cli.app import err
from campaign.cli.inspection import read_snapshot
from campaign.errors import FailureClass, LedgerError
from campaign.layout import Layout
from campaign.plan import load_plan

WAIT_S = 60.0


def request_retry(layout: Layout, what: list[str]) -> None:
    """Leave a request to retry failed runs: of a failure class, of some labels, or all.

    Raises
    ------
    LedgerError
        A selector matches no failed run.
    """
    from campaign.execution.requests import write_request

    snapshot = read_snapshot(layout)
    plan = load_plan(layout.plan)
    chosen: set[str] = set()
    for selector in what:
        if selector == "all":
            found = set(snapshot["failed"])
        elif selector in set(FailureClass):
            found = {stage for stage, failure in snapshot["failed"].items() if failure["class"] == selector}
        else:
            runs = plan.matching(selector)
            found = {stage for run in runs for stage in run.stages if stage in snapshot["failed"]}
        if not found:
            classes = (
                ", ".join(sorted({failure["class"] for failure in snapshot["failed"].values()})) or "none"
            )
            raise LedgerError(
                f"no failed run matches {selector!r}",
                where=str(layout.root),
                hint=f"failed classes: {classes}",
            )
        chosen |= found
    write_request(layout, "retry", {"stages": sorted(chosen)})
    err.print(f"asked for {len(chosen)} stages to be tried again", markup=False)
    if snapshot["driver"]["state"] != "running":
        err.print(f"next: campaign run {layout.spec} --dir {layout.root}", markup=False)


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
