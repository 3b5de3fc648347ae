"""What nothing in a campaign's directory needs any more: found, with what it would cost again, and removed.

Every group can go without harm to a result. A kill in the middle of a removal leaves the campaign consistent:
what others read goes by one rename, and a manifest tells that a restart file is dropped before it is.
"""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from campaign.compare import speed_of
from campaign.errors import LedgerError
from campaign.execution.commit import MANIFEST, is_committed, read_manifest
from campaign.execution.disk import drop_states, has_state, remove, stages_on_disk, state_file
from campaign.execution.lock import DriverLock, current_holder
from campaign.execution.rebuild import BUILDING, SET_ASIDE
from campaign.layout import Layout
from campaign.ledger import Ledger, State
from campaign.plan_file import load_plan
from campaign.runs import Plan

GROUPS: Mapping[str, str] = {
    "stages": "committed stages that no run of the plan uses",
    "restarts": "restart files of finished stages, from which nothing unfinished starts",
    "segments": "segments of finished stages, and of stages that no run uses",
    "failed": "directories and segments of failed stages: `why` shows them, a retry goes on from them",
    "leftovers": "directories of attempts that ended or died",
    "remains": "what a clean-up of the disk left of stages whose manifest is gone",
    "set-aside": "what `campaign rebuild` replaced",
    "temporary": "files that a killed process was writing",
}
"""Names of the groups, and what they hold."""

_TEMPORARY = re.compile(r"\..+\.(\d+)")  # as `write_atomic` names them; the number is the process


@dataclass
class Group:
    """Things of one sort that can go.

    Attributes
    ----------
    name
        One of `GROUPS`.
    items
        Directories or files; of ``restarts`` the restart files.
    files, size
        Number of files, and bytes.
    core_hours
        What it would cost to compute again; None if it is not known.
    """

    name: str
    items: list[Path] = field(default_factory=list)
    files: int = 0
    size: int = 0
    core_hours: float | None = 0.0

    def add(self, path: Path, core_hours: float | None = 0.0) -> None:
        """Add a file or a directory with all that is in it."""
        for file in _files(path):
            with contextlib.suppress(FileNotFoundError):  # a campaign at work moves and removes files
                self.size += file.stat(follow_symlinks=False).st_size
                self.files += 1
        self.items.append(path)
        both = (self.core_hours, core_hours)
        self.core_hours = None if None in both else sum(hours for hours in both if hours is not None)


def find_garbage(layout: Layout, names: Iterable[str] = GROUPS) -> list[Group]:
    """Find what can go, by group; nothing is changed.

    Parameters
    ----------
    layout
        The campaign.
    names
        The groups to look for.

    Raises
    ------
    LedgerError
        The plan or the ledger cannot be read.
    """
    return [group for group in _Search(layout).groups(set(names)) if group.items]


def collect_garbage(layout: Layout, names: Iterable[str] = GROUPS) -> list[Group]:
    """Remove what can go, and say what it was.

    Raises
    ------
    BusyError
        A driver holds the campaign; nothing was removed.
    LedgerError
        The plan or the ledger cannot be used; nothing was removed.
    """
    with ExitStack() as stack:
        holder = stack.enter_context(DriverLock(layout.lock))
        if not layout.ledger.exists():
            raise no_ledger(layout)
        ledger = stack.enter_context(Ledger.open(layout))
        ledger.acquire(holder)
        stack.callback(ledger.release)
        groups = find_garbage(layout, names)
        for group in groups:
            _remove(layout, group)
        with ledger.transaction():
            ledger.forget(_gone(layout, ledger.states()))
    return groups


def no_ledger(layout: Layout) -> LedgerError:
    """Error for a campaign without a ledger."""
    return LedgerError("no ledger here", where=str(layout.ledger), hint="`campaign rebuild` makes it again")


def _remove(layout: Layout, group: Group) -> None:
    """Remove a group; what others read goes by one rename."""
    if group.name == "restarts":
        drop_states(layout, group.items)
        return
    hidden = [path for path in group.items if path.is_relative_to(layout.stages)]
    hidden += [path for path in group.items if path.is_relative_to(layout.segments)]
    remove(layout, hidden)
    for path in sorted(set(group.items).difference(hidden)):
        _delete(path)


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _gone(layout: Layout, states: Mapping[str, State]) -> Iterator[str]:
    """Done stages that no run uses and that are gone, also those of a collection that was killed."""
    plan = load_plan(layout.plan)
    there = set(stages_on_disk(layout))
    for stage_id, state in states.items():
        if state == "done" and stage_id not in there and stage_id not in plan.stages:
            yield stage_id


