"""What a plan costs on a site: numbers that can be checked by hand."""

import math
from pathlib import Path
from typing import Any

import pytest

from campaign.compare import DEFAULT_SPEEDS, CostRow, Measured
from campaign.errors import FailureClass
from campaign.layout import Layout
from campaign.ledger import Ending, Holder, Ledger
from campaign.site import Site
from campaign.site_cost import FACTOR_ELSEWHERE, FACTOR_MEASURED, Interval, SiteCost, site_cost
from tests.test_ledger import STAGES, stage

LJ = DEFAULT_SPEEDS["lammps", "tersoff-lj"]
HOUR = 3600.0
SEGMENT_S = 300.0


def row(kind: str, stages: int, hours: float = 0.0, **more: Any) -> CostRow:
    """Stages that take so many hours of a core each."""
    engine = "lammps" if hours else None
    atom_steps = round(hours * HOUR * LJ)
    known = {
        "engine": engine,
        "potential": "tersoff-lj" if engine else None,
        "atom_steps": stages * atom_steps,
    }
    rest = {
        "longest_atom_steps": atom_steps,
        "speed_atom_steps_per_s": None,
        "speed_from": "",
        "core_hours": None,
    }
    return CostRow(kind=kind, stages=stages, disk_bytes=0, files=0, **(known | rest | more))


def a_site(**gpu: Any) -> Site:
    of_gpu = {"walltime": "10:00:00", "memory_GB": 4, "gpus": 1, "jobs": 3} | gpu
    return Site.model_validate(
        {
            "scheduler": "slurm",
            "resources": {"gpu": of_gpu, "cpu": {"walltime": "1:00:00", "memory_GB": 1}},
            "stages": {"default": "gpu", "build": "cpu", "reduce": "cpu"},
        }
    )


def cost(site: Site, *rows: CostRow, measured: tuple[Measured, ...] = ()) -> SiteCost:
    usable_s = {name: resource.walltime_s - 100.0 for name, resource in site.resources.items()}
    return site_cost("there", site, rows, measured, segment_s=SEGMENT_S, usable_s=usable_s)


def near(interval: Interval | None, low: float, likely: float, high: float) -> bool:
    assert interval is not None
    return (interval.low, interval.likely, interval.high) == pytest.approx((low, likely, high), rel=1e-6)


def test_gpu_hours_are_gpus_times_wall_time() -> None:
    found = cost(a_site(gpus=4, cores=1), row("produce", 5, hours=6))
    assert near(found.gpu_hours, 4 * 30 / FACTOR_ELSEWHERE, 4 * 30, 4 * 30 * FACTOR_ELSEWHERE)
    assert near(found.core_hours, 10, 30, 90)
    assert found.basis == ("default",)


def test_runs_that_share_a_gpu_share_its_hours() -> None:
    alone = cost(a_site(), row("produce", 8, hours=6)).gpu_hours
    shared = cost(a_site(slots=4, cores=4, share_gpu=True), row("produce", 8, hours=6)).gpu_hours
    assert alone is not None
    assert shared is not None
    assert shared.likely == pytest.approx(alone.likely / 4)


def test_cores_of_a_slot_share_the_work_where_a_speed_is_that_of_a_core() -> None:
    found = cost(a_site(cores=8, slots=2, share_gpu=True), row("produce", 2, hours=6))
    (gpu,) = found.resources
    assert gpu.chain is not None
    assert gpu.chain.seconds == pytest.approx(6 * HOUR / 4)
    assert near(found.core_hours, 4, 12, 36)


@pytest.mark.parametrize(
    ("stages", "hours", "at_once", "jobs"),
    [
        (1, 1.0, 1, 1),  # one run needs one job
        (6, 0.1, 3, 3),  # as many as there may be are asked for, although one would do
        (6, 20.0, 3, 13),  # 120 h in jobs of 10 h less 100 s
    ],
)
def test_number_of_jobs(stages: int, hours: float, at_once: int, jobs: int) -> None:
    (gpu,) = cost(a_site(), row("produce", stages, hours=hours)).resources
    assert (gpu.jobs_at_once, gpu.jobs) == (at_once, jobs)
    assert gpu.most_jobs is not None
    assert gpu.most_jobs >= jobs


def test_walltimes_of_all_places_are_told() -> None:
    also = [{"partition": "short", "walltime": "1:00:00"}, {"partition": "long"}]
    (gpu,) = cost(a_site(also=also), row("produce", 1, hours=1)).resources
    assert gpu.walltime == "10:00:00 or 1:00:00"


