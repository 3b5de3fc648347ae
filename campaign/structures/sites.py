"""Which sites the atoms of a layer take, and so what lies above what.

The sites of a hexagonal lattice are of three kinds, a / sqrt(3) apart along the armchair direction, counted
0, 1, 2. A layer of two kinds of atoms has its first one (B, or the metal) on site p, its second one (N, or
the chalcogens) on site q; the third site is the centre of the hexagon. A stacking says where the other layer
has its first and its second kind:

=====  ========  ============================================================================
name   sites     meaning (first and second kind of the other layer)
=====  ========  ============================================================================
AA     p, q      each above its own kind
AAp    q, p      first above second, second above first (bulk h-BN, 2H dichalcogenides)
AB     q, third  first above second, second above the hexagon's centre (3R dichalcogenides)
ABp    p, third  first above first, second above the centre
ApB    third, q  first above the centre, second above second
DW     halfway   from ABp to AB, as in the middle of a domain wall
=====  ========  ============================================================================

AA, AAp, AB, ABp and ApB are the paper's AA, AA', AB, AB' and A'B for h-BN on h-BN. Graphene has one kind of
atom, so some fall together: graphene on h-BN has AA (one C above B, one above N; highest energy), AB (above N
and the centre), ABp (above B and the centre; lowest) and DW; graphene on itself AA and AB (Bernal: p, third).
These are the names of arXiv:2502.13601 (Fig. 2, S1); with graphene below h-BN they mean the same pairs. The
paper's own DW is a little nearer to ABp: 2.0 meV/atom above it with the paper's model, halfway is 2.4.

A layer turned by 60 degrees has its kinds exchanged: AA and AB are parallel, the other ones antiparallel. A
moire of two layers of two kinds is parallel at a twist of 0 and antiparallel at 60 degrees.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BeforeValidator

from campaign.structures.materials import Material

Stacking = Literal["AA", "AAp", "AB", "ABp", "ApB", "DW", "moire"]


def _without_prime(name: object) -> object:
    return name.replace("'", "p") if isinstance(name, str) else name


StackingField = Annotated[
    Stacking,
    BeforeValidator(
        _without_prime,
        json_schema_input_type=Literal["AA", "AAp", "AA'", "AB", "ABp", "AB'", "ApB", "A'B", "DW", "moire"],
    ),
]
"""A stacking in settings, where a p may be written as the paper's prime."""

Sites = tuple[float, float]
"""Sites of the first and the second kind of atoms of a layer."""

REFERENCE: Sites = (0, 1)


@dataclass(frozen=True)
class Plane:
    """Atoms of one element in a plane of a layer; ``height_A`` counts from the layer's middle."""

    element: str
    site: float
    sublayer: int
    height_A: float


def planes(material: Material, sites: Sites) -> tuple[Plane, ...]:
    """Atoms of a layer in one primitive cell, with sublayers 0, or 0, 1, 2 from the bottom in a tmd."""
    first, second = sites
    if material.kind == "honeycomb":
        kinds = list(zip((material.elements * 2)[:2], sites, strict=True))
        if not material.alike:
            kinds.sort(key=lambda kind: kind[1])  # the order of atoms that structures have had from the start
        return tuple(Plane(element, site, 0, 0.0) for element, site in kinds)
    metal, chalcogen = material.elements
    height = material.chalcogen_height_A
    return (
        Plane(chalcogen, second, 0, -height),
        Plane(metal, first, 1, 0.0),
        Plane(chalcogen, second, 2, height),
    )


def stackings(lower: Material, upper: Material) -> tuple[Stacking, ...]:
    """Stackings that two layers of equal cells can have."""
    if lower.alike and upper.alike:
        return "AA", "AB"
    if lower.alike or upper.alike:
        return "AA", "AB", "ABp", "DW"
    return "AA", "AAp", "AB", "ABp", "ApB"


def interface_sites(stacking: Stacking, lower: Material, upper: Material) -> tuple[Sites, Sites]:
    """Sites of the lower and the upper layer; those of a moire, which has all stackings, at the origin.

    The layer of two kinds keeps its sites where the other has one kind: names are the same upside down.
    """
    if stacking == "moire":
        stacking = "ABp" if lower.alike or upper.alike else "AA"
    if lower.alike and not upper.alike:
        return _sites_above(stacking, alike=False), REFERENCE
    return REFERENCE, _sites_above(stacking, alike=lower.alike and upper.alike)


def next_layer(sites: Sites, material: Material, stacking: Stacking) -> Sites:
    """Sites of the next layer of the same material."""
    first, second = sites
    moved = _sites_above(stacking, alike=material.alike)
    place = {0: first, 1: second, 2: (2 * second - first) % 3}
    return place[int(moved[0])], place[int(moved[1])]


def _sites_above(stacking: Stacking, *, alike: bool) -> Sites:
    if alike:
        return (0, 1) if stacking == "AA" else (0, 2)
    return _ABOVE[stacking]


_ABOVE: dict[Stacking, Sites] = {
    "AA": (0, 1),
    "AAp": (1, 0),
    "AB": (1, 2),
    "ABp": (0, 2),
    "ApB": (2, 1),
    "DW": (-0.5, 1.5),
}
