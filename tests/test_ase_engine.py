"""ASE engine: conserved energies, exact tallies, restarts, requests to stop, failures with their class."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from campaign.engines import ase_run
from campaign.engines.ase_record import Recorder
from campaign.engines.ase_system import System
from campaign.engines.base import (
    NVE,
    NVT,
    STOP_FILE,
    Engine,
    HeatFlow,
    NpT,
    Preheat,
    Segment,
    Simulation,
    Thermalise,
    Workload,
    get_engine,
)
from campaign.engines.segments import join_segments
from campaign.errors import (
    CampaignError,
    EngineNotFoundError,
    InputError,
    OutOfMemoryError,
    PhysicsError,
    ResourceError,
    TransientError,
)
from campaign.potentials.library import library
from campaign.quantities import BOLTZMANN_EV_PER_K
from tests.ase_cases import (
    ENGINE,
    ForcesOnly,
    Springs,
    add_springs,
    compute,
    compute_all,
    multilayer,
    positions,
    segments,
    simulation,
    written,
)

THERMALISE = Thermalise(temperature_K=300)
NPT = NpT(temperature_K=300, duration_ps=0.2, thermostat_damping_fs=50, barostat_damping_fs=500)
NVT_STEP = NVT(temperature_K=300, duration_ps=0.2, thermostat_damping_fs=50)
PREHEAT = Preheat(
    hot_layers=(2, 3),
    cold_layers=(0, 1),
    frozen_layers=(0,),
    hot_temperature_K=400,
    cold_temperature_K=200,
    duration_ps=0.5,
    damping_fs=50,
)
HEAT_FLOW = HeatFlow(
    source_layers=(3,),
    sink_layers=(1,),
    frozen_layers=(0,),
    upper_layers=(2, 3),
    source_temperature_K=400,
    sink_temperature_K=200,
    damping_fs=50,
    duration_ps=2,
    sampling_interval_fs=20,
)


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """A structure, and springs to its places in the library."""
    monkeypatch.setenv("CAMPAIGN_POTENTIALS", str(tmp_path / "library"))
    structure = written(multilayer(), tmp_path)
    add_springs(structure)
    return {"structure": structure}


@pytest.fixture
def equilibrated(inputs: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    directory = tmp_path / "equilibrate"
    directory.mkdir()
    (last,) = compute_all(simulation(THERMALISE, NVT_STEP), (), inputs, directory)
    return {**inputs, "state": last / ENGINE.state_file}


def test_registered_and_complete() -> None:
    engine = get_engine("ase")
    assert isinstance(engine, Engine)
    assert engine.check().capabilities >= {"npt", "heat_flow"}


def test_energy_is_conserved_and_a_restart_is_exact(equilibrated: dict[str, Path], tmp_path: Path) -> None:
    job = simulation(NVE(duration_ps=0.5))
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for directory, cuts in ((whole, ()), (cut, (100, 322))):
        directory.mkdir()
        compute_all(job, cuts, equilibrated, directory)
    np.testing.assert_array_equal(positions(whole / "1"), positions(cut / "3"))
    series = ENGINE.collect(whole / "1").dataset
    joined = join_segments([ENGINE.collect(cut / str(n)).dataset for n in (1, 2, 3)])
    assert joined.identical(series)
    atoms = series.sizes["atom"]
    total = series["potential_energy"] + 1.5 * atoms * BOLTZMANN_EV_PER_K * series["temperature"]
    # What velocity Verlet conserves for a spring is E - (omega dt)^2 / 4 U: 0.22 % (B) to 0.17 % (N) of U.
    constant = np.polynomial.Polynomial.fit(series["potential_energy"].values, total.values, 1).convert()
    assert constant.coef[1] == pytest.approx(0.0020, abs=0.0003)
    assert np.ptp((total - constant.coef[1] * series["potential_energy"]).values) < 1e-3


def test_thermostats_give_what_the_structure_gains(equilibrated: dict[str, Path], tmp_path: Path) -> None:
    job = simulation(PREHEAT, HEAT_FLOW)
    directories = compute_all(job, (200, 1500), equilibrated, tmp_path)
    series = join_segments([ENGINE.collect(directory).dataset for directory in directories])
    assert series.sizes == {"time": 100, "layer": 4, "direction": 3, "atom": 64}
    np.testing.assert_allclose(series["time"], 0.02 * np.arange(1, 101))
    gained_eV = series["total_energy"] - (series["source_energy"] + series["sink_energy"])
    exchanged_eV = np.ptp(series["source_energy"].values) + np.ptp(series["sink_energy"].values)
    assert np.ptp(gained_eV.values) < 0.02 * exchanged_eV
    np.testing.assert_allclose(
        series["lower_energy"] + series["upper_energy"], series["total_energy"], atol=1e-9
    )
    mean_K = series["layer_temperature"].mean("time").values
    np.testing.assert_array_equal(series["layer_temperature"].values[:, 0], 0)  # frozen
    # One frame of 16 atoms: T sqrt(2 / 48) = 0.2 T; 2 ps hold about 20 independent ones.
    assert mean_K[3] == pytest.approx(400, rel=4 * 0.2 / np.sqrt(20))
    assert mean_K[1] == pytest.approx(200, rel=4 * 0.2 / np.sqrt(20))
    moved_A = positions(directories[-1]) - multilayer().positions
    started_A = positions(equilibrated["state"].parent) - multilayer().positions
    np.testing.assert_array_equal(moved_A[:16], started_A[:16])
    assert np.abs(moved_A[16:]).max() > 0.01


def test_noise_is_new_in_each_segment_and_follows_from_the_seed(
    equilibrated: dict[str, Path], tmp_path: Path
) -> None:
    job = simulation(HEAT_FLOW.model_copy(update={"duration_ps": 0.1}))
    (segment,) = segments(job)
    given = {}
    for name, number, seed in (("a", 1, 7), ("same", 1, 7), ("seed", 1, 8), ("segment", 2, 7)):
        piece = Segment(number, segment.first, segment.last)
        assert compute(job, piece, equilibrated, tmp_path / name, seed) == 0
        given[name] = ENGINE.collect(tmp_path / name).dataset["source_energy"].values
    np.testing.assert_array_equal(given["a"], given["same"])
    assert np.abs(given["a"] - given["seed"]).min() > 0
    assert np.abs(given["a"] - given["segment"]).min() > 0


def test_cell_becomes_its_average_over_the_last_half_also_in_segments(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen_A: list[np.ndarray] = []
    stretch = System.stretch

    def see(self: System, factors: np.ndarray) -> None:
        stretch(self, factors)
        seen_A.append(self.atoms.cell.array.diagonal()[:2].copy())

    monkeypatch.setattr(System, "stretch", see)
    job = simulation(THERMALISE, NPT)
    directories = compute_all(job, (60, 130), inputs, tmp_path)
    assert len(seen_A) == 200 + 1  # each MD step, and what ends the step
    length_A = ENGINE.collect(directories[-1]).dataset["cell_length"].values
    np.testing.assert_allclose(length_A[:2], np.mean(seen_A[100:200], axis=0), rtol=1e-12)
    assert length_A[2] == multilayer().cell.array[2, 2]  # z is free
    assert [ENGINE.collect(one).carried.get("cell_samples") for one in directories] == [None, 30, None]


def test_a_request_to_stop_ends_with_a_whole_sample(
    equilibrated: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ase_run, "LOOK_S", 0.0)
    job = simulation(HEAT_FLOW)
    directory = prepared(job, equilibrated, tmp_path / "stopped")
    record = Recorder.__call__

    def stop_within_the_sixth(self: Recorder, number: int) -> bool:
        if number == 107:
            (directory / STOP_FILE).touch()
        return record(self, number)

    monkeypatch.setattr(Recorder, "__call__", stop_within_the_sixth)
    assert ase_run.main(directory) == 0
    output = ENGINE.collect(directory)
    assert output.last == 100
    assert output.dataset.sizes["time"] == 5
    assert "final_position" not in output.dataset
    again = Segment(2, 100, ENGINE.segment_end(job, 160))
    inputs = {**equilibrated, "state": directory / ENGINE.state_file}
    assert compute(job, again, inputs, tmp_path / "next") == 0
    join_segments([output.dataset, ENGINE.collect(tmp_path / "next").dataset])


def test_a_stop_waits_for_the_first_whole_sample(
    equilibrated: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A segment that ended where it began would be asked again for ever."""
    monkeypatch.setattr(ase_run, "LOOK_S", 0.0)
    directory = prepared(simulation(HEAT_FLOW), equilibrated, tmp_path / "stopped")
    (directory / STOP_FILE).touch()
    assert ase_run.main(directory) == 0
    assert ENGINE.collect(directory).last == 20


