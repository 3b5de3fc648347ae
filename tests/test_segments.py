"""Stages in segments: joined they are what one piece would have been, and LAMMPS goes on where it stopped."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from campaign.engines.base import NpT, Segment, Simulation, Workload
from campaign.engines.segments import ACCUMULATED, join_segments
from campaign.engines.timeline import number_of_steps, sample_steps, segment_end, timeline
from campaign.structures.io import write_structure
from tests.lammps_cases import (
    ENGINE,
    HEAT_FLOW,
    NPT,
    NVE_NOISE_EV_PER_ATOM,
    NVT_STEP,
    PREHEAT,
    THERMALISE,
    multilayer,
    run,
    simulation,
)
from tests.nemd_cases import build, reduced, small, synthetic

EQUILIBRATION = simulation(THERMALISE, NPT, NVT_STEP)


def cut(whole: xr.Dataset, ends: list[int]) -> list[xr.Dataset]:
    """Pieces of a series as segments write them: what is accumulated starts from zero in each."""
    pieces, first = [], 0
    for last in (*ends, whole.sizes["time"]):
        piece = whole.isel(time=slice(first, last)).copy(deep=True)
        for name, variable in whole.variables.items():
            if variable.attrs.get("cell_methods") == ACCUMULATED and "time" in variable.dims and first:
                piece[str(name)].values -= variable.values[first - 1]
        if last < whole.sizes["time"]:
            piece = piece.drop_dims("atom")  # only the last segment has the final structure
        pieces.append(piece)
        first = last
    return pieces


def test_five_segments_reduce_to_the_same_result_as_one_piece(tmp_path: Path) -> None:
    built = build(tmp_path)
    whole = synthetic(built, small())
    for name in ("source_energy", "sink_energy"):
        whole[name].attrs["cell_methods"] = ACCUMULATED
    samples = whole.sizes["time"]
    joined = join_segments(cut(whole, [samples // 7, samples // 3, samples // 2, samples - 1]))
    once, again = (reduced(built, series, small(), tmp_path) for series in (whole, joined))
    for result, variable in once.data_vars.items():
        if np.issubdtype(variable.dtype, np.number):
            np.testing.assert_allclose(again[result], variable, rtol=1e-12, atol=1e-12)
        else:
            assert (again[result].values == variable.values).all()


@given(st.lists(st.integers(0, 30), max_size=6).map(sorted))
def test_any_cut_is_joined_again(ends: list[int]) -> None:
    generator = np.random.default_rng(3)
    whole = xr.Dataset(
        {
            "given": ("time", np.cumsum(generator.normal(size=30)), {"cell_methods": ACCUMULATED}),
            "kept": (("time", "layer"), generator.normal(size=(30, 2)), {"units": "K"}),
            "final": ("atom", [1.0, 2.0]),
        },
        coords={"time": np.arange(1.0, 31.0)},
    )
    joined = join_segments(cut(whole, ends))
    xr.testing.assert_allclose(joined, whole)
    assert joined["kept"].attrs == {"units": "K"}


def test_counts_are_added_and_times_must_follow() -> None:
    parts = [
        xr.Dataset({"builds": ((), count, {"cell_methods": ACCUMULATED})}, coords={"time": [float(count)]})
        for count in (1, 2, 4)
    ]
    assert int(join_segments(parts)["builds"]) == 7
    with pytest.raises(ValueError, match="follow"):
        join_segments(parts[::-1])


@given(st.integers(1, 3000))
def test_segments_end_at_samples_and_never_before_they_are_asked_to(step: int) -> None:
    stage = simulation(PREHEAT, HEAT_FLOW)
    recorded, interval = timeline(stage)[-1], sample_steps(timeline(stage)[-1], stage.timestep_fs)
    end = segment_end(stage, min(step, recorded.last))
    assert min(step, recorded.last) <= end <= recorded.last
    assert end <= recorded.first or (end - recorded.first) % interval == 0


# With LAMMPS


@pytest.fixture(scope="module")
def structure(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("build") / "structure.npz"
    write_structure(multilayer(), path)
    return path


def in_segments(
    stage: Simulation,
    ends: list[int],
    inputs: dict[str, Path],
    directory: Path,
    change_script: Callable[[str], str] = str,
) -> tuple[xr.Dataset, list[Path]]:
    """Run a stage cut at ``ends``; return what it wrote, and where."""
    directory.mkdir(exist_ok=True)
    carried: dict[str, float] = {}
    parts, places, first = [], [], 0
    for number, last in enumerate((*ends, number_of_steps(stage)), start=1):
        work = directory / f"{number}"
        job = Workload(stage, 5, inputs, Segment(number, first, last, carried))
        assert run(job, work, change_script) == 0
        output = ENGINE.collect(work)
        assert output.last == last
        inputs = {**inputs, "state": work / ENGINE.state_file}
        carried, first = dict(output.carried), last
        parts.append(output.dataset)
        places.append(work)
    return join_segments(parts), places


@pytest.mark.lammps
def test_nve_that_is_continued_agrees_to_the_printed_digits(structure: Path, tmp_path: Path) -> None:
    stage = simulation(THERMALISE, NVT_STEP.model_copy(update={"duration_ps": 0.2}))
    inputs = {"structure": structure}

    def nve(script: str) -> str:
        nvt = "fix motion all nvt temp 300 300 0.05"
        assert nvt in script
        return script.replace(nvt, "fix motion all nve")

    whole, _ = in_segments(stage, [], inputs, tmp_path / "whole", nve)
    pieces, _ = in_segments(stage, [37, 90, 144], inputs, tmp_path / "pieces", nve)
    np.testing.assert_array_equal(pieces["time"], whole["time"])
    for name in ("temperature", "potential_energy"):
        # The series is printed with 12 digits; sums in another order differ in the last one or two.
        np.testing.assert_allclose(pieces[name], whole[name], rtol=1e-10)
    moved = pieces["final_position"] - whole["final_position"]
    moved -= whole["cell_length"] * np.round(moved / whole["cell_length"])
    assert float(abs(moved).max()) < 1e-9


@pytest.mark.lammps
def test_a_thermostat_and_a_barostat_go_on_with_their_state(structure: Path, tmp_path: Path) -> None:
    inputs = {"structure": structure}
    whole, (single,) = in_segments(EQUILIBRATION, [], inputs, tmp_path / "whole")
    # In both halves of NpT, at its end, and in NVT.
    pieces, places = in_segments(EQUILIBRATION, [110, 260, 330, 400, 602], inputs, tmp_path / "pieces")
    np.testing.assert_array_equal(pieces["time"], whole["time"])
    # The averages of the cell, of which parts were handed on, are the same to 1e-4: one sample more a cut.
    averages = [
        np.array(re.findall(r"^campaign: average cell (\S+) (\S+)", log.read_text(), re.MULTILINE), float)
        for log in (single / "log.lammps", places[3] / "log.lammps")
    ]
    np.testing.assert_allclose(averages[1], averages[0], rtol=1e-4)
    np.testing.assert_allclose(pieces["temperature"], whole["temperature"], rtol=0.02)
    np.testing.assert_allclose(pieces["cell_length"], whole["cell_length"], rtol=1e-4)


@pytest.mark.lammps
def test_heat_flow_in_five_segments_closes_its_energy_and_agrees_with_one_piece(
    structure: Path, tmp_path: Path
) -> None:
    equilibrated, places = in_segments(EQUILIBRATION, [], {"structure": structure}, tmp_path / "start")
    inputs = {"structure": structure, "state": places[0] / ENGINE.state_file}
    stage = simulation(PREHEAT, HEAT_FLOW.model_copy(update={"duration_ps": 6.0}))
    whole, _ = in_segments(stage, [], inputs, tmp_path / "whole")
    pieces, places = in_segments(stage, [300, 1500, 2500, 4520], inputs, tmp_path / "pieces")
    np.testing.assert_array_equal(pieces["time"], whole["time"])
    assert equilibrated.sizes["atom"] == pieces.sizes["atom"]
    atoms = pieces.sizes["atom"]
    for series in (whole, pieces):
        leak = series["total_energy"] - series["source_energy"] - series["sink_energy"]
        assert float(leak.std()) / atoms < 2 * NVE_NOISE_EV_PER_ATOM
    scripts = "".join((place / "in.lammps").read_text() for place in places)
    seeds = re.findall(r"langevin \S+ \S+ \S+ (\d+)", scripts)
    assert len(seeds) == len(set(seeds)) == 2 * 2 + 2 * 4  # preheat in two segments, source and sink in four
    # Two independent runs: their means over blocks of 0.5 ps differ by no more than their spread allows.
    for name in ("source_energy", "sink_energy"):
        flows = [np.diff(series[name].values[::25]) for series in (whole, pieces)]
        error = np.sqrt(sum(flow.var(ddof=1) / len(flow) for flow in flows))
        assert abs(flows[0].mean() - flows[1].mean()) < 5 * error
    # Free layers remember their start for longer than this; those of the baths do not.
    for layer in (*HEAT_FLOW.source_layers, *HEAT_FLOW.sink_layers):
        blocks = [
            series["layer_temperature"].isel(layer=layer).coarsen(time=50).mean()
            for series in (whole, pieces)
        ]
        error = np.sqrt(sum(float(block.var(ddof=1)) / block.size for block in blocks))
        assert abs(float(blocks[0].mean() - blocks[1].mean())) < 5 * error


@pytest.mark.lammps
def test_a_request_to_stop_ends_the_segment_at_a_sample(structure: Path, tmp_path: Path) -> None:
    stage = simulation(THERMALISE, NpT(**{**NPT.model_dump(), "duration_ps": 0.1}), NVT_STEP)
    job = Workload(stage, 5, {"structure": structure}, Segment(1, 0, number_of_steps(stage)))

    def stop_during(step: str) -> None:
        def ask(script: str) -> str:
            return script.replace(f"# {step}\n", f"# {step}\nshell touch stop\n")

        directory = tmp_path / step
        assert run(job, directory, ask) == 0
        output = ENGINE.collect(directory)
        assert "atom" not in output.dataset.dims
        first = timeline(stage)[1 if step == "npt" else 2].first
        assert first < output.last < number_of_steps(stage)
        inputs = {"structure": structure, "state": directory / ENGINE.state_file}
        rest = replace(job, inputs=inputs, segment=replace(job.segment, number=2, first=output.last))
        assert run(rest, tmp_path / f"{step} on") == 0
        joined = join_segments([output.dataset, ENGINE.collect(tmp_path / f"{step} on").dataset])
        np.testing.assert_allclose(np.diff(joined["time"]), 0.002)
        assert joined.sizes["time"] == 200

    stop_during("npt")
    stop_during("nvt")
