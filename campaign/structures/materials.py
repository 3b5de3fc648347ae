"""Layered materials: what a layer is made of, and how layers of one material follow each other.

Every layer has a hexagonal lattice with three kinds of sites (see `campaign.structures.sites`). In a
``honeycomb`` two of them are occupied, in one plane. In a ``tmd`` (a dichalcogenide MX2 of 2H type: trigonal
prisms) the metal has one, and two chalcogens, one below and one above the metal, share another; such a layer
X-M-X is one layer.

========  =======  ========  ==========  ==============================================================
name      a (A)    height    distance    source
========  =======  ========  ==========  ==============================================================
graphene  2.461    0         3.354       graphite; Trucano & Chen, Nature 258, 136 (1975)
hbn       2.504    0         3.331       bulk; Pease, Acta Cryst. 5, 356 (1952)
mos2      3.160    1.574     6.147       2H; Bronsema, de Boer, Jellinek, Z. Anorg. Allg. Chem. 540, 15
                                         (1986); M-X 2.41 A
mose2     3.289    1.667     6.464       2H; the same; M-X 2.527 A
ws2       3.153    1.572     6.162       2H; Schutte, de Boer, Jellinek, J. Solid State Chem. 70, 207
                                         (1987); M-X 2.405 A
wse2      3.282    1.670     6.480       2H; the same; M-X 2.526 A
========  =======  ========  ==========  ==============================================================

``distance`` is c/2 of the bulk at room temperature. ``height`` is that of the chalcogens over the metal's
plane, sqrt(d^2 - a^2/3) from the measured bond length d. They are where a calculation starts; a potential has
lattice constants of its own, against which strain counts.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, WithJsonSchema, model_validator

from campaign.quantities import NonNegative, Positive, Settings

BuiltIn = Literal["graphene", "hbn", "mos2", "ws2", "wse2", "mose2"]


class Material(Settings):
    """A layered material.

    Attributes
    ----------
    kind
        ``honeycomb`` (graphene, h-BN) or ``tmd`` (2H dichalcogenide).
    elements
        Of a honeycomb one or two, of a tmd the metal and the chalcogen.
    lattice_constant_A
        Of the hexagonal lattice.
    chalcogen_height_A
        Distance of the chalcogens' planes from the metal's; 0 in a honeycomb.
    layer_distance_A
        Distance of the middles of two layers.
    natural_stacking
        How adjacent layers lie on each other (`campaign.structures.sites`); layers alternate.
    """

    name: str = Field(description="What the spec calls it; the key under materials.")
    kind: Literal["honeycomb", "tmd"] = Field(
        description="honeycomb: one or two elements in a plane; tmd: 2H layers of a metal and a chalcogen."
    )
    elements: tuple[str, ...] = Field(
        min_length=1, max_length=2, description="Chemical symbols; of a tmd first the metal."
    )
    lattice_constant_A: Positive = Field(description="Lattice constant of the hexagonal lattice, in A.")
    chalcogen_height_A: NonNegative = Field(
        default=0.0, description="Distance of the chalcogens' planes from the metal's, in A; only of a tmd."
    )
    layer_distance_A: Positive = Field(description="Distance of the middles of two layers, in A.")
    natural_stacking: Literal["AA", "AAp", "AB"] = Field(
        description="How its own layers lie on each other: AB is graphite, AAp is h-BN and 2H."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        from ase.data import atomic_numbers

        unknown = [element for element in self.elements if not atomic_numbers.get(element)]
        if unknown:
            raise ValueError(f"{unknown[0]!r} is no chemical element")
        if self.kind == "tmd" and len(self.elements) != 2:
            raise ValueError("a tmd has two elements, the metal and the chalcogen")
        if self.kind == "tmd" and self.alike:
            raise ValueError("the metal and the chalcogen of a tmd are different elements")
        if self.alike and self.natural_stacking == "AAp":
            raise ValueError("layers of one element have no stacking AAp; take AA or AB")
        if (self.kind == "tmd") != (self.chalcogen_height_A > 0):
            raise ValueError("chalcogen_height_A is above 0 in a tmd, and left out of a honeycomb")
        if self.gap <= 0:
            raise ValueError("layer_distance_A is less than the layer is thick")
        return self

    @property
    def gap(self) -> float:
        """Distance between the facing planes of atoms of two layers, in angstrom."""
        return self.layer_distance_A - 2 * self.chalcogen_height_A

    @property
    def alike(self) -> bool:
        """Whether all its atoms are of one element."""
        return len(set(self.elements)) == 1

    @property
    def atoms_per_cell(self) -> int:
        """Atoms of a layer in one primitive cell."""
        return 3 if self.kind == "tmd" else 2


def _tmd(name: str, elements: tuple[str, str], lengths_A: tuple[float, float, float]) -> Material:
    lattice_constant_A, height_A, distance_A = lengths_A
    return Material(
        name=name,
        kind="tmd",
        elements=elements,
        lattice_constant_A=lattice_constant_A,
        chalcogen_height_A=height_A,
        layer_distance_A=distance_A,
        natural_stacking="AAp",
    )


MATERIALS: Mapping[str, Material] = {
    material.name: material
    for material in (
        Material(
            name="graphene",
            kind="honeycomb",
            elements=("C",),
            lattice_constant_A=2.461,
            layer_distance_A=3.354,
            natural_stacking="AB",
        ),
        Material(
            name="hbn",
            kind="honeycomb",
            elements=("B", "N"),
            lattice_constant_A=2.504,
            layer_distance_A=3.331,
            natural_stacking="AAp",
        ),
        _tmd("mos2", ("Mo", "S"), (3.160, 1.574, 6.147)),
        _tmd("ws2", ("W", "S"), (3.153, 1.572, 6.162)),
        _tmd("wse2", ("W", "Se"), (3.282, 1.670, 6.480)),
        _tmd("mose2", ("Mo", "Se"), (3.289, 1.667, 6.464)),
    )
}
"""Materials that are built in, by name."""

assert set(MATERIALS) == set(get_args(BuiltIn))

MaterialField = Annotated[
    BuiltIn | Material,
    WithJsonSchema({"type": "string", "examples": list(MATERIALS)}),
]
"""A material in settings: the name of a built-in one, or a whole definition, which so enters the identity.

Specs only have names; `with_definitions` puts those of a user's own materials in.
"""


def definition(material: BuiltIn | Material) -> Material:
    """Return the definition of a material in settings."""
    return material if isinstance(material, Material) else MATERIALS[material]


def with_definitions(settings: Any, own: Mapping[str, Material]) -> Any:
    """Return plain settings with the definition in place of each name of a user's own ``material``."""
    if isinstance(settings, dict):
        return {
            key: own[value].model_dump(mode="json")
            if key == "material" and isinstance(value, str) and value in own
            else with_definitions(value, own)
            for key, value in settings.items()
        }
    return settings
