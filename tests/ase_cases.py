"""A small multilayer for tests of the ASE engine, with springs that cost nothing, or the paper's NEP."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from campaign.engines import ase_run
from campaign.engines.ase import AseEngine
from campaign.engines.base import Segment, Simulation, Step, Workload
from campaign.engines.timeline import number_of_steps
from campaign.potentials import add_nep
from campaign.potentials.library import library
from campaign.structures.io import read_structure, write_structure
from campaign.structures.layers import BuildSettings, LayerBlock, MultilayerSettings, build
from tests.reference import REFERENCE

ENGINE = AseEngine()
NEP_LATTICE_CONSTANTS_A = {"graphene": 2.4635, "hbn": 2.5066}
"""Those of the paper's model (physics of a free-standing monolayer)."""


class Springs(Calculator):  # type: ignore[misc] # ASE has no types
    """Each atom is bound to its place in a structure, which stretches with the cell."""

    implemented_properties: ClassVar[list[str]] = ["energy", "energies", "forces", "stress"]

    def __init__(self, structure: str, constant: float = 10.0) -> None:
        super().__init__()
        atoms = read_structure(Path(structure))
        self._places = atoms.get_scaled_positions(wrap=False)
        self._constant = constant

    def calculate(
        self, atoms: Atoms | None = None, properties: Any = None, system_changes: Any = all_changes
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        away = self.atoms.positions - self._places @ self.atoms.cell.array
        energies = 0.5 * self._constant * (away**2).sum(axis=1)
        stress = self._constant * away.T @ away / self.atoms.get_volume()
        self.results = {
            "energy": energies.sum(),
            "energies": energies,
            "forces": -self._constant * away,
            "stress": stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]],
        }


class ForcesOnly(Springs):
    """A calculator that gives forces and the energy of all atoms, no stress and no energies per atom."""

    implemented_properties: ClassVar[list[str]] = ["energy", "forces"]


def multilayer(lower: int = 2, upper: int = 2, cells: tuple[int, int] = (2, 2)) -> Atoms:
    """Layers of 16 atoms, as the paper's NEP would have them."""
    settings = MultilayerSettings(
        lower=LayerBlock(material="hbn", layers=lower, cells=cells),
        upper=LayerBlock(material="graphene", layers=upper, cells=cells),
        stacking="ABp",
        cell_from="mean",
        vacuum_A=8.0,
    )
    return build(BuildSettings(structure=settings, lattice_constants_A=NEP_LATTICE_CONSTANTS_A))


def add_springs(structure: Path, name: str = "springs", calculator: type[Calculator] = Springs) -> None:
    """Put springs to the places of a structure into the library."""
    add_calculator(name, calculator, {"structure": structure})


def add_calculator(name: str, calculator: type[Calculator], files: dict[str, Path]) -> None:
    """Put a calculator into the library, and files that are its arguments."""
    folder = library() / name
    folder.mkdir(parents=True)
    for path in files.values():
        (folder / path.name).write_bytes(path.read_bytes())
    facts = {
        "calculator": f"{calculator.__module__}.{calculator.__qualname__}",
        "kwargs": {argument: path.name for argument, path in files.items()},
        "files": [path.name for path in files.values()],
        "elements": ["B", "C", "N"],
        "lattice_constants_A": NEP_LATTICE_CONSTANTS_A,
    }
    (folder / "potential.json").write_text(json.dumps(facts))


def add_paper_nep() -> None:
    """Put the paper's model into the library, as ``paper``."""
    add_nep(REFERENCE / "nep" / "gr-hbn.nep.txt", "paper", NEP_LATTICE_CONSTANTS_A)


def written(atoms: Atoms, directory: Path) -> Path:
    """Write a structure."""
    path = directory / "structure.npz"
    write_structure(atoms, path)
    return path


def simulation(*steps: Step, potential: str = "springs", timestep_fs: float = 1) -> Simulation:
    return Simulation(potential=potential, timestep_fs=timestep_fs, steps=tuple(steps))


def segments(job: Simulation, *ends: int) -> list[Segment]:
    """The stage, cut at MD steps."""
    edges = [0, *ends, number_of_steps(job)]
    return [Segment(n, *edge) for n, edge in enumerate(itertools.pairwise(edges), start=1)]


def compute(
    job: Simulation, segment: Segment, inputs: dict[str, Path], directory: Path, seed: int = 7
) -> int:
    """Compute a segment in this process; return the exit code."""
    directory.mkdir(exist_ok=True)
    ENGINE.prepare(Workload(job, seed, inputs, segment), directory)
    return ase_run.main(directory)


def compute_all(job: Simulation, cuts: Sequence[int], inputs: dict[str, Path], directory: Path) -> list[Path]:
    """Compute a stage in segments; return their directories."""
    directories = []
    carried: dict[str, float] = {}
    for segment in segments(job, *cuts):
        where = directory / str(segment.number)
        piece = Segment(segment.number, segment.first, segment.last, carried)
        assert compute(job, piece, inputs, where) == 0, (where / "log.ase").read_text()
        output = ENGINE.collect(where)
        assert output.last == segment.last
        carried = dict(output.carried)
        inputs = {**inputs, "state": where / ENGINE.state_file}
        directories.append(where)
    return directories


def positions(directory: Path) -> np.ndarray:
    """Positions in a state file."""
    with np.load(directory / ENGINE.state_file) as state:
        found: np.ndarray = state["positions"]
    return found
