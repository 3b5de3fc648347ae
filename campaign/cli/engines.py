"""Whether the engines of a plan, and what their potentials need besides, are on this machine."""

from collections.abc import Iterator

from campaign.cli.app import err
from campaign.engines.base import EngineInfo, get_engine
from campaign.errors import CampaignError, InputError, ResourceError, SpecError
from campaign.potentials import Potential, get_potential
from campaign.potentials.files import differing_files
from campaign.potentials.library import NEP_FILE
from campaign.potentials.nep import nep_library
from campaign.runs import Plan

_NEP_ON_A_CPU = {"ase", "lammps"}


def engines_here(plan: Plan) -> Iterator[EngineInfo]:
    """Start each engine of a plan once, and make each ASE calculator.

    Raises
    ------
    EngineNotFoundError
        An engine is not here, or no library for the NEP models that it is to run on a CPU.
    ResourceError, SpecError
        A calculator cannot be made, or gives no forces.
    """
    for engine in sorted({common.engine for common in plan.stages.classes if common.engine}):
        yield get_engine(engine).check()
    if any(NEP_FILE in common.files and common.engine in _NEP_ON_A_CPU for common in plan.stages.classes):
        nep_library()
    for name in _potentials(plan):
        if (potential := get_potential(name)).kind == "calculator":
            _make_calculator(potential)


def _make_calculator(potential: Potential) -> None:
    from campaign.potentials.calculators import check_calculator, make_calculator

    try:
        check_calculator(make_calculator(potential), ())
    except InputError as error:
        raise SpecError(error.message, where=f"potential {potential.name}", hint=error.hint) from error
    except CampaignError:
        raise
    except Exception as error:  # a constructor of the user's choice may raise anything
        reason = f"{type(error).__name__}: {error}"
        raise ResourceError(f"the calculator of {potential.name} cannot be made: {reason}") from error


def _potentials(plan: Plan) -> list[str]:
    """Names of the potentials; without files it is what a protocol of the user's calls so."""
    return sorted({one.potential for one in plan.stages.classes if one.potential and one.files})


def tell_changed_files(plan: Plan) -> None:
    """Warn of potentials whose files are not those that they were described with."""
    for name in _potentials(plan):
        for file in differing_files(get_potential(name)):
            what = f"{file} of {name} is not the file described here"
            err.print(f"campaign: {what} (`campaign potentials show {name}`)", style="yellow", markup=False)
