"""What a process of the ASE engine wrote: progress, series, final structure, and the reason why it failed."""

import json
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from campaign import errors
from campaign.engines.ase_input import END, FAILURE, FINAL, LOG, LOG_COLUMNS, SERIES, STATE, Job
from campaign.engines.base import STDERR, HeatFlow, Output, Progress
from campaign.engines.series import (
    Array,
    Variables,
    final_structure,
    heat_flow_series,
    result_dataset,
    thermo_series,
)
from campaign.engines.symptoms import Symptom, explain, last_line, lines_from_the_end
from campaign.errors import (
    CampaignError,
    EngineNotFoundError,
    Location,
    OutOfMemoryError,
    ResourceError,
    TransientError,
)


def read_progress(directory: Path) -> Progress | None:
    """Progress from the last complete line of numbers at the end of the log; None if there is none yet."""
    try:
        lines = lines_from_the_end(directory / LOG)
        job = Job.read(directory)
    except FileNotFoundError:
        return None
    for line in lines:
        words = line.split()
        if len(words) == len(LOG_COLUMNS) and words[0].isdigit():
            steps, seconds = int(words[1]), float(words[2])
            rate = steps * job.atoms / seconds if steps and seconds > 0 else None
            return Progress(int(words[0]), job.steps[-1].last, rate)
    return None


def read_output(directory: Path, version: str) -> Output:
    """Series of the recorded step in this segment and, where the stage ends, the final structure.

    Raises
    ------
    TransientError
        A file is missing or ends early.
    PhysicsError
        A number is not finite.
    """
    try:
        job = Job.read(directory)
        end: Mapping[str, Any] = json.loads((directory / END).read_text())
        reached = int(end["step"])
        variables = _series(directory, job, reached, end["given"])
        if reached == job.steps[-1].last:
            variables |= _final(directory)
        (directory / STATE).stat()
    except FileNotFoundError as error:
        raise TransientError(f"no {Path(error.filename).name}", where=str(directory)) from error
    dataset = result_dataset(
        variables,
        directory,
        atoms=job.atoms,
        dangerous_builds=0,  # calculators look after their own neighbours
        attributes={"engine_version": version, "timestep_fs": job.simulation.timestep_fs},
    )
    return Output(dataset, reached, end["carried"])


def _series(directory: Path, job: Job, reached: int, given: Collection[str]) -> Variables:
    """Read the series of what the calculator gives."""
    heat_flow = isinstance(job.recorded.step, HeatFlow)
    columns = 6 + len(job.atoms_of_layer) if heat_flow else 5
    rows = _rows(directory / SERIES, columns, job, reached)
    time_ps = rows[:, 0] * job.simulation.timestep_fs / 1000
    if not heat_flow:
        _, kinetic, pressure_xx, pressure_yy, potential = rows.T
        return thermo_series(
            time_ps,
            kinetic,
            job.atoms,
            pressures_GPa=(pressure_xx, pressure_yy) if "stress" in given else None,
            potential_eV=potential,
        )
    _, source, sink, lower, upper, total = rows[:, :6].T
    return heat_flow_series(
        time_ps,
        rows[:, 6:],
        job.atoms_of_layer,
        source_eV=source,
        sink_eV=sink,
        sides_eV=(lower, upper) if "energies" in given else None,
        total_eV=total,
    )


def _rows(path: Path, columns: int, job: Job, reached: int) -> Array:
    numbers = np.fromfile(path)
    if numbers.size % columns:
        raise TransientError("ends in the middle of a sample", where=str(path))
    rows = numbers.reshape(-1, columns)
    steps = job.sample_steps * np.asarray(job.samples(reached))
    if not np.array_equal(rows[:, 0], steps):
        raise TransientError(f"has {len(rows)} samples instead of {len(steps)}", where=str(path))
    return rows


def _final(directory: Path) -> Variables:
    path = directory / FINAL
    try:
        with np.load(path, allow_pickle=False) as data:
            cell = data["cell"]
            return final_structure(
                cell.diagonal(),
                data["positions"],
                data["layer"],
                data["numbers"],
                tilt_A=float(cell[1, 0]) if cell[1, 0] else None,
            )
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise TransientError(f"{path.name} is damaged: {error}", where=str(path)) from error


_PROGRAM = "the ASE process"
_SYMPTOMS = (
    Symptom("out of memory|bad_alloc|unable to allocate", OutOfMemoryError, "give it more memory"),
    Symptom("no space left|disk quota", ResourceError, "free some disk space"),
    Symptom("ImportError|ModuleNotFoundError|cannot open shared object", EngineNotFoundError, "install it"),
)


def of_words(text: str) -> CampaignError:
    """Error of the class that the words of a calculator mean."""
    found = explain(_PROGRAM, (text, Location(Path(LOG))), 1, Path(LOG), _SYMPTOMS)
    return type(found)(found.message, hint=found.hint)


def read_failure(directory: Path, returncode: int) -> CampaignError:
    """Error of the right class for a process that failed; a signal lets it say nothing."""
    try:
        failure: Mapping[str, Any] = json.loads((directory / FAILURE).read_text())
    except FileNotFoundError:
        message = last_line(directory / STDERR) if returncode >= 0 else None
        return explain(_PROGRAM, message, returncode, directory / LOG, _SYMPTOMS)
    kind: type[CampaignError] = getattr(errors, failure["class"])
    where = failure["where"] or Location(directory / LOG)
    return kind(failure["message"], where=where, hint=failure["hint"])
