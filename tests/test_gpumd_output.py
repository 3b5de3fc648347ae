"""Reading GPUMD: files of its versions, blocks put together, checkpoints, and words that become errors."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from campaign.engines.gpumd_failure import read_failure
from campaign.engines.gpumd_input import Facts
from campaign.engines.gpumd_output import (
    GPUMD_BOLTZMANN_EV_PER_K,
    LogProgress,
    average_cell,
    read_compute,
    read_output,
    stitch_blocks,
)
from campaign.engines.gpumd_state import State, read_restart, scale_to_average, write_state
from campaign.errors import (
    CampaignError,
    EngineNotFoundError,
    InputError,
    OutOfMemoryError,
    PhysicsError,
    ResourceError,
    TransientError,
)

pytest.importorskip("calorine.gpumd", reason="calorine (the extra nep) is not installed")

BOLTZMANN = 2e-6
"""GPUMD has an older value of the constant, relative; temperatures are made with ours."""

FACTS = Facts(
    series="thermo",
    averages_cell=True,
    timestep_fs=0.5,
    step_first=0,
    step_last=40,
    first=0,
    last=40,
    recorded_first=0,
    steps_total=40,
    sample_steps=4,
    frame_steps=2,
    block_steps=16,
    atoms_of_layer=(2, 2),
    upper_layers=(1,),
    slab_fraction=0.5,
    cell=(5.0, 0, 0, 0, 6.0, 0, 0, 0, 40.0),
    limit_K=3000,
)
"""An NpT of 40 MD steps: blocks of 16, 16 and 8, a row every 2, a sample every 4."""

FLOW = replace(FACTS, series="compute", averages_cell=False)

HEADER = (
    "# dump_thermo 2\n# format_version 1\n# num_atoms 4\n# dt_output 1.0000000000e+00 fs\n"
    "# columns T KE PE sxx syy szz syz sxz sxy ax ay az bx by bz cx cy cz\n"
)


PROPERTIES = "species:S:1:pos:R:3:mass:R:1:vel:R:3:group:I:2"


def thermo(style: str, facts: Facts = FACTS) -> str:
    """Rows of all blocks; row n (from 1) has T = n, a cell of 5 + n/100 by 6 + n/100, pressures 0.1, 0.2."""
    text, n = "", facts.first // facts.frame_steps
    for steps in facts.blocks():
        text += HEADER if style == "5.6" else ""
        for _ in range(steps // facts.frame_steps):
            n += 1
            x, y = 5 + n / 100, 6 + n / 100
            cell = (x, y, 40) if style == "3.9" else (x, 0, 0, 0, y, 0, 0, 0, 40)
            numbers = (n, 0.1, -10 - n, 0.1, 0.2, 0, 0, 0, 4.940656e-324, *cell)
            row = "".join(f"{number:20.10e}" for number in numbers)
            text += (row.replace("e+0", "e+00").replace("e-0", "e-00") if style == "windows" else row) + "\n"
    return text


def state_of(directory: Path, facts: Facts, step: int) -> None:
    rows = "".join(
        f"{symbol} {n}.5 1 {20 + 3.4 * (n // 2)} 12.011 0.001 0 0 {n // 2} {n // 2} \n"
        for n, symbol in enumerate("BNCC")
    )
    lattice = " ".join(f"{number:g}" for number in facts.cell)
    header = f'pbc="T T F" Lattice="{lattice}" Properties={PROPERTIES}'
    (directory / "restart.xyz").write_text(f"4\n{header}\n{rows}")
    restart = read_restart(directory, facts)
    assert restart is not None
    write_state(directory, facts, restart, step)


def lay_out(directory: Path, facts: Facts, step: int) -> Path:
    facts.write(directory)
    (directory / "log.gpumd").write_text("*   Version 3.9.2   *\n")
    state_of(directory, facts, step)
    return directory


# Thermo.


@pytest.mark.parametrize("style", ["3.9", "4.0", "5.6", "windows"])
def test_thermo_of_every_version(style: str, tmp_path: Path) -> None:
    lay_out(tmp_path, FACTS, 40)
    (tmp_path / "thermo.out").write_text(thermo(style))
    output = read_output(tmp_path)
    data = output.dataset
    assert output.last == 40
    np.testing.assert_allclose(data["time"], 0.002 * np.arange(1, 11))
    np.testing.assert_allclose(data["temperature"], np.arange(2, 21, 2), rtol=BOLTZMANN)
    np.testing.assert_allclose(data["potential_energy"], -10 - np.arange(2, 21, 2))
    # GPUMD's pressure is that of the whole cell, of which the structure is one half.
    np.testing.assert_allclose(data["pressure_xx"], 0.2)
    np.testing.assert_allclose(data["pressure_yy"], 0.4)
    assert data.attrs == {"engine_version": "3.9.2", "timestep_fs": 0.5}
    assert data["atomic_number"].values.tolist() == [5, 7, 6, 6]
    assert data["layer"].values.tolist() == [0, 0, 1, 1]


def test_the_tilt_of_the_cell_is_kept(tmp_path: Path) -> None:
    leaning = replace(FACTS, averages_cell=False, cell=(5.0, 0, 0, 1.5, 6.0, 0, 0, 0, 40.0))
    lay_out(tmp_path, leaning, 40)
    (tmp_path / "thermo.out").write_text(thermo("5.6"))
    data = read_output(tmp_path).dataset
    assert float(data["cell_tilt_xy"]) == 1.5
    assert data["cell_length"].values.tolist() == [5, 6, 40]


def test_average_cell_is_that_of_the_last_half_also_over_segments(tmp_path: Path) -> None:
    (tmp_path / "thermo.out").write_text(thermo("5.6"))
    whole = average_cell(tmp_path, FACTS, 40)
    assert whole == pytest.approx({"cell_x": 5.155, "cell_y": 6.155, "cell_samples": 10})
    assert average_cell(tmp_path, FACTS, 16) == {}
    carried = average_cell(tmp_path, replace(FACTS, last=32), 32)
    assert carried["cell_samples"] == 6
    rest = replace(FACTS, first=32, carried=carried)
    (tmp_path / "thermo.out").write_text(thermo("5.6", rest))
    assert average_cell(tmp_path, rest, 40) == pytest.approx(whole)


def test_a_state_gets_the_average_cell(tmp_path: Path) -> None:
    state_of(tmp_path, FACTS, 40)
    before = State.read(tmp_path / "state.xyz")
    scale_to_average(tmp_path / "state.xyz", 5.1, 6.3)
    after = State.read(tmp_path / "state.xyz")
    np.testing.assert_allclose(np.diag(after.cell), [5.1, 6.3, 40])
    np.testing.assert_allclose(after.positions, before.positions * [1.02, 1.05, 1])
    np.testing.assert_allclose(after.velocities, before.velocities)
    assert after.step == 40


# Compute.


def compute(facts: Facts) -> str:
    """Row n (from 1): temperatures n and 0, potentials -16 and -20; the source gives 0.5 eV in each row."""
    text, n = "", 0
    for steps in facts.blocks():
        for in_block in range(1, steps // facts.frame_steps + 1):
            n += 1
            numbers = (n, 0, -16, -20, -0.5 * in_block, 0.25 * in_block)
            text += "".join(f"{number:15.6e}" for number in numbers) + "\n"
    return text


def test_heat_flow_over_blocks(tmp_path: Path) -> None:
    """What thermostats took starts again in each block; signs, and energies of both sides."""
    lay_out(tmp_path, FLOW, 40)
    (tmp_path / "compute.out").write_text(compute(FLOW))
    data = read_output(tmp_path).dataset
    rows = np.arange(2, 21, 2)
    np.testing.assert_allclose(data["source_energy"], 0.5 * rows)
    np.testing.assert_allclose(data["sink_energy"], -0.25 * rows)
    # A temperature is the mean over a sample's rows, energies are those of its last instant.
    np.testing.assert_allclose(data["layer_temperature"][:, 0], rows - 0.5, rtol=BOLTZMANN)
    np.testing.assert_allclose(data["lower_energy"], -16 + 3 * GPUMD_BOLTZMANN_EV_PER_K * rows, rtol=1e-12)
    np.testing.assert_allclose(data["upper_energy"], -20)
    np.testing.assert_allclose(data["total_energy"], data["lower_energy"] + data["upper_energy"])
    np.testing.assert_allclose(data["cell_length"], [5, 6, 40])


def test_a_segment_that_was_stopped_has_what_was_before_its_checkpoint(tmp_path: Path) -> None:
    lay_out(tmp_path, FLOW, 32)
    (tmp_path / "compute.out").write_text(compute(FLOW))  # with rows of the block that was ended
    output = read_output(tmp_path)
    assert (output.last, output.dataset.sizes["time"]) == (32, 8)
    assert "final_position" not in output.dataset
    np.testing.assert_allclose(output.dataset["source_energy"][-1], 8)


def test_numbers_of_windows(tmp_path: Path) -> None:
    path = tmp_path / "compute.out"
    path.write_text("  3.000000e+002  4.940656e-324\n -1.500000e-001  2.000000e+000\n")
    np.testing.assert_allclose(read_compute(path), [[300, 4.940656e-324], [-0.15, 2]])


def test_stitching_of_unequal_blocks() -> None:
    taken = -np.array([1.0, 2, 3, 1, 2, 4])
    np.testing.assert_allclose(stitch_blocks(taken, [3, 2, 0, 1]), [1, 2, 3, 4, 5, 9])


@pytest.mark.parametrize("cut", [3, 100, 10_000])
def test_output_that_ends_early(cut: int, tmp_path: Path) -> None:
    lay_out(tmp_path, FLOW, 40)
    (tmp_path / "compute.out").write_text(compute(FLOW)[:-cut])
    with pytest.raises(TransientError, match="rows instead of 20"):
        read_output(tmp_path)


def test_output_that_is_not_finite(tmp_path: Path) -> None:
    lay_out(tmp_path, FLOW, 40)
    (tmp_path / "compute.out").write_text(compute(FLOW).replace("-2.000000e+01", "          nan"))
    with pytest.raises(PhysicsError, match="upper_energy is not finite"):
        read_output(tmp_path)


# Checkpoints.


def test_a_restart_file_that_is_not_whole_is_no_checkpoint(tmp_path: Path) -> None:
    """It is written in place: whatever a kill leaves of it is refused, and the state before stays."""
    state_of(tmp_path, FACTS, 16)
    text = (tmp_path / "restart.xyz").read_text()
    for length in (0, 5, len(text) // 2, len(text) - 1, len(text) - 4, text.rindex("C") + 30):
        (tmp_path / "restart.xyz").write_text(text[:length])
        assert read_restart(tmp_path, FACTS) is None
    assert State.read(tmp_path / "state.xyz").step == 16


def test_columns_of_a_restart_file_are_told_by_its_header(tmp_path: Path) -> None:
    """Versions differ: 3.9 says ``triclinic`` instead of ``pbc``, others might add a charge."""
    rows = "".join(f"C {n} 0 20 12.011 0.5 1e-3 0 0 0 {n // 2}\n" for n in range(4))
    properties = PROPERTIES.replace("vel", "charge:R:1:vel")
    header = f'triclinic=F Lattice="5 0 0 0 6 0 0 0 40" Properties={properties}'
    (tmp_path / "restart.xyz").write_text(f"4\n{header}\n{rows}")
    restart = read_restart(tmp_path, FACTS)
    assert restart is not None
    write_state(tmp_path, FACTS, restart, 16)
    state = State.read(tmp_path / "state.xyz")
    assert state.velocities[:, 0].tolist() == [1e-3] * 4
    assert (state.masses[0], state.layers.tolist()) == (12.011, [0, 0, 1, 1])


def test_the_cell_of_a_state_is_exact_where_it_is_known(tmp_path: Path) -> None:
    """Restart files round it to six digits."""
    exact = replace(FLOW, cell=(137.73123456, 0, 0, 0, 238.5623456, 0, 0, 0, 40))
    state_of(tmp_path, exact, 16)
    assert "137.731 " in (tmp_path / "restart.xyz").read_text()
    np.testing.assert_allclose(State.read(tmp_path / "state.xyz").cell.flat, exact.cell, rtol=1e-12)


# Logs.


def test_progress_counts_blocks() -> None:
    log = "Run 100 steps.\n    50 steps completed.\n    100 steps completed.\n"
    log += "Time used for this run = 0.5 second.\nSpeed of this run = 800 atom*step/second.\n"
    log += "Run 100 steps.\n    30 steps completed.\n"
    assert LogProgress.of(log) == LogProgress(steps=130, in_blocks=100, timed_steps=100, seconds=0.5)
    assert LogProgress.of(log + "    100 steps completed.\n").in_blocks == 200
    assert LogProgress.of("Started running GPUMD.\n").steps == 0
    # A tenth of 124 is 12: GPUMD tells of 120 steps, and then that the run has ended.
    log = "Run 124 steps.\n    120 steps completed.\n"
    assert LogProgress.of(log).in_blocks == 0
    assert LogProgress.of(log + "Time used for this run = 0.5 second.\n").in_blocks == 124


def block(kind: str, text: str) -> str:
    return f"{kind} Error:\n    File:       main.cu\n    Line:       7\n    Error text: {text}\n"


@pytest.mark.parametrize(
    ("log", "error"),
    [
        (block("CUDA", "CUDA driver version is insufficient for CUDA runtime version"), EngineNotFoundError),
        (block("CUDA", "no CUDA-capable device is detected"), EngineNotFoundError),
        (block("CUDA", "out of memory"), OutOfMemoryError),
        (block("CUDA", "an illegal memory access was encountered"), TransientError),
        (block("CUDA", "unknown error"), TransientError),
        (block("Input", "'dump_xyz' is an invalid keyword."), InputError),
        (block("Input", "There is atom in model.xyz that is not allowed in the used potential."), InputError),
        (block("Input", "Fixed group ID should < number of groups."), InputError),
        ("Error: cannot open nep.txt\n", ResourceError),
        ("Failed to open thermo.out!\nNo space left on device\n", ResourceError),
        ("The maximum number of neighbors exceeds 819. Please reduce this value.\n", InputError),
        ("The longest direction has less than 5 times of the NEP cutoff per GPU.\n", InputError),
        ("A periodic direction has less than three times of the NEP cutoff.\n", InputError),
        ("This number is nan.\n", PhysicsError),
        ("campaign: a temperature of nan K in compute.out, more than 3000 K\n", PhysicsError),
        ("gpumd: error while loading shared libraries: libcufft.so.12: cannot open\n", EngineNotFoundError),
        ("terminate called after throwing an instance of 'std::bad_alloc'\n", OutOfMemoryError),
        (
            "terminate called after throwing an instance\n  what():  scan failed: cudaErrorIllegalAddress\n",
            TransientError,
        ),
        ("    10 steps completed.\n", TransientError),
    ],
)
def test_words_become_errors(log: str, error: type[CampaignError], tmp_path: Path) -> None:
    (tmp_path / "log.gpumd").write_text("Started running GPUMD.\n" + log)
    found = read_failure(tmp_path, 1)
    assert type(found) is error
    assert "log.gpumd" in str(found.where)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("OSError: [Errno 28] No space left on device: 'state.xyz'", ResourceError),
        ("OSError: [Errno 8] Exec format error: '/opt/gpumd'", EngineNotFoundError),
        ("ModuleNotFoundError: No module named 'calorine'", EngineNotFoundError),
        ("ValueError: a bug", InputError),
    ],
)
def test_what_looks_after_gpumd_says_why_it_failed(
    words: str, error: type[CampaignError], tmp_path: Path
) -> None:
    (tmp_path / "log.gpumd").write_text("Started running GPUMD.\n    10 steps completed.\n")
    (tmp_path / "stderr.log").write_text(f"Traceback (most recent call last):\n{words}\n")
    found = read_failure(tmp_path, 1)
    assert type(found) is error
    assert "stderr.log:2" in str(found.where)
    assert type(read_failure(tmp_path, -9)) is TransientError


def test_a_signal_may_pass(tmp_path: Path) -> None:
    found = read_failure(tmp_path, -9)
    assert type(found) is TransientError
    assert "SIGKILL" in found.message
