"""Steps of molecular dynamics on plain arrays: thermostats that know what they gave, and a barostat.

Units: angstrom, ps, eV, K; masses in eV ps^2 / angstrom^2 (`inertia`), so that force over mass is an
acceleration. Velocities have the shape (atoms, 3), masses (atoms,). Random numbers come from a generator
that is an argument. What changes, changes in place.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from campaign.quantities import BOLTZMANN_EV_PER_K

Floats = NDArray[np.float64]

EV_PS2_PER_U_A2 = 1.66053906660e-27 * 1e-20 / 1e-24 / 1.602176634e-19
"""1 u in eV ps^2 / angstrom^2 (CODATA 2018)."""

EV_PER_A3_PER_GPA = 1e9 * 1e-30 / 1.602176634e-19
"""1 GPa in eV/angstrom^3."""

IN_PLANE_STIFFNESS_GPA = 500.0
"""Stiffness from which `rescale_cell` takes its pace: graphite has 1,060, h-BN 810, MoS2 240. It decides how
fast the cell forgets, not where it goes."""


def inertia(masses_u: ArrayLike) -> Floats:
    """Masses in eV ps^2 / angstrom^2 from masses in u."""
    return np.asarray(masses_u, dtype=float) * EV_PS2_PER_U_A2


def kinetic_energies(velocities: Floats, masses: Floats) -> Floats:
    """Kinetic energy of each atom in eV, shape (atoms,)."""
    return np.asarray(0.5 * masses * np.einsum("ij,ij->i", velocities, velocities))


def in_plane_pressures(virial_eV: Floats, velocities: Floats, masses: Floats, volume_A3: float) -> Floats:
    """Pressures along x and y in GPa, shape (2,): ``(sum m v^2 + virial) / V`` along each.

    ``virial_eV`` is ``sum r F`` along x and y, shape (2,), as it is in minus the stress times the volume.
    """
    return np.asarray((virial_eV + masses @ velocities[:, :2] ** 2) / (volume_A3 * EV_PER_A3_PER_GPA))


def draw_velocities(masses: Floats, temperature_K: float, generator: np.random.Generator) -> Floats:
    """Velocities from the Maxwell-Boltzmann distribution, without momentum, at exactly this temperature.

    The temperature counts ``3 N - 3`` degrees of freedom, since the total momentum is taken out.
    """
    kT = BOLTZMANN_EV_PER_K * temperature_K
    velocities = generator.standard_normal((len(masses), 3)) * np.sqrt(kT / masses)[:, None]
    velocities -= masses @ velocities / masses.sum()
    now = float(kinetic_energies(velocities, masses).sum())
    return np.asarray(velocities * math.sqrt(1.5 * (len(masses) - 1) * kT / now))


def langevin(
    velocities: Floats,
    masses: Floats,
    generator: np.random.Generator,
    *,
    temperature_K: float,
    damping_ps: float,
    time_ps: float,
) -> float:
    """Friction and noise for a time; return the energy in eV that they gave to the atoms.

    The exact solution of ``dv = -v/tau dt + sqrt(2 kT/(m tau)) dW``: ``v <- c v + sqrt((1 - c^2) kT/m) xi``
    with ``c = exp(-t/tau)``. Half a step before and half a step after a step of velocity Verlet samples the
    canonical ensemble to second order, and the change of the kinetic energy is exactly the heat (Bussi and
    Parrinello, Phys. Rev. E 75, 056707 (2007), Eqs. 8 to 11).
    """
    c = math.exp(-time_ps / damping_ps)
    width = np.sqrt((1 - c * c) * BOLTZMANN_EV_PER_K * temperature_K / masses)[:, None]
    before = float(kinetic_energies(velocities, masses).sum())
    velocities *= c
    velocities += width * generator.standard_normal(velocities.shape)
    return float(kinetic_energies(velocities, masses).sum()) - before


@dataclass
class NoseHooverChain:
    """A chain of three thermostats on all 3N velocities.

    Martyna, Klein, Tuckerman, J. Chem. Phys. 97, 2635 (1992), integrated as Tuckerman et al., J. Phys. A 39,
    5629 (2006), section 4, in one piece: steps are far shorter than the damping.

    Attributes
    ----------
    atoms
        Number of atoms.
    temperature_K, damping_ps
        Target, and the time of its oscillation over 2 pi.
    position, velocity
        Coordinates of the chain (1) and their rates (1/ps), shape (3,): its whole state.
    """

    atoms: int
    temperature_K: float
    damping_ps: float
    position: Floats = field(default_factory=lambda: np.zeros(3))
    velocity: Floats = field(default_factory=lambda: np.zeros(3))

    @property
    def energy(self) -> float:
        """What the chain adds to make a conserved energy, in eV."""
        kT, freedom = BOLTZMANN_EV_PER_K * self.temperature_K, self._freedom
        return float(
            0.5 * kT * self.damping_ps**2 * freedom @ self.velocity**2 + kT * freedom @ self.position
        )

    @property
    def _freedom(self) -> Floats:
        """Degrees of freedom that each member of the chain holds."""
        return np.array([3.0 * self.atoms, 1.0, 1.0])

    def half_step(self, velocities: Floats, masses: Floats, time_ps: float) -> None:
        """Propagate the chain for half an MD step (``time_ps`` is that half) and scale the velocities."""
        half, rate = time_ps / 2, 1 / self.damping_ps**2
        kT = BOLTZMANN_EV_PER_K * self.temperature_K
        ratio = 2 * float(kinetic_energies(velocities, masses).sum()) / (3 * self.atoms * kT)
        v, freedom = self.velocity, self._freedom

        def pull(member: int) -> float:
            if member == 0:
                return (ratio - 1) * rate
            return float(freedom[member - 1] * v[member - 1] ** 2) - rate

        def kick(member: int) -> None:
            drag = math.exp(-half / 2 * v[member + 1]) if member < 2 else 1.0
            v[member] = (v[member] * drag + half * pull(member)) * drag

        for member in (2, 1, 0):
            kick(member)
        scale = math.exp(-time_ps * v[0])
        velocities *= scale
        ratio *= scale * scale
        self.position += time_ps * v
        for member in (0, 1, 2):
            kick(member)


def rescale_cell(
    pressures_GPa: ArrayLike,
    target_GPa: float,
    generator: np.random.Generator,
    *,
    volume_A3: float,
    temperature_K: float,
    damping_ps: float,
    time_ps: float,
) -> Floats:
    """Factors by which x and y are to be stretched after a step at constant pressure, shape (2,).

    Stochastic cell rescaling, each axis on its own: Bernetti and Bussi, J. Chem. Phys. 153, 114107 (2020),
    Eq. 5, for the logarithm of one length, ``d eps = D [V (P - P0) + kT] / kT dt + sqrt(2 D) dW`` with
    ``D = kT / (V E tau)`` and E the stiffness along it. Positions are stretched by the factor, velocities by
    its inverse. It samples the ensemble of constant pressure, unlike Berendsen's barostat, and does not
    ring, unlike one with a mass; the paper's own equilibration (``npt_scr``) does the same.

    Parameters
    ----------
    pressures_GPa
        Along x and y, with the kinetic part, of the structure's own volume, shape (2,).
    """
    kT = BOLTZMANN_EV_PER_K * temperature_K
    diffusion = kT / (volume_A3 * IN_PLANE_STIFFNESS_GPA * EV_PER_A3_PER_GPA * damping_ps)
    excess_eV = volume_A3 * (np.asarray(pressures_GPa) - target_GPa) * EV_PER_A3_PER_GPA + kT
    noise = generator.standard_normal(2) * math.sqrt(2 * diffusion * time_ps)
    return np.asarray(np.exp(diffusion / kT * excess_eV * time_ps + noise))
