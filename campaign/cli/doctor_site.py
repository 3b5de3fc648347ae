"""``campaign doctor --site``: whether a cluster can run campaigns, found out before anything is spent.

A job of at most two minutes for each resource answers questions from its node; nothing of it is left.
"""

import fcntl
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from campaign.cli.app import err
from campaign.cli.directory import scratch_of
from campaign.cli.doctor import ENGINES, Finding, checked, tell
from campaign.cli.text import plural
from campaign.errors import ResourceError
from campaign.execution import probe, probing
from campaign.execution.cluster import Kind
from campaign.execution.schedule import SHORT_KINDS
from campaign.execution.slurm import ask, site_environment
from campaign.site import DEFAULT, NamedSite, Resource, Site, find_site

MOST_SKEW_S = 5.0
SHARED_FOLDER = "shared folder"
SHARED = "campaigns need a folder that all nodes share: set scratch in the site"
NETWORK = (
    "set interface and driver_interface to a network that nodes and this machine share "
    "(`ip -brief address` lists them), or run campaign inside a job"
)
CLOCK = "ask for synchronised clocks: a node that is behind refuses the driver's keys until it has caught up"
DIRECTIVES = "change the resource's partition, account, qos, walltime, cores, memory_GB, gpus or directives"


def examine_site(name: str, *, wait_s: float, as_json: bool) -> int:
    """Print what is found of a site; the exit code says whether campaigns can run there.

    Parameters
    ----------
    name
        Name of the site, or its file.
    wait_s
        How long its short jobs may wait in the queue, in s.
    as_json
        Print data instead of lines.

    Raises
    ------
    SpecError
        There is no such site, or something is wrong with it.
    """
    named = find_site(name)
    with _ending_in_order(), site_environment(named.site), ExitStack() as stack:
        return tell(_Examination(named, stack).findings(wait_s), as_json=as_json)


