"""What SLURM is asked for: names, options and scripts of jobs, and how their class submits itself."""

import math
import shlex
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any

from campaign.errors import ResourceError
from campaign.execution import slot as in_job
from campaign.execution.cluster import CONFIG, Kind
from campaign.execution.handover import ADDRESS, key_files
from campaign.execution.slurm import said_by_sbatch
from campaign.layout import Layout
from campaign.quantities import digest
from campaign.site import Site

DRIVER_GONE_S = 180
"""After so long without a driver a job has ended itself."""

_PATIENCE_S = 120
"""So long of it a job waits for the next driver, which needs a minute to see that it may drive."""

CONNECT_S = 60
"""So long a worker tries to reach the driver."""

SEGMENTS_IN_JOB = 3
"""A job should hold so many segments, or much of it would be left over."""

# A worker ends with 0 when its driver has gone. Another driver may come: it leaves its address in the file,
# and the job goes on with it. Where the file is taken away, nobody comes.
_WORKER_LOOP = """
while driver=$(cat {address} 2>/dev/null); do
  {command}
  code=$?
  until=$((SECONDS + {patience}))
  while ((code == 0 && SECONDS < until)) && [ "$(cat {address} 2>/dev/null)" = "$driver" ]; do
    sleep 1
  done
  [ "$(cat {address} 2>/dev/null)" != "$driver" ] || break
done
exit ${{code:-0}}
""".strip()


def segment_s(site: Site, longest_s: float) -> float:
    """Length of segments on a site: what fits its shortest job several times, in s."""
    times = [resource.shortest_walltime_s for resource in site.resources.values()]
    return min(longest_s, *((time - in_job.margin_s(time)) / SEGMENTS_IN_JOB for time in times))


def check_path(layout: Layout) -> None:
    """Check that jobs can have their output in a campaign's directory.

    Raises
    ------
    ResourceError
        Its path has a space, which SLURM's options cannot hold.
    """
    root = str(layout.root.resolve())
    if any(letter.isspace() for letter in root):
        raise ResourceError(
            "SLURM cannot write the output of jobs here: the path has a space",
            where=root,
            hint="choose another directory with --dir",
        )


def job_prefix(layout: Layout, campaign: str) -> str:
    """Start of the names of all jobs of a campaign: its name, and a tag of its place."""
    return f"{campaign}-{digest(str(layout.root.resolve()))[:6]}."


def job_options(
    site: Site, kind: Kind, *, name: str, log_directory: Path, excluded: Set[str] = frozenset()
) -> dict[str, Any]:
    """Keywords of a `dask_jobqueue.SLURMJob` for a kind of slot."""
    resource = site.resources[kind.resource]
    memory_GB = resource.memory_of(kind.raised)
    directives = ["--no-requeue", "--open-mode=append"]
    if resource.gpus:
        directives.append(f"--gres=gpu:{f'{resource.gpu_type}:' if resource.gpu_type else ''}{resource.gpus}")
    if resource.qos:
        directives.append(f"--qos={resource.qos}")
    if excluded:
        directives.append(f"--exclude={','.join(sorted(excluded))}")
    dask = [
        f"export DASK_{key.upper().replace('.', '__').replace('-', '_')}={value!s}"
        for key, value in CONFIG.items()
        if key.startswith("distributed.worker.") and isinstance(value, bool)
    ]
    return {
        "queue": resource.partition,
        "account": resource.account or site.account,
        "walltime": resource.walltime,
        "job_cpu": resource.cores,
        "job_mem": f"{math.ceil(memory_GB * 1024)}M",
        "cores": resource.slots,
        "processes": resource.slots,
        "memory": f"{memory_GB} GiB",
        "job_extra_directives": [*directives, *resource.directives],
        "job_name": f"{name}.{kind}",
        "log_directory": str(log_directory),
        "python": shlex.quote(site.python or sys.executable),
        "job_script_prologue": [
            *in_job.prologue(str(kind), resource.walltime_s),
            *site.exports(),
            *dask,
            *site.setup,
            *resource.setup,
        ],
        "death_timeout": CONNECT_S,
        "local_directory": '"${TMPDIR:-/tmp}"',
        "worker_extra_args": ["--preload", "campaign.execution.slot", "--no-dashboard"],
        "interface": site.interface,
    }


def job_script(
    site: Site, kind: Kind, *, name: str, log_directory: Path, arguments: Sequence[str] = ()
) -> str:
    """Script of a job as SLURM gets it; ``arguments`` are Python's, in place of a worker's."""
    # Dask makes the folder of the output at once; here nothing shall be made.
    with tempfile.TemporaryDirectory() as elsewhere:
        options = job_options(site, kind, name=name, log_directory=Path(elsewhere))
        security = key_files(log_directory)
        command = f"exec {options['python']} {shlex.join(arguments)}" if arguments else None
        job = job_class()(None, f"{name}-1", protocol="tls://", security=security, command=command, **options)
    script: str = job.job_script().replace(elsewhere, str(log_directory))
    return script


def import_jobqueue() -> Any:
    """Import ``dask_jobqueue``; it takes a second, and sets a handler that ends the process at Ctrl-C."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    import dask_jobqueue

    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return dask_jobqueue


def job_class() -> type:
    """Make the class of jobs; Dask takes a second to import."""
    import_jobqueue()
    from dask_jobqueue.slurm import SLURMJob
    from distributed.deploy.spec import ProcessInterface

    class Job(SLURMJob):  # type: ignore[misc]
        """A job whose refusal is a fact, not an error inside Dask's loop."""

        refused = ""
        left_running = False
        """Whether the jobs are left to the driver that follows, not cancelled."""

        _command_template: str

        def __init__(
            self, _: object, *args: Any, adopted: str | None = None, command: str | None = None, **more: Any
        ) -> None:
            # Not with the scheduler's address of now: a job may outlive its driver.
            address = shlex.quote(str(Path(more["log_directory"]) / ADDRESS))
            super().__init__(f"--scheduler-file {address}", *args, **more)
            self._adopted = adopted
            self._command_template = command or _WORKER_LOOP.format(
                address=address, command=self._command_template, patience=_PATIENCE_S
            )

        async def start(self) -> None:
            if self._adopted is not None:
                self.job_id = self._adopted
                await ProcessInterface.start(self)
                return
            try:
                await super().start()
            except (RuntimeError, ValueError, OSError) as error:
                self.refused = said_by_sbatch(str(error))
                await ProcessInterface.start(self)

        async def close(self) -> None:
            if not self.left_running:
                await super().close()
            await ProcessInterface.close(self)

    return Job
