"""When the steps of a simulation happen, in MD steps of its stage."""

from dataclasses import dataclass

from campaign.engines.base import Simulation, Step, Thermalise


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
