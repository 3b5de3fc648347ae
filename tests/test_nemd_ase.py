"""NEMD with a NEP model on a CPU, as a campaign: from a spec to results whose account is closed."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import campaign
from campaign.errors import SpecError
from campaign.plan import make_plan
from campaign.spec import load_spec
from tests.ase_cases import ForcesOnly, add_paper_nep, add_springs, multilayer, written
from tests.reference import needs_reference
from tests.test_nep import needs_library

SPEC = """\
campaign: nep
calculations:
  nemd:
    engine: {engine}
    settings:
      potential: paper
      structure:
        lower: {{material: hbn, layers: 3, cells: [2, 1]}}
        upper: {{material: graphene, layers: 2, cells: [2, 1]}}
        cell_from: mean
        stacking: ABp
      thermostat_layers: 1
      bath_offset_K: 200
      timestep_fs: 1
      npt_ps: 0.02
      nvt_ps: 0.02
      build_up_ps: 0
      production_ps: 0.1
      sampling_interval_ps: 0.005
    axes:
      direction: [forward, backward]
"""


def results_of(spec: Path) -> xr.Dataset:
    """Run a spec, and give its results, all of them done."""
    root = spec.parent / "campaign"
    # A process of its own: workers of this one may have been forked before the library was named.
    command = (sys.executable, "-m", "campaign", "run", str(spec), "--dir", str(root), "--workers", "1")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ds: xr.Dataset = campaign.open(root).results["nemd"].ds
    assert ds["state"].values.tolist() == ["done", "done"]
    return ds


@needs_reference
@needs_library
@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ase", pytest.param("lammps", marks=pytest.mark.lammps)])
def test_a_campaign_with_nep(engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """40 atoms and a few hundred steps: the window holds the heating itself."""
    monkeypatch.setenv("CAMPAIGN_POTENTIALS", str(tmp_path / "library"))
    add_paper_nep()
    spec = tmp_path / "spec.yaml"
    spec.write_text(SPEC.format(engine=engine))
    ds = results_of(spec)
    for gate in ("finite", "window", "atoms", "neighbours", "closure", "balance", "layer_order", "bond_long"):
        assert ds["check_passed"].sel(check=gate).all(), gate
    assert (ds["closure"] != 0).all()
    for direction, sign in (("forward", 1), ("backward", -1)):
        run = ds.sel(direction=direction)
        assert run["source_heat_flow"].item() > 0
        assert run["sink_heat_flow"].item() > 0
        profile = run["layer_temperature"].values
        assert profile[0] == 0  # frozen
        assert sign * (profile[4] - profile[1]) > 50  # graphene is on top
    forms = ds["interface_heat_flow_hot_side"] - ds["interface_heat_flow_cold_side"]
    assert np.abs(forms).max() < 0.02 * float(ds["heat_flow"].min())


@needs_reference
def test_a_potential_of_another_engine_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAMPAIGN_POTENTIALS", str(tmp_path / "library"))
    spec = tmp_path / "spec.yaml"
    spec.write_text(SPEC.format(engine="ase").replace("paper", "tersoff-lj"))
    with pytest.raises(SpecError, match="ase cannot run tersoff-lj"):
        make_plan(load_spec(spec))


def test_a_calculator_that_gives_forces_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It can hold no pressure; in the cell as built it measures the conductance by the thermostats."""
    monkeypatch.setenv("CAMPAIGN_POTENTIALS", str(tmp_path / "library"))
    add_springs(written(multilayer(lower=3, cells=(2, 1)), tmp_path), "plain", ForcesOnly)
    spec = tmp_path / "spec.yaml"
    text = SPEC.format(engine="ase").replace("paper", "plain")
    spec.write_text(text)
    with pytest.raises(SpecError, match="ForcesOnly gives no stress") as caught:
        make_plan(load_spec(spec))
    assert "spec.yaml:6" in str(caught.value)  # where the potential is named
    assert "npt_ps: 0" in str(caught.value)
    spec.write_text(text.replace("npt_ps: 0.02", "npt_ps: 0"))
    ds = results_of(spec)
    assert np.isfinite(ds["itc"]).all()
    for name in ("itc_interface", "interface_heat_flow", "interface_heat_flow_standard_error"):
        assert np.isnan(ds[name]).all(), name
    assert not any("interface_forms" in flags for flags in ds["flags"].values)
    built_A, final_A = ((ds["cell_x"] * ds["cell_y"]).values, ds["area"].values * 100)
    np.testing.assert_allclose(final_A, built_A, rtol=1e-12)
