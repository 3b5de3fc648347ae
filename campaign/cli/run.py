"""``campaign run``: plan, drive, then the result as a table, a store and a report."""

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from campaign.cli.app import err, out
from campaign.cli.detach import refuse_if_driven, start_driver_job
from campaign.cli.directory import campaign_root, check_directory, claim_directory, link_here
from campaign.cli.notify import notifier
from campaign.cli.progress import progress
from campaign.cli.specs import against_directory, news
from campaign.cli.text import command, folded, plural
from campaign.errors import ExitCode, SpecError
from campaign.layout import Layout

if TYPE_CHECKING:
    from campaign.execution.driver import DriverResult
    from campaign.site import NamedSite


@contextmanager
def driver_log(layout: Layout) -> Iterator[None]:
    """Write what the driver says to ``driver.log``, with times, and nowhere else: the panel tells a user."""
    handler = logging.FileHandler(layout.log)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("campaign")
    before = logger.level, logger.propagate
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]
        handler.close()


@dataclass(frozen=True)
class Options:
    """Where and how ``campaign run`` runs: on this machine or a site (its name or file).

    ``detach``: the driver runs in a job of the site.
    """

    workers: int | None
    threads: int | None
    site: str | None
    yes: bool
    as_json: bool
    detach: bool = False

    def typed(self) -> list[object]:
        """Give those that go on with a campaign, as they are typed."""
        values = {"--workers": self.workers, "--threads": self.threads, "--site": self.site}
        flags = {"--yes": self.yes, "--json": self.as_json}
        given = [word for option in values.items() if option[1] is not None for word in option]
        return [*given, *(name for name, chosen in flags.items() if chosen)]


def _find_site(options: Options) -> "NamedSite | None":
    from campaign.site import find_site

    site = None if options.site is None else find_site(options.site)
    if options.detach and (site is None or site.site.driver is None):
        raise SpecError(
            "--detach needs a site with a resource for the driver's job",
            where=None if site is None else str(site.source),
            hint="give --site" if site is None else "add `driver: NAME`, one of its resources",
        )
    return site


def _refuse_second_driver(site: "NamedSite | None", layout: Layout, campaign: str) -> None:
    """Refuse it before anything is said; the driver takes the lock again."""
    from campaign.execution.lock import DriverLock

    refuse_if_driven(site, layout, campaign)
    if layout.lock.exists():
        with DriverLock(layout.lock):
            pass


def run_spec(spec_path: Path, directory: Path | None, options: Options) -> int:
    """Run what is missing of a spec; return the exit code."""
    from campaign.cli.engines import engines_here, tell_changed_files
    from campaign.execution.requests import read_requests
    from campaign.spec import load_spec
    from campaign.unchanged import plan_or_reuse

    site = _find_site(options)
    spec = load_spec(spec_path)
    layout = Layout(campaign_root(spec.campaign, directory, site))
    plan, stages = plan_or_reuse(spec, layout.plan, allow_large=options.yes)
    check_directory(layout, plan.campaign)
    _refuse_second_driver(site, layout, plan.campaign)
    known = layout.plan.exists()
    tell_changed_files(plan)
    if site is None:
        for info in engines_here(plan):  # on a site the first attempt of each job looks
            err.print(f"{info.name} {info.version} on {info.device}", markup=False, style="dim")
    computes = True
    if site is not None or known:
        report = against_directory(plan, layout)
        computes = bool(report.stages.to_compute or read_requests(layout))
    if site is not None:
        from campaign.cli.site_plan import ask_before_spending

        if not ask_before_spending(site, report, layout, yes=options.yes):
            err.print("nothing was started", markup=False)
            return ExitCode.USAGE
        if not computes:
            site = None  # nothing will be asked of it
    claim_directory(layout, plan.campaign)
    if directory is None and site is not None:
        _place_on_scratch(layout, site, plan.campaign)
    runs = sum(len(calculation.runs) for calculation in plan.calculations)
    err.print(f"{plan.campaign}: {plural(runs, 'run')} in {layout.root}", markup=False)
    if known:
        err.print(folded(news(report), err.width, "  "), markup=False)

    if options.detach and site is not None:
        return start_driver_job(site, layout, plan, spec.text, as_json=options.as_json)

    layout.driver_job.unlink(missing_ok=True)
    # Imported late: Dask takes a second, which no error of a spec should wait for.
    from campaign.execution.driver import run_campaign

    with (
        driver_log(layout),
        progress(plan) as watch,
        notifier(spec.notify, layout, plan.campaign) as told,
    ):

        def on_snapshot(snapshot: dict[str, Any]) -> None:
            watch(snapshot)
            if told is not None:
                told(snapshot)

        result = run_campaign(
            layout.root,
            plan,
            stages,
            spec_text=spec.text,
            workers=options.workers,
            threads=options.threads or 1,
            site=site,
            on_snapshot=on_snapshot,
        )
        if told is not None and computes and not result.interrupted:
            told.ended()
    conclude(layout, held=result.held, as_json=options.as_json)
    if result.interrupted:
        again = command("run", spec_path, "--dir", layout.root, *options.typed())
        err.print(f"stopped; the same command goes on: {again}", markup=False)
        return ExitCode.INTERRUPTED
    return say_how_it_ended(result, layout)


