"""Statistics across runs: what counts, which estimator, and that holes are said, not filled."""

import math
from typing import Any

import numpy as np
import pytest
import scipy.stats
import xarray as xr
from numpy.typing import NDArray

from campaign.analysis import (
    PUBLISHED_ITC,
    compare_with_published,
    convergence,
    ensemble_checks,
    ensemble_mean,
    rectification,
)
from campaign.analysis import runs as runs_module
from campaign.errors import StoreError
from campaign.physics.statistics import ratio_of_means
from tests.reference import REFERENCE, needs_reference

DIMS = ("potential", "direction", "seed")


def ensemble(n: int = 8, seed: int = 1, **changes: Any) -> xr.Dataset:
    """NEMD-like results with known truth: 250 MW m^-2 K^-1, jumps of 30 +- 6 K, an area of 7 nm^2."""
    rng = np.random.default_rng(seed)
    shape = (2, 2, n)
    jump = 30 + 6 * rng.normal(size=shape)
    power = 250 * 7 * 30 * (1 + 0.03 * rng.normal(size=shape))
    flow = 0.3 * power / power.mean()

    def half() -> NDArray[np.float64]:
        return np.asarray(flow * (1 + 0.05 * rng.normal(size=shape)))

    variables: dict[str, tuple[Any, str]] = {
        "itc": (power / (7 * jump), "MW m^-2 K^-1"),
        "itc_standard_error": (np.full(shape, 20.0), "MW m^-2 K^-1"),
        "transmitted_power": (power, "pW"),
        "area_temperature_jump": (7 * jump, "nm^2 K"),
        "temperature_jump": (jump, "K"),
        "temperature_jump_standard_error": (np.full(shape, 2.0), "K"),
        "heat_flow": (flow, "eV/ps"),
        "heat_flow_first_half": (half(), "eV/ps"),
        "heat_flow_second_half": (half(), "eV/ps"),
        "storage_rate": (0.002 * rng.normal(size=shape), "eV/ps"),
        "window": (np.full(shape, 12.0), "ps"),
        "number_of_atoms": (np.full(shape, 540), "1"),
        "valid": (np.ones(shape, dtype=bool), ""),
        "state": (np.full(shape, "done", dtype="<U8"), ""),
    }
    data = xr.Dataset({name: (DIMS, values, {"units": units}) for name, (values, units) in variables.items()})
    profile = jump[..., None] * np.linspace(-1, 1, 5) + 300
    data["layer_temperature"] = (*DIMS, "layer"), profile, {"units": "K", "long_name": "layer temperature"}
    data["strain"] = (), 0.01, {"units": "1"}
    data["final_stacking"] = DIMS, np.full(shape, "AB")
    data = data.assign_coords(
        potential=["tersoff-lj", "tersoff-ilp"],
        direction=["forward", "backward"],
        seed=np.arange(1, n + 1),
        layer=np.arange(5),
        run_id=(DIMS, np.arange(4 * n).reshape(shape).astype(str)),
    )
    data.attrs["ratio"] = "itc:transmitted_power:area_temperature_jump"
    return data.assign(**changes)


def flat(data: xr.Dataset) -> xr.Dataset:
    """Arrange the same runs along one dimension ``run``, axes as coordinates, in another order."""
    stacked = data.stack(run=("seed", "potential", "direction")).reset_index("run")
    return stacked.isel(run=np.random.default_rng(0).permutation(stacked.sizes["run"]))


def test_conductance_is_the_ratio_of_means() -> None:
    data = ensemble()
    mean = data.campaign.mean("seed")
    cell = data.isel(potential=1, direction=0)
    expected = ratio_of_means(cell["transmitted_power"].values, cell["area_temperature_jump"].values)
    found = mean.isel(potential=1, direction=0)
    for name, value in {
        "itc": expected.value,
        "itc_standard_error": expected.standard_error,
        "itc_lower": expected.lower,
        "itc_upper": expected.upper,
        "itc_mean_of_runs": cell["itc"].values.mean(),
        "itc_standard_deviation_of_runs": cell["itc"].values.std(ddof=1),
    }.items():
        assert float(found[name]) == pytest.approx(value), name
        assert mean[name].attrs["units"] == "MW m^-2 K^-1"
        assert mean[name].attrs["uncertainty"]
    assert mean["itc"].dims == ("potential", "direction")
    assert set(mean["itc"].attrs["ancillary_variables"].split()) <= set(mean.variables)


