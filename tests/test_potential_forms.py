"""Each form of potential in the real LAMMPS: energies, forces, lattice constants, and a short run."""

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from campaign.potentials import LammpsModel, get_potential
from campaign.potentials.builtin import BUILTIN
from campaign.potentials.lennard_jones import lj_parameters
from campaign.structures.layers import BuildSettings, LayerBlock, MultilayerSettings, build
from tests.lammps_cases import ENGINE, NVT_STEP, THERMALISE, run, simulation, workload
from tests.potential_cases import model_of, run_lammps, stack, system_lines

pytestmark = pytest.mark.lammps

FORMS = {
    "tersoff-lj": ("hbn",) * 5 + ("graphene",) * 4,
    "tersoff-ilp": ("hbn", "graphene"),
    "tersoff-ilp-mbd": ("hbn", "graphene"),
    "tersoff-ilp-ts": ("hbn", "graphene"),
    "extep-ilp": ("hbn", "hbn", "graphene"),
    "rebo-ilp": ("graphene", "hbn", "graphene"),
    "tersoff-sw-lj": ("mos2", "ws2", "hbn", "graphene", "graphene"),
    "sw-ilp": ("wse2", "mos2"),
}
"""A stack for each potential that has all of its terms."""

ENERGY = ["run 0 post no", 'print "RESULT $(pe:%.15g)"']


def plain_lines(name: str, atoms: Atoms, model: LammpsModel) -> list[str]:
    """One sub-style for each kind of term and all layers, as in the manual of LAMMPS."""

    def only(*elements: str, layers: Collection[int] = range(len(FORMS[name]))) -> str:
        return " ".join(
            kind.element if kind.element in elements and kind.layer_class in layers else "NULL"
            for kind in model.types
        )

    flat, ilp = only("B", "C", "N"), "ilp/graphene/hbn"
    match name:
        case "tersoff-lj":
            lines = ["tersoff lj/cut 10.0", f"tersoff BNC.tersoff {flat}"]
        case "tersoff-ilp" | "tersoff-ilp-mbd" | "tersoff-ilp-ts":
            *_, last = name.split("-")
            file = {"mbd": "BNC_MBD_bulk.ILP", "ts": "BNC_TS_bulk.ILP"}.get(last, "BNCH.ILP")
            lines = [f"tersoff {ilp} 16.0 1", f"tersoff BNC.tersoff {flat}", f"{ilp} {file} {flat}"]
        case "extep-ilp":
            terms = [f"tersoff BNC.tersoff {only('C')}", f"extep BN.extep {only('B', 'N')}"]
            lines = [f"tersoff extep {ilp} 16.0 1", *terms, f"{ilp} BNCH.ILP {flat}"]
        case "rebo-ilp":
            terms = [f"tersoff BNC.tersoff {only('B', 'N')}", f"rebo CH.rebo {only('C')}"]
            lines = [f"tersoff rebo {ilp} 16.0 1", *terms, f"{ilp} BNCH.ILP {flat}"]
        case "tersoff-sw-lj":
            heavy = only("Mo", "W", "S", "Se")
            lines = [
                "tersoff sw/mod lj/cut 10.0",
                f"tersoff BNC.tersoff {flat}",
                f"sw/mod tmd.sw.mod {heavy}",
            ]
        case _:
            terms = [f"sw/mod {k + 1} tmd.sw.mod {only('Mo', 'W', 'S', 'Se', layers=[k])}" for k in (0, 1)]
            lines = ["sw/mod sw/mod ilp/tmd 16.0 1", *terms, f"ilp/tmd TMD.ILP {only('Mo', 'W', 'S', 'Se')}"]
    style, *coefficients = lines
    pairs = [line for line in model.pair_lines if " lj/cut " in line or line.endswith(" none")]
    return [
        f"pair_style hybrid/overlay {style}",
        *(f"pair_coeff * * {line}" for line in coefficients),
        *(line for line in pairs if line.startswith("pair_coeff")),
    ]


