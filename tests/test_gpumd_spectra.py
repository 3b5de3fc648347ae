"""Spectra of GPUMD: of one block or several, with headers or without, and the transform behind them."""

from pathlib import Path

import numpy as np
import pytest

from campaign.engines.gpumd_spectra import average_blocks, read_dos, read_mvac, read_shc
from campaign.errors import TransientError
from campaign.physics.spectra import density_of_states
from tests.reference import REFERENCE, needs_reference

GRAPHENE_ATOMS = 12_544
LAGS, POINTS = 5, 8

SHC_HEADER = """\
# compute_shc 2 5 2 8 40 group 0 12
# format_version 1
# num_atoms 144
# cell 7.5 0 0 0 8.7 0 0 0 57
# dt_output 1.0000000000e-03 ps
# num_correlation_rows 9
# num_frequency_rows 8
# columns_correlation time_ps ki ko
# columns_shc omega_THz shc_i shc_o
"""


def shc_block(factor: float, interval_ps: float = 0.002) -> str:
    times = interval_ps * np.arange(1 - LAGS, LAGS)
    omegas = 40 / POINTS * np.arange(1, POINTS + 1)
    rows = [(t, factor, 2 * factor * abs(t)) for t in times] + [(w, factor * w, -factor) for w in omegas]
    return "".join("{:g} {:g} {:g}\n".format(*row) for row in rows)


@pytest.mark.parametrize("header", ["", SHC_HEADER])
@pytest.mark.parametrize("interval_ps", [0.002, 2.0])  # with the latter no number falls between both parts
def test_shc_of_three_blocks(header: str, interval_ps: float, tmp_path: Path) -> None:
    path = tmp_path / "shc.out"
    path.write_text("".join(header + shc_block(factor, interval_ps) for factor in (1, 2, 6)))
    shc = read_shc(path)
    np.testing.assert_allclose(shc.time_ps, interval_ps * np.arange(-4, 5))
    np.testing.assert_allclose(shc.omega_rad_per_ps, np.arange(5, 41, 5))
    assert shc.correlation.shape == (3, 1, 9, 2)
    np.testing.assert_allclose(shc.current[:, 0, :, 1], -np.array([[1], [2], [6]]) * np.ones(POINTS))
    # The last block has half the length: (2 * 1 + 2 * 2 + 6) / 5.
    mean = average_blocks(shc.current, [1000, 1000, 500])
    np.testing.assert_allclose(mean[0, :, 0], 2.4 * shc.omega_rad_per_ps)


def test_shc_of_groups(tmp_path: Path) -> None:
    path = tmp_path / "shc.out"
    path.write_text("".join(shc_block(factor) for factor in (1, 2, 3, 4)))
    assert read_shc(path, groups=2).correlation[:, :, 0, 0].tolist() == [[1, 2], [3, 4]]


def test_a_file_that_is_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "some.out"
    path.write_text(shc_block(1) + shc_block(2).rsplit("\n", 2)[0])
    with pytest.raises(TransientError, match="whole number"):
        read_shc(path)
    path.write_text("0 1 1 1\n1 1 1 1\n0 1 1 1\n")
    with pytest.raises(TransientError, match="whole number"):
        read_mvac(path)


@needs_reference
def test_density_of_states_is_that_of_the_authors_files() -> None:
    time, autocorrelation = read_mvac(REFERENCE / "pdos" / "graphene.mvac.out")
    omega, density = read_dos(REFERENCE / "pdos" / "graphene.dos.out")
    assert autocorrelation.shape == (1, 1, 500, 3)
    assert density.shape == (1, 1, 500, 3)
    ours = density_of_states(autocorrelation[0, 0], time[1], omega, GRAPHENE_ATOMS)
    # Their files have six digits.
    np.testing.assert_allclose(ours, density[0, 0], atol=4e-6 * density.max())
    modes = np.trapezoid(density[0, 0], omega / (2 * np.pi), axis=0)
    np.testing.assert_allclose(modes, GRAPHENE_ATOMS, rtol=3e-3)


@needs_reference
def test_blocks_of_the_authors_files(tmp_path: Path) -> None:
    texts = [(REFERENCE / "pdos" / f"{name}.dos.out").read_text() for name in ("graphene", "hbn")]
    path = tmp_path / "dos.out"
    path.write_text("".join(texts))
    omega, density = read_dos(path)
    assert density.shape == (2, 1, 500, 3)
    singles = [read_dos(REFERENCE / "pdos" / f"{name}.dos.out")[1][0] for name in ("graphene", "hbn")]
    np.testing.assert_allclose(average_blocks(density, [1, 3]), 0.25 * singles[0] + 0.75 * singles[1])
    assert omega[-1] == 400


def test_density_of_states_of_one_oscillator() -> None:
    """A sharp line of N modes where the oscillator is; their number does not depend on the window."""
    interval_ps, lags = 0.002, 400
    line = 2 * np.pi * 20
    nyquist = np.pi / interval_ps
    omega = nyquist / 2000 * np.arange(2001)
    density = density_of_states(np.cos(line * interval_ps * np.arange(lags)), interval_ps, omega, atoms=7)
    assert omega[density.argmax()] == pytest.approx(line, rel=1e-3)
    assert np.trapezoid(density, omega / (2 * np.pi)) == pytest.approx(7, rel=1e-9)