def test_the_ratio_is_unbiased_where_the_mean_of_runs_is_not() -> None:
    mean = ensemble(n=4000).campaign.mean("seed")
    assert mean["itc"].values == pytest.approx(np.full((2, 2), 250), rel=0.015)
    assert (mean["itc_mean_of_runs"].values > 257).all()


def test_units_of_numerator_and_denominator_are_found_from_the_runs() -> None:
    data = ensemble()
    other = data.assign(
        heat_flux=data["transmitted_power"] / 1e3, temperature_kilokelvin=data["temperature_jump"] / 1e3
    )
    other.attrs["ratio"] = "itc:heat_flux:temperature_kilokelvin"
    assert other.campaign.mean("seed")["itc"].values == pytest.approx(
        data.campaign.mean("seed")["itc"].values
    )
    other.attrs["ratio"] = "itc:heat_flow:storage_rate"
    with pytest.raises(StoreError, match="not proportional"):
        other.campaign.mean("seed")


def test_other_forms_of_the_conductance_are_ratios_of_means_too() -> None:
    data = ensemble(n=4000)
    jump = data["temperature_jump"]
    data = data.assign(
        itc_interface=data["itc"] * 0.99,
        interface_heat_flow=data["heat_flow"] * 0.99,
        heat_flux=data["transmitted_power"] / 7,
        temperature_jump_extrapolated=jump - 2,
        itc_extrapolated=data["transmitted_power"] / 7 / (jump - 2),
    )
    mean = data.campaign.mean("seed")
    assert mean["itc_interface"].values == pytest.approx(0.99 * mean["itc"].values)
    assert mean["itc_extrapolated"].values == pytest.approx(np.full((2, 2), 250 * 30 / 28), rel=0.015)
    assert (mean["itc_extrapolated_mean_of_runs"] > mean["itc_extrapolated"]).all()


def test_mean_and_errors_of_everything_else() -> None:
    data = ensemble()
    mean = data.campaign.mean("seed")
    for name in ("heat_flow", "layer_temperature", "number_of_atoms"):
        axis = data[name].dims.index("seed")
        values = data[name].values.astype(float)
        assert mean[name].values == pytest.approx(values.mean(axis=axis))
        assert mean[f"{name}_standard_deviation"].values == pytest.approx(values.std(axis=axis, ddof=1))
        assert mean[f"{name}_standard_error"].values == pytest.approx(
            values.std(axis=axis, ddof=1) / math.sqrt(8)
        )
        assert mean[name].attrs["units"] == data[name].attrs["units"]
        assert set(mean[name].attrs["ancillary_variables"].split()) <= set(mean.variables)
    assert mean["layer_temperature"].dims == ("potential", "direction", "layer")
    assert float(mean["strain"]) == 0.01
    assert not {"final_stacking", "valid", "state", "run_id", "seed"} & set(mean.variables)


def test_several_dimensions_at_once() -> None:
    data = ensemble()
    mean = data.campaign.mean(("direction", "seed"))
    assert mean["itc"].dims == ("potential",)
    assert mean["n"].values.tolist() == [16, 16]
    swapped = data.campaign.mean(["seed", "direction"])
    assert mean["itc_standard_error"].values == pytest.approx(swapped["itc_standard_error"].values)
    assert data.campaign.mean(DIMS)["itc"].shape == ()


