"""How many jobs are asked for, and which are let go (`tests/scripted_jobs.py`)."""

import pytest

from campaign.errors import FailureClass
from campaign.execution.jobs import ENDING_S, IDLE_S, MOST_AT_ONCE, NO_WORKER_S, VERDICT_S
from campaign.execution.slurm import MOST_UNKNOWN, JobState
from campaign.execution.troubles import MOST_REFUSED_S, ONE_FAILURE_S, REFUSED_S
from tests.scripted_jobs import CPU, FACTS, GPU, MORE, NEEDS_S, Scene, with_places


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(monkeypatch)


def test_as_many_jobs_as_have_something_to_do_up_to_the_most(scene: Scene) -> None:
    scene.request({GPU: 2, CPU: 5})
    assert [options["job_name"] for options in scene.cluster.submitted].count("c-1.2.gpu") == 2
    assert [options["job_name"] for options in scene.cluster.submitted].count(
        "c-1.2.cpu"
    ) == 2  # of four slots
    scene.request({GPU: 50, CPU: 5})
    assert len(scene.cluster.submitted) == 5
    for _ in range(5):
        scene.request({GPU: 50, CPU: 5})
    assert len(scene.cluster.submitted) == 5


def test_jobs_of_an_earlier_driver_are_used_before_others_are_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = Scene(monkeypatch, {"41": "c-1.1.gpu", "42": "c-1.1.gpu+", "43": "c-1.1.cpu"})
    scene.request({GPU: 2, MORE: 1})
    assert scene.cluster.cancelled == ["43"]  # it waited in the queue for nothing
    assert [options["job_name"] for options in scene.cluster.submitted] == ["c-1.2.gpu"]
    scene.request({GPU: 2, MORE: 1}, {scene.start("41")})
    scene.end("42", "TIMEOUT")
    scene.request({GPU: 2, MORE: 1})
    assert [options["job_name"] for options in scene.cluster.submitted] == ["c-1.2.gpu", "c-1.2.gpu+"]
    assert scene.cluster.cancelled == ["43", "42"]


def test_a_slurm_that_does_not_answer_at_the_start_is_waited_for(scene: Scene) -> None:
    scene.left.found, scene.left.problem = None, "unable to contact slurm controller"
    assert scene.request({GPU: 2}) == {}
    assert scene.cluster.submitted == []
    assert scene.jobs.picture()["said"] == ["SLURM does not answer (unable to contact slurm controller)"]
    scene.left.found = {}
    scene.request({GPU: 2})
    assert len(scene.cluster.submitted) == 2
    assert scene.jobs.picture()["said"] == []


def test_what_a_waiting_job_waited_for_is_told_only_while_it_waits(scene: Scene) -> None:
    scene.request({GPU: 1})
    scene.request({GPU: 1})
    scene.watch.states["1"] = JobState("PENDING", "PartitionDown")
    assert scene.jobs.picture()["said"] == ["waiting for PartitionDown"]
    scene.start("1")
    scene.watch.states["1"] = JobState("PENDING", "PartitionDown")  # SLURM was not asked again
    assert scene.jobs.picture()["said"] == []


def test_kinds_of_a_resource_share_its_jobs(scene: Scene) -> None:
    scene.request({GPU: 2})
    scene.request({GPU: 2, MORE: 2})
    assert [options["job_mem"] for options in scene.cluster.submitted] == ["4096M", "4096M", "8192M"]


def test_what_waits_is_let_go_before_what_runs_and_what_works_is_kept(scene: Scene) -> None:
    scene.request({GPU: 3})
    scene.request({GPU: 3})
    busy = {scene.start("1")}
    scene.start("2")
    scene.request({GPU: 1}, busy)
    assert scene.cluster.cancelled == ["3"]
    for _ in range(int(IDLE_S) + 2):
        scene.request({GPU: 1}, busy)
    assert scene.cluster.cancelled == ["3", "2"]
    for _ in range(int(IDLE_S) + 2):
        scene.request({GPU: 1}, busy)
    assert scene.cluster.cancelled == ["3", "2"]


