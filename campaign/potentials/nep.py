"""NEP models on a CPU, as an ASE calculator: nep-adapters where it is installed, else calorine's CPUNEP.

Both give the same numbers (to 1e-12), nep-adapters two to three times faster on a core. Both see every cell
as periodic in all directions, so a structure with open directions is put into a cell with enough vacuum; what
comes out is that of the structure.
"""

import importlib.util
import os
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from campaign.errors import EngineNotFoundError, InputError, ResourceError
from campaign.potentials.library import check_whole, read_elements

CHOICE_VARIABLE = "CAMPAIGN_NEP"
"""Names one of the two libraries (`LIBRARIES`); without it, the first that is installed is taken."""

LIBRARIES = {"nep-adapters": "nep_adapters", "calorine": "calorine"}
"""Package and module of each library, the faster one first."""

_INSTALL = (
    "pip install 'campaign[nep-fast]' (nep-adapters, a wheel, GPL) or 'campaign[nep]' (calorine, is compiled)"
)


def nep_library() -> str:
    """Name of the library that is taken; nothing is imported.

    Raises
    ------
    EngineNotFoundError
        None is installed, or not the one that ``CAMPAIGN_NEP`` names.
    ResourceError
        ``CAMPAIGN_NEP`` names neither.
    """
    named = os.environ.get(CHOICE_VARIABLE)
    if named and named not in LIBRARIES:
        choices = " or ".join(LIBRARIES)
        raise ResourceError(
            f"{CHOICE_VARIABLE}={named} names no library for NEP models", hint=f"write {choices}, or unset it"
        )
    wanted = [named] if named else list(LIBRARIES)
    for package in wanted:
        if importlib.util.find_spec(LIBRARIES[package]) is not None:
            return package
    raise EngineNotFoundError(
        f"no library for NEP models on a CPU: {' and '.join(wanted)} not installed",
        where=f"{CHOICE_VARIABLE}={named}" if named else None,
        hint=_INSTALL,
    )


def nep_version() -> str:
    """Name and version of the library that is taken; errors as `nep_library`."""
    package = nep_library()
    return f"{package} {metadata.version(package)}"


class NepCalculator(Calculator):  # type: ignore[misc] # ASE has no types
    """Energy, energies per atom, forces and stress of a NEP model, in any cell.

    Parameters
    ----------
    model
        File in the format of GPUMD.

    Raises
    ------
    EngineNotFoundError
        No library for it is installed.
    ResourceError
        The file is not there, or is no NEP model.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "energies", "forces", "stress"]

    def __init__(self, model: Path) -> None:
        super().__init__()
        self._elements, self._cutoff_A = elements_and_cutoff(model)
        self._library = _load(model)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] | None = None,
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Compute all properties, whatever is asked for; see `ase.calculators.calculator.Calculator`."""
        super().calculate(atoms, properties or self.implemented_properties, system_changes)
        unknown = set(self.atoms.symbols.species()) - self._elements
        if unknown:
            raise InputError(f"the NEP model does not know {', '.join(sorted(unknown))}")
        seen = with_vacuum(self.atoms, self._cutoff_A)
        computed = self._library(seen)
        energy = float(np.sum(computed["energies"]))
        self.results = {
            "energy": energy,
            "free_energy": energy,
            "energies": np.asarray(computed["energies"]),
            "forces": np.asarray(computed["forces"]),
            # The virial does not change with the vacuum, the volume does.
            "stress": np.asarray(computed["stress"]) * (seen.get_volume() / self.atoms.get_volume()),
        }


def with_vacuum(atoms: Atoms, cutoff_A: float) -> Atoms:
    """Return the structure as fully periodic, with no image within ``cutoff_A`` in its open directions.

    The angles between open directions and others must be right ones. Positions stay.
    """
    seen = atoms.copy()
    seen.pbc = True
    for axis in np.flatnonzero(~atoms.pbc):
        vector = atoms.cell[axis]
        length = float(np.linalg.norm(vector))
        heights = atoms.positions @ (vector / length)
        needed_A = float(np.ptp(heights)) + cutoff_A + 1
        if needed_A > length:
            seen.cell[axis] = vector * (needed_A / length)
    return seen


def elements_and_cutoff(model: Path) -> tuple[frozenset[str], float]:
    """Elements of a model and its largest cutoff in angstrom."""
    elements = frozenset(read_elements(model))
    with model.open() as file:
        lines = [file.readline().split() for _ in range(8)]
    try:
        numbers = next(words[1:] for words in lines if words and words[0] == "cutoff")
        # Two for all elements, or two for each; where there are more, the last two count neighbours.
        return elements, max(map(float, numbers[:-2] if len(numbers) > 2 else numbers))
    except (ValueError, StopIteration) as error:
        raise ResourceError(
            "not a NEP model", where=str(model), hint="one of its first lines should be like 'cutoff 8 4'"
        ) from error


def _load(model: Path) -> Callable[[Atoms], dict[str, Any]]:
    """Return a function from a fully periodic structure to ``energies``, ``forces`` and ``stress``."""
    package = nep_library()
    check_whole(model)
    calculator: Any
    try:
        if package == "nep-adapters":
            from nep_adapters.ase import NepAseCalculator

            calculator = NepAseCalculator(str(model))
        else:
            from calorine.calculators import CPUNEP

            calculator = CPUNEP(str(model))
    except ImportError as error:
        raise EngineNotFoundError(f"{package} cannot be imported: {error}", hint=_INSTALL) from error
    except (RuntimeError, ValueError) as error:
        raise ResourceError(f"not a NEP model that {package} can read: {error}", where=str(model)) from error

    def compute(atoms: Atoms) -> dict[str, Any]:
        calculator.calculate(atoms, ["energies", "forces", "stress"], all_changes)
        results: dict[str, Any] = calculator.results
        return results

    return compute
