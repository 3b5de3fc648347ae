"""ASE calculators of potentials, and what they must give for which steps of a simulation."""

import importlib
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
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
        calculator = _calculator_class(path, facts)(**_placed(facts.kwargs, files))
    except (TypeError, ValueError) as error:
        raise ResourceError(f"the calculator does not take its kwargs: {error}", where=str(path)) from error
    if not isinstance(calculator, BaseCalculator):
        raise ResourceError(f"{facts.calculator} makes no ASE calculator", where=str(path))
    return calculator


def _placed(value: Any, files: Mapping[str, Path]) -> Any:
    """Arguments with the files of the potential, which are named without a folder, where they lie."""
    if isinstance(value, dict):
        return {key: _placed(item, files) for key, item in value.items()}
    if isinstance(value, list):
        return [_placed(item, files) for item in value]
    return str(files[value]) if isinstance(value, str) and value in files else value


def _calculator_class(path: Path, facts: CalculatorFacts) -> Any:
    """Import the class that a ``potential.json`` names, or what makes one; errors as `make_calculator`."""
    dotted = facts.calculator
    try:
        return _resolved(dotted.split("."))
    except ImportError as error:
        raise EngineNotFoundError(
            f"{dotted} cannot be imported: {error}",
            where=str(path),
            hint="install the package that has it",
        ) from error
    except (AttributeError, ValueError) as error:
        raise ResourceError(f"there is no calculator {dotted}: {error}", where=str(path)) from error


def _resolved(names: Sequence[str]) -> Any:
    """Import the longest part of a dotted name that is a module, and take the rest from it."""
    for length in range(len(names) - 1, 0, -1):
        module = ".".join(names[:length])
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module or length == 1:  # something that the module itself needs
                raise
        else:
            return reduce(getattr, names[length:], found)
    raise ValueError("a name in a module is needed")


def calculator_version(potential: Potential) -> str:
    """Tell what computes the forces, for provenance."""
    return nep_version() if potential.kind == "nep" else potential.description


def check_calculator(calculator: BaseCalculator, steps: Iterable[str]) -> None:
    """Check that a calculator can do steps of these names.

    Raises
    ------
    InputError
        It gives no energy, no forces, or no stress for a step at constant pressure.
    """
    if lacking := _lacking(calculator.implemented_properties, steps):
        message, hint = lacking
        raise InputError(f"{type(calculator).__name__} {message}", where="potential", hint=hint)


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
    if has and (lacking := _lacking(has, steps)):
        message, hint = lacking
        raise SpecError(f"{kind.__name__} {message}", where="potential", hint=hint)


def _lacking(properties: Sequence[str], steps: Iterable[str]) -> tuple[str, str] | None:
    """Message and hint about a property without which such steps cannot be done."""
    for name in ("energy", "forces"):
        if name not in properties:
            return f"gives no {name}", "take a calculator that does"
    if "npt" in steps and "stress" not in properties:
        return "gives no stress, which a step at constant pressure needs", "leave that step out (npt_ps: 0)"
    return None
