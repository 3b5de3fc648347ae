"""What the process of the ASE engine moves: atoms with velocities, their thermostats, and their state."""

import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from ase import Atoms
from ase.calculators.calculator import BaseCalculator, all_changes

from campaign.errors import TransientError
from campaign.physics.dynamics import in_plane_pressures, inertia, langevin
from campaign.physics.dynamics import kinetic_energies as atom_kinetic_energies

Array = npt.NDArray[np.float64]


@dataclass
class System:
    """Atoms with velocities (angstrom/ps) and what the calculator says about them.

    ``given`` names the properties that it computes.
    """

    atoms: Atoms
    calculator: BaseCalculator
    velocities: Array
    masses: Array = field(init=False)
    forces: Array = field(init=False)
    given: list[str] = field(init=False)
    results: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.masses = inertia(self.atoms.get_masses())
        self.given = [
            name
            for name in ("energy", "energies", "forces", "stress")
            if name in self.calculator.implemented_properties
        ]
        self._changes: list[str] = list(all_changes)

    def evaluate(self) -> None:
        """Compute energies, forces and stress of the present positions."""
        # The calculator itself: its cache would compare all positions, which have changed in any case.
        self.calculator.calculate(self.atoms, self.given, self._changes)
        self._changes = ["positions", "cell"]
        self.results = self.calculator.results
        self.forces = np.asarray(self.results["forces"])

    @property
    def potential_energy(self) -> float:
        """Potential energy of all atoms in eV."""
        return float(self.results["energy"])

    @property
    def kinetic_energies(self) -> Array:
        """Kinetic energy of each atom, shape (atoms,)."""
        return atom_kinetic_energies(self.velocities, self.masses)

    def pressures(self, thickness_A: float) -> Array:
        """Pressures in GPa in the structure along x and y, shape (2,)."""
        return in_plane_pressures(
            -self.atoms.get_volume() * np.asarray(self.results["stress"])[:2],
            self.velocities,
            self.masses,
            self.volume(thickness_A),
        )

    def stretch(self, factors: Array) -> None:
        """Stretch cell and positions along x and y, and slow down velocities in turn."""
        stretch = np.array([*factors, 1.0])
        self.atoms.cell[:] *= stretch
        self.atoms.positions *= stretch
        self.velocities /= stretch

    def volume(self, thickness_A: float) -> float:
        """Volume of the structure itself in angstrom^3, without vacuum."""
        return float(self.atoms.cell.volume * thickness_A / self.atoms.cell[2, 2])


@dataclass
class Bath:
    """A Langevin thermostat on some atoms, and the energy in eV that it has given them."""

    index: npt.NDArray[np.int64]
    temperature_K: float
    damping_ps: float
    generator: np.random.Generator
    given_eV: float = 0.0

    def half_step(self, system: System, time_ps: float) -> None:
        """Friction and noise for half an MD step."""
        velocities = system.velocities[self.index]
        self.given_eV += langevin(
            velocities,
            system.masses[self.index],
            self.generator,
            temperature_K=self.temperature_K,
            damping_ps=self.damping_ps,
            time_ps=time_ps,
        )
        system.velocities[self.index] = velocities


@dataclass
class Snapshot:
    """All that a segment needs to go on, after so many MD steps of the stage."""

    _ARRAYS: ClassVar[tuple[str, ...]] = ("positions", "velocities", "cell", "chain")

    step: int
    positions: Array
    velocities: Array
    cell: Array
    chain: Array
    carried: dict[str, float]

    @classmethod
    def read(cls, path: Path, carried: dict[str, float]) -> "Snapshot":
        """Read a state file; the averages that go on travel apart from it."""
        try:
            with np.load(path, allow_pickle=False) as data:
                arrays = {name: data[name] for name in cls._ARRAYS}
                return cls(step=int(data["step"]), carried=carried, **arrays)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise TransientError(f"not a whole state of the ASE engine: {error}", where=str(path)) from error

    def write(self, path: Path) -> None:
        """Write a state file."""
        aside = path.with_name(f".{path.name}")
        with aside.open("wb") as file:
            np.savez(file, step=self.step, **{name: getattr(self, name) for name in self._ARRAYS})
        aside.replace(path)
