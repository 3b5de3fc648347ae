"""Which stages are ready, in which order they run, and which are held back.

All of it is in memory and follows from the plan and the ledger.
"""

import heapq
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping

from campaign.errors import FailureClass
from campaign.execution.cluster import HERE, Kind
from campaign.ledger import Ledger, State
from campaign.plan import Plan, Run, StageSummary

BUDGETS: Mapping[FailureClass, int] = {
    FailureClass.LOST_WORKER: 3,
    FailureClass.NODE_FAILURE: 3,
    FailureClass.WALLTIME: 1,
    FailureClass.PREEMPTED: 1,
    FailureClass.TIMEOUT: 2,
    FailureClass.TRANSIENT: 2,
    FailureClass.OUT_OF_MEMORY: 2,
    FailureClass.RESOURCE: 1,
    FailureClass.INTERNAL: 0,
    FailureClass.PHYSICS: 0,
    FailureClass.BAD_INPUT: 0,
    FailureClass.JOB_CANCELLED: 0,
}
"""How often a stage is tried again after failures of a class."""

SHORT_KINDS = frozenset({"build", "reduce"})
"""Stages of about a second: they travel in batches."""

MOST_IN_BATCH = 50
MANY_SLOTS = 1000
HOLD_AFTER = 3
"""Stages of one condition that may fail alike, one after the other, before the rest is held back."""

Speed = tuple[str, str | None]
"""What a speed is measured for: (engine, potential)."""


_Priority = tuple[bool, int, float, int]
_Heap = list[tuple[_Priority, str]]


