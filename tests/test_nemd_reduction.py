"""A reduction that finds what was put into synthetic series."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from campaign.protocols.nemd_checks import CHECKS
from campaign.protocols.nemd_variables import VARIABLES
from campaign.quantities import ITC_MW_PER_M2_K
from campaign.structures.io import read_structure
from tests.nemd_cases import JUMP, PROTOCOL, STORED, Q, build, reduced, small, synthetic


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("build"))


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_reduction_finds_flow_jump_and_conductance(built: Path, tmp_path: Path, direction: str) -> None:
    settings = small(direction=direction)
    result = reduced(built, synthetic(built, settings), settings, tmp_path)
    area_A2 = float(np.prod(np.diag(read_structure(built / "structure.npz").cell.array)[:2]))
    assert result["source_heat_flow"].item() == pytest.approx(Q + STORED)
    assert result["sink_heat_flow"].item() == pytest.approx(Q - STORED)
    assert result["heat_flow"].item() == pytest.approx(Q)
    assert result["interface_heat_flow"].item() == pytest.approx(Q)
    assert result["interface_heat_flow_relative_difference"].item() == pytest.approx(0, abs=1e-9)
    assert result["storage_rate"].item() == pytest.approx(2 * STORED)
    assert result["window"].item() == pytest.approx(12)
    jump = result["temperature_jump"].item()
    error = result["temperature_jump_standard_error"].item()
    assert jump == pytest.approx(JUMP, abs=4 * error)
    assert 0.5 * np.sqrt(2 / 240) < error < 2 * np.sqrt(2 / 240)
    # the lines go on for half a layer on each side
    extrapolated_error = result["temperature_jump_extrapolated_standard_error"].item()
    assert result["temperature_jump_extrapolated"].item() == pytest.approx(
        JUMP - 2.0, abs=4 * extrapolated_error
    )
    assert result["itc"].item() == pytest.approx(ITC_MW_PER_M2_K * Q / (area_A2 * jump))
    assert result["itc_extrapolated"].item() > result["itc"].item() > 0
    assert result["interface_temperature"].item() == pytest.approx(300, abs=0.5)
    assert result["valid"].item()
    assert result["invalid_reason"].item() == ""
    assert result["flags"].item() == ""
    assert result["final_stacking"].item() == "ABp"


def test_result_is_exactly_what_is_promised(built: Path, tmp_path: Path) -> None:
    result = reduced(built, synthetic(built, small()), small(), tmp_path)
    assert set(result.data_vars) == set(VARIABLES)
    for name, variable in VARIABLES.items():
        assert result[name].dims == variable.dims, name
        assert result[name].attrs.get("units", "") == variable.units, name
        assert result[name].attrs["long_name"] == variable.long_name, name
        if name.endswith("_standard_error"):
            assert result[name.removesuffix("_standard_error")].attrs["ancillary_variables"] == name
    ratio = PROTOCOL.ratio
    assert ratio is not None
    assert set(ratio) <= set(VARIABLES)
    value, numerator, denominator = (result[name].item() for name in ratio)
    assert value == pytest.approx(numerator / denominator)
    assert list(result["check"].values) == list(CHECKS)


def test_build_up_is_left_out(built: Path, tmp_path: Path) -> None:
    series = synthetic(built, small())
    series["layer_temperature"].values[series["time"].values <= 4.0 + 1e-9] = 1000.0
    # twice the flow while it builds up; end points of the window must not see it
    for name in ("source_energy", "sink_energy", "upper_energy", "lower_energy"):
        sign = -1 if name == "sink_energy" else 1
        series[name] = series[name] + sign * np.minimum(series["time"], 4.0)
    result = reduced(built, series, small(), tmp_path)
    assert result["heat_flow"].item() == pytest.approx(Q)
    assert result["temperature_jump"].item() == pytest.approx(JUMP, abs=1)
    assert result["temperature_jump_first_half"].item() == pytest.approx(JUMP, abs=1)


def test_series_for_pictures_span_the_whole_step(built: Path, tmp_path: Path) -> None:
    result = reduced(built, synthetic(built, small(), noise_K=0.01), small(), tmp_path)
    assert result["elapsed_time"].values[[0, -1]] == pytest.approx([0, 16])
    assert result["source_energy"].values == pytest.approx((Q + STORED) * result["elapsed_time"].values)
    assert result["sink_energy"].values == pytest.approx(-(Q - STORED) * result["elapsed_time"].values)
    assert result["binned_temperature_jump"].values == pytest.approx(np.full(20, JUMP), abs=0.1)
    assert result["bin_time"].values[0] == pytest.approx(0.4)


def test_one_free_layer_has_no_extrapolated_jump(built: Path, tmp_path: Path) -> None:
    settings = small(thermostat_layers=3)
    result = reduced(built, synthetic(built, settings), settings, tmp_path)
    assert np.isnan(result["temperature_jump_extrapolated"].item())
    assert np.isnan(result["itc_extrapolated_standard_error"].item())
    assert np.isfinite(result["itc"].item())


@hypothesis_settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    known=st.tuples(st.floats(-1, 1), st.floats(-0.1, 0.1), st.floats(-80, 80)),
    direction=st.sampled_from(["forward", "backward"]),
)
def test_signs_survive_any_flow_and_jump(
    built: Path, tmp_path: Path, known: tuple[float, float, float], direction: str
) -> None:
    """Heat flow and jump are signed, never absolute values, and both forms of the flow agree."""
    settings = small(direction=direction)
    flow, stored, jump = known
    result = reduced(
        built, synthetic(built, settings, flow=flow, stored=stored, jump=jump), settings, tmp_path
    )
    assert result["heat_flow"].item() == pytest.approx(flow, abs=1e-9)
    assert result["interface_heat_flow"].item() == pytest.approx(flow, abs=1e-9)
    assert result["temperature_jump"].item() == pytest.approx(jump, abs=0.6)
    assert result["layer_temperature"].sizes["layer"] == 9
