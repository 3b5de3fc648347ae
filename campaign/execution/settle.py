"""What a driver does before it starts anything: bring ledger and disk together, apply what was asked for."""

import functools
import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from campaign.errors import FailureClass
from campaign.execution.commit import is_committed
from campaign.execution.disk import lost_stages, remove, unread_results
from campaign.execution.requests import Request
from campaign.execution.segments import discard_segments, work_of
from campaign.layout import Layout
from campaign.ledger import Ledger, State
from campaign.plan import Plan

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
    exempt
        Stages to be tried although their conditions are held back.
    unread
        Finished stages whose results the store lacks, in the order of the plan.
    """

    states: Mapping[str, State]
    again: list[str]
    exempt: list[str]
    unread: list[str]


def settle_the_past(layout: Layout, plan: Plan, ledger: Ledger, waiting: Sequence[Request]) -> Settled:
    """Reconcile what an earlier driver left, apply the requests that waited for this one, add new stages."""
    again: list[str] = []
    exempt: list[str] = []
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
                exempt += request.payload.get("held", ())
                gone = [item for item in wanted if ledger.state(item) == "done"]
                _make_again(layout, ledger, [item for item in gone if not is_committed(layout, item)])
        states = ledger.states()
        new = [stage_id for stage_id in plan.stages if stage_id not in states]
        ledger.register(plan.stages[stage_id] for stage_id in new)
        states |= dict.fromkeys(new, "pending")
        unread = unread_results(layout, plan)
        done = {stage_id for stage_id, state in states.items() if state == "done"}
        lost = lost_stages(layout, plan.stages, done, unread)
        _make_again(layout, ledger, lost)
        states |= dict.fromkeys(lost, "pending")
    for request in waiting:
        request.path.unlink(missing_ok=True)
    leftovers = [path.name for path in layout.attempts.iterdir()]
    for attempt_id in ledger.ended(leftovers):
        shutil.rmtree(layout.attempt(attempt_id), ignore_errors=True)
    for path in layout.segments.glob("??/*"):  # of a worker that was killed after the commit of its stage
        if states.get(path.name) == "done":
            discard_segments(layout, path.name)
    return Settled(
        states,
        [stage_id for stage_id in again if stage_id in plan.stages],
        exempt,
        [stage_id for stage_id in unread if states[stage_id] == "done"],
    )


def _make_again(layout: Layout, ledger: Ledger, gone: Sequence[str]) -> None:
    """Set finished stages that are gone from the disk back to pending, and what is left of them away."""
    if gone:
        logger.warning("%d finished stages are gone from the disk and are made again", len(gone))
        remove(layout, [layout.stage(stage_id) for stage_id in gone])
        ledger.forget(gone)


def retry(layout: Layout, ledger: Ledger, stage_ids: Iterable[str]) -> list[str]:
    """Set failed stages back to pending; what failed for its physics starts over."""
    failed = ledger.failed()
    again = ledger.retry(stage_ids)
    for stage_id in again:
        if failed[stage_id].failure_class == FailureClass.PHYSICS:
            discard_segments(layout, stage_id)
    return again
