"""Ledger and store made again from the plan and the committed stages.

Both are made beside their place and moved there when they are complete; the old ones are set aside, never
deleted. A kill leaves the old ones, the new ones, or a campaign that lacks one of them: then a second rebuild
finishes, and so does ``campaign run``, which finds every committed stage anyway.
"""

import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from campaign.errors import BusyError, LedgerError, ResourceError, StoreError
from campaign.execution.commit import manifest_sha256
from campaign.execution.disk import StageOnDisk, examine_stage, stages_on_disk
from campaign.execution.lock import DriverLock
from campaign.execution.snapshot import RunBoard, snapshot, write_snapshot
from campaign.layout import Layout, fsync_directory
from campaign.ledger import Ending, Holder, Ledger
from campaign.plan_file import load_plan, save_plan
from campaign.runs import Plan, StageSummary
from campaign.store import Row, Store, read_tables

SET_ASIDE = "set-aside"
"""Directory of what rebuilds replaced, one folder for each; `campaign gc` removes it."""

BUILDING = ".rebuild"
"""Directory in which ledger and store are made."""

OnStage = Callable[[str, int, int], None]
"""Told how far it is: what is done, how many of them, of how many."""


@dataclass(frozen=True)
class Rebuilt:
    """What a rebuild found and made.

    Attributes
    ----------
    counts
        Runs by state for each calculation.
    whole
        Committed stages that are whole.
    unplanned
        How many of them no run of the plan uses.
    damaged
        Damaged stages with what is wrong; their directories were set aside, and they are pending.
    foreign
        Stages of another version of campaign; they were left alone.
    kept_results
        Results that only the old store has, whose stages are gone: for them it was kept and completed.
    aside
        Where the old ledger, store and damaged stages are; None if there was nothing to be kept.
    """

    counts: Mapping[str, Mapping[str, int]]
    whole: int
    unplanned: int
    damaged: Mapping[str, str]
    foreign: Mapping[str, str]
    kept_results: int
    aside: Path | None


def rebuild(layout: Layout, *, on_stage: OnStage | None = None) -> Rebuilt:
    """Make ledger and store of a campaign again; only the history of failed attempts is lost.

    Every file of every stage is compared with its hash.

    Raises
    ------
    BusyError
        A driver holds the campaign.
    LedgerError
        There is neither a plan nor a spec to make it from.
    """
    tell = on_stage or (lambda *_: None)
    with DriverLock(layout.lock) as holder, _building(layout) as building:
        _take_over(layout, holder)
        place = _Aside(layout)
        plan = _plan(layout, place)
        found = _examine(layout, tell)
        whole = {item.stage_id: item.manifest for item in found if not item.problem}
        damaged = {item.stage_id: item.problem for item in found if item.problem and not item.foreign}
        foreign = {item.stage_id: item.problem for item in found if item.foreign}
        only_stored = _only_stored(layout, plan, whole)
        done = _done(plan, whole, only_stored)

        ledger_epoch = _make_ledger(building, holder, plan, whole, done)
        _fill_store(layout if only_stored else building, layout, plan, whole, tell)

        for stage_id in damaged:
            place.take(layout.stage(stage_id))
        place.replace(building.ledger, layout.ledger, layout.ledger.with_name("ledger.sqlite-journal"))
        if not only_stored:
            place.replace(building.store, layout.store)
        board = RunBoard(plan, {item: "done" if item in done else "pending" for item in plan.stages})
        _show(layout, plan, board, holder, ledger_epoch)
    return Rebuilt(
        counts=board.counts(),
        whole=len(whole),
        unplanned=sum(stage_id not in plan.stages for stage_id in whole),
        damaged=damaged,
        foreign=foreign,
        kept_results=len(only_stored),
        aside=place.directory if place.directory.exists() else None,
    )


@contextmanager
def _building(layout: Layout) -> Iterator[Layout]:
    building = Layout(layout.root / BUILDING)
    if building.root.exists():  # of a rebuild that was killed
        shutil.rmtree(building.root)
    building.root.mkdir()
    try:
        yield building
    finally:
        shutil.rmtree(building.root)


def _take_over(layout: Layout, holder: Holder) -> None:
    """End the lease of the old ledger, if it can still be used; a driver on another host would write on."""
    if not layout.ledger.exists():
        return
    try:
        with Ledger.open(layout) as old:
            old.acquire(holder)
            old.release()
    except BusyError:
        raise
    except (LedgerError, ResourceError, sqlite3.Error):
        return


class _Aside:
    """The folder for what is replaced; made when the first thing goes there."""

    def __init__(self, layout: Layout) -> None:
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        self.directory = layout.root / SET_ASIDE / stamp
        self._root = layout.root

    def take(self, path: Path) -> None:
        """Move something here, under the path that it has in the campaign."""
        if path.exists():
            target = self.directory / path.relative_to(self._root)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)

    def replace(self, new: Path, place: Path, *with_it: Path) -> None:
        """Put what is new to its place, after what is there and the files that belong to it.

        The journal of an old ledger would be played back into a new one.
        """
        self.take(place)
        for path in with_it:
            if path.exists() and path.stat().st_size:
                self.take(path)
        if new.exists():
            new.rename(place)
        fsync_directory(self._root)


