"""Which stacking a graphene/h-BN interface has, from positions, under thermal motion and rigid sliding.

The centre of a carbon hexagon lies above the centre of an h-BN hexagon in AA, above B in AB, and above N in
ABp (see `campaign.structures.sites`). So the registry at a place is the lateral shift u of the carbon
hexagon centres there against the h-BN lattice, modulo that lattice.

Lattices are located by waves rather than by atoms. For a reciprocal vector G of the first star of a layer's
own mean lattice, the sum over its atoms of exp(i G.r) has the phase G.r0, with r0 a lattice position: that
of B when only B is summed, and that of the hexagon centre, with a minus sign, when both sublattices are
(each centre has neighbours at +t and -t for every direction t of a bond, and 2 cos(G.t) = 2 cos(2 pi/3) =
-1). The sum is taken with a Gaussian window around each place, so some hundred atoms average over the
thermal motion. Phases of both layers are compared at the same place, after each one's own G.r is taken out;
so a moire, whose layers have different G, needs nothing else, and equal cells with a domain wall show it.

A place belongs to AA, AB or ABp where u is within 0.5 angstrom of its ideal value (B or N within 0.5
angstrom of the nearest C, as the regions of the authors' relaxed bilayer were found), and otherwise to the
domain walls. Ideal values are a/sqrt(3) = 1.44 angstrom apart, so in an unrelaxed moire each of the three
has 15 % of the area.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from campaign.structures.layers import LayerBlock
from campaign.structures.supercells import is_orthogonal

REGISTRY_RADIUS_A = 0.5
"""Largest distance of the local shift from that of an ideal stacking that still counts as this stacking."""

WINDOW_A = 5.0
"""Standard deviation of the Gaussian window; it averages over some hundred atoms."""

GRID_SPACING_A = 1.0
"""Largest distance of the places at which the registry is found."""

_BORON, _CARBON, _NITROGEN = 5, 6, 7


class RegistryLabel(StrEnum):
    """What an interface as a whole is called."""

    AA = "AA"
    AB = "AB"
    ABP = "ABp"
    DW = "DW"
    MOIRE = "moire"


@dataclass(frozen=True)
class InterfaceRegistry:
    """Registry of two adjacent layers.

    Attributes
    ----------
    AA, AB, ABp, DW
        Fractions of the area; DW (domain wall) is what belongs to none of the others. They sum to 1.
    label
        ``moire`` where the layers have different numbers of cells, otherwise the one with most of the area.
    """

    AA: float
    AB: float
    ABp: float
    DW: float
    label: RegistryLabel


def has_named_registry(lower: LayerBlock, upper: LayerBlock) -> bool:
    """Whether `interface_registry` can classify the interface: graphene and h-BN, zigzag along x in both."""
    elements = {frozenset(block.definition.elements) for block in (lower, upper)}
    zigzag = all(
        supercell[0][1] == 0 and is_orthogonal(supercell) for supercell in (lower.whole, upper.whole)
    )
    return zigzag and elements == {frozenset("C"), frozenset("BN")}


def interface_registry(
    positions_upper: ArrayLike,
    numbers_upper: ArrayLike,
    positions_lower: ArrayLike,
    numbers_lower: ArrayLike,
    cell_xy: ArrayLike,
) -> InterfaceRegistry:
    """Classify the registry of a graphene layer and an h-BN layer, in either order.

    Parameters
    ----------
    positions_upper, positions_lower
        In angstrom, shape (atoms, 2) or (atoms, 3), z ignored; wrapped or not.
    numbers_upper, numbers_lower
        Atomic numbers, shape (atoms,).
    cell_xy
        Lengths of the orthogonal periodic cell along x (zigzag) and y (armchair) in angstrom, shape (2,).

    Raises
    ------
    ValueError
        The layers are not one of graphene and one of h-BN, or no whole layers of four-atom cells.
    """
    lengths = np.asarray(cell_xy, dtype=float)
    layers = [
        (np.asarray(positions, dtype=float)[:, :2], np.asarray(numbers))
        for positions, numbers in ((positions_upper, numbers_upper), (positions_lower, numbers_lower))
    ]
    elements = [set(np.unique(numbers).tolist()) for _, numbers in layers]
    if {_CARBON} not in elements or {_BORON, _NITROGEN} not in elements:
        raise ValueError("the interface is not one of a graphene layer and an h-BN layer")
    graphene_xy, _ = layers[elements.index({_CARBON})]
    hbn_xy, hbn_numbers = layers[elements.index({_BORON, _NITROGEN})]

    graphene_cells, hbn_cells = _cells(len(graphene_xy), lengths), _cells(len(hbn_xy), lengths)
    graphene_orders, hbn_orders = _first_star(graphene_cells), _first_star(hbn_cells)
    shape = np.ceil(lengths / GRID_SPACING_A).astype(int)
    carbon = _local_waves(graphene_xy, graphene_orders, lengths, shape)
    boron, nitrogen = (
        _local_waves(hbn_xy[hbn_numbers == number], hbn_orders, lengths, shape)
        for number in (_BORON, _NITROGEN)
    )
    # The layers' own G.r, which differ in a moire, at the centre of each bin.
    places = np.stack(np.meshgrid(*((np.arange(n) + 0.5) / n for n in shape), indexing="ij"))
    own = np.exp(2j * np.pi * np.tensordot(graphene_orders - hbn_orders, places, axes=1))
    references = {"AA": -boron - nitrogen, "AB": boron, "ABp": nitrogen}
    lattice = lengths / hbn_cells
    fractions = {
        name: float(np.mean(_shift_length(-carbon / own * wave.conj(), lattice) <= REGISTRY_RADIUS_A))
        for name, wave in references.items()
    }
    fractions["DW"] = 1 - sum(fractions.values())
    label = "moire" if graphene_cells != hbn_cells else max(fractions, key=fractions.__getitem__)
    return InterfaceRegistry(**fractions, label=RegistryLabel(label))


def _cells(atoms: int, lengths: NDArray[np.float64]) -> tuple[int, int]:
    """Numbers of rectangular four-atom cells (a by sqrt(3) a) along x and y of a whole layer."""
    lattice_constant = np.sqrt(4 * lengths.prod() / (np.sqrt(3) * max(atoms, 1)))
    n, m = np.rint(lengths / (lattice_constant * np.array([1, np.sqrt(3)]))).astype(int).tolist()
    if 4 * n * m != atoms:
        raise ValueError(
            f"{atoms} atoms in {lengths[0]:.2f} x {lengths[1]:.2f} A are no layer of four-atom cells"
        )
    return n, m


def _first_star(cells: tuple[int, int]) -> NDArray[np.int_]:
    """Two primitive reciprocal vectors of a layer, in units of 2 pi / cell length; rows, shape (2, 2)."""
    n, m = cells
    return np.array([[n, -m], [0, 2 * m]])


def _local_waves(
    xy: NDArray[np.float64], orders: NDArray[np.int_], lengths: NDArray[np.float64], shape: NDArray[np.int_]
) -> NDArray[np.complex128]:
    """Sum of exp(i G.r) over the atoms, in a Gaussian window around each bin; shape (2, *shape)."""
    fractional = (xy / lengths) % 1
    bins = np.minimum((fractional * shape).astype(int), shape - 1)
    flat = np.ravel_multi_index(tuple(bins.T), tuple(shape))
    phases = 2 * np.pi * fractional @ orders.T
    waves = np.stack(
        [
            np.bincount(flat, np.cos(phase), shape.prod())
            + 1j * np.bincount(flat, np.sin(phase), shape.prod())
            for phase in phases.T
        ]
    ).reshape(2, *shape)
    kx, ky = (2 * np.pi * np.fft.fftfreq(n, length / n) for n, length in zip(shape, lengths, strict=True))
    window = np.exp(-(WINDOW_A**2) * (kx[:, None] ** 2 + ky**2) / 2)
    return np.fft.ifft2(np.fft.fft2(waves) * window)


def _shift_length(waves: NDArray[np.complex128], lattice: NDArray[np.float64]) -> NDArray[np.float64]:
    """Length of the shift u, modulo the lattice, that has the phases G.u; ``lattice`` is (a, sqrt(3) a)."""
    ax, ay = lattice
    primitive = np.array([[ax, 0], [ax / 2, ay / 2]])
    coefficients = np.angle(waves) / (2 * np.pi)
    images = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1], indexing="ij"), axis=-1).reshape(-1, 2)
    shifts = [np.tensordot(primitive.T, coefficients + image[:, None, None], axes=1) for image in images]
    length: NDArray[np.float64] = np.linalg.norm(shifts, axis=1).min(axis=0)
    return length
