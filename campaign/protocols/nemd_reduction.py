"""Reduction of one NEMD run: series of the whole heat flow in, heat flows, jump, conductance and profile out.

The window is what follows the build-up. Heat flows are end-point differences of the cumulative energies over
the window, temperatures are means over it (arXiv:2502.13601, ``plot_temp_NEMD.m`` of its data); errors are
those of blocks within the run. Signs: heat flows from source to sink, a jump is the hot minus the cold side.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray

from campaign.physics.statistics import BlockEstimate, block_estimate, block_slopes
from campaign.physics.transport import (
    balance_tolerance,
    closure,
    closure_tolerance,
    conductance_relative_error,
    extrapolated_jump,
    heat_flow,
    interface_heat_flow,
    interfacial_thermal_conductance,
    langevin_temperature_offset,
    storage_rate,
    temperature_jump,
)
from campaign.protocols.base import Check
from campaign.protocols.nemd_checks import CHECKS, invalid_reason, make_check, raised_flags
from campaign.protocols.nemd_geometry import REGISTRIES, REGISTRY_MEANING, final_geometry
from campaign.protocols.nemd_variables import (
    AS_BUILT,
    MIN_WINDOW_SAMPLES,
    N_BINS,
    N_SAMPLES,
    VARIABLES,
)
from campaign.quantities import AddedLater, NonNegative, Positive, Settings, Temperature
from campaign.structures.sites import Stacking

if TYPE_CHECKING:
    import xarray as xr

Floats = NDArray[np.float64]

REDUCTION_VERSION = 2
"""Raised when the same series give other numbers, or another gate; enters the identity of reduce stages."""

SERIES = ("layer_temperature", "source_energy", "sink_energy", "total_energy")
SIDES = ("lower_energy", "upper_energy")
"""Series that engines give whose forces come with energies per atom."""


class ReduceSettings(Settings):
    """All that the reduction must know about a run besides its series. Layers count from 0 at the bottom.

    ``named_registry`` says whether the stackings of the interface can be told from positions
    (`campaign.structures.stacking`).
    """

    frozen_layers: tuple[int, ...]
    source_layers: tuple[int, ...]
    sink_layers: tuple[int, ...]
    hot_side_layers: tuple[int, ...]
    cold_side_layers: tuple[int, ...]
    stacking: Stacking
    temperature_K: Temperature
    source_temperature_K: Temperature
    sink_temperature_K: Temperature
    damping_fs: Positive
    build_up_ps: NonNegative
    production_ps: Positive
    sampling_interval_ps: Positive
    named_registry: Annotated[bool, AddedLater()] = True

    @property
    def hot_is_upper(self) -> bool:
        """Whether the source is above the interface."""
        return self.hot_side_layers[0] > self.cold_side_layers[0]

    @property
    def interface_layers(self) -> tuple[int, int]:
        """The two layers at the interface, hot side first."""
        if self.hot_is_upper:
            return min(self.hot_side_layers), max(self.cold_side_layers)
        return max(self.hot_side_layers), min(self.cold_side_layers)

    def free_layers(self, side: tuple[int, ...]) -> tuple[int, ...]:
        """Layers of a side that have no thermostat and move."""
        taken = {*self.frozen_layers, *self.source_layers, *self.sink_layers}
        return tuple(layer for layer in side if layer not in taken)


@dataclass(frozen=True)
class _Window:
    """Series after the build-up. ``time`` and energies start at its end, temperatures one sample later.

    ``temperature`` has the shape (samples, layers), everything else (samples,) or (samples + 1,). ``sides``
    are the energies of the hot and the cold side, where they are known.
    """

    time: Floats
    source: Floats
    sink: Floats
    sides: tuple[Floats, Floats] | None
    total: Floats
    temperature: Floats

    @classmethod
    def of(cls, series: "xr.Dataset", settings: ReduceSettings) -> "_Window":
        start = _window_start(series, settings)
        hot, cold = ("upper", "lower") if settings.hot_is_upper else ("lower", "upper")

        def energy(name: str) -> Floats:
            return np.asarray(series[f"{name}_energy"].values[start:], dtype=float)

        return cls(
            time=np.asarray(series["time"].values[start:], dtype=float),
            source=energy("source"),
            sink=energy("sink"),
            sides=(energy(hot), energy(cold)) if _has_sides(series) else None,
            total=energy("total"),
            temperature=np.asarray(
                series["layer_temperature"].transpose("time", "layer").values[start + 1 :], dtype=float
            ),
        )

    @property
    def duration_ps(self) -> float:
        return float(self.time[-1] - self.time[0])


def reduce_run(series: "xr.Dataset", built: "xr.Dataset", settings: ReduceSettings) -> "xr.Dataset":
    """Reduce the series of one run.

    Parameters
    ----------
    series
        What the engine collected of the `HeatFlow` step, build-up included.
    built
        Result of the build stage (strains, twist, cell).
    settings
        Roles of layers, bath temperatures, and the window.

    Returns
    -------
    xarray.Dataset
        Exactly `VARIABLES`. Where the series are not finite or too short to reduce, what cannot be computed
        is NaN and a gate says why.
    """
    n_atoms = np.bincount(series["layer"].values)
    faults = _faults(series)
    missing = _expected_samples(settings) - series.sizes["time"]
    reducible = faults == 0 and series.sizes["time"] - _window_start(series, settings) >= MIN_WINDOW_SAMPLES
    values: dict[str, Any] = {
        "number_of_atoms": int(n_atoms.sum()),
        "dangerous_builds": int(series["dangerous_builds"]),
        "final_stacking": "",
        # structures from before there were twists do not tell that they have none
        **{name: float(built.get(name, 0.0) if name == "twist_angle" else built[name]) for name in AS_BUILT},
    }
    checks = [
        make_check("finite", faults, 0),
        make_check("window", max(0, missing), 0),
        make_check("atoms", abs(int(series["atoms_initial"]) - int(series["atoms_final"])), 0),
        make_check("neighbours", int(series["dangerous_builds"]), 0),
    ]
    if reducible:
        window = _Window.of(series, settings)
        values |= _measure(series, window, n_atoms, settings)
        checks += _judge(values, window, n_atoms, settings)
        geometry = final_geometry(
            series, settings.interface_layers, label=settings.stacking, named=settings.named_registry
        )
        values |= {
            "interface_distance": geometry.interface_distance_A,
            "final_stacking": geometry.stacking,
            "stacking_fraction": geometry.fractions,
        }
        checks += geometry.checks(settings.stacking)
    return _dataset(series, values, checks)


def _expected_samples(settings: ReduceSettings) -> int:
    return round((settings.build_up_ps + settings.production_ps) / settings.sampling_interval_ps)


def _window_start(series: "xr.Dataset", settings: ReduceSettings) -> int:
    # half an interval of slack: times are sums of floats
    return int(
        np.searchsorted(series["time"].values, settings.build_up_ps - settings.sampling_interval_ps / 2)
    )


def _has_sides(series: "xr.Dataset") -> bool:
    return all(name in series for name in SIDES)


def _faults(series: "xr.Dataset") -> int:
    names = ("time", *SERIES, *(SIDES if _has_sides(series) else ()), "cell_length", "final_position")
    return sum(int(np.sum(~np.isfinite(series[name].values))) for name in names)


def _measure(
    series: "xr.Dataset", window: _Window, n_atoms: NDArray[np.int64], settings: ReduceSettings
) -> dict[str, Any]:
    """Everything that the paper reports of a run, and what stands beside it."""
    lengths = series["cell_length"].values
    area_A2 = float(lengths[0] * lengths[1])
    hot, cold = settings.interface_layers
    jump_series = temperature_jump(window.temperature[:, hot], window.temperature[:, cold])
    interface_series = (window.temperature[:, hot] + window.temperature[:, cold]) / 2
    layers = [block_estimate(column) for column in window.temperature.T]
    flow = block_slopes(window.time, (window.source - window.sink) / 2)
    source, sink = block_slopes(window.time, window.source), block_slopes(window.time, -window.sink)
    jump = block_estimate(jump_series)
    extrapolated = _extrapolated(window, settings)
    groups = {
        "source": _group(window, n_atoms, settings.source_layers),
        "sink": _group(window, n_atoms, settings.sink_layers),
    }
    flux = float(interfacial_thermal_conductance(flow.value, area_A2, 1.0))
    area_nm2 = area_A2 * 1e-2
    return {
        "area": area_nm2,
        "window": window.duration_ps,
        "heat_flow": flow.value,
        "heat_flow_standard_error": flow.standard_error,
        "source_heat_flow": source.value,
        "source_heat_flow_standard_error": source.standard_error,
        "sink_heat_flow": sink.value,
        "sink_heat_flow_standard_error": sink.standard_error,
        **_across(window, area_A2, jump),
        "heat_flux": flux,
        "transmitted_power": flux * area_nm2,
        "area_temperature_jump": area_nm2 * jump.mean,
        "temperature_jump": jump.mean,
        "temperature_jump_standard_error": jump.standard_error,
        "temperature_jump_autocorrelation_time": jump.autocorrelation_time * settings.sampling_interval_ps,
        "temperature_jump_blocks": float(jump.n_blocks),
        "temperature_jump_extrapolated": extrapolated.mean if extrapolated else np.nan,
        "temperature_jump_extrapolated_standard_error": extrapolated.standard_error
        if extrapolated
        else np.nan,
        **_conductance("itc", flow.value, flow.standard_error, area_A2, jump),
        **_conductance("itc_extrapolated", flow.value, flow.standard_error, area_A2, extrapolated),
        "interface_temperature": float(interface_series.mean()),
        "layer_temperature": np.array([layer.mean for layer in layers]),
        "layer_temperature_standard_error": np.array([layer.standard_error for layer in layers]),
        "source_temperature": groups["source"].mean,
        "source_temperature_standard_error": groups["source"].standard_error,
        "sink_temperature": groups["sink"].mean,
        "sink_temperature_standard_error": groups["sink"].standard_error,
        **_halves(window, jump_series, interface_series),
        "storage_rate": storage_rate(window.time, window.total),
        "closure": closure(window.total, window.source, window.sink),
        **_coarse_series(series, hot, cold),
    }


def _judge(
    values: Mapping[str, Any], window: _Window, n_atoms: NDArray[np.int64], settings: ReduceSettings
) -> list[Check]:
    """Gates and flags that compare measured values (design: closure, balance, thermostats, precision)."""
    duration = window.duration_ps
    mobile = int(n_atoms.sum() - n_atoms[list(settings.frozen_layers)].sum())
    balance_limit = balance_tolerance(mobile, settings.temperature_K, duration)
    # Without a bias no heat flows: errors are then compared with two deviations of the thermal noise.
    # At 1 fs healthy runs of 540 atoms leave their account open by up to 3 % of that (specs/checks.yaml).
    scale = max(abs(values["heat_flow"]), balance_limit / 2)
    jump, jump_error = values["temperature_jump"], values["temperature_jump_standard_error"]
    checks = [
        make_check("closure", abs(values["closure"]), closure_tolerance(scale, duration)),
        make_check("balance", abs(values["source_heat_flow"] - values["sink_heat_flow"]), balance_limit),
        _thermostat("source", int(n_atoms[list(settings.source_layers)].sum()), values, settings),
        _thermostat("sink", int(n_atoms[list(settings.sink_layers)].sum()), values, settings),
        make_check("jump_resolved", _ratio(abs(jump), jump_error), 5),
        make_check("conductance_resolved", _ratio(values["itc_standard_error"], abs(values["itc"])), 0.3),
        make_check("heat_flow_steady", _heat_flow_drift(window), 4),
        make_check("jump_steady", _jump_drift(window, settings), 4),
        make_check("profile_linear", _curvature(values, settings), 3),
    ]
    if window.sides is not None:
        forms = values["interface_heat_flow_hot_side"] - values["interface_heat_flow_cold_side"]
        checks.append(make_check("interface_forms", abs(forms), 0.02 * scale))
    return checks


def _group(window: _Window, n_atoms: NDArray[np.int64], layers: tuple[int, ...]) -> BlockEstimate:
    """Temperature of several layers together, weighted by their atoms."""
    index = list(layers)
    return block_estimate(np.average(window.temperature[:, index], axis=1, weights=n_atoms[index]))


def _extrapolated(window: _Window, settings: ReduceSettings) -> BlockEstimate | None:
    """Jump between the lines through the free layers of both sides; None where a side has only one."""
    hot, cold = (settings.free_layers(side) for side in (settings.hot_side_layers, settings.cold_side_layers))
    if min(len(hot), len(cold)) < 2:
        return None
    n_layers = window.temperature.shape[1]
    middle = sum(settings.interface_layers) / 2
    # the extrapolation is linear in the temperatures: its weights give its series, and so its error
    weights = [
        extrapolated_jump(np.arange(n_layers), unit, middle, hot_layers=hot, cold_layers=cold).jump_K
        for unit in np.eye(n_layers)
    ]
    return block_estimate(window.temperature @ np.array(weights))


def _conductance(
    name: str, flow: float, flow_error: float, area_A2: float, jump: BlockEstimate | None
) -> dict[str, float]:
    if jump is None:
        return {name: np.nan, f"{name}_standard_error": np.nan}
    value = float(interfacial_thermal_conductance(flow, area_A2, jump.mean))
    relative = float(conductance_relative_error(flow, flow_error, jump.mean, jump.standard_error))
    return {name: value, f"{name}_standard_error": abs(value) * relative}


def _across(window: _Window, area_A2: float, jump: BlockEstimate) -> dict[str, float]:
    """Heat flow and conductance without the energy that the sides store; nothing where that is not known."""
    if window.sides is None:
        return {}
    hot, cold = window.sides
    flow = interface_heat_flow(window.time, window.source, window.sink, hot, cold)
    error = block_slopes(window.time, (window.source - window.sink - hot + cold) / 2).standard_error
    return {
        "interface_heat_flow": flow.value,
        "interface_heat_flow_standard_error": error,
        "interface_heat_flow_hot_side": flow.hot_side,
        "interface_heat_flow_cold_side": flow.cold_side,
        "interface_heat_flow_relative_difference": flow.relative_difference,
        **_conductance("itc_interface", flow.value, error, area_A2, jump),
    }


def _halves(window: _Window, jump: Floats, interface: Floats) -> dict[str, float]:
    """First and second half of the window; whether a condition is steady is judged over its seeds."""
    middle = len(jump) // 2
    energy = (window.source - window.sink) / 2
    return {
        "heat_flow_first_half": heat_flow(window.time[: middle + 1], energy[: middle + 1]),
        "heat_flow_second_half": heat_flow(window.time[middle:], energy[middle:]),
        "temperature_jump_first_half": float(jump[:middle].mean()),
        "temperature_jump_second_half": float(jump[middle:].mean()),
        "interface_temperature_first_half": float(interface[:middle].mean()),
        "interface_temperature_second_half": float(interface[middle:].mean()),
    }


def _coarse_series(series: "xr.Dataset", hot: int, cold: int) -> dict[str, Floats]:
    """Series over the whole step on a fixed number of points, for pictures."""
    time = np.concatenate([[0.0], series["time"].values])
    elapsed = np.linspace(0.0, time[-1], N_SAMPLES)
    edges = np.linspace(0.0, time[-1], N_BINS + 1)
    temperature = series["layer_temperature"].transpose("time", "layer").values
    jump = temperature_jump(temperature[:, hot], temperature[:, cold])
    # a sample stands for the interval that it ends; bins need not hold whole intervals
    integral = np.concatenate([[0.0], np.cumsum(jump * np.diff(time))])
    return {
        "elapsed_time": elapsed,
        # tallies start at zero with the step
        "source_energy": np.interp(elapsed, time, np.concatenate([[0.0], series["source_energy"].values])),
        "sink_energy": np.interp(elapsed, time, np.concatenate([[0.0], series["sink_energy"].values])),
        "bin_time": (edges[1:] + edges[:-1]) / 2,
        "binned_temperature_jump": np.diff(np.interp(edges, time, integral)) / np.diff(edges),
    }


def _thermostat(name: str, n_atoms: int, values: Mapping[str, Any], settings: ReduceSettings) -> Check:
    """Temperature of a thermostatted group against the bath's, less or more what the heat flow costs."""
    flow = values[f"{name}_heat_flow"]
    offset = float(langevin_temperature_offset(flow, settings.damping_fs, n_atoms))
    if name == "source":
        expected = settings.source_temperature_K - offset
    else:
        expected = settings.sink_temperature_K + offset
    deviation = abs(values[f"{name}_temperature"] - expected)
    return make_check(name, deviation, max(4 * values[f"{name}_temperature_standard_error"], 0.01 * expected))