def test_runs_of_one_seed_are_one_observation() -> None:
    data = ensemble()
    data["state"][0, 1, 2] = "running"
    data["valid"][0, :, 5] = False
    together = data.campaign.mean(("direction", "seed")).isel(potential=0)
    valid = (data["valid"] & (data["state"] == "done")).values[0]
    power, jump = (
        np.where(valid, data[name].values[0], 0.0).sum(axis=0)
        for name in ("transmitted_power", "area_temperature_jump")
    )
    expected = ratio_of_means(power[jump > 0], jump[jump > 0])
    assert (together["n"], together["n_seeds"]) == (13, 7)
    for name, value in {
        "itc": expected.value,
        "itc_standard_error": expected.standard_error,
        "itc_lower": expected.lower,
    }.items():
        assert float(together[name]) == pytest.approx(value), name
    first = flat(data).isel(run=np.flatnonzero(flat(data)["potential"] == "tersoff-lj"))
    for same in (flat(data).campaign.mean(("direction", "seed")), first.campaign.mean("run")):
        cell = same.isel(condition=same["potential"] == "tersoff-lj") if "condition" in same.dims else same
        assert float(cell["itc_standard_error"].squeeze()) == pytest.approx(expected.standard_error)
        assert int(cell["n_seeds"].squeeze()) == 7
    steps = convergence(data.isel(potential=0), ("direction", "seed"))
    assert float(steps["itc_standard_error"][-1]) == pytest.approx(expected.standard_error)


def test_a_selection_of_variables_is_not_averaged_without_what_it_needs() -> None:
    data = ensemble()
    data.attrs["calculation"] = "nemd"
    with pytest.raises(ValueError, match="`valid`"):
        data[["itc", "heat_flow"]].campaign.mean("seed")
    with pytest.raises(ValueError, match="area_temperature_jump, transmitted_power is not here"):
        data[["itc", "state", "valid"]].campaign.mean("seed")
    assert "heat_flow" in data[["heat_flow", "state", "valid"]].campaign.mean("seed")


def test_excluded_and_missing_runs_are_counted_and_left_out() -> None:
    data = ensemble()
    # whatever a missing or invalid cell holds must not matter
    data["valid"][0, 0, :2] = False
    data["itc"][0, 0, :2] = 1e9
    data["area_temperature_jump"][0, 0, :2] = -1e9
    data["state"][0, 0, 2] = "failed"
    data["state"][0, 0, 3] = "pending"
    data["valid"][0, 0, 2:4] = False
    data["transmitted_power"][0, 0, 2:4] = np.nan
    data["state"][0, 0, 4] = ""  # the spec has no such run
    mean = data.campaign.mean("seed").isel(potential=0, direction=0)
    assert (int(mean["n"]), int(mean["n_excluded"]), int(mean["n_missing"])) == (3, 2, 2)
    cell = data.isel(potential=0, direction=0, seed=slice(5, None))
    expected = ratio_of_means(cell["transmitted_power"].values, cell["area_temperature_jump"].values)
    assert float(mean["itc"]) == pytest.approx(expected.value)
    assert float(mean["itc_standard_error"]) == pytest.approx(expected.standard_error)
    assert float(mean["heat_flow"]) == pytest.approx(cell["heat_flow"].values.mean())


def test_a_condition_without_runs_is_nan_and_one_run_has_no_error() -> None:
    data = ensemble()
    data["state"][0, 0, :] = "pending"
    data["state"][0, 1, 1:] = "pending"
    mean = data.campaign.mean("seed")
    assert np.isnan(mean["itc"].values[0, 0])
    assert np.isnan(mean["heat_flow"].values[0, 0])
    assert mean["itc"].values[0, 1] == pytest.approx(data["itc"].values[0, 1, 0])
    assert np.isnan(mean["itc_standard_error"].values[0, 1])
    assert np.isinf(mean["itc_upper"].values[0, 1])
    assert np.isnan(mean["heat_flow_standard_error"].values[0, 1])


def test_a_variable_that_some_runs_lack_has_its_own_n() -> None:
    data = ensemble()
    data["heat_flow"][1, 1, 0] = np.nan
    mean = data.campaign.mean("seed")
    assert mean["heat_flow_n"].values.tolist() == [[8, 8], [8, 7]]
    assert "storage_rate_n" not in mean
    assert np.isfinite(mean["heat_flow"].values).all()


def test_spread_between_runs_counts_and_is_compared_with_errors_within() -> None:
    mean = ensemble(n=400).campaign.mean("seed")
    # jumps scatter by 6 K between seeds, runs claim 2 K
    assert mean["temperature_jump_spread_over_error"].values == pytest.approx(np.full((2, 2), 3.0), rel=0.15)
    assert mean["temperature_jump_standard_error_within_runs"].values == pytest.approx(
        np.full((2, 2), 2 / 20)
    )
    assert mean["temperature_jump_standard_error"].values == pytest.approx(np.full((2, 2), 6 / 20), rel=0.15)
    assert mean["itc_standard_error_within_runs"].values == pytest.approx(np.full((2, 2), 1.0))


