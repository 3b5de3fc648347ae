"""LAMMPS engine: its numbers mean what they say, and every failure has its class and its line."""

import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from campaign.engines.base import (
    Engine,
    Progress,
    Thermalise,
    get_engine,
)
from campaign.engines.lammps import BINARY_VARIABLE, LammpsEngine
from campaign.engines.lammps_input import Facts
from campaign.errors import (
    CampaignError,
    EngineNotFoundError,
    InputError,
    Location,
    OutOfMemoryError,
    PhysicsError,
    ResourceError,
    TransientError,
)
from campaign.protocols.base import read_result, write_result
from campaign.quantities import BOLTZMANN_EV_PER_K
from campaign.structures.io import write_structure
from tests.lammps_cases import (
    ATOMS,
    ATOMS_OF_LAYER,
    ENGINE,
    HEAT_FLOW,
    LAYERS,
    NPT,
    NVE_NOISE_EV_PER_ATOM,
    NVT_STEP,
    PREHEAT,
    THERMALISE,
    multilayer,
    run,
    simulation,
    workload,
)


@pytest.fixture(scope="module")
def structure(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("build") / "structure.npz"
    write_structure(multilayer(), path)
    return path


@pytest.fixture(scope="module")
def equilibrated(structure: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    # A space in the path: a user's directory may have one.
    directory = tmp_path_factory.mktemp("equilibrate") / "stage 1"
    job = workload(simulation(THERMALISE, NPT, NVT_STEP), 7, {"structure": structure})
    assert run(job, directory) == 0
    return directory


@pytest.fixture(scope="module")
def produced(structure: Path, equilibrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("produce")
    inputs = {"structure": structure, "state": equilibrated / ENGINE.state_file}
    assert run(workload(simulation(PREHEAT, HEAT_FLOW), 11, inputs), directory) == 0
    return directory


@pytest.fixture(scope="module")
def heat_flow(produced: Path) -> xr.Dataset:
    return ENGINE.collect(produced).dataset


@pytest.fixture
def copied(produced: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(produced, tmp_path / "copy"))


# The contract.


def test_registered_and_complete() -> None:
    engine = get_engine("lammps")
    assert isinstance(engine, LammpsEngine)
    assert isinstance(engine, Engine)
    assert engine.state_file == "state.restart"


@pytest.mark.lammps
def test_check_starts_the_binary() -> None:
    info = ENGINE.check()
    assert re.match(r"\d+ \w+ 20\d\d", info.version)
    assert Path(info.path).is_file()
    assert {"npt", "heat_flow"} <= info.capabilities


@pytest.mark.parametrize("binary", ["/no/such/lmp", "no-such-lmp", "/bin/true"])
def test_absent_or_other_binary(binary: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BINARY_VARIABLE, binary)
    with pytest.raises(EngineNotFoundError, match="pip install"):
        ENGINE.check()


def test_binary_without_a_needed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binary = tmp_path / "lmp"
    binary.write_text(
        "#!/bin/sh\necho Massively Parallel Simulator - 1 Jan 2026; echo MANYBODY MOLECULE OPENMP\n"
    )
    binary.chmod(0o755)
    monkeypatch.setenv(BINARY_VARIABLE, str(binary))
    with pytest.raises(EngineNotFoundError, match="INTERLAYER"):
        ENGINE.check()


@pytest.mark.lammps
def test_heat_flow_dataset(heat_flow: xr.Dataset, produced: Path, tmp_path: Path) -> None:
    assert heat_flow["layer_temperature"].dims == ("time", "layer")
    assert heat_flow.sizes == {"time": 100, "layer": LAYERS, "direction": 3, "atom": ATOMS}
    np.testing.assert_allclose(heat_flow["time"], 0.02 * np.arange(1, 101))
    units = {name: heat_flow[name].attrs["units"] for name in ("time", "source_energy", "cell_length")}
    assert units == {"time": "ps", "source_energy": "eV", "cell_length": "angstrom"}
    assert heat_flow["layer"].values.tolist() == np.repeat(range(LAYERS), ATOMS_OF_LAYER).tolist()
    assert np.unique(heat_flow["atomic_number"][heat_flow["layer"].values >= 3]).tolist() == [6]
    assert np.unique(heat_flow["atomic_number"][heat_flow["layer"].values < 3]).tolist() == [5, 7]
    assert int(heat_flow["atoms_initial"]) == int(heat_flow["atoms_final"]) == ATOMS
    assert int(heat_flow["dangerous_builds"]) == 0
    assert heat_flow.attrs["timestep_fs"] == 1
    assert "20" in heat_flow.attrs["engine_version"]
    write_result(heat_flow, tmp_path)
    assert read_result(tmp_path).identical(heat_flow)
    kept = ENGINE.prepare(
        workload(simulation(NVT_STEP), 1, {"structure": _structure(tmp_path)}), tmp_path
    ).keep
    assert all((produced / name).is_file() for name in kept)


def _structure(directory: Path) -> Path:
    path = directory / "structure.npz"
    write_structure(multilayer(), path)
    return path


@pytest.mark.lammps
def test_equilibrate_dataset(equilibrated: Path) -> None:
    dataset = ENGINE.collect(equilibrated).dataset
    assert dataset.sizes["time"] == 200
    assert dataset["time"].values[-1] == pytest.approx(0.4)
    # Fluctuation of one instant: T sqrt(2 / 3N) = 20 K; Nose-Hoover holds the mean much closer.
    assert float(dataset["temperature"].mean()) == pytest.approx(300, abs=15)
    assert {dataset[name].attrs["units"] for name in ("pressure_xx", "pressure_yy")} == {"GPa"}
    progress = ENGINE.progress(equilibrated)
    assert progress is not None
    assert (progress.steps_done, progress.steps_total) == (800, 800)
    assert progress.rate is not None
    assert 1e3 < progress.rate < 1e7


# The physics.


@pytest.mark.lammps
def test_energy_is_closed(heat_flow: xr.Dataset) -> None:
    given_eV = heat_flow["source_energy"] + heat_flow["sink_energy"]
    unexplained_eV = heat_flow["total_energy"] - given_eV
    exchanged_eV = np.ptp(heat_flow["source_energy"].values) + np.ptp(heat_flow["sink_energy"].values)
    tolerance_eV = 10 * NVE_NOISE_EV_PER_ATOM * ATOMS
    assert exchanged_eV > 10 * tolerance_eV  # or the test would see nothing
    assert np.ptp(unexplained_eV.values) < tolerance_eV


@pytest.mark.lammps
def test_sides_sum_to_the_total(heat_flow: xr.Dataset) -> None:
    sides_eV = heat_flow["lower_energy"] + heat_flow["upper_energy"]
    np.testing.assert_allclose(sides_eV, heat_flow["total_energy"], rtol=0, atol=1e-6)


@pytest.mark.lammps
def test_frozen_layer_rests_and_the_others_move(heat_flow: xr.Dataset, equilibrated: Path) -> None:
    before = ENGINE.collect(equilibrated).dataset
    length_A = heat_flow["cell_length"].values
    moved_A = heat_flow["final_position"].values - before["final_position"].values
    moved_A -= length_A * np.round(moved_A / length_A)
    layer = heat_flow["layer"].values
    np.testing.assert_allclose(moved_A[layer == 0], 0, atol=1e-7)
    assert np.abs(moved_A[layer == 1]).max() > 0.01
    np.testing.assert_array_equal(heat_flow["layer_temperature"].values[:, 0], 0)


@pytest.mark.lammps
def test_layers_take_the_temperature_of_their_bath(heat_flow: xr.Dataset) -> None:
    mean_K = heat_flow["layer_temperature"].mean("time").values
    # One frame of 24 atoms: T sqrt(2 / 72) = 0.17 T; 2 ps hold about 20 independent ones (2 x 50 fs each).
    assert mean_K[5] == pytest.approx(400, rel=4 * 0.17 / np.sqrt(20))
    assert mean_K[1] == pytest.approx(200, rel=4 * 0.17 / np.sqrt(20))
    assert mean_K[3:].mean() > mean_K[1:3].mean() + 50  # Preheat did its work


@pytest.mark.lammps
def test_layers_agree_with_the_total_kinetic_energy(
    structure: Path, equilibrated: Path, tmp_path: Path
) -> None:
    # With a sample of one frame, layer temperatures are those of the instants at which LAMMPS prints its own.
    step = HEAT_FLOW.model_copy(update={"sampling_interval_fs": 1.0, "duration_ps": 0.02})
    inputs = {"structure": structure, "state": equilibrated / ENGINE.state_file}
    assert run(workload(simulation(step), 1, inputs), tmp_path, _log_every_step) == 0
    layers_K = ENGINE.collect(tmp_path).dataset["layer_temperature"].values
    # LAMMPS counts 3N - 3 degrees of freedom, and an older Boltzmann constant.
    temp_K = _log_columns(tmp_path)[-20:, 4] * (3 * ATOMS - 3) / (3 * ATOMS)
    np.testing.assert_allclose(layers_K.mean(axis=1), temp_K, rtol=1e-5)


@pytest.mark.lammps
def test_cell_becomes_its_average_of_the_last_half(structure: Path, tmp_path: Path) -> None:
    assert (
        run(workload(simulation(THERMALISE, NPT), 3, {"structure": structure}), tmp_path, _log_every_step)
        == 0
    )
    rows = _log_columns(tmp_path)
    second_half = rows[rows[:, 1] >= 200][
        1:
    ]  # after the last line of the first half, which has the same step
    average_A = second_half[:, -2:].mean(axis=0)
    cell_A = ENGINE.collect(tmp_path).dataset["cell_length"].values[:2]
    np.testing.assert_allclose(cell_A, average_A, rtol=1e-9)
    assert np.abs(second_half[-1, -2:] / average_A - 1).min() > 1e-6  # the last instant is another cell


def _log_every_step(script: str) -> str:
    return re.sub(r"^thermo \d+$", "thermo 1", script, flags=re.MULTILINE)


def _log_columns(directory: Path) -> np.ndarray:
    """Rows of numbers of all dynamical runs in the log."""
    rows = [line.split() for line in (directory / "log.lammps").read_text().splitlines()]
    numbers = [
        row for row in rows if len(row) == 11 and re.fullmatch(r"[-+.e\d]+", row[0] + row[1] + row[-1])
    ]
    return np.array(numbers, dtype=float)


@pytest.mark.lammps
def test_numbers_follow_from_the_seed(
    structure: Path, equilibrated: Path, heat_flow: xr.Dataset, tmp_path: Path
) -> None:
    inputs = {"structure": structure, "state": equilibrated / ENGINE.state_file}
    steps = simulation(PREHEAT, HEAT_FLOW.model_copy(update={"duration_ps": 0.2}))
    collected = {}
    for name, seed in (("same", 11), ("other", 12)):
        assert run(workload(steps, seed, inputs), tmp_path / name) == 0
        collected[name] = ENGINE.collect(tmp_path / name).dataset["source_energy"].values
    np.testing.assert_array_equal(collected["same"], heat_flow["source_energy"].values[:10])
    assert np.abs(collected["other"] - collected["same"]).max() > 1e-3


# Reading.


def _facts(directory: Path) -> None:
    facts = Facts(
        series="heat_flow",
        timestep_fs=0.5,
        sample_steps=10,
        recorded_first=4980,
        steps_total=5000,
        first=0,
        last=5000,
        atoms_of_layer=(2, 1),
        atomic_numbers=(5, 6),
        slab_fraction=0.5,
    )
    facts.write(directory)


def test_meaning_of_the_columns(tmp_path: Path) -> None:
    _facts(tmp_path)
    (tmp_path / "series.dat").write_text(
        "# a\n# b\n0 3 -1 1 2 3 4 9 8\n10 2 1 2 3 4 5 10 9\n20 1 4 3 4 5 6 11 10\n"
    )
    (tmp_path / "layers.dat").write_text("# a\n# b\n# c\n10 2\n1 0.5\n2 0.25\n20 2\n1 1.5\n2 0.75\n")
    (tmp_path / "final.dump").write_text(
        "ITEM: TIMESTEP\n20\nITEM: NUMBER OF ATOMS\n3\nITEM: BOX BOUNDS pp pp ff\n1 4\n0 5\n0 6\n"
        "ITEM: ATOMS id mol type x y z\n1 1 1 0 0 1\n2 1 2 0 0 2\n3 2 1 0 0 3\n"
    )
    (tmp_path / "log.lammps").write_text(
        "LAMMPS (1 Jan 2026)\nDangerous builds = 2\nDangerous builds = 1\n"
        "campaign: segment ends at step 5000\n"
    )
    (tmp_path / "state.restart").touch()
    dataset = ENGINE.collect(tmp_path).dataset
    np.testing.assert_allclose(dataset["time"], [0.005, 0.01])
    # The tallies rise when a thermostat takes energy, and start anywhere.
    np.testing.assert_allclose(dataset["source_energy"], [1, 2])
    np.testing.assert_allclose(dataset["sink_energy"], [-2, -5])
    np.testing.assert_allclose(dataset["lower_energy"], [5, 7])
    np.testing.assert_allclose(dataset["upper_energy"], [9, 11])
    np.testing.assert_allclose(dataset["total_energy"], [19, 21])
    kinetic_eV = np.array([[0.5, 0.25], [1.5, 0.75]])
    np.testing.assert_allclose(
        dataset["layer_temperature"], 2 * kinetic_eV / (3 * np.array([2, 1]) * BOLTZMANN_EV_PER_K)
    )
    np.testing.assert_allclose(dataset["cell_length"], [3, 5, 6])
    assert dataset["atomic_number"].values.tolist() == [5, 6, 5]
    assert dataset["layer"].values.tolist() == [0, 0, 1]
    assert int(dataset["dangerous_builds"]) == 3
    assert dataset.attrs["engine_version"] == "1 Jan 2026"


@pytest.mark.lammps
@pytest.mark.parametrize("name", ["series.dat", "layers.dat", "final.dump"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.99])
def test_truncated_output(copied: Path, name: str, share: float) -> None:
    path = copied / name
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(TransientError, match=re.escape(name)):
        ENGINE.collect(copied)


@pytest.mark.lammps
@pytest.mark.parametrize("name", ["series.dat", "layers.dat"])
def test_missing_last_sample(copied: Path, name: str) -> None:
    # Cut at a line, as a full disk or a killed process may leave it.
    path = copied / name
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[: -(1 if name == "series.dat" else LAYERS + 1)]))
    with pytest.raises(TransientError, match="samples instead of"):
        ENGINE.collect(copied)


@pytest.mark.lammps
@pytest.mark.parametrize(
    "name", ["series.dat", "layers.dat", "final.dump", "log.lammps", "state.restart", "lammps.json"]
)
def test_missing_output(copied: Path, name: str) -> None:
    (copied / name).unlink()
    with pytest.raises(TransientError):
        ENGINE.collect(copied)


@pytest.mark.lammps
def test_unfinished_log(copied: Path) -> None:
    log = copied / "log.lammps"
    log.write_text(log.read_text().replace("campaign: segment ends", ""))
    with pytest.raises(TransientError, match="end of its input"):
        ENGINE.collect(copied)


@pytest.mark.lammps
@pytest.mark.parametrize("value", ["nan", "-inf"])
def test_not_a_number(copied: Path, value: str) -> None:
    path = copied / "series.dat"
    lines = path.read_text().splitlines()
    words = lines[-5].split()
    lines[-5] = " ".join([*words[:1], value, *words[2:]])
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(PhysicsError, match="source_energy is not finite"):
        ENGINE.collect(copied)


@pytest.mark.lammps
def test_lost_atom(copied: Path) -> None:
    path = copied / "final.dump"
    lines = path.read_text().splitlines()
    lines[3] = str(ATOMS - 1)
    path.write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(PhysicsError, match=f"1 of {ATOMS} atoms were lost"):
        ENGINE.collect(copied)


def test_progress_from_the_end_of_a_log(tmp_path: Path) -> None:
    assert ENGINE.progress(tmp_path) is None
    _facts(tmp_path)
    (tmp_path / "log.lammps").write_text("LAMMPS (1 Jan 2026)\nthermo 10\n")
    assert ENGINE.progress(tmp_path) is None
    rows = [f"{step} {step + 2000} {step} {step / 100} 300 -1 -1 0 0 1 1" for step in range(1000)]
    (tmp_path / "log.lammps").write_text("\n".join([*rows, rows[-1][:-4]]))  # the last line is half written
    assert ENGINE.progress(tmp_path) == Progress(2999, 5000, 300.0)
    (tmp_path / "log.lammps").write_text("\n".join([*rows, "Loop time of 1 on 1 procs", "", "run 5"]) + "\n")
    assert ENGINE.progress(tmp_path) == Progress(2999, 5000, 300.0)


# Failures.


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("ERROR: Lost atoms: original 780 current 28 (src/src/thermo.cpp:497)", PhysicsError),
        ("ERROR: Non-numeric pressure - simulation unstable (src/src/fix_nh.cpp:1042)", PhysicsError),
        ("ERROR on proc 0: Out of range atoms - cannot compute PPPM", PhysicsError),
        ("ERROR on proc 0: Cannot open potential file BNC.tersoff: No such file or directory", ResourceError),
        ("ERROR on proc 0: Neighbor list overflow, boost neigh_modify one (src/npair.cpp:1)", InputError),
        ("ERROR on proc 0: There are too many neighbors for TMD atoms", InputError),
        ("ERROR: Unrecognized pair style 'nep' is part of the ML package", InputError),
        ("ERROR: Unknown command: runn 10 (src/src/input.cpp:314)", InputError),
        ("ERROR: Illegal run command", InputError),
        ("ERROR on proc 0: Failed to allocate 100 bytes for array x", OutOfMemoryError),
        ("ERROR: ArrayMemoryError: Unable to allocate 2.0 GiB for an array", OutOfMemoryError),
        ("ERROR: libmpi.so.12: cannot open shared object file: No such file", EngineNotFoundError),
        ("ERROR on proc 0: Error writing restart file: No space left on device", ResourceError),
    ],
)
def test_diagnosis_of_a_message(message: str, kind: type[CampaignError], tmp_path: Path) -> None:
    (tmp_path / "log.lammps").write_text(f"LAMMPS (1 Jan 2026)\nrun 10\n{message}\nLast input line: run 10\n")
    error = ENGINE.diagnose(tmp_path, 1)
    assert type(error) is kind
    assert error.where == Location(tmp_path / "log.lammps", 3)
    assert "src/src" not in str(error)