class Schedule:
    """The stages of one plan, by what can be done with them now.

    Parameters
    ----------
    stages
        Stages of the plan by id.
    states
        Their states; a stage that is not named is pending, and none is running.
    conditions
        Condition (the labels without the seed) of each stage.
    kind_of
        Kind of slot that a stage needs; by default all are alike.
    """

    def __init__(
        self,
        stages: Mapping[str, StageSummary],
        states: Mapping[str, State],
        conditions: Mapping[str, str],
        kind_of: Callable[[StageSummary], Kind] = lambda _: HERE,
    ) -> None:
        self.states: dict[str, State] = {stage_id: states.get(stage_id, "pending") for stage_id in stages}
        self.held: dict[str, str] = {}
        """What is held back (a condition, ``engine NAME`` or ``resource NAME``) and why."""
        self._kind_of = kind_of
        # Only what is not done is kept: a campaign that is nearly finished starts at once.
        self._stages = {
            stage_id: stages[stage_id] for stage_id, state in self.states.items() if state != "done"
        }
        self._conditions = conditions
        self._pilots = self._choose_pilots(stages)
        self._streaks: dict[tuple[str, str], tuple[str, int]] = {}
        self._alone: set[str] = set()
        self._exempt: set[str] = set()
        self._dependents: defaultdict[str, list[str]] = defaultdict(list)
        for stage in self._stages.values():
            for needed in set(stage.needs):
                self._dependents[needed].append(stage.id)
        self._priority = self._priorities()
        self._short: defaultdict[Kind, _Heap] = defaultdict(list)
        self._long: defaultdict[Kind, _Heap] = defaultdict(list)
        self._aside: defaultdict[str, list[str]] = defaultdict(list)
        self._left: Counter[Speed] | None = None
        for stage_id in self._stages:
            self._offer(stage_id)

    def _choose_pilots(self, stages: Mapping[str, StageSummary]) -> set[str]:
        pilots: dict[tuple[str, str], str] = {}
        open_conditions = {self._conditions[stage_id] for stage_id in self._stages}
        for stage_id, condition in self._conditions.items():
            if condition not in open_conditions:
                continue
            kind = stages[stage_id].kind
            if kind not in SHORT_KINDS and pilots.get((condition, kind)) != "":
                done = self.states[stage_id] == "done"
                pilots[condition, kind] = "" if done else pilots.get((condition, kind), stage_id)
        return set(pilots.values())

    def _priorities(self) -> dict[str, _Priority]:
        """Put pilots first, then stages nearest to the end of their run; among equals, the longest.

        The pilot of a condition is its first stage of a kind: it measures the speed, and shows what is wrong,
        before the others begin. No slot is kept empty for it.
        """
        levels: dict[str, int] = {}
        to_come: dict[str, float] = {}
        for stage_id, stage in reversed(self._stages.items()):  # each before the ones it needs
            after = self._dependents.get(stage_id, ())
            levels[stage_id] = 1 + max((levels[item] for item in after), default=0)
            to_come[stage_id] = stage.atoms * stage.steps + max(
                (to_come[item] for item in after), default=0.0
            )
        return {
            item: (item not in self._pilots, levels[item], -to_come[item], index)
            for index, item in enumerate(self._stages)
        }

    def _offer(self, stage_id: str) -> None:
        """Make a stage ready if it is pending and all that it needs is done."""
        stage = self._stages[stage_id]
        if self.states[stage_id] == "pending" and all(self.states[item] == "done" for item in stage.needs):
            heaps = self._short if stage.kind in SHORT_KINDS else self._long
            heapq.heappush(heaps[self._kind_of(stage)], (self._priority[stage_id], stage_id))

    # What happens to stages

    def done(self, stage_id: str) -> None:
        """Take a running stage as done: those that waited only for it are ready."""
        self.states[stage_id] = "done"
        stage = self._stages[stage_id]
        if stage.engine is not None and self._left is not None:
            self._left[speed_key(stage)] -= stage.atoms * stage.steps
        self._streaks.pop((self._conditions[stage_id], stage.kind), None)
        for dependent in self._dependents.get(stage_id, ()):
            self._offer(dependent)

    def again(self, stage_id: str) -> None:
        """Put a running stage back to pending; it does not share its next batch with others."""
        self.states[stage_id] = "pending"
        self._alone.add(stage_id)
        self._offer(stage_id)

    def failed(self, stage_id: str, failure_class: str) -> None:
        """Take a running stage as failed; after several like failures in a row, hold its condition back."""
        self.states[stage_id] = "failed"
        self._left = None
        self._count_failure(stage_id, self._stages[stage_id].kind, failure_class)

    def remember(self, endings: Iterable[tuple[str, str, str | None]]) -> None:
        """Count what earlier drivers saw, in order: (stage id, kind, failure class or None) of each end."""
        for stage_id, kind, failure_class in endings:
            if failure_class is None:
                self._streaks.pop((self._conditions[stage_id], kind), None)
            else:
                self._count_failure(stage_id, kind, failure_class)

    def _count_failure(self, stage_id: str, kind: str, failure_class: str) -> None:
        # By kind: equilibrations that end well say nothing about productions that do not.
        condition = self._conditions[stage_id]
        last, count = self._streaks.get((condition, kind), ("", 0))
        count = count + 1 if last == failure_class else 1
        self._streaks[condition, kind] = (failure_class, count)
        if count >= HOLD_AFTER:
            self.hold(condition, f"{count} failures in a row: {failure_class}")

    def retry(self, stage_ids: Iterable[str]) -> None:
        """Failed stages are pending again, and their conditions are no longer held back."""
        for stage_id in stage_ids:
            self.states[stage_id] = "pending"
            self.forgive(stage_id)
            self._offer(stage_id)

    def forgive(self, stage_id: str) -> None:
        """Forget the failures of a stage's condition, which is no longer held back."""
        self._left = None
        condition = self._conditions[stage_id]
        self._streaks.pop((condition, self._stages[stage_id].kind), None)
        self.held.pop(condition, None)
        for aside in self._aside.pop(condition, ()):
            self._offer(aside)

    def exempt(self, stage_ids: Iterable[str]) -> None:
        """Let these be tried although their conditions are held back, which the others stay."""
        wanted = self._stages.keys() & set(stage_ids)
        self._left = None
        self._exempt |= wanted
        for condition in {self._conditions[stage_id] for stage_id in wanted}:
            aside = self._aside.pop(condition, [])
            self._aside[condition] = [stage_id for stage_id in aside if stage_id not in wanted]
            for stage_id in wanted.intersection(aside):
                self._offer(stage_id)

    def hold(self, what: str, reason: str) -> None:
        """Start no more stages of a condition, or of ``engine NAME``."""
        if self.held.get(what) != reason:
            self.held[what] = reason
            self._left = None

    # What to do next

    def take(self, slots: int, kind: Kind = HERE) -> list[list[str]]:
        """Take work for free slots of a kind, now running: batches of short stages first, then long ones."""
        batches: list[list[str]] = []
        while len(batches) < slots:
            batch = self._short_batch(kind, slots - len(batches)) or list(self._pop(self._long[kind], 1))
            if not batch:
                break
            batches.append(batch)
        for batch in batches:
            for stage_id in batch:
                self.states[stage_id] = "running"
        return batches

    def _short_batch(self, kind: Kind, slots: int) -> list[str]:
        heap = self._short[kind]
        most = min(MOST_IN_BATCH, math.ceil(len(heap) / slots))
        batch: list[str] = []
        for stage_id in self._pop(heap, most):
            if stage_id in self._alone and batch:
                self._offer(stage_id)
                break
            batch.append(stage_id)
            if stage_id in self._alone:
                break
        return batch

    def _pop(self, heap: _Heap, most: int) -> Iterator[str]:
        count = 0
        while heap and count < most:
            _, stage_id = heapq.heappop(heap)
            holder = self._holder(stage_id)
            if holder is not None:
                self._aside[holder].append(stage_id)
                continue
            count += 1
            yield stage_id

    def _holder(self, stage_id: str) -> str | None:
        stage = self._stages[stage_id]
        condition = self._conditions[stage_id]
        if condition in self.held and stage_id not in self._exempt:
            return condition
        for what in (f"engine {stage.engine}", f"resource {self._kind_of(stage).resource}"):
            if what in self.held:
                return what
        return None

    def has_ready(self) -> bool:
        """Whether something could be taken, were a slot free."""
        heaps = (*self._short.values(), *self._long.values())
        return any(self._holder(stage_id) is None for heap in heaps for _, stage_id in heap)

    def ready(self) -> dict[Kind, int]:
        """Count the slots that could be used now, by kind; where something is held, up to `MANY_SLOTS`."""
        found: dict[Kind, int] = {}
        for heaps, share in ((self._short, MOST_IN_BATCH), (self._long, 1)):
            for kind, heap in heaps.items():
                count = len(heap)  # asked every second, of 10^5 runs
                if self.held:
                    free = (stage_id for _, stage_id in heap if self._holder(stage_id) is None)
                    count = sum(1 for _ in itertools.islice(free, MANY_SLOTS * share))
                if count:
                    found[kind] = found.get(kind, 0) + math.ceil(count / share)
        return found

    def remaining(self) -> Counter[Speed]:
        """Sum the atom-steps that are still to be done, by (engine, potential), without what is blocked."""
        if self._left is None:
            lost = self.blocked()
            self._left = Counter()
            for stage_id, stage in self._stages.items():
                if stage.engine is None or stage_id in lost or self.states[stage_id] == "done":
                    continue
                self._left[speed_key(stage)] += stage.atoms * stage.steps
        return Counter(self._left)

    def blocked(self) -> set[str]:
        """Find what is failed or held back, and everything that needs it."""
        lost = {
            stage_id
            for stage_id in self._stages
            if self.states[stage_id] == "failed"
            or (self.states[stage_id] == "pending" and self._holder(stage_id) is not None)
        }
        stack = list(lost)
        while stack:
            for dependent in self._dependents.get(stack.pop(), ()):
                if dependent not in lost:
                    lost.add(dependent)
                    stack.append(dependent)
        return lost


