"""Small stacks of two-dimensional materials, and LAMMPS runs of a few lines, for the tests of potentials."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import graphene, mx2

from campaign.engines.lammps import find_lammps
from campaign.engines.lammps_input import layer_species, write_data_file
from campaign.potentials import LammpsModel, Potential, lammps_model, potential_folders

FORMULAS = {"graphene": "CC", "hbn": "BN", "mos2": "MoS2", "ws2": "WS2", "wse2": "WSe2", "mose2": "MoSe2"}
THICKNESS_A = {"mos2": 3.13, "ws2": 3.14, "wse2": 3.34, "mose2": 3.34}
"""Distance of the chalcogen planes in the potential ``sw/mod``, roughly."""

FLAT = {"graphene", "hbn"}

GAP_A = 3.3
VACUUM_A = 12.0


def monolayer(material: str, lattice_constant_A: float) -> Atoms:
    """A primitive hexagonal cell; z from 0; with sublayers."""
    if material in {"graphene", "hbn"}:
        atoms = graphene(FORMULAS[material], a=lattice_constant_A)
        sublayers = [0, 0]
    else:
        atoms = mx2(FORMULAS[material], "2H", lattice_constant_A, THICKNESS_A[material])
        sublayers = [1, 2, 0]
    atoms.set_array("sublayer", np.array(sublayers))
    # Its second vector at 60 degrees instead of 120: a positive tilt of half the length.
    a = lattice_constant_A
    atoms.set_cell([[a, 0, 0], [a / 2, a * np.sqrt(3) / 2, 0], [0, 0, 1]], scale_atoms=False)
    atoms.positions[:, 2] -= atoms.positions[:, 2].min()
    return atoms


def rectangle(material: str, lattice_constant_A: float, cells: tuple[int, int]) -> Atoms:
    """A monolayer in an orthogonal cell of so many rectangular (a by sqrt(3) a) cells."""
    atoms = monolayer(material, lattice_constant_A)
    wide = atoms * (1, 2, 1)
    wide.set_cell(np.diag([lattice_constant_A, lattice_constant_A * np.sqrt(3), 1]), scale_atoms=False)
    return wide * (*cells, 1)


def cells_of(material: str, materials: Sequence[str]) -> tuple[int, int]:
    """Rectangular cells: 5 of graphene or h-BN on 4 of a sulfide, 4 on 3 of a selenide."""
    if len({one in FLAT for one in materials}) == 1:
        return 3, 2
    large = any(one in {"wse2", "mose2"} for one in materials)
    flat = 4 if large else 5
    return (flat, flat) if material in FLAT else (flat - 1, flat - 1)


def stack(materials: Sequence[str], potential: Potential, noise_A: float = 0.05) -> Atoms:
    """Layers on one another in the cell of the lowest one, all strained to it; noise on all positions."""
    layers = [
        rectangle(material, potential.lattice_constants_A[material], cells_of(material, materials))
        for material in materials
    ]
    z = VACUUM_A
    for index, layer in enumerate(layers):
        layer.set_array("layer", np.full(len(layer), index))
        layer.set_cell(layers[0].cell, scale_atoms=True)
        thickness = THICKNESS_A.get(materials[index], 0.0)
        layer.positions[:, 2] += z - layer.positions[:, 2].min()
        z += thickness + GAP_A
    together = layers[0]
    for layer in layers[1:]:
        together += layer
    together.cell[2, 2] = z + VACUUM_A
    together.pbc = (True, True, False)
    together.positions += np.random.default_rng(5).normal(0, noise_A, together.positions.shape)
    return together


def model_of(atoms: Atoms, potential: Potential) -> LammpsModel:
    return lammps_model(potential, layer_species(atoms))


def system_lines(atoms: Atoms, model: LammpsModel, directory: Path, name: str = "data.lammps") -> list[str]:
    """Write a data file; lines that read it and set the model up."""
    write_data_file(atoms, model, directory / name)
    return [
        "units metal",
        "atom_style molecular",
        "boundary p p f",
        f"read_data {name}",
        *model.pair_lines,
        *model.neighbor_lines,
    ]


def run_lammps(directory: Path, lines: Sequence[str], *arguments: str) -> list[list[float]]:
    """Run a script; the numbers of all lines printed as ``RESULT ...``."""
    binary, needed = find_lammps()
    environment = os.environ | {
        **needed,
        "LAMMPS_POTENTIALS": os.pathsep.join(map(str, potential_folders())),
        "OMP_NUM_THREADS": "1",
    }
    (directory / "in.lammps").write_text("\n".join(lines))
    done = subprocess.run(
        [binary, "-in", "in.lammps", "-log", "none", "-nocite", *arguments],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    return [
        [float(x) for x in line.split()[1:]] for line in done.stdout.splitlines() if line.startswith("RESULT")
    ]
