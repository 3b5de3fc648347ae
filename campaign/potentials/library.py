"""The user's own potentials: NEP models (neuroevolution potentials), one folder for each, by name.

A folder holds the model, ``nep.txt`` in the format of GPUMD, and ``potential.json``, what is known about it.
Any ASE calculator is a potential of the library, too, with a ``potential.json`` that names its class, or a
function that makes one, such as::

    {"calculator": "mace.calculators.MACECalculator", "kwargs": {"model_paths": "my.model"},
     "files": ["my.model"], "elements": ["B", "C", "N"],
     "lattice_constants_A": {"graphene": 2.46, "hbn": 2.51}}
"""

import hashlib
import os
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from campaign.errors import ResourceError, SpecError
from campaign.layout import write_atomic
from campaign.potentials.builtin import BUILTIN
from campaign.potentials.potential import Potential
from campaign.quantities import Positive, Settings

LIBRARY_VARIABLE = "CAMPAIGN_POTENTIALS"
"""Names the folder of the user's own potentials."""

NEP_FILE = "nep.txt"
FACTS_FILE = "potential.json"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
_FORMAT = re.compile(r"nep[345](_zbl)?")
"""First word of a model of energies and forces; others (dipole, polarizability) cannot move atoms."""

_NUMBER = re.compile(r"[-+]?[0-9.]+([eE][-+]?[0-9]+)?")
_SIZES = ("n_max", "basis_size", "l_max", "ANN")
"""Lines of a model's header that say how many numbers follow."""


class ModelFacts(Settings):
    """What is known about a NEP model; ``potential.json``.

    Attributes
    ----------
    lattice_constants_A
        The model's own lattice constant of each material.
    monolayers_only
        It was trained on single layers, and knows nothing of what is between them.
    """

    elements: Annotated[tuple[str, ...], Field(min_length=1)]
    sha256: str
    lattice_constants_A: dict[str, Positive]
    monolayers_only: bool = False
    citations: tuple[str, ...] = ()
    notes: str = "As good as what it was trained on."
    source: str


class CalculatorFacts(Settings):
    """An ASE calculator, as the user writes it; ``potential.json``.

    Attributes
    ----------
    calculator
        Module and class, or what in a module makes one (``ase.calculators.tersoff.Tersoff.from_lammps``).
    kwargs
        Its arguments; files of the potential are named without a folder.
    files
        Names of files in the potential's folder that decide what it computes.
    """

    calculator: Annotated[str, Field(pattern=r"^\w+(\.\w+)+$")]
    kwargs: dict[str, Any] = Field(default_factory=dict)
    files: tuple[str, ...] = ()
    elements: Annotated[tuple[str, ...], Field(min_length=1)]
    lattice_constants_A: dict[str, Positive]
    citations: tuple[str, ...] = ()
    notes: str = "The user's own."


def library() -> Path:
    """Folder of the user's own potentials; it need not exist.

    Raises
    ------
    ResourceError
        ``CAMPAIGN_POTENTIALS`` names no whole path: engines run in folders of their own.
    """
    named = os.environ.get(LIBRARY_VARIABLE)
    if named:
        path = Path(named).expanduser()
        if not path.is_absolute():
            raise ResourceError(
                f"{LIBRARY_VARIABLE} is a relative path: {named}",
                hint=f"give the whole path: {path.absolute()}",
            )
        return path
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "campaign" / "potentials"


def model_folder(name: str) -> Path:
    """Folder of one model."""
    return library() / name


def check_name(name: str, sha256: str, *, replace: bool) -> None:
    """Check that the model with this hash can have a name; ``replace``: also where another model has it.

    Raises
    ------
    SpecError
        It cannot be that of a folder, or a different potential has it.
    """
    if not _NAME.fullmatch(name):
        raise SpecError(
            f"{name!r} is no name for a potential",
            hint="use letters, digits and . _ + -, 64 at most, the first one a letter or a digit",
        )
    if name in BUILTIN:
        raise SpecError(f"{name!r} is the name of a potential of LAMMPS", hint="choose another one")
    if not replace and is_another(name, sha256):
        raise SpecError(f"another potential is called {name!r}", hint="choose another name, or --replace it")


