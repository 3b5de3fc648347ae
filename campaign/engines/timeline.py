"""When the steps of a simulation happen, in MD steps of its stage."""

from dataclasses import dataclass

from campaign.engines.base import HeatFlow, Simulation, Step, Thermalise
from campaign.errors import InputError

SERIES_POINTS = 200
"""Samples of temperature and pressure in a step that has no sampling interval of its own."""

MAX_FRAMES_PER_SAMPLE = 5
"""Frames over which a layer's kinetic energy is averaged within a sampling interval."""


@dataclass(frozen=True)
class TimedStep:
    """A step of a simulation, which begins after ``first`` MD steps of the stage and lasts ``steps``.

    Drawing velocities lasts no steps.
    """

    step: Step
    first: int
    steps: int

    @property
    def last(self) -> int:
        """MD steps of the stage when it has ended."""
        return self.first + self.steps


def steps_of(duration_ps: float, timestep_fs: float) -> int:
    """Whole MD steps of a duration, at least one."""
    return max(1, round(duration_ps * 1000 / timestep_fs))


def timeline(simulation: Simulation) -> tuple[TimedStep, ...]:
    """All steps of a simulation, one after the other."""
    timed: list[TimedStep] = []
    done = 0
    for step in simulation.steps:
        steps = 0 if isinstance(step, Thermalise) else steps_of(step.duration_ps, simulation.timestep_fs)
        timed.append(TimedStep(step, done, steps))
        done += steps
    return tuple(timed)


def number_of_steps(simulation: Simulation) -> int:
    """MD steps of a whole simulation."""
    return timeline(simulation)[-1].last if simulation.steps else 0


def recorded_step(simulation: Simulation) -> TimedStep:
    """Find the step whose series are kept: the last one.

    Raises
    ------
    InputError
        It is not a dynamical step.
    """
    steps = timeline(simulation)
    if not steps or steps[-1].steps == 0:
        raise InputError("no dynamical step at the end of the simulation")
    return steps[-1]


def segment_end(simulation: Simulation, step: int) -> int:
    """First MD step of the stage at or after ``step`` that ends a sample, or any before the recorded step."""
    recorded = recorded_step(simulation)
    if step <= recorded.first:
        return max(step, 1)
    return sample_end(recorded, step, simulation.timestep_fs)


def sample_end(timed: TimedStep, step: int, timestep_fs: float) -> int:
    """First MD step of the stage at or after ``step``, in a step of the simulation, that ends a sample.

    What is left over after the last sample belongs to the segment that ends the step.
    """
    interval = sample_steps(timed, timestep_fs)
    end = timed.first + max(1, -(-(step - timed.first) // interval)) * interval
    return timed.last if end + interval > timed.last else end


def sample_steps(timed: TimedStep, timestep_fs: float) -> int:
    """MD steps between two samples of a step.

    Raises
    ------
    InputError
        The step is shorter than that.
    """
    if not isinstance(timed.step, HeatFlow):
        return max(1, timed.steps // SERIES_POINTS)
    interval = max(1, round(timed.step.sampling_interval_fs / timestep_fs))
    if timed.steps < interval:
        raise InputError(
            f"a step has {timed.steps} MD steps, less than a sampling interval of {interval}",
            where="sampling_interval_fs",
        )
    return interval


def frames_per_sample(sample_steps: int) -> int:
    """Frames of a sample of layer temperatures, evenly spaced, the last one at its end; 5 if they fit."""
    return next(count for count in range(MAX_FRAMES_PER_SAMPLE, 0, -1) if sample_steps % count == 0)