def prepared(job: Simulation, inputs: dict[str, Path], directory: Path) -> Path:
    """Make the directory of a whole stage, in which nothing has run yet."""
    directory.mkdir()
    (segment,) = segments(job)
    ENGINE.prepare(Workload(job, 7, inputs, segment), directory)
    return directory


def test_progress(equilibrated: dict[str, Path], tmp_path: Path) -> None:
    assert ENGINE.progress(tmp_path) is None
    progress = ENGINE.progress(equilibrated["state"].parent)
    assert progress is not None
    assert progress.steps_done == progress.steps_total == 200
    assert progress.rate is not None
    assert progress.rate > 0


def test_a_calculator_does_what_it_can(inputs: dict[str, Path], tmp_path: Path) -> None:
    """Without a stress no constant pressure, without energies per atom no energies of the two sides."""
    add_springs(inputs["structure"], "plain", ForcesOnly)
    refused = simulation(THERMALISE, NPT, potential="plain")
    assert compute(refused, segments(refused)[0], inputs, tmp_path / "npt") == 1
    error = ENGINE.diagnose(tmp_path / "npt", 1)
    assert isinstance(error, InputError)
    assert "stress" in str(error)
    assert "series.bin" not in [path.name for path in (tmp_path / "npt").iterdir()]
    for step, lacking in (
        (HEAT_FLOW, {"lower_energy", "upper_energy"}),
        (NVT_STEP, {"pressure_xx", "pressure_yy"}),
    ):
        series = []
        for potential in ("springs", "plain"):
            job = simulation(THERMALISE, step, potential=potential)
            directory = tmp_path / f"{step.step}-{potential}"
            directory.mkdir()
            (where,) = compute_all(job, (), inputs, directory)
            series.append(ENGINE.collect(where).dataset)
        whole, plain = series
        assert set(whole.variables) - set(plain.variables) == lacking
        assert plain.identical(whole.drop_vars(lacking).assign_attrs(plain.attrs))


