"""Committed stages as the disk has them: whole, damaged, gone, or without their restart file.

The site's clean-up and `campaign gc` take files away behind the ledger's back; here stands what that means.
"""

import contextlib
import functools
import json
import os
import re
import shutil
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from campaign.engines.base import get_engine
from campaign.errors import SpecError
from campaign.execution.commit import (
    MANIFEST,
    MANIFEST_FORMAT,
    is_committed,
    read_manifest,
    sha256,
)
from campaign.layout import Layout, sync_filesystem
from campaign.quantities import digest
from campaign.runs import Plan, StageTable

SYNC_EVERY = 500
"""Stages that share one sync of the file system when something of them is removed."""

_STAGE_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class StageOnDisk:
    """A stage's directory.

    Attributes
    ----------
    problem
        What is wrong with it, in one line; empty if it is whole.
    foreign
        It is of another version of campaign: not damaged, and not to be touched.
    """

    stage_id: str
    manifest: dict[str, Any] = field(repr=False)
    problem: str = ""
    foreign: bool = False


def stages_on_disk(layout: Layout) -> list[str]:
    """Ids of all stages that have a directory, whatever is in it."""
    found = []
    if layout.stages.exists():
        for group in os.scandir(layout.stages):
            if group.is_dir():
                found += [
                    entry.name
                    for entry in os.scandir(group)
                    if _STAGE_ID.fullmatch(entry.name) and entry.name.startswith(group.name)
                ]
    return sorted(found)


def examine_stage(layout: Layout, stage_id: str, *, hashes: bool) -> StageOnDisk:
    """Compare a stage's directory with its manifest.

    Parameters
    ----------
    layout, stage_id
        Where it is.
    hashes
        Read all files for their hashes, and compare the manifest's identity with the stage's id; otherwise
        only names and sizes are looked at.
    """
    directory = layout.stage(stage_id)
    try:
        manifest = json.loads((directory / MANIFEST).read_bytes())
    except FileNotFoundError:
        return StageOnDisk(stage_id, {}, "it has no manifest")
    except (OSError, ValueError, RecursionError):
        return StageOnDisk(stage_id, {}, "its manifest cannot be read")
    if not isinstance(manifest, dict) or "format" not in manifest:
        return StageOnDisk(stage_id, {}, "its manifest cannot be read")
    if manifest["format"] != MANIFEST_FORMAT:
        problem = f"its manifest has format {manifest['format']}, which is unknown to this version"
        return StageOnDisk(stage_id, manifest, problem, foreign=True)
    try:
        problem = _problem(directory, manifest, hashes=hashes)
    except (KeyError, TypeError, AttributeError):
        problem = "its manifest is not complete"
    except OSError as error:
        problem = f"it cannot be read: {error.strerror or error}"
    return StageOnDisk(stage_id, manifest, problem)


def _problem(directory: Path, manifest: dict[str, Any], *, hashes: bool) -> str:
    if manifest["stage"] != directory.name:
        return f"its manifest is that of stage {manifest['stage']}"
    if hashes and digest(manifest["identity"]) != directory.name:
        return "its identity is not the one of its id"
    for name, file in manifest["files"].items():
        path = directory / name
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            return f"{name} is missing"
        if size != file["size"] or (hashes and sha256(path) != file["sha256"]):
            return f"{name} was changed"
    return ""


def state_file(engine: str) -> str | None:
    """Name of an engine's restart file; None if the engine is not installed here."""
    try:
        return _state_file(engine)
    except SpecError:
        return None


@functools.cache
def _state_file(engine: str) -> str:
    return get_engine(engine).state_file  # looking through entry points takes milliseconds


def has_state(layout: Layout, stage_id: str, engine: str | None) -> bool:
    """Whether an engine could go on from a committed stage: its restart file is there.

    True for stages without an engine, which have none. One look, no reading.
    """
    name = None if engine is None else state_file(engine)
    return name is None or (layout.stage(stage_id) / name).exists()


def unread_results(layout: Layout, plan: Plan) -> list[str]:
    """Find the results of the plan that the store lacks, in the order of the plan.

    Raises
    ------
    StoreError
        The store cannot be read.
    """
    from campaign.store import read_tables  # takes a second

    tables = read_tables(layout.store)
    found: dict[str, None] = {}
    for calculation in plan.calculations:
        table = tables.get(calculation.name)
        stored = set() if table is None else set(table.stage_ids())
        found |= dict.fromkeys(
            stage_id for stage_id in calculation.runs.result_stages if stage_id not in stored
        )
    return list(found)


def lost_stages(layout: Layout, stages: StageTable, done: Container[str], unread: Iterable[str]) -> list[str]:
    """Find done stages that have to be made again.

    Only those are looked for that are still to be read: results that the store lacks, and what stages need
    that are not done. They are lost if they are gone from the disk, or if a stage of an engine is to go on
    from one whose restart file is gone. Resuming a finished campaign looks at no directory.

    Parameters
    ----------
    layout, stages
        The campaign and the stages of its plan.
    done
        Ids of the stages that the ledger calls done.
    unread
        Ids of the results that the store lacks.
    """
    read = set(unread)
    continued: set[str] = set()
    lost = []
    for stage_id in reversed(stages.ids):  # what a stage needs comes before it in the plan
        finished = stage_id in done
        if finished and stage_id in read:
            gone = not is_committed(layout, stage_id)
            if gone or (stage_id in continued and not has_state(layout, stage_id, stages[stage_id].engine)):
                lost.append(stage_id)
                finished = False
        if not finished:
            stage = stages[stage_id]
            read.update(stage.needs)
            if stage.engine is not None:
                continued.update(stage.needs)
    return lost


def remove(layout: Layout, paths: Sequence[Path]) -> None:
    """Remove directories that others read, so that nobody ever sees a part of one.

    They go among the attempts by one rename first, where a part that a kill left is a leftover like others.
    This also clears the way for a stage that is made again: a commit does not replace a directory.
    """
    layout.attempts.mkdir(exist_ok=True)
    for batch in _batches(paths):
        renamed = []
        for path in batch:
            aside = layout.attempts / f"removed-{path.name}-{os.urandom(3).hex()}"
            with contextlib.suppress(FileNotFoundError):
                path.rename(aside)
                renamed.append(aside)
        sync_filesystem(layout.attempts)
        for aside in renamed:
            shutil.rmtree(aside)


def drop_states(layout: Layout, paths: Sequence[Path]) -> None:
    """Remove restart files of committed stages; their manifests tell so before.

    A file goes from its manifest's ``files`` to ``dropped``.
    """
    layout.attempts.mkdir(exist_ok=True)
    for batch in _batches(paths):
        written = {}
        for path in batch:
            manifest = read_manifest(path.parent)
            if path.name in manifest["files"]:
                dropped = {**manifest.get("dropped", {}), path.name: manifest["files"].pop(path.name)}
                # Written among the attempts: a stage's directory never holds a temporary file.
                aside = written[path] = layout.attempts / f"manifest-{path.parent.name}"
                aside.write_text(json.dumps({**manifest, "dropped": dropped}, indent=1, allow_nan=False))
        sync_filesystem(layout.attempts)
        for path, aside in written.items():
            aside.replace(path.parent / MANIFEST)
        sync_filesystem(layout.attempts)
        for path in batch:
            path.unlink(missing_ok=True)


def _batches(paths: Sequence[Path]) -> Iterator[Sequence[Path]]:
    """Cut into parts that share one sync of the file system: it costs milliseconds, and there may be 10^5."""
    return (paths[start : start + SYNC_EVERY] for start in range(0, len(paths), SYNC_EVERY))
