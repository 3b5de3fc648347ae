"""Signs, units and noise floors of heat transport."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from campaign.physics import transport
from campaign.quantities import BOLTZMANN_EV_PER_K

TIME = np.linspace(0.5, 12.5, 25)


def test_codata_units_of_conductance() -> None:
    # 1 eV/ps through 1 nm^2 at 1 K, from the definition of the electronvolt
    found = transport.interfacial_thermal_conductance(1.0, 100.0, 1.0)
    assert found == pytest.approx(1.602176634e-19 / 1e-12 / 1e-18 * 1e-6, rel=1e-12)
    # the authors' prefactor 160 is 0.14 % low
    assert found / 160000 == pytest.approx(1.0014, abs=1e-4)


def test_conductance_of_a_run_of_the_paper() -> None:
    # physics of Table I: 250.7 MW m^-2 K^-1 over 13.8 x 23.9 nm and 8 K carries 4.1 eV/ps
    area = 138 * 239
    flow = 250.7 * area * 8 / 1.602176634e7
    assert transport.interfacial_thermal_conductance(flow, area, 8.0) == pytest.approx(250.7)


def test_conductance_is_vectorised_and_signed() -> None:
    found = transport.interfacial_thermal_conductance([1.0, 1.0, 1.0], 100.0, [10.0, -10.0, 0.0])
    assert found[0] == -found[1] > 0
    assert np.isinf(found[2])
    with pytest.raises(ValueError, match="area"):
        transport.interfacial_thermal_conductance(1.0, 0.0, 1.0)


def test_equipartition_gives_the_temperature() -> None:
    rng = np.random.default_rng(1)
    atoms, kT = 20000, BOLTZMANN_EV_PER_K * 300
    energy = 0.5 * np.sum(rng.normal(scale=math.sqrt(kT), size=(atoms, 3)) ** 2)
    assert transport.layer_temperature(energy, atoms) == pytest.approx(300, rel=0.02)
    assert transport.layer_temperature(1.5 * 60 * kT, 60) == pytest.approx(300)


def account(flow: float, heating_hot: float, heating_cold: float) -> tuple[np.ndarray, ...]:
    """Source, sink, hot and cold energies of a run where ``flow`` passes and both sides store energy."""
    return (
        (flow + heating_hot) * TIME,
        -(flow - heating_cold) * TIME,
        7 + heating_hot * TIME,
        heating_cold * TIME - 3,
    )


rates = st.floats(-1, 1, allow_nan=False)


@given(rates, rates, rates)
def test_interface_flow_does_not_see_what_the_sides_store(flow: float, hot: float, cold: float) -> None:
    found = transport.interface_heat_flow(TIME, *account(flow, hot, cold))
    assert found.value == pytest.approx(flow, abs=1e-9)
    assert found.hot_side == pytest.approx(found.cold_side, abs=1e-9)


@given(rates, rates, rates)
def test_interface_flow_changes_sign_when_hot_and_cold_are_swapped(
    flow: float, hot: float, cold: float
) -> None:
    source, sink, hot_energy, cold_energy = account(flow, hot, cold)
    forward = transport.interface_heat_flow(TIME, source, sink, hot_energy, cold_energy)
    swapped = transport.interface_heat_flow(TIME, sink, source, cold_energy, hot_energy)
    assert swapped.value == pytest.approx(-forward.value, abs=1e-12)
    assert swapped.hot_side == pytest.approx(-forward.cold_side, abs=1e-12)


def test_one_sided_forms_differ_by_what_the_account_lacks() -> None:
    source, sink, hot, cold = account(0.1, 0.0, 0.0)
    leak = 0.004 * TIME
    found = transport.interface_heat_flow(TIME, source, sink, hot + leak, cold)
    assert found.hot_side == pytest.approx(0.096)
    assert found.cold_side == pytest.approx(0.1)
    assert found.relative_difference == pytest.approx(-0.004 / 0.098)
    missing = transport.closure(hot + leak + cold, source, sink)
    assert missing == pytest.approx(0.004 * 12)
    assert missing < transport.closure_tolerance(0.1, 12.0) == pytest.approx(0.06)


def test_no_flow_at_all_has_no_difference() -> None:
    still = np.zeros_like(TIME)
    assert transport.interface_heat_flow(TIME, still, still, still, still).relative_difference == 0


def test_heat_flow_uses_the_end_points() -> None:
    energy = 2 * TIME
    energy[3] += 50  # a tally that jumps and comes back carried nothing
    assert transport.heat_flow(TIME, energy) == pytest.approx(2)
    assert transport.storage_rate(TIME, -energy) == pytest.approx(-2)


@pytest.mark.parametrize(
    ("time", "energy"),
    [([1.0], [1.0]), ([1.0, 1.0], [0.0, 1.0]), ([0.0, 1.0], [0.0, np.nan]), ([0.0, 1.0], [0.0])],
)
def test_a_window_that_has_no_rate_raises(time: list[float], energy: list[float]) -> None:
    with pytest.raises(ValueError, match=r"rate|increase|finite"):
        transport.heat_flow(time, energy)


def test_jump_is_signed() -> None:
    assert transport.temperature_jump(290.0, 310.0) == -20
    assert transport.temperature_jump([310.0, 320.0], 300.0).tolist() == [10, 20]


def test_extrapolated_jump_of_two_straight_lines() -> None:
    layers = np.arange(9.0)
    hot, cold = [4, 5, 6], [1, 2, 3]
    temperature = np.where(layers >= 4, 330 + 2 * (layers - 3.5), 290 + 5 * (layers - 3.5))
    found = transport.extrapolated_jump(layers, temperature, 3.5, hot_layers=hot, cold_layers=cold)
    assert found.jump_K == pytest.approx(40)
    assert (found.hot.slope, found.cold.slope) == pytest.approx((2, 5))
    assert found.hot.residual_K == pytest.approx(0, abs=1e-9)
    # less than the jump of adjacent layers, which holds one layer's gradient
    assert found.jump_K < temperature[4] - temperature[3]
    swapped = transport.extrapolated_jump(layers, temperature, 3.5, hot_layers=cold, cold_layers=hot)
    assert swapped.jump_K == pytest.approx(-40)


def test_extrapolation_needs_two_free_layers() -> None:
    temperature = np.array([290.0, 300.0, 320.0, 330.0])
    two = transport.extrapolated_jump(range(4), temperature, 1.5, hot_layers=[2, 3], cold_layers=[0, 1])
    assert two.jump_K == pytest.approx(10)
    assert two.hot.residual_K == 0
    with pytest.raises(ValueError, match="two free layers"):
        transport.extrapolated_jump(range(4), temperature, 1.5, hot_layers=[2], cold_layers=[0, 1])
    temperature[2] = np.nan
    with pytest.raises(ValueError, match="no temperature"):
        transport.extrapolated_jump(range(4), temperature, 1.5, hot_layers=[2, 3], cold_layers=[0, 1])


def test_langevin_offset_of_simulated_velocities() -> None:
    # velocities under a Langevin thermostat, heated at a constant rate, settle this far above its temperature
    rng = np.random.default_rng(2)
    damping_fs, step_fs, atoms, set_K = 50.0, 1.0, 100, 300.0
    kT = BOLTZMANN_EV_PER_K * set_K
    power = 40.0  # eV/ps into the group
    expected = float(transport.langevin_temperature_offset(power, damping_fs, atoms))
    assert expected == pytest.approx(power * 0.05 / (3 * atoms * BOLTZMANN_EV_PER_K))
    velocity = rng.normal(scale=math.sqrt(kT), size=3 * atoms)
    decay = math.exp(-step_fs / damping_fs)
    temperatures = []
    for step in range(6000):
        velocity = decay * velocity + rng.normal(scale=math.sqrt(kT * (1 - decay**2)), size=velocity.size)
        energy = 0.5 * np.sum(velocity**2)
        velocity *= math.sqrt(1 + power * step_fs * 1e-3 / energy)
        if step > 500:
            temperatures.append(float(transport.layer_temperature(0.5 * np.sum(velocity**2), atoms)))
    error = (set_K + expected) * math.sqrt(2 / (3 * atoms) * damping_fs / len(temperatures))
    assert abs(np.mean(temperatures) - set_K - expected) < 4 * error
    assert expected > 10 * error


def test_balance_tolerance_is_four_deviations_of_harmonic_atoms() -> None:
    rng = np.random.default_rng(3)
    atoms, temperature, window = 50, 300.0, 12.0
    kT = BOLTZMANN_EV_PER_K * temperature
    # the energy of N harmonic atoms: 6N quadratic degrees of freedom
    energy = 0.5 * kT * rng.chisquare(6 * atoms, size=(2, 20000))
    scatter = np.std((energy[1] - energy[0]) / window)
    assert transport.balance_tolerance(atoms, temperature, window) == pytest.approx(4 * scatter, rel=0.03)


def test_relative_error_of_the_conductance() -> None:
    assert transport.conductance_relative_error(0.1, 0.003, -30.0, 1.2) == pytest.approx(0.05)


def test_additional_build_up_grows_with_the_drift() -> None:
    found = transport.additional_build_up([0.5, 2.0, -8.0], 12.0)
    assert found.tolist() == pytest.approx([0, 0, 6 * math.log(4)])
