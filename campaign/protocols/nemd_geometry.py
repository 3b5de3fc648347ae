"""What the final positions of a NEMD run say: order of the layers, bonds, stacking of the interface."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from campaign.protocols.base import Check
from campaign.protocols.nemd_checks import make_check
from campaign.structures.stacking import interface_registry

if TYPE_CHECKING:
    import xarray as xr

REGISTRIES = ("AA", "AB", "ABp", "DW")
"""Registries that the area of the interface is divided into; DW are the walls between the others."""
REGISTRY_MEANING = (
    "registry of an interface of graphene and h-BN: AA, AB, ABp, or DW (domain wall: none of the three)"
)

MIN_LAYER_DISTANCE_A = 2.0
"""Adjacent layers whose mean heights are closer have merged or changed places."""

BOND_RANGE = (0.65, 1.3)
"""Bond length by the sum of covalent radii (Cordero et al., Dalton Trans. 2832 (2008)), 0.93 in graphene and
h-BN at rest and 0.90 to 0.93 in 2H dichalcogenides; wide enough for thermal motion, too narrow for the next
neighbours of an element of its own (1.6; chalcogens 1.4)."""

_BONDS_PER_ATOM = 3

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Geometry:
    """Final geometry of a run.

    Attributes
    ----------
    layer_distance_A
        Smallest distance between the mean heights of adjacent layers; negative where they changed places.
    shortest_bond, longest_bond
        Of the three bonds of every atom (six of the metal in a dichalcogenide), by the sum of the covalent
        radii.
    interface_distance_A
        Distance between the mean heights of the layers at the interface.
    fractions
        Part of the interface in each of `REGISTRIES`; NaN where registries have no names.
    stacking
        Registry of most of the interface, or ``moire``; empty where registries have no names.
    """

    layer_distance_A: float
    shortest_bond: float
    longest_bond: float
    interface_distance_A: float
    fractions: Floats
    stacking: str

    def checks(self, label: str) -> list[Check]:
        """Gates of order and bonds, and the flag of a stacking that is no longer that of its label.

        Where registries have no names, whether one was kept is not known.
        """
        if label == "moire":
            kept = float(self.stacking == label)
        else:
            kept = float(self.fractions[REGISTRIES.index(label)]) if self.stacking else np.nan
        return [
            make_check("layer_order", self.layer_distance_A, MIN_LAYER_DISTANCE_A),
            make_check("bond_short", self.shortest_bond, BOND_RANGE[0]),
            make_check("bond_long", self.longest_bond, BOND_RANGE[1]),
            make_check("stacking_kept", kept, 0.5),
        ]


def final_geometry(series: "xr.Dataset", interface: tuple[int, int], *, label: str, named: bool) -> Geometry:
    """Geometry of the final positions.

    Parameters
    ----------
    series
        ``final_position(atom, direction)`` in angstrom, ``layer(atom)``, ``atomic_number(atom)``,
        ``cell_length(direction)`` in angstrom (periodic along x and y).
    interface
        The two layers at the interface.
    label
        Stacking as built; a moire stays one.
    named
        Whether the registries of this interface have names.
    """
    positions = np.asarray(series["final_position"].transpose("atom", "direction").values, dtype=float)
    layers, numbers = series["layer"].values, series["atomic_number"].values
    cell = np.asarray(series["cell_length"].values, dtype=float)
    members = [layers == layer for layer in range(int(layers.max()) + 1)]
    heights = np.array([positions[member, 2].mean() for member in members])
    bonds = [_bond_range(positions[member], numbers[member], cell) for member in members]
    lower, upper = (members[layer] for layer in sorted(interface))
    fractions, stacking = np.full(len(REGISTRIES), np.nan), "moire" if label == "moire" else ""
    if named:
        registry = interface_registry(
            positions[upper], numbers[upper], positions[lower], numbers[lower], cell[:2]
        )
        fractions = np.array([getattr(registry, name) for name in REGISTRIES])
        stacking = str(registry.label)
    return Geometry(
        layer_distance_A=float(np.diff(heights).min()),
        shortest_bond=min(shortest for shortest, _ in bonds),
        longest_bond=max(longest for _, longest in bonds),
        interface_distance_A=float(heights[max(interface)] - heights[min(interface)]),
        fractions=fractions,
        stacking=stacking,
    )


def _bond_range(positions: Floats, numbers: NDArray[np.int64], cell: Floats) -> tuple[float, float]:
    """Shortest and longest bond of every atom of a layer, by the sum of covalent radii."""
    from ase.data import covalent_radii
    from scipy.spatial import cKDTree

    # cells narrower than two bonds see an atom twice, so the periodic images are made explicit
    repeats = np.array([(i * cell[0], j * cell[1], 0.0) for i in (-1, 0, 1) for j in (-1, 0, 1)])
    wrapped = positions - np.floor(positions / [cell[0], cell[1], np.inf]) * [cell[0], cell[1], 0.0]
    margin = 5.0
    images = (wrapped[None] + repeats[:, None]).reshape(-1, 3)
    near = np.all((images[:, :2] > -margin) & (images[:, :2] < cell[:2] + margin), axis=1)
    radii = covalent_radii[np.tile(numbers, len(repeats))[near]]
    tree = cKDTree(images[near])
    ratios = []
    for bonds, members in _bonded(numbers):
        found = tree.query(wrapped[members], k=bonds + 1)
        distances, neighbours = np.asarray(found[0])[:, 1:], np.asarray(found[1])[:, 1:]  # without itself
        ratios.append(distances / (covalent_radii[numbers[members]][:, None] + radii[neighbours]))
    return float(min(ratio.min() for ratio in ratios)), float(max(ratio.max() for ratio in ratios))


def _bonded(numbers: NDArray[np.int64]) -> list[tuple[int, NDArray[np.bool_]]]:
    """Count bonds: how many, and the atoms of a layer that have as many.

    Of two elements, of which one has half as many atoms (a metal among chalcogens), that one has twice as
    many bonds.
    """
    elements, counts = np.unique(numbers, return_counts=True)
    if len(elements) == 2 and counts.max() == 2 * counts.min():
        metal = numbers == elements[counts.argmin()]
        return [(2 * _BONDS_PER_ATOM, metal), (_BONDS_PER_ATOM, ~metal)]
    return [(_BONDS_PER_ATOM, np.ones(len(numbers), dtype=bool))]
