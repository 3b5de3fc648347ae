"""What a plan costs on a site: jobs, the chain of segments of the longest stage, GPU-hours and core-hours.

Estimates, with an interval. A stage takes its atom-steps / speed in a slot; a job is paid for
as long as its slots compute. Waiting in the queue and the start of jobs are not counted.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from campaign.compare import CostRow, Measured, Speed, speed_of
from campaign.site import Resource, Site

SHORT_STAGE_S = 1.0
"""Time that a stage without an engine takes."""

STAGES_IN_BATCH = 50
"""Stages without an engine that share a slot at a time."""

FEWEST_ATTEMPTS = 3
"""A spread between fewer attempts than this says nothing."""

FACTOR_MEASURED = 1.5
"""Either way, for a speed that fewer attempts measured in jobs."""

FACTOR_ELSEWHERE = 3.0
"""Either way, for a speed that is another machine's."""

Basis = Literal["spread", "measured", "elsewhere", "default"]
"""Where an interval comes from, the best first."""


@dataclass(frozen=True)
class Interval:
    """An estimate and how far it may be off either way."""

    low: float
    likely: float
    high: float

    def __add__(self, other: Self) -> "Interval":
        return Interval(self.low + other.low, self.likely + other.likely, self.high + other.high)

    def times(self, factor: float) -> "Interval":
        """All of it, scaled."""
        return Interval(factor * self.low, factor * self.likely, factor * self.high)


