"""What the reduction of a NEMD run promises: every variable with unit, name and dimensions.

Errors are standard errors of block means (or block slopes) within the run. Layers of small cells hold energy
for longer than a run, so the spread between seeds is the honest error of a condition.
"""

from collections.abc import Mapping

from campaign.protocols.base import Variable

MIN_WINDOW_SAMPLES = 10
"""A window with fewer samples is not reduced: its halves would have no blocks."""

N_SAMPLES = 101
"""Points of the cumulative energies kept for pictures."""

N_BINS = 20
"""Bins of the temperature jump over time kept for pictures."""

RATIO = ("itc", "transmitted_power", "area_temperature_jump")
"""G = sum Q_s / sum A_s dT_s: pW / (nm^2 K) = MW m^-2 K^-1."""

_CONDUCTANCE = "MW m^-2 K^-1"

_MEASURED: Mapping[str, tuple[str, str]] = {
    "itc": (
        _CONDUCTANCE,
        "interfacial thermal conductance: heat flow of the thermostats, jump of adjacent layers",
    ),
    "itc_interface": (
        _CONDUCTANCE,
        "conductance from the heat flow across the interface, jump of adjacent layers",
    ),
    "itc_extrapolated": (
        _CONDUCTANCE,
        "conductance from the heat flow of the thermostats, extrapolated jump",
    ),
    "heat_flow": ("eV/ps", "heat flow from source to sink, mean of both thermostats"),
    "source_heat_flow": ("eV/ps", "heat flow out of the source"),
    "sink_heat_flow": ("eV/ps", "heat flow into the sink"),
    "interface_heat_flow": (
        "eV/ps",
        "heat flow across the interface from hot to cold, mean of both one-sided forms",
    ),
    "temperature_jump": ("K", "temperature jump between the adjacent layers, hot minus cold"),
    "temperature_jump_extrapolated": (
        "K",
        "temperature jump between the lines through the free layers of both sides",
    ),
    "source_temperature": ("K", "temperature of the source's layers"),
    "sink_temperature": ("K", "temperature of the sink's layers"),
}
"""Means over the window, each with its standard error beside it."""

AS_BUILT: Mapping[str, Variable] = {
    **{
        f"strain_{side}_{axis}": Variable(
            "1", f"strain of the {side} material along {axis} as built, against the potential's own"
        )
        for side in ("lower", "upper")
        for axis in "xy"
    },
    "twist_angle": Variable(
        "degree", "angle by which the upper lattice is turned against the lower one, as built"
    ),
    "cell_x": Variable("angstrom", "length of the cell along x as built"),
    "cell_y": Variable("angstrom", "length of the cell along y as built"),
}
"""What the structure of a run came to, from the result of its build stage."""

VARIABLES: Mapping[str, Variable] = {
    **{
        key: variable
        for name, (units, text) in _MEASURED.items()
        for key, variable in (
            (name, Variable(units, text)),
            (
                f"{name}_standard_error",
                Variable(units, f"standard error of {name}, from blocks within the run"),
            ),
        )
    },
    "layer_temperature": Variable("K", "temperature of each layer", ("layer",)),
    "layer_temperature_standard_error": Variable(
        "K", "standard error of layer_temperature, from blocks within the run", ("layer",)
    ),
    "transmitted_power": Variable("pW", "heat_flow in pW, numerator of the ensemble's conductance"),
    "area_temperature_jump": Variable("nm^2 K", "area times temperature_jump, denominator of it"),
    "heat_flux": Variable("MW m^-2", "heat_flow by area"),
    "area": Variable("nm^2", "area of the interface during the heat flow"),
    "window": Variable("ps", "time over which heat flow and temperatures are averaged"),
    "interface_heat_flow_hot_side": Variable("eV/ps", "source minus what the hot side stores"),
    "interface_heat_flow_cold_side": Variable("eV/ps", "sink plus what the cold side stores"),
    "interface_heat_flow_relative_difference": Variable("1", "hot-side minus cold-side form, by their mean"),
    "temperature_jump_autocorrelation_time": Variable("ps", "integrated autocorrelation time of the jump"),
    "temperature_jump_blocks": Variable("1", "number of blocks behind the jump's standard error, at least 4"),
    "interface_temperature": Variable("K", "mean temperature of the two layers at the interface"),
    "heat_flow_first_half": Variable("eV/ps", "heat_flow in the first half of the window"),
    "heat_flow_second_half": Variable("eV/ps", "heat_flow in the second half of the window"),
    "temperature_jump_first_half": Variable("K", "temperature_jump in the first half of the window"),
    "temperature_jump_second_half": Variable("K", "temperature_jump in the second half of the window"),
    "interface_temperature_first_half": Variable(
        "K", "interface_temperature in the first half of the window"
    ),
    "interface_temperature_second_half": Variable(
        "K", "interface_temperature in the second half of the window"
    ),
    "storage_rate": Variable("eV/ps", "rate at which the system stores energy"),
    "closure": Variable("eV", "energy that appears in the window without a thermostat"),
    "elapsed_time": Variable("ps", "time since the heat flow was started", ("sample",)),
    "source_energy": Variable("eV", "energy that the source has put into the system", ("sample",)),
    "sink_energy": Variable("eV", "energy that the sink has put into the system", ("sample",)),
    "bin_time": Variable("ps", "centre of each bin since the heat flow was started", ("bin",)),
    "binned_temperature_jump": Variable("K", "mean temperature jump in each bin of time", ("bin",)),
    "interface_distance": Variable("angstrom", "mean distance of the two layers at the interface at the end"),
    "final_stacking": Variable("", "registry of most of the interface at the end"),
    "stacking_fraction": Variable("1", "part of the interface in each registry at the end", ("registry",)),
    **AS_BUILT,
    "number_of_atoms": Variable("1", "atoms"),
    "dangerous_builds": Variable("1", "dangerous builds of the neighbour list"),
    "check_value": Variable("", "measured value of each gate and flag, in check_units", ("check",)),
    "check_limit": Variable("", "limit of each gate and flag, in check_units", ("check",)),
    "check_passed": Variable("", "whether each gate and flag passed", ("check",)),
    "valid": Variable("", "whether all gates passed"),
    "invalid_reason": Variable("", "what the gates found wrong, empty when valid"),
    "flags": Variable("", "names of the flags that are raised"),
}
