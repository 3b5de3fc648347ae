"""``campaign init``, ``check``, ``plan`` and ``schema``: everything that runs nothing."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from campaign.cli.app import err, out
from campaign.cli.directory import campaign_root, check_directory
from campaign.cli.text import command, duration, fits, folded, make_table, plural
from campaign.errors import CampaignError, LedgerError, ResourceError, SpecError
from campaign.layout import Layout, write_atomic

if TYPE_CHECKING:
    from campaign.compare import CostRow, PlanReport
    from campaign.plan import Plan

FEW_CHANGES = 3
MANY_STRUCTURES = 12
INDENT = " " * 8

SPEED_SOURCES = {
    "this campaign": "measured in this campaign",
    "default": "of one core of a 2-core x86-64 machine, not measured here yet",
}


def write_template(path: Path) -> None:
    """Write a commented template, never over a file.

    Raises
    ------
    SpecError
        The file is there already.
    """
    from campaign.spec import TEMPLATE

    if path.exists():
        raise SpecError("the file is there already", where=str(path), hint="choose another name")
    path.write_text(TEMPLATE)
    out.print(f"wrote {path}; next: {command('check', path)}", markup=False)


def write_schema(path: Path | None) -> None:
    """Write the JSON Schema of specs."""
    from campaign.spec import json_schema

    text = json.dumps(json_schema(), indent=2) + "\n"
    if path is None:
        sys.stdout.write(text)
        return
    write_atomic(path, text)
    err.print(f"wrote {path}; head specs with: # yaml-language-server: $schema={path}", markup=False)


def check_spec(path: Path, *, yes: bool, as_json: bool) -> None:
    """Load and expand a spec, and say what it comes to."""
    from campaign.plan import make_plan
    from campaign.spec import load_spec

    plan, _ = make_plan(load_spec(path), allow_large=yes)
    counts = {calculation.name: len(calculation.runs) for calculation in plan.calculations}
    if as_json:
        record = {"campaign": plan.campaign, "runs": counts, "stages": len(plan.stages)}
        json.dump(record, sys.stdout)
        sys.stdout.write("\n")
        return
    runs = ", ".join(f"{name}: {plural(count, 'run')}" for name, count in counts.items())
    out.print(f"{path}: good. {plan.campaign}: {runs}; {plural(len(plan.stages), 'stage')}", markup=False)


def plan_spec(path: Path, directory: Path | None, *, site: str | None, yes: bool, as_json: bool) -> None:
    """Compare a spec with what its campaign has, and show what would run and what it costs."""
    from campaign.cli.engines import engines_here, tell_changed_files
    from campaign.spec import load_spec
    from campaign.unchanged import plan_or_reuse

    named = None
    if site is not None:
        from campaign.site import find_site

        named = find_site(site)
    spec = load_spec(path)
    try:
        root = campaign_root(spec.campaign, directory, named)
    except ResourceError as error:  # a plan spends nothing: it may be made elsewhere
        err.print(f"campaign: {error}; `campaign run` would not start", style="yellow", markup=False)
        root = campaign_root(spec.campaign, directory)
    layout = Layout(root)
    plan, _ = plan_or_reuse(spec, layout.plan, allow_large=yes)
    check_directory(layout, plan.campaign)
    report = against_directory(plan, layout)
    if as_json:
        record = report.to_json()
        if named is not None:
            from campaign.cli.site_plan import site_json

            record["on_site"] = site_json(named, report, layout)
        json.dump(record, sys.stdout, indent=1)
        sys.stdout.write("\n")
        return
    _print_report(report, layout)
    tell_changed_files(plan)
    if named is None:
        try:
            list(engines_here(plan))
        except CampaignError as error:  # a plan spends nothing: the engine may come
            err.print(f"campaign: {error}; `campaign run` would not start", style="yellow", markup=False)
    else:
        from campaign.cli.site_plan import print_site_plan

        print_site_plan(named, report, layout)


def against_directory(plan: "Plan", layout: Layout) -> "PlanReport":
    """Compare a plan with what its campaign's directory has, if there is one."""
    from campaign.compare import compare
    from campaign.execution.requests import read_requests
    from campaign.execution.schedule import blocked_stages
    from campaign.execution.segments import steps_of_unfinished
    from campaign.ledger import Ledger
    from campaign.plan_file import load_plan

    if not layout.plan.exists():
        return compare(plan)
    try:
        previous = load_plan(layout.plan)
    except LedgerError:  # damaged or of another version: `run` writes it anew
        previous = None
    if not layout.ledger.exists():  # `run` finds again what is committed
        from campaign.execution.disk import stages_on_disk

        return compare(plan, previous, set(stages_on_disk(layout)))
    with Ledger.open(layout, read_only=True) as ledger:
        done = {stage_id for stage_id, state in ledger.states().items() if state == "done"}
        speeds = ledger.speeds()
        asked = any(request.kind == "retry" for request in read_requests(layout))
        blocked = set() if asked else blocked_stages(plan, ledger)
    gone, lost = _gone_from_disk(plan, layout, done)
    return compare(
        plan,
        previous,
        done,
        lost=lost,
        gone=gone,
        blocked=blocked,
        steps_done=steps_of_unfinished(layout),
        speeds=speeds,
    )


