"""Segments of a stage become one dataset.

Series follow each other on the stage's own time axis. What is accumulated (energies that thermostats gave,
counts) starts at zero in each segment, and is added up here. Everything else is as the last segment left it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import xarray as xr

ACCUMULATED = "time: sum"
"""CF ``cell_methods`` of a variable that counts from the start of its segment."""


def join_segments(parts: Sequence["xr.Dataset"]) -> "xr.Dataset":
    """Join the datasets of a stage's segments, in their order.

    Parameters
    ----------
    parts
        One dataset for each segment, at least one; their ``time`` axes follow each other.

    Raises
    ------
    ValueError
        The times do not rise from one segment to the next.
    """
    import xarray as xr

    if len(parts) == 1:
        return parts[0]
    joined = parts[-1]
    variables: dict[str, xr.Variable] = {}
    for name, variable in joined.variables.items():
        pieces = [part.variables[name] for part in parts if name in part.variables]
        accumulated = variable.attrs.get("cell_methods") == ACCUMULATED
        if "time" in variable.dims:
            values = [piece.values for piece in pieces]
            if accumulated:
                values = _running(values)
            axis = variable.dims.index("time")
            data = np.concatenate(values, axis=axis)
            variables[str(name)] = xr.Variable(variable.dims, data, variable.attrs)
        elif accumulated:
            variables[str(name)] = variable.copy(data=np.sum([piece.values for piece in pieces], axis=0))
        else:
            variables[str(name)] = variable
    if np.any(np.diff(variables["time"].values) <= 0):
        msg = "the times of the segments do not follow each other"
        raise ValueError(msg)
    coordinates = {str(name) for name in joined.coords}
    return xr.Dataset(
        {name: variable for name, variable in variables.items() if name not in coordinates},
        coords={name: variable for name, variable in variables.items() if name in coordinates},
        attrs=joined.attrs,
    )


def _running(pieces: Sequence["np.ndarray"]) -> list["np.ndarray"]:
    """Add to each piece what had been accumulated before it."""
    total = 0.0
    running = []
    for piece in pieces:
        running.append(piece + total)
        if len(piece):
            total = running[-1][-1]
    return running