def test_bad_input_fails_before_the_run(inputs: dict[str, Path], tmp_path: Path) -> None:
    job = simulation(THERMALISE, NVT_STEP)
    (segment,) = segments(job)
    with pytest.raises(InputError, match="structure"):
        ENGINE.prepare(Workload(job, 1, {}, segment), tmp_path)
    for steps, words in (
        ((THERMALISE,), "no dynamical step"),
        ((NVT_STEP,), "velocities"),
        ((THERMALISE, HEAT_FLOW.model_copy(update={"source_layers": (4,)})), "0 to 3"),
        ((THERMALISE, HEAT_FLOW.model_copy(update={"sink_layers": (3,)})), "both"),
        ((THERMALISE, HEAT_FLOW.model_copy(update={"duration_ps": 0.01})), "sampling interval"),
    ):
        with pytest.raises(InputError, match=words):
            ENGINE.prepare(Workload(simulation(*steps), 1, inputs, segment), tmp_path)
    facts = library() / "springs" / "potential.json"
    plain = json.loads(facts.read_text())
    for change, kind in (
        ({"calculator": "no.such.Calculator"}, EngineNotFoundError),
        ({"calculator": "math.Calculator"}, ResourceError),
        ({"kwargs": {"colour": 1}}, ResourceError),
    ):
        facts.write_text(json.dumps({**plain, **change}))
        assert compute(job, segment, inputs, tmp_path / "bad") == 1
        error = ENGINE.diagnose(tmp_path / "bad", 1)
        assert type(error) is kind
        assert str(error.where).endswith("springs/potential.json")
    (library() / "springs" / "structure.npz").unlink()
    with pytest.raises(ResourceError, match="a file of springs is missing"):
        ENGINE.prepare(Workload(job, 1, inputs, segment), tmp_path)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_explosion(inputs: dict[str, Path], tmp_path: Path) -> None:
    facts = library() / "springs" / "potential.json"
    plain = json.loads(facts.read_text())
    facts.write_text(json.dumps({**plain, "kwargs": {**plain["kwargs"], "constant": 1e5}}))
    job = simulation(THERMALISE, NVE(duration_ps=1), timestep_fs=5)
    (segment,) = segments(job)
    assert compute(job, segment, inputs, tmp_path / "exploded") == 1
    error = ENGINE.diagnose(tmp_path / "exploded", 1)
    assert isinstance(error, PhysicsError)
    assert "log.ase" in str(error)
    assert isinstance(ENGINE.diagnose(tmp_path / "nothing", -9), TransientError)


