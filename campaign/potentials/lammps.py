"""A potential as LAMMPS reads it: types of atoms and pair lines for a given sequence of layers.

Layer classes. LAMMPS types are (element, sublayer, layer mod 4). Lennard-Jones terms act only between layers
of different classes: with a cutoff of 10 angstrom, layers four apart never meet. Four flat layers are 13
angstrom, and dichalcogenides, which are thicker, only add to the gaps between (21 angstrom for four of them).
Terms inside layers are given once per class, each as its own sub-style. Their ranges (2.1 angstrom for
Tersoff, 3.4 for Stillinger-Weber) never reach another layer, so energies are the same, and each sub-style
walks a short list of neighbours instead of the long one of the terms between layers: T+LJ runs twice as fast
on 540 atoms, Stillinger-Weber and LJ 1.4 times.

Sublayers. The chalcogens below and above the metal of a dichalcogenide have types of their own, because ILP
finds the normal of a plane of atoms from neighbours of the same type.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import NamedTuple

from campaign.errors import InputError
from campaign.potentials.lennard_jones import lj_parameters
from campaign.potentials.potential import LammpsTerm, Potential
from campaign.potentials.registry import check_layers

NEP_FIX = "nep"
"""Name of the ``fix external`` through which LAMMPS gets the forces of a NEP."""

LAYER_CLASSES = 4
"""Layers k and k + 4 share their LAMMPS types."""

LJ_CUTOFF_A = 10.0
ILP_CUTOFF_A = 16.0


class Species(NamedTuple):
    """An element in a layer; sublayer 0 for flat layers, 0, 1, 2 for chalcogen, metal, chalcogen."""

    element: str
    sublayer: int = 0


class AtomType(NamedTuple):
    """What a LAMMPS type stands for."""

    element: str
    sublayer: int
    layer_class: int


@dataclass(frozen=True)
class LammpsModel:
    """A potential as LAMMPS reads it, for a given sequence of layers.

    Attributes
    ----------
    types
        What each LAMMPS type stands for; types count from 1, in this order.
    layer_classes
        Number of layer classes: 4, or fewer for fewer layers.
    masses
        In u, by type.
    pair_lines
        ``pair_style`` and ``pair_coeff``, for a NEP its ``fix external``. Files are named without a folder:
        LAMMPS finds them where ``LAMMPS_POTENTIALS`` points, which is to be set to `potential_folders`,
        joined by ``:``.
    neighbor_lines
        ``neighbor`` and ``neigh_modify``.
    """

    types: tuple[AtomType, ...]
    layer_classes: int
    masses: tuple[float, ...]
    pair_lines: tuple[str, ...]
    neighbor_lines: tuple[str, ...]

    def type_of(self, element: str, layer: int, sublayer: int = 0) -> int:
        """LAMMPS type (from 1) of an element in a layer (from 0 at the bottom)."""
        return self._numbers[AtomType(element, sublayer, layer % self.layer_classes)]

    @cached_property
    def _numbers(self) -> dict[AtomType, int]:
        return {key: number for number, key in enumerate(self.types, 1)}


def lammps_model(potential: Potential, layers: Sequence[Sequence[Species]]) -> LammpsModel:
    """Lines for LAMMPS; atoms need a molecule id that counts layers from 1 (ILP reads it).

    Parameters
    ----------
    layers
        What each layer is made of, bottom to top.

    Raises
    ------
    SpecError
        The potential cannot describe these layers.
    InputError
        It is not made of LAMMPS' own terms.
    """
    from ase.data import atomic_masses, atomic_numbers

    check_layers(potential, [[species.element for species in layer] for layer in layers])
    if potential.kind == "nep":
        return _nep_model(layers)
    if not potential.layer_terms:
        raise InputError(f"{potential.name} has no lines for LAMMPS of its own")
    classes = min(LAYER_CLASSES, len(layers))
    present = {AtomType(*species, k % classes) for k, layer in enumerate(layers) for species in layer}
    types = tuple(sorted(present, key=lambda kind: (kind.layer_class, kind.element, kind.sublayer)))
    styles, lines = _layer_lines(potential.layer_terms, types, classes)
    neighbor = ["neighbor 1.0 bin", "neigh_modify every 1 delay 0 check yes"]
    if classes == 1:
        pass  # nothing is between layers, and LAMMPS refuses a style that acts on nothing
    elif potential.interlayer_term is None:
        styles.append(f"lj/cut {LJ_CUTOFF_A}")
        lines += _lj_lines(potential.layer_terms, types)
    else:
        styles.append(f"{potential.interlayer_term.style} {ILP_CUTOFF_A} 1")
        lines.append(_pair_line(potential.interlayer_term, "", [kind.element for kind in types]))
        # The default limits of a list are too small for a cutoff of 16 angstrom.
        neighbor.append("neigh_modify one 20000 page 400000")
    return LammpsModel(
        types=types,
        layer_classes=classes,
        masses=tuple(float(atomic_masses[atomic_numbers[kind.element]]) for kind in types),
        pair_lines=(f"pair_style hybrid/overlay {' '.join(styles)}", *lines),
        neighbor_lines=tuple(neighbor),
    )


def _nep_model(layers: Sequence[Sequence[Species]]) -> LammpsModel:
    """Types by element and sublayer; forces come from the process that runs LAMMPS (`engines.lammps_nep`)."""
    from ase.data import atomic_masses, atomic_numbers

    types = sorted({AtomType(species.element, species.sublayer, 0) for layer in layers for species in layer})
    return LammpsModel(
        types=tuple(types),
        layer_classes=1,
        masses=tuple(float(atomic_masses[atomic_numbers[kind.element]]) for kind in types),
        pair_lines=(
            "# No pair style: forces, energies and virial come from outside.",
            "pair_style zero 2.0",
            "pair_coeff * *",
            f"fix {NEP_FIX} all external pf/callback 1 1",
            f"fix_modify {NEP_FIX} energy yes virial yes",
        ),
        neighbor_lines=("neighbor 1.0 bin", "neigh_modify every 1 delay 0 check yes"),
    )


def _layer_lines(
    terms: Sequence[LammpsTerm], types: Sequence[AtomType], classes: int
) -> tuple[list[str], list[str]]:
    """Sub-styles and ``pair_coeff`` of the terms inside layers: one of each for each class that has it."""
    members = {
        (k, term): [kind.element if kind.layer_class == k else "NULL" for kind in types]
        for k in range(classes)
        for term in terms
        if any(kind.layer_class == k and kind.element in term.elements for kind in types)
    }
    styles = [term.style for _, term in members]
    lines = []
    for number, ((_, term), elements) in enumerate(members.items()):
        # A style that occurs once takes no number.
        counted = f" {styles[: number + 1].count(term.style)}" if styles.count(term.style) > 1 else ""
        own = [element if element in term.elements else "NULL" for element in elements]
        lines.append(_pair_line(term, counted, own))
    return styles, lines


def _pair_line(term: LammpsTerm, number: str, elements: Sequence[str]) -> str:
    return f"pair_coeff * * {term.style}{number} {term.file} {' '.join(elements)}"


def _lj_lines(terms: Sequence[LammpsTerm], types: Sequence[AtomType]) -> list[str]:
    lines = []
    for (i, first), (j, second) in combinations(enumerate(types, 1), 2):
        if first.layer_class != second.layer_class:
            depth_eV, sigma_A = lj_parameters(first.element, second.element)
            lines.append(f"pair_coeff {i} {j} lj/cut {depth_eV:.12g} {sigma_A:.12g}")
        elif not any({first.element, second.element} <= set(term.elements) for term in terms):
            # Layers four apart share a class and never meet, but LAMMPS wants to be told about every pair.
            lines.append(f"pair_coeff {i} {j} none")
    return lines