def _heat_flow_drift(window: _Window) -> float:
    """Change of the heat flow from the first to the second half of the window, in units of its error."""
    energy = (window.source - window.sink) / 2
    middle = len(energy) // 2
    first = block_slopes(window.time[: middle + 1], energy[: middle + 1], 4)
    second = block_slopes(window.time[middle:], energy[middle:], 4)
    return _ratio(
        abs(second.value - first.value), float(np.hypot(first.standard_error, second.standard_error))
    )


def _jump_drift(window: _Window, settings: ReduceSettings) -> float:
    """Change of the jump from the first to the second half of the window, in units of its error."""
    hot, cold = settings.interface_layers
    jump = temperature_jump(window.temperature[:, hot], window.temperature[:, cold])
    middle = len(jump) // 2
    first, second = block_estimate(jump[:middle]), block_estimate(jump[middle:])
    return _ratio(abs(second.mean - first.mean), float(np.hypot(first.standard_error, second.standard_error)))


def _curvature(values: Mapping[str, Any], settings: ReduceSettings) -> float:
    """Residual of the straight profile of the worse side, in units of its layers' standard errors."""
    profile, errors = values["layer_temperature"], values["layer_temperature_standard_error"]
    hot, cold = (settings.free_layers(side) for side in (settings.hot_side_layers, settings.cold_side_layers))
    if min(len(hot), len(cold)) < 2:
        return 0.0  # a line through one or two layers has no residual
    middle = sum(settings.interface_layers) / 2
    fits = extrapolated_jump(np.arange(len(profile)), profile, middle, hot_layers=hot, cold_layers=cold)
    return max(
        _ratio(fit.residual_K, float(np.sqrt(np.mean(errors[list(side)] ** 2))))
        for fit, side in ((fits.hot, hot), (fits.cold, cold))
    )


