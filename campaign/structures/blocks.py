"""Blocks of layers: settings of a structure with one interface, and what can be counted without building.

A layer's lattice is hexagonal; its cell is made of rectangles (``cells``: the zigzag direction, of length
``a``, along x, the armchair direction, ``sqrt(3) a``, along y), or is any supercell of it. Which sites atoms
take, and what stackings are called, is in `campaign.structures.sites`. A moire, in which the lattices differ
or are turned, contains all stackings.
"""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from campaign.quantities import AddedLater, Count, NonNegative, Positive, Settings
from campaign.structures.commensurate import CellFrom
from campaign.structures.materials import Material, MaterialField, definition
from campaign.structures.sites import StackingField, stackings
from campaign.structures.supercells import Supercell, determinant, rectangular

PAPER_GRAPHENE_LATTICE_CONSTANT_A = 1.42 * math.sqrt(3)
"""From the C-C distance of 1.42 angstrom of the paper's model (Methods)."""

EXACT_TWIST_DEG = 0.005
"""An angle in a spec is meant to its second digit: commensurate cells have angles of their own."""

MAX_MATCH_ATOMS = 200_000
"""The search for a cell takes seconds with as many; twisted h-BN at 0.385 degrees has 87,724."""

Twist = Annotated[float, Field(ge=-60, le=60)]


class LayerBlock(Settings):
    """Some layers of one material.

    Attributes
    ----------
    cells
        Rectangles along x (zigzag) and y (armchair).
    supercell
        Instead of ``cells``, a supercell in primitive vectors (`campaign.structures.supercells`); its first
        vector lies along x.
    lattice_constant_A
        Lattice constant that it is built with; None takes the potential's own.
    """

    material: MaterialField
    layers: Count
    cells: tuple[Count, Count] | None = None
    lattice_constant_A: Positive | None = None
    supercell: Annotated[Supercell | None, AddedLater()] = None

    @model_validator(mode="after")
    def _one_cell(self) -> Self:
        if self.supercell is not None:
            if self.cells is not None:
                raise ValueError("cells and supercell are two ways to say the same; give one of them")
            if determinant(self.supercell) < 1:
                raise ValueError("its vectors are parallel, or not in counter-clockwise order")
        return self

    @property
    def definition(self) -> Material:
        """The material."""
        return definition(self.material)

    @property
    def name(self) -> str:
        """Name of the material."""
        return self.definition.name

    @property
    def tiles(self) -> tuple[Supercell, tuple[int, int]]:
        """Supercell of the lattice, and how often it is repeated."""
        if self.supercell is not None:
            return self.supercell, (1, 1)
        if self.cells is None:
            raise ValueError("a block whose cell is to be matched has none yet")
        return rectangular((1, 1)), self.cells

    @property
    def whole(self) -> Supercell:
        """The whole cell in primitive vectors."""
        if self.cells is not None:
            return rectangular(self.cells)
        return self.tiles[0]

    @property
    def atoms_per_layer(self) -> int:
        """Atoms of one of its layers."""
        return self.definition.atoms_per_cell * determinant(self.whole)


class Match(Settings):
    """A common cell to be found: the one of fewest atoms within ``max_strain``, then of least strain.

    Attributes
    ----------
    max_atoms
        Of one layer of each material together, before it is repeated.
    twist_deg
        Angle of the upper lattice against the lower one, or the range in which it may lie: [0, 30] is any
        where one of both is of one element, else [0, 60].
    orthogonal
        An orthogonal cell; otherwise a hexagonal one, of half as many atoms.
    repeat
        How often the cell that is found is repeated along its two vectors.
    """

    max_atoms: Annotated[int, Field(ge=1, le=MAX_MATCH_ATOMS)] = 400
    twist_deg: Twist | tuple[Twist, Twist] = 0.0
    orthogonal: bool = True
    repeat: tuple[Count, Count] = (1, 1)

    @model_validator(mode="after")
    def _range_in_order(self) -> Self:
        low, high = self.twist_range_deg
        if low > high:
            raise ValueError("the range of twist_deg begins with the larger angle")
        return self

    @property
    def twist_range_deg(self) -> tuple[float, float]:
        """Least and largest angle."""
        if isinstance(self.twist_deg, tuple):
            return self.twist_deg
        return self.twist_deg - EXACT_TWIST_DEG, self.twist_deg + EXACT_TWIST_DEG


