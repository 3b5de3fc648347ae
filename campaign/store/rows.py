"""Rows of the store: reduced datasets of single runs, and how many of them become one along ``run``."""

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from scipy.io import netcdf_file

from campaign.errors import StoreError
from campaign.protocols.base import read_result

RUN = "run"
IDENTITY = ("stage_id", "manifest_sha256", "run_id")
TEXT = np.dtypes.StringDType()

Label = str | int | float | bool


@dataclass(frozen=True)
class Row:
    """One committed result.

    Attributes
    ----------
    stage_id
        The stage that holds the result; a stage is stored once, whatever number of runs share it.
    manifest_sha256
        SHA-256 of the stage's manifest.
    path
        Directory of the committed stage, with ``result.nc``.
    run_id
        The first run that asked for it.
    labels
        Labels of that run; numbers become floats, everything else text.
    """

    stage_id: str
    manifest_sha256: str
    path: Path
    run_id: str
    labels: Mapping[str, Label]


@dataclass(frozen=True)
class Result:
    """Reduced result of one run: its variables, coordinates among them, and the lengths of dimensions."""

    variables: Mapping[str, xr.Variable]
    sizes: Mapping[str, int]

    @classmethod
    def of(cls, variables: Mapping[str, xr.Variable]) -> "Result":
        """Collect variables, with the types of the store (float, bool, text) where they are no axes."""
        typed = {
            name: variable if variable.dims == (name,) else _typed(variable)
            for name, variable in variables.items()
        }
        sizes = {str(dim): n for one in typed.values() for dim, n in zip(one.dims, one.shape, strict=True)}
        return cls(typed, sizes)

    @property
    def nbytes(self) -> int:
        """Size of all values."""
        return sum(variable.nbytes for variable in self.variables.values())


def read_row(directory: Path) -> Result:
    """Reduced result of a committed stage, with the types of the store (float, bool, text).

    Raises
    ------
    StoreError
        The stage's result cannot be read.
    """
    try:
        # 10^5 small files: `xarray.open_dataset` takes ten times as long as the reading itself.
        plain = _read_plain(directory / "result.nc")
        found = read_result(directory).variables if plain is None else plain
        return Result.of({str(name): variable for name, variable in found.items()})
    except Exception as error:
        hint = "delete that directory: the stage is computed again"
        raise StoreError(f"cannot read the result: {error}", where=str(directory), hint=hint) from error


_ENCODING = frozenset({"_FillValue", "_Encoding", "dtype", "coordinates"})
"""Attributes that xarray adds when it writes numbers, flags and texts, and takes away when it reads them."""

_OTHER_ENCODINGS = frozenset({"scale_factor", "add_offset", "missing_value", "calendar", "_Unsigned"})


def _read_plain(path: Path) -> dict[str, xr.Variable] | None:
    """Read the numbers, flags and UTF-8 texts of a netCDF 3 file; None where it holds more than that."""
    with netcdf_file(path, "r", mmap=False) as file:
        variables: dict[str, xr.Variable] = {}
        for name, raw in file.variables.items():
            attrs = {
                key: value.decode() if isinstance(value, bytes) else value
                for key, value in raw._attributes.items()  # type: ignore[attr-defined]  # the only list of them
            }
            if not _is_plain(raw.data, attrs):
                return None
            dims, values = raw.dimensions, raw.data
            if values.dtype.kind == "S":
                dims = dims[:-1]
                packed = np.ascontiguousarray(values).view(f"S{values.shape[-1]}")
                values = np.strings.decode(packed.reshape(values.shape[:-1]), "utf-8")
            elif attrs.get("dtype") == "bool":
                values = values.astype(bool)
            else:
                values = values.astype(values.dtype.newbyteorder("="))
            kept = {key: value for key, value in attrs.items() if key not in _ENCODING}
            variables[name] = xr.Variable(dims, values, kept)
        return variables


def _is_plain(values: np.ndarray[Any, Any], attrs: Mapping[str, Any]) -> bool:
    fill = attrs.get("_FillValue")
    return (
        not _OTHER_ENCODINGS & attrs.keys()
        and " since " not in attrs.get("units", "")
        and (fill is None or (values.dtype.kind == "f" and bool(np.isnan(fill))))
        and attrs.get("dtype", "bool") == "bool"
        and (values.dtype.kind != "S" or (values.ndim > 0 and attrs.get("_Encoding") == "utf-8"))
    )


def _typed(variable: xr.Variable) -> xr.Variable:
    values = np.asarray(variable.values)
    if values.dtype.kind in "iu":
        values = values.astype(np.float64)
    elif values.dtype.kind == "S":
        values = np.strings.decode(values, "utf-8").astype(TEXT)
    elif values.dtype.kind in "UO":
        values = values.astype(TEXT)
    return xr.Variable(variable.dims, values, variable.attrs)


def fill_value(dtype: np.dtype[Any]) -> Any:
    """Value of what a run does not have: NaN, False or an empty text."""
    return {"f": np.nan, "c": np.nan, "b": False, "T": ""}[dtype.kind]


