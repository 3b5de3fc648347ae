"""The labelled view: the right number in the right cell, lazily, and a state and a reason everywhere else."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import campaign
from campaign.errors import LedgerError, StoreError
from campaign.layout import Layout
from campaign.plan import Plan
from campaign.results import Campaign
from campaign.store import Store, Table
from tests.synthetic import SNAPSHOT, commit_result, make_campaign, nemd_result, plan_spec, row

SWEEP = """
    axes:
      direction: [forward, backward]
      seed: {count: 3}
    zip:
      - temperature_K: [200, 300]
        bath_offset_K: [60, 80]
"""


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(7)


def results_of(plan: Plan, random: np.random.Generator, **more: Any) -> dict[str, xr.Dataset]:
    return {
        run.id: nemd_result(random, direction=str(run.labels["direction"]), **more)
        if "direction" in run.labels
        else nemd_result(random, **more)
        for run in plan.runs
    }


def eager(plan: Plan, results: Mapping[str, xr.Dataset], name: str) -> dict[tuple[int, ...], float]:
    return {run.cell: float(results[run.id][name]) for run in plan.runs if run.id in results}


@pytest.mark.parametrize("in_store", [0, 5, 12])
def test_view_equals_eager_construction(tmp_path: Path, random: np.random.Generator, in_store: int) -> None:
    plan = plan_spec(tmp_path, SWEEP)
    results = results_of(plan, random)
    del results["nemd/direction=backward,seed=2,temperature=200,bath_offset=60"]
    order = sorted(results, key=lambda run_id: results[run_id]["itc"].item())  # not the order of the plan
    make_campaign(tmp_path, plan, results, stored=order[:in_store])
    dataset = campaign.open(tmp_path).results["nemd"].ds
    assert dict(dataset["itc"].sizes) == {d.name: d.size for d in plan.calculations[0].dimensions}
    for run in plan.runs:
        cell = dataset.isel(dict(zip(dataset["itc"].dims, run.cell, strict=True)))
        for name, label in run.labels.items():
            assert cell[name].item() == label
        if run.id in results:
            for variable, wanted in results[run.id].data_vars.items():
                np.testing.assert_array_equal(cell[variable].values, wanted.values, err_msg=str(variable))
        else:
            assert np.isnan(cell["itc"].item())
            assert np.isnan(cell["layer_temperature"].values).all()
            assert cell["flags"].item() == ""


def test_zipped_axes_are_one_dimension_with_two_coordinates(
    tmp_path: Path, random: np.random.Generator
) -> None:
    plan = plan_spec(tmp_path, SWEEP)
    make_campaign(tmp_path, plan, results_of(plan, random))
    dataset = campaign.open(tmp_path).results["nemd"].ds
    assert dataset["temperature"].dims == dataset["bath_offset"].dims
    assert dataset["temperature"].values.tolist() == [200, 300]
    assert dataset["bath_offset"].values.tolist() == [60, 80]
    assert dataset["temperature"].attrs["units"] == "K"
    assert dataset["pair"].item() == "graphene/hbn"
    assert dataset["itc"].attrs["units"] == "MW m^-2 K^-1"


@pytest.mark.parametrize(
    "key",
    [
        {"seed": 1},
        {"seed": [2, 0]},
        {"direction": 1, "seed": slice(None, None, -1)},
        {"seed": xr.DataArray([0, 2], dims="pick"), "direction": xr.DataArray([1, 0], dims="pick")},
        {"layer": [8, 0], "seed": 2},
        {"layer": slice(2, 5), "direction": [1]},
    ],
)
def test_indexing_lazily_equals_indexing_in_memory(
    tmp_path: Path, random: np.random.Generator, key: dict[str, Any]
) -> None:
    plan = plan_spec(tmp_path)
    results = results_of(plan, random)
    results.pop("nemd/direction=forward,seed=3")
    make_campaign(tmp_path, plan, results, stored=list(results)[2:])
    whole = campaign.open(tmp_path).results["nemd"].to_dataset().load()
    names = ["layer_temperature"] if "layer" in key else ["itc", "layer_temperature", "flags"]
    lazy = campaign.open(tmp_path).results["nemd"].ds[names].isel(key)
    xr.testing.assert_identical(lazy.load(), whole[names].isel(key))


def test_reading_one_cell_reads_one_row(
    tmp_path: Path, random: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_spec(tmp_path)
    make_campaign(tmp_path, plan, results_of(plan, random))
    reads: list[tuple[str, int]] = []
    read: Callable[..., Any] = Table.read

    def counted(self: Table, name: str, rows: np.ndarray[Any, Any]) -> Any:
        reads.append((name, rows.size))
        return read(self, name, rows)

    monkeypatch.setattr(Table, "read", counted)
    dataset = campaign.open(tmp_path).results["nemd"].ds
    assert {name for name, _ in reads} <= {"stage_id", "valid", "invalid_reason"}
    reads.clear()
    assert dataset["layer_temperature"].sel(direction="forward", seed=2).values.shape == (9,)
    assert reads == [("layer_temperature", 1)]


def test_every_cell_has_a_state_and_a_reason(tmp_path: Path, random: np.random.Generator) -> None:
    axes = """
    axes:
      direction: [forward, backward]
      seed: {count: 3}
    exclude:
      - {direction: backward, seed: 3}
