"""The store of 10^5 runs with spectra of 1,000 points: its files, and what reading it costs.

Run ``python -m benchmarks.analysis DIR --runs 100000``. Results go into the store through its writer, as the
driver gives them, but from memory: neither stages nor a driver are part of this. Reading is by
`campaign.open`, each in a process of its own; against numpy reading the same spectra from one file.
"""

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.commands import finished_picture
from benchmarks.durable_runs import install_plugin, memory_mb, timed, write_spec
from benchmarks.machine import yardstick

READ = """
import sys, time
import numpy as np
import campaign
import campaign.results

def report(what, work):
    wall, cpu = time.perf_counter(), time.process_time()
    value = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    status = open("/proc/self/status").read()
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1e3  # ru_maxrss has that of the parent
    print(f"{what}: {wall:.2f} s, processor {cpu:.2f} s, peak {peak:.0f} MB", flush=True)
    return value

opened = campaign.open(sys.argv[1])
ds = report("open", lambda: opened.results["noop"].ds)
report("one scalar of all runs", lambda: ds["first"].values)
four = ("first", "second", "third", "fourth")
report("four scalars of all runs", lambda: [ds[name].values for name in four])
def moments():
    spectrum = ds["spectrum"]
    return spectrum.mean("seed").values, spectrum.std("seed", ddof=1).values
if "spectrum" in ds:
    report("mean and deviation over seeds of the spectrum, xarray", moments)
    report("the same by .campaign.mean", lambda: ds[["spectrum"]].campaign.mean("seed").load())
"""


def fill(root: Path, runs: int, points: int) -> None:
    """Write plan, snapshot and store of a campaign that has all its results."""
    import numpy as np

    from campaign.execution.snapshot import RunBoard, write_snapshot
    from campaign.layout import Layout
    from campaign.plan import make_plan
    from campaign.plan_file import save_plan
    from campaign.protocols.base import Stage
    from campaign.spec import load_spec
    from campaign.store import Row, Store, writer
    from campaign.store.rows import Result

    layout = Layout(root)
    root.mkdir(parents=True)
    spec = load_spec(write_spec(root / "spec.yaml", root.name, "batch", points, runs))
    plan, stages = make_plan(spec, allow_large=True)
    save_plan(plan, layout.plan)
    board = RunBoard(plan, dict.fromkeys(plan.stages, "done"))
    write_snapshot(layout, finished_picture(plan, board))
    store = Store.open(layout.store, campaign=plan.campaign, create=True)
    rng = np.random.default_rng(1)
    from campaign_noop import noise  # type: ignore[import-not-found]  # on the path by `install_plugin`

    example = noise(Stage("reduce", "noop", stages[plan.stages.ids[1]].settings, 1), {})

    def from_memory(_: Path) -> Result:
        values = {str(name): variable.copy() for name, variable in example.variables.items()}
        if points:
            values["spectrum"].values = rng.normal(size=points)
        return Result.of(values)

    def append() -> None:
        with mock.patch.object(writer, "read_row", from_memory):
            for run in plan.runs:
                row = Row(run.result_stage, "0" * 64, root, run.id, run.labels)
                store.append("noop", [row])
            store.flush()

    before = memory_mb()
    cost = timed(append)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    files = [path for path in layout.store.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files) / 1e6
    print(
        f"{runs} runs, spectra of {points}: written in {cost.wall_s:.1f} s, processor {cost.cpu_s:.1f} s "
        f"({1e3 * cost.cpu_s / runs:.2f} ms a run); {len(files)} files, {size:.0f} MB; "
        f"memory {before:.0f} MB before, {peak:.0f} MB at most",
        flush=True,
    )


def plain_numpy(root: Path, runs: int, points: int) -> None:
    """Mean and deviation of as many spectra from one file: what the reading itself costs."""
    import numpy as np

    path = root / "plain.npy"
    shape = (10, runs // 10, points)
    written: Any = np.lib.format.open_memmap(path, "w+", dtype=np.float64, shape=shape)
    for block in written:
        block[:] = np.random.default_rng(1).normal(size=shape[1:])
    del written
    clock = time.perf_counter()
    for block in np.load(path, mmap_mode="r"):
        block.mean(axis=0), block.std(axis=0, ddof=1)
    print(f"numpy, one file of the same numbers: {time.perf_counter() - clock:.2f} s", flush=True)
    path.unlink()


def main() -> None:
    """Fill, then read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("directory", type=Path, help="scratch space")
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--points", type=int, default=1000)
    options = parser.parse_args()
    install_plugin()
    root = options.directory / f"store-{options.runs}-{options.points}"
    if not root.exists():
        fill(root, options.runs, options.points)
    print(yardstick(), flush=True)
    subprocess.run([sys.executable, "-c", READ, str(root)], check=True)
    if options.points:
        plain_numpy(root, options.runs, options.points)


if __name__ == "__main__":
    main()
