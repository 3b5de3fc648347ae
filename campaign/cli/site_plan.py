"""What a plan comes to on a site: jobs, chains, GPU-hours, job scripts; and asking before it is spent."""

import math
import sys
from collections.abc import Mapping
from typing import Any

import typer

from campaign.cli.app import err, out
from campaign.cli.text import duration, folded, plural
from campaign.compare import PlanReport
from campaign.errors import SpecError
from campaign.execution.cluster import Kind
from campaign.execution.job_scripts import job_prefix, job_script, segment_s
from campaign.execution.segments import SEGMENT_S
from campaign.execution.slot import margin_s
from campaign.layout import Layout
from campaign.ledger import Ledger
from campaign.plan_file import read_status
from campaign.site import NamedSite
from campaign.site_cost import (
    FACTOR_ELSEWHERE,
    FACTOR_MEASURED,
    Interval,
    ResourceCost,
    SiteCost,
    site_cost,
)

INDENT = " " * 8


def cost_on(named: NamedSite, report: PlanReport, layout: Layout) -> SiteCost:
    """Estimate what a plan costs on a site, with the speeds that its campaign has measured so far."""
    site = named.site
    measured = []
    if layout.ledger.exists():
        with Ledger.open(layout, read_only=True) as ledger:
            measured = ledger.measured()
    return site_cost(
        named.name,
        site,
        report.cost,
        measured,
        segment_s=segment_s(site, SEGMENT_S),
        usable_s={
            name: resource.shortest_walltime_s - margin_s(resource.shortest_walltime_s)
            for name, resource in site.resources.items()
        },
    )


def job_scripts(named: NamedSite, cost: SiteCost, report: PlanReport, layout: Layout) -> dict[str, str]:
    """Script of the jobs of each resource that has something to do, in each of its places."""
    root = Layout(layout.root.resolve())
    driver = (read_status(root.status) or {}).get("driver") or {}
    name = f"{job_prefix(root, report.campaign)}{driver.get('epoch', 0) + 1}"
    site, busy = named.site.with_places(), {one.resource for one in cost.resources}
    kinds = [Kind(resource) for resource in site.resources]
    return {
        kind.resource: job_script(site, kind, name=name, log_directory=root.jobs)
        for kind in kinds
        if kind.anywhere.resource in busy
    }


def site_json(named: NamedSite, report: PlanReport, layout: Layout) -> dict[str, Any]:
    """Describe all of it as plain data."""
    cost = cost_on(named, report, layout)
    return cost.to_json() | {"job_scripts": job_scripts(named, cost, report, layout)}


def print_site_plan(named: NamedSite, report: PlanReport, layout: Layout) -> None:
    """Print what a plan comes to on a site, and the scripts of its jobs."""
    cost = cost_on(named, report, layout)
    out.print(f"\non {named.name}", style="bold", markup=False)
    if not cost.resources:
        out.print("no jobs: nothing to compute")
        return
    for one in cost.resources:
        _print_resource(named, one)
    total = f"in all  {_hours('GPU-hours', cost.gpu_hours)}; {_hours('core-hours', cost.core_hours)}"
    out.print(folded(total, out.width, INDENT), markup=False)
    if cost.basis:
        out.print(folded(f"{INDENT}{_basis(cost)}", out.width, INDENT), markup=False)
    above = _above(named, cost)
    if above:
        out.print(folded(f"{INDENT}{above}: `campaign run` asks before", out.width, INDENT), markup=False)
    out.print("\nScripts of its jobs:", markup=False)
    for name, script in job_scripts(named, cost, report, layout).items():
        out.print(f"\n--- {name}", style="bold", markup=False)
        out.print(script.rstrip("\n"), markup=False)


def _print_resource(named: NamedSite, cost: ResourceCost) -> None:
    resource = named.site.resources[cost.resource]
    slots = f", {resource.slots} slots each" if resource.slots > 1 else ""
    head = (
        f"{cost.resource:7} {plural(cost.stages, 'stage')} ({', '.join(cost.kinds)}); "
        f"at most {plural(cost.jobs_at_once, 'job')} of {cost.walltime} at a time{slots}"
    )
    if cost.jobs is not None:
        most = "" if cost.most_jobs == cost.jobs else f" (up to {cost.most_jobs:,})"
        head += f", {cost.jobs:,}{most} in all"
    out.print(folded(head, out.width, INDENT), markup=False)
    chain = cost.chain
    if chain is not None:
        pieces = plural(chain.segments, "segment")
        length = f" of {duration(chain.segment_s)}" if chain.segments > 1 else ""
        jobs = "within a job" if chain.jobs == 1 else f"in {chain.jobs:,} jobs, one after the other"
        told = f"{INDENT}longest stage ({chain.kind}): {duration(chain.seconds)} in {pieces}{length}, {jobs}"
        out.print(folded(told, out.width, INDENT), markup=False)
    hours = [_hours("core-hours", cost.core_hours)]
    if resource.gpus:
        hours.insert(0, _hours("GPU-hours", cost.gpu_hours))
    out.print(folded(f"{INDENT}{'; '.join(hours)}", out.width, INDENT), markup=False)


def _hours(what: str, hours: Interval | None) -> str:
    if hours is None:
        return f"{what} unknown: no speed is known"
    likely = _number(hours.likely)
    if hours.low == hours.high:
        return f"{what} {likely}"
    return f"{what} {likely} ({_number(hours.low)} to {_number(hours.high)})"


def _number(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.2g}"


def _above(named: NamedSite, cost: SiteCost) -> str:
    """Say which limits of the site may be exceeded; empty if none."""
    return "; ".join(
        f"it may take {_number(most)} {what}, more than {limit:,g}"
        if math.isfinite(most)
        else f"nobody knows how many {what} it takes, and more than {limit:,g} need a yes"
        for what, most, limit in cost.above(named.site)
    )


def _basis(cost: SiteCost) -> str:
    """Tell where the intervals come from."""
    words: Mapping[str, str] = {
        "spread": f"speeds of {cost.attempts} attempts in jobs, and one standard deviation between them",
        "measured": f"speeds of fewer than 3 attempts in jobs: a factor of {FACTOR_MEASURED:g} either way",
        "elsewhere": "speeds measured on this machine, taken for each core of a slot: "
        f"a factor of {FACTOR_ELSEWHERE:g} either way",
        "default": "speed of one core of a 2-core x86-64 machine, taken for each core of a slot, nothing "
        f"measured yet: a factor of {FACTOR_ELSEWHERE:g} either way",
    }
    return "intervals: " + "; ".join(words[basis] for basis in cost.basis)


def ask_before_spending(named: NamedSite, report: PlanReport, layout: Layout, *, yes: bool) -> bool:
    """Say what a plan costs on a site, and ask if that may be above a limit; whether to go on.

    Raises
    ------
    SpecError
        It may be above a limit, and nobody is there to be asked.
    """
    cost = cost_on(named, report, layout)
    above = _above(named, cost)
    ask = bool(above) and not yes
    if ask and not sys.stdin.isatty():
        raise SpecError(
            f"on {named.name} {above}", hint="look at `campaign plan`; --yes goes on all the same"
        )
    hours = [_hours("core-hours", cost.core_hours)]
    if cost.gpu_hours is None or cost.gpu_hours.high:
        hours.insert(0, _hours("GPU-hours", cost.gpu_hours))
    err.print(folded(f"on {named.name}: {'; '.join(hours)}", err.width, "  "), markup=False)
    if not ask:
        return True
    try:
        return typer.confirm(f"{above}. Go on?", err=True)
    except typer.Abort:
        raise KeyboardInterrupt from None
