"""Results of an ensemble on the terminal: one row for each condition, and how many runs are flagged."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from campaign.analysis import RESOLVED_RUNS
from campaign.axes import label_text
from campaign.cli.text import fits, folded, make_table, plural
from campaign.numbers import with_error

NOT_RESOLVED = "not resolved"
CAPTION = (
    "ITC: ratio of the means over runs of heat flow and temperature jump times area; standard error from the "
    "spread between seeds; interval by Fieller's theorem."
)
UNRESOLVED_CAPTION = (
    f"Not resolved: fewer than {RESOLVED_RUNS} seeds, or a temperature jump that is not told from zero."
)


def condition_rows(dataset: Any, calculation: str) -> list[dict[str, Any]]:
    """Give one record for each condition (all axes but the seed), and one over both directions.

    The latter only where both directions have runs.
    """
    if "itc" not in dataset:
        return []
    if "seed" not in dataset.coords:
        dataset = dataset.expand_dims("seed")
    if "pair" in dataset.coords and dataset["pair"].ndim == 0:  # it is the same everywhere, and no axis
        dataset = dataset.drop_vars("pair")
    single = dataset.campaign.mean("seed")
    rows = [_record(cell, calculation) for cell in _cells(single)]
    if dataset.sizes.get("direction", 0) > 1:
        pooled = dataset.campaign.mean(("direction", "seed"))
        pooled = pooled.assign(whole=(single["n"] > 0).all("direction")).assign_coords(direction="both")
        rows += [_record(cell, calculation) for cell in _cells(pooled) if bool(cell["whole"])]
    return rows


def _cells(mean: Any) -> list[Any]:
    dims = list(mean["itc"].dims)
    if dims == ["condition"]:  # of an ensemble that is no grid
        return [mean.isel(condition=index) for index in range(mean.sizes["condition"])]
    stacked = mean.stack(condition=dims) if dims else mean.expand_dims("condition")
    return [stacked.isel(condition=index) for index in range(stacked.sizes["condition"])]


def _record(cell: Any, calculation: str) -> dict[str, Any]:
    labels: Mapping[str, Any] = {
        str(name): value.item()
        for name, value in cell.coords.items()
        if value.ndim == 0 and name != "condition"
    }
    number = {name: _plain(cell[name]) for name in ("itc", "itc_standard_error", "itc_lower", "itc_upper")}
    return {
        "calculation": calculation,
        "labels": dict(labels),
        "units": cell["itc"].attrs["units"],
        **number,
        "n": int(cell["n"]),
        "n_seeds": int(cell["n_seeds"]),
        "n_excluded": int(cell["n_excluded"]),
        "n_missing": int(cell["n_missing"]),
    }


def _plain(value: Any) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def flag_counts(dataset: Any) -> dict[str, Any]:
    """Count done runs, those with a flag, and how often each flag is raised."""
    if "flags" not in dataset:
        return {"done": 0, "flagged": 0, "flags": {}}
    done = dataset["flags"].values[dataset["state"].values == "done"]
    found = [[name for name in str(text).split(", ") if name] for text in done]
    names = Counter(name for raised in found for name in raised)
    return {"done": len(found), "flagged": sum(map(bool, found)), "flags": dict(names.most_common())}


def flags_line(flagged: Mapping[str, Any]) -> str:
    """``4 of 4 runs are flagged: stacking_kept (4); see the report``, or that none is."""
    if not flagged["flagged"]:
        return f"none of {plural(flagged['done'], 'run')} is flagged"
    names = ", ".join(f"{name} ({number:,})" for name, number in flagged["flags"].items())
    verb = "is" if flagged["flagged"] == 1 else "are"
    return (
        f"{flagged['flagged']:,} of {plural(flagged['done'], 'run')} {verb} flagged: {names}; see the report"
    )


def excluded_line(dataset: Any) -> str | None:
    """``2 runs are left out of all means, such as RUN: reason``; None where none is."""
    if "invalid_reason" not in dataset:
        return None
    done = dataset["state"].values == "done"
    reasons, runs = (dataset[name].values[done] for name in ("invalid_reason", "run_id"))
    excluded = [(run, reason) for run, reason in zip(runs, reasons, strict=True) if reason]
    if not excluded:
        return None
    run, reason = excluded[0]
    count = f"{plural(len(excluded), 'run')} {'is' if len(excluded) == 1 else 'are'} left out of all means"
    return f"{count}, {'namely' if len(excluded) == 1 else 'such as'} {run}: {reason}"


def print_results(console: Console, calculation: str, conditions: list[dict[str, Any]]) -> None:
    """Print the conductance of each condition of a calculation: a table, or a list where none fits."""
    every = {
        name: {label_text(row["labels"].get(name, "")) for row in conditions}
        for row in conditions
        for name in row["labels"]
    }
    common = {name: next(iter(values)) for name, values in every.items() if len(values) == 1}
    title = f"Interfacial thermal conductance (ITC) of {calculation} in {conditions[0]['units']}"
    shared = ", ".join(f"{name}={value}" for name, value in common.items())
    console.print(folded(title + (f"; {shared}" if shared else ""), console.width, "  "), markup=False)
    names = [name for name in every if name not in common]
    cells = [_cells_of(row) for row in conditions]
    columns = [name for name in cells[0] if any(cell[name] not in {"", "0"} for cell in cells)]
    rows = [
        {name: label_text(row["labels"].get(name, "")) for name in names} | cell
        for row, cell in zip(conditions, cells, strict=True)
    ]
    table = make_table(rows, [*names, *columns], len(names))
    if fits(console, table):
        console.print(table)
    else:
        for row in rows:
            labels = ", ".join(f"{name}={row[name]}" for name in names)
            values = ", ".join(f"{name.partition(' ±')[0]} {row[name]}" for name in columns if row[name])
            console.print(folded(f"{labels}: {values}", console.width, "  "), markup=False)
    unresolved = any(cell["ITC ± standard error"] == NOT_RESOLVED for cell in cells)
    for caption in (CAPTION, UNRESOLVED_CAPTION) if unresolved else (CAPTION,):
        console.print(folded(caption, console.width), markup=False, style="dim")


def _cells_of(row: Mapping[str, Any]) -> dict[str, str]:
    itc, error, lower, upper = (row[name] for name in ("itc", "itc_standard_error", "itc_lower", "itc_upper"))
    interval = ""
    if not row["n"]:
        value = "-"
    elif row["n_seeds"] < RESOLVED_RUNS or None in {itc, error, lower, upper}:
        value = NOT_RESOLVED
    else:
        value = with_error(itc, error)
        interval = f"{with_error(lower, error).split()[0]} to {with_error(upper, error).split()[0]}"
    return {
        "ITC ± standard error": value,
        "95 % interval": interval,
        "runs": str(row["n"]),
        "left out": str(row["n_excluded"]),
        "missing": str(row["n_missing"]),
    }