@contextmanager
def _ending_in_order() -> Iterator[None]:
    """Let a closed terminal, or a kill, be like Ctrl-C: no job is left."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {
        number: signal.signal(number, interrupt)
        for number in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN  # as under nohup
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Examination:
    """Of one site; ``stack`` removes what is made for it."""

    def __init__(self, named: NamedSite, stack: ExitStack) -> None:
        self._named = named
        self._site = named.site.with_places()
        self._stack = stack
        self._folder = Path()
        self._host: str | None = None
        self._port = 0

    def findings(self, wait_s: float) -> Iterator[Finding]:
        resources = plural(len(self._named.site.resources), "resource")
        yield Finding("site", True, f"{self._named.name} with {resources}, {self._named.source}")
        slurm = checked("slurm", _slurm, "is SLURM_CONF right, under environment in the site?")
        yield slurm
        folder = checked("folder", self._make_folder, SHARED)
        yield folder
        if not (slurm.ok and folder.ok):
            return
        yield checked("locks", self._lock, "choose another file system: scratch in the site")
        yield checked("address", self._listen, NETWORK)
        accepted = []
        for name in self._site.resources:
            finding = checked(f"{name} directives", partial(self._submit_nothing, name), DIRECTIVES)
            yield finding
            if finding.ok:
                accepted.append(name)
        yield from self._ask_nodes(accepted, wait_s)

    def _make_folder(self) -> str:
        """Make a folder where campaigns would be made."""
        place = scratch_of(self._named) or (Path("campaigns") if Path("campaigns").is_dir() else Path())
        self._folder = self._stack.enter_context(probing.folder_in(place))
        if any(character.isspace() for character in str(self._folder)):
            raise ResourceError(
                f"{self._folder.parent} has a space in it, which a job's script cannot have",
                hint="choose another place: scratch in the site",
            )
        return f"{self._folder.parent} can be written"

    def _lock(self) -> str:
        """Take both kinds of locks: that of drivers, and that of the ledger."""
        with (self._folder / "here").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return "files can be locked from this machine"

    def _listen(self) -> str:
        host = probing.address_of(self._site)
        self._port = self._stack.enter_context(probing.listening(host))
        self._host = host
        return f"the scheduler of a campaign would listen on {host}"

    def _submit_nothing(self, name: str) -> str:
        probing.test_only(self._site, name, self._folder)
        return "sbatch accepts them"

    def _ask_nodes(self, resources: Sequence[str], wait_s: float) -> Iterator[Finding]:
        questions = {
            name: {
                "engines": (tuple(self._site.engines) or ENGINES) if _has_engine(self._site, name) else (),
                "host": self._host,
                "port": self._port,
                "interface": self._site.interface,
                "drives": name == self._site.driver,
            }
            for name in resources
        }
        jobs, refused = self._stack.enter_context(probing.probes(self._site, questions, self._folder))
        yield from (Finding(f"{name} job", False, said, DIRECTIVES) for name, said in refused.items())
        if jobs:
            told = f"submitted {plural(len(jobs), 'short job')}; waiting up to {wait_s:g} s for a node"
            err.print(told, style="dim", markup=False)
        probing.wait_for(jobs, wait_s)
        for job in jobs:
            yield from _of_job(job, self._site.resources[job.resource], wait_s)


def _slurm() -> str:
    version = ask(("sbatch", "--version")).strip()
    jobs = len(ask(("squeue", "--me", "-h", "-o", "%i")).split())
    return f"{version} answers; {plural(jobs, 'job')} of yours"


def _has_engine(site: Site, name: str) -> bool:
    """Whether stages with an engine may run in a resource."""
    return any(
        resource == Kind(name).anywhere.resource and (kind == DEFAULT or kind not in SHORT_KINDS)
        for kind, resource in site.stages.items()
    )


def _of_job(job: probing.Probe, resource: Resource, wait_s: float) -> Iterator[Finding]:
    """Tell what became of a short job, and what it answered."""
    name = job.resource
    if job.answer is None:
        yield Finding(f"{name} job", False, *_why_silent(job, wait_s))
        return
    node = job.answer["node"]
    yield Finding(f"{name} job", True, f"{job.job_id} started on {node} within {job.started_s:.0f} s")
    for question, found in job.answer.items():
        if question != "node":
            teller, label = _TELLERS[question.partition(" ")[0]]
            yield from teller(f"{name} {label or question}", found, resource, node)


def _why_silent(job: probing.Probe, wait_s: float) -> tuple[str, str]:
    state = job.state
    if state is not None and state.hopeless:
        return f"job {job.job_id} would wait for ever: {state.reason}; it is cancelled", DIRECTIVES
    if job.started_s is None and not job.ended:
        why = "SLURM does not say why" if state is None else state.reason or state.state
        todo = f"--wait {10 * wait_s:.0f} waits longer; sinfo and squeue --start tell what is free sooner"
        return f"job {job.job_id} still waits after {wait_s:g} s ({why}) and is cancelled", todo
    where = f"job {job.job_id}" + (f" on {state.node}" if state is not None and state.node else "")
    how = "" if state is None else f" ({state.state})"
    if job.last_words is None and job.ended:
        return f"{where} could not write into {job.folder.parents[1]}{how}", SHARED
    if state is not None and state.state == "OUT_OF_MEMORY":
        return f"{where} ended: it needed more memory", "raise memory_GB of the resource"
    said = f": {job.last_words}" if job.last_words else ""
    return (
        f"{where} ended without an answer{how}{said}",
        "python, setup and environment of the site must give its jobs a Python with campaign in it",
    )


def _environment(what: str, found: Mapping[str, Any], resource: Resource, node: str) -> Iterator[Finding]:
    del resource, node
    todo = "install campaign and what it needs where python of the site points to"
    if "problem" in found:
        yield Finding(what, False, found["problem"], todo)
        return
    here, there = probe.versions(), found["versions"]
    differing = [
        f"{name} {there.get(name, 'absent')} there, {version} here"
        for name, version in here.items()
        if _relevant(name, there.get(name)) != _relevant(name, version)
    ]
    if differing:
        told = f"{'; '.join(differing)}; {found['python']}"
        yield Finding(what, False, told, "use the same ones on both sides")
    else:
        told = ", ".join(f"{name} {version}" for name, version in there.items())
        yield Finding(what, True, f"{told}; {found['python']}")


def _relevant(name: str, version: str | None) -> str | None:
    """Leave out the last part of Python's version, which makes no difference."""
    return version.rpartition(".")[0] if version is not None and name == "python" else version


