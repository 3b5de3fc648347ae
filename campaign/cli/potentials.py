"""``campaign potentials``: what there is, what is known about it, and NEP models of the user's own."""

import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from campaign.cli.app import err, out
from campaign.cli.text import fits, folded, make_table
from campaign.errors import CampaignError, EngineNotFoundError, ResourceError, SpecError
from campaign.potentials import (
    Potential,
    Species,
    add_nep,
    get_potential,
    lammps_model,
    potential_files,
    potential_names,
)
from campaign.potentials.files import differing_files
from campaign.potentials.lattice import relaxable_materials, relaxed_lattice_constant
from campaign.potentials.library import (
    FACTS_FILE,
    NEP_FILE,
    CalculatorFacts,
    add_model,
    check_name,
    check_whole,
    described,
    file_sha256,
    is_another,
    library,
    model_folder,
    read_elements,
)
from campaign.potentials.nep import LIBRARIES
from campaign.potentials.published import PUBLISHED
from campaign.structures.materials import MATERIALS, Material

INDENT = " " * 4
MOST_LINES = 8
LARGEST_STRAIN = 0.15
"""Between a model's lattice constant and the measured one."""

_FETCH = "not here: `campaign potentials fetch {}`"


def show_potentials(*, as_json: bool) -> None:
    """Print one line for each potential; also for those that can be fetched."""
    known = list(_all())
    if as_json:
        _dump([_record(potential, state) for potential, state in known])
        return
    rows = [
        {
            "name": potential.name,
            "elements": " ".join(potential.elements),
            "engines": " ".join(potential.engines),
            "layers of": " ".join(potential.lattice_constants_A),
            "pairs": "none" if potential.monolayers_only else "any two",
            "state": state,
        }
        for potential, state in known
    ]
    table = make_table(rows, list(rows[0]), len(rows[0]))
    if fits(out, table):
        out.print(table)
    else:
        for row in rows:
            head, *rest = (
                f"{title}: {text}" if number else text for number, (title, text) in enumerate(row.items())
            )
            out.print(folded(f"{head}: {'; '.join(rest)}", out.width, INDENT), markup=False)
    out.print(f"your own are in {library()}", style="dim", markup=False)


def show_potential(name: str, *, as_json: bool) -> None:
    """Print all that is known about one potential.

    Raises
    ------
    SpecError
        There is none of that name.
    """
    if name in PUBLISHED and name not in potential_names():
        potential, state = described(name, PUBLISHED[name].facts()), _FETCH.format(name)
    else:
        potential = get_potential(name)
        state = _state(potential)
    record = _record(potential, state)
    if as_json:
        _dump(record)
        return
    constants = potential.lattice_constants_A
    lines = {
        "elements": " ".join(potential.elements),
        "engines": " ".join(potential.engines),
        "pairs": " ".join(potential.pairs) or "none: single layers only",
        "lattice constants": ", ".join(f"{material} {value:.4f} A" for material, value in constants.items()),
        "notes": potential.notes,
        "to cite": "; ".join(potential.citations),
        "files": potential.source,
        "state": state,
    }
    out.print(f"{potential.name}: {potential.description}", style="bold", markup=False)
    for title, text in lines.items():
        out.print(folded(f"  {title}: {text}", out.width, INDENT), markup=False)
    for file, sha256 in potential.files.items():
        out.print(f"  {file}: SHA-256 {sha256}", markup=False)
        if file in record["paths"]:
            out.print(f"{INDENT}{record['paths'][file]}", markup=False)
    for engine, told in record["engine_lines"].items():
        out.print(f"  lines of {engine}:", markup=False)
        for line in told[:MOST_LINES]:
            out.print(f"{INDENT}{line}", markup=False)
        if len(told) > MOST_LINES:
            out.print(f"{INDENT}... {len(told)} in all: --json shows them", markup=False)


def add_file(
    path: Path, name: str | None, lattice: Sequence[str], *, monolayers: bool, replace: bool
) -> None:
    """Put a NEP model into the library.

    Its lattice constants are known as it was published or as the same model was added before, to which those
    that are given are added; or only given; or found by relaxing monolayers.

    Raises
    ------
    SpecError
        The name or a lattice constant makes no sense.
    ResourceError
        It is no model, or no program could find its lattice constants.
    """
    given = dict(_lattice_constant(text) for text in lattice)
    elements = read_elements(path)
    strange = given.keys() & MATERIALS.keys() - set(relaxable_materials(elements))
    if strange:
        raise SpecError(
            f"the model of {' '.join(elements)} has no {min(strange)}",
            where=f"--lattice {min(strange)}",
            hint="leave it out",
        )
    for material, lattice_constant_A in given.items():
        _check_plausible(material, lattice_constant_A)
    for material in given.keys() - MATERIALS.keys():
        text = f"{material} is known to a spec that defines it (`materials:`) only"
        err.print(f"campaign: {text}", style="yellow", markup=False)
    sha256 = file_sha256(path)
    known = next((model for model in PUBLISHED.values() if model.sha256 == sha256), None)
    own = name or (_name_of(path) if known is None else known.name)
    check_name(own, sha256, replace=replace)  # before monolayers are relaxed
    check_whole(path)
    if known is None:
        constants = {**_added_before(own, sha256), **given} or _relaxed(path, elements)
        potential = add_nep(path, own, constants, replace=replace, monolayers_only=monolayers)
    else:
        facts = known.facts()
        constants = {**facts.lattice_constants_A, **given}
        facts = facts.model_copy(update={"lattice_constants_A": constants})
        potential = add_model(path, own, facts, replace=replace)
    out.print(_added(potential), markup=False)


