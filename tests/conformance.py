"""What the conformance suite runs: small models through any engine, and one force call of each.

A case is an engine with a potential. What a test found is kept by `pytest --conformance-record FILE`
(`conftest.py`), from which ``python -m tests.conformance_table FILE`` makes ``docs/conformance.md``.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.tersoff import Tersoff

from campaign.engines import ase_run
from campaign.engines.ase_system import System
from campaign.engines.base import (
    NVE,
    Output,
    Segment,
    Simulation,
    Step,
    Thermalise,
    Workload,
    get_engine,
)
from campaign.engines.gpumd import find_gpumd
from campaign.engines.gpumd_input import COMPUTE, MODEL, SCRIPT, write_model
from campaign.engines.gpumd_output import read_compute
from campaign.engines.gpus import gpus_here
from campaign.engines.timeline import number_of_steps
from campaign.errors import EngineNotFoundError
from campaign.physics.dynamics import EV_PER_A3_PER_GPA
from campaign.potentials import add_nep, get_potential, potential_files
from campaign.potentials.calculators import make_calculator
from campaign.potentials.nep import LIBRARIES
from tests.ase_cases import NEP_LATTICE_CONSTANTS_A, add_calculator, multilayer, written
from tests.potential_cases import stack
from tests.reference import REFERENCE

TIMESTEP_FS = 0.5
NEP_MODEL = REFERENCE / "nep" / "gr-hbn.nep.txt"


@dataclass(frozen=True)
class Case:
    """An engine with a potential, and why it cannot run here, if so."""

    engine: str
    potential: str

    def __str__(self) -> str:
        return f"{self.engine}-{self.potential}"

    @property
    def missing(self) -> str | None:
        """Tell what this machine lacks."""
        if self.engine == "gpumd" and (lack := _without_gpumd()):
            return lack
        if self.potential == "nep" and not NEP_MODEL.is_file():
            return f"no NEP model at {NEP_MODEL}"
        libraries = [module for module in LIBRARIES.values() if importlib.util.find_spec(module)]
        return None if self.potential != "nep" or libraries else "no library for NEP models"


def _without_gpumd() -> str | None:
    if not gpus_here():
        return "no CUDA GPU here"
    try:
        find_gpumd()
    except EngineNotFoundError:
        return "GPUMD is not installed"
    return None if importlib.util.find_spec("calorine") else "calorine is not installed"


STACKS = {
    "tersoff-ilp": ("hbn", "hbn", "graphene", "graphene"),
    "tersoff-ilp-mbd": ("hbn", "hbn", "graphene", "graphene"),
    "tersoff-ilp-ts": ("hbn", "hbn", "graphene", "graphene"),
    "extep-ilp": ("hbn", "hbn", "graphene", "graphene"),
    "rebo-ilp": ("hbn", "hbn", "graphene", "graphene"),
    "tersoff-sw-lj": ("mos2", "ws2", "hbn", "graphene"),
    "sw-ilp": ("wse2", "wse2", "mos2", "mos2"),
}
"""Layers for the other potentials of LAMMPS, which have terms of each of their kinds."""

CASES = (
    Case("lammps", "tersoff-lj"),
    *(Case("lammps", potential) for potential in STACKS),
    Case("lammps", "nep"),
    Case("ase", "nep"),
    Case("ase", "tersoff"),
    Case("gpumd", "nep"),
)

PAIRS = (
    (Case("lammps", "nep"), Case("ase", "nep")),
    (Case("lammps", "tersoff-lj"), Case("ase", "tersoff")),
    (Case("gpumd", "nep"), Case("ase", "nep")),
)
"""Cases whose numbers must agree; the second one has no engine's input between it and the structure.

``tersoff`` is that of ASE, with the file of ``tersoff-lj``; it has no terms between layers.
"""


class FileTersoff(Tersoff):  # type: ignore[misc] # ASE has no types
    """ASE's own Tersoff with a file in the format of LAMMPS."""

    implemented_properties: ClassVar[list[str]] = ["energy", "energies", "forces", "stress"]

    def __init__(self, file: str) -> None:
        super().__init__(Tersoff.read_lammps_format(file))


def fill_library() -> None:
    """Put NEP and ASE's Tersoff into the library that is set."""
    if NEP_MODEL.is_file():
        add_nep(NEP_MODEL, "nep", NEP_LATTICE_CONSTANTS_A)
    bnc = potential_files(get_potential("tersoff-lj"))["BNC.tersoff"]
    add_calculator("tersoff", FileTersoff, {"file": bnc})


def model(potential: str, *, triclinic: bool = False) -> Atoms:
    """Four layers of 8 atoms (NEP), 16 or more, off their sites, with numbers that all formats hold exactly.

    Where Tersoff is compared with that of ASE the layers are out of each other's reach.
    """
    if potential in STACKS:
        atoms = stack(STACKS[potential], get_potential(potential), noise_A=0.03)
    else:
        atoms = multilayer(cells=(2, 1 if potential == "nep" else 2))
        if potential != "nep":
            atoms.positions[:, 2] += 12.0 * atoms.arrays["layer"]
            atoms.cell[2, 2] += 36.0
        atoms.positions += np.random.default_rng(3).normal(0, 0.03, atoms.positions.shape)
    if triclinic:
        # The same lattice: y is stacked with a shift along x by one cell.
        atoms.cell[1, 0] = atoms.cell[0, 0] / 2
    atoms.positions[:] = atoms.positions.round(8)
    atoms.cell[:] = atoms.cell.array.round(8)
    return atoms


@dataclass(frozen=True)
class SinglePoint:
    """One force call: eV, eV/angstrom, virial per volume of the cell (xx, yy, xy), and what came through."""

    energy: float
    forces: np.ndarray
    virial_GPa: np.ndarray
    masses: np.ndarray
    layers: np.ndarray
    elements: Sequence[str]


