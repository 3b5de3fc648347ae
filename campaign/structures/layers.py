"""Two blocks of layers with one interface: what settings come to, and the atoms.

With ``match`` the cell is searched for (`campaign.structures.commensurate`). `BuildSettings.of` puts the
supercells that are found into the settings, so they, and not the search, are what a structure is made of.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError, model_validator

from campaign.errors import SpecError
from campaign.quantities import Positive, Settings
from campaign.structures.blocks import (
    LayerBlock,
    Match,
    MultilayerSettings,
    blocks_of_layers,
    number_of_atoms,
)
from campaign.structures.commensurate import SLACK, CommensurateCell, Lattice, commensurate_cells
from campaign.structures.sites import Sites, interface_sites, next_layer
from campaign.structures.stack import Layer, stack
from campaign.structures.supercells import Supercell, cell_matrix, determinant, twist_deg

if TYPE_CHECKING:
    from ase import Atoms

__all__ = [
    "BUILDER_VERSION",
    "BuildSettings",
    "LayerBlock",
    "Match",
    "MultilayerSettings",
    "Realised",
    "Strain",
    "build",
    "check_strain",
    "number_of_atoms",
    "realised",
]

BUILDER_VERSION = 1
"""Raised when the same settings give other positions; enters the identity of build stages."""

_NEAR_DEG, _MANY = 0.5, 100
"""A twist that no cell has may be meant for one of these cells, so near."""


class BuildSettings(Settings):
    """Settings of the build stage: the structure, and what the potential says about it.

    ``lattice_constants_A`` are the potential's own, by material; strain counts against them. Make it with
    `of` where the structure may have a ``match``.
    """

    structure: MultilayerSettings
    lattice_constants_A: dict[str, Positive]

    @model_validator(mode="after")
    def _lattice_constants_known(self) -> Self:
        for block in (self.structure.lower, self.structure.upper):
            if block.name not in self.lattice_constants_A:
                raise ValueError(f"the potential has no lattice constant of {block.name}")
        if self.structure.match is not None:
            raise ValueError("the cells of a match are to be searched for first")
        return self

    @classmethod
    def of(cls, structure: MultilayerSettings, lattice_constants_A: Mapping[str, float]) -> Self:
        """Make settings with the cells that ``match`` asks for.

        Raises
        ------
        SpecError
            There is no such cell, or it does not go with the stacking.
        """
        if structure.match is None:
            return cls(structure=structure, lattice_constants_A=dict(lattice_constants_A))
        cell = _matched(structure, structure.match, lattice_constants_A)
        if abs(abs(cell.twist_deg) - 60) < 1e-9 and determinant(cell.lower) == determinant(cell.upper):
            raise SpecError(
                "equal cells at 60 degrees give a single stacking, and no moire",
                where="structure.match.twist_deg",
                hint="give cells and a stacking instead: AAp is that of 2H",
            )
        n, m = structure.match.repeat
        blocks = {
            side: block.model_copy(update={"supercell": _repeated(found, n, m)})
            for side, block, found in (
                ("lower", structure.lower, cell.lower),
                ("upper", structure.upper, cell.upper),
            )
        }
        try:
            matched = MultilayerSettings(
                **{name: getattr(structure, name) for name in MultilayerSettings.model_fields}
                | {"match": None}
                | blocks
            )
        except ValidationError as error:
            raise SpecError(str(error.errors()[0]["ctx"]["error"]), where="structure.stacking") from None
        return cls(structure=matched, lattice_constants_A=dict(lattice_constants_A))


class Strain(NamedTuple):
    """Small strain of a layer against its own lattice, along x and y and in shear; positive is stretched."""

    x: float
    y: float
    xy: float

    @property
    def largest(self) -> float:
        """Largest principal strain, with its sign."""
        middle, radius = (self.x + self.y) / 2, math.hypot((self.x - self.y) / 2, self.xy)
        return max(middle - radius, middle + radius, key=abs)


@dataclass(frozen=True)
class Realised:
    """What a structure comes to, without building it.

    Attributes
    ----------
    cell_A
        Rows in angstrom, shape (3, 3): the first along x, the second in the xy plane, the third along z.
    strain
        Of the ``lower`` and the ``upper`` material against the potential's lattice constants.
    twist_deg
        Angle of the upper lattice against the lower one, in (-60, 60].
    """

    cell_A: NDArray[np.float64]
    strain: Mapping[str, Strain]
    twist_deg: float
    number_of_atoms: int


def realised(settings: BuildSettings) -> Realised:
    """Find out what settings come to; nothing is built and nothing is judged (see `check_strain`)."""
    structure = settings.structure
    cell = np.zeros((3, 3))
    cell[:2, :2] = _in_plane(settings)
    cell[2, 2] = _middles(structure)[1] + structure.vacuum_A
    return Realised(
        cell_A=cell,
        strain={
            side: _strain(cell, cell_matrix(block.whole, settings.lattice_constants_A[block.name]))
            for side, block in (("lower", structure.lower), ("upper", structure.upper))
        },
        twist_deg=twist_deg(structure.lower.whole, structure.upper.whole),
        number_of_atoms=number_of_atoms(structure),
    )


def check_strain(settings: BuildSettings) -> None:
    """Check the strain of both materials against ``max_strain``, without building.

    Raises
    ------
    SpecError
        One of them is stretched or compressed by more than is allowed.
    """
    structure = settings.structure
    for side, strain in realised(settings).strain.items():
        if abs(strain.largest) <= structure.max_strain + SLACK:
            continue
        block = structure.lower if side == "lower" else structure.upper
        cells = "{} x {} cells".format(*block.cells) if block.cells else f"supercell {block.supercell}"
        along = next(
            (f" along {axis}" for axis in "xy" if abs(getattr(strain, axis)) > structure.max_strain), ""
        )
        value = getattr(strain, along[-1]) if along else strain.largest
        raise SpecError(
            f"{block.name} ({cells}) is strained by {value:+.2%}{along}, "
            f"more than {structure.max_strain:.2%}",
            where="structure.max_strain",
            hint="change cells, cell_from or lattice_constant_A, or allow more",
        )


def build(settings: BuildSettings) -> "Atoms":
    """Build the multilayer.

    Returns
    -------
    ase.Atoms
        See `campaign.structures.stack.stack`; periodic along x and y. ``info`` holds ``strain_lower_x``,
        ``_y``, ``_xy`` and the same of ``upper``, ``twist_deg``, ``stacking``, ``layer_order`` and
        ``builder_version``.

    Raises
    ------
    SpecError
        The strain is larger than allowed.
    """
    check_strain(settings)
    structure, facts = settings.structure, realised(settings)
    atoms = stack(_layers(structure), _middles(structure)[0], facts.cell_A)
    atoms.info.update(
        {
            f"strain_{side}_{axis}": value
            for side, strain in facts.strain.items()
            for axis, value in strain._asdict().items()
        },
        twist_deg=facts.twist_deg,
        stacking=structure.stacking,
        layer_order=structure.layer_order,
        builder_version=BUILDER_VERSION,
    )
    return atoms


def _matched(
    structure: MultilayerSettings, match: Match, lattice_constants_A: Mapping[str, float]
) -> CommensurateCell:
    lower, upper = (
        Lattice(block.lattice_constant_A or lattice_constants_A[block.name], block.definition.atoms_per_cell)
        for block in (structure.lower, structure.upper)
    )
    find = partial(
        commensurate_cells,
        lower,
        upper,
        max_strain=structure.max_strain,
        max_atoms=match.max_atoms,
        orthogonal=match.orthogonal,
        cell_from=structure.cell_from,
    )
    cells = find(twist_range_deg=match.twist_range_deg)
    if not cells:
        angles = "a twist of {:g} to {:g} degrees".format(*match.twist_range_deg)
        shares = "" if structure.cell_from == "mean" else "; cell_from: mean shares the strain"
        hint = f"allow more max_atoms, max_strain or a range of twist_deg, such as [0, 30]{shares}"
        if not isinstance(match.twist_deg, tuple):
            wanted = match.twist_deg
            angles = f"a twist of {wanted:g} degrees"
            near = find(twist_range_deg=(wanted - _NEAR_DEG, wanted + _NEAR_DEG), count=_MANY)
            if near:
                nearest = min(near, key=lambda cell: abs(cell.twist_deg - wanted))
                there = f"there is one at twist_deg: {nearest.twist_deg:.2f}, with {nearest.atoms:,} atoms"
                hint = f"{there}; or {hint}"
        raise SpecError(
            f"{structure.upper.name} and {structure.lower.name} have no common cell of up to "
            f"{match.max_atoms:,} atoms with {angles} within a strain of {100 * structure.max_strain:.2g} %",
            where="structure.match",
            hint=hint,
        )
    return cells[0]


def _repeated(supercell: Supercell, n: int, m: int) -> Supercell:
    (i, j), (k, o) = supercell
    return (n * i, n * j), (m * k, m * o)


def _in_plane(settings: BuildSettings) -> NDArray[np.float64]:
    """Vectors of the cell along x and in the xy plane, shape (2, 2)."""
    structure = settings.structure
    lower, upper = (
        cell_matrix(block.whole, block.lattice_constant_A or settings.lattice_constants_A[block.name])
        for block in (structure.lower, structure.upper)
    )
    if structure.cell_from == "mean":
        return (lower + upper) / 2
    return lower if structure.cell_from == "lower" else upper


def _strain(cell: NDArray[np.float64], own: NDArray[np.float64]) -> Strain:
    """Strain that takes the lattice ``own`` to ``cell``; the first vectors of both lie along x."""
    x, y = cell[0, 0] / own[0, 0], cell[1, 1] / own[1, 1]
    shear = (cell[1, 0] - own[1, 0] * x) / own[1, 1]
    return Strain(float(x - 1), float(y - 1), float(shear / 2))


def _middles(structure: MultilayerSettings) -> tuple[list[float], float]:
    """Height of the middle of each layer, and that of the highest atoms."""
    materials = [block.definition for block in blocks_of_layers(structure)]
    natural_gaps = (0.0, *((low.gap + up.gap) / 2 for low, up in pairwise(materials)))
    gaps = thickness = 0.0
    middles = []
    for k, (material, gap) in enumerate(zip(materials, natural_gaps, strict=True)):
        gaps = gaps + gap if structure.spacing_A is None else k * structure.spacing_A
        middles.append(structure.vacuum_A + gaps + 2 * thickness + material.chalcogen_height_A)
        thickness += material.chalcogen_height_A
    return middles, middles[-1] + materials[-1].chalcogen_height_A


def _layers(structure: MultilayerSettings) -> list[Layer]:
    """Layers bottom to top; stacked outwards from the interface."""
    lower, upper = structure.lower, structure.upper
    sites = interface_sites(structure.stacking, lower.definition, upper.definition)

    def layer(block: LayerBlock, k: int, at_interface: Sites, shift_A: tuple[float, float]) -> Layer:
        turned = structure.layer_order == "natural" and k % 2 == 1
        stacking = block.definition.natural_stacking
        own = next_layer(at_interface, block.definition, stacking) if turned else at_interface
        return Layer(block.definition, own, *block.tiles, shift_A)

    return [layer(lower, k, sites[0], (0.0, 0.0)) for k in reversed(range(lower.layers))] + [
        layer(upper, k, sites[1], structure.shift_A) for k in range(upper.layers)
    ]
