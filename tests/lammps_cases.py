"""A multilayer of 144 atoms and short steps, for the tests of the LAMMPS engine."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ase import Atoms

from campaign.engines.base import (
    NVT,
    HeatFlow,
    NpT,
    Preheat,
    Segment,
    Simulation,
    Step,
    Thermalise,
    Workload,
)
from campaign.engines.lammps import LammpsEngine
from campaign.engines.lammps_input import layer_species
from campaign.engines.lammps_script import make_script
from campaign.engines.timeline import number_of_steps
from campaign.execution.process import run_process
from campaign.potentials import get_potential, lammps_model
from campaign.structures.layers import BuildSettings, LayerBlock, MultilayerSettings, build

ENGINE = LammpsEngine()
LAYERS = 6
ATOMS_OF_LAYER = 24
ATOMS = LAYERS * ATOMS_OF_LAYER
NVE_NOISE_EV_PER_ATOM = 0.034e-3
"""Fluctuation of the total energy with Tersoff at 1 fs (measured; quadratic in the timestep)."""

THERMALISE = Thermalise(temperature_K=300)
NPT = NpT(temperature_K=300, duration_ps=0.4, thermostat_damping_fs=50, barostat_damping_fs=500)
NVT_STEP = NVT(temperature_K=300, duration_ps=0.4, thermostat_damping_fs=50)
PREHEAT = Preheat(
    hot_layers=(3, 4, 5),
    cold_layers=(0, 1, 2),
    frozen_layers=(0,),
    hot_temperature_K=400,
    cold_temperature_K=200,
    duration_ps=0.5,
    damping_fs=50,
)
HEAT_FLOW = HeatFlow(
    source_layers=(5,),
    sink_layers=(1,),
    frozen_layers=(0,),
    upper_layers=(3, 4, 5),
    source_temperature_K=400,
    sink_temperature_K=200,
    damping_fs=50,
    duration_ps=2,
    sampling_interval_fs=20,
)


def simulation(*steps: Step, timestep_fs: float = 1) -> Simulation:
    return Simulation(potential="tersoff-lj", timestep_fs=timestep_fs, steps=steps)


def multilayer() -> Atoms:
    settings = MultilayerSettings(
        lower=LayerBlock(material="hbn", layers=3, cells=(3, 2)),
        upper=LayerBlock(material="graphene", layers=3, cells=(3, 2)),
        stacking="ABp",
        cell_from="mean",
    )
    constants = dict(get_potential("tersoff-lj").lattice_constants_A)
    return build(BuildSettings(structure=settings, lattice_constants_A=constants))


def script_of(*steps: Step, seed: int = 1, timestep_fs: float = 1) -> str:
    atoms = multilayer()
    model = lammps_model(get_potential("tersoff-lj"), layer_species(atoms))
    whole = simulation(*steps, timestep_fs=timestep_fs)
    segment = Segment(1, 0, number_of_steps(whole))
    return make_script(whole, seed, atoms, model, segment, restart=False)[0]


def workload(simulation: Simulation, seed: int, inputs: dict[str, Path]) -> Workload:
    """The whole stage as one segment."""
    return Workload(simulation, seed, inputs, Segment(1, 0, number_of_steps(simulation)))


def run(
    job: Workload,
    directory: Path,
    change_script: Callable[[str], str] = str,
    environment: dict[str, str] | None = None,
) -> int:
    directory.mkdir(exist_ok=True)
    command = ENGINE.prepare(job, directory)
    script = directory / "in.lammps"
    script.write_text(change_script(script.read_text()))
    return run_process(
        replace(command, environment={**command.environment, **(environment or {})}),
        directory,
        threads=job.threads,
        timeout_without_output_s=60,
        should_stop=lambda: False,
        poll_s=0.05,
    )
