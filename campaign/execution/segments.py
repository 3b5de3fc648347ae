"""A long stage as a chain of segments: one engine process each, committed by rename, joined at the end.

Whatever ends an attempt, the next one goes on from the last committed segment. The last segment is committed
with its stage, so a stage that is short has none of its own.

A segment's length never decides what a stage is: it is as long as the measured speed makes in some minutes.
Where no speed is known yet, the process is asked to end after a while, and that piece measures it.
"""

import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from campaign.engines.base import Command, Engine, Segment, Simulation, Workload
from campaign.engines.segments import join_segments
from campaign.errors import (
    CancelledAttemptError,
    LedgerError,
    PhysicsError,
    ResourceError,
    TransientError,
    WalltimeError,
)
from campaign.execution.commit import commit_directory, is_committed, read_manifest, verify
from campaign.execution.process import run_process
from campaign.layout import Layout
from campaign.ledger import Ending
from campaign.potentials import file_hashes, get_potential
from campaign.protocols.base import Stage, read_result, write_result

if TYPE_CHECKING:
    import xarray as xr

logger = logging.getLogger(__name__)

WORK = "segment"
"""Directory of the process of a segment, in its attempt's directory."""

SEGMENT_S = 300.0
"""Time that a segment takes, and so the most that is lost of a run when a machine dies."""

PILOT_S = 30.0
"""Time after which the first piece of a stage ends whose speed nobody has measured."""

_LAST_MAY_BE_LONGER = 1.5
MIN_SEGMENT_S = 2.0
"""With less time than this before the end of a job no segment is begun."""

_OVERDUE = 2.0
"""Factor by which a segment may take longer than planned before it is asked to end."""

_STATES_KEPT = 2


@dataclass(frozen=True)
class _Pace:
    """Speed of an engine in atom-step/s, and the s that its process takes besides, to start and to write."""

    rate: float
    besides_s: float = 0.0

    def of(self, segment_s: float) -> float:
        """Length of a segment in s: ``segment_s``, but at least half of it computes."""
        return max(segment_s, 2 * self.besides_s)

    def atom_steps(self, wall_s: float) -> float:
        """Atom-steps of a segment that takes ``wall_s``."""
        return self.rate * max(0.0, wall_s - self.besides_s)


