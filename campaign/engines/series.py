"""What the results of all engines look like: names, units and signs of their variables.

Energies of thermostats are what they have given to the structure since the start of the segment.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from campaign.engines.segments import ACCUMULATED
from campaign.errors import PhysicsError
from campaign.physics.transport import layer_temperature

if TYPE_CHECKING:
    import xarray as xr

Array = npt.NDArray[np.float64]
Variables = dict[str, "xr.Variable"]


def variable(dims: tuple[str, ...], values: Any, units: str, long_name: str, **more: str) -> "xr.Variable":
    """Values with unit and name."""
    import xarray as xr

    return xr.Variable(dims, values, {"units": units, "long_name": long_name, **more})


def heat_flow_series(
    time_ps: Array,
    kinetic_eV: Array,
    atoms_of_layer: Sequence[int],
    *,
    source_eV: Array,
    sink_eV: Array,
    sides_eV: tuple[Array, Array] | None,
    total_eV: Array,
) -> Variables:
    """Series of a `HeatFlow` step; ``kinetic_eV`` has the shape (samples, layers), all others (samples,).

    ``sides_eV``, of the lower and the upper side, is None where the engine knows no energies per atom.
    """
    sides = {}
    if sides_eV is not None:
        lower_eV, upper_eV = sides_eV
        sides["lower_energy"] = _energy(lower_eV, "energy of the lower side")
        sides["upper_energy"] = _energy(upper_eV, "energy of the upper side")
    return {
        "time": _time(time_ps),
        "layer_temperature": variable(
            ("time", "layer"),
            layer_temperature(kinetic_eV, atoms_of_layer),
            "K",
            "kinetic temperature (3N degrees of freedom), mean over some frames of each interval",
        ),
        "source_energy": _given(source_eV, "energy given by the source since the start"),
        "sink_energy": _given(sink_eV, "energy given by the sink since the start"),
        **sides,
        "total_energy": _energy(total_eV, "energy of all atoms"),
    }


def thermo_series(
    time_ps: Array,
    kinetic_eV: Array,
    atoms: int,
    *,
    pressures_GPa: tuple[Array, Array] | None,
    potential_eV: Array,
) -> Variables:
    """Series of any other step, all of the shape (samples,).

    ``pressures_GPa``, along x and y in the structure, is None where the engine knows no stress.
    """
    pressures = {}
    if pressures_GPa is not None:
        for axis, values in zip(("xx", "yy"), pressures_GPa, strict=True):
            text = f"pressure in the structure, {axis}"
            pressures[f"pressure_{axis}"] = variable(("time",), values, "GPa", text)
    return {
        "time": _time(time_ps),
        "temperature": variable(("time",), layer_temperature(kinetic_eV, atoms), "K", "kinetic temperature"),
        **pressures,
        "potential_energy": _energy(potential_eV, "potential energy"),
    }


def final_structure(
    lengths_A: Array,
    positions_A: Array,
    layers: npt.ArrayLike,
    numbers: npt.ArrayLike,
    *,
    tilt_A: float | None = None,
) -> Variables:
    """Structure at the end of a stage.

    ``lengths_A`` is the diagonal of the cell, shape (3,), so area and volume are its products; ``tilt_A`` is
    the shift of the second vector along x, None for an orthogonal cell.
    """
    text = "shift along x of the cell's second vector at the end"
    tilt = {} if tilt_A is None else {"cell_tilt_xy": variable((), tilt_A, "angstrom", text)}
    return {
        "cell_length": variable(("direction",), lengths_A, "angstrom", "cell length at the end"),
        **tilt,
        "final_position": variable(("atom", "direction"), positions_A, "angstrom", "position at the end"),
        "layer": variable(("atom",), np.asarray(layers, np.int32), "1", "layer, from 0 at the bottom"),
        "atomic_number": variable(("atom",), np.asarray(numbers, np.int32), "1", "atomic number"),
        "atoms_final": variable((), len(positions_A), "1", "atoms at the end"),
    }


def result_dataset(
    variables: Variables,
    directory: Path,
    *,
    atoms: int,
    dangerous_builds: int,
    attributes: Mapping[str, Any],
) -> "xr.Dataset":
    """Put together what a segment's process wrote.

    Raises
    ------
    PhysicsError
        A number is not finite.
    """
    import xarray as xr

    variables = {
        **variables,
        "dangerous_builds": variable(
            (), dangerous_builds, "1", "neighbour lists built too late", cell_methods=ACCUMULATED
        ),
        "atoms_initial": variable((), atoms, "1", "atoms at the start"),
    }
    for name, item in variables.items():
        if not np.isfinite(item.values).all():
            raise PhysicsError(f"{name} is not finite", where=str(directory), hint="use a smaller timestep")
    return xr.Dataset(variables, coords={"direction": ["x", "y", "z"]}, attrs=dict(attributes))


def _energy(values: Array, long_name: str) -> "xr.Variable":
    return variable(("time",), values, "eV", long_name)


def _given(values: Array, long_name: str) -> "xr.Variable":
    return variable(("time",), values, "eV", long_name, cell_methods=ACCUMULATED)


def _time(values: Array) -> "xr.Variable":
    return variable(("time",), values, "ps", "time since the start of the step")
