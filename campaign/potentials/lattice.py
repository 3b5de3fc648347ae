"""A NEP model's own lattice constants, by relaxing monolayers with it on a CPU."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from campaign.structures.materials import MATERIALS
from campaign.structures.stack import stack_of_one

MAX_CHANGE = 0.1
"""A lattice constant further from the usual one, relative, is that of something else, or of nothing."""


def relaxable_materials(elements: Iterable[str]) -> tuple[str, ...]:
    """Materials that are made of some of these elements."""
    known = set(elements)
    return tuple(name for name, material in MATERIALS.items() if set(material.elements) <= known)


def relaxed_lattice_constant(path: Path, material: str) -> float | None:
    """Lattice constant in angstrom of a free-standing flat or 2H monolayer at 0 K; None if there is none.

    Parameters
    ----------
    path
        A NEP model (``nep.txt``).
    material
        One of `relaxable_materials`.

    Raises
    ------
    EngineNotFoundError
        No library for NEP on a CPU is installed.
    ResourceError
        The file is no NEP model.
    """
    from scipy.optimize import minimize

    from campaign.potentials.nep import NepCalculator

    definition = MATERIALS[material]
    atoms = stack_of_one(definition, 1)
    atoms.calc = NepCalculator(path)
    cell, positions = atoms.cell.array.copy(), atoms.positions.copy()
    middle_A = positions[:, 2].mean()

    def energy(scales: np.ndarray) -> float:
        """Energy in eV with lengths in the plane, and the thickness of a dichalcogenide, scaled."""
        stretch = np.array([scales[0], scales[0], scales[-1]])
        atoms.set_cell(cell * [scales[0], scales[0], 1])
        atoms.positions = (positions - [0, 0, middle_A]) * stretch + [0, 0, middle_A]
        return float(atoms.get_potential_energy())

    start = [1.0, 1.0] if definition.chalcogen_height_A else [1.0]
    found = minimize(energy, start, method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-9})
    if not found.success or abs(found.x[0] - 1) > MAX_CHANGE:
        return None
    return float(found.x[0] * definition.lattice_constant_A)
