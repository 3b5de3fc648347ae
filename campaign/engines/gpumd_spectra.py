"""Spectra that GPUMD writes: ``shc.out``, ``dos.out``, ``mvac.out``, of one block or many.

It writes them at the end of a ``run`` and starts again in the next one, so a production has one spectrum for
each block, one after the other in one file; `average_blocks` is their mean. Before version 5.6 no file had a
header, and ``dos.out`` and ``mvac.out`` have none since; where a block ends is told by its first column.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from campaign.engines.gpumd_input import Floats
from campaign.errors import TransientError


@dataclass(frozen=True)
class SpectralHeatCurrent:
    """Virial-velocity correlation and spectral heat current of blocks of a run.

    Fan et al., Phys. Rev. B 99, 064308 (2019); for the heat flow through a layer see arXiv:2502.13601.

    Attributes
    ----------
    time_ps
        Shape (2 Nc - 1,), from -(Nc - 1) to Nc - 1 intervals.
    correlation
        Shape (blocks, groups, 2 Nc - 1, 2), in angstrom eV/ps: parts of the in-plane (x, y) and the
        out-of-plane (z) velocity, whose sum is K(t). GPUMD has multiplied it with a Hann window.
    omega_rad_per_ps
        Angular frequency, shape (points,).
    current
        Shape (blocks, groups, points, 2), in angstrom eV/ps/THz; parts as above, their sum is J(omega).
    """

    time_ps: Floats
    correlation: Floats
    omega_rad_per_ps: Floats
    current: Floats


def read_shc(path: Path, groups: int = 1) -> SpectralHeatCurrent:
    """Read ``shc.out``, with headers or without.

    Parameters
    ----------
    groups
        Groups that each block has, one after the other: more than one for ``group m -1``.

    Raises
    ------
    TransientError
        It is damaged or ends early.
    """
    rows = _numbers(path, 3)
    # The correlation is symmetric about t = 0, which is written exactly.
    zero = np.flatnonzero(rows[:, 0] == 0)
    lags = 2 * int(zero[0]) + 1 if zero.size else 0
    # What follows its last lag are frequencies, up to the first negative time, which begins the next group.
    starts = np.flatnonzero((rows[1:, 0] < 0) & (rows[:-1, 0] > 0)) + 1
    length = int(starts[0]) if starts.size else len(rows)
    if not 0 < lags < length or len(rows) % (length * groups):
        raise TransientError("is no whole number of spectra", where=str(path))
    blocks = rows.reshape(-1, groups, length, 3)
    return SpectralHeatCurrent(
        time_ps=blocks[0, 0, :lags, 0],
        correlation=blocks[..., :lags, 1:],
        omega_rad_per_ps=blocks[0, 0, lags:, 0],
        current=blocks[..., lags:, 1:],
    )


def read_dos(path: Path, groups: int = 1) -> tuple[Floats, Floats]:
    """Read ``dos.out``: the phonon density of states.

    Returns
    -------
    tuple
        Angular frequency in rad/ps, shape (points,), and densities along x, y and z in 1/THz, shape
        (blocks, groups, points, 3).

    Raises
    ------
    TransientError
        It is damaged or ends early.
    """
    return _columns(path, groups)


def read_mvac(path: Path, groups: int = 1) -> tuple[Floats, Floats]:
    """Read ``mvac.out``: the mass-weighted velocity autocorrelation.

    Returns
    -------
    tuple
        Time in ps, shape (lags,), and the autocorrelations along x, y and z, 1 at time zero, shape (blocks,
        groups, lags, 3).

    Raises
    ------
    TransientError
        It is damaged or ends early.
    """
    return _columns(path, groups)


def average_blocks(values: Floats, steps: Sequence[int]) -> Floats:
    """Mean over the blocks of a run, each weighted with its MD steps; shape without the first dimension.

    A block's correlations start anew, so their mean is that of one run of the same length, less the pairs of
    times that lie in two blocks.
    """
    return np.asarray(np.average(values, axis=0, weights=np.asarray(steps, dtype=float)))


def _columns(path: Path, groups: int) -> tuple[Floats, Floats]:
    rows = _numbers(path, 4)
    falls = np.flatnonzero(np.diff(rows[:, 0]) < 0) + 1
    length = int(falls[0]) if falls.size else len(rows)
    if not length or len(rows) % (length * groups):
        raise TransientError("is no whole number of spectra", where=str(path))
    blocks = rows.reshape(-1, groups, length, 4)
    if np.any(blocks[..., 0] != blocks[0, 0, :, 0]):
        raise TransientError("its spectra have different axes", where=str(path))
    return blocks[0, 0, :, 0], blocks[..., 1:]


def _numbers(path: Path, columns: int) -> Floats:
    try:
        rows = np.loadtxt(path, ndmin=2)
    except (OSError, ValueError) as error:
        raise TransientError(f"damaged: {error}", where=str(path)) from error
    if rows.shape[1] != columns:
        raise TransientError(f"has {rows.shape[1]} columns instead of {columns}", where=str(path))
    return rows
