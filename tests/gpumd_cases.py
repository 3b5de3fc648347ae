"""What the tests of GPUMD share: a NEP in a library, the replay in place of the binary, a small campaign."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from campaign.engines.base import Segment, Simulation, Step, Workload
from campaign.engines.gpumd import GpumdEngine
from campaign.engines.gpumd_run import BINARY_VARIABLE
from campaign.engines.timeline import number_of_steps
from campaign.execution.process import run_process
from campaign.potentials import add_nep
from campaign.potentials.library import LIBRARY_VARIABLE
from campaign.quantities import ITC_MW_PER_M2_K
from campaign.structures.io import write_structure
from tests.lammps_cases import multilayer
from tests.standin import replay_gpumd as replay

ENGINE = GpumdEngine()
REPLAY = Path(replay.__file__)
POTENTIAL = "replayed"

SPEC = """\
campaign: replayed
calculations:
  nemd:
    engine: gpumd
    settings:
      potential: replayed
      structure:
        lower: {material: hbn, layers: 5, cells: [3, 2]}
        upper: {material: graphene, layers: 4, cells: [3, 2]}
        cell_from: mean
        stacking: ABp
      bath_offset_K: 30
      timestep_fs: 1
      npt_ps: 2
      nvt_ps: 1
      preheat_ps: 1
      build_up_ps: 4
      production_ps: 12
      sampling_interval_ps: 0.1
    axes:
      seed: {count: 1}
"""


def use_replay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the replay be GPUMD, and put a model without parameters into the library."""
    monkeypatch.setenv(BINARY_VARIABLE, str(REPLAY))
    monkeypatch.setenv(LIBRARY_VARIABLE, str(tmp_path / "library"))
    model = tmp_path / "nep.txt"
    model.write_text("nep4 3 B C N\n")
    add_nep(model, POTENTIAL, {"graphene": 2.46, "hbn": 2.46})


def simulation(*steps: Step, timestep_fs: float = 1) -> Simulation:
    return Simulation(potential=POTENTIAL, timestep_fs=timestep_fs, steps=steps)


def structure(directory: Path) -> Path:
    path = directory / "structure.npz"
    write_structure(multilayer(), path)
    return path


def workload(
    job: Simulation,
    inputs: Mapping[str, Path],
    first: int = 0,
    last: int | None = None,
    carried: Mapping[str, float] | None = None,
) -> Workload:
    """A segment from ``first`` to ``last`` (None: to the end)."""
    last = number_of_steps(job) if last is None else last
    return Workload(job, 7, inputs, Segment(1 if first == 0 else 2, first, last, carried or {}))


def run(job: Workload, directory: Path, **more: str) -> int:
    """Run a segment as a worker does; ``more`` is added to its environment."""
    directory.mkdir()
    command = ENGINE.prepare(job, directory)
    return run_process(
        replace(command, environment={**command.environment, **more}),
        directory,
        threads=1,
        timeout_without_output_s=60,
        should_stop=lambda: False,
        poll_s=0.05,
    )


def expected_itc(length_x_A: float, length_y_A: float) -> float:
    """Conductance of what the replay writes, in MW m^-2 K^-1."""
    area_A2 = length_x_A * length_y_A * replay.STRETCH**2
    return ITC_MW_PER_M2_K * replay.FLOW / (area_A2 * replay.JUMP_K)
