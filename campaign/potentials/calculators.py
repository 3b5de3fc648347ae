"""ASE calculators of potentials, and what they must give for which steps of a simulation."""

import importlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ase.calculators.calculator import BaseCalculator

from campaign.errors import EngineNotFoundError, InputError, ResourceError, SpecError
from campaign.potentials.files import potential_files
from campaign.potentials.library import FACTS_FILE, NEP_FILE, CalculatorFacts
from campaign.potentials.nep import NepCalculator, nep_version
from campaign.potentials.potential import Potential


def make_calculator(potential: Potential) -> BaseCalculator:
    """Make the calculator of a potential: a NEP model, or what ``potential.json`` of the library names.

    Raises
    ------
    EngineNotFoundError
        The library that has it is not installed.
    ResourceError
        ``potential.json`` names no calculator, or its arguments do not fit.
    """
    files = potential_files(potential)
    if potential.kind == "nep":
        return NepCalculator(files[NEP_FILE])
    path = files[FACTS_FILE]
    facts = CalculatorFacts.model_validate_json(path.read_text())
    try:
        calculator: BaseCalculator = _calculator_class(path, facts)(**_placed(facts.kwargs, files))
    except (TypeError, ValueError) as error:
        raise ResourceError(f"the calculator does not take its kwargs: {error}", where=str(path)) from error
    return calculator


def _placed(value: Any, files: Mapping[str, Path]) -> Any:
    """Arguments with the files of the potential, which are named without a folder, where they lie."""
    if isinstance(value, dict):
        return {key: _placed(item, files) for key, item in value.items()}
    if isinstance(value, list):
        return [_placed(item, files) for item in value]
    return str(files[value]) if isinstance(value, str) and value in files else value


def _calculator_class(path: Path, facts: CalculatorFacts) -> Any:
    """Import the calculator that a ``potential.json`` names; errors as `make_calculator`."""
    dotted = facts.calculator
    module, _, name = dotted.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise EngineNotFoundError(
            f"{dotted} cannot be imported: {error}",
            where=str(path),
            hint="install the package that has it",
        ) from error
    except (AttributeError, ValueError) as error:
        raise ResourceError(f"there is no calculator {dotted}: {error}", where=str(path)) from error


def calculator_version(potential: Potential) -> str:
    """Tell what computes the forces, for provenance."""
    return nep_version() if potential.kind == "nep" else potential.description


_NEEDED: Mapping[str, tuple[str, str]] = {
    "npt": ("stress", "the stress, which a step at constant pressure needs"),
    "nvt": ("stress", "the stress, which is recorded"),
    "nve": ("stress", "the stress, which is recorded"),
    "heat_flow": ("energies", "energies per atom, which the heat flow across an interface needs"),
}
"""Property that a step needs, by the step's name."""


def check_calculator(calculator: BaseCalculator, steps: Iterable[str]) -> None:
    """Check that a calculator can do what steps of these names need.

    Raises
    ------
    InputError
        It lacks the stress for a step at constant pressure, or energies per atom for a heat flow, of which
        the energies of both sides are recorded.
    """
    lacking = _lacking(calculator.implemented_properties, steps)
    if lacking:
        raise InputError(f"{type(calculator).__name__} does not give {lacking}", where="potential")


def check_potential(potential: Potential, steps: Iterable[str]) -> None:
    """Do the same for an ASE calculator of the library, without making it.

    Some calculators know only when they are made what they can do; these pass here.

    Raises
    ------
    SpecError
        As `check_calculator`; other errors as `make_calculator`.
    """
    path = potential_files(potential)[FACTS_FILE]
    kind = _calculator_class(path, CalculatorFacts.model_validate_json(path.read_text()))
    has = getattr(kind, "implemented_properties", ())
    lacking = _lacking(has, steps) if has else None
    if lacking:
        raise SpecError(f"{kind.__name__} does not give {lacking}", where="potential")


def _lacking(properties: Sequence[str], steps: Iterable[str]) -> str | None:
    lacks = (what for step, (name, what) in _NEEDED.items() if step in steps and name not in properties)
    return next(lacks, None)