def read_elements(path: Path) -> tuple[str, ...]:
    """Elements of a NEP model, in its own order, from the first line of its file.

    Raises
    ------
    ResourceError
        The file cannot be read, or is no model of energies and forces.
    """
    from ase.data import atomic_numbers

    try:
        with path.open() as file:
            words = file.readline().split()
    except FileNotFoundError as error:
        raise ResourceError("there is no such file", where=str(path)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ResourceError(f"not a NEP model: {error}", where=str(path)) from error
    kind, count, *elements = *words, "", ""
    elements = [element for element in elements if element]
    known = all(atomic_numbers.get(element) for element in elements)
    if not (_FORMAT.fullmatch(kind) and count == str(len(elements)) and elements and known):
        raise ResourceError(
            "not a NEP model", where=str(path), hint="its first line should be like 'nep4 3 B C N'"
        )
    return tuple(elements)


def check_whole(path: Path) -> None:
    """Check that a NEP model has as many numbers as its header promises; what reads half a model crashes.

    For one hidden layer of N neurons, a descriptor of q numbers and T elements there are ``(q + 2) N T + 1``
    of the network (nep4), those of the radial and angular functions of each pair of elements, and q scales.

    Raises
    ------
    ResourceError
        It is no NEP model, or not the whole of it.
    """
    elements = read_elements(path)
    lines = [line.split() for line in path.read_text().splitlines() if line.strip()]
    kind, header, numbers = lines[0][0], dict[str, list[int]](), 0
    for first, *others in lines[1:]:
        if _NUMBER.fullmatch(first):
            numbers += 1 + len(others)
        elif first in _SIZES:
            header[first] = [int(word) for word in others if word.isdigit()]
        elif first == "zbl":
            header["zbl"] = [] if all(float(word) == 0 for word in others) else [0]
    try:
        needed = _numbers(int(kind[3]), len(elements), header)
    except (KeyError, IndexError, ValueError) as error:
        lacking = ", ".join(name for name in _SIZES if not header.get(name)) or "something"
        raise ResourceError(f"not a whole NEP model: its header lacks {lacking}", where=str(path)) from error
    if numbers < needed:
        raise ResourceError(
            f"not a whole NEP model: {numbers:,} of {needed:,} numbers", where=str(path), hint="get it again"
        )


def _numbers(version: int, types: int, header: Mapping[str, list[int]]) -> int:
    """Count the numbers of a NEP model, at least: its network, its functions, its scales, a flexible ZBL."""
    radial, angular = (number + 1 for number in header["n_max"][:2])
    radial_basis, angular_basis = (number + 1 for number in header["basis_size"][:2])
    three, *more = header["l_max"]
    descriptor = radial + angular * (three + sum(number > 0 for number in more))
    layer = (descriptor + 2) * header["ANN"][0]
    network = {3: layer, 4: layer * types, 5: (layer + 1) * types}[version] + 1
    functions = types**2 * (radial * radial_basis + angular * angular_basis)
    flexible = 10 * types * (types + 1) // 2 if header.get("zbl") == [] else 0
    return network + functions + descriptor + flexible


def add_nep(
    path: Path,
    name: str,
    lattice_constants_A: Mapping[str, float],
    *,
    replace: bool = False,
    monolayers_only: bool = False,
) -> Potential:
    """Put a NEP model into the library.

    Parameters
    ----------
    path
        A file in the format of GPUMD (``nep.txt``).
    lattice_constants_A
        The model's own lattice constant of each material.
    replace
        Accept another model in place of one of this name.
    monolayers_only
        It was trained on single layers.

    Raises
    ------
    SpecError
        The name is not one, or a different potential has it.
    ResourceError
        The file cannot be read, or is no NEP.
    """
    facts = ModelFacts(
        elements=read_elements(path),
        sha256=file_sha256(path),
        lattice_constants_A=dict(lattice_constants_A),
        monolayers_only=monolayers_only,
        source=str(path.resolve()),
    )
    return add_model(path, name, facts, replace=replace)


def add_model(path: Path, name: str, facts: ModelFacts, *, replace: bool = False) -> Potential:
    """Put a model of which more is known into the library; otherwise as `add_nep`."""
    check_name(name, facts.sha256, replace=replace)
    folder = model_folder(name)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / NEP_FILE, path.read_bytes())
    write_atomic(folder / FACTS_FILE, facts.model_dump_json(indent=1) + "\n")
    return own_potential(name)


