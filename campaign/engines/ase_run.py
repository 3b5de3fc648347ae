"""Process of the ASE engine: ``python -m campaign.engines.ase_run`` in the directory of a segment.

It reads ``ase.json``, the structure and the state of the segment before, and leaves series, state and, where
the stage ends, the final structure. A failure is a line of the log and ``error.json``.

The steps are ours (`campaign.physics.dynamics`), because ASE's own do not tell what a thermostat gave to its
atoms, have no state that a restart could read, and no barostat for x and y alone that is stochastic. Forces,
energies per atom and stress are the calculator's.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
from ase import Atoms

from campaign.engines.ase_input import (
    END,
    FAILURE,
    FINAL,
    LOG,
    SERIES,
    STATE,
    Job,
)
from campaign.engines.ase_output import of_words
from campaign.engines.ase_record import Recorder
from campaign.engines.ase_system import Bath, Snapshot, System
from campaign.engines.base import NVE, NVT, STOP_FILE, HeatFlow, NpT, Preheat, Thermalise
from campaign.engines.slab import layers_of
from campaign.engines.timeline import TimedStep
from campaign.errors import CampaignError, OutOfMemoryError, PhysicsError, ResourceError
from campaign.layout import write_atomic
from campaign.physics.dynamics import (
    NoseHooverChain,
    draw_velocities,
    rescale_cell,
)
from campaign.physics.transport import layer_temperature
from campaign.potentials import get_potential
from campaign.potentials.calculators import check_calculator, make_calculator
from campaign.quantities import random_seed
from campaign.structures.io import read_structure

LOOK_S = 1.0
"""Time between two lines of the log, and two looks for a request to stop."""

MAX_TEMPERATURE_K = 50_000.0
"""Above it, the simulation has exploded."""

_MINIMISE_STEPS, _MINIMISE_FORCE_EV_PER_A = 200, 1e-2


class _StopRequestedError(Exception):
    """The process was asked to end."""


class Run:
    """One segment, step by step."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._job = job = Job.read(directory)
        self._dt_ps = job.simulation.timestep_fs / 1000
        built = read_structure(directory / job.structure)
        self._layer = layers_of(built)
        atoms = Atoms(built.numbers, built.positions, cell=built.cell, pbc=built.pbc)
        calculator = make_calculator(get_potential(job.simulation.potential))
        check_calculator(calculator, {step.step for step in job.simulation.steps})
        self._system = System(atoms, calculator, np.zeros((len(atoms), 3)))
        self._chain = np.zeros((2, 3))
        self._carried = dict(job.carried)
        if job.state is not None:
            self._restore(Snapshot.read(directory / job.state, dict(job.carried)))
        self._step = job.first
        self._kept: Snapshot | None = None
        self._clock = self._looked = time.monotonic()
        self._log: IO[str]
        self._series: IO[bytes]

    def run(self) -> None:
        """Compute the segment and write what it leaves."""
        job = self._job
        with (self._directory / LOG).open("w") as log, (self._directory / SERIES).open("wb") as series:
            self._log, self._series = log, series
            log.write("step steps seconds temp pe etotal lx ly\n")
            try:
                for index, timed in enumerate(job.steps):
                    if self._has_part(timed):
                        self._begin(index, timed)
            except _StopRequestedError:
                if self._kept is not None:  # a sample ends whole
                    self._restore(self._kept)
                    self._step = self._kept.step
                    self._system.evaluate()
            self._look()
        self._snapshot().write(self._directory / STATE)
        if self._step == job.steps[-1].last:
            self._write_final()
        end = {"step": self._step, "carried": self._carried, "given": self._system.given}
        write_atomic(self._directory / END, json.dumps(end), durable=False)

    def _has_part(self, timed: TimedStep) -> bool:
        first, last = self._job.first, self._job.last
        if timed.steps == 0:  # velocities belong to what follows them
            return first <= timed.first < last
        return timed.first < last and timed.last > first

    def _begin(self, index: int, timed: TimedStep) -> None:
        begin = max(0, self._job.first - timed.first)
        end = min(timed.steps, self._job.last - timed.first)
        if not isinstance(timed.step, Thermalise):
            self._log.write(f"# {timed.step.step}\n")
            if begin == 0:
                self._chain = np.zeros((2, 3))
        match timed.step:
            case Thermalise():
                self._thermalise(timed.step, minimise=index == 0 and self._job.state is None)
            case NpT():
                self._npt(index, timed, begin, end)
            case NVT():
                chain = self._thermostat(timed.step)
                self._go(timed, begin, end, before=chain, after=chain)
            case NVE():
                self._go(timed, begin, end, before=_nothing, after=_nothing)
            case Preheat() | HeatFlow():
                self._layers(index, timed, begin, end)

    def _thermalise(self, step: Thermalise, *, minimise: bool) -> None:
        system = self._system
        if minimise:
            self._log.write("# minimise\n")
            self._minimise()
        generator = np.random.default_rng(self._job.random_seed)
        system.velocities = draw_velocities(system.masses, step.temperature_K, generator)

    def _minimise(self) -> None:
        # The built spacing is not the potential's own; the stack would breathe for many ps.
        from ase.optimize import LBFGS

        atoms = self._system.atoms
        atoms.calc = self._system.calculator
        optimiser = LBFGS(atoms, logfile=None)
        optimiser.attach(self._look)
        optimiser.run(fmax=_MINIMISE_FORCE_EV_PER_A, steps=_MINIMISE_STEPS)
        atoms.calc = None

    def _thermostat(self, step: NpT | NVT) -> Callable[[], None]:
        """Half a step of a Nose-Hoover chain, whose state is that of the process."""
        position, velocity = self._chain
        system, half_ps = self._system, self._dt_ps / 2
        chain = NoseHooverChain(
            len(system.masses), step.temperature_K, step.thermostat_damping_fs / 1000, position, velocity
        )
        return lambda: chain.half_step(system.velocities, system.masses, half_ps)

    def _npt(self, index: int, timed: TimedStep, begin: int, end: int) -> None:
        assert isinstance(timed.step, NpT)
        step, system, half = timed.step, self._system, timed.steps // 2
        thickness_A = self._job.thickness_A
        generator = self._generator(index, "barostat")
        thermostat = self._thermostat(step)

        def barostat() -> None:
            factors = rescale_cell(
                system.pressures(thickness_A),
                step.pressure_GPa,
                generator,
                volume_A3=system.volume(thickness_A),
                temperature_K=step.temperature_K,
                damping_ps=step.barostat_damping_fs / 1000,
                time_ps=self._dt_ps,
            )
            system.stretch(factors)

        def average() -> None:
            thermostat()
            samples = self._carried.get("cell_samples", 0)
            for axis, name in enumerate(("cell_x", "cell_y")):
                mean = self._carried.get(name, 0.0)
                self._carried[name] = mean + (system.atoms.cell[axis, axis] - mean) / (samples + 1)
            self._carried["cell_samples"] = samples + 1

        if begin < half:
            self._go(timed, begin, min(half, end), before=thermostat, moved=barostat, after=thermostat)
        if end > half:
            self._go(timed, max(begin, half), end, before=thermostat, moved=barostat, after=average)
        if end == timed.steps:
            # The cell becomes its average over the last half, not its last instant.
            mean_A = [self._carried[name] for name in ("cell_x", "cell_y")]
            self._carried.clear()
            system.stretch(mean_A / system.atoms.cell.array.diagonal()[:2])

    def _layers(self, index: int, timed: TimedStep, begin: int, end: int) -> None:
        step = timed.step
        assert isinstance(step, Preheat | HeatFlow)
        if isinstance(step, Preheat):
            groups = {
                "hot": (step.hot_layers, step.hot_temperature_K),
                "cold": (step.cold_layers, step.cold_temperature_K),
            }
        else:
            groups = {
                "source": (step.source_layers, step.source_temperature_K),
                "sink": (step.sink_layers, step.sink_temperature_K),
            }
        frozen = np.isin(self._layer, step.frozen_layers)
        baths = {
            name: Bath(
                np.flatnonzero(np.isin(self._layer, layers) & ~frozen),
                temperature_K,
                step.damping_fs / 1000,
                self._generator(index, name),
            )
            for name, (layers, temperature_K) in groups.items()
        }
        system, half_ps = self._system, self._dt_ps / 2
        system.velocities[frozen] = 0

        def thermostats() -> None:
            for bath in baths.values():
                bath.half_step(system, half_ps)

        self._go(timed, begin, end, before=thermostats, after=thermostats, frozen=frozen, baths=baths)

    def _generator(self, index: int, name: str) -> np.random.Generator:
        # A seed that came again in the next segment would repeat its noise.
        return np.random.default_rng(random_seed(self._job.random_seed, index, name, self._job.number))

    def _go(
        self,
        timed: TimedStep,
        begin: int,
        end: int,
        *,
        before: Callable[[], None],
        after: Callable[[], None],
        moved: Callable[[], None] | None = None,
        frozen: npt.NDArray[np.bool_] | None = None,
        baths: dict[str, Bath] | None = None,
    ) -> None:
        """Velocity Verlet from one MD step of a step to another, with what belongs to its ensemble."""
        system, dt_ps = self._system, self._dt_ps
        push = (dt_ps / 2 / system.masses)[:, None]
        if frozen is not None:
            push = np.where(frozen[:, None], 0.0, push)
        record = None
        if timed == self._job.recorded:
            record = Recorder(self._job, system, self._layer, baths or {}, self._series)
            if begin % self._job.sample_steps == 0:
                self._kept = self._snapshot()
        system.evaluate()
        for number in range(begin + 1, end + 1):
            before()
            system.velocities += push * system.forces
            system.atoms.positions += dt_ps * system.velocities
            if moved is not None:
                moved()
            system.evaluate()
            system.velocities += push * system.forces
            after()
            self._step = timed.first + number
            if record is not None and record(number):
                self._kept = self._snapshot()
            if time.monotonic() - self._looked > LOOK_S:
                self._look()
                if self._may_stop() and (self._directory / STOP_FILE).exists():
                    raise _StopRequestedError

    def _may_stop(self) -> bool:
        # Not before a sample is whole: the segment would end where it began, and be asked again for ever.
        gained = self._kept is None or self._kept.step > self._job.first
        return gained and self._step < self._job.last

    def _snapshot(self) -> Snapshot:
        atoms = self._system.atoms
        return Snapshot(
            self._step,
            atoms.positions.copy(),
            self._system.velocities.copy(),
            atoms.cell.array.copy(),
            self._chain.copy(),
            dict(self._carried),
        )

    def _restore(self, snapshot: Snapshot) -> None:
        self._system.atoms.set_cell(snapshot.cell)
        self._system.atoms.positions[:] = snapshot.positions
        self._system.velocities = snapshot.velocities.copy()
        self._chain = snapshot.chain.copy()
        self._carried = dict(snapshot.carried)

    def _look(self) -> None:
        """Write a line of the log, and see whether the simulation is sound."""
        self._looked = now = time.monotonic()
        system = self._system
        results = system.calculator.results
        kinetic = float(system.kinetic_energies.sum())
        temperature = float(layer_temperature(kinetic, len(system.masses)))
        potential = float(results.get("energy", 0.0))
        lengths = system.atoms.cell.array.diagonal()
        self._log.write(
            f"{self._step} {self._step - self._job.first} {now - self._clock:.3f} {temperature:.6g} "
            f"{potential:.10g} {potential + kinetic:.10g} {lengths[0]:.8g} {lengths[1]:.8g}\n"
        )
        self._log.flush()
        self._series.flush()
        if not np.isfinite(potential + kinetic) or temperature > MAX_TEMPERATURE_K:
            raise PhysicsError(
                f"the temperature is {temperature:.3g} K, the energy {potential:.3g} eV at step {self._step}",
                hint="use a smaller timestep, or look at the start",
            )
        for axis in np.flatnonzero(~system.atoms.pbc):
            height = system.atoms.positions[:, axis]
            lost = int(np.sum((height < 0) | (height > lengths[axis])))
            if lost:
                raise PhysicsError(
                    f"{lost} atoms have left the cell at step {self._step}",
                    hint="use a smaller timestep, or look at the start",
                )

    def _write_final(self) -> None:
        atoms = self._system.atoms.copy()
        atoms.wrap()
        with (self._directory / FINAL).open("wb") as file:
            np.savez(
                file,
                positions=atoms.positions,
                cell=atoms.cell.array,
                layer=self._layer,
                numbers=atoms.numbers,
            )


def _nothing() -> None:
    """Do what no thermostat does."""


def main(directory: Path) -> int:
    """Compute the segment of a directory; return the exit code."""
    try:
        Run(directory).run()
    except CampaignError as error:
        return _fail(directory, error)
    except MemoryError as error:
        return _fail(directory, OutOfMemoryError(f"out of memory: {error}", hint="give it more memory"))
    except OSError as error:
        where = None if error.filename is None else str(error.filename)
        return _fail(directory, ResourceError(f"{error.strerror or error}", where=where))
    except (RuntimeError, ValueError, ArithmeticError) as error:  # a calculator's own complaints
        return _fail(directory, of_words(f"{type(error).__name__}: {error}"))
    return 0


def _fail(directory: Path, error: CampaignError) -> int:
    with (directory / LOG).open("a") as log:
        log.write(f"ERROR: {error}\n")
    failure = {
        "class": type(error).__name__,
        "message": error.message,
        "where": error.where and str(error.where),
        "hint": error.hint,
    }
    write_atomic(directory / FAILURE, json.dumps(failure), durable=False)
    return 1


if __name__ == "__main__":
    sys.exit(main(Path()))
