"""What the process of the ASE engine records: rows of numbers, of which `ase_output` makes series."""

from collections.abc import Mapping
from typing import IO

import numpy as np
import numpy.typing as npt

from campaign.engines.ase_input import Job
from campaign.engines.ase_system import Array, Bath, System
from campaign.engines.base import HeatFlow
from campaign.engines.timeline import frames_per_sample


class Recorder:
    """Writes a row for each sample of the recorded step: its MD step, then float64 numbers.

    Of a heat flow these are energies given by source and sink, energies of lower side, upper side and all,
    and kinetic energies of the layers, means over the frames of the sample. Of other steps they are kinetic
    energy, pressures along x and y, and potential energy. What the calculator knows nothing of, energies of
    the sides or pressures, is NaN.
    """

    def __init__(
        self,
        job: Job,
        system: System,
        layer: npt.NDArray[np.int64],
        baths: Mapping[str, Bath],
        file: IO[bytes],
    ) -> None:
        self._system = system
        self._layer = layer
        self._baths = baths
        self._file = file
        self._every = job.sample_steps
        self._thickness_A = job.thickness_A
        self._upper: npt.NDArray[np.bool_] | None = None
        step = job.recorded.step
        if isinstance(step, HeatFlow):
            self._upper = np.isin(layer, step.upper_layers)
        self._frame_every = self._every // frames_per_sample(self._every)
        self._frames: list[Array] = []

    def __call__(self, number: int) -> bool:
        """Record MD step ``number`` of the step; whether a sample is complete with it."""
        ends = number % self._every == 0
        if self._upper is not None and number % self._frame_every == 0:
            kinetic = np.bincount(self._layer, self._system.kinetic_energies)
            self._frames.append(kinetic.astype(np.float64))
        if ends:
            row = self._thermo() if self._upper is None else self._heat_flow(self._upper)
            self._file.write(np.array([number, *row], dtype=np.float64).tobytes())
        return ends

    def _thermo(self) -> list[float]:
        system = self._system
        pressures = system.pressures(self._thickness_A) if "stress" in system.given else [np.nan] * 2
        return [system.kinetic_energies.sum(), *pressures, system.potential_energy]

    def _heat_flow(self, upper: npt.NDArray[np.bool_]) -> list[float]:
        system = self._system
        kinetic = system.kinetic_energies
        given = [self._baths[name].given_eV for name in ("source", "sink")]
        sides = [np.nan] * 2
        if "energies" in system.given:
            energies = kinetic + system.results["energies"]
            sides = [energies[~upper].sum(), energies[upper].sum()]
        layers = np.mean(self._frames, axis=0)
        self._frames.clear()
        return [*given, *sides, system.potential_energy + kinetic.sum(), *layers]
