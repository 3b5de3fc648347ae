"""``campaign run``: plan, drive, then the result as a table, a store and a report."""

import json
import logging
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from campaign.cli.app import err, out
from campaign.cli.progress import progress
from campaign.errors import ExitCode, LedgerError
from campaign.layout import FORMAT_VERSION, Layout, write_atomic


def claim_directory(layout: Layout, name: str) -> None:
    """Make the campaign's directory, or make sure that it is this campaign's.

    Raises
    ------
    LedgerError
        The directory belongs to another campaign, holds something else, or has an unknown format.
    """
    if layout.identity.exists():
        identity = json.loads(layout.identity.read_text())
        if identity.get("format") != FORMAT_VERSION:
            raise LedgerError(
                f"format {identity.get('format')} is unknown to this version, which writes {FORMAT_VERSION}",
                where=str(layout.identity),
                hint="nothing was touched; use the version of campaign that made it",
            )
        if identity["campaign"] != name:
            raise LedgerError(
                f"this directory belongs to the campaign {identity['campaign']!r}, not to {name!r}",
                where=str(layout.root),
                hint="choose another with --dir, or rename the campaign in the spec",
            )
        return
    if layout.root.exists() and any(layout.root.iterdir()):
        raise LedgerError(
            "the directory is not empty and is no campaign",
            where=str(layout.root),
            hint="choose another with --dir",
        )
    layout.root.mkdir(parents=True, exist_ok=True)
    identity = {
        "format": FORMAT_VERSION,
        "campaign": name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_atomic(layout.identity, json.dumps(identity))


@contextmanager
def driver_log(layout: Layout) -> Iterator[None]:
    """Keep what the driver says in ``driver.log`` too, with times."""
    handler = logging.FileHandler(layout.log)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("campaign")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()


def run_spec(
    spec_path: Path, directory: Path | None, *, workers: int | None, threads: int, yes: bool, as_json: bool
) -> int:
    """Run what is missing of a spec; return the exit code."""
    from campaign.engines.base import get_engine
    from campaign.plan import make_plan
    from campaign.spec import load_spec

    spec = load_spec(spec_path)
    plan, stages = make_plan(spec, allow_large=yes)
    layout = Layout(directory or Path("campaigns") / plan.campaign)
    for engine in sorted({stage.engine for stage in stages.values() if stage.engine}):
        info = get_engine(engine).check()
        err.print(f"{info.name} {info.version} on {info.device}", markup=False, style="dim")
    claim_directory(layout, plan.campaign)
    err.print(
        f"{plan.campaign}: {sum(len(c.runs) for c in plan.calculations)} runs in {layout.root}", markup=False
    )

    # Imported late: Dask takes a second, which no error of a spec should wait for.
    from campaign.execution.driver import run_campaign

    with driver_log(layout), progress() as watch:
        result = run_campaign(
            layout.root,
            plan,
            stages,
            spec_text=spec.text,
            workers=workers,
            threads=threads,
            on_snapshot=watch,
        )
    conclude(layout, as_json=as_json)
    if result.interrupted:
        err.print(
            f"stopped; the same command goes on: campaign run {spec_path} --dir {layout.root}", markup=False
        )
        return ExitCode.INTERRUPTED
    if result.failed:
        err.print(
            f"{result.failed} runs failed; see: campaign status {layout.root}", style="red", markup=False
        )
        return ExitCode.FAILED_RUNS
    return ExitCode.OK


def conclude(layout: Layout, *, as_json: bool) -> None:
    """Print the ensemble's results, the paths of store and report, and what the spec says of itself."""
    import campaign
    from campaign.report import write_report

    opened = campaign.open(layout.root)
    conditions = [
        row for name in opened.results.children for row in condition_rows(opened.results[name].ds, name)
    ]
    report = write_report(layout.root)
    if as_json:
        record = {
            "campaign": opened.name,
            "store": str(layout.store),
            "report": str(report),
            "conditions": conditions,
        }
        json.dump(record, sys.stdout, indent=1)
        sys.stdout.write("\n")
        return
    if conditions:
        out.print(result_table(conditions))
    if opened.description:
        out.print(opened.description.strip(), markup=False)
    out.print(f"store:  {layout.store}", markup=False)
    out.print(f"report: {report}", markup=False)


def condition_rows(dataset: Any, calculation: str) -> list[dict[str, Any]]:
    """Give one record for each condition (all axes but the seed), and one over both directions."""
    rows = []
    for dims in (("seed",), ("direction", "seed")):
        if not set(dims) <= set(dataset.dims):
            continue
        if len(dims) > 1 and dataset.sizes["direction"] < 2:
            continue
        mean = dataset.campaign.mean(dims)
        stacked = (
            mean.stack(condition=list(mean["itc"].dims))
            if mean["itc"].dims
            else mean.expand_dims("condition")
        )
        cells = (stacked.isel(condition=index) for index in range(stacked.sizes["condition"]))
        rows += [_record(cell, calculation, dims) for cell in cells]
    return rows


def _record(cell: Any, calculation: str, dims: tuple[str, ...]) -> dict[str, Any]:
    labels: Mapping[str, Any] = {
        str(name): value.item()
        for name, value in cell.coords.items()
        if value.ndim == 0 and name not in {"condition", "pair"}
    }
    if "direction" in dims:
        labels = {**labels, "direction": "both"}
    number = {name: _plain(cell[name]) for name in ("itc", "itc_standard_error", "itc_lower", "itc_upper")}
    return {
        "calculation": calculation,
        "labels": dict(labels),
        "units": cell["itc"].attrs["units"],
        **number,
        "n": int(cell["n"]),
        "n_excluded": int(cell["n_excluded"]),
        "n_missing": int(cell["n_missing"]),
    }


def _plain(value: Any) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def result_table(conditions: list[dict[str, Any]]) -> Table:
    """Show the interfacial thermal conductance of each condition, with its standard error."""
    table = Table(
        title=f"Interfacial thermal conductance (ITC, {conditions[0]['units']})",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    names = list(dict.fromkeys(name for row in conditions for name in row["labels"]))
    for name in names:
        table.add_column(name)
    for name in ("ITC", "standard error", "95 % interval", "runs", "left out", "missing"):
        table.add_column(name, justify="right")
    for row in conditions:
        lower, upper = row["itc_lower"], row["itc_upper"]
        interval = "unbounded" if lower is None or upper is None else f"{lower:.0f} to {upper:.0f}"
        table.add_row(
            *(str(row["labels"].get(name, "")) for name in names),
            _formatted(row["itc"]),
            _formatted(row["itc_standard_error"]),
            interval if row["itc"] is not None else "-",
            str(row["n"]),
            str(row["n_excluded"]),
            str(row["n_missing"]),
        )
    return table


def _formatted(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