def is_another(name: str, sha256: str) -> bool:
    """Whether the library has something else of that name than the model with this hash."""
    model = model_folder(name) / NEP_FILE
    if model.is_file():
        return file_sha256(model) != sha256
    return (model_folder(name) / FACTS_FILE).is_file()  # what a user wrote by hand for an ASE calculator


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def own_names() -> tuple[str, ...]:
    """Names of the potentials in the library, sorted; folders whose names cannot be one are none."""
    names = (path.parent.name for path in library().glob(f"*/{FACTS_FILE}"))
    return tuple(sorted(name for name in names if _NAME.fullmatch(name) and name not in BUILTIN))


def own_potential(name: str) -> Potential:
    """Read a model of the library.

    Raises
    ------
    ResourceError
        What is known about it cannot be read.
    FileNotFoundError
        There is none of that name.
    """
    if not _NAME.fullmatch(name):
        raise FileNotFoundError(name)
    path = model_folder(name) / FACTS_FILE
    status = path.stat()
    return _read(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=256)
def _read(path: Path, size: int, mtime_ns: int) -> Potential:  # noqa: ARG001 - they make a changed file a new key
    try:
        text = path.read_text()
        # Without a model it is the user's own, also where "calculator" is misspelt.
        if '"calculator"' in text or not ('"sha256"' in text or path.with_name(NEP_FILE).exists()):
            return _calculator(path.parent, CalculatorFacts.model_validate_json(text))
        facts = ModelFacts.model_validate_json(text)
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        reason = _problems(error) if isinstance(error, ValidationError) else str(error)
        added = (path.parent / NEP_FILE).exists()
        hint = "`campaign potentials add` writes it anew" if added else "correct it, or remove its folder"
        raise ResourceError(f"not a potential: {reason}", where=str(path), hint=hint) from error
    return described(path.parent.name, facts)


_WORDS = {
    "string_pattern_mismatch": "should be a name in a module, such as ase.calculators.lj.LennardJones",
    "tuple_type": 'should be a list, such as ["B", "N"]',
    "missing": "is missing",
    "extra_forbidden": "is no key here",
}


def _problems(error: ValidationError) -> str:
    found = ((".".join(map(str, one["loc"])), _WORDS.get(one["type"], one["msg"])) for one in error.errors())
    return "; ".join(f"{key}: {message}" if key else message for key, message in found)


def described(name: str, facts: ModelFacts) -> Potential:
    """Potential of a NEP model with these facts."""
    return Potential(
        name=name,
        description="neuroevolution potential (NEP)" + (", single layers" if facts.monolayers_only else ""),
        elements=facts.elements,
        citations=("Fan, Zeng, Zhang et al., Phys. Rev. B 104, 104309 (2021)", *facts.citations),
        files={NEP_FILE: facts.sha256},
        lattice_constants_A=facts.lattice_constants_A,
        kind="nep",
        notes=facts.notes,
        source=facts.source,
        engines=("gpumd", "ase", "lammps"),
        monolayers_only=facts.monolayers_only,
    )


def _calculator(folder: Path, facts: CalculatorFacts) -> Potential:
    names = (FACTS_FILE, *facts.files)
    return Potential(
        name=folder.name,
        description=f"ASE calculator {facts.calculator}",
        elements=facts.elements,
        citations=facts.citations,
        files={name: file_sha256(folder / name) for name in names},
        lattice_constants_A=facts.lattice_constants_A,
        kind="calculator",
        notes=facts.notes,
        source="the user's own",
        engines=("ase",),
    )