def _gone_from_disk(plan: "Plan", layout: Layout, done: set[str]) -> tuple[set[str], set[str]]:
    """Done stages without a directory; and those that the plan needs and that have to be made again."""
    from campaign.execution.disk import lost_stages, stages_on_disk, unread_results

    gone = done.difference(stages_on_disk(layout))
    unread: set[str] = set()
    for calculation in plan.calculations:
        unread |= gone.intersection(calculation.runs.result_stages)
    if unread:
        unread.intersection_update(unread_results(layout, plan))
    return gone, set(lost_stages(layout, plan.stages, done, unread))


def news(report: "PlanReport") -> str:
    """``2 of 6 runs are done; 3 changed (production_ps: 2 -> 3), 1 new``."""
    runs = report.runs
    changes = [f"{change.field}: {change.old} -> {change.new}" for change in report.changes[:FEW_CHANGES]]
    if len(report.changes) > FEW_CHANGES:
        changes.append("...")
    why = f" ({', '.join(changes)})" if changes else ""  # not every fact behind a stage is in the plan
    parts = [f"{runs.changed:,} changed{why}"] if runs.changed else []
    parts += [f"{runs.new:,} new"] if runs.new else []
    parts += [f"{runs.blocked:,} failed or held back"] if runs.blocked else []
    parts += [f"{runs.no_longer_wanted:,} no longer wanted"] if runs.no_longer_wanted else []
    done = f"{runs.reused:,} of {plural(runs.total, 'run')} {'is' if runs.reused == 1 else 'are'} done"
    return done + (f"; {', '.join(parts)}" if parts else "")


def _print_report(report: "PlanReport", layout: Layout) -> None:
    runs, stages = report.runs, report.stages
    out.print(f"{report.campaign} in {layout.root}", style="bold", markup=False)
    _entry(
        f"runs    {runs.total:,}",
        {
            "done": runs.reused,
            "planned before and not done": runs.waiting,
            "failed or held back": runs.blocked,
            "changed": runs.changed,
            "new": runs.new,
            "no longer wanted": runs.no_longer_wanted,
        },
    )
    _entry(
        f"stages  {stages.total:,}",
        {
            "reused": stages.reused,
            "to compute": stages.to_compute,
            "of failed or held-back runs": stages.blocked,
            "committed and no longer wanted": stages.no_longer_wanted,
        },
    )
    if stages.begun:
        text = f"{stages.begun:,} of those to compute partly committed; the cost is that of the rest"
        out.print(folded(f"begun   {text}", out.width, INDENT), markup=False)
    if runs.blocked:
        text = f"left alone until a retry; why, and what to do: {command('status', layout.root)}"
        out.print(folded(f"failed  {text}", out.width, INDENT), markup=False)
    if stages.made_again:
        was = "stage is" if stages.made_again == 1 else "stages are"
        text = f"{stages.made_again:,} finished {was} gone from the disk and will be made again"
        out.print(folded(f"gone    {text}", out.width, INDENT), markup=False)
    if stages.gone:
        was = "stage is" if stages.gone == 1 else "stages are"
        them = "it" if stages.gone == 1 else "them"
        text = (
            f"{stages.gone:,} finished {was} gone from the disk; nothing here needs {them}; "
            f"to make {them} again all the same: {command('retry', 'gone', '--dir', layout.root)}"
        )
        out.print(folded(f"gone    {text}", out.width, INDENT), markup=False)
    for change in report.changes:
        text = f"changed {change.field}: {change.old} -> {change.new} in {plural(change.runs, 'run')}"
        out.print(folded(f"{text}, such as {change.example}", out.width, INDENT), markup=False)
    if report.atoms[1]:
        sizes = f"atoms   {_span(report.atoms)}; MD steps of a stage {_span(report.steps)}"
        out.print(folded(sizes, out.width, INDENT))
    _print_structures(report)
    if not stages.to_compute:
        out.print("nothing to compute")
        return
    _print_cost(report)


