"""What the tests of NEMD share: a small model, a stand-in for the engine's facts, synthetic series."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from campaign.physics.transport import langevin_temperature_offset
from campaign.protocols import nemd, nemd_settings
from campaign.protocols.base import Severity, read_result, write_result
from campaign.protocols.nemd import NemdProtocol
from campaign.protocols.nemd_settings import NemdSettings
from campaign.structures.io import read_structure
from campaign.structures.layers import LayerBlock, MultilayerSettings

PROTOCOL = NemdProtocol()
REPLICA = (1, 0)
Q, STORED, JUMP = 0.2, 0.01, 25.0


class FakeEngine:
    name = "lammps"
    results_version = 3
    capabilities = frozenset({"thermalise", "npt", "nvt", "heat_flow", "preheat"})


@contextmanager
def fake_engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeEngine]]:
    """Let settings ask `FakeEngine` instead of an engine that must be there."""
    for module in (nemd, nemd_settings):
        monkeypatch.setattr(module, "get_engine", lambda name: FakeEngine())
    yield FakeEngine


SPEC = """\
campaign: {name}
calculations:
  nemd:
    settings:
      potential: tersoff-lj
      structure:
        lower: {{material: hbn, layers: 4, cells: [2, 2]}}
        upper: {{material: graphene, layers: 3, cells: [2, 2]}}
        cell_from: mean
        stacking: ABp
      bath_offset_K: 100
      timestep_fs: 1
      npt_ps: 0.5
      nvt_ps: 0.2
      preheat_ps: 0.5
      build_up_ps: 2
      production_ps: {production_ps}
      sampling_interval_ps: 0.05
    axes:
      {axes}
"""


def small_spec(name: str, production_ps: float, axes: str) -> str:
    """Text of a spec of real LAMMPS with 112 atoms."""
    return SPEC.format(name=name, production_ps=production_ps, axes=axes)


def small(**changes: Any) -> NemdSettings:
    """5 h-BN and 4 graphene layers of 60 atoms, 4 ps build-up and 12 ps production."""
    structure = MultilayerSettings(
        lower=LayerBlock(material="hbn", layers=5, cells=(5, 3)),
        upper=LayerBlock(material="graphene", layers=4, cells=(5, 3)),
        cell_from="mean",
        stacking="ABp",
    )
    values: dict[str, Any] = {
        "structure": structure,
        "bath_offset_K": 100.0,
        "timestep_fs": 1.0,
        "npt_ps": 2.0,
        "nvt_ps": 1.0,
        "build_up_ps": 4.0,
        "production_ps": 12.0,
        "sampling_interval_ps": 0.05,
    }
    return NemdSettings(**{**values, **changes})


def layers(lower: int, upper: int, cells: tuple[int, int] = (5, 3), **more: Any) -> MultilayerSettings:
    return MultilayerSettings(
        lower=LayerBlock(material="hbn", layers=lower, cells=cells),
        upper=LayerBlock(material="graphene", layers=upper, cells=(5, 3)),
        stacking="ABp" if cells == (5, 3) else "moire",
        **more,
    )


def build(directory: Path) -> Path:
    """Commit the structure of `small` in a directory."""
    PROTOCOL.execute(PROTOCOL.stages(small(), "lammps", REPLICA)[0], {}, directory)
    return directory


def synthetic(
    built: Path,
    settings: NemdSettings,
    *,
    flow: float = Q,
    stored: float = STORED,
    jump: float = JUMP,
    noise_K: float = 1.0,
    seed: int = 0,
) -> xr.Dataset:
    """Series of a run with a known heat flow, jump, and energy stored on each side (eV/ps).

    ``flow`` crosses the interface; the source gives ``flow + stored``, the sink takes ``flow - stored``.
    """
    atoms = read_structure(built / "structure.npz")
    rng = np.random.default_rng(seed)
    interval = settings.sampling_interval_ps
    count = round((settings.build_up_ps + settings.production_ps) / interval)
    time = interval * np.arange(1, count + 1)
    forward = settings.direction == "forward"
    n_layers, n_bath = 9, 2 * 60
    middle, offset, tau = settings.temperature_K, settings.bath_offset_K, settings.langevin_damping_fs
    hot_bath = middle + offset - float(langevin_temperature_offset(flow + stored, tau, n_bath))
    cold_bath = middle - offset + float(langevin_temperature_offset(flow - stored, tau, n_bath))
    # straight lines on both sides, with the slope that meets the bath; the jump between adjacent layers
    slope = 2.0
    profile = np.empty(n_layers)
    for layer in range(n_layers):
        above = layer >= 5
        hot_side = above == forward
        distance = layer - 5 if above else 4 - layer
        profile[layer] = middle + (jump / 2 + slope * distance) * (1 if hot_side else -1)
    profile[7:], profile[1:3] = (hot_bath, cold_bath) if forward else (cold_bath, hot_bath)
    temperature = profile + noise_K * rng.standard_normal((count, n_layers))
    hot_energy, cold_energy = 5.0 + stored * time, 3.0 + stored * time
    upper, lower = (hot_energy, cold_energy) if forward else (cold_energy, hot_energy)
    return xr.Dataset(
        {
            "layer_temperature": (("time", "layer"), temperature),
            "source_energy": ("time", (flow + stored) * time),
            "sink_energy": ("time", -(flow - stored) * time),
            "upper_energy": ("time", upper),
            "lower_energy": ("time", lower),
            "total_energy": ("time", upper + lower),
            "cell_length": ("direction", np.diag(atoms.cell.array)),
            "final_position": (("atom", "direction"), atoms.positions),
            "layer": ("atom", atoms.arrays["layer"]),
            "atomic_number": ("atom", atoms.numbers),
            "dangerous_builds": 0,
            "atoms_initial": len(atoms),
            "atoms_final": len(atoms),
        },
        coords={"time": time},
    )


def reduced(built: Path, series: xr.Dataset, settings: NemdSettings, directory: Path) -> xr.Dataset:
    """Reduce through files, as a worker does."""
    produce, out = directory / "produce", directory / "reduce"
    produce.mkdir(exist_ok=True)
    out.mkdir(exist_ok=True)
    write_result(series, produce)
    stage = PROTOCOL.stages(settings, "lammps", REPLICA)[-1]
    PROTOCOL.execute(stage, {"produce": produce, "structure": built}, out)
    return read_result(out)


def failed(result: xr.Dataset, severity: Severity) -> set[str]:
    return {c.name for c in PROTOCOL.checks(result) if c.severity is severity and not c.passed}
