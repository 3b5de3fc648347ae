"""Write ``study.csv``: one row for each finished run of NEMD campaigns, as the notebook beside this reads it.

Run ``python notebooks/study_table.py notebooks/study.csv campaigns/study campaigns/small`` after
``campaign run specs/study.yaml`` and ``campaign run specs/small.yaml``, which take hours.
"""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import campaign


def rows(directory: Path) -> Iterator[dict[str, Any]]:
    """Give settings and results of the finished runs of one campaign."""
    opened = campaign.open(directory)
    for name, node in opened.results.children.items():
        plan, results = opened.plan.calculation(name), node.ds.load()
        for run in plan.runs:
            indices = {dim.name: i for dim, i in zip(plan.dimensions, run.cell, strict=True)}
            result = results.isel(indices)
            if result["state"].item() != "done":
                continue
            settings = plan.settings_of(run)
            layers = settings["structure.lower.layers"] + settings["structure.upper.layers"]
            yield {
                "campaign": opened.plan.campaign,
                "calculation": name,
                "layers": layers,
                "atoms_per_layer": round(result["number_of_atoms"].item() / layers),
                "preheat_fraction": settings["preheat_fraction"],
                "bias_K": 2.0 * settings["bath_offset_K"],
                "direction": settings["direction"],
                "seed": run.labels["seed"],
                "build_up_ps": settings["build_up_ps"],
                "production_ps": settings["production_ps"],
                "area_nm2": round(result["area"].item(), 4),
                "heat_flow_eV_per_ps": round(result["heat_flow"].item(), 5),
                "temperature_jump_K": round(result["temperature_jump"].item(), 3),
                "valid": bool(result["valid"].item()),
                "last_bin_ps": round(float(result["bin_time"].values[-1]), 3),
                **{
                    f"jump_{number:02d}_K": round(float(jump), 2)
                    for number, jump in enumerate(result["binned_temperature_jump"].values, start=1)
                },
            }


def main() -> None:
    """Read the campaigns and write the table."""
    target, *directories = map(Path, sys.argv[1:])
    table = [row for directory in directories for row in rows(directory)]
    with target.open("w", newline="") as file:
        writer = csv.DictWriter(file, table[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
    sys.stdout.write(f"{target}: {len(table)} runs\n")


if __name__ == "__main__":
    main()