NOTHING = Interval(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Chain:
    """The longest stage: so many segments one after the other, in so many jobs; times in s."""

    kind: str
    seconds: float
    segments: int
    segment_s: float
    jobs: int


@dataclass(frozen=True)
class ResourceCost:
    """What the stages of one resource cost.

    Attributes
    ----------
    kinds, stages
        Which stages, and how many.
    walltime
        Longest time of a job, as the site says it; several where the resource has several places that differ.
    jobs_at_once
        Most jobs at a time.
    jobs, most_jobs
        Jobs that all the work needs, likely and at most; None if a speed is not known.
    chain
        The longest stage with an engine, if there is one and its speed is known.
    gpu_hours, core_hours
        Of the jobs; None if a speed is not known.
    """

    resource: str
    kinds: tuple[str, ...]
    stages: int
    walltime: str
    jobs_at_once: int
    jobs: int | None
    most_jobs: int | None
    chain: Chain | None
    gpu_hours: Interval | None
    core_hours: Interval | None


@dataclass(frozen=True)
class SiteCost:
    """What a plan costs on a site.

    ``basis`` tells where the intervals come from, ``attempts`` how many measured the speeds of a ``spread``.
    """

    site: str
    resources: tuple[ResourceCost, ...]
    basis: tuple[Basis, ...]
    attempts: int

    @property
    def gpu_hours(self) -> Interval | None:
        """GPU-hours of all resources, or None if a speed is not known."""
        return _total(cost.gpu_hours for cost in self.resources)

    @property
    def core_hours(self) -> Interval | None:
        """Core-hours of all resources, or None if a speed is not known."""
        return _total(cost.core_hours for cost in self.resources)

    def above(self, site: Site) -> tuple[tuple[str, float, float], ...]:
        """Tell which limits of the site it may exceed: what, how much it may take, and the limit, in hours.

        What is unknown may take any time.
        """
        if not self.resources:
            return ()
        found = (
            ("GPU-hours", self.gpu_hours, site.ask_above_gpu_hours),
            ("core-hours", self.core_hours, site.ask_above_core_hours),
        )
        most = ((what, math.inf if hours is None else hours.high, limit) for what, hours, limit in found)
        return tuple(one for one in most if one[1] > one[2])

    def to_json(self) -> dict[str, Any]:
        """Plain data, totals included."""
        totals = {"gpu_hours": self.gpu_hours, "core_hours": self.core_hours}
        return asdict(self) | {
            name: None if total is None else asdict(total) for name, total in totals.items()
        }


def site_cost(
    name: str,
    site: Site,
    rows: Iterable[CostRow],
    measured: Iterable[Measured] = (),
    *,
    segment_s: float,
    usable_s: Mapping[str, float],
) -> SiteCost:
    """Estimate what the stages that are to be computed cost on a site.

    Parameters
    ----------
    name, site
        The site.
    rows
        As `campaign.compare.compare` tells them.
    measured
        Speeds that attempts of this campaign measured.
    segment_s
        Length of segments, in s.
    usable_s
        Time of a job in which attempts run, in s, by resource.

    Returns
    -------
    SiteCost
        In the order of the site's resources, without those that have nothing to do.
    """
    best: dict[Speed, Measured] = {}
    for one in sorted(measured, key=lambda one: one.in_jobs):  # those in jobs take the place of the others
        best[one.engine, one.potential] = one
    of_resource: dict[str, list[CostRow]] = {resource: [] for resource in site.resources}
    for row in rows:
        of_resource[site.resource_of(row.kind)].append(row)
    costs = [
        _Work(site.resources[resource], found, best).cost(resource, segment_s, usable_s[resource])
        for resource, found in of_resource.items()
        if found
    ]
    used = [
        key
        for found in of_resource.values()
        for row in found
        if row.atom_steps and _speed(key := _key(row), 1, best) is not None
    ]
    return SiteCost(
        site=name,
        resources=tuple(costs),
        basis=tuple(dict.fromkeys(_basis(best.get(key)) for key in used)),
        attempts=sum(best[key].attempts for key in dict.fromkeys(used) if _basis(best.get(key)) == "spread"),
    )


class _Work:
    """Stages that share a resource, and how long they take in its slots."""

    def __init__(self, resource: Resource, rows: list[CostRow], measured: Mapping[Speed, Measured]) -> None:
        self._resource = resource
        self._rows = rows
        self._measured = measured

    def cost(self, name: str, segment_s: float, usable_s: float) -> ResourceCost:
        resource = self._resource
        slot_s = _total(self._slot_s(row) for row in self._rows)
        side_by_side = max(
            row.stages if row.engine else math.ceil(row.stages / STAGES_IN_BATCH) for row in self._rows
        )
        at_once = min(resource.jobs, math.ceil(side_by_side / resource.slots))
        job_s = None if slot_s is None else slot_s.times(1 / resource.slots)
        return ResourceCost(
            resource=name,
            kinds=tuple(dict.fromkeys(row.kind for row in self._rows)),
            stages=sum(row.stages for row in self._rows),
            walltime=" or ".join(dict.fromkeys(place.walltime for place in resource.places)),
            jobs_at_once=at_once,
            jobs=None if job_s is None else max(at_once, math.ceil(job_s.likely / usable_s)),
            most_jobs=None if job_s is None else max(at_once, math.ceil(job_s.high / usable_s)),
            chain=self._chain(segment_s, usable_s),
            gpu_hours=None if job_s is None else job_s.times(resource.gpus / 3600),
            core_hours=None if job_s is None else job_s.times(resource.cores / 3600),
        )

    def _slot_s(self, row: CostRow) -> Interval | None:
        """Time in slots, in s; None if the speed is not known."""
        if not row.atom_steps:
            seconds = SHORT_STAGE_S * row.stages
            return Interval(seconds, seconds, seconds)
        speed = _speed(_key(row), self._resource.threads, self._measured)
        if speed is None:
            return None
        seconds = row.atom_steps / speed
        factor = _factor(self._measured.get(_key(row)))
        return Interval(seconds / factor, seconds, seconds * factor)

    def _chain(self, segment_s: float, usable_s: float) -> Chain | None:
        longest = [
            (row.longest_atom_steps / speed, row.kind)
            for row in self._rows
            if row.atom_steps
            and (speed := _speed(_key(row), self._resource.threads, self._measured)) is not None
        ]
        if not longest:
            return None
        seconds, kind = max(longest)
        return Chain(
            kind=kind,
            seconds=seconds,
            segments=math.ceil(seconds / segment_s),
            segment_s=segment_s,
            jobs=math.ceil(seconds / usable_s),
        )


def _key(row: CostRow) -> Speed:
    return row.engine or "", row.potential


def _speed(key: Speed, threads: int, measured: Mapping[Speed, Measured]) -> float | None:
    """Atom-step/s in a slot with so many threads."""
    found = measured.get(key)
    if found is not None and found.in_jobs:
        return found.atom_steps_per_s
    # That of one core, as far as anybody knows.
    of_core = speed_of(key, {})[0] if found is None else found.atom_steps_per_s
    return None if of_core is None else of_core * threads


def _basis(measured: Measured | None) -> Basis:
    if measured is None:
        return "default"
    if not measured.in_jobs:
        return "elsewhere"
    return "spread" if measured.attempts >= FEWEST_ATTEMPTS else "measured"


def _factor(measured: Measured | None) -> float:
    basis = _basis(measured)
    if basis == "spread" and measured is not None:
        return 1 + measured.spread
    return FACTOR_MEASURED if basis == "measured" else FACTOR_ELSEWHERE


def _total(parts: Iterable[Interval | None]) -> Interval | None:
    total = NOTHING
    for part in parts:
        if part is None:
            return None
        total += part
    return total
