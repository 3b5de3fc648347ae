"""Speed of LAMMPS with a Tersoff sub-style for each class of layers, as here, against one for all layers.

Run ``python -m benchmarks.tersoff_per_layer``. Both give the same energies, since no two layers come within
the cutoff of Tersoff; one style for all would couple them if they did. Repeats alternate, so that other load
on the machine meets both.
"""

import argparse
import re
import statistics
import tempfile
from pathlib import Path

import numpy as np

from campaign.engines.base import NVT, Segment, Simulation, Thermalise, Workload
from campaign.engines.lammps import LammpsEngine
from campaign.engines.lammps_input import layer_species
from campaign.engines.timeline import number_of_steps
from campaign.execution.process import run_process
from campaign.potentials import LammpsModel, get_potential, lammps_model
from campaign.structures.io import write_structure
from campaign.structures.layers import BuildSettings, LayerBlock, MultilayerSettings, build

TIMESTEP_FS = 1.0
ENGINE = LammpsEngine()


def one_for_all(model: LammpsModel) -> tuple[str, ...]:
    """Pair lines with a single Tersoff sub-style; types and interlayer pairs stay as they are."""
    style, *coefficients = model.pair_lines
    elements = " ".join(kind.element for kind in model.types)
    return (
        style.replace("tersoff " * model.layer_classes, "tersoff "),
        f"pair_coeff * * tersoff BNC.tersoff {elements}",
        *(line for line in coefficients if " tersoff " not in line),
    )


def measure(workload: Workload, directory: Path, old: str, new: str) -> tuple[float, float]:
    """Run with the lines ``old`` of the script replaced; return atom-step/s and the first energy in eV."""
    directory.mkdir()
    command = ENGINE.prepare(workload, directory)
    script = directory / "in.lammps"
    text = script.read_text()
    if old not in text:
        raise SystemExit(f"the script has no lines {old!r}")
    script.write_text(text.replace(old, new))
    code = run_process(
        command,
        directory,
        threads=workload.threads,
        timeout_without_output_s=None,
        should_stop=lambda: False,
    )
    if code != 0:
        raise ENGINE.diagnose(directory, code)
    loops = re.findall(
        r"Loop time of (\S+) on .* for (\d+) steps with (\d+) atoms", (directory / "log.lammps").read_text()
    )
    seconds, steps, atoms = (float(word) for word in loops[-1])
    return steps * atoms / seconds, float(ENGINE.collect(directory).dataset["potential_energy"][0])


def main() -> None:
    """Measure, and print one line for each size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--atom-steps", type=float, default=5e5, help="of one run")
    arguments = parser.parse_args()
    potential = get_potential("tersoff-lj")
    for cells in ((5, 3), (20, 12)):
        structure = MultilayerSettings(
            lower=LayerBlock(material="hbn", layers=5, cells=cells),
            upper=LayerBlock(material="graphene", layers=4, cells=cells),
            cell_from="mean",
            stacking="ABp",
        )
        constants = dict(potential.lattice_constants_A)
        atoms = build(BuildSettings(structure=structure, lattice_constants_A=constants))
        duration_ps = round(arguments.atom_steps / len(atoms)) * TIMESTEP_FS / 1000
        simulation = Simulation(
            potential=potential.name,
            timestep_fs=TIMESTEP_FS,
            steps=(
                Thermalise(temperature_K=300),
                NVT(temperature_K=300, duration_ps=duration_ps, thermostat_damping_fs=100),
            ),
        )
        model = lammps_model(potential, layer_species(atoms))
        per_layer = "\n".join(model.pair_lines)
        variants = {"per layer": per_layer, "one for all": "\n".join(one_for_all(model))}
        rates: dict[str, list[float]] = {name: [] for name in variants}
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "structure.npz"
            write_structure(atoms, path)
            workload = Workload(
                simulation, 1, {"structure": path}, Segment(1, 0, number_of_steps(simulation))
            )
            for repeat in range(arguments.repeats):
                energies = []
                for name, lines in variants.items():
                    rate, energy_eV = measure(workload, Path(scratch) / f"{name} {repeat}", per_layer, lines)
                    rates[name].append(rate)
                    energies.append(energy_eV)
                if not np.allclose(energies, energies[0], rtol=1e-6, atol=0):
                    raise SystemExit(f"the variants differ in energy: {energies}")
        ratios = [new / old for new, old in zip(rates["per layer"], rates["one for all"], strict=True)]
        medians = ", ".join(f"{name} {statistics.median(values):.3g}" for name, values in rates.items())
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}, n = {len(ratios)}"
        print(f"{len(atoms)} atoms: atom-step/s {medians}; ratio {statistics.median(ratios):.2f} ({spread})")


if __name__ == "__main__":
    main()