def test_diagnosis_without_a_message(tmp_path: Path) -> None:
    (tmp_path / "log.lammps").write_text("LAMMPS (1 Jan 2026)\n")
    for number, words in (
        (signal.SIGKILL, "SIGKILL"),
        (signal.SIGTERM, "SIGTERM"),
        (200, "signal 200"),
    ):
        error = ENGINE.diagnose(tmp_path, -number)
        assert isinstance(error, TransientError)
        assert re.search(words, str(error))
    assert isinstance(ENGINE.diagnose(tmp_path, 3), TransientError)


def test_diagnosis_of_a_library_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "stderr.log").write_text(
        "lmp: error while loading shared libraries: libmpi.so.12: cannot open\n"
    )
    error = ENGINE.diagnose(tmp_path, 127)
    assert isinstance(error, EngineNotFoundError)
    assert error.where == Location(tmp_path / "stderr.log", 1)


@pytest.mark.lammps
def test_potential_file_that_disappeared(structure: Path, tmp_path: Path) -> None:
    job = workload(simulation(THERMALISE, NVT_STEP), 1, {"structure": structure})
    code = run(job, tmp_path, environment={"LAMMPS_POTENTIALS": "/nowhere"})
    assert code != 0
    error = ENGINE.diagnose(tmp_path, code)
    assert isinstance(error, ResourceError)
    assert "BNC.tersoff" in str(error)
    assert re.search(r"log\.lammps:\d+: ", str(error))


@pytest.mark.lammps
def test_explosion(structure: Path, tmp_path: Path) -> None:
    hot = (
        Thermalise(temperature_K=5000),
        NVT_STEP.model_copy(update={"temperature_K": 5000.0, "duration_ps": 20}),
    )
    code = run(workload(simulation(*hot, timestep_fs=5), 1, {"structure": structure}), tmp_path)
    assert code != 0
    error = ENGINE.diagnose(tmp_path, code)
    assert isinstance(error, PhysicsError)
    assert re.search(r"log\.lammps:\d+: ", str(error))


@pytest.mark.lammps
def test_input_that_lammps_refuses(structure: Path, tmp_path: Path) -> None:
    job = workload(simulation(THERMALISE, NVT_STEP), 1, {"structure": structure})
    code = run(job, tmp_path, lambda script: script.replace("fix motion", "fix motion all nonsense #"))
    error = ENGINE.diagnose(tmp_path, code)
    assert isinstance(error, InputError)
    assert "nonsense" in str(error)
