"""Spectra from correlation functions.

Frequencies are angular, in rad/ps; times in ps. A density of states is per ordinary frequency (THz).
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def density_of_states(
    autocorrelation: ArrayLike, interval_ps: float, omega_rad_per_ps: ArrayLike, atoms: int
) -> Floats:
    """Phonon density of states of a mass-weighted velocity autocorrelation, in 1/THz.

    The transform of GPUMD (``compute_dos``; Dickey and Paskin, Phys. Rev. 188, 1407 (1969), with a Hann
    window)::

        g(w) = 2 N dt sum_k h_k c(k dt) cos(w k dt),   h_0 = 1,   h_k = 1 + cos(pi k / K)

    Its integral over the frequency w / 2 pi from 0 to the Nyquist frequency is N for each direction, the
    number of its modes.

    Parameters
    ----------
    autocorrelation
        c, along one or more directions, shape (K, ...); it is divided by its value at time zero.
    interval_ps
        dt, time between two of its rows.
    omega_rad_per_ps
        w, shape (points,).
    atoms
        N.

    Returns
    -------
    numpy.ndarray
        g, shape (points, ...).
    """
    c = np.asarray(autocorrelation, dtype=float)
    k = np.arange(len(c))
    window = 1 + np.cos(np.pi * k / len(c))
    window[0] = 1
    cosines = np.cos(np.outer(np.asarray(omega_rad_per_ps, dtype=float), k * interval_ps))
    return np.asarray(2 * atoms * interval_ps * np.tensordot(cosines * window, c / c[0], axes=1))
