"""Writing the store: the driver appends rows and commits each append by one rename."""

import importlib.metadata
import json
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence, Set
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from zarr.codecs import ZstdCodec

from campaign.errors import CampaignError, ResourceError, StoreError
from campaign.layout import sync_filesystem, write_atomic
from campaign.store.reader import REBUILD, STORE_FORMAT, check_format, read_tables
from campaign.store.rows import (
    IDENTITY,
    RUN,
    Result,
    Row,
    axis_names,
    fill_value,
    identity_columns,
    label_columns,
    label_name,
    merge_axis,
    pad,
    read_row,
    stack,
)

TAIL_ROWS = 512
"""Rows that wait for each other before they are written; readers take them from the stages meanwhile."""

_SHARD_BYTES = 64 * 2**20
_CHUNK_BYTES = 512 * 2**10
_MAX_SHARD_ROWS = 2**16
_TEXT_BYTES = 64  # assumed mean size of a text when shards are laid out


class Store:
    """The writer: there is one of it, in the driver. Readers use `read_tables`."""

    def __init__(self, path: Path, campaign: str, spec_sha256: str | None) -> None:
        self._path = path
        self._provenance = {
            "campaign": campaign,
            "campaign_version": importlib.metadata.version("campaign"),
            **({} if spec_sha256 is None else {"spec_sha256": spec_sha256}),
        }
        self._known: dict[str, set[str]] = {}
        self._tail: dict[str, list[tuple[Row, Result]]] = {}
        self._tail_bytes: dict[str, int] = {}

    @classmethod
    def open(
        cls, path: Path, *, campaign: str, create: bool = False, spec_sha256: str | None = None
    ) -> "Store":
        """Open the store for writing.

        Parameters
        ----------
        path
            ``results.zarr`` of the campaign.
        campaign
            Name of the campaign that it must belong to.
        create
            Make it where it is missing.
        spec_sha256
            Recorded in the groups that are written from now on.

        Raises
        ------
        StoreError
            It is missing, has another format or belongs to another campaign; nothing was changed.
        """
        if create and not (path / "zarr.json").exists():
            path.mkdir(parents=True, exist_ok=True)
            attributes = {
                "format": STORE_FORMAT,
                "campaign": campaign,
                "campaign_version": importlib.metadata.version("campaign"),
                "created": _now(),
            }
            write_atomic(path / "zarr.json", _group_json(attributes))
        owner = check_format(path).get("campaign")
        if owner != campaign:
            raise StoreError(f"the store belongs to campaign {owner!r}, not to {campaign!r}", where=str(path))
        store = cls(path, campaign, spec_sha256)
        for name, table in read_tables(path).items():
            store._known[name] = set(table.stage_ids())
        return store

    def stage_ids(self, calculation: str) -> Set[str]:
        """Ids of the stages whose results were given to ``calculation``; flushed or not. Not a copy."""
        return self._known.setdefault(calculation, set())

    def append(self, calculation: str, rows: Iterable[Row]) -> None:
        """Take results; they are written when enough have come together, or by `flush`.

        Rows whose stage is already there are skipped.

        Raises
        ------
        StoreError
            A result cannot be read.
        """
        known = self._known.setdefault(calculation, set())
        tail = self._tail.setdefault(calculation, [])
        for row in rows:
            if row.stage_id in known:
                continue
            dataset = read_row(row.path)
            tail.append((row, dataset))
            known.add(row.stage_id)
            self._tail_bytes[calculation] = self._tail_bytes.get(calculation, 0) + dataset.nbytes
            if len(tail) >= TAIL_ROWS or self._tail_bytes[calculation] >= _SHARD_BYTES:
                self._write(calculation)

    def flush(self) -> None:
        """Write all rows that were appended."""
        for calculation, tail in self._tail.items():
            if tail:
                self._write(calculation)

    def _write(self, calculation: str) -> None:
        try:
            writer = _GroupWriter(self._path, calculation, self._provenance)
            writer.append(self._tail[calculation])
            _write_index(self._path)
        except CampaignError:
            raise
        except OSError as error:
            message = f"cannot write results of {calculation!r}: {error.strerror or error}"
            hint = "make room for them; then the same command goes on, and nothing is computed twice"
            raise ResourceError(message, where=str(self._path), hint=hint) from error
        except Exception as error:
            message = f"cannot write results of {calculation!r}: {error}"
            raise StoreError(message, where=str(self._path), hint=REBUILD) from error
        self._tail[calculation].clear()
        self._tail_bytes[calculation] = 0


