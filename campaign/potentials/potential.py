"""What a potential is, and which stacks of layers it can describe."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Literal


@dataclass(frozen=True)
class LammpsTerm:
    """A many-body term of LAMMPS: its pair style, its parameter file, and the elements it is used for."""

    style: str
    file: str
    elements: tuple[str, ...]


@dataclass(frozen=True)
class Potential:
    """A named interatomic model.

    Attributes
    ----------
    elements
        Elements that it knows.
    citations
        What to cite when it is used.
    files
        SHA-256 of its files by name, as they were when the potential was described here; those of a LAMMPS
        ``potentials`` folder, or the model in the user's library.
    lattice_constants_A
        Its own lattice constant of each material, a free-standing flat or 2H monolayer at 0 K.
    notes
        What it is good for, and what not.
    source
        Where its files come from.
    engines
        Engines that can run it.
    kind
        ``lammps``: of styles of LAMMPS, with the terms below; ``nep``: a neuroevolution potential;
        ``calculator``: what an ASE calculator does. The latter two make no difference between terms in and
        between layers.
    layer_terms
        Terms within a layer; no two of them share an element.
    interlayer_term
        The term between layers where it has a file, which is ILP; without it they are 12-6 Lennard-Jones.
    monolayers_only
        It says nothing about what happens between layers.
    """

    name: str
    description: str
    elements: tuple[str, ...]
    citations: tuple[str, ...]
    files: Mapping[str, str]
    lattice_constants_A: Mapping[str, float]
    notes: str
    source: str
    engines: tuple[str, ...]
    kind: Literal["lammps", "nep", "calculator"] = "lammps"
    layer_terms: tuple[LammpsTerm, ...] = ()
    interlayer_term: LammpsTerm | None = None
    monolayers_only: bool = False

    @property
    def pairs(self) -> tuple[str, ...]:
        """Interfaces of the materials that it knows, such as ``graphene/hbn``."""
        if self.monolayers_only:
            return ()
        materials = combinations_with_replacement(self.lattice_constants_A, 2)
        return tuple(f"{first}/{second}" for first, second in materials)

    def reason_against(self, layers: Sequence[Collection[str]]) -> str | None:
        """Say why it cannot describe a stack, given by the elements of each layer; None where it can."""
        unknown = set().union(*layers) - set(self.elements)
        if unknown:
            return f"{self.name} does not know {', '.join(sorted(unknown))}"
        for elements in layers if self.layer_terms else ():
            if not any(set(elements) <= set(term.elements) for term in self.layer_terms):
                return f"{self.name} has no terms for a layer of {', '.join(sorted(set(elements)))}"
        if self.monolayers_only and len(layers) > 1:
            return f"{self.name} is made for single layers"
        return None