def _plan(layout: Layout, place: _Aside) -> Plan:
    """Read the plan; where it is missing or damaged, make it again from the spec as it was last run."""
    try:
        return load_plan(layout.plan)
    except LedgerError:
        if not layout.spec.exists():
            raise
    from campaign.plan import make_plan
    from campaign.spec import load_spec

    plan, _ = make_plan(load_spec(layout.spec), allow_large=True)
    place.take(layout.plan)
    save_plan(plan, layout.plan)
    return plan


def _examine(layout: Layout, tell: OnStage) -> list[StageOnDisk]:
    ids = stages_on_disk(layout)
    found = []
    for number, stage_id in enumerate(ids, start=1):
        found.append(examine_stage(layout, stage_id, hashes=True))
        tell("stages", number, len(ids))
    return found


def _results(plan: Plan) -> Iterator[tuple[str, list[str]]]:
    """Yield the result stages of each calculation, in the order of its runs."""
    for calculation in plan.calculations:
        yield calculation.name, calculation.runs.result_stages


def _only_stored(layout: Layout, plan: Plan, whole: Mapping[str, Any]) -> set[str]:
    """Results of the plan that the old store has, and the disk has no longer."""
    try:
        tables = read_tables(layout.store)
        stored = {name: set(table.stage_ids()) for name, table in tables.items()}
    except StoreError:
        return set()
    return {
        stage_id
        for name, results in _results(plan)
        for stage_id in stored.get(name, set()).intersection(results)
        if stage_id not in whole
    }


def _done(plan: Plan, whole: Mapping[str, Any], only_stored: set[str]) -> set[str]:
    """Find the stages of the plan that are done, with those that are gone and that nobody needs any more."""
    needed = {stage_id for _, results in _results(plan) for stage_id in results}
    done = set()
    for stage_id in reversed(plan.stages.ids):  # what a stage needs comes before it
        if stage_id in whole or stage_id in only_stored or stage_id not in needed:
            done.add(stage_id)
        else:
            needed.update(plan.stages[stage_id].needs)
    return done


def _make_ledger(
    building: Layout, holder: Holder, plan: Plan, whole: Mapping[str, dict[str, Any]], done: set[str]
) -> int:
    with Ledger.open(building) as ledger:
        epoch = ledger.acquire(holder)
        with ledger.transaction():
            ledger.register(plan.stages[stage_id] for stage_id in plan.stages)
            ledger.register(_summary(item, whole[item]) for item in whole if item not in plan.stages)
            ledger.restore(
                (stage_id, *_attempt(whole[stage_id])) if stage_id in whole else (stage_id, None, Ending())
                for stage_id in sorted(done | whole.keys())
            )
        ledger.release()
    return epoch


def _summary(stage_id: str, manifest: dict[str, Any]) -> StageSummary:
    identity = manifest["identity"]
    return StageSummary(
        id=stage_id,
        kind=identity["kind"],
        protocol=identity["protocol"],
        engine=identity["engine"],
        needs=tuple(identity["needs"].values()),
        atoms=manifest.get("atoms", 0),
        steps=manifest.get("steps", 0),
        potential=identity["settings"].get("potential"),
        version=identity["version"],
        files=identity["files"],
    )


def _attempt(manifest: dict[str, Any]) -> tuple[str, Ending]:
    """Attempt that committed a stage: its id and how it ended."""
    ending = Ending(
        started=manifest.get("started"),
        finished=manifest.get("finished"),
        host=manifest.get("host"),
        wall_s=manifest.get("wall_s"),
        segments=len(manifest.get("segments", ())),
        steps=manifest.get("steps", 0),
    )
    return manifest["attempt"], ending


def _fill_store(target: Layout, layout: Layout, plan: Plan, whole: Mapping[str, Any], tell: OnStage) -> None:
    """Append the results of all whole stages of the plan; the store is made with the first one."""
    total = sum(stage_id in whole for _, results in _results(plan) for stage_id in results)
    store, number = None, 0
    for calculation in plan.calculations:
        for position, stage_id in enumerate(calculation.runs.result_stages):
            if stage_id not in whole:
                continue
            if store is None:
                store = Store.open(
                    target.store, campaign=plan.campaign, create=True, spec_sha256=plan.spec_sha256
                )
            path, run = layout.stage(stage_id), calculation.runs[position]
            store.append(calculation.name, [Row(stage_id, manifest_sha256(path), path, run.id, run.labels)])
            number += 1
            tell("results", number, total)
    if store is not None:
        store.flush()


def _show(layout: Layout, plan: Plan, board: RunBoard, holder: Holder, epoch: int) -> None:
    counts = board.counts()
    finished = all(count["done"] == count["total"] for count in counts.values())
    driver = {
        "pid": holder.pid,
        "host": holder.host,
        "epoch": epoch,
        "state": "finished" if finished else "stopped",
    }
    write_snapshot(
        layout,
        snapshot(
            plan.campaign,
            driver=driver,
            started=holder.since,
            board=board,
            running={},
            failed={},
            held={},
            time_left_s=None,
        ),
    )
