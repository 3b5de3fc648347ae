"""MD with any ASE calculator, foremost NEP models on a CPU, in a Python process of its own.

What computes the forces is in `campaign.potentials.calculators`, the steps of the dynamics are in
`campaign.physics.dynamics`, and the process is `ase_run`.
"""

import os
import sys
from importlib import metadata
from pathlib import Path
from typing import ClassVar

from campaign.engines.ase_input import JOB, LOG, STATE, Job, make_job
from campaign.engines.ase_output import read_failure, read_output, read_progress
from campaign.engines.base import Command, EngineInfo, Output, Progress, Simulation, Workload
from campaign.engines.timeline import segment_end
from campaign.errors import CampaignError, EngineNotFoundError, InputError, ResourceError
from campaign.potentials import get_potential, potential_files
from campaign.potentials.calculators import calculator_version
from campaign.potentials.nep import nep_version
from campaign.structures.io import read_structure


class AseEngine:
    """MD with ASE calculators. Stateless: every method can be called in another process."""

    name: ClassVar[str] = "ase"
    results_version: ClassVar[int] = 1
    capabilities: ClassVar[frozenset[str]] = frozenset(
        {"thermalise", "npt", "nvt", "nve", "preheat", "heat_flow"}
    )
    state_file: ClassVar[str] = STATE
    """Name of the file that a segment leaves for the next one."""

    def check(self) -> EngineInfo:
        """Tell the versions; see `Engine.check`. Calculators other than NEP models need no library here."""
        try:
            nep = nep_version()
        except (EngineNotFoundError, ResourceError):  # told by `nep_library` where a NEP model is to run
            nep = "no library for NEP models"
        return EngineInfo(
            self.name, f"{metadata.version('ase')}, {nep}", sys.executable, "cpu", self.capabilities
        )

    def segment_end(self, simulation: Simulation, step: int) -> int:
        """Find where a sample ends, or anywhere before the recorded step; see `Engine.segment_end`."""
        return segment_end(simulation, step)

    def prepare(self, workload: Workload, directory: Path) -> Command:
        """Write ``ase.json``; see `Engine.prepare`.

        ``inputs`` needs the role ``structure`` in any case: it says which atoms are in which layer.
        """
        if "structure" not in workload.inputs:
            raise InputError("ASE needs the built structure, also for a run from a state file")
        potential = get_potential(workload.simulation.potential)
        calculator_version(potential)  # a missing library or file is better found now than by the process
        potential_files(potential)
        atoms = read_structure(workload.inputs["structure"])
        if reason := potential.reason_against([atoms.symbols.species()]):
            raise InputError(reason)
        # Relative paths, so that the campaign can be moved.
        structure, state = (
            path if path is None else os.path.relpath(path, directory)
            for path in (workload.inputs["structure"], workload.inputs.get("state"))
        )
        assert structure is not None
        make_job(workload, atoms, structure, state).write(directory)
        return Command(
            argv=(sys.executable, "-m", "campaign.engines.ase_run"),
            environment={"OMP_NUM_THREADS": str(workload.threads)},
            keep=(JOB, LOG),
        )

    def progress(self, directory: Path) -> Progress | None:
        """Read the steps done from the end of the log; see `Engine.progress`."""
        return read_progress(directory)

    def collect(self, directory: Path) -> Output:
        """Series of the last dynamical step and the final structure; see `Engine.collect`."""
        try:
            potential = get_potential(Job.read(directory).simulation.potential)
            version = f"ase {metadata.version('ase')}, {calculator_version(potential)}"
        except FileNotFoundError:
            version = "unknown"
        return read_output(directory, version)

    def diagnose(self, directory: Path, returncode: int) -> CampaignError:
        """Class of a failure, with the line of the log; see `Engine.diagnose`."""
        return read_failure(directory, returncode)
