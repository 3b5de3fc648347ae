"""``run.in`` of a segment: one step of a simulation as a chain of blocks with a checkpoint after each.

GPUMD counts in MD steps: times are divided by the timestep. Everything but the potential, the timestep and
the velocities holds for one ``run`` only, so each block says all of it again. What thermostats gave and what
a spectrum has accumulated starts again in each block, too; reading puts the pieces together.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from campaign.engines.base import NVE, NVT, HeatFlow, NpT, Preheat, Segment, Simulation, Step, Thermalise
from campaign.engines.gpumd_input import LAYERS, POTENTIAL, Facts, Floats, Integers, role_groups
from campaign.engines.groups import check_groups
from campaign.engines.slab import layers_of, slab_fraction
from campaign.engines.timeline import (
    TimedStep,
    frames_per_sample,
    recorded_step,
    sample_end,
    sample_steps,
    timeline,
)
from campaign.errors import InputError

if TYPE_CHECKING:
    from ase import Atoms

BLOCK_STEPS = 5000
"""MD steps between two checkpoints. GPUMD prints one as text, about 3 us for each atom, and computes 10^7
atom-step/s or so: that is less than one hundredth of the time."""

ELASTIC_MODULUS_GPA = 50
"""In-plane modulus that the barostat assumes: that of the authors' input (arXiv:2502.13601, ``run.in``)."""

_BLOW_UP = 10.0
"""Factor above the highest temperature of a step at which a simulation has blown up."""

AMBIENT_K = 300.0
"""Stands for the temperature of a step that names none and goes on from a state."""


def timed_step(simulation: Simulation, first: int) -> TimedStep:
    """Find the dynamical step that goes on after ``first`` MD steps of the stage.

    Raises
    ------
    InputError
        The simulation does not end with one.
    """
    recorded_step(simulation)  # there must be one
    return next(timed for timed in timeline(simulation) if timed.last > first)


def segment_end(simulation: Simulation, step: int) -> int:
    """First MD step of the stage at or after ``step`` that ends a sample, or a step of the simulation."""
    return sample_end(timed_step(simulation, max(step, 1) - 1), step, simulation.timestep_fs)


def make_facts(simulation: Simulation, atoms: "Atoms", segment: Segment, cell: Floats) -> Facts:
    """Facts of a segment, which ends where its step of the simulation does.

    Parameters
    ----------
    atoms
        The built structure, which has the layers.
    cell
        Cell at the start of the segment, shape (3, 3), in angstrom.

    Raises
    ------
    InputError
        A step is shorter than its sampling interval, or the last one is a `Preheat`, of which GPUMD tells
        neither pressure nor temperature.
    """
    timed, recorded = timed_step(simulation, segment.first), recorded_step(simulation)
    if isinstance(recorded.step, Preheat):
        raise InputError("GPUMD records nothing of a preheat, which is the last step here")
    step = timed.step
    interval = sample_steps(timed, simulation.timestep_fs)
    return Facts(
        series="compute" if isinstance(step, Preheat | HeatFlow) else "thermo",
        averages_cell=isinstance(step, NpT),
        timestep_fs=simulation.timestep_fs,
        step_first=timed.first,
        step_last=timed.last,
        first=segment.first,
        last=min(segment.last, timed.last),
        recorded_first=recorded.first,
        steps_total=recorded.last,
        sample_steps=interval,
        frame_steps=interval // frames_per_sample(interval),
        block_steps=_block_steps(interval),
        atoms_of_layer=tuple(np.bincount(layers_of(atoms)).tolist()),
        upper_layers=step.upper_layers if isinstance(step, HeatFlow) else (),
        slab_fraction=slab_fraction(atoms),
        cell=tuple(float(number) for number in cell.flat),
        limit_K=_BLOW_UP
        * max(_temperatures(step), default=_start_temperature(simulation, segment.first, step)),
        carried=segment.carried if segment.first > timed.first else {},
    )


