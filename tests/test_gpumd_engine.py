"""GPUMD engine with a program that replays its files: a campaign, its stops and its failures.

There is no GPU here. What is proved is all around GPUMD: that its input is what it reads, its process is
looked after, and its numbers have the right signs and units up to the conductance.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import campaign
from campaign.cli.doctor import _engines
from campaign.engines import gpumd_run
from campaign.engines.base import STOP_FILE, Engine, Workload, get_engine
from campaign.engines.gpumd import GpumdEngine
from campaign.engines.gpumd_input import Facts
from campaign.engines.gpumd_state import State
from campaign.engines.gpus import VISIBLE_VARIABLE, gpus_here, one_gpu
from campaign.engines.segments import join_segments
from campaign.errors import (
    CampaignError,
    EngineNotFoundError,
    InputError,
    PhysicsError,
    TransientError,
)
from campaign.structures.io import write_structure
from tests.gpumd_cases import (
    ENGINE,
    REPLAY,
    SPEC,
    expected_itc,
    run,
    simulation,
    structure,
    use_replay,
    workload,
)
from tests.lammps_cases import HEAT_FLOW, LAYERS, NPT, NVT_STEP, THERMALISE, multilayer
from tests.standin import replay_gpumd as replay
from tests.standin_campaign import GONE_S, LONG_S, wait_for

pytest.importorskip("calorine.gpumd", reason="calorine (the extra nep) is not installed")

LONG_FLOW = HEAT_FLOW.model_copy(update={"duration_ps": 20})
"""Four blocks."""


@pytest.fixture(scope="module", autouse=True)
def _replay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        use_replay(tmp_path_factory.mktemp("library"), patch)
        yield


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return structure(tmp_path_factory.mktemp("build"))


@pytest.fixture(scope="module")
def equilibrated(built: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Inputs of a production: the structure, and a state."""
    directory = tmp_path_factory.mktemp("equilibrate") / "work"
    job = workload(simulation(THERMALISE, NVT_STEP), {"structure": built})
    assert run(job, directory) == 0
    return {"structure": built, "state": directory / ENGINE.state_file}


def wait_for_steps(directory: Path, steps: int) -> None:
    def reached() -> bool:
        progress = ENGINE.progress(directory)
        return progress is not None and progress.steps_done >= steps

    wait_for(reached)


# Finding it.


def test_registered_and_complete() -> None:
    engine = get_engine("gpumd")
    assert isinstance(engine, GpumdEngine)
    assert isinstance(engine, Engine)


def test_check_reads_the_banner_and_the_device() -> None:
    info = ENGINE.check()
    assert (info.version, info.device) == ("5.6-replay", "none (replayed)")