class Broken(Springs):
    """A calculator that says what the environment tells it."""

    def calculate(self, *_: object) -> None:
        name, text = os.environ["BROKEN"].split(":", 1)
        raise {"RuntimeError": RuntimeError, "OSError": OSError, "ValueError": ValueError}[name](text)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("RuntimeError:CUDA out of memory. Tried to allocate 2 GiB", OutOfMemoryError),
        ("OSError:[Errno 28] No space left on device", ResourceError),
        ("ValueError:atoms overlap", InputError),
    ],
)
def test_what_a_calculator_says_has_its_class(
    said: str,
    kind: type[CampaignError],
    inputs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add_springs(inputs["structure"], "broken", Broken)
    monkeypatch.setenv("BROKEN", said)
    job = simulation(THERMALISE, NVT_STEP, potential="broken")
    (segment,) = segments(job)
    assert compute(job, segment, inputs, tmp_path / "run") == 1
    error = ENGINE.diagnose(tmp_path / "run", 1)
    assert type(error) is kind
    assert said.partition(":")[2] in str(error)
    assert "None" not in str(error)


def test_a_process_that_could_not_say_it_in_its_log(tmp_path: Path) -> None:
    (tmp_path / "stderr.log").write_text("Traceback:\nOSError: [Errno 28] No space left on device\n")
    assert type(ENGINE.diagnose(tmp_path, 1)) is ResourceError
    assert type(ENGINE.diagnose(tmp_path, -15)) is TransientError


def test_half_a_state_may_pass(equilibrated: dict[str, Path], tmp_path: Path) -> None:
    path = equilibrated["state"]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    job = simulation(HEAT_FLOW)
    (segment,) = segments(job)
    assert compute(job, segment, equilibrated, tmp_path / "run") == 1
    assert type(ENGINE.diagnose(tmp_path / "run", 1)) is TransientError


@pytest.mark.parametrize("name", ["series.bin", "final.npz", "end.json", "state.npz", "ase.json"])
def test_missing_output(equilibrated: dict[str, Path], name: str) -> None:
    directory = equilibrated["state"].parent
    (directory / name).unlink()
    with pytest.raises(TransientError, match=name.replace(".", r"\.")):
        ENGINE.collect(directory)


@pytest.mark.parametrize("name", ["series.bin", "final.npz"])
def test_truncated_output(equilibrated: dict[str, Path], name: str) -> None:
    path = equilibrated["state"].parent / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(TransientError, match=name.replace(".", r"\.")):
        ENGINE.collect(path.parent)


def test_results_are_those_of_every_engine(equilibrated: dict[str, Path], tmp_path: Path) -> None:
    job = simulation(HEAT_FLOW.model_copy(update={"duration_ps": 0.1}))
    (directory,) = compute_all(job, (), equilibrated, tmp_path)
    dataset = ENGINE.collect(directory).dataset
    assert set(dataset.data_vars) == {
        "layer_temperature",
        "source_energy",
        "sink_energy",
        "lower_energy",
        "upper_energy",
        "total_energy",
        "cell_length",
        "final_position",
        "atomic_number",
        "atoms_initial",
        "atoms_final",
        "dangerous_builds",
    }
    assert dataset["layer"].values.tolist() == np.repeat(range(4), 16).tolist()


def test_pressure_of_a_triclinic_slab_is_refused(inputs: dict[str, Path], tmp_path: Path) -> None:
    """The contract lets the angle change, too; this engine would hold it."""
    atoms = multilayer()
    atoms.cell[1, 0] = atoms.cell[0, 0] / 2
    structure = written(atoms, tmp_path)
    add_springs(structure, "tilted")
    job = simulation(THERMALISE, NPT, NVT_STEP, potential="tilted")
    (segment,) = segments(job)
    with pytest.raises(InputError, match="orthogonal cell only; use lammps"):
        ENGINE.prepare(Workload(job, 7, {"structure": structure}, segment), tmp_path)
    job = simulation(THERMALISE, NVT_STEP, potential="tilted")
    (directory,) = compute_all(job, (), {"structure": structure}, tmp_path)
    dataset = ENGINE.collect(directory).dataset
    assert dataset["cell_tilt_xy"].item() == pytest.approx(atoms.cell[0, 0] / 2)