@dataclass(frozen=True)
class CommittedSegment:
    """A committed segment: MD steps ``first`` to ``last`` of its stage."""

    directory: Path
    number: int
    first: int
    last: int
    attempt: str
    wall_s: float
    manifest: Mapping[str, Any]

    @classmethod
    def read(cls, directory: Path) -> "CommittedSegment":
        """Read a segment's manifest.

        Raises
        ------
        LedgerError
            There is none, or it is not that of a segment.
        """
        manifest = read_manifest(directory)
        try:
            return cls(
                directory,
                int(manifest["number"]),
                int(manifest["first"]),
                int(manifest["last"]),
                str(manifest["attempt"]),
                float(manifest["wall_s"]),
                manifest,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise LedgerError(f"not the manifest of a segment: {error}", where=str(directory)) from error


def committed_segments(layout: Layout, stage_id: str, *, after: int = 0) -> list[CommittedSegment]:
    """Segments of a stage that follow each other from its start; only their manifests are read.

    With ``after`` only those that follow the one of this number, whatever is before it.
    """
    chain: list[CommittedSegment] = []
    while True:
        directory = layout.segments_of(stage_id) / f"{after + len(chain) + 1:04d}"
        if not directory.is_dir():
            return chain
        try:
            segment = CommittedSegment.read(directory)
        except LedgerError:
            return chain
        first = chain[-1].last if chain else segment.first if after else 0
        if segment.first != first:
            return chain
        chain.append(segment)


def steps_of_unfinished(layout: Layout) -> dict[str, int]:
    """MD steps that are committed of each stage that is not, by stage id."""
    chains = {path.name: committed_segments(layout, path.name) for path in layout.segments.glob("??/*")}
    return {stage_id: chain[-1].last for stage_id, chain in chains.items() if chain}


def usable_segments(layout: Layout, stage_id: str, state_file: str) -> list[CommittedSegment]:
    """Segments from which a stage can go on: all are whole, and the last one has its state.

    Those that cannot be used are removed: their place is needed.
    """
    directory = layout.segments_of(stage_id)
    # Another attempt may commit one meanwhile: what is not here yet is not looked at.
    there = sorted(directory.iterdir(), reverse=True) if directory.is_dir() else []
    chain = committed_segments(layout, stage_id)
    for position, segment in enumerate(chain):
        if not _is_whole(segment, without=state_file):
            del chain[position:]
            break
    while chain and not _is_whole(chain[-1]):
        chain.pop()
    used = {segment.directory.name for segment in chain}
    for path in there:
        if path.name not in used:
            logger.warning("segment %s of stage %s is not whole and is made again", path.name, stage_id)
            shutil.rmtree(path)
    return chain


def damaged_segments(layout: Layout, *, hashes: bool) -> tuple[int, int, list[str]]:
    """Count the stages that have segments, and those, and find what is wrong with any; nothing is changed.

    With ``hashes`` all files are read, otherwise their names and sizes are compared.
    """
    stages = sorted({path.parent for path in layout.segments.glob("??/*/*")})
    segments, wrong = 0, []
    for stage in stages:
        directories = sorted(stage.iterdir())
        segments += len(directories)
        for position, directory in enumerate(directories):
            try:
                segment = CommittedSegment.read(directory)
                # Only the last ones keep their state.
                dropped = () if position >= len(directories) - _STATES_KEPT else segment.manifest["files"]
                state = next((name for name in dropped if not (directory / name).exists()), None)
                verify(directory, without=state, hashes=hashes)
            except LedgerError as error:
                if directory.is_dir():  # else its stage was committed meanwhile
                    wrong.append(str(error))
    return len(stages), segments, wrong


def work_of(layout: Layout, stage_id: str, attempt_id: str) -> Ending:
    """Tell what one attempt committed of a stage: by its segments or, where it is finished, its manifest."""
    if is_committed(layout, stage_id):
        try:
            return _work_in(read_manifest(layout.stage(stage_id)), attempt_id)
        except LedgerError:  # damaged; that is told where the stage is needed
            return Ending()
    return work_in(committed_segments(layout, stage_id), attempt_id, Ending())


def work_in(segments: Sequence[CommittedSegment], attempt_id: str, before: Ending) -> Ending:
    """Add up what one attempt committed among segments, besides what it did ``before``."""
    own = [segment for segment in segments if segment.attempt == attempt_id]
    return Ending(
        wall_s=(before.wall_s or 0.0) + sum(segment.wall_s for segment in own),
        segments=before.segments + len(own),
        steps=before.steps + sum(segment.last - segment.first for segment in own),
    )


def _work_in(manifest: Mapping[str, Any], attempt_id: str) -> Ending:
    if manifest.get("attempt") != attempt_id:  # a copy committed it
        return Ending()
    own = [one for one in manifest.get("segments", ()) if one["attempt"] == attempt_id]
    return Ending(
        started=manifest.get("started"),
        finished=manifest.get("finished"),
        host=manifest.get("host"),
        wall_s=sum(one["wall_s"] for one in own) if own else manifest.get("wall_s"),
        segments=len(own),
        steps=sum(one["last"] - one["first"] for one in own),
    )


def discard_segments(layout: Layout, stage_id: str) -> None:
    """Remove all segments of a stage, the last one first: what remains after a crash is a shorter chain."""
    directory = layout.segments_of(stage_id)
    if directory.is_dir():
        for path in sorted(directory.iterdir(), reverse=True):
            shutil.rmtree(path, ignore_errors=True)
        shutil.rmtree(directory, ignore_errors=True)


@dataclass(frozen=True)
class SegmentRunner:
    """Computes what is missing of a stage, segment by segment.

    Attributes
    ----------
    layout, stage, attempt_id
        What is computed, by whom.
    engine
        Its engine.
    inputs
        Files of the stages that it needs, by role.
    directory
        Directory of the attempt.
    threads
        Threads of the engine.
    timeout_without_output_s
        How long the engine may write nothing.
    segment_s
        Time that a segment takes.
    rate
        Measured speed in atom-step/s, or None.
    should_stop
        Whether the attempt was asked to end.
    seconds_left
        Time until the job ends in which this runs.
    """

    layout: Layout
    stage: Stage
    attempt_id: str
    engine: Engine
    inputs: Mapping[str, Path]
    directory: Path
    threads: int
    timeout_without_output_s: float
    segment_s: float
    rate: float | None
    should_stop: Callable[[], bool]
    seconds_left: Callable[[], float]

    def run(self, staging: Path) -> dict[str, Any]:
        """Compute the stage to its end and fill ``staging``; return facts for its manifest.

        Raises
        ------
        CancelledAttemptError
            It was asked to stop; what it had computed is committed as a segment.
        WalltimeError
            Its job is about to end; what it had computed is committed as a segment.
        CampaignError
            A segment failed; those before it are committed.
        """
        chain = usable_segments(self.layout, self.stage.id, self.engine.state_file)
        pace = None if self.rate is None else _Pace(self.rate)
        while True:
            segment = self._next(chain, pace)
            if self.should_stop():
                raise CancelledAttemptError("asked to stop", where=self._position(segment.first))
            if self.seconds_left() < MIN_SEGMENT_S:
                raise WalltimeError("the job is about to end", where=self._position(segment.first))
            work = self.directory / WORK
            work.mkdir()
            facts, measured = self._compute(segment, chain, work, pace)
            pace, reached = measured or pace, facts["last"]
            if reached >= self.stage.steps:
                return self._assemble(chain, work, facts, staging)
            if reached > segment.first:
                chain = self._commit(segment, work, facts, chain)
                self._drop_old_state(chain)
            else:
                shutil.rmtree(work)
            if self.should_stop():
                raise CancelledAttemptError("asked to stop", where=self._position(reached))

    def _position(self, step: int) -> str:
        return f"MD step {step} of {self.stage.steps}"

    def _next(self, chain: list[CommittedSegment], pace: _Pace | None) -> Segment:
        first, number, carried = 0, 1, {}
        if chain:
            first, number, carried = chain[-1].last, chain[-1].number + 1, chain[-1].manifest["carried"]
        last = self.stage.steps
        if pace is not None:
            seconds = min(pace.of(self.segment_s), self.seconds_left())
            planned = max(1, round(pace.atom_steps(seconds) / max(1, self.stage.atoms)))
            if last - first > _LAST_MAY_BE_LONGER * planned:
                last = min(last, self.engine.segment_end(self._simulation, first + planned))
        return Segment(number, first, last, carried)

    @property
    def _simulation(self) -> Simulation:
        if not isinstance(self.stage.settings, Simulation):
            msg = f"a stage of engine {self.stage.engine} needs a Simulation as settings"
            raise TypeError(msg)
        return self.stage.settings

    def _check_files(self) -> None:
        """Check that the potential is that of the stage's identity: its files lie outside the campaign."""
        if not self.stage.files:
            return
        found = file_hashes(get_potential(self._simulation.potential))
        changed = [name for name, sha256 in self.stage.files.items() if found.get(name) != sha256]
        if changed:
            raise ResourceError(
                f"{', '.join(changed)} of {self._simulation.potential} changed since the plan was made",
                hint="put the old file back, or plan with the new one: `campaign run` does",
            )

    def _compute(
        self, segment: Segment, chain: list[CommittedSegment], work: Path, pace: _Pace | None
    ) -> tuple[dict[str, Any], _Pace | None]:
        """Run the process of a segment; what is to be kept of it lies in ``work/commit`` then."""
        if self.stage.random_seed is None:
            msg = f"a stage of engine {self.stage.engine} needs a replica"
            raise TypeError(msg)
        self._check_files()
        inputs = dict(self.inputs)
        if chain:
            inputs["state"] = chain[-1].directory / self.engine.state_file
        workload = Workload(self._simulation, self.stage.random_seed, inputs, segment, self.threads)
        command = self.engine.prepare(workload, work)
        clock = time.monotonic()
        returncode = run_process(
            command,
            work,
            threads=self.threads,
            timeout_without_output_s=self.timeout_without_output_s,
            should_stop=self.should_stop,
            should_end=self._end_of(
                segment, work, PILOT_S if pace is None else _OVERDUE * pace.of(self.segment_s)
            ),
        )
        engine_wall_s = time.monotonic() - clock
        if returncode != 0:
            raise self.engine.diagnose(work, returncode)
        output = self.engine.collect(work)
        _require_finite(output.dataset, self.stage)
        measured = self._pace_of(work, output.last - segment.first, engine_wall_s)
        self._keep(command, output.dataset, work)
        facts = {
            "number": segment.number,
            "first": segment.first,
            "last": output.last,
            "carried": dict(output.carried),
            "command": [Path(command.argv[0]).name, *command.argv[1:]],
            "engine_wall_s": engine_wall_s,
            "wall_s": time.monotonic() - clock,
        }
        return facts, measured

    def _pace_of(self, work: Path, steps: int, wall_s: float) -> _Pace | None:
        """Pace of a process that made ``steps`` MD steps in ``wall_s``; None if it made none."""
        if steps == 0:
            return None
        atom_steps = self.stage.atoms * steps
        progress = self.engine.progress(work)
        rate = max((progress and progress.rate) or 0.0, atom_steps / max(wall_s, 1e-9))
        return _Pace(rate, wall_s - atom_steps / rate)

    def _end_of(self, segment: Segment, work: Path, soft_s: float) -> Callable[[], bool]:
        """When a segment should end: ``soft_s`` after its start, once it has moved; or with its job.

        A process that is asked to end before its first MD step has nothing to go on from, and to minimise a
        large structure alone takes longer than a pilot.
        """
        began = time.monotonic()
        hard_s = max(1.0, self.seconds_left())

        def should_end() -> bool:
            took_s = time.monotonic() - began
            if took_s > hard_s:
                return True
            progress = self.engine.progress(work) if took_s > soft_s else None
            return progress is not None and progress.steps_done > segment.first

        return should_end

    def _keep(self, command: Command, dataset: "xr.Dataset", work: Path) -> None:
        kept = work / "commit"
        kept.mkdir()
        write_result(dataset, kept)
        for name in (*command.keep, self.engine.state_file):
            if not (work / name).exists():
                raise TransientError(
                    f"the engine {self.stage.engine} ended well but left no {name}", where=str(work)
                )
            (work / name).rename(kept / name)

    def _commit(
        self, segment: Segment, work: Path, facts: Mapping[str, Any], chain: list[CommittedSegment]
    ) -> list[CommittedSegment]:
        """Commit a segment; return the chain with it, or that of another attempt which was faster.

        Raises
        ------
        TransientError
            The other one has even finished the stage.
        """
        target = self.layout.segments_of(self.stage.id) / f"{segment.number:04d}"
        manifest = {**facts, "stage": self.stage.id, "kind": "segment"}
        if not commit_directory(work / "commit", target, self.layout, self.attempt_id, manifest):
            # On a node that was cut off, say. It went on from the same state, with the same random numbers.
            logger.warning("another attempt committed segment %d of stage %s", segment.number, self.stage.id)
            shutil.rmtree(work)
            if is_committed(self.layout, self.stage.id):
                raise TransientError(
                    "another attempt finished this stage", where=self._position(segment.last)
                )
            return usable_segments(self.layout, self.stage.id, self.engine.state_file)
        shutil.rmtree(work)
        return [*chain, CommittedSegment.read(target)]

    def _drop_old_state(self, chain: list[CommittedSegment]) -> None:
        """Keep the states of the last segments only: two, in case that the last one is damaged."""
        for segment in chain[:-_STATES_KEPT]:
            (segment.directory / self.engine.state_file).unlink(missing_ok=True)

    def _assemble(
        self, chain: list[CommittedSegment], work: Path, facts: Mapping[str, Any], staging: Path
    ) -> dict[str, Any]:
        """Join all segments into what the stage commits."""
        last = work / "commit"
        directories = [*(segment.directory for segment in chain), last]
        dataset = join_segments([read_result(directory) for directory in directories])
        write_result(dataset, staging)
        for path in sorted(last.iterdir()):
            if path.name == self.engine.state_file:
                if self.stage.keeps_state:
                    path.rename(staging / path.name)
            elif path.name != "result.nc":
                _concatenate([directory / path.name for directory in directories], staging / path.name)
        told = [*(segment.manifest for segment in chain), {**facts, "attempt": self.attempt_id}]
        return {
            "command": facts["command"],
            "engine_wall_s": sum(one["engine_wall_s"] for one in told),
            "segments": [
                {key: one[key] for key in ("first", "last", "attempt", "wall_s", "engine_wall_s")}
                for one in told
            ],
        }


def _concatenate(parts: list[Path], target: Path) -> None:
    """Join the texts (inputs, logs) of a stage's segments."""
    if len(parts) == 1:
        parts[0].rename(target)
        return
    with target.open("wb") as file:
        for number, part in enumerate(parts, start=1):
            file.write(f"# segment {number} of {len(parts)}\n".encode())
            file.write(part.read_bytes())


def _is_whole(segment: CommittedSegment, without: str | None = None) -> bool:
    try:
        verify(segment.directory, without=without)
    except LedgerError as error:
        logger.warning("%s", error)
        return False
    return True


def _require_finite(dataset: "xr.Dataset", stage: Stage) -> None:
    for name, variable in dataset.variables.items():
        if np.issubdtype(variable.dtype, np.floating) and not np.isfinite(variable.values).all():
            raise PhysicsError(
                f"{name} is not finite", where=f"stage {stage.id}", hint="try a smaller timestep"
            )