def _block_steps(interval: int) -> int:
    # Of whole samples; and GPUMD tells of each tenth of a run, of its end only where ten divides it.
    unit = math.lcm(interval, 10)
    return unit * max(1, BLOCK_STEPS // unit)


def make_groups(
    simulation: Simulation, atoms: "Atoms", first: int
) -> "tuple[list[Integers], dict[str, int]]":
    """Make the grouping methods of the step after ``first`` MD steps, and the number of each role's group.

    Raises
    ------
    InputError
        Layers that do not exist, or have two roles; no source or no sink.
    """
    layer = layers_of(atoms)
    check_groups(simulation, int(layer.max()) + 1)
    roles = _roles(timed_step(simulation, first).step)
    groups, numbers = role_groups(layer, roles)
    return [groups, layer], numbers


def make_script(
    simulation: Simulation,
    seed: int,
    facts: Facts,
    groups: Mapping[str, int],
    *,
    minimise: bool,
) -> str:
    """Text of ``run.in``.

    Parameters
    ----------
    seed
        Seed of the velocities. GPUMD draws from it, too, for thermostats of the same process; one that starts
        with velocities takes its thermostats' seeds from the clock, whatever it is told.
    groups
        Number of each role's group in grouping method 0.
    minimise
        Relax the built structure first.

    Raises
    ------
    InputError
        A time constant is shorter than a timestep, or a pressure is asked of a cell that is not orthogonal.
    """
    step = timed_step(simulation, facts.first).step
    lines = [f"potential {POTENTIAL}"]
    if minimise:
        lines += [
            "# The built spacing is not the potential's own; the stack would breathe for many ps.",
            "minimize fire 0.01 200",
        ]
    lines += [
        "# No effect where model.xyz has velocities.",
        f"velocity {_start_temperature(simulation, facts.first, step):.10g} seed {seed}",
        f"time_step {facts.timestep_fs:.10g}",
    ]
    once = _ensemble(step, facts, groups)
    if "frozen" in groups:
        once.append(f"fix {groups['frozen']}")
    if facts.series == "compute":
        # Of one instant: the balance of energies is a small difference. Reading averages temperatures.
        once.append(f"compute {LAYERS} {facts.frame_steps} 1 temperature potential")
    else:
        once.append(f"dump_thermo {facts.frame_steps}")
    for steps in facts.blocks():
        lines += ["", *once, f"dump_restart {steps}", f"run {steps}"]
    return "\n".join(lines) + "\n"


def thermalises(simulation: Simulation, first: int) -> bool:
    """Whether velocities are drawn after ``first`` MD steps of the stage."""
    return any(isinstance(timed.step, Thermalise) and timed.first == first for timed in timeline(simulation))


def _start_temperature(simulation: Simulation, first: int, step: Step) -> float:
    for timed in reversed(timeline(simulation)):
        if isinstance(timed.step, Thermalise) and timed.first == first:
            return timed.step.temperature_K
    return max(_temperatures(step), default=AMBIENT_K)


def _temperatures(step: Step) -> tuple[float, ...]:
    match step:
        case NpT() | NVT():
            return (step.temperature_K,)
        case NVE():
            return ()
        case Preheat():
            return step.hot_temperature_K, step.cold_temperature_K
        case HeatFlow():
            return step.source_temperature_K, step.sink_temperature_K
    msg = f"{step} is not a dynamical step"
    raise TypeError(msg)


def _roles(step: Step) -> dict[str, Sequence[int]]:
    match step:
        case Preheat():
            frozen = set(step.frozen_layers)
            return {
                "frozen": step.frozen_layers,
                "source": [layer for layer in step.hot_layers if layer not in frozen],
                "sink": [layer for layer in step.cold_layers if layer not in frozen],
            }
        case HeatFlow():
            return {"frozen": step.frozen_layers, "source": step.source_layers, "sink": step.sink_layers}
    return {}


def _ensemble(step: Step, facts: Facts, groups: Mapping[str, int]) -> list[str]:
    match step:
        case NpT():
            cell = np.reshape(facts.cell, (3, 3))
            if np.any(cell != np.diag(np.diag(cell))):
                raise InputError("GPUMD holds the pressure of a slab in an orthogonal cell only")
            # The cell holds vacuum, so a pressure within the structure is a smaller one of the cell.
            along_GPa = f"{step.pressure_GPa * facts.slab_fraction:.10g}"
            pressure, moduli = f"{along_GPa} {along_GPa} 0", " ".join([str(ELASTIC_MODULUS_GPA)] * 3)
            temperature = f"{step.temperature_K:.10g} {step.temperature_K:.10g}"
            thermostat = _in_steps(step.thermostat_damping_fs, facts)
            barostat = _in_steps(step.barostat_damping_fs, facts)
            return [
                "# Nothing is frozen; z is not periodic, so its pressure is not looked at.",
                f"ensemble npt_scr {temperature} {thermostat} {pressure} {moduli} {barostat}",
            ]
        case NVT():
            temperature = f"{step.temperature_K:.10g} {step.temperature_K:.10g}"
            return [f"ensemble nvt_nhc {temperature} {_in_steps(step.thermostat_damping_fs, facts)}"]
        case NVE():
            return ["ensemble nve"]
        case Preheat() | HeatFlow():
            # Two temperatures, as a mean and what source and sink are above and below it.
            hot, cold = _temperatures(step)
            middle, above = f"{(hot + cold) / 2:.10g}", f"{(hot - cold) / 2:.10g}"
            ends = f"{groups['source']} {groups['sink']}"
            return [f"ensemble heat_lan {middle} {_in_steps(step.damping_fs, facts)} {above} {ends}"]
    msg = f"{step} is not a dynamical step"
    raise TypeError(msg)


def _in_steps(time_fs: float, facts: Facts) -> str:
    steps = time_fs / facts.timestep_fs
    if steps < 1:
        raise InputError(
            f"a time constant of {time_fs:g} fs is shorter than the timestep of {facts.timestep_fs:g} fs",
            hint="GPUMD takes one MD step or more",
        )
    return f"{steps:.10g}"
