"""A NEP model's own lattice constants, by relaxing monolayers with it on a CPU."""

import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from campaign.errors import ResourceError

if TYPE_CHECKING:
    from ase import Atoms

VACUUM_A = 20.0
"""Height of the cell: CPU programs for NEP are periodic along z too, and models reach 10 angstrom at most."""

MAX_CHANGE = 0.1
"""A lattice constant further from the usual one, relative, is that of something else, or of nothing."""

_MONOLAYERS: dict[str, tuple[str, float, float | None]] = {
    "graphene": ("CC", 2.46, None),
    "hbn": ("BN", 2.50, None),
    "mos2": ("MoS2", 3.16, 3.13),
    "ws2": ("WS2", 3.16, 3.14),
    "wse2": ("WSe2", 3.29, 3.35),
    "mose2": ("MoSe2", 3.29, 3.34),
}
"""Formula, usual lattice constant and thickness of the 2H layer, None for flat ones; a start, in angstrom."""


def relaxable_materials(elements: Iterable[str]) -> tuple[str, ...]:
    """Materials that are made of some of these elements."""
    known = set(elements)
    return tuple(name for name in _MONOLAYERS if set(_monolayer(name).get_chemical_symbols()) <= known)


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
    ResourceError
        No program for NEP on a CPU is installed, or it refuses the model.
    """
    from scipy.optimize import minimize

    atoms = _monolayer(material)
    cell, positions = atoms.cell.array.copy(), atoms.positions.copy()
    middle_A = positions[:, 2].mean()

    def energy(scales: np.ndarray) -> float:
        """Energy in eV with lengths in the plane, and the thickness of a dichalcogenide, scaled."""
        stretch = np.array([scales[0], scales[0], scales[-1]])
        atoms.set_cell(cell * [scales[0], scales[0], 1])
        atoms.positions = (positions - [0, 0, middle_A]) * stretch + [0, 0, middle_A]
        return float(atoms.get_potential_energy())

    start = [1.0] if np.ptp(positions[:, 2]) < 1e-9 else [1.0, 1.0]
    try:
        atoms.calc = _calculator(path)
        found = minimize(energy, start, method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-9})
    except (OSError, ValueError, RuntimeError) as error:  # what calorine and nep-adapters say of a bad file
        raise ResourceError(f"not a NEP model: {error}", where=str(path)) from error
    if not found.success or abs(found.x[0] - 1) > MAX_CHANGE:
        return None
    return float(found.x[0] * np.linalg.norm(cell[0]))


def _monolayer(material: str) -> "Atoms":
    from ase.build import graphene, mx2

    formula, lattice_constant_A, thickness_A = _MONOLAYERS[material]
    if thickness_A is None:
        atoms = graphene(formula, a=lattice_constant_A, vacuum=VACUUM_A / 2)
    else:
        atoms = mx2(formula, "2H", lattice_constant_A, thickness_A, vacuum=VACUUM_A / 2)
    atoms.pbc = True
    return atoms


def _calculator(path: Path) -> Any:
    # Imported by the name that is found: importing compiled packages in vain takes seconds.
    if importlib.util.find_spec("calorine") is not None:
        from calorine.calculators import CPUNEP

        return CPUNEP(str(path))
    if importlib.util.find_spec("nep_adapters") is not None:
        from nep_adapters.ase import NepAseCalculator

        return NepAseCalculator(str(path))
    raise ResourceError(
        "no program for NEP on a CPU is installed, which would find the lattice constants",
        hint="give them, as in --lattice graphene=2.46, or install it (pip install 'campaign[nep]')",
    )
