"""Rows of indices as columns: plans of 10^5 runs hold little else."""

from array import array
from collections.abc import Iterator, Sequence
from typing import overload

_GAP = -1


class IndexRows(Sequence[tuple[int, ...]]):
    """Many short rows of indices, kept as columns; a row is made when it is asked for.

    A plan of 10^5 runs is read at once, and held in a tenth of the memory of tuples.

    Parameters
    ----------
    length
        Number of rows.
    columns
        Entries of all rows at one position each; a row that is shorter than others has -1 at its end.

    Raises
    ------
    ValueError
        A column is of another length.
    """

    def __init__(self, length: int, columns: Sequence["array[int]"]) -> None:
        if any(len(column) != length for column in columns):
            msg = "columns of different lengths"
            raise ValueError(msg)
        self._length = length
        self.columns = columns
        self._ragged = bool(columns) and _GAP in columns[-1]

    @classmethod
    def of(cls, rows: Sequence[tuple[int, ...]]) -> "IndexRows":
        """Turn rows into columns."""
        if isinstance(rows, cls):
            return rows
        width = max(map(len, rows), default=0)
        columns = [array("i", [row[i] if i < len(row) else _GAP for row in rows]) for i in range(width)]
        return cls(len(rows), columns)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        if not self.columns:
            return iter([()] * self._length)
        rows = zip(*self.columns, strict=True)
        return map(_trimmed, rows) if self._ragged else rows

    @overload
    def __getitem__(self, index: int) -> tuple[int, ...]: ...
    @overload
    def __getitem__(self, index: slice) -> list[tuple[int, ...]]: ...
    def __getitem__(self, index: int | slice) -> tuple[int, ...] | list[tuple[int, ...]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._length))]
        row = tuple([column[index] for column in self.columns])
        return _trimmed(row) if self._ragged else row

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(tuple.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]  # compared by value


def _trimmed(row: tuple[int, ...]) -> tuple[int, ...]:
    return row if row[-1] != _GAP else tuple([i for i in row if i != _GAP])