def fetch_model(name: str, url: str | None) -> None:
    """Fetch a published model into the library; see `campaign.potentials.fetch.fetch`."""
    from campaign.potentials.fetch import fetch

    out.print(_added(fetch(name, url)), markup=False)


def _state(potential: Potential) -> str:
    """Say whether its files are there, and whether they are those that are described."""
    try:
        different = differing_files(potential)
    except CampaignError as error:
        return str(error)
    return (
        f"installed, but not the files described here: {', '.join(different)}" if different else "installed"
    )


def _all() -> Iterator[tuple[Potential, str]]:
    """All potentials with the state of each, those that can be fetched last."""
    names = potential_names()
    for name in names:
        try:
            potential = get_potential(name)
        except ResourceError as error:  # a damaged entry of the library must not hide the others
            err.print(f"campaign: {error}", style="yellow", markup=False)
        else:
            yield potential, _state(potential)
    for name, model in PUBLISHED.items():
        if name not in names:
            yield described(name, model.facts()), _FETCH.format(name)


def _record(potential: Potential, state: str) -> dict[str, Any]:
    try:
        paths = {name: str(path) for name, path in potential_files(potential).items()}
    except CampaignError:
        paths = {}
    return {
        "name": potential.name,
        "description": potential.description,
        "elements": potential.elements,
        "engines": potential.engines,
        "pairs": potential.pairs,
        "lattice_constants_A": dict(potential.lattice_constants_A),
        "notes": potential.notes,
        "citations": potential.citations,
        "files": dict(potential.files),
        "paths": paths,
        "engine_lines": {engine: list(_engine_lines(potential, engine)) for engine in potential.engines},
        "source": potential.source,
        "state": state,
    }


def _engine_lines(potential: Potential, engine: str) -> Iterator[str]:
    """Tell what an engine reads for a potential; LAMMPS for two layers, of its first and last material."""
    if engine == "lammps":
        materials = list(potential.lattice_constants_A)
        layers = [
            _species(MATERIALS[name]) for name in (*materials[:1], *materials[-1:]) if name in MATERIALS
        ]
        if layers:
            yield from lammps_model(potential, layers[:1] if potential.monolayers_only else layers).pair_lines
    elif engine == "gpumd":
        yield f"potential {NEP_FILE}"
    elif potential.kind == "nep":
        yield f"{' or '.join(LIBRARIES)}, of {NEP_FILE}"
    else:
        facts = CalculatorFacts.model_validate_json((model_folder(potential.name) / FACTS_FILE).read_text())
        yield f"{facts.calculator}(**{facts.kwargs})"


def _species(material: Material) -> list[Species]:
    if material.kind == "honeycomb":
        return [Species(element) for element in dict.fromkeys(material.elements)]
    metal, chalcogen = material.elements
    return [Species(chalcogen, 0), Species(metal, 1), Species(chalcogen, 2)]


def _dump(value: object) -> None:
    json.dump(value, sys.stdout, indent=1)
    sys.stdout.write("\n")


def _added(potential: Potential) -> str:
    constants = ", ".join(f"{name} {value:.4f} A" for name, value in potential.lattice_constants_A.items())
    return (
        f"{potential.name} ({' '.join(potential.elements)}) is in {library()}; lattice constants: {constants}"
    )


def _name_of(path: Path) -> str:
    """Name for a file without one: ``ws2.nep.txt`` -> ``ws2``."""
    name = path.name.removesuffix(".txt").removesuffix(".nep")
    if name == "nep":
        raise SpecError("the file's name says nothing", where=str(path), hint="give one with --name")
    return name


def _lattice_constant(text: str) -> tuple[str, float]:
    material, _, value = text.partition("=")
    try:
        lattice_constant_A = float(value)
    except ValueError:
        lattice_constant_A = math.nan
    if not (material and 0 < lattice_constant_A < math.inf):
        raise SpecError(
            f"{text!r} is no lattice constant",
            where="--lattice",
            hint="write MATERIAL=ANGSTROM: graphene=2.46",
        )
    return material, lattice_constant_A


def _check_plausible(material: str, lattice_constant_A: float) -> None:
    """Refuse a slip of the decimal point: models differ from experiments by a few percent."""
    known = MATERIALS.get(material)
    if known and abs(lattice_constant_A / known.lattice_constant_A - 1) > LARGEST_STRAIN:
        raise SpecError(
            f"{lattice_constant_A:g} A is not the lattice constant of {material}",
            where="--lattice",
            hint=f"it is near {known.lattice_constant_A:g} A",
        )


def _added_before(name: str, sha256: str) -> dict[str, float]:
    """Lattice constants of the same model, if the library has it under this name."""
    if name not in potential_names() or is_another(name, sha256):
        return {}
    try:
        return dict(get_potential(name).lattice_constants_A)
    except ResourceError:  # damaged: it is written anew
        return {}


def _relaxed(path: Path, elements: Sequence[str]) -> dict[str, float]:
    """Lattice constants of the materials that a model can do; what it has no monolayer of is told."""
    found: dict[str, float] = {}
    for material in relaxable_materials(elements):
        try:
            lattice_constant_A = relaxed_lattice_constant(path, material)
        except EngineNotFoundError as error:
            raise EngineNotFoundError(
                error.message,
                where=str(path),
                hint=f"give its lattice constants, as in --lattice {material}=ANGSTROM, or {error.hint}",
            ) from None
        if lattice_constant_A is None:
            err.print(f"campaign: it has no monolayer of {material}, which is left out", style="yellow")
        else:
            found[material] = round(lattice_constant_A, 4)
    if not found:
        raise SpecError(
            "it has no monolayer of any material that is known here",
            where=str(path),
            hint="give its lattice constants with --lattice MATERIAL=ANGSTROM",
        )
    return found