def test_a_job_that_was_let_go_gets_no_work_while_its_worker_is_still_there(scene: Scene) -> None:
    scene.request({GPU: 1})
    scene.request({GPU: 1})
    address = scene.start("1")
    for _ in range(int(IDLE_S) + 2):
        assert address in scene.jobs.slots()
        scene.request({GPU: 1}, {address})
    while not scene.cluster.cancelled:
        scene.request({})
    assert address in scene.workers
    assert scene.jobs.slots() == {}


def test_a_job_that_was_wanted_meanwhile_is_idle_from_then_on(scene: Scene) -> None:
    scene.request({GPU: 2})
    scene.request({GPU: 2})
    busy = {scene.start("1")}
    scene.start("2")
    for wanted, seconds in ((1, IDLE_S - 5), (2, 2), (1, IDLE_S - 5)):
        for _ in range(int(seconds)):
            scene.request({GPU: wanted}, busy)
    assert scene.cluster.cancelled == []


def test_a_job_without_time_for_a_segment_is_given_back_and_replaced(scene: Scene) -> None:
    scene.request({GPU: 1})
    scene.request({GPU: 1})
    scene.now += 20  # so long it waits in the queue
    busy = {scene.start("1", left_s=NEEDS_S + 30)}
    scene.request({GPU: 1}, busy)
    scene.now += 60
    scene.request({GPU: 1}, busy)
    assert len(scene.cluster.submitted) == 1  # what runs in it goes on
    scene.now += 50  # now as much is left as the job took to start
    scene.request({GPU: 1}, busy)
    scene.request({GPU: 1}, busy)
    assert (len(scene.cluster.submitted), scene.cluster.cancelled) == (2, [])
    scene.request({GPU: 1})
    assert scene.cluster.cancelled == ["1"]


def test_a_job_that_ends_counts_until_slurm_says_that_it_has_ended(scene: Scene) -> None:
    scene.lingering = True
    for _ in range(2):
        scene.request({GPU: 3})
    busy = {scene.start(str(number), left_s=NEEDS_S - 1) for number in (1, 2, 3)}
    scene.jobs._start_s[GPU] = NEEDS_S  # so long before its end another one is asked for where there is room
    for _ in range(3):
        scene.request({GPU: 3}, busy)
    assert len(scene.cluster.submitted) == 3  # as many as the site states
    for _ in range(3):
        scene.request({GPU: 3}, set(sorted(busy)[:1]))
    assert sorted(scene.cluster.cancelled) == ["2", "3"]
    assert len(scene.cluster.submitted) == 3  # they are about to end
    scene.end("2", "CANCELLED")
    for _ in range(3):
        scene.request({GPU: 3}, set(sorted(busy)[:1]))
    assert len(scene.cluster.submitted) == 4
    scene.now += ENDING_S  # the node of the other one never comes to an end with it
    for _ in range(3):
        scene.request({GPU: 3}, set(sorted(busy)[:1]))
    assert len(scene.cluster.submitted) == 5


def test_a_worker_out_of_time_gets_nothing_more_although_it_was_heard_late(scene: Scene) -> None:
    scene.request({GPU: 1})
    scene.request({GPU: 1})
    address = scene.start("1", left_s=1000)
    scene.now += 998  # for the worker, which was heard a second or two late, the time is over
    slot = scene.jobs.slots()[address]
    assert slot.left_s() <= 0


def test_a_refusal_that_may_pass_is_waited_for(scene: Scene) -> None:
    scene.cluster.refusal = "Job violates accounting/QOS policy"
    assert scene.request({GPU: 1}) == {}
    assert scene.request({GPU: 1}) == {}
    assert "SLURM refuses jobs (Job violates accounting/QOS policy)" in str(scene.jobs.picture())
    scene.cluster.refusal = ""
    scene.request({GPU: 1})
    assert scene.cluster.submitted == []
    scene.now += REFUSED_S
    scene.request({GPU: 1})
    scene.request({GPU: 1})
    assert len(scene.cluster.submitted) == 1
    assert "refuses" not in str(scene.jobs.picture())


