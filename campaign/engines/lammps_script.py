"""LAMMPS script of a segment of a stage.

Units are LAMMPS' ``metal`` throughout: angstrom, ps, eV, K, bar. The traps of non-equilibrium MD that it
avoids are explained in its own comments, so that a committed ``in.lammps`` can be read without this module.

LAMMPS counts time steps from the start of each step of the simulation, also where a segment begins in its
middle; the variable ``done`` counts those of the whole stage.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

from campaign.engines.base import (
    NVE,
    NVT,
    STOP_FILE,
    HeatFlow,
    NpT,
    Preheat,
    Segment,
    Simulation,
    Thermalise,
)
from campaign.engines.groups import check_groups
from campaign.engines.lammps_input import (
    BAR_PER_GPA,
    DATA,
    FINAL,
    LAYERS,
    SERIES,
    STATE,
    THERMO_COLUMNS,
    Facts,
)
from campaign.engines.slab import layers_of, slab_cell, slab_fraction
from campaign.engines.timeline import TimedStep, frames_per_sample, recorded_step, sample_steps, timeline
from campaign.potentials import LammpsModel
from campaign.quantities import random_seed

_BLOCK_ATOM_STEPS = 20_000
"""Atom-steps between two looks for a request to stop: a tenth of a second to a few seconds."""

Dynamic = NpT | NVT | NVE | Preheat | HeatFlow


def make_script(
    simulation: Simulation,
    seed: int,
    atoms: Atoms,
    model: LammpsModel,
    segment: Segment,
    *,
    restart: bool,
) -> tuple[str, Facts]:
    """Script of a segment, and the facts for reading its output.

    Parameters
    ----------
    simulation
        What the whole stage computes.
    seed
        Seed of the velocities; those of the thermostats are derived from it.
    atoms
        The built structure, which has the layers, also when the run continues from a restart file.
    model
        Types and pair lines.
    segment
        The piece of the stage to compute.
    restart
        Continue from the restart file named by the variable ``state`` instead of ``structure.data``.

    Raises
    ------
    InputError
        No dynamical step, layers that do not exist or overlap, or a step shorter than its sampling interval.
    """
    writer = _Writer(simulation, seed, atoms, model, segment)
    writer.start(restart=restart)
    for index, timed in enumerate(writer.steps):
        if not writer.begins(timed):
            continue
        match timed.step:
            case Thermalise():
                writer.thermalise(timed.step, minimise=index == 0 and not restart)
            case NpT():
                writer.npt(timed.step)
            case NVT():
                writer.nvt(timed.step)
            case NVE():
                writer.nve(timed.step)
            case Preheat():
                writer.preheat(timed.step, index)
            case HeatFlow():
                writer.heat_flow(timed.step, index)
    writer.finish()
    return writer.text(), writer.facts


class _Writer:
    """Collects the script's lines, step by step."""

    def __init__(
        self, simulation: Simulation, seed: int, atoms: Atoms, model: LammpsModel, segment: Segment
    ) -> None:
        self.steps = timeline(simulation)
        recorded = recorded_step(simulation)
        self._timestep_fs = simulation.timestep_fs
        self._seed = seed
        self._model = model
        self._segment = segment
        self._triclinic = slab_cell(atoms)[3] != 0
        self._recorded = recorded
        self._now = recorded
        self._lines: list[str] = []
        self.facts = Facts(
            series="heat_flow" if isinstance(recorded.step, HeatFlow) else "thermo",
            timestep_fs=simulation.timestep_fs,
            sample_steps=sample_steps(recorded, simulation.timestep_fs),
            recorded_first=recorded.first,
            steps_total=recorded.last,
            first=segment.first,
            last=segment.last,
            atoms_of_layer=tuple(np.bincount(layers_of(atoms)).tolist()),
            atomic_numbers=tuple(atomic_numbers[kind.element] for kind in model.types),
            slab_fraction=slab_fraction(atoms),
        )
        check_groups(simulation, len(self.facts.atoms_of_layer))

    def begins(self, timed: TimedStep) -> bool:
        """Go on to a step; whether this segment has a part in it. Velocities belong to what follows them."""
        self._now = timed
        if timed.steps == 0:
            return self._segment.first <= timed.first < self._segment.last
        return timed.first < self._segment.last and timed.last > self._segment.first

    @property
    def _begin(self) -> int:
        """MD steps of the present step that were done in earlier segments."""
        return max(0, self._segment.first - self._now.first)

    @property
    def _end(self) -> int:
        """MD steps of the present step when this segment leaves it."""
        return min(self._now.steps, self._segment.last - self._now.first)

    @property
    def _carried(self) -> Mapping[str, float]:
        """Averages of the present step from earlier segments; those of a step before it do not count."""
        return self._segment.carried if self._begin else {}

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
            f"variable stop equal is_file({STOP_FILE})",
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
        begin, end, half = self._begin, self._end, self._now.steps // 2
        self._heading(step.step)
        self._add("# Nothing is frozen: fix npt measures all atoms, and the mobile ones would be too hot.")
        shear = ""
        if self._triclinic:
            self._add("# No shear stress either; flips would make the average of the tilt meaningless.")
            shear = f" xy 0 0 {step.barostat_damping_fs / 1000:.10g} flip no"
        self._add(f"fix motion all npt {bath} x {barostat} y {barostat}{shear}")
        self._record()
        if begin < half:
            self._run(begin, min(half, end))
        if end > half:
            self._average_cell(max(begin, half), end)
        if end == self._now.steps:
            mean = {axis: self._mean_length(axis) for axis in self._cell}
            self._add(
                "# The cell becomes its average over the last half, not its last instant.",
                f"variable scale_x equal $({mean['x']}/lx:%.15g)",
                f"variable scale_y equal $({mean['y']}/ly:%.15g)",
                *([f"variable tilt_xy equal $({mean['xy']}:%.15g)"] if self._triclinic else []),
                f'print "campaign: average cell {" ".join(f"$({mean[axis]}:%.15g)" for axis in mean)}"',
            )
            self._leave("motion", "cell", "series")
            tilt = " xy final ${tilt_xy}" if self._triclinic else ""
            self._add(f"change_box all x scale ${{scale_x}} y scale ${{scale_y}}{tilt} remap units box")

    @property
    def _cell(self) -> tuple[str, ...]:
        """What of the cell the barostat changes."""
        return ("x", "y", "xy") if self._triclinic else ("x", "y")

    def _average_cell(self, begin: int, end: int) -> None:
        self._average_from = begin
        lengths = {axis: "xy" if axis == "xy" else f"l{axis}" for axis in self._cell}
        self._add(
            *(f"variable length_{axis} equal {length}" for axis, length in lengths.items()),
            f"fix cell all ave/time 1 1 1 {' '.join(f'v_length_{axis}' for axis in lengths)} ave running",
        )
        averages = " ".join(f"cell_{axis}=$({self._mean_length(axis)}:%.15g)" for axis in lengths)
        carry = f'print "campaign: carried {averages} cell_samples=$({self._samples()}:%.15g)"'
        self._run(begin, end, f"'{carry}'")
        if end < self._now.steps:
            self._add(carry)

    def _samples(self) -> str:
        """Count the lengths in the average, with those of earlier segments, as a formula."""
        before = self._carried.get("cell_samples", 0)
        return f"step-{self._average_from}+1+{before:.10g}"

    def _mean_length(self, axis: str) -> str:
        """Average length (or tilt) of the cell over this and earlier segments, as a formula."""
        own = f"f_cell[{self._cell.index(axis) + 1}]"
        if "cell_samples" not in self._carried:
            return own
        total = self._carried["cell_samples"] * self._carried[f"cell_{axis}"]
        return f"({own}*(step-{self._average_from}+1)+{total:.15g})/({self._samples()})"

    def nvt(self, step: NVT) -> None:
        self._heading(step.step)
        self._add(f"fix motion all nvt {self._bath(step)}")
        self._record()
        self._run(self._begin, self._end)
        self._leave("motion", "series")

    def nve(self, step: NVE) -> None:
        self._heading(step.step)
        self._add("fix motion all nve")
        self._record()
        self._run(self._begin, self._end)
        self._leave("motion", "series")

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
        self._record()
        self._run(self._begin, self._end)
        self._leave("motion", "hot", "cold", "series")

    def heat_flow(self, step: HeatFlow, index: int) -> None:
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
        if self._now == self._recorded:
            self._record_heat_flow()
        self._run(self._begin, self._end)
        self._leave("motion", "source", "sink", "series", "layers")

    def finish(self) -> None:
        """End the segment, also where a request to stop has ended a run early."""
        self._add("", "# end of the segment")
        if self._segment.last == self.facts.steps_total:
            self._add(f"write_dump all custom {FINAL} id mol type x y z modify sort id format float %.10g")
        self._add(
            "label finish",
            f"write_restart {STATE}",
            'print "campaign: segment ends at step $(v_done:%.15g)"',
        )

    @staticmethod
    def _bath(step: NpT | NVT) -> str:
        temperature = f"{step.temperature_K:.10g}"
        return f"temp {temperature} {temperature} {step.thermostat_damping_fs / 1000:.10g}"

    def _record(self) -> None:
        if self._now != self._recorded:
            return
        every = self.facts.sample_steps
        self._add(
            "compute kinetic all ke",
            f"fix series all ave/time {every} 1 {every} c_kinetic c_thermo_press[1] c_thermo_press[2] "
            f'c_thermo_pe format " %.12g" file {SERIES}',
        )

    def _leave(self, *fixes: str) -> None:
        """Remove the fixes of a step that has ended; else a restart file has to hold their state."""
        if self._end == self._now.steps:
            records = () if self._now == self._recorded else ("series", "layers")
            self._add(*(f"unfix {name}" for name in fixes if name not in records))

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
        # A seed that came again in the next segment would repeat its noise.
        later = (self._segment.number,) if self._segment.number > 1 else ()
        seed = random_seed(self._seed, index, name, *later)
        bath = f"{temperature_K:.10g}"
        self._add(f"fix {name} {name} langevin {bath} {bath} {damping_ps} {seed} {tally}".rstrip())

    def _group(self, name: str, layers: Iterable[int]) -> None:
        self._group_from(name, f"molecule {' '.join(str(layer + 1) for layer in sorted(set(layers)))}")

    def _group_from(self, name: str, definition: str) -> None:
        # LAMMPS would add to a group of that name of an earlier step or segment; only what exists is cleared.
        self._add(f"group {name} empty", f"group {name} clear", f"group {name} {definition}")

    def _run(self, begin: int, end: int, *before_stop: str) -> None:
        """Run from one MD step of the present step to another; a request to stop ends the segment.

        ``before_stop`` are quoted commands for that case.
        """
        commands = " ".join((*before_stop, '"jump SELF finish"'))
        self._add(f"run {end - begin}", f'if "$(step) < {end}" then {commands}')

    def _heading(self, name: str) -> None:
        # Samples fall on multiples of the interval, counted from the start of the step; and LAMMPS refuses to
        # reset the count while a fix ave/time exists.
        block = max(1, _BLOCK_ATOM_STEPS // self.facts.atoms)
        if self._now == self._recorded:
            block = self.facts.sample_steps * max(1, block // self.facts.sample_steps)
        counted = "step+" if self._now.steps else ""  # a minimisation counts as no step
        self._add(
            "",
            f"# {name}",
            f"reset_timestep {self._begin}",
            f"variable done equal {counted}{self._now.first}",
            f"fix stop all halt {block} v_stop > 0 error soft message no",
        )

    def _thermo_steps(self) -> int:
        # A line for each second of work or so, and at most 20,000 lines.
        return max(1, self.facts.steps_total // 20_000, min(1000, 200_000 // self.facts.atoms))

    def _add(self, *lines: str) -> None:
        self._lines.extend(lines)
