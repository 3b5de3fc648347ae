"""``campaign init``, ``check``, ``plan`` and ``schema``: everything that runs nothing."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from campaign.cli.app import err, out
from campaign.cli.inspection import duration
from campaign.errors import SpecError
from campaign.layout import Layout, write_atomic

if TYPE_CHECKING:
    from campaign.compare import PlanReport

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
    out.print(f"wrote {path}; next: campaign check {path}", markup=False)


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
    runs = ", ".join(f"{name}: {count:,} runs" for name, count in counts.items())
    out.print(f"{path}: good. {plan.campaign}: {runs}; {len(plan.stages):,} stages", markup=False)


def plan_spec(path: Path, directory: Path | None, *, yes: bool, as_json: bool) -> None:
    """Compare a spec with what its campaign has, and show what would run and what it costs."""
    from campaign.compare import compare
    from campaign.ledger import Ledger
    from campaign.plan import load_plan, make_plan
    from campaign.spec import load_spec

    plan, _ = make_plan(load_spec(path), allow_large=yes)
    layout = Layout(directory or Path("campaigns") / plan.campaign)
    if layout.ledger.exists() and layout.plan.exists():
        with Ledger.open(layout, read_only=True) as ledger:
            committed = {stage_id for stage_id, state in ledger.states().items() if state == "done"}
            report = compare(plan, load_plan(layout.plan), committed, speeds=ledger.speeds())
    else:
        report = compare(plan)
    if as_json:
        json.dump(report.to_json(), sys.stdout, indent=1)
        sys.stdout.write("\n")
        return
    _print_report(report, layout)


def _print_report(report: "PlanReport", layout: Layout) -> None:
    runs, stages = report.runs, report.stages
    out.print(f"{report.campaign} in {layout.root}", style="bold", markup=False)
    out.print(
        f"runs    {runs.total:,}: {runs.reused:,} done, {runs.waiting:,} planned before and not done, "
        f"{runs.changed:,} changed, {runs.new:,} new; {runs.no_longer_wanted:,} no longer wanted"
    )
    out.print(
        f"stages  {stages.total:,}: {stages.reused:,} reused, {stages.to_compute:,} to compute; "
        f"{stages.no_longer_wanted:,} committed and no longer wanted"
    )
    for change in report.changes:
        out.print(
            f"changed {change.field}: {change.old} -> {change.new} "
            f"in {change.runs:,} runs, such as {change.example}",
            markup=False,
        )
    out.print(f"atoms   {_span(report.atoms)};  MD steps of a stage  {_span(report.steps)}")
    table = Table("to compute", box=box.SIMPLE)
    for name in ("stages", "atom-steps", "atom-step/s", "core-hours", "disk", "files"):
        table.add_column(name, justify="right")
    for row in report.cost:
        speed = row.speed_atom_steps_per_s
        table.add_row(
            " ".join(filter(None, (row.kind, row.potential))),
            f"{row.stages:,}",
            f"{row.atom_steps:.2e}" if row.atom_steps else "",
            f"{speed:.1e}" if speed else "",
            "?" if row.core_hours is None else f"{row.core_hours:.3g}",
            _bytes(row.disk_bytes),
            f"{row.files:,}",
        )
    out.print(table)
    sources = sorted({row.speed_from for row in report.cost if row.speed_atom_steps_per_s})
    if sources:
        out.print(f"speeds: {', '.join(SPEED_SOURCES[source] for source in sources)}")
    hours = report.core_hours
    known = "unknown" if hours is None else f"{hours:.3g} ({duration(3600 * hours)} on one core)"
    out.print(f"core-hours {known}; disk {_bytes(report.disk_bytes)} in {report.files:,} files")


def _span(pair: tuple[int, int]) -> str:
    low, high = pair
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _bytes(number: int) -> str:
    size = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
