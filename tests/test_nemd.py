"""NEMD: settings, shared stages, and a reduction that finds what was put into synthetic series."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

from campaign.engines.base import NVT, HeatFlow, NpT, Preheat, Simulation, Workload, get_engine
from campaign.errors import SpecError
from campaign.physics.transport import langevin_temperature_offset
from campaign.protocols import nemd_settings
from campaign.protocols.base import CalculationProtocol, Check, Severity, Stage, read_result, write_result
from campaign.protocols.nemd import NemdProtocol
from campaign.protocols.nemd_checks import CHECKS
from campaign.protocols.nemd_reduction import ReduceSettings
from campaign.protocols.nemd_settings import LayerRoles, NemdSettings
from campaign.protocols.nemd_variables import VARIABLES
from campaign.quantities import ITC_MW_PER_M2_K
from campaign.structures.io import read_structure
from campaign.structures.layers import LayerBlock, MultilayerSettings

PROTOCOL = NemdProtocol()
REPLICA = (1, 0)


class FakeEngine:
    name = "lammps"
    results_version = 3
    capabilities = frozenset({"thermalise", "npt", "nvt", "heat_flow", "preheat"})


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeEngine]]:
    monkeypatch.setattr(nemd_settings, "get_engine", lambda name: FakeEngine())
    nemd_settings.engine_facts.cache_clear()
    yield FakeEngine
    nemd_settings.engine_facts.cache_clear()


def small(**changes: Any) -> NemdSettings:
    """5 h-BN and 4 graphene layers of 60 atoms, 4 ps build-up and 12 ps production."""
    structure = MultilayerSettings(
        lower=LayerBlock(material="hbn", layers=5, cells=(5, 3)),
        upper=LayerBlock(material="graphene", layers=4, cells=(5, 3)),
        cell_from="mean",
        stacking="ABp",
    )
    values: dict[str, Any] = {
        "structure": structure,
        "bath_offset_K": 100.0,
        "timestep_fs": 1.0,
        "npt_ps": 2.0,
        "nvt_ps": 1.0,
        "build_up_ps": 4.0,
        "production_ps": 12.0,
        "sampling_interval_ps": 0.05,
    }
    return NemdSettings(**{**values, **changes})


# --- settings --------------------------------------------------------------------------------------------


def test_defaults_are_the_papers() -> None:
    settings = NemdSettings()
    roles = LayerRoles.of(settings)
    # the groups of the authors' run.in: 0 frozen, 1 sink, 2..11 h-BN, 12..21 graphene, 22 source
    assert roles.frozen == (0,)
    assert roles.lower_thermostat == (1, 2)
    assert roles.upper_thermostat == (23, 24)
    assert (roles.lower[-1], roles.upper[0]) == (12, 13)
    steps = {"npt": 1_000_000, "nvt": 500_000, "heat_flow": 5_000_000}
    assert settings.npt_ps * 1000 / settings.timestep_fs == steps["npt"]
    assert settings.nvt_ps * 1000 / settings.timestep_fs == steps["nvt"]
    flow_ps = settings.build_up_ps + settings.production_ps
    assert flow_ps * 1000 / settings.timestep_fs == steps["heat_flow"]
    assert settings.build_up_ps == settings.production_ps  # the last half is used
    # GPUMD counts damping in steps of 0.5 fs: 100 for thermostats, 1000 for the barostat
    assert settings.langevin_damping_fs == settings.thermostat_damping_fs == 100 * 0.5
    assert settings.barostat_damping_fs == 1000 * 0.5
    PROTOCOL.validate(settings, "lammps")


def test_every_field_says_what_it_is() -> None:
    assert all(field.description for field in NemdSettings.model_fields.values())


def test_variables_do_not_take_the_names_of_axes() -> None:
    axes = {name.rsplit("_", 1)[0] for name in NemdSettings.model_fields}
    axes |= {*NemdSettings.model_fields, "seed", "pair", "run", "state", "stacking"}
    assert not axes & set(VARIABLES)


@pytest.mark.parametrize(
    "change",
    [
        {"temperature_K": -1.0},
        {"timestep_fs": 50.0},
        {"bath_offset_K": -1.0},
        {"frozen_layers": 0},
        {"thermostat_layers": 0},
        {"production_ps": 0.0},
        {"production_ps": float("nan")},
        {"direction": "up"},
        {"temperature": 300.0},
    ],
)
def test_wrong_types_and_ranges_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        small(**change)


def _layers(lower: int, upper: int, cells: tuple[int, int] = (5, 3), **more: Any) -> MultilayerSettings:
    return MultilayerSettings(
        lower=LayerBlock(material="hbn", layers=lower, cells=cells),
        upper=LayerBlock(material="graphene", layers=upper, cells=(5, 3)),
        stacking="ABp" if cells == (5, 3) else "moire",
        **more,
    )


@pytest.mark.parametrize(
    ("change", "where", "words"),
    [
        ({"structure": _layers(3, 4)}, "structure.lower.layers", "1 frozen and 2 thermostatted"),
        ({"structure": _layers(5, 2)}, "structure.upper.layers", "leave no free layer"),
        ({"structure": _layers(5, 1)}, "structure.upper.layers", "reach across"),
        ({"frozen_layers": 3}, "structure.lower.layers", "5 layers of hbn"),
        ({"bath_offset_K": 300.0}, "bath_offset_K", "0 K"),
        ({"temperature_K": 20.0}, "bath_offset_K", "-80 K"),
        ({"production_ps": 0.45}, "production_ps", "10 sampling intervals"),
        ({"production_ps": 12.02}, "production_ps", "whole number"),
        ({"build_up_ps": 4.02}, "build_up_ps", "whole number"),
        ({"sampling_interval_ps": 0.0505}, "sampling_interval_ps", "whole number"),
        ({"sampling_interval_ps": 0.0004}, "sampling_interval_ps", "whole number"),
        ({"preheat_fraction": 0.4}, "preheat_fraction", "preheat_ps"),
        ({"potential": "tersof-lj"}, "potential", "tersoff-lj"),
        ({"structure": _layers(5, 4, cells=(5, 4))}, "structure.max_strain", "strained"),
    ],
)
def test_impossible_settings_name_the_field(
    engine: type[FakeEngine], change: dict[str, Any], where: str, words: str
) -> None:
    PROTOCOL.validate(small(), "lammps")
    with pytest.raises(SpecError, match=words) as caught:
        PROTOCOL.validate(small(**change), "lammps")
    assert caught.value.where == where


def test_engine_must_know_steps_and_potential(
    engine: type[FakeEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SpecError, match="cannot run tersoff-lj"):
        PROTOCOL.validate(small(), "gpumd")
    monkeypatch.setattr(engine, "capabilities", FakeEngine.capabilities - {"preheat"})
    PROTOCOL.validate(small(), "lammps")
    with pytest.raises(SpecError, match="preheat"):
        PROTOCOL.validate(small(preheat_ps=1.0), "lammps")


# --- stages ----------------------------------------------------------------------------------------------


def stages(replica: tuple[int, int] = REPLICA, **changes: Any) -> dict[str, Stage]:
    return {stage.kind: stage for stage in PROTOCOL.stages(small(**changes), "lammps", replica)}


@pytest.mark.parametrize(
    ("changes", "replica", "new"),
    [
        ({}, REPLICA, set()),
        ({}, (1, 1), {"equilibrate", "produce", "reduce"}),
        ({"direction": "backward"}, REPLICA, {"produce", "reduce"}),
        ({"bath_offset_K": 60.0}, REPLICA, {"produce", "reduce"}),
        ({"production_ps": 24.0}, REPLICA, {"produce", "reduce"}),
        ({"preheat_ps": 2.0}, REPLICA, {"produce", "reduce"}),
        ({"npt_ps": 4.0}, REPLICA, {"equilibrate", "produce", "reduce"}),
        ({"temperature_K": 350.0}, REPLICA, {"equilibrate", "produce", "reduce"}),
        ({"structure": _layers(6, 4)}, REPLICA, {"build", "equilibrate", "produce", "reduce"}),
    ],
)
def test_only_what_a_change_decides_is_new(
    engine: type[FakeEngine], changes: dict[str, Any], replica: tuple[int, int], new: set[str]
) -> None:
    before, after = stages(), stages(replica, **changes)
    assert {kind for kind in before if before[kind].id != after[kind].id} == new


def test_build_up_moved_into_production_repeats_no_md(engine: type[FakeEngine]) -> None:
    before, after = stages(), stages(build_up_ps=8.0, production_ps=8.0)
    assert before["produce"].id == after["produce"].id
    assert before["reduce"].id != after["reduce"].id


def test_stages_carry_what_the_worker_needs(engine: type[FakeEngine]) -> None:
    chain = PROTOCOL.stages(small(preheat_ps=2.0), "lammps", REPLICA)
    assert [stage.kind for stage in chain] == ["build", "equilibrate", "produce", "reduce"]
    build, equilibrate, produce, reduce = chain
    assert equilibrate.needs == {"structure": build.id}
    assert produce.needs == {"structure": build.id, "state": equilibrate.id}
    assert reduce.needs == {"structure": build.id, "produce": produce.id}
    assert (equilibrate.steps, produce.steps) == (3000, 2000 + 16000)
    assert {stage.atoms for stage in chain} == {540}
    assert [stage.engine for stage in chain] == [None, "lammps", "lammps", None]
    assert build.replica is None
    assert reduce.replica is None
    assert equilibrate.random_seed != produce.random_seed
    for stage in (equilibrate, produce):
        assert stage.version == FakeEngine.results_version
        assert set(stage.files) == {"BNC.tersoff"}
    assert isinstance(equilibrate.settings, Simulation)
    assert [type(step) for step in equilibrate.settings.steps[1:]] == [NpT, NVT]


@pytest.mark.parametrize(("direction", "hot"), [("forward", (5, 6, 7, 8)), ("backward", (0, 1, 2, 3, 4))])
def test_direction_swaps_source_and_sink(
    engine: type[FakeEngine], direction: str, hot: tuple[int, ...]
) -> None:
    produce = stages(direction=direction, preheat_ps=1.0, preheat_fraction=0.4)["produce"]
    assert isinstance(produce.settings, Simulation)
    preheat, flow = produce.settings.steps
    assert isinstance(preheat, Preheat)
    assert isinstance(flow, HeatFlow)
    assert set(flow.source_layers) <= set(hot)
    assert not set(flow.sink_layers) & set(hot)
    assert {flow.source_layers, flow.sink_layers} == {(7, 8), (1, 2)}
    assert (flow.source_temperature_K, flow.sink_temperature_K) == (400, 200)
    assert (preheat.hot_temperature_K, preheat.cold_temperature_K) == (340, 260)
    assert flow.upper_layers == (5, 6, 7, 8)
    assert flow.frozen_layers == (0,)
    # the layers at the interface feel no thermostat, and no layer is preheated and frozen at once
    assert not {4, 5} & {*flow.source_layers, *flow.sink_layers, *flow.frozen_layers}
    assert set(preheat.hot_layers) == set(hot) - {0}
    assert sorted((*preheat.hot_layers, *preheat.cold_layers)) == list(range(1, 9))


def test_labels() -> None:
    assert PROTOCOL.labels(NemdSettings()) == {"pair": "graphene/hbn"}
    assert isinstance(PROTOCOL, CalculationProtocol)


# --- reduction -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("build")
    PROTOCOL.execute(PROTOCOL.stages(small(), "lammps", REPLICA)[0], {}, directory)
    return directory


Q, STORED, JUMP = 0.2, 0.01, 25.0


def synthetic(
    built: Path,
    settings: NemdSettings,
    *,
    flow: float = Q,
    stored: float = STORED,
    jump: float = JUMP,
    noise_K: float = 1.0,
    seed: int = 0,
) -> xr.Dataset:
    """Series of a run with a known heat flow, jump, and energy stored on each side (eV/ps).

    ``flow`` crosses the interface; the source gives ``flow + stored``, the sink takes ``flow - stored``.
    """
    atoms = read_structure(built / "structure.npz")
    rng = np.random.default_rng(seed)
    interval = settings.sampling_interval_ps
    count = round((settings.build_up_ps + settings.production_ps) / interval)
    time = interval * np.arange(1, count + 1)
    forward = settings.direction == "forward"
    n_layers, n_bath = 9, 2 * 60
    middle, offset, tau = settings.temperature_K, settings.bath_offset_K, settings.langevin_damping_fs
    hot_bath = middle + offset - float(langevin_temperature_offset(flow + stored, tau, n_bath))
    cold_bath = middle - offset + float(langevin_temperature_offset(flow - stored, tau, n_bath))
    # straight lines on both sides, with the slope that meets the bath; the jump between adjacent layers
    slope = 2.0
    profile = np.empty(n_layers)
    for layer in range(n_layers):
        above = layer >= 5
        hot_side = above == forward
        distance = layer - 5 if above else 4 - layer
        profile[layer] = middle + (jump / 2 + slope * distance) * (1 if hot_side else -1)
    profile[7:], profile[1:3] = (hot_bath, cold_bath) if forward else (cold_bath, hot_bath)
    temperature = profile + noise_K * rng.standard_normal((count, n_layers))
    hot_energy, cold_energy = 5.0 + stored * time, 3.0 + stored * time
    upper, lower = (hot_energy, cold_energy) if forward else (cold_energy, hot_energy)
    return xr.Dataset(
        {
            "layer_temperature": (("time", "layer"), temperature),
            "source_energy": ("time", (flow + stored) * time),
            "sink_energy": ("time", -(flow - stored) * time),
            "upper_energy": ("time", upper),
            "lower_energy": ("time", lower),
            "total_energy": ("time", upper + lower),
            "cell_length": ("direction", np.diag(atoms.cell.array)),
            "final_position": (("atom", "direction"), atoms.positions),
            "layer": ("atom", atoms.arrays["layer"]),
            "atomic_number": ("atom", atoms.numbers),
            "dangerous_builds": 0,
            "atoms_initial": len(atoms),
            "atoms_final": len(atoms),
        },
        coords={"time": time},
    )


def reduced(built: Path, series: xr.Dataset, settings: NemdSettings, directory: Path) -> xr.Dataset:
    """Reduce through files, as a worker does."""
    produce, out = directory / "produce", directory / "reduce"
    produce.mkdir(exist_ok=True)
    out.mkdir(exist_ok=True)
    write_result(series, produce)
    stage = PROTOCOL.stages(settings, "lammps", REPLICA)[-1]
    PROTOCOL.execute(stage, {"produce": produce, "structure": built}, out)
    return read_result(out)


def failed(result: xr.Dataset, severity: Severity) -> set[str]:
    return {c.name for c in PROTOCOL.checks(result) if c.severity is severity and not c.passed}


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


def test_drift_between_halves_is_seen_and_only_flagged(built: Path, tmp_path: Path) -> None:
    series = synthetic(built, small())
    series["layer_temperature"].values[series["time"].values > 10.0, 5] += 10.0
    result = reduced(built, series, small(), tmp_path)
    change = result["temperature_jump_second_half"] - result["temperature_jump_first_half"]
    assert change.item() == pytest.approx(10, abs=1)
    assert "jump_steady" in failed(result, Severity.FLAG)
    assert result["valid"].item()
    assert "jump_steady" in result["flags"].item()


def test_series_for_pictures_span_the_whole_step(built: Path, tmp_path: Path) -> None:
    result = reduced(built, synthetic(built, small(), noise_K=0.01), small(), tmp_path)
    assert result["elapsed_time"].values[[0, -1]] == pytest.approx([0, 16])
    assert result["source_energy"].values == pytest.approx((Q + STORED) * result["elapsed_time"].values)
    assert result["sink_energy"].values == pytest.approx(-(Q - STORED) * result["elapsed_time"].values)
    assert result["binned_temperature_jump"].values == pytest.approx(np.full(20, JUMP), abs=0.1)
    assert result["bin_time"].values[0] == pytest.approx(0.4)


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


def test_checks_have_reasons_and_units(built: Path, tmp_path: Path) -> None:
    result = reduced(built, synthetic(built, small()), small(), tmp_path)
    checks = PROTOCOL.checks(result)
    assert {check.name for check in checks} == set(CHECKS)
    assert all(isinstance(check, Check) and check.units for check in checks)
    assert [check.passed for check in checks] == list(result["check_passed"].values)
    for name, kind in CHECKS.items():
        assert kind.sentence.format(value=1.0, limit=2.0), name
    assert len(get_args(ReduceSettings.model_fields["stacking"].annotation)) == 4


# --- the real engine -------------------------------------------------------------------------------------


def run_stage(stage: Stage, directories: dict[str, Path]) -> None:
    """Run one stage as a worker does, unless an earlier run has shared it."""
    directory = directories[stage.id]
    if directory.exists():
        return
    directory.mkdir()
    inputs = {role: directories[needed] for role, needed in stage.needs.items()}
    if stage.engine is None:
        PROTOCOL.execute(stage, inputs, directory)
        return
    assert isinstance(stage.settings, Simulation)
    assert stage.random_seed is not None
    engine = get_engine(stage.engine)
    names = {"structure": "structure.npz", "state": "state.restart"}
    files = {role: path / names[role] for role, path in inputs.items()}
    command = engine.prepare(Workload(stage.settings, stage.random_seed, files), directory)
    subprocess.run(command.argv, cwd=directory, env={**os.environ, **command.environment}, check=True)
    progress = engine.progress(directory)
    assert progress is not None
    assert progress.steps_done == stage.steps == progress.steps_total
    write_result(engine.collect(directory), directory)


@pytest.mark.lammps
@pytest.mark.slow
def test_real_runs_from_settings_to_conductance(tmp_path: Path) -> None:
    """Build, equilibrate, produce and reduce with LAMMPS: a closed energy account and the right signs."""
    for direction in ("forward", "backward"):
        settings = small(
            direction=direction,
            npt_ps=0.2,
            nvt_ps=0.1,
            preheat_ps=0.3,
            build_up_ps=0.2,
            production_ps=1.0,
            sampling_interval_ps=0.02,
        )
        PROTOCOL.validate(settings, "lammps")
        chain = PROTOCOL.stages(settings, "lammps", REPLICA)
        directories = {stage.id: tmp_path / stage.id for stage in chain}
        for stage in chain:
            run_stage(stage, directories)
        result = read_result(directories[chain[-1].id])
        gates = {
            "finite",
            "window",
            "atoms",
            "neighbours",
            "closure",
            "layer_order",
            "bond_short",
            "bond_long",
        }
        assert not failed(result, Severity.GATE) & gates, result["invalid_reason"].item()
        assert "interface_forms" not in failed(result, Severity.FLAG)
        assert result["heat_flow"].item() > 0
        assert result["temperature_jump"].item() > 0
        profile = result["layer_temperature"].values
        assert (profile[7:].mean() > profile[1:3].mean()) == (direction == "forward")
        assert profile[0] == 0  # frozen
        assert result["final_stacking"].item() in {"AA", "AB", "ABp", "DW"}
    assert len(list(tmp_path.iterdir())) == 6  # build and equilibrate are shared
