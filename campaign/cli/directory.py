"""The directory of a campaign: whose it is, and whether it can be made."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from campaign.errors import LedgerError, ResourceError
from campaign.layout import FORMAT_VERSION, Layout, write_atomic

if TYPE_CHECKING:
    from campaign.site import NamedSite

CAMPAIGNS = Path("campaigns")


def scratch_of(named: "NamedSite") -> Path | None:
    """Folder of a site in which campaigns are made; None if it names none.

    Raises
    ------
    ResourceError
        It is not there.
    """
    folder = named.site.scratch_folder()
    if folder is None:
        return None
    if not folder.is_absolute():  # also when a variable in it is not set
        problem = (
            "a variable in it is not set" if "$" in str(folder) else "it must start with /, ~ or a variable"
        )
        raise ResourceError(f"scratch {named.site.scratch!r}: {problem}", where=str(named.source))
    if not folder.is_dir():
        raise ResourceError(
            f"scratch {str(folder)!r} is no folder", where=str(named.source), hint=f"mkdir -p {folder}"
        )
    return folder


def campaign_root(name: str, directory: Path | None, named: "NamedSite | None" = None) -> Path:
    """Tell where a campaign lies: as asked for, in ``campaigns/``, or on the scratch of a site.

    What is in ``campaigns/`` already, a directory or a link, is used there.

    Raises
    ------
    ResourceError
        The scratch is not there.
    LedgerError
        ``campaigns/NAME`` is a link to something else that is gone.
    """
    here = CAMPAIGNS / name
    if directory is not None or named is None or here.exists():
        return directory or here
    scratch = scratch_of(named)
    if scratch is None:
        return here
    root = scratch / name
    if here.is_symlink() and here.resolve() != root.resolve():
        raise LedgerError(
            f"links to {here.readlink()}, which is gone",
            where=str(here),
            hint=f"bring that back, or remove the link to begin anew in {root}",
        )
    return root


def link_here(root: Path, name: str) -> None:
    """Link ``campaigns/NAME`` to a campaign that lies elsewhere, so that all commands find it."""
    here = CAMPAIGNS / name
    if not here.is_symlink():
        CAMPAIGNS.mkdir(exist_ok=True)
        here.symlink_to(root.resolve(), target_is_directory=True)


def check_directory(layout: Layout, name: str) -> None:
    """Make sure that a directory is this campaign's, or can become it; nothing is written.

    Raises
    ------
    LedgerError
        It belongs to another campaign, holds something else, is a file, or has an unknown format.
    ResourceError
        It cannot be looked into.
    """
    try:
        identity = read_identity(layout)
        occupied = identity is None and layout.root.exists() and any(layout.root.iterdir())
    except NotADirectoryError:
        raise LedgerError(
            "is no directory", where=str(layout.root), hint="choose another with --dir"
        ) from None
    except OSError as error:
        raise _unusable(layout, error) from None
    if occupied:
        raise LedgerError(
            "the directory is not empty and is no campaign",
            where=str(layout.root),
            hint="choose another with --dir",
        )
    if identity is not None and identity["campaign"] != name:
        raise LedgerError(
            f"this directory belongs to the campaign {identity['campaign']!r}, not to {name!r}",
            where=str(layout.root),
            hint="choose another with --dir, or rename the campaign in the spec",
        )


def claim_directory(layout: Layout, name: str) -> None:
    """Make the campaign's directory, or make sure that it is this campaign's.

    Raises
    ------
    LedgerError
        The directory belongs to another campaign, holds something else, is a file, or has an unknown format.
    ResourceError
        It cannot be made or written to.
    """
    check_directory(layout, name)
    if layout.identity.exists():
        return
    identity = {
        "format": FORMAT_VERSION,
        "campaign": name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    try:
        layout.root.mkdir(parents=True, exist_ok=True)
        write_atomic(layout.identity, json.dumps(identity))
    except OSError as error:
        raise _unusable(layout, error) from None


def read_identity(layout: Layout) -> dict[str, Any] | None:
    """Read ``campaign.json``; None where there is none.

    Raises
    ------
    LedgerError
        It is damaged, or of an unknown format.
    """
    try:
        identity = json.loads(layout.identity.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        identity = None
    if not isinstance(identity, dict) or not {"format", "campaign"} <= set(identity):
        raise LedgerError(
            "damaged: it should hold the campaign's name and format",
            where=str(layout.identity),
            hint="bring it back from a copy, or choose another directory with --dir",
        )
    if identity["format"] != FORMAT_VERSION:
        raise LedgerError(
            f"format {identity['format']} is unknown to this version, which writes {FORMAT_VERSION}",
            where=str(layout.identity),
            hint="nothing was touched; use the version of campaign that made it",
        )
    return identity


def _unusable(layout: Layout, error: OSError) -> ResourceError:
    return ResourceError(
        f"the directory cannot be used: {error.strerror or error}",
        where=str(layout.root),
        hint="choose another with --dir",
    )