def _ratio(value: float, error: float) -> float:
    """Quotient of two non-negative numbers; 0 for 0/0."""
    if error > 0:
        return value / error
    return np.inf if value > 0 else 0.0


def _dataset(series: "xr.Dataset", values: Mapping[str, Any], checks: list[Check]) -> "xr.Dataset":
    """All promised variables with units; NaN where nothing could be measured."""
    import xarray as xr

    made = {check.name: check for check in checks}
    every = [made.get(name) or make_check(name, np.nan, np.nan) for name in CHECKS]
    reason = invalid_reason(every)
    filled = {
        **values,
        "check_value": np.array([check.value for check in every]),
        "check_limit": np.array([check.limit for check in every]),
        "check_passed": np.array([check.passed for check in every]),
        "valid": reason == "",
        "invalid_reason": reason,
        "flags": raised_flags(every),
    }
    coordinates: dict[str, Any] = {
        "layer": (
            "layer",
            np.arange(series.sizes["layer"]),
            {"units": "1", "long_name": "layer from the bottom"},
        ),
        "registry": ("registry", list(REGISTRIES), {"long_name": REGISTRY_MEANING}),
        "check": ("check", list(CHECKS), {"long_name": "gate or flag"}),
        "check_severity": ("check", [str(kind.severity) for kind in CHECKS.values()]),
        "check_units": ("check", [kind.units for kind in CHECKS.values()]),
    }
    sizes = {"layer": series.sizes["layer"], "sample": N_SAMPLES, "bin": N_BINS, "registry": len(REGISTRIES)}
    dataset = xr.Dataset(coords=coordinates)
    for name, variable in VARIABLES.items():
        missing = np.full([sizes.get(dim, 0) for dim in variable.dims], np.nan)
        attributes = {"long_name": variable.long_name}
        if variable.units:
            attributes["units"] = variable.units
        if f"{name}_standard_error" in VARIABLES:
            attributes["ancillary_variables"] = f"{name}_standard_error"
        dataset[name] = (variable.dims, filled.get(name, missing), attributes)
    return dataset
