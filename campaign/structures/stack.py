"""Atoms of a stack of layers, and stacks of one material: monolayers, bilayers, multilayers, bulk."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from campaign.errors import SpecError
from campaign.structures.materials import Material
from campaign.structures.sites import REFERENCE, Sites, Stacking, next_layer, planes, stackings
from campaign.structures.supercells import Supercell, cell_matrix, site_lattice

if TYPE_CHECKING:
    from ase import Atoms


@dataclass(frozen=True)
class Layer:
    """One layer of a stack.

    Attributes
    ----------
    sites
        Of the first and the second kind of its atoms.
    supercell, repeat
        Its lattice within the cell.
    """

    material: Material
    sites: Sites
    supercell: Supercell
    repeat: tuple[int, int]
    shift_A: tuple[float, float] = (0.0, 0.0)


def stack(
    layers: Sequence[Layer],
    middles_A: Sequence[float],
    cell: NDArray[np.float64],
    *,
    periodic_z: bool = False,
) -> "Atoms":
    """Atoms of a stack, sorted by layer from the bottom, and within one by sublayer and site.

    Parameters
    ----------
    middles_A
        Height of the middle of each layer.
    cell
        Rows in angstrom, shape (3, 3); the first along x, the second in the xy plane, the third along z.

    Returns
    -------
    ase.Atoms
        ``arrays["layer"]`` counts layers from 0; ``arrays["sublayer"]`` is 0 in flat layers, and 0, 1, 2 for
        lower chalcogens, metal and upper chalcogens in a dichalcogenide.
    """
    from ase import Atoms
    from ase.data import atomic_numbers

    positions, numbers, layer_of, sublayer_of = [], [], [], []
    inverse = np.linalg.inv(cell[:2, :2])
    for index, (layer, middle_A) in enumerate(zip(layers, middles_A, strict=True)):
        shift = np.array(layer.shift_A) @ inverse
        for plane in planes(layer.material, layer.sites):
            fractional = site_lattice(layer.supercell, layer.repeat, plane.site)
            if any(layer.shift_A):
                fractional = (fractional + shift) % 1
            count = len(fractional)
            height = np.full((count, 1), middle_A + plane.height_A)
            positions.append(np.hstack((fractional @ cell[:2, :2], height)))
            numbers.append(np.full(count, atomic_numbers[plane.element]))
            layer_of.append(np.full(count, index))
            sublayer_of.append(np.full(count, plane.sublayer))
    atoms = Atoms(
        numbers=np.concatenate(numbers),
        positions=np.concatenate(positions),
        cell=cell,
        pbc=(True, True, periodic_z),
    )
    atoms.set_array("layer", np.concatenate(layer_of), dtype=np.int64)
    atoms.set_array("sublayer", np.concatenate(sublayer_of), dtype=np.int64)
    return atoms


def stack_of_one(
    material: Material,
    layers: int,
    *,
    supercell: Supercell = ((1, 0), (0, 1)),
    lattice_constant_A: float | None = None,
    stacking: Stacking | None = None,
    layer_distance_A: float | None = None,
    vacuum_A: float | None = 20.0,
) -> "Atoms":
    """Layers of one material: a monolayer, a bilayer of any stacking, a multilayer, or the bulk.

    Parameters
    ----------
    material
        One of `campaign.structures.materials.MATERIALS`, or a definition.
    supercell
        In primitive vectors (`campaign.structures.supercells`); `rectangular` gives orthogonal ones.
    lattice_constant_A, layer_distance_A
        None takes the material's own.
    stacking
        How the second layer lies on the first; layers alternate. None takes the material's natural one.
    vacuum_A
        Margin below the lowest and above the highest atoms. None makes a bulk, periodic along z.

    Raises
    ------
    SpecError
        The material has no such stacking, or the layers of a bulk do not close.
    """
    chosen = stacking or material.natural_stacking
    known = stackings(material, material)
    if chosen not in known:
        raise SpecError(
            f"{material.name} on {material.name} has no stacking {chosen}",
            hint=f"known are {', '.join(known)}",
        )
    if vacuum_A is None and layers % 2 and chosen != "AA":
        raise SpecError(
            f"a bulk of {layers} layers does not close: its stacking {chosen} alternates",
            hint="take an even number of layers",
        )
    distance_A = layer_distance_A or material.layer_distance_A
    sites = REFERENCE, next_layer(REFERENCE, material, chosen)
    matrix = cell_matrix(supercell, lattice_constant_A or material.lattice_constant_A)
    margin_A = distance_A / 2 if vacuum_A is None else vacuum_A + material.chalcogen_height_A
    middles = [margin_A + k * distance_A for k in range(layers)]
    cell = np.zeros((3, 3))
    cell[:2, :2] = matrix
    cell[2, 2] = middles[-1] + margin_A
    return stack(
        [Layer(material, sites[k % 2], supercell, (1, 1)) for k in range(layers)],
        middles,
        cell,
        periodic_z=vacuum_A is None,
    )