"""
    plan = plan_spec(tmp_path, axes)
    runs = {run.id.removeprefix("nemd/"): run for run in plan.runs}
    good, bad, running, failed, waiting = list(runs.values())
    results = {
        good.id: nemd_result(random),
        bad.id: nemd_result(random, invalid_reason="source and sink differ by 3 eV/ps"),
    }
    status: dict[str, Any] = {
        "driver": {"state": "running", "host": "another"},
        "updated": datetime.now(UTC).isoformat(),
        "counts": {"nemd": {"done": 2, "running": 1, "failed": 1, "pending": 1, "total": 5}},
        "running": {running.stages[2]: {"kind": "produce", "steps_done": 400, "steps_total": 16000}},
        "failed": {failed.stages[2]: {"class": "physics", "message": "lost atoms"}},
    }
    layout = make_campaign(tmp_path, plan, results, status=status)
    opened = campaign.open(tmp_path)
    dataset = opened.results["nemd"].ds
    assert dataset["state"].values.tolist() == [["done", "done", "running"], ["failed", "pending", ""]]
    assert dataset["reason"].values.tolist() == [
        ["", "source and sink differ by 3 eV/ps", "produce is running, step 400 of 16000"],
        ["physics: lost atoms", "is not done yet", ""],
    ]
    assert dataset["valid"].values.tolist() == [[True, False, False], [False, False, False]]
    assert dataset["run_id"].values[0, 0] == good.id
    assert dataset["stage_id"].values[1, 1] == waiting.result_stage
    mean = dataset.campaign.mean("seed")
    assert mean["n"].values.tolist() == [1, 0]
    assert mean["n_excluded"].values.tolist() == [1, 0]
    assert mean["n_missing"].values.tolist() == [1, 2]
    assert "2 done, 1 running, 1 failed, 1 pending" in repr(opened)
    assert "<td>nemd</td>" in opened._repr_html_()

    status["updated"] = (datetime.now(UTC) - timedelta(hours=1)).isoformat()  # it was killed
    layout.status.write_text(json.dumps(SNAPSHOT | status))
    os.utime(layout.status, ns=(1, 1))
    assert opened.results["nemd"].ds["state"].values[0, 2] == "pending"


def test_before_anything_is_done(tmp_path: Path) -> None:
    plan = plan_spec(tmp_path)
    make_campaign(tmp_path, plan, {})
    opened = campaign.open(tmp_path)
    dataset = opened.results["nemd"].ds
    assert opened.status == {}
    assert set(dataset["state"].values.ravel()) == {"pending"}
    assert dataset["itc"].dims == ("direction", "seed")
    assert dataset["itc"].attrs["units"] == "MW m^-2 K^-1"
    assert dataset["itc"].isnull().all()
    assert dataset.campaign.mean("seed")["n"].values.tolist() == [0, 0]
    assert "not started" in repr(opened)


def test_results_follow_a_running_campaign(tmp_path: Path, random: np.random.Generator) -> None:
    plan = plan_spec(tmp_path)
    first, second, *_ = plan.runs
    layout = make_campaign(tmp_path, plan, {first.id: nemd_result(random)}, status={})
    opened = campaign.open(tmp_path)
    before = opened.results
    assert opened.results is before
    assert int((before["nemd"].ds["state"] == "done").sum()) == 1
    commit_result(layout, second.result_stage, nemd_result(random))
    os.utime(layout.status, ns=(1, 1))
    assert int((opened.results["nemd"].ds["state"] == "done").sum()) == 2
    tail = opened.results["nemd"].ds["itc"].values
    store = Store.open(layout.store, campaign="synthetic")
    store.append("nemd", [row(layout, second)])
    store.flush()
    os.utime(layout.status, ns=(2, 2))
    np.testing.assert_array_equal(opened.results["nemd"].ds["itc"].values, tail)
    # what was opened before still reads what it showed
    assert int(np.isfinite(before["nemd"].ds["itc"].values).sum()) == 1


def test_runs_that_share_a_stage_share_its_row(tmp_path: Path, random: np.random.Generator) -> None:
    axes = """
    axes:
      seed: {count: 2}
      model:
        - {label: one, set: {temperature_K: 300}}
        - {label: same, set: {temperature_K: 300.0}}
