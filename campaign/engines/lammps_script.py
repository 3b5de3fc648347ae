"""LAMMPS script of a stage.

Units are LAMMPS' ``metal`` throughout: angstrom, ps, eV, K, bar. The traps of non-equilibrium MD that it
avoids are explained in its own comments, so that a committed ``in.lammps`` can be read without this module.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

from campaign.engines.base import NVT, HeatFlow, NpT, Preheat, Simulation, Thermalise
from campaign.engines.lammps_input import (
    BAR_PER_GPA,
    DATA,
    FINAL,
    LAYERS,
    SERIES,
    STATE,
    THERMO_COLUMNS,
    Facts,
    frames_per_sample,
    layers_of,
    slab_fraction,
)
from campaign.errors import InputError
from campaign.potentials import LammpsModel
from campaign.quantities import random_seed

SERIES_POINTS = 200
"""Samples of temperature and pressure in a step that has no sampling interval of its own."""

Dynamic = NpT | NVT | Preheat | HeatFlow


def make_script(
    simulation: Simulation, seed: int, atoms: Atoms, model: LammpsModel, *, restart: bool
) -> tuple[str, Facts]:
    """Script of a stage, and the facts for reading its output.

    Parameters
    ----------
    simulation
        What to compute.
    seed
        Seed of the velocities; those of the thermostats are derived from it.
    atoms
        The built structure, which has the layers, also when the run continues from a restart file.
    model
        Types and pair lines.
    restart
        Continue from the restart file named by the variable ``state`` instead of ``structure.data``.

    Raises
    ------
    InputError
        No dynamical step, layers that do not exist or overlap, or a step shorter than its sampling interval.
    """
    writer = _Writer(simulation, seed, atoms, model)
    writer.start(restart=restart)
    for index, step in enumerate(simulation.steps):
        match step:
            case Thermalise():
                writer.thermalise(step, minimise=index == 0 and not restart)
            case NpT():
                writer.npt(step)
            case NVT():
                writer.nvt(step)
            case Preheat():
                writer.preheat(step, index)
            case HeatFlow():
                writer.heat_flow(step, index)
    writer.finish()
    return writer.text(), writer.facts


def steps_of(duration_ps: float, timestep_fs: float) -> int:
    """Whole MD steps of a duration, at least one."""
    return max(1, round(duration_ps * 1000 / timestep_fs))


class _Writer:
    """Collects the script's lines, step by step."""

    def __init__(self, simulation: Simulation, seed: int, atoms: Atoms, model: LammpsModel) -> None:
        dynamic = [step for step in simulation.steps if not isinstance(step, Thermalise)]
        if not dynamic:
            raise InputError("the simulation has no dynamical step")
        self._timestep_fs = simulation.timestep_fs
        self._seed = seed
        self._model = model
        self._steps_done = 0
        self._last: Dynamic = dynamic[-1]
        self._lines: list[str] = []
        self._groups: list[str] = []
        last_steps = self._count(self._last)
        sample_steps = self._sample_steps(self._last, last_steps)
        self.facts = Facts(
            series="heat_flow" if isinstance(self._last, HeatFlow) else "thermo",
            timestep_fs=simulation.timestep_fs,
            sample_steps=sample_steps,
            samples=last_steps // sample_steps,
            steps_total=sum(self._count(step) for step in dynamic),
            atoms_of_layer=tuple(np.bincount(layers_of(atoms)).tolist()),
            atomic_numbers=tuple(atomic_numbers[element] for element, _ in model.types),
            slab_fraction=slab_fraction(atoms),
        )
        if self.facts.samples == 0:
            raise InputError(
                f"the last step has {last_steps} MD steps, less than a sampling interval of {sample_steps}",
                where="sampling_interval_fs",
            )

    def text(self) -> str:
        return "\n".join(self._lines) + "\n"

    def start(self, *, restart: bool) -> None:
        if restart:
            self._add(
                "read_restart ${state}",
                "# Hybrid pair styles are not stored in restart files.",
            )
        else:
            self._add(
                "units metal",
                "atom_style molecular",
                "# z is not periodic and fixed: an atom that evaporates is lost, and that is an error.",
                "boundary p p f",
                f"read_data {DATA}",
            )
        self._add(*self._model.pair_lines, *self._model.neighbor_lines)
        self._add(
            f"timestep {self._timestep_fs / 1000:.10g}",
            "variable done equal 0",
            f"thermo_style custom {' '.join(THERMO_COLUMNS)}",
            "thermo_modify flush yes lost error format float %.12g",
            f"thermo {self._thermo_steps()}",
        )

    def thermalise(self, step: Thermalise, *, minimise: bool) -> None:
        self._heading(step.step)
        if minimise:
            self._add(
                "# The built spacing is not the potential's own; the stack would breathe for many ps.",
                "# The energy jumps at the cutoff of lj/cut and stops a line search that looks at it.",
                "min_modify line forcezero",
                "minimize 0 1e-2 200 400",
            )
        self._add(
            "# The only place where the total momentum is removed.",
            f"velocity all create {step.temperature_K:.10g} {self._seed} mom yes rot no dist gaussian",
        )

    def npt(self, step: NpT) -> None:
        bath = self._bath(step)
        # The cell holds vacuum, so a pressure within the structure is a smaller one of the cell.
        pressure_bar = step.pressure_GPa * BAR_PER_GPA * self.facts.slab_fraction
        barostat = f"{pressure_bar:.10g} {pressure_bar:.10g} {step.barostat_damping_fs / 1000:.10g}"
        steps = self._count(step)
        self._heading(step.step)
        self._add(
            "# Nothing is frozen: fix npt measures all atoms, and the mobile ones would be too hot.",
            f"fix motion all npt {bath} x {barostat} y {barostat}",
        )
        self._record(step)
        if steps > 1:
            self._run(steps // 2)
        self._add(
            "variable length_x equal lx",
            "variable length_y equal ly",
            "fix cell all ave/time 1 1 1 v_length_x v_length_y ave running",
        )
        self._run(steps - steps // 2)
        self._add(
            "# The cell becomes its average over the last half, not its last instant.",
            "variable scale_x equal $(f_cell[1]/lx:%.15g)",
            "variable scale_y equal $(f_cell[2]/ly:%.15g)",
            'print "campaign: average cell $(f_cell[1]:%.15g) $(f_cell[2]:%.15g)"',
            "unfix motion",
            "unfix cell",
        )
        self._stop_recording(step)
        self._add("change_box all x scale ${scale_x} y scale ${scale_y} remap units box")

    def nvt(self, step: NVT) -> None:
        self._heading(step.step)
        self._add(f"fix motion all nvt {self._bath(step)}")
        self._record(step)
        self._run(self._count(step))
        self._add("unfix motion")
        self._stop_recording(step)

    def preheat(self, step: Preheat, index: int) -> None:
        self._heading(step.step)
        self._freeze(step.frozen_layers)
        damping_ps = f"{step.damping_fs / 1000:.10g}"
        frozen = set(step.frozen_layers)
        for name, layers, temperature_K in (
            ("hot", step.hot_layers, step.hot_temperature_K),
            ("cold", step.cold_layers, step.cold_temperature_K),
        ):
            self._group(name, [layer for layer in layers if layer not in frozen])
            self._langevin(name, temperature_K, damping_ps, index)
        self._disjoint(hot=step.hot_layers, cold=step.cold_layers)
        self._record(step)
        self._run(self._count(step))
        self._add("unfix motion", "unfix hot", "unfix cold")
        self._stop_recording(step)

    def heat_flow(self, step: HeatFlow, index: int) -> None:
        self._disjoint(source=step.source_layers, sink=step.sink_layers, frozen=step.frozen_layers)
        self._heading(step.step)
        self._freeze(step.frozen_layers)
        damping_ps = f"{step.damping_fs / 1000:.10g}"
        self._group("source", step.source_layers)
        self._group("sink", step.sink_layers)
        self._group("upper", step.upper_layers)
        self._group_from("lower", "subtract all upper")
        self._add(
            "# Source and sink have different seeds: equal ones would make correlated noise.",
            "# Neither fix momentum nor zero yes: both would take heat out unseen.",
            "# A tally is the energy taken out of the structure.",
        )
        self._langevin("source", step.source_temperature_K, damping_ps, index, "tally yes")
        self._langevin("sink", step.sink_temperature_K, damping_ps, index, "tally yes")
        if step is self._last:
            self._record_heat_flow()
        self._run(self._count(step))
        self._add("unfix motion", "unfix source", "unfix sink")
        if step is self._last:
            self._add("unfix series", "unfix layers")

    def finish(self) -> None:
        self._add(
            "",
            "# end of the stage",
            f"write_restart {STATE}",
            f"write_dump all custom {FINAL} id mol type x y z modify sort id format float %.10g",
            'print "campaign: complete"',
        )

    @staticmethod
    def _bath(step: NpT | NVT) -> str:
        temperature = f"{step.temperature_K:.10g}"
        return f"temp {temperature} {temperature} {step.thermostat_damping_fs / 1000:.10g}"

    def _record(self, step: Dynamic) -> None:
        if step is not self._last:
            return
        every = self.facts.sample_steps
        self._add(
            "compute kinetic all ke",
            f"fix series all ave/time {every} 1 {every} c_kinetic c_thermo_press[1] c_thermo_press[2] "
            f'c_thermo_pe format " %.12g" file {SERIES}',
        )

    def _stop_recording(self, step: Dynamic) -> None:
        if step is self._last:
            self._add("unfix series")

    def _record_heat_flow(self) -> None:
        every = self.facts.sample_steps
        frames = frames_per_sample(every)
        self._add(
            "# Energies and tallies of one instant; %.15g, because their balance is a small difference.",
            "compute pe_atom all pe/atom",
            "compute pe_lower lower reduce sum c_pe_atom",
            "compute pe_upper upper reduce sum c_pe_atom",
            "compute ke_lower lower ke",
            "compute ke_upper upper ke",
            "compute ke_all all ke",
            f"fix series all ave/time {every} 1 {every} f_source f_sink "
            "c_pe_lower c_ke_lower c_pe_upper c_ke_upper c_thermo_pe c_ke_all "
            f'format " %.15g" file {SERIES}',
            "# Layers are molecules, never bins in z.",
            "compute layer all chunk/atom molecule nchunk once compress no",
            "compute ke_atom all ke/atom",
            "compute ke_layer all reduce/chunk layer sum c_ke_atom",
            f"fix layers all ave/time {every // frames} {frames} {every} c_ke_layer mode vector "
            f'format " %.10g" file {LAYERS}',
        )

    def _freeze(self, layers: Sequence[int]) -> None:
        # LAMMPS would add to a group of an earlier step that has the same name.
        self._add(*(f"group {name} delete" for name in self._groups))
        self._groups.clear()
        if layers:
            self._group("frozen", layers)
            self._add("velocity frozen set 0 0 0")
            self._group_from("mobile", "subtract all frozen")
        else:
            self._group_from("mobile", "union all")
        self._add("fix motion mobile nve")

    def _langevin(
        self, name: str, temperature_K: float, damping_ps: str, index: int, tally: str = ""
    ) -> None:
        seed = random_seed(self._seed, index, name)
        bath = f"{temperature_K:.10g}"
        self._add(f"fix {name} {name} langevin {bath} {bath} {damping_ps} {seed} {tally}".rstrip())

    def _group(self, name: str, layers: Iterable[int]) -> None:
        layers = sorted(set(layers))
        if not layers:
            raise InputError(f"the group {name!r} has no layers")
        highest = len(self.facts.atoms_of_layer) - 1
        if layers[0] < 0 or layers[-1] > highest:
            raise InputError(f"the group {name!r} has layers {layers}, the structure has 0 to {highest}")
        self._group_from(name, f"molecule {' '.join(str(layer + 1) for layer in layers)}")

    def _group_from(self, name: str, definition: str) -> None:
        self._groups.append(name)
        self._add(f"group {name} {definition}")

    @staticmethod
    def _disjoint(**groups: Sequence[int]) -> None:
        owner: dict[int, str] = {}
        for name, layers in groups.items():
            for layer in layers:
                if layer in owner:
                    raise InputError(f"layer {layer} belongs to both {owner[layer]!r} and {name!r}")
                owner[layer] = name

    def _run(self, steps: int) -> None:
        self._add(f"variable done equal elapsed+{self._steps_done}", f"run {steps}")
        self._steps_done += steps

    def _heading(self, name: str) -> None:
        # Samples fall on multiples of the interval, counted from the start of the step; and LAMMPS refuses to
        # reset the count while a fix ave/time exists.
        self._add("", f"# {name}", "reset_timestep 0")

    def _count(self, step: Dynamic) -> int:
        return steps_of(step.duration_ps, self._timestep_fs)

    def _sample_steps(self, step: Dynamic, steps: int) -> int:
        if isinstance(step, HeatFlow):
            return max(1, round(step.sampling_interval_fs / self._timestep_fs))
        return max(1, steps // SERIES_POINTS)

    def _thermo_steps(self) -> int:
        # A line for each second of work or so, and at most 20,000 lines.
        return max(1, self.facts.steps_total // 20_000, min(1000, 200_000 // self.facts.atoms))

    def _add(self, *lines: str) -> None:
        self._lines.extend(lines)
