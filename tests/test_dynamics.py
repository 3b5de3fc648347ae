"""Steps of molecular dynamics: the ensembles they claim to sample, and what they conserve."""

import numpy as np
import pytest

from campaign.physics.dynamics import (
    EV_PER_A3_PER_GPA,
    IN_PLANE_STIFFNESS_GPA,
    NoseHooverChain,
    draw_velocities,
    inertia,
    kinetic_energies,
    langevin,
    rescale_cell,
)
from campaign.physics.transport import layer_temperature
from campaign.quantities import BOLTZMANN_EV_PER_K

MASSES = inertia(np.tile([10.81, 12.011, 14.007, 95.95], 500))


def test_velocities_have_the_temperature_and_no_momentum() -> None:
    velocities = draw_velocities(MASSES, 300, np.random.default_rng(1))
    np.testing.assert_allclose(MASSES @ velocities, 0, atol=1e-12)
    kinetic = kinetic_energies(velocities, MASSES)
    atoms = len(MASSES)
    assert layer_temperature(kinetic.sum(), atoms) * atoms / (atoms - 1) == pytest.approx(300)
    # Each element has its share: 500 atoms know their temperature to sqrt(2 / 1500).
    for element in range(4):
        assert layer_temperature(kinetic[element::4].sum(), 500) == pytest.approx(300, rel=4 * 0.037)


def test_root_mean_square_speed_of_an_atom() -> None:
    # Carbon at 300 K: sqrt(3 kT / m) = 789 m/s = 7.89 angstrom/ps (m = 12.011 u).
    velocities = draw_velocities(inertia(np.full(4000, 12.011)), 300, np.random.default_rng(2))
    assert np.sqrt((velocities**2).sum(axis=1).mean()) == pytest.approx(7.893, rel=1e-3)


def test_langevin_brings_the_temperature_and_tells_what_it_gave() -> None:
    generator = np.random.default_rng(3)
    velocities = np.zeros((len(MASSES), 3))
    given, time = 0.0, 0.0
    temperatures = []
    for _ in range(40):
        given += langevin(velocities, MASSES, generator, temperature_K=300, damping_ps=0.05, time_ps=0.005)
        time += 0.005
        temperatures.append(float(layer_temperature(kinetic_energies(velocities, MASSES).sum(), len(MASSES))))
        assert given == pytest.approx(kinetic_energies(velocities, MASSES).sum(), rel=1e-12)
    # T(t) = T (1 - exp(-2 t / tau)); 6,000 velocities fluctuate by sqrt(2 / 6000).
    times = 0.005 * np.arange(1, 41)
    np.testing.assert_allclose(temperatures, 300 * (1 - np.exp(-2 * times / 0.05)), atol=4 * 300 * 0.018)


def test_nose_hoover_chain_conserves_its_energy_and_holds_the_temperature() -> None:
    # Harmonic oscillators of one frequency are the hardest case; the chain makes them ergodic enough.
    masses = inertia(np.full(50, 12.011))
    constant, time_ps = 10.0, 0.001
    generator = np.random.default_rng(4)
    velocities = draw_velocities(masses, 600, generator)
    away = np.zeros_like(velocities)
    chain = NoseHooverChain(50, 300, 0.05)
    conserved, temperatures = [], []
    for _ in range(4000):
        chain.half_step(velocities, masses, time_ps / 2)
        velocities -= time_ps / 2 * constant * away / masses[:, None]
        away += time_ps * velocities
        velocities -= time_ps / 2 * constant * away / masses[:, None]
        chain.half_step(velocities, masses, time_ps / 2)
        kinetic = float(kinetic_energies(velocities, masses).sum())
        conserved.append(kinetic + 0.5 * constant * (away**2).sum() + chain.energy)
        temperatures.append(float(layer_temperature(kinetic, 50)))
    assert np.ptp(conserved) < 0.01 * 150 * BOLTZMANN_EV_PER_K * 300
    assert np.mean(temperatures[1000:]) == pytest.approx(300, rel=0.02)


def test_rescaled_cell_has_the_mean_and_the_fluctuation_of_constant_pressure() -> None:
    """An elastic sheet: P = -E eps, so <eps> = -P0 / E (+ kT / V E), and <d eps^2> = kT / (V E)."""
    generator = np.random.default_rng(5)
    volume_A3, stiffness_GPa, target_GPa, temperature_K = 2000.0, 1000.0, -2.0, 300
    logarithm = np.zeros(2)
    seen = []
    for step in range(20_000):
        factors = rescale_cell(
            -stiffness_GPa * logarithm,
            target_GPa,
            generator,
            volume_A3=volume_A3,
            temperature_K=temperature_K,
            damping_ps=0.5,
            time_ps=0.02,
        )
        logarithm = logarithm + np.log(factors)
        if step > 1000:
            seen.append(logarithm)
    variance = BOLTZMANN_EV_PER_K * temperature_K / (volume_A3 * stiffness_GPa * EV_PER_A3_PER_GPA)
    # It forgets within damping times its own stiffness over the sheet's, 0.25 ps: 20,000 steps, 800 samples.
    assert IN_PLANE_STIFFNESS_GPA == 500
    mean, error = 0.002 + variance, np.sqrt(variance / 800)
    np.testing.assert_allclose(np.mean(seen, axis=0), mean, atol=4 * error)
    np.testing.assert_allclose(np.var(seen, axis=0), variance, rtol=4 * np.sqrt(2 / 800) + 0.04)
