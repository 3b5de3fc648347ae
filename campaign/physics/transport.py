"""Heat flow across an interface, the temperature jump there, and what physics says of their errors.

Units: energies in eV, times in ps, temperatures in K, lengths in angstrom. Signs: a heat flow is positive
from source to sink; a temperature jump is the hot side minus the cold side, never its absolute value.
Energies of thermostats are what they have put *into* the system: the source's rises, the sink's falls.

"Paper" is arXiv:2502.13601, section "NEMD simulations".
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from campaign.quantities import BOLTZMANN_EV_PER_K, ITC_MW_PER_M2_K

Floats = NDArray[np.float64]

CLOSURE_FRACTION = 0.05
"""Part of the transported heat that may be missing from the energy balance of a run."""


@dataclass(frozen=True)
class InterfaceHeatFlow:
    """Heat flow across the interface in eV/ps, from hot to cold.

    Attributes
    ----------
    value
        Mean of the two one-sided forms.
    hot_side
        Source minus the energy stored on the hot side, ``Q_source - dE_hot/dt``.
    cold_side
        Sink plus the energy stored on the cold side, ``Q_sink + dE_cold/dt``.
    """

    value: float
    hot_side: float
    cold_side: float

    @property
    def relative_difference(self) -> float:
        """``(hot_side - cold_side) / value``; NaN where no heat flows but the forms differ."""
        difference = self.hot_side - self.cold_side
        return 0.0 if difference == 0 else float(np.divide(difference, self.value or np.nan))


@dataclass(frozen=True)
class LinearFit:
    """Line through the layers of one side: value at the interface (K), slope (K per unit of position)."""

    at_interface_K: float
    slope: float
    residual_K: float
    """Root of the mean squared residual with ``n - 2`` degrees of freedom; 0 for two layers."""
    n_layers: int


@dataclass(frozen=True)
class ExtrapolatedJump:
    """Temperature jump between the lines of the two sides, at the interface."""

    jump_K: float
    hot: LinearFit
    cold: LinearFit


def layer_temperature(kinetic_energy_eV: ArrayLike, n_atoms: ArrayLike) -> Floats:
    """Temperature ``T = 2 E_kin / (3 N k_B)``; all 3N degrees of freedom, no centre of mass removed."""
    atoms = np.asarray(n_atoms, dtype=float)
    if np.any(atoms < 1):
        raise ValueError("a layer without atoms has no temperature")
    return np.asarray(2 * np.asarray(kinetic_energy_eV, dtype=float) / (3 * atoms * BOLTZMANN_EV_PER_K))


def kinetic_energy(
    temperature_K: ArrayLike, n_atoms: ArrayLike, boltzmann_eV_per_K: float = BOLTZMANN_EV_PER_K
) -> Floats:
    """Kinetic energy in eV of a temperature, ``E_kin = 3/2 N k_B T``: the inverse of `layer_temperature`."""
    return np.asarray(1.5 * np.asarray(n_atoms) * boltzmann_eV_per_K * np.asarray(temperature_K))


def heat_flow(time_ps: ArrayLike, energy_eV: ArrayLike) -> float:
    """Rate of a cumulative energy over a window, ``(E(t_n) - E(t_0)) / (t_n - t_0)``, in eV/ps.

    End points, not a least-squares line: the increments of a thermostat's tally are independent, so all
    information on its slope is in them. The error comes from `campaign.physics.statistics.block_slopes`.
    """
    time, energy = _window(time_ps, energy_eV)
    return float((energy[-1] - energy[0]) / (time[-1] - time[0]))


def storage_rate(time_ps: ArrayLike, total_energy_eV: ArrayLike) -> float:
    """Rate in eV/ps at which the system stores energy; zero in a steady state."""
    return heat_flow(time_ps, total_energy_eV)


def interface_heat_flow(
    time_ps: ArrayLike,
    source_energy_eV: ArrayLike,
    sink_energy_eV: ArrayLike,
    hot_energy_eV: ArrayLike,
    cold_energy_eV: ArrayLike,
) -> InterfaceHeatFlow:
    """Heat flow across the interface from the thermostats and the energies of both sides.

    ``Q = [Q_source + Q_sink - d(E_hot - E_cold)/dt] / 2`` with ``Q_source = dE_source/dt`` and
    ``Q_sink = -dE_sink/dt``. It does not depend on what the sides store meanwhile, so it is less noisy than
    the thermostats alone. The one-sided forms differ by what the energy balance of the run lacks.

    Parameters
    ----------
    time_ps
        Shape ``(samples,)``.
    source_energy_eV, sink_energy_eV
        Cumulative energy put into the system, shape ``(samples,)``.
    hot_energy_eV, cold_energy_eV
        Potential and kinetic energy of all atoms on each side of the interface, shape ``(samples,)``.
    """
    hot_side = heat_flow(time_ps, source_energy_eV) - heat_flow(time_ps, hot_energy_eV)
    cold_side = heat_flow(time_ps, cold_energy_eV) - heat_flow(time_ps, sink_energy_eV)
    return InterfaceHeatFlow((hot_side + cold_side) / 2, hot_side, cold_side)


def temperature_jump(hot_interface_K: ArrayLike, cold_interface_K: ArrayLike) -> Floats:
    """Jump between the two layers next to the interface, hot minus cold, signed (paper, Eq. 2: Delta T).

    Vectorised; use ``float(...)`` or ``.item()`` for scalars.
    """
    return np.asarray(np.asarray(hot_interface_K, dtype=float) - np.asarray(cold_interface_K, dtype=float))


def extrapolated_jump(
    positions: ArrayLike,
    temperatures_K: ArrayLike,
    interface: float,
    *,
    hot_layers: Sequence[int],
    cold_layers: Sequence[int],
) -> ExtrapolatedJump:
    """Jump between straight lines through the free layers of each side, extrapolated to the interface.

    Parameters
    ----------
    positions
        Position of each layer (or its index), shape ``(layers,)``.
    temperatures_K
        Mean temperature of each layer, shape ``(layers,)``.
    interface
        Position midway between the two layers next to the interface, in the units of ``positions``.
    hot_layers, cold_layers
        Indices of the layers to fit: those without thermostat and not frozen.

    Raises
    ------
    ValueError
        A side has fewer than two layers to fit, or a temperature is missing.
    """
    x, y = np.asarray(positions, dtype=float), np.asarray(temperatures_K, dtype=float)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"{x.shape} positions and {y.shape} temperatures do not pair")
    hot, cold = (_line(x, y, interface, layers) for layers in (hot_layers, cold_layers))
    return ExtrapolatedJump(hot.at_interface_K - cold.at_interface_K, hot, cold)


def _line(x: Floats, y: Floats, interface: float, layers: Sequence[int]) -> LinearFit:
    index = list(layers)
    if len(index) < 2:
        raise ValueError(f"a line needs two free layers on each side of the interface, here {len(index)}")
    distance, temperature = x[index] - interface, y[index]
    if not np.all(np.isfinite(temperature)):
        raise ValueError("a layer to fit has no temperature")
    slope, at_interface = np.polyfit(distance, temperature, 1)
    squares = float(np.sum((temperature - at_interface - slope * distance) ** 2))
    residual = (squares / (len(index) - 2)) ** 0.5 if len(index) > 2 else 0.0
    return LinearFit(float(at_interface), float(slope), residual, len(index))


def interfacial_thermal_conductance(
    heat_flow_eV_per_ps: ArrayLike, area_A2: ArrayLike, jump_K: ArrayLike
) -> Floats:
    """Interfacial thermal conductance ``G = Q / (S dT)`` in MW m^-2 K^-1 (paper, Eq. 2), CODATA constants.

    Vectorised. A jump of zero gives an infinite conductance; the mean over runs is a ratio of means
    (`campaign.physics.statistics.ratio_of_means`), never a mean of this.
    """
    area = np.asarray(area_A2, dtype=float)
    if np.any(area <= 0):
        raise ValueError("the area must be positive")
    with np.errstate(divide="ignore", invalid="ignore"):
        flux = np.asarray(heat_flow_eV_per_ps, dtype=float) / area
        return np.asarray(ITC_MW_PER_M2_K * flux / np.asarray(jump_K, dtype=float))


def conductance_relative_error(
    heat_flow: ArrayLike, heat_flow_error: ArrayLike, jump: ArrayLike, jump_error: ArrayLike
) -> Floats:
    """Relative standard error ``sqrt((u_Q/Q)^2 + (u_dT/dT)^2)`` of ``G``, to first order.

    Taken as independent. The area is known far better than both and left out.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        flow = np.asarray(heat_flow_error, dtype=float) / np.asarray(heat_flow, dtype=float)
        drop = np.asarray(jump_error, dtype=float) / np.asarray(jump, dtype=float)
    return np.asarray(np.hypot(flow, drop))


