"""``campaign run --detach``: the driver in a job of its own, and what that job runs."""

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from campaign.cli.app import err
from campaign.cli.notify import notifier
from campaign.errors import BusyError, CampaignError, ExitCode
from campaign.execution.requests import driver_job
from campaign.layout import Layout, write_atomic

if TYPE_CHECKING:
    from campaign.runs import Plan
    from campaign.site import NamedSite

HOLD_ON_S = 300.0
"""So long the driver in a job waits for the one before it: to hand over, or to be found dead."""

_TRY_AGAIN_S = 1.0


def refuse_if_driven(site: "NamedSite | None", layout: Layout, campaign: str) -> None:
    """Refuse a second driver where the first one has a job, running or in the queue.

    ``site`` is where the second one would be; the first may be elsewhere, as its last job tells.

    Raises
    ------
    BusyError
        There is such a job.
    """
    told = driver_job(layout)
    if told is None and (site is None or site.site.driver is None):
        return
    from campaign.execution.detached import DriverJobs
    from campaign.site import find_site

    try:
        site = site if told is None else find_site(told["site"])
        ids = [] if site is None else DriverJobs(site, layout, campaign).ids
    except CampaignError:  # nobody can say; lock and lease decide
        return
    if ids:
        raise BusyError(
            f"the driver of this campaign is job {', '.join(ids)} on {site.name if site else 'a cluster'}",
            where=str(layout.root),
            hint="`campaign status` shows what it does, `campaign stop` ends it",
        )


def start_driver_job(site: "NamedSite", layout: Layout, plan: "Plan", spec_text: str) -> int:
    """Submit a driver's job and say how to follow it."""
    from campaign.execution.detached import DriverJobs
    from campaign.execution.requests import read_requests
    from campaign.execution.snapshot import show_submitted
    from campaign.plan_file import save_plan

    write_atomic(layout.spec, spec_text)
    save_plan(plan, layout.plan)
    for request in read_requests(layout):
        if request.kind != "retry":  # to start says the opposite
            request.path.unlink(missing_ok=True)
    job_id = DriverJobs(site, layout, plan.campaign).submit()
    show_submitted(layout, plan.campaign, site.argument)
    err.print(f"its driver is job {job_id} on {site.name}; it goes on without you", markup=False)
    for command in ("status", "watch", "stop"):
        err.print(f"  campaign {command} {layout.root}", markup=False)
    return ExitCode.OK


def drive(root: Path, site_name: str) -> int:
    """Drive a campaign from a job, after the driver before it, until it is done or another one follows."""
    from campaign.cli.run import conclude, driver_log
    from campaign.execution.detached import DriverJobs, Succession
    from campaign.execution.driver import DriverResult, run_campaign
    from campaign.execution.requests import read_requests, write_request
    from campaign.site import find_site
    from campaign.spec import load_spec
    from campaign.unchanged import plan_or_reuse

    layout = Layout(root)
    site = find_site(site_name)
    spec = load_spec(layout.spec)
    plan, stages = plan_or_reuse(spec, layout.plan, allow_large=True)
    # It is on a node now: the network is that of the nodes.
    site = replace(site, site=site.site.model_copy(update={"driver_interface": None}))

    def go_on() -> DriverResult | None:
        """Run the campaign as soon as nobody else does; None if somebody asked to stop meanwhile."""
        asked, deadline = False, time.monotonic() + HOLD_ON_S
        while True:
            if any(request.kind == "stop" for request in read_requests(layout)):
                return None
            try:
                return run_campaign(
                    layout.root, plan, stages, site=site, successor=succession.successor, on_snapshot=told
                )
            except BusyError:
                if time.monotonic() > deadline:
                    raise
                if not asked:
                    write_request(layout, "handover", {})
                    asked = True
                time.sleep(_TRY_AGAIN_S)

    follows = False
    succession = Succession(DriverJobs(site, layout, plan.campaign), os.environ["SLURM_JOB_ID"])
    try:
        with driver_log(layout), notifier(spec.notify, layout, plan.campaign) as told:
            result = go_on()
            if told is not None and result is not None and not result.interrupted:
                told.ended()
        follows = result is not None and result.handed_over
        if result is not None and result.interrupted and not follows:
            write_request(layout, "stop", {})  # for a successor, should SLURM not take it from the queue
    finally:
        succession.end(needed=follows)
        if not follows:
            layout.driver_job.unlink(missing_ok=True)
    if follows:
        return ExitCode.OK  # SLURM would call the job failed
    if result is None or result.interrupted:
        return ExitCode.INTERRUPTED
    conclude(layout, held=result.held, as_json=False)
    return ExitCode.FAILED_RUNS if result.failed else ExitCode.OK
