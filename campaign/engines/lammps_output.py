"""What a LAMMPS process wrote: progress, series, final structure, and the reason why it failed."""

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from campaign.engines.base import STDERR, STDOUT, Output, Progress
from campaign.engines.lammps_input import (
    BAR_PER_GPA,
    FINAL,
    LAYERS,
    LOG,
    SERIES,
    STATE,
    THERMO_COLUMNS,
    Facts,
)
from campaign.engines.series import (
    Array,
    Variables,
    final_structure,
    heat_flow_series,
    result_dataset,
    thermo_series,
)
from campaign.engines.symptoms import Symptom, explain, lines_from_the_end
from campaign.engines.timeline import frames_per_sample
from campaign.errors import (
    CampaignError,
    EngineNotFoundError,
    InputError,
    Location,
    OutOfMemoryError,
    PhysicsError,
    ResourceError,
    TransientError,
)


def read_progress(directory: Path) -> Progress | None:
    """Progress from the last complete line of numbers at the end of the log; None if there is none yet."""
    try:
        lines = lines_from_the_end(directory / LOG)
        facts = Facts.read(directory)
    except FileNotFoundError:
        return None
    for line in lines:
        row = _thermo_row(line)
        if row is not None:
            rate = row["elapsed"] * facts.atoms / row["cpu"] if row["elapsed"] and row["cpu"] > 0 else None
            return Progress(int(row["v_done"]), facts.steps_total, rate)
    return None


def _thermo_row(line: str) -> dict[str, float] | None:
    words = line.split()
    if len(words) != len(THERMO_COLUMNS):
        return None
    try:
        return dict(zip(THERMO_COLUMNS, map(float, words), strict=True))
    except ValueError:
        return None


def read_output(directory: Path) -> Output:
    """Series of the recorded step in this segment and, where the stage ends, the final structure.

    Raises
    ------
    TransientError
        A file is missing or ends early.
    PhysicsError
        A number is not finite, or atoms were lost.
    """
    try:
        facts = Facts.read(directory)
        log = (directory / LOG).read_text(errors="replace")
        reached = _step_reached(log, directory)
        series = (
            _heat_flow(directory, facts, reached)
            if facts.series == "heat_flow"
            else _thermo(directory, facts, reached)
        )
        final = _read_final(directory / FINAL, facts) if reached == facts.steps_total else {}
    except FileNotFoundError as error:
        raise TransientError(f"no {Path(error.filename).name}", where=str(directory)) from error
    dangerous = [int(count) for count in re.findall(r"^Dangerous builds = (\d+)", log, re.MULTILINE)]
    dataset = result_dataset(
        {**series, **final},
        directory,
        atoms=facts.atoms,
        dangerous_builds=sum(dangerous),
        attributes={
            "engine_version": ", ".join(filter(None, (_version(log), facts.forces))),
            "timestep_fs": facts.timestep_fs,
        },
    )
    return Output(dataset, reached, _carried(log))


def _step_reached(log: str, directory: Path) -> int:
    """MD steps of the stage when the segment ended, as LAMMPS says at the end of its input."""
    found = re.findall(r"^campaign: segment ends at step (\d+)$", log, re.MULTILINE)
    if not found or not (directory / STATE).is_file():
        raise TransientError("LAMMPS did not reach the end of its input", where=str(directory / LOG))
    return int(found[-1])


def _carried(log: str) -> dict[str, float]:
    """Read the running averages that the next segment goes on with: the last line that tells some."""
    found = re.findall(r"^campaign: carried (.+)$", log, re.MULTILINE)
    pairs = (word.split("=") for word in found[-1].split()) if found else ()
    return {name: float(value) for name, value in pairs}


def _heat_flow(directory: Path, facts: Facts, reached: int) -> Variables:
    samples = facts.samples(reached)
    rows = _read_series(directory / SERIES, 9, facts, samples)
    step, source, sink, pe_lower, ke_lower, pe_upper, ke_upper, pe, ke = rows.T
    # LAMMPS counts what a thermostat took, from the run's first step on: the difference to that row, negated,
    # is what it gave. The first row itself is not part of the series.
    return heat_flow_series(
        _time(step[1:], facts),
        _read_layers(directory / LAYERS, facts, samples),
        facts.atoms_of_layer,
        source_eV=source[:1] - source[1:],
        sink_eV=sink[:1] - sink[1:],
        sides_eV=((pe_lower + ke_lower)[1:], (pe_upper + ke_upper)[1:]),
        total_eV=(pe + ke)[1:],
    )


def _thermo(directory: Path, facts: Facts, reached: int) -> Variables:
    rows = _read_series(directory / SERIES, 5, facts, facts.samples(reached))
    step, kinetic, pressure_xx, pressure_yy, potential = rows[1:].T
    per_bar = 1 / (BAR_PER_GPA * facts.slab_fraction)
    return thermo_series(
        _time(step, facts),
        kinetic,
        facts.atoms,
        pressures_GPa=(pressure_xx * per_bar, pressure_yy * per_bar),
        potential_eV=potential,
    )


def _time(steps: Array, facts: Facts) -> Array:
    return steps * facts.timestep_fs / 1000


def _read_series(path: Path, columns: int, facts: Facts, samples: range) -> Array:
    """Rows of a fix ave/time, shape (samples, columns); the first is that before the segment's own."""
    if len(samples) < 2:  # the segment ends before the recorded step
        return np.empty((0, columns))
    return _table(path, columns, facts.sample_steps * np.asarray(samples))