def langevin_temperature_offset(heat_flow_eV_per_ps: ArrayLike, damping_fs: float, n_atoms: int) -> Floats:
    """Offset ``Q tau / (3 N k_B)`` in K between a Langevin thermostat and its group, which carries ``Q``.

    A thermostat of damping time tau exchanges ``3 N k_B (T_set - T) / tau``: a source is colder than its set
    temperature by this, a sink hotter.
    """
    rate = 3 * n_atoms * BOLTZMANN_EV_PER_K / (damping_fs * 1e-3)
    return np.asarray(np.asarray(heat_flow_eV_per_ps, dtype=float) / rate)


def balance_tolerance(n_atoms: int, temperature_K: float, window_ps: float) -> float:
    """Largest healthy ``|Q_source - Q_sink|`` in eV/ps, ``4 sqrt(6 N) k_B T / t``.

    The energy of N atoms (heat capacity 3 N k_B) fluctuates by ``sqrt(3 N) k_B T``; between two independent
    instants by sqrt(2) of that, taken four times.
    """
    return 4 * float(np.sqrt(6 * n_atoms)) * BOLTZMANN_EV_PER_K * temperature_K / window_ps


def closure(total_energy_eV: ArrayLike, source_energy_eV: ArrayLike, sink_energy_eV: ArrayLike) -> float:
    """Energy in eV that no thermostat explains: change of ``E_total - E_source - E_sink`` over the window.

    Zero for an exact integrator; to be compared with `closure_tolerance`.
    """
    total, source, sink = (
        np.asarray(energy, dtype=float) for energy in (total_energy_eV, source_energy_eV, sink_energy_eV)
    )
    unexplained = total - source - sink
    if unexplained.ndim != 1 or unexplained.size < 2 or not np.all(np.isfinite(unexplained[[0, -1]])):
        raise ValueError("closure needs energies at two times at least, all finite")
    return float(unexplained[-1] - unexplained[0])