def axis_names(datasets: Sequence[Result]) -> list[str]:
    """Names of the dimensions that have a coordinate."""
    names = (
        str(n) for dataset in datasets for n, variable in dataset.variables.items() if variable.dims == (n,)
    )
    return list(dict.fromkeys(names))


def merge_axis(name: str, before: Sequence[Any], datasets: Sequence[Result]) -> xr.Variable:
    """Coordinate of a dimension over many rows: the values ``before``, continued by what is new.

    Text and integers (checks, layers) are aligned by value. A real coordinate must be the same in all rows,
    or the start of a longer one.

    Raises
    ------
    StoreError
        A real coordinate differs between rows.
    """
    found = [dataset.variables[name] for dataset in datasets if name in dataset.variables]
    known: dict[Any, None] = dict.fromkeys(before)
    for variable in found:
        values = variable.values.tolist()
        if variable.dtype.kind == "f" and values[: len(known)] != list(known)[: len(values)]:
            hint = "make it a variable along its dimension"
            raise StoreError(f"the coordinate {name!r} differs between runs", hint=hint)
        known.update(dict.fromkeys(values))
    dtype = TEXT if found[0].dtype.kind in "UOT" else found[0].dtype
    return xr.Variable((name,), np.array(list(known), dtype=dtype), dict(found[0].attrs))


def identity_columns(rows: Sequence[Row]) -> dict[str, xr.Variable]:
    """Columns that identify the rows, along ``run``."""
    return {
        "stage_id": xr.Variable((RUN,), np.array([row.stage_id for row in rows], dtype=TEXT)),
        "manifest_sha256": xr.Variable((RUN,), np.array([row.manifest_sha256 for row in rows], dtype=TEXT)),
        "run_id": xr.Variable((RUN,), np.array([row.run_id for row in rows], dtype=TEXT)),
    }


def label_columns(label: str, rows: Sequence[Row], name: str, kind: str | None) -> dict[str, xr.Variable]:
    """Columns along ``run`` of a label: NaN or an empty text where a run has no such label.

    Texts that come after numbers get a column of their own, ``<name>_text``: arrays of the store only grow.

    Parameters
    ----------
    name
        Name of its column.
    kind
        Kind of values that are committed there: ``"f"``, ``"T"``, or None where nothing is.
    """
    values = [row.labels.get(label) for row in rows]
    is_text = [value is not None and (isinstance(value, bool | str)) for value in values]
    columns = {}
    if kind == "f" or (kind is None and not any(is_text)):
        plain = [
            math.nan if value is None or text else float(value)
            for value, text in zip(values, is_text, strict=True)
        ]
        columns[name] = xr.Variable((RUN,), np.array(plain))
        values = [value if text else None for value, text in zip(values, is_text, strict=True)]
        name = f"{name}_text"
    if any(is_text) or not columns:
        texts = ["" if value is None else str(value) for value in values]
        columns[name] = xr.Variable((RUN,), np.array(texts, dtype=TEXT))
    return columns


def label_name(name: str, taken: Container[str]) -> str:
    """Name of a label's column: the variables and dimensions of a result keep theirs."""
    return f"{name}_label" if name in taken else name


def stack(name: str, datasets: Sequence[Result], axes: Mapping[str, xr.Variable]) -> xr.Variable:
    """One variable of all rows along ``run``, aligned by its coordinates and padded to the largest."""
    present = [(i, dataset) for i, dataset in enumerate(datasets) if name in dataset.variables]
    first = present[0][1].variables[name]
    for _, dataset in present:
        variable = dataset.variables[name]
        if (variable.dims, variable.dtype.kind) != (first.dims, first.dtype.kind):
            raise StoreError(f"{name!r} has different dimensions or types in runs of one calculation")
    places = {dim: {label: i for i, label in enumerate(axis.values.tolist())} for dim, axis in axes.items()}
    dims = [str(dim) for dim in first.dims]
    longest = {dim: max(dataset.sizes[dim] for _, dataset in present) for dim in dims}
    shape = [axes[dim].size if dim in axes else longest[dim] for dim in dims]
    values = np.full((len(datasets), *shape), fill_value(first.dtype), dtype=first.dtype)
    for i, dataset in present:
        index = [
            [places[dim][label] for label in dataset.variables[dim].values.tolist()]
            if dim in dataset.variables
            else list(range(dataset.sizes[dim]))
            for dim in dims
        ]
        selection: tuple[Any, ...] = (i, *np.ix_(*index))
        values[selection] = dataset.variables[name].values
    return xr.Variable((RUN, *first.dims), values, dict(first.attrs))


def pad(values: np.ndarray[Any, Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Rows of values enlarged to ``shape`` (without the first dimension)."""
    if values.shape[1:] == shape:
        return values
    padded = np.full((len(values), *shape), fill_value(values.dtype), dtype=values.dtype)
    padded[tuple(slice(length) for length in values.shape)] = values
    return padded
