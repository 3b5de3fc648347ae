"""Lennard-Jones terms between layers, with the parameters of the universal force field (UFF)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

EV_PER_KCAL_PER_MOL = 4184 / (6.02214076e23 * 1.602176634e-19)
"""1 kcal/mol in eV (thermochemical calorie; N_A and e exact since 2019)."""


@dataclass(frozen=True)
class UffAtom:
    """Van der Waals parameters of an element in UFF: distance ``x_A`` of the minimum and depth."""

    x_A: float
    depth_kcal_per_mol: float


UFF_LJ: Mapping[str, UffAtom] = {
    "B": UffAtom(4.083, 0.180),
    "C": UffAtom(3.851, 0.105),
    "N": UffAtom(3.660, 0.069),
    "S": UffAtom(4.035, 0.274),
    "Se": UffAtom(4.205, 0.291),
    "Mo": UffAtom(3.052, 0.056),
    "W": UffAtom(3.069, 0.067),
}
"""Table I of Rappe et al., J. Am. Chem. Soc. 114, 10024 (1992); the same for all atom types of an element.

That the paper took these numbers is an assumption: it cites UFF (Ref. 25) and an earlier work of its authors.
"""


def lj_parameters(first: str, second: str) -> tuple[float, float]:
    """Lennard-Jones depth (eV) and sigma (angstrom) of two elements.

    Geometric mixing (Rappe et al. 1992, Eqs. 21b and 22): D_ij = sqrt(D_i D_j), x_ij = sqrt(x_i x_j);
    sigma = x / 2^(1/6), because x is the distance of the minimum.
    """
    i, j = UFF_LJ[first], UFF_LJ[second]
    depth = math.sqrt(i.depth_kcal_per_mol * j.depth_kcal_per_mol) * EV_PER_KCAL_PER_MOL
    return depth, math.sqrt(i.x_A * j.x_A) / 2 ** (1 / 6)
