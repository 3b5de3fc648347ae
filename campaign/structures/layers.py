"""Multilayers of graphene on hexagonal boron nitride in an orthogonal cell.

All layers are made of one rectangular cell of four atoms, the zigzag direction (length ``a``) along x and
the armchair direction (``sqrt(3) a``) along y. A layer's atoms occupy two of three kinds of sites, which lie
``a / sqrt(3)`` apart along y and are counted 0, 1, 2 here. In the h-BN layer at the interface B sits on site
0, N on site 1, and site 2 is the centre of the hexagon. The registry of the interface says which sites the
carbon atoms of the adjacent graphene layer take:

=====  =====  =========================================================
name   sites  meaning
=====  =====  =========================================================
ABp    0, 2   one C above B, the other above the hexagon centre (lowest energy)
AA     0, 1   one C above B, the other above N (highest energy)
AB     1, 2   one C above N, the other above the hexagon centre
=====  =====  =========================================================

The names are those of arXiv:2502.13601 (Fig. 2). A moire cell has different numbers of cells in the two
materials and contains all of them.
"""

import math
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field, model_validator

from campaign.errors import SpecError
from campaign.quantities import Count, NonNegative, Positive, Settings

if TYPE_CHECKING:
    from ase import Atoms

BUILDER_VERSION = 1
"""Raised when the same settings give other positions; enters the identity of build stages."""

Material = Literal["graphene", "hbn"]
Stacking = Literal["AA", "AB", "ABp", "moire"]

ELEMENTS: dict[Material, tuple[str, ...]] = {"graphene": ("C",), "hbn": ("B", "N")}
"""Elements of each material."""

PAPER_GRAPHENE_LATTICE_CONSTANT_A = 1.42 * math.sqrt(3)
"""From the C-C distance of 1.42 angstrom of the paper's model (Methods)."""

ATOMS_PER_CELL = 4

_ATOMIC_NUMBERS = {"B": 5, "C": 6, "N": 7}
_HBN_SITES = (("B", 0), ("N", 1))
_HBN_SITES_SWAPPED = (("N", 0), ("B", 1))
_GRAPHENE_SITES: dict[Stacking, tuple[int, int]] = {
    "ABp": (0, 2),
    "AA": (0, 1),
    "AB": (1, 2),
    "moire": (0, 2),
}


class LayerBlock(Settings):
    """Some layers of one material.

    Attributes
    ----------
    cells
        Rectangular four-atom cells along x (zigzag) and y (armchair).
    lattice_constant_A
        Lattice constant that it is built with; None takes the potential's own.
    """

    material: Material
    layers: Count
    cells: tuple[Count, Count]
    lattice_constant_A: Positive | None = None


class MultilayerSettings(Settings):
    """Two blocks of layers with one interface. The defaults are the model of arXiv:2502.13601.

    Attributes
    ----------
    cell_from
        Whose lattice sets the cell: ``upper`` (as in the paper, where h-BN is fitted to graphene), ``lower``,
        or ``mean``, the mean of both, which suits equal numbers of cells.
    stacking
        Registry of the two layers at the interface (see the module).
    layer_order
        Stacking inside each material: ``natural`` is the energetically right one (Bernal graphite, AA' h-BN);
        ``straight`` repeats each layer unchanged, as the authors' builder does (AA graphite, B above B).
    spacing_A
        Distance of all layers.
    vacuum_A
        Margin below the lowest and above the highest layer; z is not periodic.
    max_strain
        Largest strain, of either sign, of either material along x or y that is accepted.
    """

    lower: LayerBlock = LayerBlock(material="hbn", layers=13, cells=(55, 55))
    upper: LayerBlock = LayerBlock(
        material="graphene", layers=12, cells=(56, 56), lattice_constant_A=PAPER_GRAPHENE_LATTICE_CONSTANT_A
    )
    cell_from: Literal["upper", "lower", "mean"] = "upper"
    stacking: Stacking = "moire"
    layer_order: Literal["natural", "straight"] = "natural"
    spacing_A: float = Field(default=3.4, ge=2.5, le=10)
    vacuum_A: NonNegative = 20.0
    max_strain: float = Field(default=0.02, gt=0, le=0.2)

    @model_validator(mode="after")
    def _stacking_fits_cells(self) -> "MultilayerSettings":
        if self.lower.material == self.upper.material:
            raise ValueError(
                "lower and upper are the same material; stacking names an interface of graphene and hbn"
            )
        if self.lower.cells == self.upper.cells:
            if self.stacking == "moire":
                raise ValueError("equal cells give no moire; stacking must be AA, AB or ABp")
        elif self.stacking != "moire":
            raise ValueError(
                f"cells {self.lower.cells} and {self.upper.cells} differ, so no single stacking holds; "
                "stacking must be moire"
            )
        elif self.lower.cells[1] == self.upper.cells[1]:
            raise ValueError(
                "cells that differ along x only do not pass through AA, AB and ABp; "
                "a moire needs different numbers of cells along y"
            )
        return self


