"""How many jobs are asked for, and in which places of a resource (`campaign.site.Resource.also`); pure.

Jobs are asked for in every place until enough have started; what is then left in the queues is taken back.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from campaign.execution.cluster import Kind


@dataclass(frozen=True)
class Queue:
    """Jobs of a kind that wait in one place, and how many more may be asked for there now."""

    waiting: int
    room: int


def to_ask(missing: int, left: int, queues: Mapping[Kind, Queue]) -> Counter[Kind]:
    """Jobs to be asked for, by place: spread evenly, as where fewest wait a job may start first.

    Parameters
    ----------
    missing
        Jobs that have not started and have something to do.
    left
        How many more jobs the resource may have in all its places.
    """
    asked: Counter[Kind] = Counter()
    while asked.total() < left:
        waiting = {place: queue.waiting + asked[place] for place, queue in queues.items()}
        able = [
            place for place, queue in queues.items() if waiting[place] < missing and asked[place] < queue.room
        ]
        if not able:
            break
        asked[min(able, key=waiting.__getitem__)] += 1
    return asked


def to_let_go(missing: int, left: int, queues: Mapping[Kind, Queue]) -> Counter[Kind]:
    """Jobs to be taken back from the queues, by place: those that nothing needs any more.

    If there are none, and the resource may have no more jobs, half of the longest queue goes to make room for
    a place in which all have started.
    """
    gone = +Counter({place: queue.waiting - max(0, missing) for place, queue in queues.items()})
    started = any(queue.waiting == 0 and queue.room > 0 for queue in queues.values())
    if not gone and missing > 0 and left <= 0 and started:
        longest = max(queues, key=lambda place: queues[place].waiting)
        gone[longest] = queues[longest].waiting // 2
    return +gone