def test_flat_runs_and_the_grid_agree() -> None:
    data = ensemble()
    data["valid"][0, 0, 1] = False
    data["state"][1, 0, 2] = "running"
    grid = data.campaign.mean("seed")
    found = flat(data).campaign.mean("seed")
    labels = list(zip(found["potential"].values, found["direction"].values, strict=True))
    assert len(set(labels)) == found.sizes["condition"] == 4
    for index, (potential, direction) in enumerate(labels):
        for name in ("itc", "itc_standard_error", "itc_lower", "heat_flow", "n", "n_excluded", "n_missing"):
            expected = float(grid[name].sel(potential=potential, direction=direction))
            assert float(found[name][index]) == pytest.approx(expected), name
    together = flat(data).campaign.mean("run")
    assert float(together["itc"]) == pytest.approx(float(data.campaign.mean(DIMS)["itc"]))


def test_ragged_flat_conditions_have_no_padded_runs() -> None:
    rows = flat(ensemble())
    first = (rows["potential"] == "tersoff-lj") & (rows["direction"] == "forward")
    ragged = rows.isel(run=np.flatnonzero(~(first & (rows["seed"] > 3)).values))
    found = ragged.campaign.mean("seed")
    assert sorted(found["n"].values.tolist()) == [3, 8, 8, 8]
    assert found["n_missing"].values.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("dim", ["seed", ("potential", "direction"), DIMS])