def _engine(what: str, found: Mapping[str, Any], resource: Resource, node: str) -> Iterator[Finding]:
    del resource, node
    if "problem" in found:
        todo = "engines and setup of the site say where it is on the nodes"
        yield Finding(what, False, found["problem"], todo)
    else:
        yield Finding(what, True, f"{found['version']} on {found['device']}, {found['path']}")


def _gpus(what: str, found: Mapping[str, Any], resource: Resource, node: str) -> Iterator[Finding]:
    if not resource.gpus:
        return
    visible = [item for item in found.get("visible", "").split(",") if item]
    if "problem" in found or len(visible) != resource.gpus:
        counted = f"{len(visible)} of {plural(resource.gpus, 'GPU')} in CUDA_VISIBLE_DEVICES"
        seen = found.get("problem") or counted
        todo = "change gpus, gpu_type or partition: sinfo -o '%P %G' tells what there is"
        yield Finding(what, False, f"{node}: {seen}", todo)
    else:
        names = f": {', '.join(found['names'])}" if found["names"] else ""
        yield Finding(what, True, f"CUDA_VISIBLE_DEVICES={','.join(visible)}{names}")


def _rename(what: str, found: Mapping[str, Any], resource: Resource, node: str) -> Iterator[Finding]:
    del resource
    if "problem" in found:
        yield Finding(what, False, f"{node}: {found['problem']}", SHARED)
        return
    before, shown, after = found["clock"]
    yield Finding(what, True, f"directories renamed on {node} and here are seen whole on the other side")
    # This machine's clock showed its time between two of the node's.
    least, most = before - shown, after - shown
    what = what.replace(SHARED_FOLDER, "clock")
    if least <= MOST_SKEW_S and most >= -MOST_SKEW_S:
        yield Finding(what, True, f"{node} is at most {max(abs(least), abs(most)):.1f} s off")
    else:
        off = f"{least:.0f} s ahead" if least > 0 else f"{-most:.0f} s behind"
        yield Finding(what, False, f"{node} is at least {off}", CLOCK)


def _node_locks(what: str, found: Mapping[str, Any], resource: Resource, node: str) -> Iterator[Finding]:
    del resource
    if found.get("refused"):
        yield Finding(what, True, f"{node} sees what is locked here")
    else:
        seen = found.get("problem", "does not see what is locked here")
        todo = "run a campaign from one machine; another one takes a minute to see whether a driver is alive"
        yield Finding(what, None, f"{node}: {seen}", todo)


def _network(what: str, found: Mapping[str, Any], resource: Resource, node: str) -> Iterator[Finding]:
    del resource
    if "problem" in found:
        yield Finding(what, False, f"{node} does not reach this machine: {found['problem']}", NETWORK)
    elif found["reached"]:
        yield Finding(what, True, f"{node} reaches {found['reached']}")


def _node_slurm(what: str, found: Mapping[str, Any], resource: Resource, node: str) -> Iterator[Finding]:
    del resource
    if "problem" in found:
        todo = "give the driver a partition whose nodes may submit jobs, or do without --detach"
        yield Finding(what, False, f"{node}: {found['problem']}", todo)
    else:
        yield Finding(what, True, f"{found['version']} answers on {node}: a driver can work there")


_Teller = Callable[[str, Mapping[str, Any], Resource, str], Iterator[Finding]]

_TELLERS: Mapping[str, tuple[_Teller, str]] = {
    "environment": (_environment, ""),
    "engine": (_engine, ""),
    "gpus": (_gpus, "GPU"),
    "slurm": (_node_slurm, ""),
    "rename": (_rename, SHARED_FOLDER),
    "locks": (_node_locks, ""),
    "network": (_network, ""),
}
"""What tells of the answer to a question, and what the question is called if not by its own name."""