class BuildSettings(Settings):
    """Settings of the build stage: the structure, and what the potential says about it.

    ``lattice_constants_A`` are the potential's own, by material; strain counts against them.
    """

    structure: MultilayerSettings
    lattice_constants_A: dict[str, Positive]

    @model_validator(mode="after")
    def _lattice_constants_known(self) -> "BuildSettings":
        for block in (self.structure.lower, self.structure.upper):
            if block.material not in self.lattice_constants_A:
                raise ValueError(f"the potential has no lattice constant of {block.material}")
        return self


def layer_count(structure: MultilayerSettings) -> int:
    """Return the number of layers of both materials."""
    return structure.lower.layers + structure.upper.layers


def interface_layers(structure: MultilayerSettings) -> tuple[int, int]:
    """Return the indices of the two layers at the interface, lower first; the bottom layer is 0."""
    return structure.lower.layers - 1, structure.lower.layers


def layer_atoms(structure: MultilayerSettings) -> tuple[int, ...]:
    """Return the number of atoms of each layer, bottom to top."""
    return tuple(
        ATOMS_PER_CELL * math.prod(block.cells)
        for block in (structure.lower, structure.upper)
        for _ in range(block.layers)
    )


def layer_elements(structure: MultilayerSettings) -> tuple[tuple[str, ...], ...]:
    """Return the elements of each layer, bottom to top."""
    return tuple(
        ELEMENTS[block.material] for block in (structure.lower, structure.upper) for _ in range(block.layers)
    )


def number_of_atoms(structure: MultilayerSettings) -> int:
    """Return the number of atoms, without building."""
    return sum(
        ATOMS_PER_CELL * block.layers * math.prod(block.cells) for block in (structure.lower, structure.upper)
    )


def cell_lengths(settings: BuildSettings) -> tuple[float, float, float]:
    """Return the lengths of the cell along x, y and z in angstrom, without building."""
    structure = settings.structure
    lengths = {
        side: _block_lengths(block, block.lattice_constant_A or settings.lattice_constants_A[block.material])
        for side, block in (("lower", structure.lower), ("upper", structure.upper))
    }
    if structure.cell_from == "mean":
        x, y = ((low + up) / 2 for low, up in zip(lengths["lower"], lengths["upper"], strict=True))
    else:
        x, y = lengths[structure.cell_from]
    return x, y, (layer_count(structure) - 1) * structure.spacing_A + 2 * structure.vacuum_A


def realised_strain(settings: BuildSettings) -> dict[str, tuple[float, float]]:
    """Return the strain of each material along x and y against the potential's lattice constant.

    Strain is ``L / L0 - 1``, positive where the material is stretched. Nothing is built and nothing is judged
    (see `check_strain`).
    """
    x, y, _ = cell_lengths(settings)
    strain: dict[str, tuple[float, float]] = {}
    for block in (settings.structure.lower, settings.structure.upper):
        own_x, own_y = _block_lengths(block, settings.lattice_constants_A[block.material])
        strain[block.material] = (x / own_x - 1, y / own_y - 1)
    return strain


def check_strain(settings: BuildSettings) -> None:
    """Check the strain of both materials against ``max_strain``, without building.

    Raises
    ------
    SpecError
        One of them is stretched or compressed by more than is allowed.
    """
    structure = settings.structure
    cells: dict[str, tuple[int, int]] = {
        block.material: block.cells for block in (structure.lower, structure.upper)
    }
    for material, strains in realised_strain(settings).items():
        for axis, strain in zip("xy", strains, strict=True):
            if abs(strain) > structure.max_strain:
                n, m = cells[material]
                raise SpecError(
                    f"{material} ({n} x {m} cells) is strained by {strain:+.2%} along {axis}, "
                    f"more than {structure.max_strain:.2%}",
                    where="structure.max_strain",
                    hint="change cells, cell_from or lattice_constant_A, or allow more",
                )