def test_a_refusal_that_nobody_knows_has_some_tries(scene: Scene) -> None:
    scene.cluster.refusal = "Batch job submission failed: Unspecified error"
    for _ in range(MOST_UNKNOWN - 1):
        scene.request({GPU: 1})
        assert scene.request({GPU: 1}) == {}
        scene.now += MOST_REFUSED_S
    scene.request({GPU: 1})
    assert "Unspecified error" in scene.request({GPU: 1})["gpu"]


def test_a_refusal_for_good_is_told(scene: Scene) -> None:
    scene.cluster.refusal = "invalid partition specified: gpuu"
    scene.request({GPU: 1})
    assert scene.request({GPU: 1}) == {"gpu": "SLURM refuses its jobs: invalid partition specified: gpuu"}


def test_a_job_that_would_wait_for_ever_is_cancelled_and_told(scene: Scene) -> None:
    scene.request({GPU: 1})
    scene.request({GPU: 1})
    scene.watch.states["1"] = JobState("PENDING", "PartitionTimeLimit")
    assert scene.request({GPU: 1}) == {"gpu": "job 1 would wait for ever: PartitionTimeLimit"}
    scene.request({GPU: 1})
    assert scene.cluster.cancelled == ["1"]


def test_jobs_that_end_before_a_worker_starts_are_told(scene: Scene) -> None:
    for number in ("1", "2"):
        scene.request({GPU: 1})
        assert scene.request({GPU: 1}) == {}
        scene.end(number, "FAILED", f"n{number}")
    (told,) = scene.request({GPU: 1}).values()
    assert told == "its jobs end before a worker starts (FAILED); see jobs/c-1.2.gpu-2.err"


def test_a_node_on_which_no_worker_starts_is_left_out_before_its_resource_is_given_up(scene: Scene) -> None:
    for number in ("1", "2"):
        scene.request({GPU: 1})
        scene.request({GPU: 1})
        scene.end(number, "FAILED", "n7")
    assert scene.request({GPU: 1}) == {}
    assert "--exclude=n7" in scene.cluster.submitted[2]["job_extra_directives"]
    scene.request({GPU: 1})
    scene.end("3", "FAILED", "n8")
    assert "before a worker starts" in scene.request({GPU: 1})["gpu"]


def test_the_only_node_on_which_no_worker_starts_is_told(scene: Scene) -> None:
    for number in ("1", "2"):
        scene.request({GPU: 1})
        scene.request({GPU: 1})
        scene.end(number, "FAILED", "n7")
    scene.cluster.refusal = "Requested node configuration is not available"
    scene.request({GPU: 1})
    (told,) = scene.request({GPU: 1}).values()
    assert "node configuration" in told
    assert "its jobs end before a worker starts (FAILED); see jobs/c-1.2.gpu-2.err" in told


def test_a_resource_whose_jobs_are_at_work_is_not_held(scene: Scene) -> None:
    scene.request({GPU: 1})
    scene.request({GPU: 1})
    busy = {scene.start("1")}
    for number in ("2", "3"):
        assert scene.request({GPU: 2}, busy) == {}
        scene.request({GPU: 2}, busy)
        scene.end(number, "FAILED", f"n{number}")
    for _ in range(3):
        assert scene.request({GPU: 2}, busy) == {}
    assert len(scene.cluster.submitted) == 3  # only no more is asked for
    scene.end("1", "TIMEOUT")
    assert "before a worker starts" in scene.request({GPU: 2})["gpu"]


def test_a_slot_that_was_missed_once_has_no_more_time_than_before(scene: Scene) -> None:
    scene.request({GPU: 1})
    scene.request({GPU: 1})
    address = scene.start("1", left_s=1000)
    until = scene.jobs.slots()[address].until
    workers, scene.workers = scene.workers, {}
    assert scene.jobs.slots() == {}
    scene.now += 500
    scene.workers = workers
    assert scene.jobs.slots()[address].until == until