class MultilayerSettings(Settings):
    """Two blocks of layers with one interface. The defaults are the model of arXiv:2502.13601.

    Attributes
    ----------
    cell_from
        Whose lattice sets the cell: ``upper`` (as in the paper, where h-BN is fitted to graphene), ``lower``,
        or ``mean``, the mean of both, which shares the strain.
    stacking
        Registry of the two layers at the interface (`campaign.structures.sites`).
    layer_order
        Stacking inside each material: ``natural`` is the energetically right one (Bernal graphite, AA' h-BN,
        2H dichalcogenides); ``straight`` repeats each layer unchanged, as the authors' builder does.
    spacing_A
        Distance between the facing planes of atoms of adjacent layers. None takes the materials' natural
        ones, and their mean at the interface.
    vacuum_A
        Margin below the lowest and above the highest atoms; z is not periodic.
    max_strain
        Largest strain, of either sign, of either material in any direction that is accepted.
    match
        Instead of ``cells`` of the blocks: the cell is searched for.
    shift_A
        Along x and y, by which the upper block is moved sideways from what ``stacking`` says.
    """

    lower: LayerBlock = LayerBlock(material="hbn", layers=13, cells=(55, 55))
    upper: LayerBlock = LayerBlock(
        material="graphene", layers=12, cells=(56, 56), lattice_constant_A=PAPER_GRAPHENE_LATTICE_CONSTANT_A
    )
    cell_from: CellFrom = "upper"
    stacking: StackingField = "moire"
    layer_order: Literal["natural", "straight"] = "natural"
    spacing_A: Annotated[float, Field(ge=2.5, le=10)] | None = 3.4
    vacuum_A: NonNegative = 20.0
    max_strain: float = Field(default=0.02, gt=0, le=0.2)
    match: Annotated[Match | None, AddedLater()] = None
    shift_A: Annotated[tuple[float, float], AddedLater()] = (0.0, 0.0)

    @model_validator(mode="after")
    def _cells_and_stacking(self) -> Self:
        blocks = self.lower, self.upper
        given = [block.cells is not None or block.supercell is not None for block in blocks]
        if self.match is not None:
            if any(given):
                raise ValueError("with match the cells are searched for; leave them out of lower and upper")
            return self
        if not all(given):
            raise ValueError("lower and upper need cells, or match: {} to have them searched for")
        self._stacking_fits_cells()
        return self

    def _stacking_fits_cells(self) -> None:
        lower, upper = self.lower, self.upper
        known = stackings(lower.definition, upper.definition)
        choice = f"{', '.join(known[:-1])} or {known[-1]}"
        if lower.whole == upper.whole:
            if self.stacking == "moire":
                raise ValueError(f"equal cells give no moire; stacking must be {choice}")
            if self.stacking not in known:
                raise ValueError(
                    f"{upper.name} on {lower.name} has no {self.stacking}; stacking must be {choice}"
                )
        elif self.stacking != "moire":
            raise ValueError(
                f"cells {lower.cells or lower.supercell} and {upper.cells or upper.supercell} differ, so no "
                "single stacking holds; stacking must be moire"
            )
        elif lower.cells and upper.cells and lower.cells[1] == upper.cells[1]:
            raise ValueError(
                "cells that differ along x only do not pass through AA, AB and ABp; "
                "a moire needs different numbers of cells along y"
            )


def blocks_of_layers(structure: MultilayerSettings) -> list[LayerBlock]:
    """Block of each layer, bottom to top."""
    return [structure.lower] * structure.lower.layers + [structure.upper] * structure.upper.layers


def number_of_atoms(structure: MultilayerSettings) -> int:
    """Return the number of atoms, without building, at no cost however many layers there are."""
    return sum(block.layers * block.atoms_per_layer for block in (structure.lower, structure.upper))