"""
    plan = plan_spec(tmp_path, axes)
    by_stage = {run.result_stage: run for run in plan.runs}
    assert len(by_stage) == 2
    make_campaign(tmp_path, plan, {run.id: nemd_result(random) for run in by_stage.values()})
    itc = campaign.open(tmp_path).results["nemd"].ds["itc"]
    np.testing.assert_array_equal(itc.sel(model="one"), itc.sel(model="same"))
    assert itc.notnull().all()


def test_sparse_grid_stays_flat(tmp_path: Path, random: np.random.Generator) -> None:
    axes = """
    axes:
      seed: [1]
      temperature_K: [100]
      bath_offset_K: [20]
    include:
""" + "".join(
        f"      - {{seed: {n}, temperature_K: {100 * n}, bath_offset_K: {20 * n}}}\n" for n in range(2, 8)
    )
    plan = plan_spec(tmp_path, axes)
    make_campaign(tmp_path, plan, results_of(plan, random))
    dataset = campaign.open(tmp_path).results["nemd"].ds
    assert dataset["itc"].dims == ("run",)
    assert dataset["temperature"].dims == ("run",)
    assert dataset["temperature"].values.tolist() == [100 * n for n in range(1, 8)]
    assert dataset["temperature"].attrs["units"] == "K"
    assert dataset["itc"].notnull().all()


def test_layers_that_differ_between_runs_are_padded(tmp_path: Path, random: np.random.Generator) -> None:
    axes = """
    axes:
      structure.lower.layers: [5, 7]
      seed: {count: 2}
"""
    plan = plan_spec(tmp_path, axes)
    results = {run.id: nemd_result(random, n_lower=int(run.labels["layers"])) for run in plan.runs}
    make_campaign(tmp_path, plan, results, stored=list(results)[:1])
    profile = campaign.open(tmp_path).results["nemd"].ds["layer_temperature"]
    assert profile.sizes == {"layers": 2, "seed": 2, "layer": 11}
    assert profile.sel(layers=5).isnull().sum("layer").values.tolist() == [2, 2]
    assert profile.sel(layers=7).notnull().all()


def test_axis_with_the_name_of_a_variable(tmp_path: Path, random: np.random.Generator) -> None:
    axes = """
    axes:
      area:
        - {label: small, set: {structure.upper.cells: [5, 3], structure.lower.cells: [5, 3]}}
        - {label: large, set: {structure.upper.cells: [10, 6], structure.lower.cells: [10, 6]}}
      seed: {count: 2}
"""
    plan = plan_spec(tmp_path, axes)
    results = results_of(plan, random)
    for finished in ({}, dict(list(results.items())[:2]), results):
        root = tmp_path / str(len(finished))
        plan = plan_spec(root, axes)
        make_campaign(root, plan, finished)
        dataset = campaign.open(root).results["nemd"].ds
        assert dataset["area"].dims == ("area_label", "seed")
        assert dataset["area_label"].values.tolist() == ["small", "large"]


def test_attributes_say_where_it_comes_from(tmp_path: Path, random: np.random.Generator) -> None:
    plan = plan_spec(tmp_path)
    make_campaign(tmp_path, plan, results_of(plan, random))
    opened = campaign.open(tmp_path)
    assert isinstance(opened, Campaign)
    assert opened.results.dims == {}
    attrs = opened.results["nemd"].ds.attrs
    assert attrs["ratio"].startswith("itc:")
    assert attrs["spec_sha256"] == plan.spec_sha256
    assert {"campaign", "protocol", "engine", "campaign_version", "created"} <= attrs.keys()
    assert opened.description == "A demonstration at 100 K, good to 25 %."
    assert opened.name == "synthetic"


def test_read_only_directory_is_enough(tmp_path: Path, random: np.random.Generator) -> None:
    plan = plan_spec(tmp_path)
    results = results_of(plan, random)
    make_campaign(tmp_path, plan, results, stored=list(results)[:4])
    before = {path: path.stat().st_mtime_ns for path in (tmp_path, *tmp_path.rglob("*"))}
    assert campaign.open(tmp_path).results["nemd"].ds["itc"].notnull().all()
    # root may write anywhere, so permissions would prove nothing: times of files and directories do
    assert {path: path.stat().st_mtime_ns for path in (tmp_path, *tmp_path.rglob("*"))} == before


def test_what_is_no_campaign_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="no campaign"):
        campaign.open(tmp_path)


def test_damaged_stage_is_named(tmp_path: Path, random: np.random.Generator) -> None:
    plan = plan_spec(tmp_path)
    results = results_of(plan, random)
    layout = make_campaign(tmp_path, plan, results, stored=list(results)[1:])
    run = next(iter(plan.runs))
    (Layout(tmp_path).stage(run.result_stage) / "result.nc").write_bytes(b"CDF\x02 nothing")
    with pytest.raises(StoreError, match=run.result_stage):
        _ = campaign.open(layout.root).results


def test_importing_campaign_is_light() -> None:
    code = "import sys, campaign; print(campaign.__version__, *sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"xarray", "numpy", "zarr", "pydantic"}.isdisjoint(loaded.stdout.split())