def test_a_job_that_slurm_took_without_an_answer_is_adopted_before_others_are_asked_for(scene: Scene) -> None:
    scene.cluster.refusal = "Batch job submission failed: Socket timed out on send/recv operation"
    scene.request({GPU: 1})
    scene.request({GPU: 1})
    assert scene.looks == [REFUSED_S]
    scene.cluster.refusal = ""
    scene.now += REFUSED_S
    scene.request({GPU: 1})
    assert scene.cluster.submitted == []  # nobody knows yet what there is
    scene.left.found = {"77": "c-1.2.gpu"}
    for _ in range(3):
        scene.request({GPU: 1})
    assert scene.cluster.submitted == []
    address = scene.start("77")
    scene.request({GPU: 1}, {address})
    for _ in range(int(IDLE_S) + 2):
        scene.request({})
    assert scene.cluster.cancelled[-1:] == ["77"]


def test_jobs_that_are_known_or_were_let_go_are_not_adopted(scene: Scene) -> None:
    scene.request({GPU: 3})
    scene.request({GPU: 3})
    scene.request({GPU: 2})
    assert scene.cluster.cancelled == ["3"]
    scene.cluster.refusal = "Unable to contact slurm controller"
    scene.request({GPU: 3})
    scene.request({GPU: 3})
    scene.left.found = dict.fromkeys(("1", "2", "3"), "c-1.2.gpu")
    scene.request({GPU: 3})
    assert [process.job_id for process in scene.cluster.workers.values()] == ["1", "2"]


def test_so_many_jobs_are_submitted_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, site=with_places(jobs=3 * MOST_AT_ONCE))
    for looks in (1, 2, 3, 4):
        scene.request({GPU: 3 * MOST_AT_ONCE})
        assert len(scene.cluster.submitted) == MOST_AT_ONCE * min(3, looks)