def speed_key(stage: StageSummary) -> Speed:
    """(engine, potential) of a stage that has an engine."""
    return stage.engine or "", stage.potential


def time_left_s(remaining: Mapping[Speed, float], speeds: Mapping[Speed, float], slots: int) -> float | None:
    """Seconds that ``remaining`` atom-steps take at ``speeds`` (atom-step/s in a slot), or None."""
    if any(key not in speeds for key, steps in remaining.items() if steps > 0):
        return None
    return sum(steps / speeds[key] for key, steps in remaining.items() if steps > 0) / max(slots, 1)


def condition_of(run: Run) -> str:
    """Name of a run's condition: its calculation, and its labels without the seed."""
    labels = (f"{name}={value}" for name, value in run.labels.items() if name != "seed")
    return " ".join((run.calculation, *labels))


def endings_of(plan: Plan, ledger: Ledger) -> Iterator[tuple[str, str, str | None]]:
    """How stages of a plan ended, in order, as `Schedule.remember` takes it."""
    for stage_id, failure_class in ledger.endings():
        if stage_id in plan.stages:
            yield stage_id, plan.stages[stage_id].kind, failure_class


def blocked_stages(plan: Plan, ledger: Ledger) -> set[str]:
    """Stages of a plan that a driver would leave alone until a retry."""
    if not ledger.failed():
        return set()
    schedule = Schedule(plan.stages, ledger.states(), conditions_of(plan))
    schedule.remember(endings_of(plan, ledger))
    return schedule.blocked()


def conditions_of(plan: Plan) -> dict[str, str]:
    """Condition of each stage: its run's labels without the seed; a shared stage belongs to the first."""
    conditions: dict[str, str] = {}
    for calculation in plan.calculations:
        runs = calculation.runs
        names: dict[int, str] = {}
        for position, (group, stages) in enumerate(zip(runs.groups, runs.stages, strict=True)):
            if group not in names:
                names[group] = condition_of(runs[position])
            for index in stages:
                conditions.setdefault(runs.stage_ids[index], names[group])
    return conditions