def closure_tolerance(heat_flow_eV_per_ps: float, window_ps: float) -> float:
    """Largest healthy `closure` in eV: 5 % of the heat that has passed, ``0.05 |Q| t``."""
    return CLOSURE_FRACTION * abs(heat_flow_eV_per_ps) * window_ps


def additional_build_up(z: ArrayLike, window_ps: ArrayLike) -> Floats:
    """Longer build-up in ps that a condition of drift ``z`` would need to pass as steady with room (|z| = 2).

    ``(t / 2) ln(|z| / 2)``, at least 0. A planning number: two halves do not tell how fast a transient
    decays, so a slow one is assumed, with a time constant of half the window ``t``.
    """
    ratio = np.maximum(np.abs(np.asarray(z, dtype=float)) / 2, 1.0)
    return np.asarray(np.asarray(window_ps, dtype=float) / 2 * np.log(ratio))


def _window(time_ps: ArrayLike, energy_eV: ArrayLike) -> tuple[Floats, Floats]:
    time, energy = np.asarray(time_ps, dtype=float), np.asarray(energy_eV, dtype=float)
    if time.shape != energy.shape or time.ndim != 1 or time.size < 2:
        raise ValueError(f"a rate needs two samples at least, times {time.shape} and energies {energy.shape}")
    if not (np.all(np.isfinite(time)) and np.all(np.isfinite(energy))):
        raise ValueError("a time or an energy of the window is not finite")
    if not time[-1] > time[0]:
        raise ValueError("time must increase")
    return time, energy