def _print_structures(report: "PlanReport") -> None:
    """Print cell, strain, twist and atoms of each structure, the first ones of many."""
    if not report.structures:
        return
    rows = [
        {
            "layers": row.title,
            "atoms": f"{row.atoms:,}",
            "cell (A)": row.cell,
            "twist": f"{row.twist_deg:.2f}",
            "upper": row.strains[1],
            "lower": row.strains[0],
            "runs": f"{row.runs:,}",
        }
        for row in report.structures[:MANY_STRUCTURES]
    ]
    names = list(rows[0])
    for dropped in ("runs", "cell (A)", "atoms"):
        if fits(out, make_table(rows, names, 1)):
            break
        names.remove(dropped)
    out.print()
    out.print(make_table(rows, names, 1))
    note = "upper, lower: strain in % of each against the potential's own lattice constants; twist in degrees"
    out.print(folded(note, out.width, INDENT), markup=False)
    if len(report.structures) > MANY_STRUCTURES:
        out.print(f"and {len(report.structures) - MANY_STRUCTURES:,} more structures; all are in --json")


def _entry(head: str, counts: dict[str, int]) -> None:
    """Print a number and what it is made of, zeros left out."""
    parts = ", ".join(f"{number:,} {name}" for name, number in counts.items() if number)
    out.print(folded(f"{head}: {parts}" if parts else head, out.width, INDENT), markup=False)


def _print_cost(report: "PlanReport") -> None:
    potentials = sorted({row.potential for row in report.cost if row.potential})
    several = len(potentials) > 1
    out.print("\nto compute" + (f", with {potentials[0]}" if len(potentials) == 1 else ""), markup=False)
    rows: list[dict[str, str]] = []
    for potential in ([None, *potentials]) if several else [None]:
        if potential:
            rows.append({"": potential})
        rows += [_cost_cells(row) for row in report.cost if not several or row.potential == potential]
    names = ["", "stages", "atom-steps", "per second", "core-h", "disk", "files"]
    for dropped in ("per second", "files", "disk", "stages"):
        if fits(out, make_table(rows, names, 1)):
            break
        names.remove(dropped)
    out.print(make_table(rows, names, 1))
    sources = sorted({row.speed_from for row in report.cost if row.speed_atom_steps_per_s})
    if sources:
        speeds = ", ".join(SPEED_SOURCES[source] for source in sources)
        out.print(folded(f"atom-steps per second: {speeds}", out.width, INDENT))
    hours = report.core_hours
    known = "unknown" if hours is None else f"{hours:,.3g} ({duration(3600 * hours)} on one core)"
    total = f"core-hours {known}; disk {byte_text(report.disk_bytes)} in {plural(report.files, 'file')}"
    out.print(folded(total, out.width, INDENT))


def _cost_cells(row: "CostRow") -> dict[str, str]:
    speed = row.speed_atom_steps_per_s
    hours = "" if row.core_hours == 0 else "?" if row.core_hours is None else f"{row.core_hours:.2g}"
    return {
        "": row.kind,
        "stages": f"{row.stages:,}",
        "atom-steps": f"{row.atom_steps:.1e}" if row.atom_steps else "",
        "per second": f"{speed:.1e}" if speed else "",
        "core-h": hours,
        "disk": byte_text(row.disk_bytes),
        "files": f"{row.files:,}",
    }


def _span(pair: tuple[int, int]) -> str:
    low, high = pair
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def byte_text(number: int) -> str:
    """``1234567`` -> ``1.23 MB``."""
    size = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