class _Search:
    """One look at a campaign's directory."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._plan: Plan = load_plan(layout.plan)
        if not layout.ledger.exists():
            raise no_ledger(layout)
        # Before their states: what a driver begins after this look is nobody's leftover.
        self._attempted = sorted(_entries(layout.attempts))
        with Ledger.open(layout, read_only=True) as ledger:
            self._states = ledger.states()
            self._speeds = ledger.speeds()
        holder = current_holder(layout.lock)
        self._alive = holder is not None and holder.pid != os.getpid()
        self._there = set(stages_on_disk(layout))
        self._committed = {stage_id for stage_id in self._there if is_committed(layout, stage_id)}

    def groups(self, names: set[str]) -> Iterator[Group]:
        """Yield the groups of these names, empty ones too."""
        searches: Mapping[str, Callable[[Group], None]] = {
            "stages": self._stages,
            "restarts": self._restarts,
            "segments": partial(self._segments, failed=False),
            "failed": self._failed,
            "leftovers": partial(self._attempts, failed=False),
            "remains": self._remains,
            "set-aside": self._set_aside,
            "temporary": self._temporary,
        }
        for name in GROUPS:
            if name in names:
                group = Group(name)
                searches[name](group)
                yield group

    def _stages(self, group: Group) -> None:
        for stage_id in sorted(self._committed):
            if stage_id not in self._plan.stages:
                path = self._layout.stage(stage_id)
                try:
                    group.add(path, _core_hours(read_manifest(path)))
                except LedgerError:  # of another version, or damaged: not ours to judge
                    continue

    def _restarts(self, group: Group) -> None:
        stages = self._plan.stages
        kept = {item for calculation in self._plan.calculations for item in calculation.runs.result_stages}
        for stage_id in stages:
            if stage_id not in self._committed or self._states.get(stage_id) != "done":
                kept.update(stages[stage_id].needs)
        names = {engine: state_file(engine) for engine in self._engines()}
        for stage_id in stages:
            stage = stages[stage_id]
            name = names.get(stage.engine or "")
            if name is None or stage_id in kept or stage_id not in self._committed:
                continue
            if has_state(self._layout, stage_id, stage.engine):
                speed, _ = speed_of((stage.engine or "", stage.potential), self._speeds)
                hours = None if speed is None else stage.atoms * stage.steps / speed / 3600
                group.add(self._layout.stage(stage_id) / name, hours)

    def _engines(self) -> set[str]:
        return {common.engine for common in self._plan.stages.classes if common.engine}

    def _segments(self, group: Group, *, failed: bool) -> None:
        for path in sorted(self._layout.segments.glob("??/*")):
            stage_id = path.name
            useless = stage_id in self._committed or stage_id not in self._plan.stages
            if useless if not failed else not useless and self._states.get(stage_id) == "failed":
                hours = 0.0 if stage_id in self._committed else _segment_hours(path)
                group.add(path, hours)

    def _failed(self, group: Group) -> None:
        self._attempts(group, failed=True)
        self._segments(group, failed=True)

    def _attempts(self, group: Group, *, failed: bool) -> None:
        # An attempt's name starts with the first digits of its stage.
        states = {stage_id[:16]: state for stage_id, state in self._states.items() if state in _NOT_OVER}
        for path in self._attempted:
            state = states.get(path.name.split("-")[0])
            if self._alive and (state == "running" or path.name.startswith("manifest-")):
                continue
            if failed == (state == "failed"):
                group.add(path)

    def _remains(self, group: Group) -> None:
        for stage_id in sorted(self._there - self._committed):
            group.add(self._layout.stage(stage_id))

    def _set_aside(self, group: Group) -> None:
        for path in sorted(_entries(self._layout.root / SET_ASIDE)):
            group.add(path)

    def _temporary(self, group: Group) -> None:
        building = self._layout.root / BUILDING
        if building.exists() and not self._alive:
            group.add(building)
        places = [
            *_entries(self._layout.root),
            *_entries(self._layout.requests),
            *self._layout.store.rglob("*"),
        ]
        for path in sorted(places):
            name = _TEMPORARY.fullmatch(path.name)
            if name is not None and path.is_file() and not _is_alive(int(name[1])):
                group.add(path)


_NOT_OVER = frozenset({"failed", "running"})


def _entries(directory: Path) -> Sequence[Path]:
    return list(directory.iterdir()) if directory.exists() else []


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for folder, _, names in os.walk(path):
        for name in names:
            yield Path(folder, name)


def _core_hours(manifest: Mapping[str, Any]) -> float | None:
    wall_s = manifest.get("wall_s")
    return None if wall_s is None else wall_s * manifest.get("threads", 1) / 3600


def _segment_hours(directory: Path) -> float | None:
    """Core-hours in a chain of segments."""
    total = 0.0
    for path in directory.glob(f"*/{MANIFEST}"):
        try:
            hours = _core_hours(json.loads(path.read_bytes()))
        except (OSError, ValueError):
            return None
        if hours is None:
            return None
        total += hours
    return total


def _is_alive(pid: int) -> bool:
    return Path("/proc", str(pid)).exists()
