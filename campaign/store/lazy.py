"""Cells of a labelled view as lazy arrays over rows: those of the store, then those only in their stages."""

import math
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from campaign.store.reader import Table
from campaign.store.rows import axis_names, fill_value, merge_axis, pad, read_row, stack

Integers = NDArray[np.int64]

MISSING = -1
"""Row of a cell that has no result."""

_BLOCK_BYTES = 32 * 2**20


class Rows:
    """All committed rows of one calculation.

    Parameters
    ----------
    table
        Rows in the store, or None where there are none yet.
    tail
        Directories of further committed stages by id; read at once, there are few of them.

    Attributes
    ----------
    row_of
        Row of each stage.
    variables
        Dimensions of each variable, ``run`` first.
    axes
        Coordinates of the other dimensions.
    """

    def __init__(self, table: Table | None, tail: Mapping[str, Path]) -> None:
        self.table = table
        self._stored = 0 if table is None else table.rows
        stored_ids = [] if table is None else table.stage_ids()
        self.row_of = {stage_id: row for row, stage_id in enumerate([*stored_ids, *tail])}
        datasets = [read_row(directory) for directory in tail.values()]
        self.axes: dict[str, xr.Variable] = {} if table is None else dict(table.axes)
        for name in axis_names(datasets):
            before = self.axes[name].values.tolist() if name in self.axes else []
            self.axes[name] = merge_axis(name, before, datasets)
        names = dict.fromkeys(str(name) for dataset in datasets for name in dataset.variables)
        self._tail = {name: stack(name, datasets, self.axes) for name in names if name not in self.axes}
        self.variables: dict[str, tuple[Hashable, ...]] = {n: v.dims for n, v in self._tail.items()}
        if table is not None:
            self.variables |= table.variables
        self._sizes: dict[Hashable, int] = {}
        for variable in [*self.axes.values(), *self._tail.values()]:
            self._enlarge(variable.dims, variable.shape)
        if table is not None:
            for name, dims in table.variables.items():
                self._enlarge(dims[1:], table.shape(name))

    def _enlarge(self, dims: tuple[Hashable, ...], shape: tuple[int, ...]) -> None:
        for dim, length in zip(dims, shape, strict=True):
            self._sizes[dim] = max(length, self._sizes.get(dim, 0))

    def shape(self, name: str) -> tuple[int, ...]:
        """Lengths of a variable's dimensions after ``run``."""
        return tuple(self._sizes[dim] for dim in self.variables[name][1:])

    def dtype(self, name: str) -> np.dtype[Any]:
        """Type of a variable's values."""
        if self.table is not None and name in self.table.variables:
            return self.table.dtype(name)
        dtype: np.dtype[Any] = self._tail[name].dtype
        return dtype

    def attrs(self, name: str) -> dict[str, Any]:
        """Attributes of a variable."""
        if self.table is not None and name in self.table.variables:
            return self.table.attrs(name)
        return dict(self._tail[name].attrs)

    def read(self, name: str, rows: Integers) -> NDArray[Any]:
        """Values of the given rows, shape (len(rows), ...); the fill value where a row is `MISSING`."""
        shape, dtype = self.shape(name), self.dtype(name)
        stored = (rows >= 0) & (rows < self._stored)
        if self.table is not None and name in self.table.variables and stored.all():
            return pad(self.table.read(name, rows), shape)
        values = np.full((rows.size, *shape), fill_value(dtype), dtype=dtype)
        if self.table is not None and name in self.table.variables and stored.any():
            values[stored] = pad(self.table.read(name, rows[stored]), shape)
        later = rows >= self._stored
        if name in self._tail and later.any():
            values[later] = pad(self._tail[name].values[rows[later] - self._stored], shape)
        return values

    def lazy(self, name: str, cells: Integers, dims: tuple[str, ...]) -> xr.Variable:
        """Variable over ``cells`` (rows, with the dimensions ``dims``), read when it is used."""
        data = indexing.LazilyIndexedArray(_CellArray(self, name, cells))
        return xr.Variable((*dims, *self.variables[name][1:]), data, self.attrs(name))


class _CellArray(BackendArray):
    """One variable of a view: cells in, values of their rows out."""

    def __init__(self, rows: Rows, name: str, cells: Integers) -> None:
        self._rows = rows
        self._name = name
        self._cells = cells
        self._text = rows.dtype(name).kind == "T"
        self.shape = (*cells.shape, *rows.shape(name))
        self.dtype = np.dtype(object) if self._text else rows.dtype(name)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._outer
        )

    def _outer(self, key: tuple[Any, ...]) -> NDArray[Any]:
        cells = _take(self._cells, key[: self._cells.ndim])
        inner = (slice(None), *key[self._cells.ndim :])
        flat = cells.reshape(-1)
        row_bytes = 8 * max(1, math.prod(self.shape[self._cells.ndim :]))
        step = max(1, _BLOCK_BYTES // row_bytes)
        values = _take(self._rows.read(self._name, flat[:step]), inner)
        if flat.size > step:
            # Filled block by block: together the blocks would take the memory of the whole once more.
            first, values = values, np.empty((flat.size, *values.shape[1:]), dtype=values.dtype)
            values[:step] = first
            for start in range(step, flat.size, step):
                part = slice(start, start + step)
                values[part] = _take(self._rows.read(self._name, flat[part]), inner)
        values = values.reshape((*cells.shape, *values.shape[1:]))
        return values.astype(object) if self._text else values


def _take(array: NDArray[Any], key: tuple[Any, ...]) -> NDArray[Any]:
    """Outer indexing: each axis on its own; an integer removes its axis."""
    for axis in range(len(key) - 1, -1, -1):
        if not (isinstance(key[axis], slice) and key[axis] == slice(None)):
            array = np.asarray(array[(slice(None),) * axis + (key[axis],)])
    return array