def _read_layers(path: Path, facts: Facts, samples: range) -> Array:
    """Kinetic energies of the layers in eV, shape (samples - 1, layers)."""
    layers = len(facts.atoms_of_layer)
    if len(samples) < 2:
        return np.empty((0, layers))
    # LAMMPS adds the first step to instantaneous samples, not to averages over frames of an interval.
    first = 1 if frames_per_sample(facts.sample_steps) > 1 else 0
    # A sample is its step, the number of rows, then (layer, energy) for each layer.
    rows = _table(path, 2 + 2 * layers, facts.sample_steps * np.asarray(samples[first:]))
    return rows[1 - first :, 3::2]


def _table(path: Path, columns: int, steps: npt.NDArray[np.int64]) -> Array:
    """Numbers of a file as rows that begin with the given steps."""
    text = " ".join(line for line in path.read_text().splitlines() if not line.startswith("#"))
    try:
        numbers = np.array(text.split(), dtype=np.float64)
    except ValueError as error:
        raise TransientError(f"damaged: {error}", where=str(path)) from error
    if numbers.size % columns:
        raise TransientError("ends in the middle of a sample", where=str(path))
    rows = numbers.reshape(-1, columns)
    if not np.array_equal(rows[:, 0], steps):
        raise TransientError(f"has {len(rows)} samples instead of {len(steps)}", where=str(path))
    return rows


def _read_final(path: Path, facts: Facts) -> Variables:
    rows, lengths, tilt = _read_atoms(path)
    if len(rows) != facts.atoms:
        raise PhysicsError(f"{facts.atoms - len(rows)} of {facts.atoms} atoms were lost", where=str(path))
    numbers = np.asarray(facts.atomic_numbers, dtype=np.int32)[rows[:, 2].astype(np.int64) - 1]
    layers = rows[:, 1].astype(np.int32) - 1
    return final_structure(lengths, rows[:, 3:], layers, numbers, tilt_A=tilt)


def _read_atoms(path: Path) -> tuple[Array, Array, float | None]:
    """Rows (id, molecule, type, x, y, z) sorted by id, and lengths and tilt of the cell, from a dump.

    Lengths are the diagonal of the cell, so area and volume are their products; the tilt is that of the
    second vector along x, None for an orthogonal cell.
    """
    with path.open() as file:
        header = [file.readline() for _ in range(9)]
        try:
            atoms = int(header[3])
            box = np.array([line.split() for line in header[5:8]], dtype=np.float64)
            rows = np.loadtxt(file, ndmin=2)
        except ValueError as error:
            raise TransientError(f"{path.name} is damaged: {error}", where=str(path)) from error
    if rows.shape != (atoms, 6):
        raise TransientError(f"{path.name} has {len(rows)} of {atoms} atoms", where=str(path))
    lengths = box[:, 1] - box[:, 0]
    if box.shape[1] == 2:
        return rows, lengths, None
    # LAMMPS gives the bounds of a box around the leaning one (manual, Howto_triclinic).
    tilt = float(box[0, 2])
    lengths[0] -= abs(tilt)
    return rows, lengths, tilt


def _version(log: str) -> str:
    found = re.match(r"LAMMPS \((.+)\)", log)
    return found.group(1) if found else "unknown"


_SYMPTOMS = (
    Symptom(
        "error while loading shared libraries|cannot open shared object",
        EngineNotFoundError,
        "install lammps[mpi] again",
    ),
    Symptom("no space left|disk quota|error writing", ResourceError, "free some disk space"),
    Symptom(
        "failed to (re)?allocate|unable to allocate|bad_alloc|memoryerror|out of memory",
        OutOfMemoryError,
        "give it more memory",
    ),
    Symptom(
        # Neighbour bins run out of range where an atom has left for far away.
        "lost atoms|atoms lost|non-numeric|out of range atoms|nan detected|neighbor bins",
        PhysicsError,
        "use a smaller timestep, or look at the start",
    ),
    Symptom(
        "neighbor list overflow|too many neighbors",
        InputError,
        "raise `one` and `page` of neigh_modify, or look whether atoms collapsed",
    ),
    Symptom(
        "cannot open|no such file",
        ResourceError,
        "a potential file must lie in a folder of LAMMPS_POTENTIALS",
    ),
    Symptom("unrecognized|unknown", InputError, "this LAMMPS lacks a package, or the input is wrong"),
)


def read_failure(directory: Path, returncode: int) -> CampaignError:
    """Error of the right class for a process that failed, with file and line of its last message."""
    return explain("LAMMPS", _last_message(directory), returncode, directory / LOG, _SYMPTOMS)


def _last_message(directory: Path) -> tuple[str, Location] | None:
    """Last error message in the log, or else in what went to the terminal."""
    for name, pattern in (
        (LOG, r"^ERROR"),
        (STDERR, r"ERROR|[Ee]rror|[Nn]o space left|bad_alloc|terminate"),
        (STDOUT, r"^ERROR"),
    ):
        try:
            lines = (directory / name).read_text(errors="replace").splitlines()
        except FileNotFoundError:
            continue
        for number in range(len(lines), 0, -1):
            if re.search(pattern, lines[number - 1]):
                text = (
                    re.sub(r"^ERROR( on proc \d+)?: *| \(src/.*\)$", "", lines[number - 1])
                    .strip()
                    .rstrip(".")
                )
                return text, Location(directory / name, number)
    return None