@pytest.mark.parametrize("binary", ["/no/such/gpumd", "/bin/false"])
def test_absent_or_other_binary(binary: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(gpumd_run.BINARY_VARIABLE, binary)
    with pytest.raises(EngineNotFoundError):
        ENGINE.check()


def test_without_a_binary_it_says_how_to_build_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(gpumd_run.BINARY_VARIABLE)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(EngineNotFoundError, match=r"make gpumd.*sm_90.*CAMPAIGN_GPUMD"):
        ENGINE.check()


@pytest.fixture
def own_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A binary that nobody has looked at yet."""
    binary = tmp_path / "gpumd"
    binary.write_bytes(REPLAY.read_bytes())
    binary.chmod(0o755)
    monkeypatch.setenv(gpumd_run.BINARY_VARIABLE, str(binary))
    return binary


@pytest.mark.usefixtures("own_copy")
def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLAY_FAULT", "cuda")
    with pytest.raises(EngineNotFoundError, match=r"driver version is insufficient.*nvidia-smi"):
        ENGINE.check()


def test_another_program_is_not_gpumd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(gpumd_run.BINARY_VARIABLE, "/bin/true")
    with pytest.raises(EngineNotFoundError, match="not GPUMD"):
        ENGINE.check()


@pytest.mark.usefixtures("own_copy")
def test_a_keyword_that_it_lacks_is_found_before_the_run(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPLAY_FAULT", "refuse:heat_lan")
    assert ENGINE.check().version.endswith("which refuses ensemble heat_lan")  # good for all the rest
    ENGINE.prepare(workload(simulation(THERMALISE, NPT, NVT_STEP), {"structure": built}), tmp_path)
    with pytest.raises(InputError, match=r"refuses 'ensemble heat_lan 300 .*: Invalid ensemble type"):
        ENGINE.prepare(workload(simulation(THERMALISE, HEAT_FLOW), {"structure": built}), tmp_path)


def test_doctor_forgives_an_engine_that_nothing_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(gpumd_run.BINARY_VARIABLE, "/no/such/gpumd")
    outcomes = {}
    for needed in ("gpumd", "lammps"):
        found = {finding.what: finding.ok for finding in _engines(frozenset({needed}))}
        outcomes[needed] = found["engine gpumd"]
    assert outcomes == {"gpumd": False, "lammps": None}


def test_each_process_has_a_gpu_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv(VISIBLE_VARIABLE, raising=False)
    gpus = ["0", "1"]
    with one_gpu(gpus) as first:
        with one_gpu(gpus) as second:
            assert [first, second] == [{VISIBLE_VARIABLE: "0"}, {VISIBLE_VARIABLE: "1"}]
            with one_gpu(gpus) as shared:
                assert shared[VISIBLE_VARIABLE] in gpus
        with one_gpu(gpus) as again:
            assert again == second
    with one_gpu(["0"]) as alone:
        assert alone == {}
    monkeypatch.setenv(VISIBLE_VARIABLE, "0,1")  # somebody has shared them out
    with one_gpu(gpus) as given:
        assert given == {}


def test_gpus_are_counted_from_zero_whatever_a_container_was_given(tmp_path: Path) -> None:
    for name in ("nvidia2", "nvidia3", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert gpus_here(tmp_path) == ["0", "1"]


# What it cannot do.


def test_bad_input_is_found_before_the_run(built: Path, tmp_path: Path) -> None:
    job = simulation(THERMALISE, NVT_STEP)
    with pytest.raises(InputError, match="needs the built structure"):
        ENGINE.prepare(workload(job, {}), tmp_path)
    with pytest.raises(InputError, match="draws velocities"):
        ENGINE.prepare(workload(simulation(NVT_STEP), {"structure": built}), tmp_path)
    other = job.model_copy(update={"potential": "tersoff-lj"})
    with pytest.raises(InputError, match="cannot run tersoff-lj"):
        ENGINE.prepare(workload(other, {"structure": built}), tmp_path)
    bulk = multilayer()
    bulk.pbc = True
    write_structure(bulk, tmp_path / "bulk.npz")
    with pytest.raises(InputError, match="slabs"):
        ENGINE.prepare(workload(job, {"structure": tmp_path / "bulk.npz"}), tmp_path)


def test_a_state_of_another_structure(equilibrated: dict[str, Path], tmp_path: Path) -> None:
    write_structure(multilayer()[:-1], tmp_path / "structure.npz")
    inputs = {**equilibrated, "structure": tmp_path / "structure.npz"}
    with pytest.raises(InputError, match="another structure"):
        ENGINE.prepare(workload(simulation(NVT_STEP), inputs), tmp_path)


# Running it.


def test_a_process_ends_with_its_step_and_hands_on_the_average_cell(built: Path, tmp_path: Path) -> None:
    job = simulation(THERMALISE, NPT, NVT_STEP)
    assert run(workload(job, {"structure": built}), tmp_path / "npt") == 0
    output = ENGINE.collect(tmp_path / "npt")
    assert output.last == 400
    assert "time" not in output.dataset  # nothing of it is recorded
    built_cell = np.diag(multilayer().cell.array)
    state = State.read(tmp_path / "npt" / ENGINE.state_file)
    np.testing.assert_allclose(np.diag(state.cell), built_cell * [replay.STRETCH, replay.STRETCH, 1])
    inputs = {"structure": built, "state": tmp_path / "npt" / ENGINE.state_file}
    rest = workload(job, inputs, first=400, carried=output.carried)
    assert run(rest, tmp_path / "nvt", REPLAY_STYLE="windows") == 0
    last = ENGINE.collect(tmp_path / "nvt")
    assert (last.last, last.dataset.sizes["time"]) == (800, 200)
    np.testing.assert_allclose(last.dataset["cell_length"], np.diag(state.cell))
    # Velocities go on, in angstrom/fs.
    np.testing.assert_allclose(State.read(tmp_path / "nvt" / "state.xyz").velocities[0], [1e-3, -2e-3, 3e-3])
    assert "vel:R:3" in (tmp_path / "nvt" / "model.xyz").read_text()
    assert "vel:R:3" not in (tmp_path / "npt" / "model.xyz").read_text()


def stop_in(directory: Path, job: Workload, at: int) -> None:
    """Ask for a stop when a process has made ``at`` MD steps, and wait for its end."""
    directory.mkdir()
    command = ENGINE.prepare(job, directory)
    env = {**os.environ, **command.environment, "REPLAY_PAUSE_S": "0.1"}
    with subprocess.Popen(command.argv, cwd=directory, env=env) as process:
        wait_for_steps(directory, at)
        (directory / STOP_FILE).touch()
        assert process.wait(LONG_S) == 0


def test_a_stop_keeps_the_blocks_that_have_ended(equilibrated: dict[str, Path], tmp_path: Path) -> None:
    job = simulation(LONG_FLOW)
    stop_in(tmp_path / "first", workload(job, equilibrated), 5500)
    first = ENGINE.collect(tmp_path / "first")
    assert first.last in {10_000, 15_000}
    inputs = {**equilibrated, "state": tmp_path / "first" / ENGINE.state_file}
    assert run(workload(job, inputs, first=first.last), tmp_path / "second") == 0
    second = ENGINE.collect(tmp_path / "second")
    assert second.last == 20_000
    whole = join_segments([first.dataset, second.dataset])
    np.testing.assert_allclose(whole["time"], 0.02 * np.arange(1, 1001))
    np.testing.assert_allclose(whole["source_energy"], replay.FLOW * whole["time"], rtol=1e-6)
    np.testing.assert_allclose(whole["sink_energy"], -replay.FLOW * whole["time"], rtol=1e-6)
    assert whole.sizes["layer"] == LAYERS


def test_a_stop_in_a_long_block_goes_back_to_the_one_before(
    equilibrated: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    command = ENGINE.prepare(workload(simulation(LONG_FLOW), equilibrated), directory)
    for name, value in {**command.environment, "REPLAY_FAULT": "slow:2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(gpumd_run, "STOP_WAIT_S", 0.2)
    monkeypatch.chdir(directory)
    pid = os.fork()
    if pid == 0:
        os._exit(gpumd_run.main())
    wait_for((directory / ENGINE.state_file).exists)
    (directory / STOP_FILE).touch()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert ENGINE.collect(directory).last == 5000


def test_gpumd_ends_with_what_started_it(equilibrated: dict[str, Path], tmp_path: Path) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    command = ENGINE.prepare(workload(simulation(LONG_FLOW), equilibrated), directory)
    env = {**os.environ, **command.environment, "REPLAY_PAUSE_S": "5"}

    def alive() -> list[str]:
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if (path / "cwd").readlink() == directory:
                    found.append((path / "stat").read_text().rsplit(")", 1)[1].split()[0])
            except OSError:
                continue
        return [state for state in found if state != "Z"]

    with subprocess.Popen(command.argv, cwd=directory, env=env) as process:
        wait_for(lambda: len(alive()) == 2)
        process.kill()
        process.wait()
        wait_for(lambda: not alive(), GONE_S)
    assert alive() == []


def test_a_checkpoint_that_is_cut_short_is_left_out(equilibrated: dict[str, Path], tmp_path: Path) -> None:
    """The last restart file is truncated: the segment ends where there is a whole one."""
    job = workload(simulation(LONG_FLOW), equilibrated, last=15_000)
    assert run(job, tmp_path / "run", REPLAY_FAULT="truncated:3") == 0
    output = ENGINE.collect(tmp_path / "run")
    assert output.last == 10_000
    np.testing.assert_allclose(output.dataset["source_energy"][-1], replay.FLOW * 10, rtol=1e-6)


@pytest.mark.parametrize(
    ("fault", "error", "said"),
    [
        ("nan:2", PhysicsError, "a temperature of nan K in compute.out"),
        ("hot:2", PhysicsError, "more than 4000 K"),
        ("input", InputError, "not allowed in the used potential"),
        ("cuda", EngineNotFoundError, "driver version is insufficient"),
        ("crash:2", TransientError, "SIGKILL"),
        ("truncated:1", TransientError, "state"),
    ],
)
def test_failures_have_their_class(
    fault: str, error: type[CampaignError], said: str, equilibrated: dict[str, Path], tmp_path: Path
) -> None:
    directory = tmp_path / "run"
    steps = 5000 if fault == "truncated:1" else None
    style = "windows" if fault == "nan:2" else "new"
    job = workload(simulation(LONG_FLOW), equilibrated, last=steps)
    code = run(job, directory, REPLAY_FAULT=fault, REPLAY_STYLE=style)
    if code == 0:
        with pytest.raises(error, match=said):
            ENGINE.collect(directory)
    else:
        found = ENGINE.diagnose(directory, code)
        assert type(found) is error
        assert said in str(found)
        assert (code < 0) == (fault == "crash:2")


def test_a_blow_up_is_ended_while_it_runs(equilibrated: dict[str, Path], tmp_path: Path) -> None:
    """GPUMD would go on for the rest of the segment."""
    code = run(
        workload(simulation(LONG_FLOW), equilibrated),
        tmp_path / "run",
        REPLAY_FAULT="nan:1",
        REPLAY_PAUSE_S="1",
    )
    assert code == gpumd_run.PHYSICS_CODE
    progress = ENGINE.progress(tmp_path / "run")
    assert progress is None or progress.steps_done < 5000


# A campaign.


def test_a_campaign_is_stopped_goes_on_and_has_the_replayed_conductance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a spec to the conductance through the driver: build, equilibrate, produce in segments, reduce."""
    (tmp_path / "spec.yaml").write_text(SPEC)
    root = tmp_path / "campaigns" / "replayed"
    use_replay(tmp_path, monkeypatch)
    command = (sys.executable, "-m", "campaign", "run", "spec.yaml", "--workers", "1")

    def flows() -> bool:
        """Whether a block of the heat flow has ended."""
        return any(
            Facts.read(path.parent).is_recorded and "compute" in Facts.read(path.parent).series
            for path in root.glob("attempts/*/segment/state.xyz")
        )

    with subprocess.Popen(
        command, cwd=tmp_path, env={**os.environ, "REPLAY_PAUSE_S": "0.1"}, stderr=subprocess.DEVNULL
    ) as first:
        try:
            wait_for(lambda: flows() or first.poll() is not None)
            first.send_signal(signal.SIGINT)
            assert first.wait(LONG_S) == 130
        finally:
            first.kill()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = campaign.open(root).results["nemd"].ds.isel(seed=0)
    assert bool(results["valid"]), str(results["invalid_reason"].values)
    structure_file = next(root.glob("stages/*/*/structure.npz"))
    length_x_A, length_y_A, _ = np.load(structure_file)["cell"].diagonal()
    itc = expected_itc(length_x_A, length_y_A)
    assert float(results["heat_flow"]) == pytest.approx(replay.FLOW, rel=1e-5)
    assert float(results["interface_heat_flow"]) == pytest.approx(replay.FLOW, rel=1e-3)
    assert float(results["temperature_jump"]) == pytest.approx(replay.JUMP_K, rel=5e-3)
    assert float(results["itc"]) == pytest.approx(itc, rel=5e-3)
    assert float(results["closure"]) == pytest.approx(0, abs=1e-2)
    manifests = [json.loads(path.read_text()) for path in root.glob("stages/*/*/manifest.json")]
    produced = next(manifest for manifest in manifests if manifest["kind"] == "produce")
    assert produced["engine_version"] == "5.6-replay"
    assert len(produced["segments"]) >= 3  # preheat, and at least two of the heat flow
    assert produced["command"][1:] == ["-m", "campaign.engines.gpumd_run"]
