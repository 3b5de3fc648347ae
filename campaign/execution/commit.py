"""A stage becomes committed: a clean directory with a manifest, moved to its place by one rename.

What is not committed does not exist. Everything is written beside its target on the same file system, fsynced
and renamed; the target is never made beforehand, because a rename onto an empty directory would succeed.
"""

import errno
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from campaign.errors import LedgerError
from campaign.layout import Layout, fsync_directory, sync_filesystem

MANIFEST = "manifest.json"
MANIFEST_FORMAT = 1


def is_committed(layout: Layout, stage_id: str) -> bool:
    """Whether the stage is committed; one look, no reading."""
    return (layout.stage(stage_id) / MANIFEST).exists()


def read_manifest(directory: Path) -> dict[str, Any]:
    """Manifest of a committed stage.

    Raises
    ------
    LedgerError
        There is none, or it is damaged, or of an unknown format.
    """
    path = directory / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise LedgerError(f"no readable manifest: {error}", where=str(directory)) from error
    if not isinstance(manifest, dict):
        raise LedgerError("the manifest is damaged", where=str(path))
    if manifest.get("format") != MANIFEST_FORMAT:
        raise LedgerError(
            f"manifest of format {manifest.get('format')} is unknown to this version", where=str(path)
        )
    if not isinstance(manifest.get("files"), dict) or "attempt" not in manifest:
        raise LedgerError("the manifest is damaged", where=str(path))
    return manifest


def manifest_sha256(directory: Path) -> str:
    """SHA-256 of a committed stage's manifest, which holds the hashes of all its files."""
    return sha256(directory / MANIFEST)


def verify(directory: Path, *, without: str | None = None, hashes: bool = True) -> None:
    """Compare the files of a committed stage or segment with its manifest.

    ``without`` names a file that need not be there; without ``hashes`` only names and sizes are compared.

    Raises
    ------
    LedgerError
        A file is missing or was changed; the message names it.
    """
    for name, file in read_manifest(directory)["files"].items():
        path = directory / name
        if name == without:
            continue
        if not path.is_file():
            raise LedgerError("a file of a committed stage is missing", where=str(path))
        if path.stat().st_size != file["size"] or (hashes and sha256(path) != file["sha256"]):
            raise LedgerError("a file of a committed stage was changed", where=str(path))


def sha256(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def commit_directory(
    staging: Path, target: Path, layout: Layout, attempt_id: str, manifest: Mapping[str, Any]
) -> bool:
    """Commit the files in ``staging`` as the directory ``target`` of a campaign.

    Returns
    -------
    bool
        False if it was committed meanwhile by another attempt: this late copy loses.
    """
    seal(staging, attempt_id, manifest)
    sync_files([staging])
    won = place(staging, target, layout, attempt_id)
    sync_names([target])
    return won


def seal(staging: Path, attempt_id: str, manifest: Mapping[str, Any]) -> None:
    """Add a manifest to the files in ``staging``, with the hash and size of each."""
    files = {
        str(path.relative_to(staging)): {"sha256": sha256(path), "size": path.stat().st_size}
        for path in sorted(staging.rglob("*"))
        if path.is_file()
    }
    whole = {"format": MANIFEST_FORMAT, **manifest, "attempt": attempt_id, "files": files}
    (staging / MANIFEST).write_text(json.dumps(whole, indent=1, allow_nan=False))


def place(staging: Path, target: Path, layout: Layout, attempt_id: str) -> bool:
    """Move a sealed directory, whose files are on disk, to its place by one rename.

    The rename itself is not on disk yet. False if another attempt was there before.
    """
    _make_parents(target, layout)
    try:
        staging.rename(target)
    except OSError as error:
        # NFS can report failure for a rename that happened; and the target may be there already.
        winner = _attempt_of(target)
        if winner is None:
            raise
        if winner != attempt_id:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
            return False
    return True


def sync_files(directories: Sequence[Path]) -> None:
    """Put the files in directories of one file system on disk."""
    if len(directories) == 1:
        _fsync_tree(directories[0])
    else:
        sync_filesystem(directories[0])


def sync_names(directories: Sequence[Path]) -> None:
    """Put the names of directories of one file system on disk."""
    if len(directories) == 1:
        fsync_directory(directories[0].parent)
    else:
        sync_filesystem(directories[0].parent)


def _make_parents(target: Path, layout: Layout) -> None:
    """Make the directories above ``target`` durable; the target itself is never made before the rename."""
    if target.parent.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    for parent in target.parents[1:]:
        fsync_directory(parent)
        if parent == layout.root:
            break


def _attempt_of(directory: Path) -> str | None:
    try:
        return str(read_manifest(directory)["attempt"])
    except LedgerError:
        return None


def _fsync_tree(directory: Path) -> None:
    for path, _, names in os.walk(directory, topdown=False):
        for name in names:
            descriptor = os.open(Path(path) / name, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        fsync_directory(Path(path))
