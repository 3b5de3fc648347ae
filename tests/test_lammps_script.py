"""LAMMPS input: traps that a short run would not show, and input that makes no sense."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from campaign.engines.base import Segment, Step
from campaign.engines.lammps_input import layer_species, write_data_file
from campaign.engines.lammps_script import make_script
from campaign.engines.timeline import frames_per_sample, number_of_steps, steps_of, timeline
from campaign.errors import (
    InputError,
)
from campaign.potentials import get_potential, lammps_model
from campaign.structures.io import write_structure
from tests.lammps_cases import (
    ENGINE,
    HEAT_FLOW,
    NPT,
    NVT_STEP,
    PREHEAT,
    THERMALISE,
    multilayer,
    script_of,
    simulation,
    workload,
)


def test_thermostats_have_seeds_of_their_own() -> None:
    def seeds(seed: int) -> list[int]:
        text = script_of(THERMALISE, PREHEAT, HEAT_FLOW, seed=seed)
        found = re.findall(r"langevin \S+ \S+ \S+ (\d+)|create \S+ (\d+)", text)
        return [int(first or second) for first, second in found]

    both = seeds(1) + seeds(2)
    assert len(both) == 10  # velocities, hot, cold, source, sink; twice
    assert len(set(both)) == len(both)
    assert all(1 <= seed <= 900_000_000 for seed in both)


def test_averages_of_one_step_do_not_enter_the_next() -> None:
    whole, atoms = simulation(THERMALISE, NPT, NPT), multilayer()
    first = timeline(whole)[1].last
    carried = {"cell_x": 5.0, "cell_y": 6.0, "cell_samples": 10.0}
    segment = Segment(2, first * 3 // 4, number_of_steps(whole), carried)
    model = lammps_model(get_potential("tersoff-lj"), layer_species(atoms))
    text, _ = make_script(whole, 1, atoms, model, segment, restart=True)
    averages = re.findall(r"variable scale_x equal (.+)", text)
    assert len(averages) == 2
    assert "+50)" in averages[0]  # 10 samples of 5 angstrom
    assert averages[1].startswith("$(f_cell[1]/lx")


def test_script_avoids_the_traps() -> None:
    lines = script_of(THERMALISE, NPT, NVT_STEP, PREHEAT, HEAT_FLOW).splitlines()
    commands = [line for line in lines if not line.startswith("#")]
    text = "\n".join(commands)
    assert "fix momentum" not in text
    assert "zero yes" not in text
    assert "exclude" not in text  # it would remove Tersoff
    assert "chunk/atom bin" not in text
    first_frozen = next(number for number, line in enumerate(commands) if "frozen" in line)
    assert first_frozen > max(
        number for number, line in enumerate(commands) if " npt " in line or " nvt " in line
    )
    resets = [number for number, line in enumerate(commands) if line == "reset_timestep 0"]
    records = [
        number for number, line in enumerate(commands) if "ave/time" in line and "fix cell" not in line
    ]
    assert max(resets) < min(records)
    tallies = [line for line in commands if "tally yes" in line]
    assert [line.split()[1] for line in tallies] == ["source", "sink"]


def test_damping_is_a_time() -> None:
    coarse, fine = (script_of(NVT_STEP, HEAT_FLOW, timestep_fs=timestep) for timestep in (1, 0.5))
    baths = [
        [line.split() for line in script.splitlines() if re.search(r"^fix .*(langevin|nvt)", line)]
        for script in (coarse, fine)
    ]
    assert baths[0] == baths[1]
    assert all("0.05" in words for words in baths[0])  # ps
    assert len(baths[0]) == 3
    assert re.findall(r"^run (\d+)", coarse, re.MULTILINE) == ["400", "2000"]
    assert re.findall(r"^run (\d+)", fine, re.MULTILINE) == ["800", "4000"]


def test_molecules_are_layers_also_where_layers_overlap_in_z(tmp_path: Path) -> None:
    atoms = multilayer()
    generator = np.random.default_rng(1)
    atoms.positions[:, 2] += generator.uniform(-3, 3, len(atoms))
    model = lammps_model(get_potential("tersoff-lj"), layer_species(atoms))
    write_data_file(atoms, model, tmp_path / "structure.data")
    text = (tmp_path / "structure.data").read_text()
    rows = np.loadtxt(text.split("Atoms # molecular")[1].splitlines())
    np.testing.assert_array_equal(rows[:, 1] - 1, atoms.arrays["layer"])
    np.testing.assert_allclose(rows[:, 3:], atoms.positions, atol=1e-9)
    elements = [model.types[int(number) - 1].element for number in rows[:, 2]]
    assert elements == atoms.get_chemical_symbols()
    masses = re.findall(r"^(\d+) (\d+\.\d+)$", text.split("Masses")[1].split("Atoms")[0], re.MULTILINE)
    assert [float(mass) for _, mass in masses] == pytest.approx(model.masses, rel=1e-6)


@given(st.integers(1, 10_000))
def test_frames_fill_a_sample_evenly(sample_steps: int) -> None:
    frames = frames_per_sample(sample_steps)
    assert 1 <= frames <= 5
    assert sample_steps % frames == 0


@given(st.floats(1e-4, 1e4), st.floats(0.1, 2))
def test_steps_cover_a_duration_to_half_a_step(duration_ps: float, timestep_fs: float) -> None:
    steps = steps_of(duration_ps, timestep_fs)
    assert steps >= 1
    assert steps == 1 or abs(steps * timestep_fs - duration_ps * 1000) <= timestep_fs / 2 * (1 + 1e-9)


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ((THERMALISE,), "no dynamical step"),
        ((HEAT_FLOW.model_copy(update={"source_layers": (6,)}),), "0 to 5"),
        ((HEAT_FLOW.model_copy(update={"source_layers": (-1,)}),), "0 to 5"),
        ((HEAT_FLOW.model_copy(update={"source_layers": ()}),), "no layers"),
        (
            (HEAT_FLOW.model_copy(update={"source_layers": (1, 2)}),),
            "'source' and 'sink'|'sink' and 'source'",
        ),
        ((HEAT_FLOW.model_copy(update={"sink_layers": (0,)}),), "frozen"),
        ((PREHEAT.model_copy(update={"hot_layers": (2, 3)}),), "hot"),
        ((HEAT_FLOW.model_copy(update={"duration_ps": 0.01}),), "sampling interval"),
    ],
)
def test_simulations_that_make_no_sense(steps: tuple[Step, ...], words: str) -> None:
    with pytest.raises(InputError, match=words):
        script_of(*steps)


def test_structures_that_make_no_sense(tmp_path: Path) -> None:
    job = workload(simulation(NVT_STEP), 1, {"structure": tmp_path / "structure.npz"})
    atoms = multilayer()
    atoms.cell[0, 1] = 1.0
    write_structure(atoms, tmp_path / "structure.npz")
    with pytest.raises(InputError, match="first vector must lie along x"):
        ENGINE.prepare(job, tmp_path)
    atoms = multilayer()
    atoms.pbc = True
    write_structure(atoms, tmp_path / "structure.npz")
    with pytest.raises(InputError, match="periodic along z"):
        ENGINE.prepare(job, tmp_path)
    atoms = multilayer()
    atoms.positions[:, 2] -= 18
    write_structure(atoms, tmp_path / "structure.npz")
    with pytest.raises(InputError, match="vacuum"):
        ENGINE.prepare(job, tmp_path)
    with pytest.raises(InputError, match="structure"):
        ENGINE.prepare(workload(simulation(NVT_STEP), 1, {"state": tmp_path / "state.restart"}), tmp_path)