def say_how_it_ended(result: "DriverResult", layout: Layout) -> int:
    """Tell what failed and what is held back; return the exit code."""
    if result.failed:
        see = command("status", layout.root)
        err.print(f"{plural(result.failed, 'run')} failed; see: {see}", style="red", markup=False)
    for name, reason in result.held.items():
        err.print(folded(f"held back: {name}: {reason}", err.width, "  "), style="red", markup=False)
    if result.failed:
        return ExitCode.FAILED_RUNS
    return ExitCode.RESOURCE if result.held else ExitCode.OK


def _place_on_scratch(layout: Layout, site: "NamedSite", name: str) -> None:
    """Let all commands find in ``campaigns/`` what lies on a site's scratch; say so if it does not."""
    here = Path("campaigns") / name
    if site.site.scratch is None:
        return
    if layout.root != here:
        link_here(layout.root, name)
    elif not here.is_symlink():
        err.print(f"{here} is here already: it is used, not the scratch of {site.name}", markup=False)


def conclude(layout: Layout, *, held: Mapping[str, str], as_json: bool) -> None:
    """Print the ensemble's results, the paths of store and report, and what the spec says of itself."""
    import campaign
    from campaign.cli.summary import condition_rows, excluded_line, flag_counts, flags_line, print_results
    from campaign.report import write_report

    opened = campaign.open(layout.root)
    datasets = {name: node.ds for name, node in opened.results.children.items()}
    conditions = {name: condition_rows(dataset, name) for name, dataset in datasets.items()}
    flagged = {name: flag_counts(dataset) for name, dataset in datasets.items()}
    if as_json:
        record = {
            "campaign": opened.name,
            "store": str(layout.store),
            "report": str(write_report(layout.root)),
            "conditions": [row for rows in conditions.values() for row in rows],
            "flagged": flagged,
            "held": dict(held),
        }
        json.dump(record, sys.stdout, indent=1)
        sys.stdout.write("\n")
        return
    for name, rows in conditions.items():
        if not flagged[name]["done"]:
            out.print(f"{name}: no run is done yet", markup=False)
            continue
        if rows:
            print_results(out, name, rows)
        for line in (excluded_line(datasets[name]), flags_line(flagged[name])):
            if line is not None:
                out.print(folded(line, out.width, "  "), markup=False)
        out.print()
    if opened.description and any(one["done"] for one in flagged.values()):
        out.print(folded(opened.description.strip(), out.width), markup=False)
    if layout.store.exists():
        out.print(f"store:  {layout.store}", markup=False)
    out.print(f"report: {write_report(layout.root)}", markup=False)
