"""How many jobs are asked for and where, as laws; the jobs themselves are in `test_slurm_scaling`."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from campaign.execution.cluster import Kind
from campaign.execution.scaling import Queue, to_ask, to_let_go

PLACES = tuple(Kind(name) for name in ("gpu", "gpu@2", "gpu@3"))
numbers = st.integers(0, 12)
many = st.dictionaries(st.sampled_from(PLACES), st.builds(Queue, numbers, st.integers(-2, 12)), min_size=1)
wanted = st.integers(-3, 12)


@given(wanted, wanted, many)
def test_never_more_than_is_stated_or_needed_and_no_less_than_can_be(
    missing: int, left: int, queues: dict[Kind, Queue]
) -> None:
    asked = to_ask(missing, left, queues)
    assert asked.total() <= max(0, left)
    for place, queue in queues.items():
        assert asked[place] <= max(0, min(queue.room, missing - queue.waiting))
    if asked.total() < left:
        assert all(
            asked[place] == max(0, min(queue.room, missing - queue.waiting))
            for place, queue in queues.items()
        )


@given(wanted, wanted, many)
def test_what_is_let_go_waits_and_is_not_all_that_is_needed(
    missing: int, left: int, queues: dict[Kind, Queue]
) -> None:
    gone = to_let_go(missing, left, queues)
    for place, queue in queues.items():
        assert 0 <= gone[place] <= queue.waiting
        assert queue.waiting - gone[place] >= min(queue.waiting, max(0, missing), 1)
        assert queue.waiting - gone[place] <= max(0, missing)


@given(st.integers(1, 12), st.lists(st.booleans(), min_size=1, max_size=3), st.integers(1, 12))
def test_all_start_in_the_end_where_one_place_has_room(missing: int, starts: list[bool], total: int) -> None:
    """Whichever places start jobs at once, and whichever never do, nothing waits for ever."""
    places = PLACES[: len(starts)]
    waiting: Counter[Kind] = Counter()
    started, most = 0, 0
    for _ in range(60):
        left = total - started - waiting.total()
        queues = {place: Queue(waiting[place], total) for place in places}
        asked = to_ask(missing - started, left, queues)
        waiting += asked
        if not asked:
            waiting -= to_let_go(missing - started, left, queues)
        most = max(most, started + waiting.total())
        for place, at_once in zip(places, starts, strict=True):
            if at_once:
                begun = min(waiting[place], missing - started)
                started, waiting[place] = started + begun, waiting[place] - begun
    assert most <= total
    if any(starts) and total >= len(starts):
        # One goes on to wait in each place that starts nothing.
        assert started >= min(missing, total - starts.count(False))
