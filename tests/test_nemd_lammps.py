"""NEMD with real LAMMPS: stage by stage with Lennard-Jones, and as a campaign with ILP."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

import campaign
from campaign.engines.base import Simulation, get_engine
from campaign.execution.driver import run_campaign
from campaign.layout import Layout
from campaign.plan import make_plan
from campaign.protocols.base import Severity, Stage, read_result, write_result
from campaign.protocols.nemd_checks import CHECKS
from campaign.spec import load_spec
from tests.lammps_cases import workload
from tests.nemd_cases import PROTOCOL, REPLICA, failed, small


def run_stage(stage: Stage, directories: dict[str, Path]) -> None:
    """Run one stage as a worker does, unless an earlier run has shared it."""
    directory = directories[stage.id]
    if directory.exists():
        return
    directory.mkdir()
    inputs = {role: directories[needed] for role, needed in stage.needs.items()}
    if stage.engine is None:
        PROTOCOL.execute(stage, inputs, directory)
        return
    assert isinstance(stage.settings, Simulation)
    assert stage.random_seed is not None
    engine = get_engine(stage.engine)
    names = {"structure": "structure.npz", "state": "state.restart"}
    files = {role: path / names[role] for role, path in inputs.items()}
    command = engine.prepare(workload(stage.settings, stage.random_seed, files), directory)
    subprocess.run(command.argv, cwd=directory, env={**os.environ, **command.environment}, check=True)
    progress = engine.progress(directory)
    assert progress is not None
    assert progress.steps_done == stage.steps == progress.steps_total
    write_result(engine.collect(directory).dataset, directory)


@pytest.mark.lammps
@pytest.mark.slow
def test_real_runs_from_settings_to_conductance(tmp_path: Path) -> None:
    """Build, equilibrate, produce and reduce with LAMMPS: a closed energy account and the right signs."""
    for direction in ("forward", "backward"):
        settings = small(
            direction=direction,
            npt_ps=0.2,
            nvt_ps=0.1,
            preheat_ps=0.3,
            build_up_ps=0.2,
            production_ps=1.0,
            sampling_interval_ps=0.02,
        )
        PROTOCOL.validate(settings, "lammps")
        chain = PROTOCOL.stages(settings, "lammps", REPLICA)
        directories = {stage.id: tmp_path / stage.id for stage in chain}
        for stage in chain:
            run_stage(stage, directories)
        result = read_result(directories[chain[-1].id])
        gates = {
            "finite",
            "window",
            "atoms",
            "neighbours",
            "closure",
            "layer_order",
            "bond_short",
            "bond_long",
        }
        assert not failed(result, Severity.GATE) & gates, result["invalid_reason"].item()
        assert "interface_forms" not in failed(result, Severity.FLAG)
        assert result["heat_flow"].item() > 0
        assert result["temperature_jump"].item() > 0
        profile = result["layer_temperature"].values
        assert (profile[7:].mean() > profile[1:3].mean()) == (direction == "forward")
        assert profile[0] == 0  # frozen
        assert result["final_stacking"].item() in {"AA", "AB", "ABp", "DW"}
    assert len(list(tmp_path.iterdir())) == 6  # build and equilibrate are shared


ILP = """\
campaign: ilp
calculations:
  nemd:
    settings:
      potential: tersoff-ilp
      structure:
        lower: {material: hbn, layers: 4, cells: [2, 2]}
        upper: {material: graphene, layers: 3, cells: [2, 2]}
        cell_from: mean
        stacking: ABp
      bath_offset_K: 200
      timestep_fs: 1
      npt_ps: 0.05
      nvt_ps: 0.05
      build_up_ps: 0
      production_ps: 0.2
      sampling_interval_ps: 0.01
    axes:
      direction: [forward, backward]
"""


@pytest.mark.lammps
@pytest.mark.slow
def test_a_campaign_with_ilp_closes_its_account_and_heats_the_right_side(tmp_path: Path) -> None:
    """From a spec to labelled results on a Dask cluster, with 112 atoms and a few hundred steps.

    The window holds the heating itself, which is several times the thermal noise of so few atoms.
    """
    spec = tmp_path / "spec.yaml"
    spec.write_text(ILP)
    plan, stages = make_plan(load_spec(spec))
    root = tmp_path / "campaign"
    result = run_campaign(root, plan, stages, workers=2)
    assert result.failed == 0

    ds = campaign.open(root).results["nemd"].ds
    assert ds["direction"].values.tolist() == ["forward", "backward"]
    assert ds["state"].values.tolist() == ["done", "done"]
    assert ds["check"].values.tolist() == list(CHECKS)
    assert np.isfinite(ds["check_value"].sel(check="closure")).all()
    for gate in ("finite", "window", "atoms", "neighbours", "closure", "layer_order", "bond_long"):
        assert ds["check_passed"].sel(check=gate).all(), gate
    for direction, sign in (("forward", 1), ("backward", -1)):
        run = ds.sel(direction=direction)
        assert run["source_heat_flow"].item() > 0
        assert run["sink_heat_flow"].item() > 0
        profile = run["layer_temperature"].values
        assert sign * (profile[5:].mean() - profile[1:3].mean()) > 50  # graphene is on top

    for run in plan.calculations[0].runs:
        script = (Layout(root).stage(run.stages[2]) / "in.lammps").read_text()
        (style,) = [line for line in script.splitlines() if line.startswith("pair_style")]
        assert style.split()[:2] == ["pair_style", "hybrid/overlay"]
        assert "ilp/graphene/hbn/opt 16.0 1" in style
        assert "lj/cut" not in script
