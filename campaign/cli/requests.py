"""``campaign stop`` and ``campaign retry``: requests that the driver applies; nothing else is written."""

import time
from collections.abc import Mapping
from typing import Any

from campaign.cli.app import err
from campaign.cli.inspection import read_snapshot
from campaign.cli.text import ago, held_because, plural, run_again
from campaign.document import did_you_mean
from campaign.errors import BusyError, FailureClass, LedgerError, ResourceError, SpecError
from campaign.layout import Layout
from campaign.plan_file import load_plan, read_status
from campaign.runs import Plan, Run

WAIT_S = 60.0
GONE = "gone"
"""Selector of the finished stages that a clean-up of the disk took."""


def request_retry(layout: Layout, what: list[str]) -> None:
    """Leave a request to retry failed runs: of a failure class, of some labels, or all; or stages gone.

    Raises
    ------
    LedgerError
        A selector matches no failed run, and none that is held back for the failures of others.
    BusyError
        Stages that are gone from the disk are to be made again, and a driver is at work.
    SpecError
        A selector names nothing that there is.
    """
    from campaign.execution.requests import age_s, driver_is_alive, driver_is_awaited, write_request

    snapshot = read_snapshot(layout)
    plan = load_plan(layout.plan)
    failed = _Failed(snapshot, plan)
    chosen: set[str] = set()
    held: tuple[Run, ...] = ()
    for selector in what:
        if selector == GONE:
            continue
        found = failed.stages(selector)
        more = () if found else failed.held_runs(selector, layout)
        held += more
        if not found and not more:
            raise LedgerError(f"no failed run matches {selector!r}", where=str(layout.root), hint=failed.hint)
        chosen |= found
    gone = _gone(layout, plan) if GONE in what else set()
    exempt = sorted({stage for run in held for stage in run.stages})
    write_request(layout, "retry", {"stages": sorted(chosen | gone), "held": exempt})
    if gone:
        err.print(f"asked for {plural(len(gone), 'stage')} gone from the disk to be made again", markup=False)
    if chosen:
        runs = failed.number_of_runs(chosen)
        err.print(
            f"asked for {plural(len(chosen), 'failed stage')} of {plural(runs, 'run')} to be tried again, "
            f"as of {ago(age_s(snapshot))}",
            markup=False,
        )
    if held:
        err.print(f"asked for {plural(len(held), 'run')} held back to be tried all the same", markup=False)
    if driver_is_alive(layout):
        return
    if driver_is_awaited(layout, snapshot):
        err.print("its driver does that when it begins", markup=False)
    else:
        err.print(f"next: {run_again(layout)}", markup=False)


def _gone(layout: Layout, plan: Plan) -> set[str]:
    """Find the finished stages of the plan that are gone from the disk, needed or not."""
    from campaign.execution.commit import is_committed
    from campaign.execution.requests import driver_is_alive
    from campaign.ledger import Ledger

    if driver_is_alive(layout):
        raise BusyError(
            "a driver is at work", where=str(layout.root), hint="`campaign stop` ends it; then say it again"
        )
    with Ledger.open(layout, read_only=True) as ledger:
        states = ledger.states()
    done = (stage_id for stage_id in plan.stages if states.get(stage_id) == "done")
    gone = {stage_id for stage_id in done if not is_committed(layout, stage_id)}
    if not gone:
        raise LedgerError("no finished stage is gone from the disk", where=str(layout.root))
    return gone


