"""A driver's job as its queue has it, for who looks from elsewhere."""

from dataclasses import dataclass
from typing import Any

from campaign.errors import CampaignError
from campaign.execution.requests import driver_is_awaited, driver_job
from campaign.layout import Layout

ANSWER_S = 3.0
"""So long an answer of SLURM is waited for."""


@dataclass(frozen=True)
class AwaitedDriver:
    """A driver that is to begin."""

    job: str
    site: str

    def __str__(self) -> str:
        return f"its driver is job {self.job} on {self.site}"


def awaited_driver(layout: Layout, snapshot: dict[str, Any]) -> AwaitedDriver | None:
    """Tell of a driver that is to begin, as the campaign's directory has it."""
    told = driver_job(layout)
    if told is None or not driver_is_awaited(layout, snapshot):
        return None
    return AwaitedDriver(told["job"], told["site"])


def queue_line(driver: AwaitedDriver) -> str:
    """Tell how its job stands, by one question to SLURM, which may take `ANSWER_S`; empty if it has ended."""
    from campaign.execution.slurm import site_environment, states_of_jobs
    from campaign.site import find_site

    try:
        with site_environment(find_site(driver.site).site):
            state = states_of_jobs(timeout_s=ANSWER_S).get(driver.job)
    except CampaignError as error:
        return f"nobody says when job {driver.job} begins: {error.message}"
    if state is None or state.ended:
        return ""
    if state.state == "PENDING":
        never = ", so it never will begin: stop it and change the site" if state.hopeless else ""
        return f"job {driver.job} waits ({state.reason}){never}"
    return f"job {driver.job} is about to begin"
