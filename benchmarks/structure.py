"""Time and memory of building and writing the paper's multilayer, 307,828 atoms.

Run ``python -m benchmarks.structure``. Times are ratios to that of copying the same arrays and saving them
with numpy, in the same directory, in alternating repeats.
"""

import argparse
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np

from campaign.engines.gpumd_input import role_groups, write_model
from campaign.engines.lammps_input import layer_species, write_data_file
from campaign.potentials import get_potential, lammps_model
from campaign.structures.io import read_structure, write_structure
from campaign.structures.layers import BuildSettings, MultilayerSettings, build


def seconds(action: Callable[[], object]) -> float:
    """Wall time of an action."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def peak_megabytes(action: Callable[[], object]) -> float:
    """Peak of the memory that an action allocates, in 10^6 bytes."""
    tracemalloc.start()
    action()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6


def main() -> None:
    """Measure, and print one line for each action."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    potential = get_potential("tersoff-lj")
    settings = BuildSettings(
        structure=MultilayerSettings(), lattice_constants_A=dict(potential.lattice_constants_A)
    )
    atoms = build(settings)
    model = lammps_model(potential, layer_species(atoms))
    layer = atoms.arrays["layer"]
    roles = {"frozen": (0,), "source": (23, 24), "sink": (1, 2)}
    velocities = np.full(atoms.positions.shape, -1.234567e-3)

    def write_for_gpumd() -> None:
        groups, _ = role_groups(layer, roles)
        write_model(
            model_file,
            atoms.get_chemical_symbols(),
            atoms.positions,
            masses=atoms.get_masses(),
            cell=atoms.cell.array,
            groups=(groups, layer),
            velocities=velocities,
        )

    arrays = {name: atoms.arrays[name] for name in ("numbers", "positions", "layer")}
    with tempfile.TemporaryDirectory() as scratch:
        file, data = Path(scratch) / "structure.npz", Path(scratch) / "structure.data"
        model_file = Path(scratch) / "model.xyz"
        actions: dict[str, Callable[[], object]] = {
            "numpy copy and save": lambda: np.savez(
                Path(scratch) / "plain.npz", **{name: array.copy() for name, array in arrays.items()}
            ),
            "build": lambda: build(settings),
            "write": lambda: write_structure(atoms, file),
            "read": lambda: read_structure(file),
            "write for LAMMPS": lambda: write_data_file(atoms, model, data),
            "write for GPUMD": write_for_gpumd,
        }
        times: dict[str, list[float]] = {name: [] for name in actions}
        for _ in range(repeats):
            for name, action in actions.items():
                times[name].append(seconds(action))
        unit = statistics.median(times["numpy copy and save"])
        arrays_MB = sum(array.nbytes for array in arrays.values()) / 1e6
        print(f"{len(atoms)} atoms, arrays of {arrays_MB:.1f} MB, medians of {repeats}")
        for name, action in actions.items():
            median = statistics.median(times[name])
            spread = f"{min(times[name]):.3f} to {max(times[name]):.3f}"
            print(
                f"{name:20s} {median:.3f} s ({spread}), ratio {median / unit:5.1f}, "
                f"peak {peak_megabytes(action):.1f} MB"
            )


if __name__ == "__main__":
    main()
