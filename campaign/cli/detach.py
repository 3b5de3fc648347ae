"""``campaign run --detach``: the driver in a job of its own, and what that job runs."""

import contextlib
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from campaign.cli.app import err
from campaign.cli.notify import notifier
from campaign.cli.text import command
from campaign.errors import BusyError, CampaignError, ExitCode, ResourceError
from campaign.execution.requests import driver_job
from campaign.layout import Layout, write_atomic

if TYPE_CHECKING:
    from campaign.runs import Plan
    from campaign.site import NamedSite

HOLD_ON_S = 300.0
"""So long the driver in a job waits for the one before it: to hand over, or to be found dead."""

ASK_AGAIN_S = 30.0
"""Time between two requests to hand over."""

FOLLOWED_S = 600.0
"""A driver that has lived for so long is followed by another one where the disk, say, failed it."""

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
    except CampaignError as error:
        if told is None:  # nobody can say; lock and lease decide
            return
        raise BusyError(
            f"job {told['job']} may drive this campaign, or is about to: {error.message}",
            where=str(layout.root),
            hint=f"try again when SLURM answers; if that job is gone for good, remove {layout.driver_job}",
        ) from None
    if ids:
        jobs = ", then ".join(sorted(ids, key=int))
        raise BusyError(
            f"the driver of this campaign is job {jobs} on {site.name if site else 'a cluster'}",
            where=str(layout.root),
            hint="`campaign status` shows what it does, `campaign stop` ends it",
        )


def start_driver_job(
    site: "NamedSite", layout: Layout, plan: "Plan", spec_text: str, *, as_json: bool
) -> int:
    """Submit a driver's job and say how to follow it.

    Raises
    ------
    BusyError
        Somebody did so meanwhile.
    """
    from campaign.execution.detached import DriverJobs
    from campaign.execution.lock import DriverLock
    from campaign.execution.requests import read_requests
    from campaign.execution.snapshot import show_submitted
    from campaign.plan_file import save_plan

    with DriverLock(layout.lock):  # two at once would submit two jobs
        refuse_if_driven(site, layout, plan.campaign)
        write_atomic(layout.spec, spec_text)
        save_plan(plan, layout.plan)
        for request in read_requests(layout):
            if request.kind != "retry":  # to start says the opposite
                request.path.unlink(missing_ok=True)
        job_id = DriverJobs(site, layout, plan.campaign).submit()
        show_submitted(layout, plan, site.argument)
    err.print(f"its driver is job {job_id} on {site.name}; it goes on without you", markup=False)
    for name in ("status", "watch", "stop"):
        err.print(f"  {command(name, layout.root)}", markup=False)
    if as_json:
        json.dump({"campaign": plan.campaign, "directory": str(layout.root), "job": job_id}, sys.stdout)
        sys.stdout.write("\n")
    return ExitCode.OK


def drive(root: Path, site_name: str) -> int:
    """Drive a campaign from a job, after the driver before it, until it is done or another one follows."""
    from campaign.cli.run import conclude, driver_log, say_how_it_ended
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
        ask_at, deadline = 0.0, time.monotonic() + HOLD_ON_S
        while True:
            if any(request.kind == "stop" for request in read_requests(layout)):
                return None
            try:
                return run_campaign(
                    layout.root, plan, stages, site=site, successor=succession.successor, on_snapshot=told
                )
            except BusyError:
                now = time.monotonic()
                if now > deadline:
                    raise
                if now > ask_at:  # the one before may drop what was asked while it started
                    write_request(layout, "handover", {})
                    ask_at = now + ASK_AGAIN_S
                time.sleep(_TRY_AGAIN_S)

    follows, own, began = False, os.environ["SLURM_JOB_ID"], time.monotonic()
    succession = Succession(DriverJobs(site, layout, plan.campaign), own)
    try:
        with driver_log(layout), notifier(spec.notify, layout, plan.campaign) as told:
            result = go_on()
            if told is not None and result is not None and not result.interrupted:
                told.ended()
        follows = result is not None and result.handed_over
        if result is not None and result.interrupted and not follows:
            write_request(layout, "stop", {})  # for a successor, should SLURM not take it from the queue
    except (OSError, ResourceError):  # it may be well again for the next one
        follows = time.monotonic() - began > FOLLOWED_S
        raise
    finally:
        succession.end(needed=follows)
        with contextlib.suppress(CampaignError):  # a damaged file
            last = driver_job(layout)
            if not follows and last is not None and last["job"] in {own, succession.successor()}:
                layout.driver_job.unlink(missing_ok=True)
    if follows:
        return ExitCode.OK  # SLURM would call the job failed
    if result is None or result.interrupted:
        return ExitCode.INTERRUPTED
    conclude(layout, held=result.held, as_json=False)
    return say_how_it_ended(result, layout)