def test_slabs_change_nothing(dim: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data = ensemble()
    data["valid"][0, 1, 3] = False
    whole = data.campaign.mean(dim)
    monkeypatch.setattr(runs_module, "_SLAB_VALUES", 24)
    xr.testing.assert_allclose(data.campaign.mean(dim), whole)


def test_unknown_axes_are_named() -> None:
    with pytest.raises(ValueError, match="no axis temperature"):
        ensemble().campaign.mean("temperature")
    with pytest.raises(ValueError, match="potential"):
        flat(ensemble()).campaign.mean("temperature")


def test_unequal_windows_are_weights() -> None:
    data = ensemble()
    window = np.where(np.arange(8) < 4, 12.0, 48.0) * np.ones((2, 2, 8))
    found = data.assign(window=(DIMS, window)).campaign.mean("seed").isel(potential=0, direction=0)
    power, jump = (data[n].values[0, 0] for n in ("transmitted_power", "area_temperature_jump"))
    expected = ratio_of_means(power, jump, weights=window[0, 0])
    assert float(found["itc"]) == pytest.approx(expected.value)
    assert float(found["itc_standard_error"]) == pytest.approx(expected.standard_error)


def test_a_steady_ensemble_passes_although_single_runs_drift() -> None:
    checks = ensemble_checks(ensemble(n=20))
    assert (checks["steady_state"] == "steady").all()
    assert (checks["additional_build_up"] == 0).all()
    assert (np.abs(checks["heat_flow_drift_z"]) < 4).all()


def test_a_common_drift_marks_the_condition_as_a_whole() -> None:
    data = ensemble(n=12)
    data["heat_flow_second_half"][0, 1] *= 0.8
    checks = ensemble_checks(data)
    assert checks["steady_state"].values.tolist() == [["steady", "not steady"], ["steady", "steady"]]
    assert float(checks["heat_flow_drift"][0, 1]) == pytest.approx(-0.06, abs=0.02)
    assert float(checks["heat_flow_drift_z"][0, 1]) < -4
    assert 0 < float(checks["additional_build_up"][0, 1]) < 12


def test_storage_counts_where_it_is_large_and_told_from_zero() -> None:
    data = ensemble(n=12)
    data["storage_rate"] += 0.01  # 3 % of the heat flow, many standard errors
    assert (ensemble_checks(data)["steady_state"] == "steady").all()
    data["storage_rate"] += 0.05
    checks = ensemble_checks(data)
    assert (checks["steady_state"] == "not steady").all()
    assert checks["storage_fraction"].values == pytest.approx(np.full((2, 2), 0.2), rel=0.1)


def test_few_runs_are_not_judged_by_chance() -> None:
    drifting = sum(
        int((ensemble_checks(ensemble(n=4, seed=seed))["steady_state"] == "not steady").sum())
        for seed in range(50)
    )
    assert drifting == 0  # a plain mean over error would mark one in 36 of these 200
    checks = ensemble_checks(ensemble(n=3))
    assert (checks["steady_state"] == "too few runs").all()
    assert np.isnan(checks["heat_flow_drift_z"]).all()
    assert np.isnan(rectification(ensemble(n=3))["z"]).all()


def test_convergence_ends_at_the_mean_of_all_runs() -> None:
    data = ensemble()
    data["valid"][1, 1, 2] = False
    found, mean = convergence(data), data.campaign.mean("seed")
    for name in ("itc", "itc_standard_error", "itc_lower", "itc_upper"):
        assert found[name].dims == ("potential", "direction", "number_of_runs")
        assert found[name].values[..., -1] == pytest.approx(mean[name].values)
    assert found["n"].values[1, 1].tolist() == [1, 2, 2, 3, 4, 5, 6, 7]
    with pytest.raises(ValueError, match="not a ratio"):
        convergence(data, result="heat_flow")


def test_convergence_of_many_runs_is_told_at_some_numbers_and_ends_at_all() -> None:
    data = ensemble(n=400)
    found, mean = convergence(data), data.campaign.mean("seed")
    counts = found["number_of_runs"].values
    assert counts[:50].tolist() == list(range(1, 51))
    assert counts[-1] == 400
    assert counts.size < 110
    assert (np.diff(counts) > 0).all()
    assert found["itc"].values[..., -1] == pytest.approx(mean["itc"].values)
    assert (found["n"].values == counts).all()


def test_rectification_compares_the_directions() -> None:
    data = ensemble(n=50)
    found = rectification(data)
    assert (np.abs(found["z"].values) < 4).all()
    data["transmitted_power"][:, 1] *= 1.5
    data["itc"][:, 1] *= 1.5
    found = rectification(data)
    assert (found["z"].values < -4).all()
    error = np.hypot(found["itc_forward_standard_error"].values, found["itc_backward_standard_error"].values)
    assert found["itc_difference_standard_error"].values == pytest.approx(error)
    assert found["itc_difference"].attrs["units"] == "MW m^-2 K^-1"
    with pytest.raises(ValueError, match="directions"):
        rectification(data.sel(direction=["forward"]))


def test_published_values_are_compared_by_standard_errors() -> None:
    error = PUBLISHED_ITC["tersoff-lj"].standard_error
    assert error == pytest.approx(4.14, abs=0.01)
    many = compare_with_published(230.0, 10.0, "tersoff-lj", n=10**6)
    assert many == pytest.approx(-20.7 / math.hypot(10, error), rel=1e-4)
    with pytest.raises(KeyError):
        compare_with_published(1.0, 1.0, "made-up", n=8)


def test_few_runs_make_a_large_ratio_less_improbable() -> None:
    assert math.isnan(compare_with_published(129.0, 23.0, "tersoff-lj", n=3))
    plain = (129.0 - 250.7) / math.hypot(23.0, PUBLISHED_ITC["tersoff-lj"].standard_error)
    z = compare_with_published(129.0, 23.0, "tersoff-lj", n=4)
    assert plain < -5
    assert math.erfc(-z / math.sqrt(2)) == pytest.approx(2 * scipy.stats.t.sf(-plain, 3))


@needs_reference
@pytest.mark.parametrize(("file", "potential"), [("nep", "nep-gr-hbn"), ("tersoff-lj", "tersoff-lj")])
def test_authors_runs_give_table_one(file: str, potential: str) -> None:
    runs = np.loadtxt(REFERENCE / "itc" / f"{file}.dat")[:, 1]
    mean = ensemble_mean(xr.Dataset({"itc": ("seed", runs)}), "seed")
    published = PUBLISHED_ITC[potential]
    assert round(float(mean["itc"]), 1) == published.mean
    assert round(float(mean["itc_standard_deviation"]), 1) == published.standard_deviation
    assert int(mean["n"]) == published.n
    assert float(mean["itc_standard_error"]) == pytest.approx(published.standard_error, rel=0.005)