@pytest.mark.parametrize("name", FORMS)
def test_energy_is_that_of_the_plain_potential(name: str, tmp_path: Path) -> None:
    """Terms by layer class, and the ``/opt`` forms of ILP, change the speed and nothing else."""
    potential = get_potential(name)
    atoms = stack(FORMS[name], potential)
    model = model_of(atoms, potential)
    evaluate = [
        "compute f all reduce sumsq fx fy fz",
        "thermo_style custom step pe c_f[1] c_f[2] c_f[3]",
        "run 0 post no",
        'print "RESULT $(pe:%.15g) $(c_f[1]:%.15g) $(c_f[2]:%.15g) $(c_f[3]:%.15g)"',
    ]
    ours = system_lines(atoms, model, tmp_path)
    plain = [line for line in ours if line not in model.pair_lines] + plain_lines(name, atoms, model)
    result, expected = (run_lammps(tmp_path, [*lines, *evaluate]) for lines in (ours, plain))
    np.testing.assert_allclose(result, expected, rtol=1e-9)


@pytest.mark.parametrize("name", FORMS)
def test_forces_are_the_slopes_of_the_energy(name: str, tmp_path: Path) -> None:
    potential = get_potential(name)
    atoms = stack(FORMS[name], potential)
    step_A = 1e-3
    lines = [*system_lines(atoms, model_of(atoms, potential), tmp_path), "run 0 post no"]
    probes = np.random.default_rng(1).integers(1, len(atoms) + 1, 3).tolist()
    for number, axis in zip(probes, "xyz", strict=True):
        lines += [f"group one id {number}", f'print "RESULT $(f{axis}[{number}]:%.15g)"']
        for sign in (1, -2, 1):
            move = " ".join(f"{sign * step_A if axis == other else 0:g}" for other in "xyz")
            lines += [f"displace_atoms one move {move} units box", *ENERGY]
        lines += ["group one delete"]
    numbers = np.array(run_lammps(tmp_path, lines)).reshape(3, 4)
    slopes = (numbers[:, 2] - numbers[:, 1]) / (2 * step_A)
    np.testing.assert_allclose(numbers[:, 0], slopes, atol=2e-4, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "materials"),
    [
        ("tersoff-lj", ("hbn", "hbn", "graphene")),
        ("tersoff-sw-lj", ("mos2", "graphene")),
        ("tersoff-sw-lj", ("wse2", "mos2")),
    ],
)
def test_energy_is_the_sum_of_its_parts(name: str, materials: tuple[str, ...], tmp_path: Path) -> None:
    """Each layer by itself, and Lennard-Jones between all pairs of different layers in the cutoff."""
    potential = get_potential(name)
    atoms = stack(materials, potential)
    layers = atoms.arrays["layer"]
    expected = 0.0
    for part in [atoms[layers == index] for index in range(len(materials))]:
        part.arrays["layer"][:] = 0
        [[energy]] = run_lammps(tmp_path, [*system_lines(part, model_of(part, potential), tmp_path), *ENERGY])
        expected += energy
    symbols = atoms.get_chemical_symbols()
    x, y, _ = atoms.cell.lengths()
    for shift in ((i * x, j * y, 0) for i in range(-2, 3) for j in range(-2, 3)):
        distance = np.linalg.norm(atoms.positions[:, None] - atoms.positions[None] - shift, axis=-1)
        for i, j in zip(*np.nonzero((distance < 10) & (layers[:, None] < layers[None])), strict=True):
            depth, sigma = lj_parameters(symbols[i], symbols[j])
            u6 = (sigma / distance[i, j]) ** 6
            expected += 4 * depth * (u6**2 - u6)
    [[energy]] = run_lammps(tmp_path, [*system_lines(atoms, model_of(atoms, potential), tmp_path), *ENERGY])
    assert energy == pytest.approx(expected, rel=1e-9)


