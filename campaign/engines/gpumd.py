"""GPUMD, the engine of the paper: MD with neuroevolution potentials on a GPU. The user builds it.

What runs is `campaign.engines.gpumd_run`, which starts GPUMD and looks after it.
"""

import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from campaign.engines.base import Command, EngineInfo, Output, Progress, Simulation, Workload
from campaign.engines.gpumd_failure import read_failure
from campaign.engines.gpumd_input import LOG, MODEL, POTENTIAL, SCRIPT, STATE, write_model
from campaign.engines.gpumd_output import CALORINE, read_output, read_progress
from campaign.engines.gpumd_probe import keyword_of, probe
from campaign.engines.gpumd_run import BINARY_VARIABLE
from campaign.engines.gpumd_script import make_facts, make_groups, make_script, segment_end, thermalises
from campaign.engines.gpumd_state import State
from campaign.engines.slab import slab_cell
from campaign.errors import CampaignError, EngineNotFoundError, InputError, ResourceError
from campaign.potentials import get_potential, potential_files
from campaign.structures.io import read_structure

if TYPE_CHECKING:
    from ase import Atoms


class GpumdEngine:
    """MD with GPUMD. Stateless: every method can be called in another process."""

    name: ClassVar[str] = "gpumd"
    results_version: ClassVar[int] = 1
    capabilities: ClassVar[frozenset[str]] = frozenset(
        {"thermalise", "npt", "nvt", "nve", "preheat", "heat_flow"}
    )
    state_file: ClassVar[str] = STATE
    """Name of the checkpoint that a segment leaves for the next one."""

    def check(self) -> EngineInfo:
        """Find GPUMD and let it read a small input; see `Engine.check`."""
        binary = find_gpumd()
        if find_spec("calorine") is None:
            raise EngineNotFoundError("calorine reads the files of GPUMD and is not installed", hint=CALORINE)
        found = probe(binary)
        lacking = f", which refuses {', '.join(found.refused)}" if found.refused else ""
        return EngineInfo(self.name, found.version + lacking, str(binary), found.device, self.capabilities)

    def segment_end(self, simulation: Simulation, step: int) -> int:
        """Find where a sample ends, or a step of the simulation; see `Engine.segment_end`."""
        return segment_end(simulation, step)

    def prepare(self, workload: Workload, directory: Path) -> Command:
        """Write ``run.in``, ``model.xyz`` and the potential; see `Engine.prepare`.

        ``inputs`` needs the role ``structure`` in any case: it says which atoms are in which layer. The
        process ends where a step of the simulation does, also before the segment's end.
        """
        if "structure" not in workload.inputs:
            raise InputError("GPUMD needs the built structure, also to go on from a state")
        simulation, segment = workload.simulation, workload.segment
        binary = find_gpumd()
        atoms = read_structure(workload.inputs["structure"])
        _require_slab(atoms)
        potential = _nep_file(simulation, atoms)
        state = State.read(workload.inputs["state"]) if "state" in workload.inputs else None
        if state is not None and not np.array_equal(state.symbols, atoms.get_chemical_symbols()):
            raise InputError("the state is that of another structure", where=str(workload.inputs["state"]))
        drawn = thermalises(simulation, segment.first)
        if state is None and not drawn:
            raise InputError("neither a state to go on from nor a step that draws velocities")
        facts = make_facts(
            simulation, atoms, segment, np.asarray(atoms.cell) if state is None else state.cell
        )
        groups, numbers = make_groups(simulation, atoms, segment.first)
        script = make_script(simulation, workload.random_seed, facts, numbers, minimise=state is None)
        _require_keywords(binary, script)
        shutil.copyfile(potential, directory / POTENTIAL)
        (directory / SCRIPT).write_text(script)
        write_model(
            directory / MODEL,
            atoms.get_chemical_symbols(),
            atoms.positions if state is None else state.positions,
            masses=atoms.get_masses(),
            cell=np.reshape(facts.cell, (3, 3)),
            groups=groups,
            velocities=None if drawn or state is None else state.velocities,
        )
        facts.write(directory)
        return Command(
            argv=(sys.executable, "-m", "campaign.engines.gpumd_run"),
            environment={BINARY_VARIABLE: str(binary)},
            keep=(SCRIPT, LOG),
        )

    def progress(self, directory: Path) -> Progress | None:
        """Read the steps done and the speed of blocks from the log; see `Engine.progress`."""
        return read_progress(directory)

    def collect(self, directory: Path) -> Output:
        """Series of the last dynamical step and the final structure; see `Engine.collect`."""
        return read_output(directory)

    def diagnose(self, directory: Path, returncode: int) -> CampaignError:
        """Class of a failure, with the line of the log; see `Engine.diagnose`."""
        return read_failure(directory, returncode)


BUILD = (
    "build it where CUDA is: git clone https://github.com/brucefan1983/GPUMD && cd GPUMD/src && make gpumd "
    "(with CUDA 13: make gpumd CFLAGS='-std=c++17 -O3 -arch=sm_90', or your GPU's architecture); "
    f"then put it in PATH, or name it with {BINARY_VARIABLE}"
)


def find_gpumd() -> Path:
    """Path of the binary.

    Raises
    ------
    EngineNotFoundError
        There is none.
    """
    named = os.environ.get(BINARY_VARIABLE)
    found = shutil.which(named or "gpumd")
    if found is None:
        where = f"{BINARY_VARIABLE}={named}" if named else None
        raise EngineNotFoundError(
            "not an executable" if named else "GPUMD is not installed", where=where, hint=BUILD
        )
    return Path(found).resolve()


def _nep_file(simulation: Simulation, atoms: "Atoms") -> Path:
    """Path of the potential's file.

    Raises
    ------
    InputError
        It is not a neuroevolution potential, or lacks an element.
    ResourceError
        The file is missing.
    """
    potential = get_potential(simulation.potential)
    if potential.kind != "nep":
        raise InputError(f"GPUMD cannot run {potential.name}", hint="use a NEP model")
    if reason := potential.reason_against([atoms.symbols.species()]):
        raise InputError(reason)
    path = potential_files(potential)[POTENTIAL]
    if not path.is_file():
        raise ResourceError(f"{potential.name} has no {POTENTIAL}", where=str(path))
    return path


def _require_slab(atoms: "Atoms") -> None:
    if list(atoms.pbc) != [True, True, False]:
        raise InputError("GPUMD runs slabs, periodic along x and y; this structure is not one")
    slab_cell(atoms)


def _require_keywords(binary: Path, script: str) -> None:
    """Compare the input with what the binary accepts.

    Raises
    ------
    InputError
        It refuses a keyword.
    """
    found = probe(binary)
    for line in script.splitlines():
        if line and not line.startswith("#") and (said := found.refused.get(keyword_of(line))):
            raise InputError(
                f"this GPUMD ({found.version}) refuses {line!r}: {said}",
                where=str(binary),
                hint="use another version; 3.9.2 to 5.6 are known to have all that is needed",
            )
