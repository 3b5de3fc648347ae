"""Gates and flags of NEMD: each sees its fault, and only gates exclude."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from campaign.protocols.base import Check, Severity
from campaign.protocols.nemd_checks import CHECKS, make_check
from campaign.protocols.nemd_geometry import REGISTRIES
from campaign.protocols.nemd_variables import VARIABLES
from campaign.structures.materials import MATERIALS
from campaign.structures.sites import stackings
from tests.nemd_cases import PROTOCOL, build, failed, reduced, small, synthetic


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("build"))


def test_drift_between_halves_is_seen_and_only_flagged(built: Path, tmp_path: Path) -> None:
    series = synthetic(built, small())
    series["layer_temperature"].values[series["time"].values > 10.0, 5] += 10.0
    result = reduced(built, series, small(), tmp_path)
    change = result["temperature_jump_second_half"] - result["temperature_jump_first_half"]
    assert change.item() == pytest.approx(10, abs=1)
    assert "jump_steady" in failed(result, Severity.FLAG)
    assert result["valid"].item()
    assert "jump_steady" in result["flags"].item()


Fault = Callable[[xr.Dataset], object]


def _fault(name: str, change: Callable[[xr.DataArray], xr.DataArray]) -> Fault:
    def apply(series: xr.Dataset) -> None:
        series[name] = change(series[name])

    return apply


def _swap_layers(series: xr.Dataset) -> None:
    z = series["final_position"].values[:, 2]
    layer = series["layer"].values
    lower, upper = z[layer == 6].mean(), z[layer == 7].mean()
    z[layer == 6] += upper - lower
    z[layer == 7] -= upper - lower


def _tear_off(series: xr.Dataset) -> None:
    series["final_position"].values[-1, 2] += 3.0


def _squeeze(series: xr.Dataset) -> None:
    positions, layer = series["final_position"].values, series["layer"].values
    first = np.flatnonzero(layer == 6)
    near = first[np.argsort(np.linalg.norm(positions[first] - positions[first[0]], axis=1))[1]]
    positions[near] = positions[first[0]] + [0.0, 0.0, 0.9]


def _heat(layer: int, kelvin: float) -> Fault:
    def apply(series: xr.Dataset) -> None:
        series["layer_temperature"].values[:, layer] += kelvin

    return apply


def _nan(series: xr.Dataset) -> None:
    series["layer_temperature"].values[200, 3] = np.nan


def _unbalance(series: xr.Dataset) -> None:
    # the source gives 0.6 eV/ps more, which the hot side stores: the account is closed, the flow not steady
    extra = 0.6 * series["time"]
    for name in ("source_energy", "upper_energy", "total_energy"):
        series[name] = series[name] + extra


@pytest.mark.parametrize(
    ("fault", "gates"),
    [
        (_nan, {"finite"}),
        (_fault("atoms_final", lambda n: n - 1), {"atoms"}),
        (_fault("dangerous_builds", lambda n: n + 2), {"neighbours"}),
        (_swap_layers, {"layer_order"}),
        (_tear_off, {"bond_long"}),
        (_squeeze, {"bond_short", "bond_long"}),
        (_fault("total_energy", lambda e: e + 0.02 * e["time"]), {"closure"}),
        (_unbalance, {"balance"}),
        (_heat(8, 20.0), {"source"}),
        (_heat(1, -20.0), {"sink"}),
    ],
)
def test_each_gate_sees_its_fault(built: Path, tmp_path: Path, fault: Fault, gates: set[str]) -> None:
    series = synthetic(built, small())
    fault(series)
    result = reduced(built, series, small(), tmp_path)
    computed = {
        check.name
        for check in PROTOCOL.checks(result)
        if check.severity is Severity.GATE and not check.passed and np.isfinite(check.value)
    }
    assert computed == gates
    assert not result["valid"].item()
    assert result["invalid_reason"].item()
    assert set(result.data_vars) == set(VARIABLES)
    if "finite" in gates:
        assert np.isnan(result["itc"].item())
    else:
        assert np.isfinite(result["itc"].item())  # the data are kept


def test_window_that_ends_early_is_a_gate(built: Path, tmp_path: Path) -> None:
    series = synthetic(built, small())
    result = reduced(built, series.isel(time=slice(0, 250)), small(), tmp_path)
    assert failed(result, Severity.GATE) == {"window"}
    assert np.isfinite(result["itc"].item())
    for count in (85, 10):
        result = reduced(built, series.isel(time=slice(0, count)), small(), tmp_path)
        assert not result["valid"].item()
        assert result["invalid_reason"].item() == f"{320 - count} samples of the heat flow are missing"
        assert np.isnan(result["itc"].item())


def test_run_without_bias_is_valid_and_has_no_flow(built: Path, tmp_path: Path) -> None:
    settings = small(bath_offset_K=0.0)
    series = synthetic(built, settings, flow=0.0, stored=0.0, jump=0.0, noise_K=5.0)
    rng = np.random.default_rng(3)
    walk = np.cumsum(0.05 * rng.standard_normal(series.sizes["time"]))
    series["source_energy"] = series["source_energy"] + walk
    series["upper_energy"] = series["upper_energy"] + walk
    series["total_energy"] = series["total_energy"] + walk + 1e-3
    series["layer_temperature"] = 300 + 5 * xr.DataArray(
        rng.standard_normal((320, 9)), dims=("time", "layer")
    )
    result = reduced(built, series, settings, tmp_path)
    assert result["valid"].item(), result["invalid_reason"].item()
    assert abs(result["heat_flow"].item()) < 3 * result["heat_flow_standard_error"].item()
    assert abs(result["temperature_jump"].item()) < 3 * result["temperature_jump_standard_error"].item()
    assert "jump_resolved" in result["flags"].item()


def test_flags_never_exclude(built: Path, tmp_path: Path) -> None:
    series = synthetic(built, small(), jump=1.0, noise_K=20.0)
    atoms_of_graphene = series["layer"].values >= 5
    # slide graphene by a third of the cell's period along y: another registry
    series["final_position"].values[atoms_of_graphene, 1] += 1.44
    result = reduced(built, series, small(), tmp_path)
    flags = failed(result, Severity.FLAG)
    assert {"jump_resolved", "conductance_resolved", "stacking_kept"} <= flags
    assert result["final_stacking"].item() != "ABp"
    assert result["valid"].item(), result["invalid_reason"].item()


def test_bent_profile_and_leak_across_the_interface_are_flagged(built: Path, tmp_path: Path) -> None:
    settings = small(structure=small().structure, frozen_layers=1, thermostat_layers=1)
    series = synthetic(built, settings)
    # one thermostat layer: layers 2, 3, 4 and 5, 6, 7 are free
    series["layer_temperature"].values[:, 6] += 10.0
    series["upper_energy"] = series["upper_energy"] + 0.02 * series["time"]
    flags = failed(reduced(built, series, settings, tmp_path), Severity.FLAG)
    assert {"profile_linear", "interface_forms"} <= flags


def test_checks_have_reasons_and_units(built: Path, tmp_path: Path) -> None:
    result = reduced(built, synthetic(built, small()), small(), tmp_path)
    checks = PROTOCOL.checks(result)
    assert {check.name for check in checks} == set(CHECKS)
    assert all(isinstance(check, Check) and check.units for check in checks)
    assert [check.passed for check in checks] == list(result["check_passed"].values)
    for name, kind in CHECKS.items():
        assert kind.sentence.format(value=1.0, limit=2.0), name
    assert set(stackings(MATERIALS["hbn"], MATERIALS["graphene"])) == set(REGISTRIES)


def test_what_cannot_be_computed_passes_nothing_and_raises_nothing() -> None:
    check = make_check("stacking_kept", math.nan, 0.5)
    assert (check.passed, check.raised) == (False, False)
    assert make_check("stacking_kept", 0.0, 0.5).raised
