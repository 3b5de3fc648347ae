"""What a run costs that does nothing: real driver, ledger, commits and store, against plain Dask.

Run ``python -m benchmarks.durable_runs DIR --runs 1000 5000 --way batch``; ``DIR`` is scratch space, in which
the campaigns are left (``DIR/batch-1000`` and so on).

The same two worker processes first take the campaign, then as many tasks that return their argument, by
``client.map``: one by one, and in lists of 50. The no-op is in `noop_plugin/campaign_noop.py`.
"""

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import yardstick

PLUGIN = Path(__file__).parent / "noop_plugin"
BATCH = 50

SPEC = """\
campaign: {name}
calculations:
  noop:
    engine: noop
    settings: {{way: {way}, points: {points}}}
    axes:
      variant: [{variants}]
      seed: {{count: {seeds}}}
"""
VARIANTS = 10


@dataclass(frozen=True)
class Cost:
    """Seconds that something took: on the clock, and of the processor in this process."""

    wall_s: float
    cpu_s: float


def install_plugin() -> None:
    """Let this process, and those that it starts, find the no-op engine."""
    sys.path.insert(0, str(PLUGIN))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(PLUGIN), os.environ.get("PYTHONPATH"))))


def write_spec(path: Path, name: str, way: str, points: int, runs: int) -> Path:
    """Write a spec of ``runs`` runs under ten conditions."""
    variants = ", ".join(str(number) for number in range(1, VARIANTS + 1))
    path.write_text(SPEC.format(name=name, way=way, points=points, variants=variants, seeds=runs // VARIANTS))
    return path


def timed(work: Callable[[], Any]) -> Cost:
    """Do it once."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Cost(time.perf_counter() - wall, time.process_time() - cpu)


def memory_mb() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def same(item: Any) -> Any:
    """Do nothing, for plain Dask."""
    return item


def each_same(items: Sequence[Any]) -> Sequence[Any]:
    """Do nothing to many items in one task."""
    return [same(item) for item in items]


def plain_dask(client: Any, runs: int) -> Iterator[tuple[str, Cost]]:
    """Time the same number of tasks without anything durable."""

    def finish(futures: list[Any]) -> None:
        client.gather(futures)
        client.cancel(futures)

    yield "one by one", timed(lambda: finish(client.map(same, range(runs), pure=False)))
    lists = [list(range(start, min(start + BATCH, runs))) for start in range(0, runs, BATCH)]
    yield f"lists of {BATCH}", timed(lambda: finish(client.map(each_same, lists, pure=False)))


def measure(root: Path, way: str, points: int, runs: int, workers: int) -> None:
    """Run one campaign of no-ops, then plain Dask, and print what each run cost."""
    from campaign.execution import driver, place
    from campaign.execution.cluster import Cluster, open_workers
    from campaign.plan import make_plan
    from campaign.spec import load_spec

    name = f"{way}-{runs}" + (f"-{points}" if points else "")
    spec_path = write_spec(root / f"{name}.yaml", name, way, points, runs)
    spec = load_spec(spec_path)
    plan, stages = make_plan(spec, allow_large=True)
    memory = [memory_mb()]

    def watch(_: Any) -> None:
        memory.append(memory_mb())

    with open_workers(workers, 1) as cluster:

        @contextlib.contextmanager
        def shared(*_: Any) -> Iterator[Cluster]:
            yield cluster

        vars(place)["open_workers"] = shared  # the workers that plain Dask gets too
        cost = timed(
            lambda: driver.run_campaign(
                root / name, plan, stages, spec_text=spec.text, workers=workers, on_snapshot=watch
            )
        )
        every = dict(plain_dask(cluster.client, runs))
    least = every["one by one"] if way != "batch" else every[f"lists of {BATCH}"]
    added = 1e3 * (cost.wall_s - least.wall_s) / runs
    print(
        f"{name}: {cost.wall_s:.1f} s, driver's processor {cost.cpu_s:.1f} s; "
        f"{1e3 * cost.wall_s / runs:.2f} ms a run; "
        + "; ".join(f"plain Dask {how} {1e3 * one.wall_s / runs:.2f} ms" for how, one in every.items())
        + f"; added {added:.2f} ms a run, {cost.wall_s / least.wall_s:.1f} times; "
        f"memory {memory[0]:.0f} MB with the plan, {memory[1]:.0f} at the start, {max(memory):.0f} at most, "
        f"growth {max(memory) - memory[1]:.0f}",
        flush=True,
    )


def main() -> None:
    """Measure each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("directory", type=Path, help="scratch space")
    parser.add_argument("--runs", type=int, nargs="+", default=[1000])
    parser.add_argument("--way", choices=["batch", "alone", "engine"], default="batch")
    parser.add_argument("--points", type=int, default=0, help="points of a spectrum in each result")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    install_plugin()
    options.directory.mkdir(parents=True, exist_ok=True)
    for runs in options.runs:
        print(yardstick(), flush=True)
        measure(options.directory, options.way, options.points, runs, options.workers)


if __name__ == "__main__":
    main()