def build(settings: BuildSettings) -> "Atoms":
    """Build the multilayer.

    Returns
    -------
    ase.Atoms
        Sorted by layer, bottom to top, in an orthogonal cell that is periodic along x and y.
        ``arrays["layer"]`` counts layers from 0. ``info`` holds ``strain_<material>_x`` and ``_y``,
        ``cell_x_A`` to ``cell_z_A``, ``spacing_A``, ``number_of_atoms``, ``stacking``, ``layer_order`` and
        ``builder_version``.

    Raises
    ------
    SpecError
        The strain is larger than allowed.
    """
    from ase import Atoms

    check_strain(settings)
    structure = settings.structure
    lengths = np.array(cell_lengths(settings))
    positions = np.empty((number_of_atoms(structure), 3))
    numbers = np.empty(len(positions), dtype=np.int64)
    layers = np.repeat(np.arange(layer_count(structure)), layer_atoms(structure))
    start = 0
    for block, layer, sites in _layers(structure):
        stop = start + ATOMS_PER_CELL * math.prod(block.cells)
        # Two atoms of each kind of site in a cell: all of the first element, then all of the second.
        positions[start:stop, :2] = np.concatenate([_site_lattice(block.cells, site) for _, site in sites])
        positions[start:stop, 2] = structure.vacuum_A + layer * structure.spacing_A
        numbers[start:stop] = np.repeat([_ATOMIC_NUMBERS[e] for e, _ in sites], (stop - start) // 2)
        start = stop
    positions[:, :2] *= lengths[:2]
    atoms = Atoms(numbers=numbers, positions=positions, cell=lengths, pbc=(True, True, False))
    atoms.set_array("layer", layers, dtype=np.int64)
    atoms.info.update(
        {
            f"strain_{material}_{axis}": value
            for material, strains in realised_strain(settings).items()
            for axis, value in zip("xy", strains, strict=True)
        },
        **{f"cell_{axis}_A": float(length) for axis, length in zip("xyz", lengths, strict=True)},
        spacing_A=structure.spacing_A,
        number_of_atoms=len(atoms),
        stacking=structure.stacking,
        layer_order=structure.layer_order,
        builder_version=BUILDER_VERSION,
    )
    return atoms


def _block_lengths(block: LayerBlock, lattice_constant_A: float) -> tuple[float, float]:
    n, m = block.cells
    return n * lattice_constant_A, m * math.sqrt(3) * lattice_constant_A


def _layers(structure: MultilayerSettings) -> list[tuple[LayerBlock, int, tuple[tuple[str, int], ...]]]:
    """Block, index and occupied sites of each layer, bottom to top; stacked outwards from the interface."""
    below, above = interface_layers(structure)
    return [
        (structure.lower, below - k, _sites(structure, structure.lower, k))
        for k in reversed(range(structure.lower.layers))
    ] + [
        (structure.upper, above + k, _sites(structure, structure.upper, k))
        for k in range(structure.upper.layers)
    ]


def _sites(structure: MultilayerSettings, block: LayerBlock, k: int) -> tuple[tuple[str, int], ...]:
    """Elements and sites of the k-th layer of a block, counted from the interface."""
    turned = structure.layer_order == "natural" and k % 2 == 1
    if block.material == "hbn":
        return _HBN_SITES_SWAPPED if turned else _HBN_SITES
    first, second = _GRAPHENE_SITES[structure.stacking]
    return ("C", first), ("C", 3 - first - second if turned else second)


def _site_lattice(cells: tuple[int, int], site: int) -> np.ndarray:
    """All places of one kind of site in the cell, fractional, shape (2 n m, 2), within [0, 1)."""
    n, m = cells
    x = np.array([0.0, 0.5])
    y = (np.array([0.0, 0.5]) + site / 3) % 1
    columns = (np.arange(n)[:, None, None] + x) / n
    rows = (np.arange(m)[:, None] + y) / m
    return np.stack(np.broadcast_arrays(columns, rows), axis=-1).reshape(-1, 2)
