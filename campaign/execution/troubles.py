"""What stands against asking SLURM for jobs: refusals, failed starts, cancelled jobs, bad nodes.

Places are those of `campaign.site.Site.with_places`; times are monotonic, in s.
"""

import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from campaign.execution.cluster import Kind
from campaign.execution.slurm import is_passing

logger = logging.getLogger(__name__)

REFUSED_S = 30.0
"""Time until a refused job is asked for again; twice as long after each refusal, up to `MOST_REFUSED_S`."""

MOST_REFUSED_S = 600.0
START_FAILURES = 2
"""Nodes on which jobs of a kind may end, one after the other, before they had a worker."""

NODE_FAILURES = 2
"""Failures after which a node is excluded."""

ONE_FAILURE_S = 120.0
"""Jobs that a node loses within so long were lost in one failure."""


@dataclass(frozen=True)
class _Refusal:
    """What SLURM said of a job, when it is asked again, and how often in a row it has refused."""

    said: str
    again: float
    patience_s: float
    count: int


class Troubles:
    """Of one driver; the next one finds out itself.

    Parameters
    ----------
    places
        Names of all places.
    most
        Most jobs of each resource.
    """

    def __init__(self, places: Iterable[str], most: Mapping[str, int]) -> None:
        self._places: dict[str, list[str]] = {}
        for place in places:
            self._places.setdefault(Kind(place).anywhere.resource, []).append(place)
        self._most = most
        self._impossible: dict[str, str] = {}
        self._refusals: dict[str, _Refusal] = {}
        self._failed_starts: dict[Kind, Counter[str]] = {}
        self._how_ended: dict[str, str] = {}
        self._cancelled: Counter[str] = Counter()
        self._node_failures: Counter[str] = Counter()
        self._node_failed: dict[str, float] = {}

    # What happened

    def give_up(self, place: str, why: str) -> None:
        """Ask for no more jobs in a place."""
        self._impossible[place] = why

    def refused(self, place: str, said: str, now: float) -> None:
        """Wait before a refused job is asked for again; several may be refused at once."""
        before = self._refusals.get(place)
        count = before.count if before else 0
        if not is_passing(said, count):
            # Perhaps because the only node there is was left out.
            why = (f"SLURM refuses its jobs: {said}", self._how_ended.get(place))
            self.give_up(place, "; ".join(filter(None, why)))
        elif self._may_ask(place, now):
            patience_s = min(MOST_REFUSED_S, 2 * before.patience_s) if before else REFUSED_S
            logger.warning("SLURM refuses a job of %s: %s; asking again in %g s", place, said, patience_s)
            self._refusals[place] = _Refusal(said, now + patience_s, patience_s, count + 1)

    def accepted(self, place: str) -> None:
        """Forget refusals: SLURM took a job."""
        self._refusals.pop(place, None)

    def never_began(self, kind: Kind, node: str, how: str, log: str) -> None:
        """Count a job of a place that ended before it had a worker: it may be the node, or the job itself."""
        starts = self._failed_starts.setdefault(kind, Counter())
        starts[node] += 1
        self._how_ended[kind.resource] = f"its jobs end before a worker starts ({how}); see {log}"
        if len(starts) >= START_FAILURES or starts[""] >= START_FAILURES:  # SLURM may not say where it was
            self.give_up(kind.resource, self._how_ended[kind.resource])
        elif starts[node] >= NODE_FAILURES:
            self._node_failures[node] = NODE_FAILURES

    def began(self, kind: Kind) -> None:
        """Forget failed starts: a job of the place has a worker."""
        self._failed_starts.pop(kind, None)
        self._how_ended.pop(kind.resource, None)

    def cancelled(self, kind: Kind) -> None:
        """Count a job that somebody cancelled: it is not asked for again."""
        self._cancelled[kind.anywhere.resource] += 1

    def node_failed(self, node: str, now: float) -> None:
        """Count a job that was lost with its node, if SLURM says which that was."""
        if not node:
            return
        if now - self._node_failed.get(node, -math.inf) > ONE_FAILURE_S:
            self._node_failures[node] += 1
        self._node_failed[node] = now

    # What follows

    def room(self, place: str, there: int, most: int, now: float) -> int:
        """How many jobs more may be asked for in a place that has some, and may have so many."""
        return most - there if place not in self._impossible and self._may_ask(place, now) else 0

    def left(self, resource: str, there: int) -> int:
        """How many jobs more a resource that has some may have in all its places."""
        return self._most[resource] - self._cancelled[resource] - there

    def _may_ask(self, place: str, now: float) -> bool:
        return place not in self._refusals or now >= self._refusals[place].again

    @property
    def bad_nodes(self) -> frozenset[str]:
        """Nodes on which no more jobs are wanted."""
        return frozenset(node for node, count in self._node_failures.items() if count >= NODE_FAILURES)

    def nowhere(self) -> dict[str, str]:
        """Resources that cannot be had in any of their places, and why."""
        found = {
            resource: "; ".join(dict.fromkeys(self._impossible[place] for place in places))
            for resource, places in self._places.items()
            if all(place in self._impossible for place in places)
        }
        for resource, count in self._cancelled.items():
            if count >= self._most[resource]:
                found[resource] = "all its jobs were cancelled; `campaign run` asks for new ones"
        return found

    def told(self, now: float) -> list[str]:
        """Say what there is, for the status."""
        said = []
        failed = sum(starts.total() for starts in self._failed_starts.values())
        if failed:
            said.append(f"ended before a worker started: {failed}")
        for refusal in {one.said: one for one in self._refusals.values()}.values():
            again_s = max(0, round(refusal.again - now))
            said.append(f"SLURM refuses jobs ({refusal.said}); asked again in {again_s} s")
        if self.bad_nodes:
            said.append(f"left out after failures: {', '.join(sorted(self.bad_nodes))}")
        return said
