"""LAMMPS input files besides the script: the structure, and the facts that reading the output needs."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from ase import Atoms
from ase.data import chemical_symbols

from campaign.engines.facts import FactsFile
from campaign.engines.slab import layers_of, slab_cell
from campaign.potentials import LammpsModel, Species

SCRIPT = "in.lammps"
DATA = "structure.data"
LOG = "log.lammps"
STATE = "state.restart"
FINAL = "final.dump"
SERIES = "series.dat"
LAYERS = "layers.dat"

BAR_PER_GPA = 1e4

THERMO_COLUMNS = ("step", "v_done", "elapsed", "cpu", "temp", "pe", "etotal", "pxx", "pyy", "lx", "ly")
"""Columns of the log, also for reading progress; ``v_done`` counts the steps of the whole stage."""


@dataclass(frozen=True)
class Facts(FactsFile):
    """What reading the output needs besides the output; lies beside the input as ``lammps.json``.

    Attributes
    ----------
    series
        ``heat_flow`` or ``thermo``: what the last dynamical step records.
    timestep_fs
        Timestep.
    sample_steps
        MD steps between two samples of the last step of the simulation, which is the one that is recorded.
    recorded_first, steps_total
        MD steps of the stage before that step, and in all.
    first, last
        The segment, in MD steps of the stage.
    atoms_of_layer
        Number of atoms in each layer, bottom to top.
    atomic_numbers
        Atomic number of each LAMMPS type.
    slab_fraction
        Thickness of the structure over the height of the cell; LAMMPS' pressures are per volume of the cell.
    forces
        Name and version of what else computes forces; empty where LAMMPS alone does.
    """

    FILE: ClassVar[str] = "lammps.json"

    series: str
    timestep_fs: float
    sample_steps: int
    recorded_first: int
    steps_total: int
    first: int
    last: int
    atoms_of_layer: tuple[int, ...]
    atomic_numbers: tuple[int, ...]
    slab_fraction: float
    forces: str = ""

    @property
    def atoms(self) -> int:
        """Number of atoms."""
        return sum(self.atoms_of_layer)

    def samples(self, reached: int) -> range:
        """Find which samples a segment holds that reached MD step ``reached`` of the stage.

        The sample before the first one, at which tallies start from zero, is numbered ``range.start``; the
        segment's own are those after it, up to ``range.stop - 1``.
        """
        first, last = ((step - self.recorded_first) // self.sample_steps for step in (self.first, reached))
        return range(max(first, 0), max(last, 0) + 1)


def layer_species(atoms: Atoms) -> list[tuple[Species, ...]]:
    """Find what each layer is made of, bottom to top; elements in alphabetical order."""
    layer = layers_of(atoms)
    species: list[set[Species]] = [set() for _ in range(int(layer.max()) + 1)]
    for index, sublayer, number in np.unique(_keys(atoms), axis=1).T.tolist():
        species[index].add(Species(chemical_symbols[number], sublayer))
    return [tuple(sorted(of_layer)) for of_layer in species]


def _keys(atoms: Atoms) -> npt.NDArray[np.int64]:
    """Layer, sublayer and atomic number of each atom, shape (3, atoms)."""
    layer = layers_of(atoms)
    sublayer = atoms.arrays.get("sublayer", np.zeros_like(layer))
    return np.stack((layer, sublayer, atoms.numbers)).astype(np.int64)


def write_data_file(atoms: Atoms, model: LammpsModel, path: Path) -> None:
    """Write a structure for ``read_data`` (atom style ``molecular``); the molecule id is the layer plus 1.

    Raises
    ------
    InputError
        As `slab_cell`.
    """
    length_x, length_y, length_z, tilt = slab_cell(atoms)
    species, species_of_atom = np.unique(_keys(atoms), axis=1, return_inverse=True)
    types = np.array(
        [
            model.type_of(chemical_symbols[number], layer, sublayer)
            for layer, sublayer, number in species.T.tolist()
        ]
    )
    masses = "".join(f"{number} {mass:.6f}\n" for number, mass in enumerate(model.masses, start=1))
    header = (
        "layers as molecules\n\n"
        f"{len(atoms)} atoms\n{len(model.masses)} atom types\n\n"
        f"0 {length_x:.10f} xlo xhi\n0 {length_y:.10f} ylo yhi\n0 {length_z:.10f} zlo zhi\n"
        + (f"{tilt:.10f} 0 0 xy xz yz\n" if tilt else "")
        + f"\nMasses\n\n{masses}\nAtoms # molecular\n\n"
    )
    columns = (layers_of(atoms) + 1, types[species_of_atom.reshape(-1)], *atoms.positions.T)
    rows = zip(range(1, len(atoms) + 1), *(column.tolist() for column in columns), strict=True)
    with path.open("w") as file:
        file.write(header)
        # Twice as fast as numpy.savetxt.
        file.writelines(
            f"{atom} {molecule} {kind} {x:.10f} {y:.10f} {z:.10f}\n" for atom, molecule, kind, x, y, z in rows
        )