def single_point(case: Case, atoms: Atoms, directory: Path) -> SinglePoint:
    """Energy, forces and virial of a structure as an engine sees it."""
    if case.engine == "ase":
        return _single_point_of_ase(case, atoms)
    if case.engine == "lammps":
        return _single_point_of_lammps(case, atoms, directory)
    return _single_point_of_gpumd(atoms, directory)


def _single_point_of_gpumd(atoms: Atoms, directory: Path) -> SinglePoint:
    """One step of next to no time from rest; `compute` tells the sums of groups, and each atom is one."""
    shutil.copyfile(NEP_MODEL, directory / "nep.txt")
    write_model(
        directory / MODEL,
        atoms.get_chemical_symbols(),
        atoms.positions,
        masses=atoms.get_masses(),
        cell=atoms.cell.array,
        groups=[np.arange(len(atoms)), atoms.arrays["layer"]],
        velocities=np.zeros_like(atoms.positions),
    )
    (directory / SCRIPT).write_text(
        "potential nep.txt\nvelocity 1 seed 1\ntime_step 1e-6\nensemble nve\n"
        "compute 0 1 1 potential force virial\nrun 1\n"
    )
    subprocess.run((str(find_gpumd()),), cwd=directory, check=True, timeout=120)
    # 13 quantities, one after the other, each for all atoms; the virial as xx, xy, xz, yx, yy, ...
    energies, *forces_and_virial = read_compute(directory / COMPUTE)[0].reshape(13, len(atoms))
    virial_eV = np.sum(forces_and_virial[3:], axis=1)[[0, 4, 1]]
    rows = [line.split() for line in (directory / MODEL).read_text().splitlines()[2:]]
    return SinglePoint(
        float(energies.sum()),
        np.stack(forces_and_virial[:3], axis=1),
        virial_eV / atoms.get_volume() / EV_PER_A3_PER_GPA,
        np.array([float(row[4]) for row in rows]),
        np.array([int(row[-1]) for row in rows]),
        [row[0] for row in rows],
    )


def _single_point_of_ase(case: Case, atoms: Atoms) -> SinglePoint:
    calculator = make_calculator(get_potential(case.potential))
    system = System(atoms.copy(), calculator, np.zeros((len(atoms), 3)))
    system.evaluate()
    return SinglePoint(
        system.potential_energy,
        system.forces,
        -np.asarray(system.results["stress"])[[0, 1, 5]] / EV_PER_A3_PER_GPA,
        atoms.get_masses(),
        atoms.arrays["layer"],
        atoms.get_chemical_symbols(),
    )


def _single_point_of_lammps(case: Case, atoms: Atoms, directory: Path) -> SinglePoint:
    """The engine's own script up to its first step, then a run of no steps from rest."""
    structure = written(atoms, directory)
    job = Simulation(
        potential=case.potential,
        timestep_fs=TIMESTEP_FS,
        steps=(Thermalise(temperature_K=300), NVE(duration_ps=0.01)),
    )
    command = get_engine("lammps").prepare(
        Workload(job, 1, {"structure": structure}, Segment(1, 0, 20)), directory
    )
    script = directory / "in.lammps"
    head, _, _ = script.read_text().partition("\n# thermalise")
    script.write_text(
        f"{head}\nrun 0\n"
        'print "RESULT $(pe:%.17g) $(pxx:%.17g) $(pyy:%.17g) $(pxy:%.17g)"\n'
        "write_dump all custom forces.dump id mol mass fx fy fz modify sort id format float %.17g\n"
    )
    subprocess.run(
        command.argv, cwd=directory, env={**os.environ, **command.environment}, check=True, timeout=120
    )
    (found,) = re.findall(r"^RESULT (.+)$", (directory / "log.lammps").read_text(), re.MULTILINE)
    energy, *pressures_bar = map(float, found.split())
    rows = np.loadtxt((directory / "forces.dump").read_text().splitlines()[9:])
    known = {round(mass, 3): symbol for symbol, mass in zip(atoms.symbols, atoms.get_masses(), strict=True)}
    return SinglePoint(
        energy,
        rows[:, 3:],
        np.array(pressures_bar) / 1e4,
        rows[:, 2],
        rows[:, 1] - 1,
        [known[round(mass, 3)] for mass in rows[:, 2]],
    )


@dataclass(frozen=True)
class Ran:
    """A segment that ran: its directory and what was read from it."""

    directory: Path
    output: Output


def run_steps(
    case: Case,
    steps: Sequence[Step],
    inputs: dict[str, Path],
    directory: Path,
    segment: Segment | None = None,
) -> Ran:
    """Run a segment (by default the whole stage) as a worker does, without the worker."""
    directory.mkdir()
    engine = get_engine(case.engine)
    job = Simulation(potential=case.potential, timestep_fs=TIMESTEP_FS, steps=tuple(steps))
    whole = Segment(1, 0, number_of_steps(job))
    command = engine.prepare(Workload(job, 5, inputs, segment or whole), directory)
    if case.engine == "ase":  # the same function as its process, without the time to start one
        assert command.argv == (sys.executable, "-m", "campaign.engines.ase_run")
        code = ase_run.main(directory)
    else:
        environment = {**os.environ, **command.environment}
        code = subprocess.run(
            command.argv, cwd=directory, env=environment, check=False, timeout=300
        ).returncode
    if code != 0:
        raise engine.diagnose(directory, code)
    return Ran(directory, engine.collect(directory))


def skip_if_missing(case: Case) -> None:
    """Skip a test of a case that cannot run here, with the reason."""
    if case.missing:
        pytest.skip(case.missing)
