"""A resource with several places: jobs wait in all, those that start first are used, none is too many."""

import pytest

from campaign.execution.troubles import REFUSED_S
from campaign.site import Place
from tests.scripted_jobs import GPU, Scene, with_places


def test_what_starts_first_is_used_and_the_rest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    long = Place(partition="long", walltime="4:00:00", jobs=1)
    scene = Scene(monkeypatch, site=with_places(long, jobs=4))
    scene.request({GPU: 2})
    assert scene.cluster.kinds == ["gpu", "gpu", "gpu@2"]  # two are wanted, and one is the most in `long`
    assert [one["queue"] for one in scene.cluster.submitted] == [None, None, "long"]
    assert [one["walltime"] for one in scene.cluster.submitted] == ["1:00:00", "1:00:00", "4:00:00"]
    scene.request({GPU: 2})
    first = scene.start("3", kind="gpu@2")
    assert [slot.kind for slot in scene.jobs.slots().values()] == [GPU]
    scene.request({GPU: 2}, {first})
    assert scene.cluster.cancelled == ["2"]
    second = scene.start("1")
    for _ in range(3):
        scene.request({GPU: 2}, {first, second})
    assert (scene.cluster.cancelled, len(scene.cluster.submitted)) == (["2"], 3)
    scene.end("3", "TIMEOUT")
    scene.request({GPU: 2}, {second})
    assert scene.cluster.kinds[3:] == ["gpu", "gpu@2"]


def test_jobs_that_wait_go_where_others_start_and_never_are_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = Scene(monkeypatch, site=with_places(Place(partition="b"), jobs=8))
    most, busy = 0, set[str]()
    for _ in range(12):
        scene.request({GPU: 8}, busy)
        most = max(most, len(scene.cluster.workers))
        for number, kind in enumerate(scene.cluster.kinds, start=1):
            waits = str(number) not in scene.cluster.cancelled and str(number) not in scene.watch.states
            if kind == "gpu@2" and waits:  # there is room in `b` at once, and none in the other place
                busy.add(scene.start(str(number), kind=kind))
    assert most == 8
    assert len(busy) == 7  # one goes on to wait in the other place
    assert len(scene.cluster.workers) == 8


def test_less_is_wanted_while_all_of_a_place_have_started(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, site=with_places(Place(partition="b"), jobs=6))
    scene.request({GPU: 6})
    scene.request({GPU: 6})
    busy = {scene.start(str(number), kind="gpu@2") for number in (4, 5, 6)}
    scene.request({GPU: 4}, busy)  # the fourth waits in the first place: two are surplus there, none moves
    assert sorted(scene.cluster.cancelled) == ["2", "3"]


def test_a_place_that_refuses_leaves_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, site=with_places(Place(partition="b"), jobs=4))
    scene.cluster.refusal, scene.cluster.refused_kind = "invalid partition specified: b", "gpu@2"
    for _ in range(3):
        assert scene.request({GPU: 2}) == {}
    assert scene.cluster.kinds == ["gpu", "gpu"]
    scene.cluster.refused_kind = ""
    scene.end("1", "FAILED")
    scene.end("2", "FAILED", "n2")
    for _ in range(2):
        nowhere = scene.request({GPU: 2})
    assert nowhere["gpu"].count("SLURM refuses its jobs: invalid partition") == 1


def test_a_place_at_its_limit_is_asked_again_later_and_the_other_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = Scene(monkeypatch, site=with_places(Place(partition="b"), jobs=4))
    scene.cluster.refusal, scene.cluster.refused_kind = "Job violates accounting/QOS policy", "gpu"
    for _ in range(3):
        scene.request({GPU: 2})
    assert scene.cluster.kinds == ["gpu@2", "gpu@2"]
    scene.cluster.refusal = ""
    scene.now += REFUSED_S
    scene.request({GPU: 2})
    assert scene.cluster.kinds == ["gpu@2", "gpu@2", "gpu", "gpu"]


def test_jobs_of_an_earlier_driver_are_known_in_their_places(monkeypatch: pytest.MonkeyPatch) -> None:
    site = with_places(Place(partition="b", jobs=1), jobs=4)
    scene = Scene(monkeypatch, {"41": "c-1.1.gpu@2"}, site)
    scene.request({GPU: 1})
    assert scene.cluster.kinds == ["gpu"]
    scene.request({GPU: 1}, {scene.start("41", kind="gpu@2")})
    assert scene.cluster.cancelled == ["1"]