@pytest.mark.parametrize("state", ["FAILED", "CANCELLED"])
def test_the_end_of_a_job_that_was_left_says_nothing_of_others(
    monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    """It was ending, perhaps, before this driver came."""
    left = {"41": "c-1.1.gpu", "42": "c-1.1.gpu", "43": "c-1.1.gpu"}
    scene = Scene(monkeypatch, left)
    scene.request({GPU: 3})
    for number, job in enumerate(left):
        scene.end(job, state, f"n{number}")
    for _ in range(2):
        assert scene.request({GPU: 3}) == {}
    assert scene.cluster.kinds == ["gpu"] * 3


def test_a_job_that_never_comes_to_its_end_is_replaced(scene: Scene) -> None:
    scene.request({GPU: 1})
    scene.request({GPU: 1})
    scene.start("1")
    scene.end("1", "COMPLETING")
    scene.request({GPU: 1})
    scene.now += NO_WORKER_S
    for _ in range(3):
        assert scene.request({GPU: 1}) == {}
    assert len(scene.cluster.submitted) == 2


def test_a_node_that_fails_twice_is_left_out(scene: Scene) -> None:
    for number, node in (("1", "n7"), ("2", "n8"), ("3", "n7")):
        scene.request({GPU: 1})
        scene.request({GPU: 1})
        scene.start(number, node=node)
        scene.end(number, "NODE_FAIL", node)
        scene.request({})
        scene.now += ONE_FAILURE_S
    scene.request({GPU: 1})
    excluded = ["--exclude=n7" in options["job_extra_directives"] for options in scene.cluster.submitted]
    assert excluded == [False, False, False, True]
    assert "left out after failures: n7" in str(scene.jobs.picture())


def test_a_node_that_takes_several_jobs_with_it_failed_once(scene: Scene) -> None:
    scene.request({GPU: 3})
    scene.request({GPU: 3})
    for number in ("1", "2", "3"):
        scene.start(number, node="n7")
        scene.end(number, "NODE_FAIL", "n7")
    scene.request({GPU: 3})
    scene.request({GPU: 3})
    assert len(scene.cluster.submitted) == 6
    assert "left out" not in str(scene.jobs.picture())


def test_a_node_that_slurm_does_not_name_is_not_left_out(scene: Scene) -> None:
    for number in ("1", "2"):
        scene.request({GPU: 1})
        scene.request({GPU: 1})
        scene.end(number, "NODE_FAIL", "")
        scene.request({})
        scene.now += ONE_FAILURE_S
    scene.request({GPU: 1})
    assert not [one for one in scene.cluster.submitted[2]["job_extra_directives"] if "exclude" in one]


def test_jobs_that_somebody_cancelled_are_not_asked_for_again(scene: Scene) -> None:
    scene.request({GPU: 3})
    scene.request({GPU: 3})
    for number in ("1", "2"):
        scene.end(number, "CANCELLED")
    assert scene.request({GPU: 3}) == {}
    assert len(scene.cluster.submitted) == 3
    scene.end("3", "CANCELLED")
    told = scene.request({GPU: 3})
    assert told == {"gpu": "all its jobs were cancelled; `campaign run` asks for new ones"}


@pytest.mark.parametrize(
    ("state", "failure_class"),
    [
        ("TIMEOUT", FailureClass.WALLTIME),
        ("OUT_OF_MEMORY", FailureClass.OUT_OF_MEMORY),
        ("NODE_FAIL", FailureClass.NODE_FAILURE),
        ("PREEMPTED", FailureClass.PREEMPTED),
        ("CANCELLED", FailureClass.JOB_CANCELLED),
        ("FAILED", FailureClass.LOST_WORKER),
    ],
)
def test_why_a_worker_was_lost(scene: Scene, state: str, failure_class: FailureClass) -> None:
    scene.request({GPU: 1})
    scene.request({GPU: 1})
    address = scene.start("1")
    slot = scene.jobs.slots()[address]
    since = scene.now
    assert scene.jobs.why_lost(slot, since) is None  # SLURM thinks that it runs
    scene.end("1", state)
    loss = scene.jobs.why_lost(slot, since)
    assert loss is not None
    assert loss.failure_class == failure_class
    assert loss.message.startswith("job 1 on n1: ")


@pytest.mark.parametrize(
    ("killed", "failure_class"), [(3, FailureClass.LOST_WORKER), (4, FailureClass.OUT_OF_MEMORY)]
)
def test_a_worker_that_died_in_a_job_that_goes_on(
    scene: Scene, killed: int, failure_class: FailureClass
) -> None:
    scene.request({GPU: 1})
    scene.request({GPU: 1})
    address = scene.start("1", killed=3)
    slot = scene.jobs.slots()[address]
    del scene.workers[address]
    scene.workers["tls://n1:again"] = {"campaign": {**FACTS, "killed": killed}}
    scene.jobs.slots()
    loss = scene.jobs.why_lost(slot, scene.now)
    assert loss is not None
    assert loss.failure_class == failure_class


def test_a_worker_of_which_slurm_says_nothing_is_lost_after_a_while(scene: Scene) -> None:
    scene.request({GPU: 1})
    scene.request({GPU: 1})
    address = scene.start("1")
    slot = scene.jobs.slots()[address]
    del scene.workers[address]
    scene.jobs.slots()
    since = scene.now
    scene.now += VERDICT_S - 1
    assert scene.jobs.why_lost(slot, since) is None
    scene.now += 2
    loss = scene.jobs.why_lost(slot, since)
    assert loss is not None
    assert loss.failure_class == FailureClass.LOST_WORKER


def test_what_slurm_gave_up_is_no_slot_any_more(scene: Scene) -> None:
    """On a node that is cut off the worker may go on."""
    scene.request({GPU: 1})
    scene.request({GPU: 1})
    address = scene.start("1")
    assert address in scene.jobs.slots()
    scene.watch.states["1"] = JobState("NODE_FAIL", node="n1")
    assert address in scene.workers
    assert scene.jobs.slots() == {}
