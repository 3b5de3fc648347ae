"""A driver's job as its queue has it, for who looks from elsewhere."""

from typing import Any

from campaign.errors import CampaignError
from campaign.execution.requests import driver_is_awaited, driver_job
from campaign.layout import Layout

ANSWER_S = 3.0
"""So long an answer of SLURM is waited for."""


def queue_line(layout: Layout, snapshot: dict[str, Any]) -> str:
    """Tell of a driver that is to begin, by one question to SLURM; empty where none is to."""
    told = driver_job(layout)
    if told is None or not driver_is_awaited(layout, snapshot):
        return ""
    from campaign.execution.slurm import site_environment, states_of_jobs
    from campaign.site import find_site

    job = f"its driver is job {told['job']} on {told['site']}"
    try:
        with site_environment(find_site(told["site"]).site):
            state = states_of_jobs(timeout_s=ANSWER_S).get(told["job"])
    except CampaignError as error:
        return f"{job}, which is to begin; nobody says when: {error.message}"
    if state is None or state.ended:
        return ""
    if state.state == "PENDING":
        never = ", so it never will begin: stop it and change the site" if state.hopeless else ""
        return f"{job}, which waits ({state.reason}){never}"
    return f"{job}, which is about to begin"
