"""NEP models on a CPU: both libraries give the same numbers, and a slab sees no image of itself."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from campaign.engines.base import get_engine
from campaign.errors import EngineNotFoundError, InputError, ResourceError
from campaign.potentials.nep import (
    CHOICE_VARIABLE,
    LIBRARIES,
    NepCalculator,
    elements_and_cutoff,
    nep_library,
    with_vacuum,
)
from tests.ase_cases import multilayer
from tests.reference import REFERENCE, needs_reference

INSTALLED = [package for package, module in LIBRARIES.items() if importlib.util.find_spec(module)]
MODEL = REFERENCE / "nep" / "gr-hbn.nep.txt"
needs_library = pytest.mark.skipif(not INSTALLED, reason="no library for NEP models (extras nep, nep-fast)")


def bilayer() -> Atoms:
    atoms = multilayer(1, 1)
    atoms.positions += np.random.default_rng(1).normal(0, 0.05, atoms.positions.shape)
    return atoms


@needs_reference
@pytest.mark.skipif(len(INSTALLED) < 2, reason="not both libraries are installed")
def test_libraries_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    atoms = bilayer()
    results = []
    for package in LIBRARIES:
        monkeypatch.setenv(CHOICE_VARIABLE, package)
        atoms.calc = NepCalculator(MODEL)
        atoms.get_forces()
        results.append(atoms.calc.results)
    for name in ("energies", "forces", "stress"):
        np.testing.assert_allclose(results[0][name], results[1][name], rtol=0, atol=1e-10)


@needs_reference
@pytest.mark.parametrize("package", INSTALLED)
def test_forces_and_stress_are_derivatives_of_the_energy(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CHOICE_VARIABLE, package)
    atoms = bilayer()
    atoms.calc = NepCalculator(MODEL)
    forces, stress, energies = atoms.get_forces(), atoms.get_stress(), atoms.get_potential_energies()
    assert energies.sum() == pytest.approx(atoms.get_potential_energy(), abs=1e-10)

    def energy(change: np.ndarray, strain: np.ndarray) -> float:
        moved = atoms.copy()
        moved.positions += change
        moved.set_cell(moved.cell.array @ (np.eye(3) + strain), scale_atoms=True)
        moved.calc = atoms.calc
        return float(moved.get_potential_energy())

    step = 1e-4
    for atom, axis in ((3, 0), (20, 2)):
        change = np.zeros((len(atoms), 3))
        change[atom, axis] = step
        slope = (energy(change, np.zeros((3, 3))) - energy(-change, np.zeros((3, 3)))) / (2 * step)
        assert forces[atom, axis] == pytest.approx(-slope, abs=1e-6)
    strain = np.zeros((3, 3))
    strain[0, 0] = 1e-5
    still = np.zeros((len(atoms), 3))
    slope = (energy(still, strain) - energy(still, -strain)) / 2e-5
    assert stress[0] * atoms.get_volume() == pytest.approx(slope, abs=1e-4)


@needs_reference
@needs_library
def test_a_slab_sees_no_image_whatever_its_vacuum() -> None:
    thick = bilayer()
    thin = thick.copy()
    thin.positions[:, 2] -= 7.5
    thin.cell[2, 2] -= 15
    assert np.ptp(with_vacuum(thin, 8.0).positions[:, 2]) + 8 < with_vacuum(thin, 8.0).cell[2, 2]
    results = []
    for atoms in (thick, thin):
        atoms.calc = NepCalculator(MODEL)
        atoms.get_forces()
        results.append({**atoms.calc.results, "virial": atoms.get_volume() * atoms.calc.results["stress"]})
    for name in ("energies", "forces", "virial"):
        np.testing.assert_allclose(results[0][name], results[1][name], rtol=0, atol=1e-10)
    periodic = thin.copy()
    periodic.pbc = True
    periodic.calc = NepCalculator(MODEL)
    assert abs(periodic.get_potential_energy() - thin.get_potential_energy()) > 1e-3


@pytest.mark.parametrize(
    ("line", "cutoff_A"),
    [("8 4", 8), ("8 4 414 46", 8), ("4 3 8 5 10 5 100 60", 10), ("4 3 8 5", 4)],
)
def test_the_largest_cutoff_of_a_model_counts(line: str, cutoff_A: float, tmp_path: Path) -> None:
    model = tmp_path / "nep.txt"
    model.write_text(f"nep4 3 B C N\ncutoff {line}\n")
    assert elements_and_cutoff(model) == (frozenset("BCN"), cutoff_A)


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CHOICE_VARIABLE, "no-such-library")
    with pytest.raises(
        ResourceError, match="names no library for NEP models; write nep-adapters or calorine"
    ):
        nep_library()
    assert "no library for NEP models" in get_engine("ase").check().version  # other calculators need none
    monkeypatch.delenv(CHOICE_VARIABLE)
    if INSTALLED:
        assert nep_library() == INSTALLED[0]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EngineNotFoundError, match="nep-adapters and calorine not installed") as caught:
        nep_library()
    assert "'campaign[nep-fast]' (nep-adapters, a wheel, GPL) or 'campaign[nep]'" in str(caught.value)
    monkeypatch.undo()
    with pytest.raises(ResourceError, match=r"absent\.txt: there is no such file"):
        NepCalculator(tmp_path / "absent.txt")
    (tmp_path / "no.txt").write_text("hello\n")
    with pytest.raises(ResourceError, match="not a NEP model"):
        NepCalculator(tmp_path / "no.txt")


@needs_reference
@needs_library
def test_an_element_that_the_model_lacks() -> None:
    atoms = bilayer()
    atoms.symbols[0] = "Si"
    atoms.calc = NepCalculator(MODEL)
    with pytest.raises(InputError, match="does not know Si"):
        atoms.get_potential_energy()
