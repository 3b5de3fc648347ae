"""Speed of a NEP on a CPU: nep-adapters and calorine, through the engine ase and through LAMMPS.

Run ``python -m benchmarks.nep MODEL`` with a model of B, C and N. All four ways alternate, so that other load
on the machine meets each. A way's speed counts processor time from its first call of the model to its last;
what it costs more than these calls alone is the engine's share.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import yardstick
from campaign.engines import ase_run, lammps_nep
from campaign.engines.base import NVE, Segment, Simulation, Thermalise, Workload, get_engine
from campaign.engines.timeline import number_of_steps
from campaign.potentials import add_nep
from campaign.potentials.library import LIBRARY_VARIABLE
from campaign.potentials.nep import CHOICE_VARIABLE, LIBRARIES, NepCalculator
from campaign.structures.io import write_structure
from campaign.structures.layers import BuildSettings, LayerBlock, MultilayerSettings, build

TIMESTEP_FS = 1.0
LATTICE_CONSTANTS_A = {"graphene": 2.4635, "hbn": 2.5066}
SIZES = {216: (6, (3, 3)), 800: (8, (5, 5)), 2016: (14, (6, 6))}
"""Layers, and cells of each, by number of atoms."""

ENGINES = ("ase", "lammps")


def write_multilayer(atoms: int, path: Path) -> None:
    """Write a multilayer, half h-BN and half graphene."""
    layers, cells = SIZES[atoms]
    settings = MultilayerSettings(
        lower=LayerBlock(material="hbn", layers=layers // 2, cells=cells),
        upper=LayerBlock(material="graphene", layers=layers // 2, cells=cells),
        stacking="ABp",
        cell_from="mean",
    )
    built = build(BuildSettings(structure=settings, lattice_constants_A=LATTICE_CONSTANTS_A))
    write_structure(built, path)


def measure(engine: str, library: str, atoms: int, steps: int) -> tuple[float, float]:
    """Run NVE in a process of its own; return atom-step/s of it, and of the library's calls alone."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        structure = directory / "structure.npz"
        write_multilayer(atoms, structure)
        simulation = Simulation(
            potential="benchmark",
            timestep_fs=TIMESTEP_FS,
            steps=(Thermalise(temperature_K=300), NVE(duration_ps=steps * TIMESTEP_FS / 1000)),
        )
        segment = Segment(1, 0, number_of_steps(simulation))
        os.environ[CHOICE_VARIABLE] = library
        command = get_engine(engine).prepare(
            Workload(simulation, 1, {"structure": structure}, segment), directory
        )
        if engine == "lammps":  # minimising would come first
            script = directory / "in.lammps"
            script.write_text(script.read_text().replace("minimize 0 1e-2 200 400", ""))
        subprocess.run(
            [sys.executable, "-m", "benchmarks.nep", "--within", engine, *command.argv[3:]],
            cwd=directory,
            env={**os.environ, **command.environment, "PYTHONPATH": str(Path.cwd())},
            check=True,
        )
        calls = json.loads((directory / "calls.json").read_text())[-steps - 1 :]
    begin, end = calls[0][1], calls[-1][1]
    inside = sum(last - first for first, last in calls[1:])
    return atoms * steps / (end - begin), atoms * steps / inside


def within(engine: str, arguments: list[str]) -> int:
    """Run an engine in this process, and write when each call of the library began and ended."""
    calls: list[tuple[float, float]] = []
    made = NepCalculator.__init__

    def make(self: NepCalculator, model: Path) -> None:
        made(self, model)
        compute = self._library

        def timed(atoms: Any) -> Any:
            clock = time.process_time()
            result = compute(atoms)
            calls.append((clock, time.process_time()))
            return result

        self._library = timed

    NepCalculator.__init__ = make  # type: ignore[method-assign]
    ase_run._MINIMISE_STEPS = 0
    code = (
        ase_run.main(Path())
        if engine == "ase"
        else lammps_nep.main(Path(arguments[0]), arguments[1], arguments[2:])
    )
    Path("calls.json").write_text(json.dumps(calls))
    return code


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--atom-steps", type=int, default=16_000, help="of each measurement")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as library:
        os.environ |= {LIBRARY_VARIABLE: library, "OMP_NUM_THREADS": "1"}
        add_nep(options.model, "benchmark", LATTICE_CONSTANTS_A)
        print(yardstick())
        for atoms in SIZES:
            steps = max(4, options.atom_steps // atoms)
            ways = [(engine, package) for engine in ENGINES for package in LIBRARIES]
            found: dict[tuple[str, str], list[tuple[float, float]]] = {way: [] for way in ways}
            for _ in range(options.repeats):
                for way in ways:
                    found[way].append(measure(*way, atoms, steps))
            for (engine, package), pairs in found.items():
                slowest = found[engine, "calorine"]
                speed = statistics.median(whole for whole, _ in pairs)
                share = statistics.median(alone / whole - 1 for whole, alone in pairs)
                ratio = statistics.median(
                    mine / other for (mine, _), (other, _) in zip(pairs, slowest, strict=True)
                )
                print(
                    f"{atoms:5d} atoms  {engine:6s} {package:12s} {speed:9.3g} atom-step/s  "
                    f"{ratio:.2f} x calorine  engine {share:+.1%}",
                    flush=True,
                )
        print(yardstick())


if __name__ == "__main__":
    if sys.argv[1:2] == ["--within"]:
        sys.exit(within(sys.argv[2], sys.argv[3:]))
    main()
