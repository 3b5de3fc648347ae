"""Leaning cells: the same crystal in any cell has the same energy, and the barostat's average has a tilt."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from campaign.engines.base import Segment
from campaign.engines.slab import slab_cell
from campaign.engines.timeline import number_of_steps
from campaign.errors import InputError
from campaign.potentials import Potential, get_potential
from campaign.structures.io import write_structure
from tests.lammps_cases import ENGINE, NPT, NVT_STEP, THERMALISE, run, simulation, workload
from tests.potential_cases import VACUUM_A, model_of, monolayer, rectangle, run_lammps, system_lines

POTENTIAL = get_potential("tersoff-ilp")
LATTICE_CONSTANT_A = 2.495


def bilayer(layer_of: dict[str, Atoms]) -> Atoms:
    """h-BN and graphene on it, 3.3 angstrom apart, each atom above another one."""
    lower, upper = layer_of["hbn"].copy(), layer_of["graphene"].copy()
    for index, layer in enumerate((lower, upper)):
        layer.set_array("layer", np.full(len(layer), index))
        layer.positions[:, 2] += VACUUM_A + 3.3 * index
    together: Atoms = lower + upper
    together.cell[2, 2] = 2 * VACUUM_A + 3.3
    together.pbc = (True, True, False)
    return together


def hexagonal(cells: int) -> Atoms:
    materials = ("hbn", "graphene")
    return bilayer({one: monolayer(one, LATTICE_CONSTANT_A) * (cells, cells, 1) for one in materials})


def energy_per_atom(atoms: Atoms, potential: Potential, directory: Path) -> float:
    lines = system_lines(atoms, model_of(atoms, potential), directory)
    [[energy]] = run_lammps(directory, [*lines, "run 0 post no", 'print "RESULT $(pe:%.15g)"'])
    return energy / len(atoms)


@pytest.mark.parametrize(
    ("tilt", "expected"), [(0.5, 0.5), (-0.5, -0.5), (1.5, 0.5), (-2.3, -0.3), (3, 0), (0.2, 0.2)]
)
def test_a_cell_leans_as_little_as_it_can(tilt: float, expected: float) -> None:
    cell = [[4.0, 0, 0], [4.0 * tilt, 5.0, 0], [0, 0, 30.0]]
    lengths = slab_cell(Atoms(cell=cell, pbc=(True, True, False)))
    assert lengths == pytest.approx((4, 5, 30, 4 * expected), abs=1e-12)


@pytest.mark.parametrize(
    "cell",
    [[[4, 1, 0], [0, 5, 0], [0, 0, 30]], [[4, 0, 0], [0, 5, 0], [1, 0, 30]], [[4, 0, 0], [0, 5, 0], [0] * 3]],
)
def test_cells_that_lammps_cannot_take(cell: list[list[float]]) -> None:
    with pytest.raises(InputError, match="the third along z"):
        slab_cell(Atoms(cell=cell, pbc=(True, True, False)))


@pytest.mark.lammps
@pytest.mark.parametrize("shift", [0, -1, 2])
def test_a_crystal_has_its_energy_in_every_cell(shift: int, tmp_path: Path) -> None:
    """Cells at 60, 120 and 30 degrees, and an orthogonal one."""
    leaning = hexagonal(4)
    leaning.cell[1, 0] += shift * leaning.cell[0, 0]
    upright = bilayer({one: rectangle(one, LATTICE_CONSTANT_A, (4, 3)) for one in ("hbn", "graphene")})
    expected = energy_per_atom(upright, POTENTIAL, tmp_path)
    assert energy_per_atom(leaning, POTENTIAL, tmp_path) == pytest.approx(expected, rel=1e-10)


@pytest.mark.lammps
def test_a_leaning_cell_becomes_its_average_over_two_segments(tmp_path: Path) -> None:
    atoms = hexagonal(4)
    structure = tmp_path / "structure.npz"
    write_structure(atoms, structure)
    steps = simulation(THERMALISE, NPT, NVT_STEP.model_copy(update={"duration_ps": 0.1}))
    whole = workload(steps, 3, {"structure": structure})
    first = replace(whole, segment=Segment(1, 0, 300))
    assert run(first, tmp_path / "1", _log_the_cell) == 0
    carried = ENGINE.collect(tmp_path / "1").carried
    assert set(carried) == {"cell_x", "cell_y", "cell_xy", "cell_samples"}
    second = replace(
        whole,
        inputs=dict(whole.inputs, state=tmp_path / "1" / ENGINE.state_file),
        segment=Segment(2, 300, number_of_steps(steps), carried),
    )
    assert run(second, tmp_path / "2", _log_the_cell) == 0

    # Where a segment begins, the last step before it counts once more.
    cells = np.concatenate([_average_rows(tmp_path / part) for part in ("1", "2")])
    assert len(cells) == 101 + 101
    final = ENGINE.collect(tmp_path / "2").dataset
    cell = [*final["cell_length"].values[:2], float(final["cell_tilt_xy"])]
    np.testing.assert_allclose(cell, cells.mean(axis=0), rtol=1e-9)
    assert np.ptp(cells[:, 2]) > 1e-4  # the tilt moves

    bottom = final["final_position"].values[final["layer"].values == 0]
    crystal = Atoms(
        positions=bottom, cell=[[cell[0], 0, 0], [cell[2], cell[1], 0], [0, 0, 30]], pbc=(True, True, False)
    )
    bonds = np.sort(crystal.get_all_distances(mic=True), axis=1)
    assert 1.3 < bonds[:, 1].min() < bonds[:, 3].max() < 1.65
    assert bonds[:, 4].min() > 2.1


def _log_the_cell(script: str) -> str:
    script = re.sub(r"^thermo \d+$", "thermo 1", script, flags=re.MULTILINE)
    return re.sub(r"^(thermo_style .*)$", r"\1 xy", script, flags=re.MULTILINE)


def _average_rows(directory: Path) -> np.ndarray:
    """Lengths and tilt of the cell at every step that the average is taken over."""
    log = (directory / "log.lammps").read_text().partition("fix cell all")[2].partition("Loop time")[0]
    rows = [line.split() for line in log.splitlines()]
    numbers = [row for row in rows if len(row) == 12 and row[0].isdigit()]
    return np.array(numbers, dtype=float)[:, [9, 10, 11]]
