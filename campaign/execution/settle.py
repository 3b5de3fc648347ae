"""What a driver does before it starts anything: bring ledger and disk together, apply what was asked for."""

import functools
import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from campaign.errors import FailureClass
from campaign.execution.commit import is_committed
from campaign.execution.disk import lost_stages, remove
from campaign.execution.requests import read_requests
from campaign.execution.segments import discard_segments, work_of
from campaign.layout import Layout
from campaign.ledger import Ledger, State
from campaign.plan import Plan
from campaign.store import read_tables

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settled:
    """What a driver starts from.

    Attributes
    ----------
    states
        State of every stage that the ledger knows.
    again
        Stages of the plan that were failed and are to be tried again.
    unread
        Finished stages whose results the store lacks, in the order of the plan.
    """

    states: Mapping[str, State]
    again: list[str]
    unread: list[str]


def settle_the_past(layout: Layout, plan: Plan, ledger: Ledger) -> Settled:
    """Reconcile what an earlier driver left, apply waiting requests, add new stages."""
    again: list[str] = []
    waiting = read_requests(layout)
    with ledger.transaction():
        settled = ledger.reconcile(
            functools.partial(is_committed, layout), functools.partial(work_of, layout)
        )
        if settled:
            logger.info("an earlier driver left %d stages running: %s", settled.total(), dict(settled))
        for request in waiting:
            if request.kind == "retry":
                wanted = request.payload.get("stages", ())
                again += retry(layout, ledger, wanted)
                ledger.forget(
                    stage_id
                    for stage_id in wanted
                    if ledger.state(stage_id) == "done" and not is_committed(layout, stage_id)
                )
        states = ledger.states()
        new = [stage_id for stage_id in plan.stages if stage_id not in states]
        ledger.register(plan.stages[stage_id] for stage_id in new)
        states |= dict.fromkeys(new, "pending")
        unread = _unread(layout, plan)
        lost = _forget_the_lost(layout, plan, ledger, states, unread)
        states |= dict.fromkeys(lost, "pending")
    for request in waiting:
        request.path.unlink(missing_ok=True)
    leftovers = [path.name for path in layout.attempts.iterdir()]
    for attempt_id in ledger.ended(leftovers):
        shutil.rmtree(layout.attempt(attempt_id), ignore_errors=True)
    return Settled(
        states,
        [stage_id for stage_id in again if stage_id in plan.stages],
        [stage_id for stage_id in unread if states[stage_id] == "done"],
    )


def _forget_the_lost(
    layout: Layout, plan: Plan, ledger: Ledger, states: Mapping[str, State], unread: Sequence[str]
) -> list[str]:
    """Set finished stages that are needed and gone from the disk back to pending; return them."""
    done = {stage_id for stage_id, state in states.items() if state == "done"}
    lost = lost_stages(layout, plan.stages, done, unread)
    if lost:
        logger.warning("%d finished stages are gone from the disk and are made again", len(lost))
        remove(layout, [layout.stage(stage_id) for stage_id in lost])  # what is left
        ledger.forget(lost)
    return lost


def retry(layout: Layout, ledger: Ledger, stage_ids: Iterable[str]) -> list[str]:
    """Set failed stages back to pending; what failed for its physics starts over."""
    failed = ledger.failed()
    again = ledger.retry(stage_ids)
    for stage_id in again:
        if failed[stage_id].failure_class == FailureClass.PHYSICS:
            discard_segments(layout, stage_id)
    return again


def _unread(layout: Layout, plan: Plan) -> list[str]:
    """Find the results of the plan that the store lacks, in the order of the plan."""
    tables = read_tables(layout.store)
    found: dict[str, None] = {}
    for calculation in plan.calculations:
        table = tables.get(calculation.name)
        stored = set() if table is None else set(table.stage_ids())
        found |= dict.fromkeys(
            stage_id for stage_id in calculation.runs.result_stages if stage_id not in stored
        )
    return list(found)
