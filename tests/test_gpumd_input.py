"""Input of GPUMD: each step in its words and units, the model, and what cannot be asked of it."""

import re
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from campaign.engines.base import NVT, HeatFlow, NpT, Segment, Step
from campaign.engines.gpumd_input import role_groups, write_model
from campaign.engines.gpumd_script import make_facts, make_groups, make_script, segment_end
from campaign.engines.timeline import number_of_steps, timeline
from campaign.errors import InputError
from tests.gpumd_cases import simulation
from tests.lammps_cases import HEAT_FLOW, LAYERS, NPT, NVT_STEP, PREHEAT, THERMALISE, multilayer


def script_of(*steps: Step, first: int = 0, atoms: Atoms | None = None, timestep_fs: float = 0.5) -> str:
    atoms = atoms or multilayer()
    job = simulation(*steps, timestep_fs=timestep_fs)
    segment = Segment(1, first, number_of_steps(job))
    facts = make_facts(job, atoms, segment, np.asarray(atoms.cell))
    _, numbers = make_groups(job, atoms, first)
    return make_script(job, 5, facts, numbers, minimise=first == 0)


def words(script: str) -> list[str]:
    return [line for line in script.splitlines() if line and not line.startswith("#")]


def test_equilibration_in_the_words_of_gpumd() -> None:
    """Times are MD steps; velocities have a seed; a process ends where the cell is averaged."""
    assert words(script_of(THERMALISE, NPT, NVT_STEP)) == [
        "potential nep.txt",
        "minimize fire 0.01 200",
        "velocity 300 seed 5",
        "time_step 0.5",
        "ensemble npt_scr 300 300 100 0 0 0 50 50 50 1000",
        "dump_thermo 1",
        "dump_restart 800",
        "run 800",
    ]
    assert words(script_of(THERMALISE, NPT, NVT_STEP, first=800))[3:] == [
        "ensemble nvt_nhc 300 300 100",
        "dump_thermo 1",
        "dump_restart 800",
        "run 800",
    ]


def test_pressure_within_the_structure_is_a_smaller_one_of_the_cell() -> None:
    step = NPT.model_copy(update={"pressure_GPa": 2.0})
    line = next(line for line in words(script_of(THERMALISE, step, NVT_STEP)) if "npt_scr" in line)
    height, vacuum = 57.0, 40.0  # 6 layers, 3.4 apart
    assert float(line.split()[5]) == pytest.approx(2 * (height - vacuum) * 6 / 5 / height, rel=1e-9)


def test_heat_flow_in_the_words_of_gpumd() -> None:
    """Two temperatures are a mean and what source and sink differ from it; rows are of one instant."""
    lines = words(script_of(PREHEAT, HEAT_FLOW, first=1000))
    assert lines[3:] == [
        "ensemble heat_lan 300 100 100 1 2",
        "fix 0",
        "compute 1 8 1 temperature potential",
        "dump_restart 4000",
        "run 4000",
    ]
    uneven = HEAT_FLOW.model_copy(update={"source_temperature_K": 310, "sink_temperature_K": 350})
    assert "ensemble heat_lan 330 100 -20 1 2" in script_of(PREHEAT, uneven, first=1000)


def test_each_block_says_everything_again() -> None:
    """Blocks are whole samples, here of 62 MD steps, and tens, whose end GPUMD tells at once."""
    step = HEAT_FLOW.model_copy(update={"duration_ps": 7.5, "sampling_interval_fs": 31.0})
    lines = words(script_of(PREHEAT, step, first=1000))
    assert [line for line in lines if line.startswith("run ")] == ["run 4960"] * 3 + ["run 120"]
    for keyword in ("ensemble heat_lan", "fix", "compute", "dump_restart"):
        assert sum(line.startswith(keyword) for line in lines) == 4


def test_grouping_methods_are_roles_and_layers() -> None:
    atoms = multilayer()
    groups, numbers = make_groups(simulation(PREHEAT, HEAT_FLOW), atoms, 500)
    layer = atoms.arrays["layer"]
    assert numbers == {"frozen": 0, "source": 1, "sink": 2}
    assert [sorted(set(layer[groups[0] == group])) for group in range(4)] == [[0], [5], [1], [2, 3, 4]]
    assert groups[1].tolist() == layer.tolist()
    # Without a frozen layer no group is empty, which would be a division by zero in GPUMD.
    roles, numbers = role_groups(layer, {"frozen": (), "source": (5,), "sink": (0,)})
    assert numbers == {"source": 0, "sink": 1}
    assert sorted(set(roles)) == [0, 1, 2]


