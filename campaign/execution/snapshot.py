"""``status.json``: what other commands read while a driver runs, without touching the ledger."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from campaign.execution.dispatch import Flight
from campaign.execution.requests import SUBMITTED
from campaign.layout import Layout, write_atomic
from campaign.ledger import Attempt, Ledger, State, utc_now
from campaign.plan import Plan, Run
from campaign.plan_file import read_status

SNAPSHOT_FORMAT = 1
FEW_RUNS = 3
MANY_RUNS = 100
"""Runs that are named with a stage; a shared one may have 10^5."""

_ORDER = ("pending", "running", "done", "failed")


class RunBoard:
    """States of all runs, kept up to date stage by stage, so that a snapshot needs no pass over 10^5 runs."""

    def __init__(self, plan: Plan, states: Mapping[str, State]) -> None:
        self._states = states
        self._tables = [calculation.runs for calculation in plan.calculations]
        of_stages = [states[stage_id] for stage_id in plan.stages]
        self._letters = [
            [_state([of_stages[index] for index in stages])[0] for stages in table.stages]
            for table in self._tables
        ]

    @cached_property
    def _of_stage(self) -> Mapping[str, list[tuple[int, int]]]:
        """Calculation and position of the runs that use each stage; asked for when something is done."""
        found: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        for number, table in enumerate(self._tables):
            for position, stages in enumerate(table.stages):
                for index in stages:
                    found[table.stage_ids[index]].append((number, position))
        return found

    def update(self, stage_id: str) -> None:
        """Follow a stage to its new state with all runs that use it."""
        for number, position in self._of_stage[stage_id]:
            table = self._tables[number]
            own = [self._states[table.stage_ids[index]] for index in table.stages[position]]
            self._letters[number][position] = _state(own)[0]

    def runs(self, stage_id: str, most: int) -> list[str]:
        """Ids of the first runs that use a stage."""
        return [self._tables[number][position].id for number, position in self._of_stage[stage_id][:most]]

    def number_of_runs(self, stage_id: str) -> int:
        """How many runs use a stage."""
        return len(self._of_stage[stage_id])

    def results(self, stage_id: str) -> dict[str, Run]:
        """Find the first run of each calculation whose result a stage is."""
        found: dict[str, Run] = {}
        for number, position in self._of_stage[stage_id]:
            table = self._tables[number]
            if table.calculation not in found and table.stage_ids[table.stages[position][-1]] == stage_id:
                found[table.calculation] = table[position]
        return found

    def letters(self) -> dict[str, str]:
        """One letter (p, r, d, f) for each run, in the order of the plan, by calculation."""
        return {
            table.calculation: "".join(letters)
            for table, letters in zip(self._tables, self._letters, strict=True)
        }

    def counts(self) -> dict[str, dict[str, int]]:
        """Count the runs in each state, and in total, by calculation."""
        counts: dict[str, dict[str, int]] = {}
        for name, letters in self.letters().items():
            counts[name] = {state: letters.count(state[0]) for state in _ORDER}
            counts[name]["total"] = len(letters)
        return counts


def _state(own: Sequence[State]) -> State:
    """State of a run from those of its stages, the result's last."""
    if own[-1] == "done":
        return "done"
    if "failed" in own:
        return "failed"
    return "running" if "running" in own else "pending"


def running_entry(board: RunBoard, flight: Flight) -> dict[str, Any]:
    """Describe an attempt in flight."""
    return {
        "attempt": flight.attempt_id,
        "kind": flight.stage.kind,
        "runs": board.runs(flight.stage_id, FEW_RUNS),
        "slot": flight.slot.address,
        "job": flight.slot.job,
        "node": flight.slot.node,
        "started": flight.started or flight.submitted,
        "steps_done": flight.progress.steps_done if flight.progress else None,
        "steps_total": flight.stage.steps or None,
        "rate": flight.progress.rate if flight.progress else None,
    }


def failure_entry(board: RunBoard, attempt: Attempt) -> dict[str, Any]:
    """Describe a failed stage by its last attempt; ``n_runs`` counts all runs that fail with it."""
    return {
        "class": attempt.failure_class,
        "message": attempt.message,
        "attempt": attempt.id,
        "finished": attempt.finished,
        "runs": board.runs(attempt.stage_id, MANY_RUNS),
        "n_runs": board.number_of_runs(attempt.stage_id),
    }


def snapshot(
    campaign: str,
    *,
    driver: Mapping[str, Any],
    started: str,
    board: RunBoard,
    running: Mapping[str, Any],
    failed: Mapping[str, Any],
    held: Mapping[str, str],
    cluster: Mapping[str, Any] | None = None,
    time_left_s: float | None,
) -> dict[str, Any]:
    """Content of ``status.json``."""
    return {
        "format": SNAPSHOT_FORMAT,
        "campaign": campaign,
        "driver": dict(driver),
        "started": started,
        "updated": utc_now(),
        "counts": board.counts(),
        "states": board.letters(),
        "running": dict(running),
        "failed": dict(failed),
        "held": [f"{what}: {reason}" for what, reason in held.items()],
        "cluster": dict(cluster or {}),
        "time_left_s": time_left_s,
    }


def show_submitted(layout: Layout, plan: Plan, site: str) -> None:
    """Show that a driver's job waits: the last picture, with the plan's runs, and without the last driver.

    Only for who has made sure that no driver is at work.
    """
    nothing = {"format": SNAPSHOT_FORMAT, "campaign": plan.campaign, "failed": {}, "held": []}
    last = read_status(layout.status) or nothing
    states: Mapping[str, State] = {}
    if layout.ledger.exists():
        with Ledger.open(layout, read_only=True) as ledger:
            states = ledger.states()
    settled = {stage_id: states.get(stage_id, "pending") for stage_id in plan.stages}
    board = RunBoard(
        plan, {stage: "pending" if state == "running" else state for stage, state in settled.items()}
    )
    who = {"pid": None, "host": None, "epoch": None, "job": None}
    driver = {**who, "state": SUBMITTED, "site": site, "detached": True}
    runs = {"counts": board.counts(), "states": board.letters()}
    idle = {"driver": driver, "updated": utc_now(), "running": {}, "cluster": {}, "time_left_s": None}
    write_snapshot(layout, {**last, **runs, **idle})


def write_snapshot(layout: Layout, snapshot: Mapping[str, Any]) -> None:
    """Replace ``status.json``; it may be lost in a power failure, the ledger is the record."""
    write_atomic(layout.status, json.dumps(snapshot), durable=False)