class _Failed:
    """What failed in a campaign, as selectors mean it."""

    def __init__(self, snapshot: Mapping[str, Any], plan: Plan) -> None:
        self._failed: Mapping[str, Any] = snapshot["failed"]
        self._held: list[str] = snapshot.get("held", [])
        self._plan = plan

    @property
    def classes(self) -> list[str]:
        """Classes of failures that there are."""
        return sorted({failure["class"] for failure in self._failed.values()})

    @property
    def hint(self) -> str:
        """What can be retried, or why nothing can."""
        engines = [text for text in self._held if text.startswith("engine ")]
        if engines and not self._failed:
            return f"held back is {engines[0]}; the next `campaign run` looks for it again"
        return f"classes of failures here: {', '.join(self.classes) or 'none'}"

    def number_of_runs(self, stages: set[str]) -> int:
        """How many runs use any of these stages."""
        positions = {self._plan.stages.position(stage_id) for stage_id in stages}
        return sum(
            not positions.isdisjoint(row)
            for calculation in self._plan.calculations
            for row in calculation.runs.stages
        )

    def stages(self, selector: str) -> set[str]:
        """Failed stages that a selector means."""
        if selector == "all":
            return set(self._failed)
        if selector in set(FailureClass):
            return {stage for stage, failure in self._failed.items() if failure["class"] == selector}
        self._check(selector)
        runs = self._plan.matching(selector)
        return {stage for run in runs for stage in run.stages if stage in self._failed}

    def _check(self, selector: str) -> None:
        """Refuse a word that is nothing at all, with what it could have been."""
        if any(sign in selector for sign in "=/"):
            return
        names = [calculation.name for calculation in self._plan.calculations]
        is_stage = len(selector) >= 8 and any(stage.startswith(selector) for stage in self._plan.stages)
        if selector not in names and not is_stage:
            near = did_you_mean(selector, [*(known.value for known in FailureClass), *names])
            classes = ", ".join(self.classes) or "none"
            hint = near if near and near.startswith("did") else f"classes of failures here: {classes}"
            message = f"{selector!r} is no class of failures, no labels (seed=3), and no run"
            raise SpecError(message, hint=hint)

    def held_runs(self, selector: str, layout: Layout) -> tuple[Run, ...]:
        """Find what a selector names of the runs that are held back for the failures of others."""
        from campaign.execution.commit import is_committed
        from campaign.execution.schedule import condition_of

        if not self._held or selector == "all" or selector in set(FailureClass):
            return ()
        held = (run for run in self._plan.matching(selector) if held_because(self._held, condition_of(run)))
        return tuple(run for run in held if not is_committed(layout, run.result_stage))


def _cancel_jobs(layout: Layout) -> list[str]:
    """Cancel the jobs of drivers that have not begun to drive, and those that a driver left to the next one.

    Returns the ids of the drivers' jobs.
    """
    from campaign.execution.detached import DriverJobs
    from campaign.execution.handover import end_jobs, forget_driver
    from campaign.execution.job_scripts import job_prefix
    from campaign.execution.requests import driver_job
    from campaign.execution.slurm import site_environment
    from campaign.site import find_site

    told = driver_job(layout)
    if told is None:
        return []
    site = find_site(told["site"])
    err.print(f"asking {site.name} for the jobs of this campaign", markup=False)
    jobs = DriverJobs(site, layout, told["campaign"])
    try:
        found = jobs.ids
    except ResourceError as error:
        raise ResourceError(
            f"SLURM does not answer, so nothing was stopped: {error.message}",
            where=str(layout.root),
            hint=f"job {told['job']} may drive it, or is about to; try again",
        ) from error
    for job_id in found:
        jobs.cancel(job_id)
    forget_driver(layout.jobs)
    with site_environment(site.site):
        end_jobs(job_prefix(layout, told["campaign"]))
    layout.driver_job.unlink(missing_ok=True)
    return found


def request_stop(layout: Layout, *, wait: bool) -> None:
    """Ask the driver to stop, and wait until it has.

    Raises
    ------
    BusyError
        It has not ended in time, and so holds the campaign.
    """
    from campaign.execution.requests import driver_is_alive, write_request

    if not driver_is_alive(layout):
        waiting = _cancel_jobs(layout)
        said = f"cancelled its job {', '.join(waiting)}" if waiting else "no driver is running"
        err.print(f"{said}; `campaign run` goes on when you want it", markup=False)
        return
    write_request(layout, "stop", {})
    err.print("asked the driver to stop", markup=False)
    deadline = time.monotonic() + WAIT_S
    while wait and driver_is_alive(layout):
        if time.monotonic() > deadline:
            raise _not_ended(layout)
        time.sleep(0.2)
    if wait:
        err.print("stopped; what was finished is kept, `campaign run` goes on", markup=False)


def _not_ended(layout: Layout) -> BusyError:
    """Say which driver does not end, and whether it does anything at all."""
    from campaign.execution.lock import current_holder
    from campaign.execution.requests import SILENT_S, age_s

    snapshot = read_status(layout.status)
    holder = current_holder(layout.lock)
    if holder is not None:
        pid, host = holder.pid, holder.host
    else:
        driver = {} if snapshot is None else snapshot["driver"]
        pid, host = driver.get("pid", "?"), driver.get("host", "?")
    silent_s = 0.0 if snapshot is None else age_s(snapshot)
    message = f"the driver, process {pid} on {host}, has not ended within {WAIT_S:.0f} s"
    if silent_s <= SILENT_S:
        return BusyError(message, where=str(layout.root), hint="see driver.log there")
    return BusyError(
        f"{message}; its last sign of life was {ago(silent_s)}",
        where=str(layout.root),
        hint=f"if it was suspended, `kill -CONT {pid}` on {host} lets it end; see driver.log there",
    )