def test_chain_of_the_longest_stage() -> None:
    longer = row("produce", 2, hours=25, longest_atom_steps=round(30 * HOUR * LJ))
    (gpu,) = cost(a_site(), row("equilibrate", 2, hours=1), longer).resources
    assert gpu.kinds == ("equilibrate", "produce")
    chain = gpu.chain
    assert chain is not None
    assert (chain.kind, chain.segments, chain.jobs) == ("produce", 360, 4)
    assert chain.seconds == pytest.approx(30 * HOUR)


def test_short_stages_take_seconds_and_no_gpu() -> None:
    found = cost(a_site(), row("build", 1), row("reduce", 120))
    (cpu,) = found.resources
    assert (cpu.resource, cpu.kinds, cpu.jobs, cpu.chain) == ("cpu", ("build", "reduce"), 1, None)
    assert near(found.gpu_hours, 0, 0, 0)
    assert found.core_hours is not None
    assert found.core_hours.likely == pytest.approx(121 / HOUR)
    assert found.basis == ()


def speed(*, in_jobs: bool, attempts: int, spread: float = 0.2, times: float = 2.0) -> Measured:
    return Measured("lammps", "tersoff-lj", in_jobs, times * LJ, attempts, spread)


@pytest.mark.parametrize(
    ("measured", "basis", "factor"),
    [
        ((speed(in_jobs=True, attempts=3),), "spread", 1.2),
        ((speed(in_jobs=True, attempts=2),), "measured", FACTOR_MEASURED),
        ((speed(in_jobs=False, attempts=9),), "elsewhere", FACTOR_ELSEWHERE),
        # What was measured in jobs counts, however often it was measured here.
        ((speed(in_jobs=True, attempts=5), speed(in_jobs=False, attempts=9, times=1)), "spread", 1.2),
    ],
)
def test_where_the_interval_comes_from(measured: tuple[Measured, ...], basis: str, factor: float) -> None:
    found = cost(a_site(), row("produce", 2, hours=6), measured=measured)
    assert found.basis == (basis,)
    assert near(found.gpu_hours, 6 / factor, 6, 6 * factor)
    assert found.attempts == (measured[0].attempts if basis == "spread" else 0)


def test_what_nobody_has_timed_is_unknown_and_above_every_limit() -> None:
    site = a_site()
    found = cost(site, row("produce", 1, hours=1, potential="new"), row("build", 1))
    assert found.gpu_hours is None
    assert {name: most for name, most, _ in found.above(site)} == {
        "GPU-hours": math.inf,
        "core-hours": math.inf,
    }
    (gpu, cpu) = found.resources
    assert (gpu.jobs, gpu.chain, cpu.jobs) == (None, None, 1)
    assert found.to_json()["gpu_hours"] is None


def test_the_upper_end_is_held_against_the_limits() -> None:
    site = a_site().model_copy(update={"ask_above_gpu_hours": 50.0})
    assert cost(site, row("produce", 1, hours=16)).above(site) == ()
    ((what, most, limit),) = cost(site, row("produce", 1, hours=17)).above(site)
    assert (what, limit) == ("GPU-hours", 50.0)
    assert most == pytest.approx(51)


def test_nothing_to_do_costs_nothing() -> None:
    site = a_site()
    found = cost(site)
    assert (found.resources, found.above(site)) == ((), ())


def test_the_ledger_tells_speeds_in_jobs_apart_and_their_spread(tmp_path: Path) -> None:
    ledger = Ledger.open(Layout(tmp_path))
    ledger.acquire(Holder.this_process())
    ledger.register(map(stage, STAGES))  # 10 atoms each
    slots = [(item, "slot", job) for item, job in zip(STAGES, ("1", "2", "2", None), strict=True)]
    walls_s = (1.0, 2.0, 4.0, 0.5)
    for attempt, wall_s in zip(ledger.begin(slots), walls_s, strict=True):
        ending = Ending(wall_s=wall_s, segments=1, steps=100)
        ledger.fail(attempt, FailureClass.WALLTIME, "", again=True, ending=ending)
    here, there = sorted(ledger.measured(), key=lambda one: one.in_jobs)
    assert (here.attempts, here.in_jobs, here.atom_steps_per_s, here.spread) == (1, False, 2000.0, 0.0)
    speeds = [1000 / wall_s for wall_s in walls_s[:3]]
    mean = sum(speeds) / 3
    deviation = math.sqrt(sum((one - mean) ** 2 for one in speeds) / 2)
    assert (there.engine, there.potential, there.attempts) == ("standin", "lj", 3)
    assert there.atom_steps_per_s == pytest.approx(3000 / 7)
    assert there.spread == pytest.approx(deviation / mean)
