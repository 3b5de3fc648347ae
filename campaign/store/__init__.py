"""Zarr results: one group for each calculation, one flat ``run`` dimension, one writer.

``results.zarr`` (Zarr v3) holds reduced results only. Each variable of a calculation's reduced dataset is
one array whose first dimension is ``run``; ``stage_id``, ``manifest_sha256``, ``run_id`` and the labels of
the run are coordinates along it, so that ``xarray.open_zarr(path, group="nemd")`` is useful by itself.
Numbers are floats (NaN marks what a run does not have), flags are bool, text has variable length.

A group's ``zarr.json`` is its commit. It holds the number of committed rows and, as consolidated metadata,
the shape of every array; it is replaced by one rename after the rows were written. Readers take shapes from
there: they see all of an append or nothing of it, and what a killed writer left is overwritten by the next.
The root repeats that metadata, since xarray looks for it there.

The store holds nothing that the committed stages do not hold: delete it, and the driver fills it again.
"""

from campaign.store.reader import Table, read_tables
from campaign.store.rows import Row
from campaign.store.writer import Store

__all__ = ["Row", "Store", "Table", "read_tables"]