def test_model_is_read_back_with_its_groups(tmp_path: Path) -> None:
    """Columns mean what GPUMD reads: velocities in angstrom/fs, the cell vector by vector."""
    read_xyz = pytest.importorskip("calorine.gpumd").read_xyz
    atoms = multilayer()
    cell = np.array([[7.5, 0, 0], [1.25, 8.6, 0], [0, 0, 57]])
    velocities = np.random.default_rng(1).normal(0, 1e-2, atoms.positions.shape)
    layer = atoms.arrays["layer"]
    write_model(
        tmp_path / "model.xyz",
        atoms.get_chemical_symbols(),
        atoms.positions,
        masses=atoms.get_masses(),
        cell=cell,
        groups=(layer % 2, layer),
        velocities=velocities,
    )
    back = read_xyz(str(tmp_path / "model.xyz"))
    np.testing.assert_allclose(back.positions, atoms.positions, atol=1e-9)
    np.testing.assert_allclose(back.cell.array, cell)
    np.testing.assert_array_equal(back.pbc, [True, True, False])
    np.testing.assert_array_equal(back.arrays["group"], np.stack((layer % 2, layer), axis=1))
    np.testing.assert_allclose(back.get_masses(), atoms.get_masses(), atol=1e-6)
    from ase.units import fs

    np.testing.assert_allclose(back.get_velocities() * fs, velocities, rtol=1e-8)


def test_segments_end_with_a_sample_or_a_step() -> None:
    job = simulation(PREHEAT, HEAT_FLOW)  # 500 steps, then 2000 with samples of 20
    ends = {step: segment_end(job, step) for step in (1, 499, 500, 501, 521, 2479, 2490, 2500)}
    # 200 samples of a preheat: every 2 MD steps
    assert ends == {1: 2, 499: 500, 500: 500, 501: 520, 521: 540, 2479: 2480, 2490: 2500, 2500: 2500}
    odd = simulation(PREHEAT, HEAT_FLOW.model_copy(update={"duration_ps": 0.05}))
    assert segment_end(odd, 530) == 550  # what is left over after the last whole sample


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ((THERMALISE,), "no dynamical step"),
        ((THERMALISE, PREHEAT), "records nothing of a preheat"),
        (
            (HEAT_FLOW.model_copy(update={"source_layers": (LAYERS,)}),),
            "has layers [6], the structure has 0 to 5",
        ),
        (
            (HEAT_FLOW.model_copy(update={"sink_layers": (0,)}),),
            "layer 0 belongs to both 'sink' and 'frozen'",
        ),
        ((HEAT_FLOW.model_copy(update={"sink_layers": ()}),), "'sink' has no layers"),
        ((HEAT_FLOW.model_copy(update={"damping_fs": 0.1}),), "shorter than the timestep"),
        ((HEAT_FLOW.model_copy(update={"sampling_interval_fs": 5000.0}),), "less than a sampling interval"),
    ],
)
def test_what_cannot_be_asked(steps: tuple[Step, ...], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        script_of(*steps)


def test_averages_of_one_step_do_not_enter_the_next() -> None:
    carried = {"cell_x": 5.0, "cell_y": 6.0, "cell_samples": 10.0}
    job, atoms = simulation(THERMALISE, NPT, NPT), multilayer()
    half = timeline(job)[1].last
    for first, kept in ((half // 2, carried), (half, {}), (half + 10, carried)):
        segment = Segment(2, first, 2 * half, carried)
        assert make_facts(job, atoms, segment, np.asarray(atoms.cell)).carried == kept


def test_pressure_of_a_triclinic_slab_is_refused() -> None:
    atoms = multilayer()
    atoms.set_cell([[7.5, 0, 0], [1.25, 8.6, 0], [0, 0, 57]])
    with pytest.raises(InputError, match="orthogonal cell"):
        script_of(THERMALISE, NPT, NVT_STEP, atoms=atoms)
    assert "nvt_nhc" in script_of(THERMALISE, NVT_STEP, atoms=atoms)


def test_the_authors_settings_make_the_authors_lines() -> None:
    """`run.in` of arXiv:2502.13601: NpT, NVT and heat flow at 0.5 fs."""
    npt = NpT(temperature_K=300, duration_ps=500, thermostat_damping_fs=50, barostat_damping_fs=500)
    nvt = NVT(temperature_K=300, duration_ps=250, thermostat_damping_fs=50)
    flow = HeatFlow(
        source_layers=(5,),
        sink_layers=(1,),
        frozen_layers=(0,),
        upper_layers=(3, 4, 5),
        source_temperature_K=330,
        sink_temperature_K=270,
        damping_fs=50,
        duration_ps=2500,
        sampling_interval_fs=500,
    )
    assert "ensemble npt_scr 300 300 100 0 0 0 50 50 50 1000" in script_of(THERMALISE, npt, nvt)
    assert "ensemble nvt_nhc 300 300 100" in script_of(THERMALISE, npt, nvt, first=1_000_000)
    lines = words(script_of(flow))
    assert {"ensemble heat_lan 300 100 30 1 2", "fix 0", "compute 1 200 1 temperature potential"} <= set(
        lines
    )
    assert sum(int(line.split()[1]) for line in lines if line.startswith("run ")) == 5_000_000