class _GroupWriter:
    """Appends rows to the group of one calculation and commits them."""

    def __init__(self, store: Path, calculation: str, provenance: Mapping[str, str]) -> None:
        self.path = store / calculation
        self.provenance = provenance
        self.attributes: dict[str, Any] = {"rows": 0, "created": _now()}
        self.committed: dict[str, Any] = {}
        self.path.mkdir(exist_ok=True)
        if (self.path / "zarr.json").exists():
            document = json.loads((self.path / "zarr.json").read_bytes())
            self.attributes = document["attributes"]
            self.committed = document["consolidated_metadata"]["metadata"]
        self.rows = int(self.attributes["rows"])
        self._undo()

    def _undo(self) -> None:
        """Take back what an append wrote that was killed before its commit."""
        for entry in self.path.iterdir():
            if entry.is_dir() and entry.name not in self.committed:
                shutil.rmtree(entry)
        for name in self.committed:
            array = self._open(name)
            if array.shape != self._shape(name):
                if array.metadata.dimension_names[0] == RUN:
                    array[self.rows :] = array.fill_value  # or it would show when the array grows again
                array.resize(self._shape(name))

    def append(self, rows: Sequence[tuple[Row, Result]]) -> None:
        datasets = [dataset for _, dataset in rows]
        axes = {name: self._axis(name, datasets) for name in axis_names(datasets)}
        columns = identity_columns([row for row, _ in rows])
        for name in dict.fromkeys(str(name) for dataset in datasets for name in dataset.variables):
            if name not in axes:
                columns[name] = stack(name, datasets, axes)
        known = set(self.attributes.get("coordinates", "").split()) - set(IDENTITY)
        if clash := sorted(known & {*columns, *axes}):
            message = f"{clash[0]!r} is a label, and now a variable too"
            raise StoreError(message, where=str(self.path), hint=REBUILD)
        taken = {*columns, *axes, *self._sizes(columns.values())}
        labels: dict[str, xr.Variable] = {}
        for label in sorted({label for row, _ in rows for label in row.labels}):
            name = label_name(label, taken)
            kind = self._open(name).dtype.kind if name in self.committed else None
            labels |= label_columns(label, [row for row, _ in rows], name, kind)
        columns.update(labels)
        sizes = self._sizes(columns.values()) | {name: axis.size for name, axis in axes.items()}
        for name, axis in axes.items():
            self._write_axis(name, axis)
        end = self.rows + len(rows)
        for name, column in columns.items():
            array = self._array(name, column)
            shape = tuple(sizes[str(dim)] for dim in column.dims[1:])
            array.resize((end, *shape))
            array[self.rows : end] = pad(column.values, shape)
        for name in self.committed.keys() - columns.keys() - axes.keys():
            dims = self.committed[name]["dimension_names"]
            if dims[0] == RUN:
                array = self._open(name)
                array.resize((end, *(sizes[dim] for dim in dims[1:])))
                array[self.rows : end] = array.fill_value
        self._commit(end, coordinates=[*IDENTITY, *labels])

    def _sizes(self, columns: Iterable[xr.Variable]) -> dict[str, int]:
        """Length of every dimension: the longest of what is committed and what comes."""
        sizes: dict[str, int] = {}
        shapes = [(array["dimension_names"], array["shape"]) for array in self.committed.values()]
        for dims, shape in [*shapes, *((column.dims, column.shape) for column in columns)]:
            for dim, length in zip(dims, shape, strict=True):
                sizes[dim] = max(length, sizes.get(dim, 0))
        return sizes

    def _open(self, name: str) -> Any:
        return zarr.open_array(self.path / name, mode="r+", zarr_format=3)

    def _shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.committed[name]["shape"])

    def _array(self, name: str, column: xr.Variable) -> Any:
        """Array of a variable, made where it is missing."""
        if name in self.committed:
            array = self._open(name)
            before, now = (array.metadata.dimension_names, array.dtype.kind), (column.dims, column.dtype.kind)
            if before != now:
                message = f"{name!r} has dimensions and type {now}, before {before}"
                raise StoreError(message, where=str(self.path), hint=REBUILD)
            return array
        size = _TEXT_BYTES if column.dtype.kind == "T" else column.dtype.itemsize
        row_bytes = size * max(1, math.prod(column.shape[1:]))
        chunk_rows = _power_of_two(_CHUNK_BYTES / row_bytes, _MAX_SHARD_ROWS // 8)
        shard_rows = max(chunk_rows, _power_of_two(_SHARD_BYTES / row_bytes, _MAX_SHARD_ROWS))
        trailing = tuple(max(1, length) for length in column.shape[1:])
        return zarr.create_array(
            self.path / name,
            shape=(self.rows, *column.shape[1:]),
            chunks=(chunk_rows, *trailing),
            shards=(shard_rows, *trailing),
            **_array_options(column),
        )

    def _axis(self, name: str, datasets: Sequence[Result]) -> xr.Variable:
        """Coordinate of a dimension other than ``run``: that of the store, continued by what is new."""
        before = []
        if name in self.committed:
            before = self._open(name)[: self._shape(name)[0]].tolist()
        try:
            return merge_axis(name, before, datasets)
        except StoreError as error:
            raise StoreError(error.message, where=str(self.path), hint=error.hint) from None

    def _write_axis(self, name: str, axis: xr.Variable) -> None:
        if name not in self.committed:
            chunks = (max(1, axis.size),)
            array = zarr.create_array(
                self.path / name, shape=axis.shape, chunks=chunks, **_array_options(axis)
            )
        elif self._shape(name) == axis.shape:
            return
        else:
            array = self._open(name)
            array.resize(axis.shape)
        array[:] = axis.values

    def _commit(self, rows: int, coordinates: Sequence[str]) -> None:
        sync_filesystem(self.path)  # rows that are counted outlive a power failure
        known = self.attributes.get("coordinates", "").split()
        attributes = {
            **self.attributes,
            **self.provenance,
            "rows": rows,
            "updated": _now(),
            "coordinates": " ".join(dict.fromkeys([*known, *coordinates])),
        }
        names = sorted(entry.name for entry in self.path.iterdir() if entry.is_dir())
        arrays = {name: json.loads((self.path / name / "zarr.json").read_bytes()) for name in names}
        write_atomic(self.path / "zarr.json", _group_json(attributes, arrays))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _array_options(variable: xr.Variable) -> dict[str, Any]:
    text = variable.dtype.kind == "T"
    return {
        "dtype": "str" if text else variable.dtype,
        "fill_value": 0 if variable.dtype.kind in "iu" else fill_value(variable.dtype),
        "dimension_names": variable.dims,
        "attributes": {str(key): _plain(value) for key, value in variable.attrs.items()},
        # The checksum lets a reader notice that a shard was replaced between two of its reads.
        "compressors": ZstdCodec(level=3, checksum=True),
        "zarr_format": 3,
        "overwrite": True,
    }


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _power_of_two(value: float, largest: int) -> int:
    return min(largest, 1 << math.floor(math.log2(max(value, 1))))


def _group_json(attributes: Mapping[str, Any], members: Mapping[str, Any] | None = None) -> str:
    """``zarr.json`` of a group with inline consolidated metadata, as zarr-python and xarray read it."""
    consolidated = {"kind": "inline", "must_understand": False, "metadata": dict(members or {})}
    document = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": dict(attributes),
        "consolidated_metadata": consolidated,
    }
    return json.dumps(document, indent=1)


def _write_index(path: Path) -> None:
    """Repeat the metadata of all groups in the root, where xarray looks for it."""
    root = json.loads((path / "zarr.json").read_bytes())
    members: dict[str, Any] = {}
    for group in sorted(entry for entry in path.iterdir() if (entry / "zarr.json").exists()):
        document = json.loads((group / "zarr.json").read_bytes())
        arrays = document["consolidated_metadata"]["metadata"]
        document["consolidated_metadata"] = {**document["consolidated_metadata"], "metadata": {}}
        members[group.name] = document
        members.update({f"{group.name}/{name}": array for name, array in arrays.items()})
    write_atomic(path / "zarr.json", _group_json(root["attributes"], members))