def test_stackings_have_the_energies_that_their_names_promise(tmp_path: Path) -> None:
    """With ILP: ABp below AB below AA (paper, Fig. 2a), and natural layers below straight ones."""
    potential = get_potential("tersoff-ilp")
    energies = []
    for changes in (
        {"stacking": "ABp"},
        {"stacking": "AB"},
        {"stacking": "AA"},
        {"stacking": "AA", "layer_order": "straight"},
    ):
        settings = MultilayerSettings(
            lower=LayerBlock(material="hbn", layers=2, cells=(4, 2)),
            upper=LayerBlock(material="graphene", layers=2, cells=(4, 2)),
            cell_from="mean",
            stacking="ABp",
            spacing_A=3.3,
        ).model_copy(update=changes)
        constants = dict(potential.lattice_constants_A)
        atoms = build(BuildSettings(structure=settings, lattice_constants_A=constants))
        lines = system_lines(atoms, model_of(atoms, potential), tmp_path)
        energies += run_lammps(tmp_path, [*lines, *ENERGY])[0]
    assert energies == sorted(energies)


LATTICE_CONSTANTS = {
    (term.style, material): (potential.name, material)
    for potential in BUILTIN.values()
    for material in potential.lattice_constants_A
    for term in potential.layer_terms
    if {"graphene": "C", "hbn": "B"}.get(material, "Mo") in term.elements
}
"""One potential for each term inside layers and material: others with the same term have the same layer."""


@pytest.mark.parametrize(("name", "material"), LATTICE_CONSTANTS.values())
def test_lattice_constants_are_at_the_minimum(name: str, material: str, tmp_path: Path) -> None:
    potential = get_potential(name)
    atoms = stack((material,), potential, noise_A=0)
    lines = [
        *system_lines(atoms, model_of(atoms, potential), tmp_path),
        "min_modify line quadratic",
        *["fix box all box/relax x 0 y 0", "minimize 0 1e-7 2000 4000", "unfix box"] * 3,
        'print "RESULT $(lx/3:%.10g) $(ly/2/sqrt(3):%.10g)"',
    ]
    table = potential.lattice_constants_A[material]
    np.testing.assert_allclose(run_lammps(tmp_path, lines), [[table, table]], atol=1e-4)


@pytest.mark.parametrize(
    ("name", "materials"),
    [
        ("tersoff-ilp", ("hbn", "graphene")),
        ("extep-ilp", ("hbn", "graphene")),
        ("rebo-ilp", ("hbn", "graphene")),
        ("sw-ilp", ("wse2", "mos2")),
        ("sw-ilp", ("ws2", "wse2")),
        ("sw-ilp", ("mose2", "mose2")),
        ("tersoff-sw-lj", ("hbn", "graphene")),
        ("tersoff-sw-lj", ("mos2", "graphene")),
        ("tersoff-sw-lj", ("mos2", "hbn")),
        ("tersoff-sw-lj", ("ws2", "hbn")),
        ("tersoff-sw-lj", ("wse2", "hbn")),
        ("tersoff-sw-lj", ("wse2", "graphene")),
        ("tersoff-sw-lj", ("wse2", "mos2")),
        ("tersoff-sw-lj", ("wse2", "ws2")),
    ],
)
def test_a_short_run_keeps_its_layers(
    name: str, materials: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    atoms = stack(materials, get_potential(name))
    monkeypatch.setattr("campaign.engines.lammps.read_structure", lambda _: atoms)
    steps = (THERMALISE, NVT_STEP.model_copy(update={"duration_ps": 0.05}))
    job = workload(simulation(*steps).model_copy(update={"potential": name}), 1, {"structure": tmp_path})
    assert run(job, tmp_path) == 0, ENGINE.diagnose(tmp_path, 1)
    final = ENGINE.collect(tmp_path).dataset
    layers, z = final["layer"].values, final["final_position"].values[:, 2]
    heights = [float(np.median(z[layers == index])) for index in range(len(materials))]
    thickness = sum(0 if material in {"graphene", "hbn"} else 1.6 for material in materials)
    assert 2.8 < heights[1] - heights[0] - thickness < 4.3  # sigma of Se and Se is 3.75
    assert 50 < final["temperature"].values.mean() < 500
    np.testing.assert_array_equal(final["atomic_number"], atoms.numbers)
