"""What a GPUMD process wrote: progress, the series of its blocks, the final structure.

A file is appended to by every block, and since version 5.6 some have a header for each. What thermostats
gave starts at zero in each block; columns count what they took. While two thermostats work, GPUMD does not
update ``thermo.out``, so temperatures come from ``compute.out`` then.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from campaign.engines.base import Output, Progress
from campaign.engines.gpumd_input import COMPUTE, LOG, STATE, THERMO, Facts, Floats
from campaign.engines.gpumd_state import State
from campaign.engines.series import (
    Variables,
    final_structure,
    heat_flow_series,
    result_dataset,
    thermo_series,
)
from campaign.errors import EngineNotFoundError, TransientError
from campaign.physics.transport import kinetic_energy

if TYPE_CHECKING:
    import pandas as pd

GPUMD_BOLTZMANN_EV_PER_K = 8.617343e-5
"""Boltzmann's constant in GPUMD's sources (CODATA 1998), with which it makes temperatures of energies."""

_RUN = re.compile(r"^Run (\d+) steps|^ +(\d+) steps completed|^Time used for this run = (\S+) second", re.M)


@dataclass(frozen=True)
class LogProgress:
    """What the log says: MD steps done in this process, those in whole blocks, and s that blocks took."""

    steps: int
    in_blocks: int
    timed_steps: int
    seconds: float

    @classmethod
    def of(cls, log: str) -> "LogProgress":
        """Read the text of a log."""
        before = block = done = timed = 0
        seconds = 0.0
        for run, completed, took in _RUN.findall(log):
            if run:
                before, block, done = before + done, int(run), 0
            elif completed:
                done = int(completed)
            else:  # the last line of steps is missing where their number cannot be divided by ten
                done, timed, seconds = block, timed + block, seconds + float(took)
        return cls(before + done, before + (done if done == block else 0), timed, seconds)


def read_progress(directory: Path) -> Progress | None:
    """Progress as the log tells it, every tenth of a block; None if there is none yet."""
    try:
        log = LogProgress.of((directory / LOG).read_text(errors="replace"))
        facts = Facts.read(directory)
    except FileNotFoundError:
        return None
    if log.steps == 0:
        return None
    rate = facts.atoms * log.timed_steps / log.seconds if log.seconds > 0 else None
    return Progress(facts.first + log.steps, facts.steps_total, rate)


def read_output(directory: Path) -> Output:
    """Series of the recorded step in this segment and, where the stage ends, the final structure.

    Raises
    ------
    TransientError
        A file is missing or ends early.
    PhysicsError
        A number is not finite.
    """
    try:
        facts = Facts.read(directory)
        log = (directory / LOG).read_text(errors="replace")
        state = State.read(directory / STATE)
        series = _series(directory, facts, state.step) if facts.is_recorded else {}
        carried = average_cell(directory, facts, state.step) if facts.averages_cell else {}
    except FileNotFoundError as error:
        raise TransientError(f"no {Path(error.filename).name}", where=str(directory)) from error
    final = _final(state) if state.step == facts.steps_total else {}
    dataset = result_dataset(
        {**series, **final},
        directory,
        atoms=facts.atoms,
        dangerous_builds=0,  # it makes a new list as soon as an atom has moved by half the margin
        attributes={"engine_version": read_version(log), "timestep_fs": facts.timestep_fs},
    )
    return Output(dataset, state.step, carried)


def read_version(log: str) -> str:
    """Version in the banner, such as ``5.6``; good for the record, not for telling what a binary can do."""
    found = re.search(r"\bversion +(\S+)", log, re.IGNORECASE)
    return found[1] if found else "unknown"


def average_cell(directory: Path, facts: Facts, reached: int) -> dict[str, float]:
    """Average lengths of the cell over the last half of an `NpT`, over this and earlier segments.

    Returns ``cell_x`` and ``cell_y`` in angstrom and ``cell_samples``; empty before the last half.
    """
    table = _thermo_table(directory)
    rows = _rows(facts, reached)
    done = facts.first - facts.step_first + facts.frame_steps * np.arange(1, rows + 1)
    counts = done > (facts.step_last - facts.step_first) // 2
    samples, before = int(counts.sum()), facts.carried.get("cell_samples", 0)
    if samples + before == 0:
        return {}
    _require_rows(len(table), rows, directory / THERMO)
    means = {
        f"cell_{axis}": (
            table[f"cell_{axis}{axis}"].to_numpy()[:rows][counts].sum()
            + before * facts.carried.get(f"cell_{axis}", 0)
        )
        / (samples + before)
        for axis in "xy"
    }
    return {**{name: float(mean) for name, mean in means.items()}, "cell_samples": samples + before}


def read_compute(path: Path) -> Floats:
    """Rows of ``compute.out``, shape (rows, columns): all groups of one quantity, then those of the next.

    The order of quantities is fixed, whatever was asked for: temperature (K), potential (eV), force, virial,
    jp, jk, momentum; with temperatures two columns follow that tell what source and sink took (eV).

    A last row that is cut short is left out.

    Raises
    ------
    TransientError
        The file is damaged.
    """
    text = path.read_text()
    rows = text[: text.rfind("\n") + 1].splitlines()
    try:
        return np.loadtxt(rows, ndmin=2) if rows else np.empty((0, 0))
    except ValueError as error:
        raise TransientError(f"damaged: {error}", where=str(path)) from error


def stitch_blocks(taken: Floats, blocks: "list[int]") -> Floats:
    """Energy that a thermostat gave, in eV, since the first of several blocks began.

    Parameters
    ----------
    taken
        What it took since its block began, shape (rows,), in eV.
    blocks
        Rows of each block, in their order.
    """
    given, total = -taken.astype(np.float64), 0.0
    start = 0
    for rows in blocks:
        given[start : start + rows] += total
        start += rows
        total = given[start - 1] if rows else total
    return given


def _rows(facts: Facts, reached: int) -> int:
    return sum(steps // facts.frame_steps for steps in facts.blocks(reached))


def _series(directory: Path, facts: Facts, reached: int) -> Variables:
    frames = facts.sample_steps // facts.frame_steps
    samples = (reached - facts.first) // facts.sample_steps
    begin = (facts.first - facts.step_first) // facts.sample_steps
    times_ps = (begin + np.arange(1, samples + 1)) * facts.sample_steps * facts.timestep_fs / 1000
    if facts.series == "compute":
        return _heat_flow(directory, facts, reached, times_ps, frames)
    return _thermo(directory, facts, times_ps, frames)


def _heat_flow(directory: Path, facts: Facts, reached: int, times_ps: Floats, frames: int) -> Variables:
    """Series of samples of ``frames`` rows; energies are those of the last one."""
    layers, rows = len(facts.atoms_of_layer), len(times_ps) * frames
    table = read_compute(directory / COMPUTE)
    _require_rows(len(table), rows, directory / COMPUTE)
    if table.shape[1] != 2 * layers + 2:
        raise TransientError(
            f"has {table.shape[1]} columns instead of {2 * layers + 2}", where=str(directory / COMPUTE)
        )
    written = _rows(facts, reached)
    blocks = [steps // facts.frame_steps for steps in facts.blocks(reached)]
    source, sink = (stitch_blocks(column, blocks) for column in table[:written, -2:].T)
    potential = table[:rows, layers : 2 * layers]
    kinetic = kinetic_energy(table[:rows, :layers], facts.atoms_of_layer, GPUMD_BOLTZMANN_EV_PER_K)
    energy = (kinetic + potential)[frames - 1 :: frames]
    upper = list(facts.upper_layers)
    lower = [layer for layer in range(layers) if layer not in facts.upper_layers]
    return heat_flow_series(
        times_ps,
        kinetic.reshape(-1, frames, layers).mean(axis=1),
        facts.atoms_of_layer,
        source_eV=source[frames - 1 : rows : frames],
        sink_eV=sink[frames - 1 : rows : frames],
        sides_eV=(energy[:, lower].sum(axis=1), energy[:, upper].sum(axis=1)),
        total_eV=energy.sum(axis=1),
    )


def _thermo(directory: Path, facts: Facts, times_ps: Floats, frames: int) -> Variables:
    rows = len(times_ps) * frames
    table = _thermo_table(directory)
    _require_rows(len(table), rows, directory / THERMO)
    sampled = {
        name: table[name].to_numpy()[frames - 1 : rows : frames]
        for name in ("temperature", "stress_xx", "stress_yy", "potential_energy")
    }
    return thermo_series(
        times_ps,
        kinetic_energy(sampled["temperature"], facts.atoms, GPUMD_BOLTZMANN_EV_PER_K),
        facts.atoms,
        pressures_GPa=(
            sampled["stress_xx"] / facts.slab_fraction,
            sampled["stress_yy"] / facts.slab_fraction,
        ),
        potential_eV=sampled["potential_energy"],
    )


def _thermo_table(directory: Path) -> "pd.DataFrame":
    """Read ``thermo.out`` of any version.

    Raises
    ------
    EngineNotFoundError
        The library that reads it is not installed.
    TransientError
        It is damaged.
    """
    try:
        from calorine.gpumd import read_thermo
    except ImportError as error:
        raise EngineNotFoundError("calorine reads the files of GPUMD", hint=CALORINE) from error
    try:
        table: pd.DataFrame = read_thermo(str(directory / THERMO))
    except ValueError as error:
        raise TransientError(f"damaged: {error}", where=str(directory / THERMO)) from error
    return table


CALORINE = "install it: pip install 'campaign[nep]'"


def _require_rows(there: int, wanted: int, path: Path) -> None:
    if there < wanted:
        raise TransientError(f"has {there} rows instead of {wanted}", where=str(path))


def _final(state: State) -> Variables:
    from ase.data import atomic_numbers

    symbols, index = np.unique(state.symbols, return_inverse=True)
    numbers = np.array([atomic_numbers[symbol] for symbol in symbols], dtype=np.int32)[index]
    tilt_A = float(state.cell[1, 0]) or None
    return final_structure(np.diag(state.cell), state.positions, state.layers, numbers, tilt_A=tilt_A)
