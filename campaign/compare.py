"""What a plan would cost, and what it reuses: new, changed and dropped runs against an earlier plan.

Estimates. Core-hours are atom-steps / speed, with the speed of this campaign's own attempts where there are
any, else `DEFAULT_SPEEDS`. Disk is, for each stage, `BYTES_PER_STAGE` and `BYTES_PER_ATOM` times its atoms;
files are `FILES_PER_STAGE`. Long series of temperatures and energies are not counted (0.2 kB per sample).
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Set
from dataclasses import asdict, dataclass, replace
from typing import Any

from campaign.axes import label_text
from campaign.runs import CalculationPlan, Plan, Run, StageClass, StructureRow

Speed = tuple[str, str | None]
"""Engine and potential."""

DEFAULT_SPEEDS: Mapping[Speed, float] = {
    ("lammps", "tersoff-lj"): 2.0e5,
    ("lammps", "tersoff-ilp"): 1.5e4,
    ("lammps", "tersoff-sw-lj"): 7.0e5,
}
"""Atom-step/s of a core, measured with 540 to 2,016 atoms on a 2-core x86-64 machine (LAMMPS 22Jul2025)."""

MD_KINDS = ("relax", "equilibrate", "produce")

BYTES_PER_STAGE: Mapping[str, int] = {"build": 4_000, **dict.fromkeys(MD_KINDS, 50_000), "reduce": 30_000}
"""Manifest and result; input, log and series of 100 samples in stages of an engine (9 layers)."""

BYTES_PER_ATOM: Mapping[str, int] = {
    "build": 45,
    "relax": 170,
    "equilibrate": 130,
    "produce": 170,
    "reduce": 0,
}
"""Structure: positions, layer, element (45); restart of LAMMPS (130); final positions in results (40)."""

FILES_PER_STAGE: Mapping[str, int] = {"build": 3, **dict.fromkeys(MD_KINDS, 5), "reduce": 2}
"""Manifest and result; structure, or input, log and restart."""

MAX_CHANGES = 20


@dataclass(frozen=True)
class Measured:
    """A speed that attempts measured.

    Attributes
    ----------
    engine, potential
        Of what.
    in_jobs
        In jobs of a cluster, not on the driver's machine.
    atom_steps_per_s
        In a slot, over all that they committed.
    attempts
        How many they are.
    spread
        Standard deviation between them, as a part of their mean; 0 for one.
    """

    engine: str
    potential: str | None
    in_jobs: bool
    atom_steps_per_s: float
    attempts: int
    spread: float


@dataclass(frozen=True)
class RunCounts:
    """Runs of a plan by what becomes of them.

    Attributes
    ----------
    reused
        Their result is there.
    waiting
        Planned before, not computed yet.
    blocked
        Planned before; they failed, or are held back for the failures of others: nothing before a retry.
    changed
        Cells that were planned before with other settings.
    new
        Cells that were not planned before.
    no_longer_wanted
        Cells of the earlier plan that this one does not have; not part of ``total``.
    """

    total: int
    reused: int
    waiting: int
    blocked: int
    changed: int
    new: int
    no_longer_wanted: int


@dataclass(frozen=True)
class StageCounts:
    """Stages of a plan by what becomes of them.

    Attributes
    ----------
    reused, blocked, to_compute
        Those that are done, that failed or wait for one that did, and all others: the parts of ``total``.
    begun
        Of those to compute: parts of them are committed, which cost nothing any more.
    made_again
        Of those to compute: they were done, and are gone from the disk.
    gone
        Of the reused ones: gone from the disk too, but nothing needs them any more.
    no_longer_wanted
        Committed stages that this plan does not have; not part of ``total``.
    """

    total: int
    reused: int
    blocked: int
    to_compute: int
    begun: int
    made_again: int
    gone: int
    no_longer_wanted: int


@dataclass(frozen=True)
class FieldChange:
    """A field that makes cells of the earlier plan different runs: how many, and the first."""

    calculation: str
    field: str
    old: Any
    new: Any
    runs: int
    example: str


@dataclass(frozen=True)
class CostRow:
    """Cost of the stages of one sort that are to be computed.

    ``longest_atom_steps`` are those of the longest stage. ``core_hours`` and ``speed_atom_steps_per_s`` are
    None if no speed is known; ``speed_from`` says whose.
    """

    kind: str
    engine: str | None
    potential: str | None
    stages: int
    atom_steps: int
    longest_atom_steps: int
    speed_atom_steps_per_s: float | None
    speed_from: str
    core_hours: float | None
    disk_bytes: int
    files: int


@dataclass(frozen=True)
class PlanReport:
    """What ``campaign plan`` says; ``atoms`` and ``steps`` are the smallest and largest of all MD stages.

    ``structures`` are those of all calculations.
    """

    campaign: str
    runs: RunCounts
    stages: StageCounts
    changes: tuple[FieldChange, ...]
    cost: tuple[CostRow, ...]
    atoms: tuple[int, int]
    steps: tuple[int, int]
    structures: tuple[StructureRow, ...]

    @property
    def core_hours(self) -> float | None:
        """All of them, or None if the speed of a stage is not known."""
        known = [row.core_hours for row in self.cost if row.core_hours is not None]
        return sum(known) if len(known) == len(self.cost) else None

    @property
    def disk_bytes(self) -> int:
        """Disk that new stages take, in bytes."""
        return sum(row.disk_bytes for row in self.cost)

    @property
    def files(self) -> int:
        """Files that new stages make."""
        return sum(row.files for row in self.cost)

    def to_json(self) -> dict[str, Any]:
        """Plain data, totals included."""
        return {
            **asdict(self),
            "core_hours": self.core_hours,
            "disk_bytes": self.disk_bytes,
            "files": self.files,
        }


def compare(
    plan: Plan,
    previous: Plan | None = None,
    committed: Set[str] = frozenset(),
    *,
    lost: Set[str] = frozenset(),
    gone: Set[str] = frozenset(),
    blocked: Set[str] = frozenset(),
    steps_done: Mapping[str, int] | None = None,
    speeds: Mapping[Speed, float] | None = None,
) -> PlanReport:
    """Say what a plan would compute and cost.

    Parameters
    ----------
    plan
        The new plan.
    previous
        The plan of the campaign directory, if there is one.
    committed
        Ids of all stages of that directory that are done.
    lost
        Those of them that are gone from the disk, or lack a restart file, and that this plan needs.
    gone
        Those of them that are gone from the disk, needed or not.
    blocked
        Ids of the stages that are left alone until a retry.
    steps_done
        MD steps that are committed of stages that are not done, by stage id.
    speeds
        Measured atom-step/s in a slot by engine and potential, of this campaign.

    Returns
    -------
    PlanReport
        Counts, changed fields, cost.
    """
    dropped = len(set(committed).difference(plan.stages.ids))
    committed = committed - lost  # the caller's set stays as it is
    blocked = blocked - committed
    steps = {item: done for item, done in (steps_done or {}).items() if item not in committed | blocked}
    counts, changes = _compare_runs(plan, previous, committed, blocked)
    reused = len(set(committed).intersection(plan.stages.ids))
    left_alone = len(set(blocked).intersection(plan.stages.ids))
    moving = [common for common in plan.stages.classes if common.engine is not None]
    return PlanReport(
        campaign=plan.campaign,
        runs=counts,
        stages=StageCounts(
            total=len(plan.stages),
            reused=reused,
            blocked=left_alone,
            to_compute=len(plan.stages) - reused - left_alone,
            begun=sum(stage_id in plan.stages for stage_id in steps),
            made_again=len(lost),
            gone=sum(stage_id in plan.stages for stage_id in gone - lost),
            no_longer_wanted=dropped,
        ),
        changes=changes,
        cost=tuple(_cost(plan, committed | blocked, steps, speeds or {})),
        atoms=_range(common.atoms for common in moving),
        steps=_range(common.steps for common in moving),
        structures=_structures(plan),
    )


def _structures(plan: Plan) -> tuple[StructureRow, ...]:
    """Structures of all calculations, each once, with all of its runs."""
    runs: Counter[StructureRow] = Counter()
    for calculation in plan.calculations:
        for row in calculation.structures:
            runs[replace(row, runs=0)] += row.runs
    return tuple(replace(row, runs=count) for row, count in runs.items())


def _range(numbers: Iterator[int]) -> tuple[int, int]:
    listed = list(numbers)
    return (min(listed), max(listed)) if listed else (0, 0)


def _cost(
    plan: Plan, without: Set[str], steps_done: Mapping[str, int], speeds: Mapping[Speed, float]
) -> Iterator[CostRow]:
    """Cost of all stages but some; of those that are begun, of what is left."""
    missing: Counter[int] = Counter()
    done: Counter[int] = Counter()
    for stage_id, which in zip(plan.stages.ids, plan.stages.which, strict=True):
        if stage_id not in without:
            missing[which] += 1
            if stage_id in steps_done:
                done[which] += steps_done[stage_id]
    sorts: defaultdict[tuple[str, str | None, str | None], list[tuple[StageClass, int, int]]] = defaultdict(
        list
    )
    for which, number in sorted(missing.items()):
        common = plan.stages.classes[which]
        steps = common.steps * number - done[which]
        sorts[common.kind, common.engine, common.potential].append((common, number, steps))
    for (kind, engine, potential), members in sorts.items():
        atom_steps = sum(common.atoms * steps for common, _, steps in members)
        number = sum(number for _, number, _ in members)
        speed, source = speed_of((engine or "", potential), speeds)
        hours = 0.0 if atom_steps == 0 else None if speed is None else atom_steps / speed / 3600
        yield CostRow(
            kind=kind,
            engine=engine,
            potential=potential,
            stages=number,
            atom_steps=atom_steps,
            longest_atom_steps=max(common.atoms * common.steps for common, *_ in members),
            speed_atom_steps_per_s=speed,
            speed_from=source,
            core_hours=hours,
            disk_bytes=sum(
                (BYTES_PER_STAGE[kind] + BYTES_PER_ATOM[kind] * common.atoms) * count
                for common, count, _ in members
            ),
            files=FILES_PER_STAGE[kind] * number,
        )


def speed_of(key: Speed, measured: Mapping[Speed, float]) -> tuple[float | None, str]:
    """Atom-step/s of an engine and potential, and whose it is: ``this campaign``, ``default`` or ``none``."""
    if key in measured:
        return measured[key], "this campaign"
    if key in DEFAULT_SPEEDS:
        return DEFAULT_SPEEDS[key], "default"
    return None, "none"


class _Cells:
    """Runs of an earlier plan by their labels, whatever the order of its axes was."""

    def __init__(self, plan: Plan) -> None:
        self.runs = {
            _cell(run): (calculation, run) for calculation in plan.calculations for run in calculation.runs
        }
        self.results = {run.result_stage for _, run in self.runs.values()}


def _cell(run: Run) -> tuple[str, frozenset[tuple[str, str]]]:
    return run.calculation, frozenset((name, label_text(label)) for name, label in run.labels.items())


def _compare_runs(
    plan: Plan, previous: Plan | None, committed: Set[str], blocked: Set[str]
) -> tuple[RunCounts, tuple[FieldChange, ...]]:
    if previous is not None and plan.made_from and plan.made_from == previous.made_from:
        return _unchanged_runs(plan, committed, blocked), ()
    before = _Cells(previous) if previous is not None else None
    counts: Counter[str] = Counter()
    wanted_cells = set()
    wanted_results = set()
    changes = _Changes(plan, previous)
    for calculation in plan.calculations:
        for run in calculation.runs:
            counts["total"] += 1
            result = run.result_stage
            if before is not None:
                wanted_cells.add(_cell(run))
                wanted_results.add(result)
            if result in committed:
                counts["reused"] += 1
            elif result in blocked:
                counts["blocked"] += 1
            elif before is not None and result in before.results:
                counts["waiting"] += 1
            elif before is not None and (known := before.runs.get(_cell(run))) is not None:
                counts["changed"] += 1
                changes.note(calculation, run, *known)
            else:
                counts["new"] += 1
    dropped = 0
    if before is not None:
        dropped = sum(
            cell not in wanted_cells and run.result_stage not in wanted_results
            for cell, (_, run) in before.runs.items()
        )
    kinds = {name: counts[name] for name in ("total", "reused", "waiting", "blocked", "changed", "new")}
    return RunCounts(**kinds, no_longer_wanted=dropped), changes.result()


def _unchanged_runs(plan: Plan, committed: Set[str], blocked: Set[str]) -> RunCounts:
    """Count the runs of a plan that was made from the same as the earlier one: no run has to be compared."""
    total = reused = left_alone = 0
    for calculation in plan.calculations:
        total += len(calculation.runs)
        reused += sum(stage_id in committed for stage_id in calculation.runs.result_stages)
        if blocked:
            left_alone += sum(stage_id in blocked for stage_id in calculation.runs.result_stages)
    waiting = total - reused - left_alone
    return RunCounts(total, reused, waiting, left_alone, changed=0, new=0, no_longer_wanted=0)


class _Changes:
    """Fields that differ between cells of two plans, compared once for each pair of conditions."""

    def __init__(self, plan: Plan, previous: Plan | None) -> None:
        self._plan = plan
        self._previous = previous
        self._of_pair: dict[tuple[str, int, int], list[tuple[str, Any, Any]]] = {}
        self._found: dict[tuple[str, str, str, str], FieldChange] = {}

    def note(
        self, calculation: CalculationPlan, run: Run, old_calculation: CalculationPlan, old: Run
    ) -> None:
        """Count what differs between a run and the one that its cell held."""
        pair = (calculation.name, run.group, old.group)
        if pair not in self._of_pair:
            self._of_pair[pair] = list(self._differences(calculation, run, old_calculation, old))
        for field, before, after in self._of_pair[pair]:
            key = (calculation.name, field, repr(before), repr(after))
            known = self._found.get(key)
            self._found[key] = FieldChange(
                calculation=calculation.name,
                field=field,
                old=before,
                new=after,
                runs=1 if known is None else known.runs + 1,
                example=run.id if known is None else known.example,
            )

    def result(self) -> tuple[FieldChange, ...]:
        """Return the changes, those of most runs first."""
        return tuple(sorted(self._found.values(), key=lambda change: -change.runs)[:MAX_CHANGES])

    def _differences(
        self, calculation: CalculationPlan, run: Run, old_calculation: CalculationPlan, old: Run
    ) -> Iterator[tuple[str, Any, Any]]:
        assert self._previous is not None
        before, after = old_calculation.settings_of(old), calculation.settings_of(run)
        before |= {"engine": old_calculation.engine, "seed": self._previous.seed}
        after |= {"engine": calculation.engine, "seed": self._plan.seed}
        found = False
        for field in sorted(before.keys() | after.keys()):
            if before.get(field) != after.get(field):
                found = True
                yield field, before.get(field), after.get(field)
        if found:
            return
        # The same settings: the package or a potential file is another one.
        old_facts, facts = _facts(self._previous, old), _facts(self._plan, run)
        for field in sorted(old_facts.keys() | facts.keys()):
            if old_facts.get(field) != facts.get(field):
                yield field, old_facts.get(field), facts.get(field)


def _facts(plan: Plan, run: Run) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for stage_id in run.stages:
        stage = plan.stages[stage_id]
        facts[f"version of {stage.kind}"] = stage.version
        facts |= {f"file {name}": sha256 for name, sha256 in stage.files.items()}
    return facts
