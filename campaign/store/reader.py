"""Reading the store: committed rows only, while it is being written, on a read-only file system."""

import json
import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import xarray as xr
import zarr

from campaign.errors import StoreError
from campaign.store.rows import RUN

logger = logging.getLogger(__name__)

STORE_FORMAT = 1
"""Raised when the layout changes; other formats are refused and left as they are."""

REBUILD = "`campaign rebuild` makes it again from the committed stages"

FEWEST_IN_SPAN = 16
"""Rows are read in spans where those have so many rows on average, else row by row."""

_WIDEST_GAP = 4

_T = TypeVar("_T")
_Indices = np.ndarray[Any, np.dtype[np.int64]]


class Table:
    """Committed rows of one calculation, read only.

    Attributes
    ----------
    rows
        Number of committed rows.
    attributes
        Provenance of the group.
    variables
        Dimensions by name of each variable that has a ``run`` dimension.
    axes
        Coordinates of the other dimensions, in memory.
    """

    def __init__(self, store: Path, calculation: str) -> None:
        self._where = str(store / calculation)
        self._group = zarr.open_group(str(store), path=calculation, mode="r")
        self.attributes: dict[str, Any] = dict(self._group.attrs)
        self.rows = int(self.attributes["rows"])
        self._arrays: dict[str, Any] = dict(self._group.arrays())
        self.variables: dict[str, tuple[str, ...]] = {}
        self.axes: dict[str, xr.Variable] = {}
        for name, array in sorted(self._arrays.items()):
            dims = tuple(array.metadata.dimension_names)
            if dims[0] == RUN:
                self.variables[name] = dims
            else:
                values = _read(partial(array.__getitem__, slice(None)), self._where)
                self.axes[name] = xr.Variable(dims, values, dict(array.attrs))

    def dtype(self, name: str) -> np.dtype[Any]:
        """Type of a variable's values."""
        dtype: np.dtype[Any] = self._arrays[name].dtype
        return dtype

    def shape(self, name: str) -> tuple[int, ...]:
        """Lengths of a variable's dimensions after ``run``."""
        return tuple(self._arrays[name].shape[1:])

    def attrs(self, name: str) -> dict[str, Any]:
        """Attributes of a variable (``units``, ``long_name``)."""
        return dict(self._arrays[name].attrs)

    def read(self, name: str, rows: _Indices) -> np.ndarray[Any, Any]:
        """Values of the given rows, shape (len(rows), ...); reads no more chunks than hold them.

        Raises
        ------
        StoreError
            The store is damaged.
        """
        array = self._arrays[name]
        if rows.size == 0:
            empty: np.ndarray[Any, Any] = np.empty((0, *array.shape[1:]), dtype=array.dtype)
            return empty
        unique = rows if bool(np.all(rows[1:] > rows[:-1])) else np.unique(rows)
        starts, ends = _spans(unique)
        if starts.size > 1 + unique.size // FEWEST_IN_SPAN:
            block = _values(lambda: array.oindex[unique], self._where)
            place = np.searchsorted(unique, rows)
        else:  # slices are much faster than a selection of rows
            parts = [
                _values(partial(array.__getitem__, slice(int(start), int(end))), self._where)
                for start, end in zip(starts, ends, strict=True)
            ]
            block = parts[0] if len(parts) == 1 else np.concatenate(parts)
            if len(block) == rows.size and unique is rows:
                return block
            before = np.concatenate([[0], np.cumsum(ends - starts)[:-1]])
            span = np.searchsorted(starts, rows, side="right") - 1
            place = rows - starts[span] + before[span]
        values: np.ndarray[Any, Any] = block[place]
        return values

    def stage_ids(self) -> list[str]:
        """Stage id of each row."""
        ids: list[str] = self.read("stage_id", np.arange(self.rows)).tolist()
        return ids


def _spans(rows: _Indices) -> tuple[_Indices, _Indices]:
    """First row of each span of ascending ``rows``, and the row after its last; small gaps are read too."""
    cuts = np.flatnonzero(np.diff(rows) > _WIDEST_GAP) + 1
    return rows[np.concatenate([[0], cuts])], rows[np.concatenate([cuts - 1, [rows.size - 1]])] + 1


def read_tables(path: Path) -> dict[str, Table]:
    """Tables of a store by calculation, as of now; empty where there is no store yet.

    Raises
    ------
    StoreError
        It cannot be read or has another format.
    """
    if not path.exists():
        return {}
    check_format(path)
    names = sorted(entry.name for entry in path.iterdir() if (entry / "zarr.json").exists())
    return {name: _read(partial(Table, path, name), str(path)) for name in names}


def check_format(path: Path) -> dict[str, Any]:
    """Attributes of a store, after a look at its format.

    Raises
    ------
    StoreError
        There is no store, or it has another format.
    """
    try:
        attributes: dict[str, Any] = json.loads((path / "zarr.json").read_bytes())["attributes"]
    except FileNotFoundError as error:
        raise StoreError("no result store here", where=str(path)) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"cannot read the result store: {error}", where=str(path), hint=REBUILD) from error
    if attributes.get("format") != STORE_FORMAT:
        raise StoreError(
            f"the result store has format {attributes.get('format')}, this version reads {STORE_FORMAT}",
            where=str(path),
            hint=f"{REBUILD}; or use the version of campaign that wrote it",
        )
    return attributes


def _read(read: Callable[[], _T], where: str) -> _T:
    """Read; once more after a moment, since the writer may have replaced a shard between two reads."""
    try:
        return read()
    except Exception as first:
        logger.debug("reading %s again after: %s", where, first)
        time.sleep(0.1)
    try:
        return read()
    except Exception as error:
        raise StoreError(f"cannot read the result store: {error}", where=where, hint=REBUILD) from error


def _values(read: Callable[[], Any], where: str) -> np.ndarray[Any, Any]:
    values: np.ndarray[Any, Any] = np.asarray(_read(read, where))
    return values
