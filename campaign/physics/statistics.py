"""Errors of means, slopes and ratios: within one run from blocks, between runs from their spread.

Conventions. A standard deviation is that of the sample (``ddof = 1``); a standard error is that of a mean.
An integrated autocorrelation time is in samples, ``tau = 1/2 + sum_k rho(k)``, so that uncorrelated data
have 1/2. Missing data raise; functions for ensembles with holes (`Moments`, `masked_ratio_of_means`) are told
where the holes are by a mask. What a single value cannot tell (the spread of one run) is NaN: undefined, not
missing.

Sources: U. Wolff, Comput. Phys. Commun. 156, 143 (2004), cited as Wolff; H. Flyvbjerg and H. G. Petersen, J.
Chem. Phys. 91, 461 (1989); E. C. Fieller, J. R. Stat. Soc. B 16, 175 (1954); B. Efron and C. Stein, Ann.
Stat. 9, 586 (1981).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]

AUTOCORRELATION_TIMES_PER_BLOCK = 5.0
MAXIMUM_BLOCKS = 20  # more add nothing to the error's own precision, longer ones are less correlated
MOST_Z = 37.0
WINDOW_FACTOR = 6.0  # Sokal's c: the window is this many autocorrelation times


@dataclass(frozen=True)
class BlockEstimate:
    """Mean of a correlated series with the error of its block means.

    Attributes
    ----------
    mean, standard_error
        In the units of the series.
    confidence_half_width
        ``standard_error`` times Student's quantile of the blocks (two-sided).
    n_blocks, block_length
        Number of blocks and samples in each.
    autocorrelation_time
        Integrated, in samples.
    resolved
        False when the series holds too few blocks of five autocorrelation times: the error is then an upper
        guess, one independent value for every five autocorrelation times.
    """

    mean: float
    standard_error: float
    confidence_half_width: float
    n_blocks: int
    block_length: int
    autocorrelation_time: float
    resolved: bool


@dataclass(frozen=True)
class SlopeEstimate:
    """Slope over a window, its error from the slopes of ``n_blocks`` equal parts of it."""

    value: float
    standard_error: float
    confidence_half_width: float
    n_blocks: int


@dataclass(frozen=True)
class RatioEstimate:
    """Ratio of two means. The interval is infinite where the denominator is not told from zero."""

    value: float
    standard_error: float
    lower: float
    upper: float
    confidence_level: float
    n: int


@dataclass(frozen=True)
class RatioArrays:
    """`RatioEstimate` of many cells; ``value`` is NaN where ``n`` is 0."""

    value: Floats
    standard_error: Floats
    lower: Floats
    upper: Floats
    confidence_level: float
    n: NDArray[np.int64]


def student_quantile(degrees_of_freedom: ArrayLike, confidence_level: float = 0.95) -> Floats:
    """Two-sided quantile of Student's t: a mean lies within it times its standard error."""
    if not 0 < confidence_level < 1:
        raise ValueError(f"confidence level is {confidence_level}, must be between 0 and 1")
    dof = np.asarray(degrees_of_freedom, dtype=float)
    return np.asarray(scipy.special.stdtrit(dof, 0.5 + 0.5 * confidence_level), dtype=float)


def normal_equivalent(t: ArrayLike, degrees_of_freedom: ArrayLike) -> Floats:
    """Return the normal deviate that is as improbable as Student's ``t``.

    With few runs a mean divided by its own error is wide: of two runs, one in six exceeds 4 by chance. This
    makes ``|z| < 4`` mean the same for any number of runs. 37 stands for all that is larger: the probability
    is too small for a floating-point number.
    """
    value = np.asarray(t, dtype=float)
    tail = scipy.special.stdtr(np.asarray(degrees_of_freedom, dtype=float), -np.abs(value))
    return np.asarray(-np.sign(value) * np.maximum(scipy.special.ndtri(tail), -MOST_Z), dtype=float)


def integrated_autocorrelation_time(series: ArrayLike) -> float:
    """Integrated autocorrelation time ``tau = 1/2 + sum_{k=1}^{W} rho(k)`` in samples, at least 1/2.

    The window ``W`` is the smallest with ``W >= 6 tau(W)`` (A. Sokal, in Functional Integration, NATO ASI B
    361, 131 (1997)); the bias from the subtracted mean is corrected by ``1 + (2 W + 1) / n`` (Wolff, Eq. 49).
    A constant series has 1/2.
    """
    data = _series(series, "series", minimum=4)
    n = data.size
    deviation = data - data.mean()
    spectrum = np.fft.rfft(deviation, 2 * n)
    covariance = np.fft.irfft(spectrum * spectrum.conj(), 2 * n)[:n] / np.arange(n, 0, -1)
    # a constant series leaves only rounding noise, which has no correlation worth a name
    if covariance[0] <= (1e-14 * max(1.0, float(np.abs(data).max()))) ** 2:
        return 0.5
    tau = np.cumsum(covariance / covariance[0]) - 0.5
    lags = np.arange(n)
    inside = np.flatnonzero(lags >= WINDOW_FACTOR * tau)
    # without a window the correlations outlast the series: sums up to half of it are all that it can say
    window = int(inside[0]) if inside.size else n // 2
    return max(0.5, float(tau[window]) * (1 + (2 * window + 1) / n))


def block_estimate(
    series: ArrayLike, *, minimum_blocks: int = 4, confidence_level: float = 0.95
) -> BlockEstimate:
    """Mean of a correlated series, with the standard error of block means (Flyvbjerg and Petersen 1989).

    Blocks hold at least five integrated autocorrelation times; there are 20 at most. A series too short for
    ``minimum_blocks`` of them is marked ``resolved=False`` and gets the larger of the error of
    ``minimum_blocks`` short blocks and ``s / sqrt(max(1, n / (5 tau)))``.
    """
    if minimum_blocks < 2:
        raise ValueError(f"minimum_blocks is {minimum_blocks}; an error needs two blocks at least")
    data = _series(series, "series", minimum=max(4, minimum_blocks))
    tau = integrated_autocorrelation_time(data)
    shortest = int(np.ceil(AUTOCORRELATION_TIMES_PER_BLOCK * tau))
    possible = data.size // shortest
    resolved = possible >= minimum_blocks
    n_blocks = min(max(MAXIMUM_BLOCKS, minimum_blocks), possible) if resolved else minimum_blocks
    length = data.size // n_blocks
    # the remainder is dropped at the start, where a window is least settled
    blocks = data[data.size - n_blocks * length :].reshape(n_blocks, length).mean(axis=1)
    error = float(blocks.std(ddof=1)) / float(np.sqrt(n_blocks))
    dof = n_blocks - 1
    if not resolved:
        independent = max(1.0, data.size / (AUTOCORRELATION_TIMES_PER_BLOCK * tau))
        error = max(error, float(data.std(ddof=1)) / float(np.sqrt(independent)))
        dof = max(1, int(independent) - 1)
    half_width = error * float(student_quantile(dof, confidence_level))
    return BlockEstimate(float(data.mean()), error, half_width, n_blocks, length, tau, resolved)


def block_slopes(
    time: ArrayLike, energy: ArrayLike, n_blocks: int = 8, *, confidence_level: float = 0.95
) -> SlopeEstimate:
    """Slope of a cumulative energy by end-point differences, its error from the slopes of blocks.

    ``value = (E(t_n) - E(t_0)) / (t_n - t_0)``, in units of energy per time. The tally of a thermostat is a
    random walk around its slope, so the textbook error of a least-squares line, which takes residuals as
    independent, is meaningless; increments over blocks are close to independent.
    """
    t, e = _same_length(time, energy)
    if not 2 <= n_blocks < t.size:
        raise ValueError(f"{n_blocks} blocks do not fit {t.size} samples; take 2 to {t.size - 1}")
    edges = np.linspace(0, t.size - 1, n_blocks + 1).round().astype(int)
    durations = np.diff(t[edges])
    if np.any(durations <= 0):
        raise ValueError("time must increase")
    value = float((e[-1] - e[0]) / (t[-1] - t[0]))
    # weights as for means of unequal windows; for equal ones this is s / sqrt(n)
    residuals = np.diff(e[edges]) - value * durations
    error = float(np.sqrt(n_blocks / (n_blocks - 1) * np.sum(residuals**2)) / np.sum(durations))
    half_width = error * float(student_quantile(n_blocks - 1, confidence_level))
    return SlopeEstimate(value, error, half_width, n_blocks)


def ratio_of_means(
    numerators: ArrayLike,
    denominators: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    confidence_level: float = 0.95,
) -> RatioEstimate:
    r"""Ratio of the means of paired values of ``n`` independent runs, ``R = sum w_s a_s / sum w_s b_s``.

    A mean of ratios would be biased by about the squared relative error of ``b``. Equal weights: with
    ``r_s = a_s / mean(a) - b_s / mean(b)`` the standard error is ``|R| sqrt(sum r_s^2 / (n (n - 1)))``; given
    weights (lengths of windows): the jackknife. The interval is Fieller's (1954), with Student's quantile of
    ``n - 1``; where the mean of ``b`` is not told from zero at that level it is infinite.

    Raises
    ------
    ValueError
        No values, missing ones, lengths that differ, weights not positive, denominators of zero mean.
    """
    a, b = _same_length(numerators, denominators)
    w = None if weights is None else _series(weights, "weights", minimum=1)
    if w is not None and (w.size != a.size or np.any(w <= 0)):
        raise ValueError("weights must be positive, one for each run")
    if (b.sum() if w is None else (w * b).sum()) == 0:
        raise ValueError("the mean of the denominators is zero: the ratio is undefined")
    arrays = masked_ratio_of_means(
        a, b, np.ones(a.size, dtype=bool), weights=w, confidence_level=confidence_level
    )
    return RatioEstimate(
        float(arrays.value),
        float(arrays.standard_error),
        float(arrays.lower),
        float(arrays.upper),
        confidence_level,
        int(arrays.n),
    )


def masked_ratio_of_means(
    numerators: Floats,
    denominators: Floats,
    mask: Booleans,
    *,
    weights: Floats | None = None,
    confidence_level: float = 0.95,
) -> RatioArrays:
    """`ratio_of_means` along the last axis of arrays of one shape ``(..., runs)``, where ``mask`` is True.

    A cell without runs, or whose denominators have zero mean, has the value NaN; one with a single run has no
    standard error (NaN) and an infinite interval.
    """
    n = mask.sum(axis=-1)
    a = np.where(mask, numerators, 0.0)
    b = np.where(mask, denominators, 0.0)
    if weights is not None:
        w = np.where(mask, weights, 0.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            w = w * (n / w.sum(axis=-1))[..., None]
        a, b = np.where(mask, w * a, 0.0), np.where(mask, w * b, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_a, mean_b = a.sum(axis=-1) / n, b.sum(axis=-1) / n
        value = np.where(mean_b != 0, mean_a / mean_b, np.nan)
        # R r_s, written so that it also holds for a vanishing mean of a
        residual = np.where(mask, (a - value[..., None] * b) / mean_b[..., None], 0.0)
        if weights is None:
            error = np.sqrt((residual**2).sum(axis=-1) / (n * (n - 1.0)))
        else:
            left_out = (a.sum(axis=-1)[..., None] - a) / (b.sum(axis=-1)[..., None] - b)
            centre = np.where(mask, left_out, 0.0).sum(axis=-1) / n
            scatter = np.where(mask, left_out - centre[..., None], 0.0)
            error = np.sqrt((n - 1.0) / n * (scatter**2).sum(axis=-1))
    error = np.where(n > 1, error, np.nan)
    lower, upper = _fieller(a, b, mask, n, confidence_level)
    defined = np.isfinite(value)
    return RatioArrays(
        value,
        error,
        np.where(defined, lower, np.nan),
        np.where(defined, upper, np.nan),
        confidence_level,
        np.asarray(n, dtype=np.int64),
    )


def _fieller(
    a: Floats, b: Floats, mask: Booleans, n: NDArray[np.int64], confidence_level: float
) -> tuple[Floats, Floats]:
    """Bounds of all R with ``(mean(a) - R mean(b))^2 <= t^2 var(mean(a) - R mean(b))``."""
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_a, mean_b = a.sum(axis=-1) / n, b.sum(axis=-1) / n
        da = np.where(mask, a - mean_a[..., None], 0.0)
        db = np.where(mask, b - mean_b[..., None], 0.0)
        per_mean = student_quantile(np.maximum(n - 1, 1), confidence_level) ** 2 / (n * (n - 1.0))
        quadratic = mean_b**2 - per_mean * (db**2).sum(axis=-1)
        linear = mean_a * mean_b - per_mean * (da * db).sum(axis=-1)
        constant = mean_a**2 - per_mean * (da**2).sum(axis=-1)
        # where bounded, the ratio itself satisfies the inequality, so only rounding makes the root imaginary
        root = np.sqrt(np.maximum(linear**2 - quadratic * constant, 0.0))
        bounded = (n > 1) & (quadratic > 0)
        lower = np.where(bounded, (linear - root) / quadratic, -np.inf)
        upper = np.where(bounded, (linear + root) / quadratic, np.inf)
    return lower, upper


def z_score(a: float, standard_error_a: float, b: float, standard_error_b: float = 0.0) -> float:
    """Difference ``a - b`` in units of its standard error, ``(a - b) / sqrt(SE_a^2 + SE_b^2)``."""
    error = float(np.hypot(standard_error_a, standard_error_b))
    if not error > 0:
        raise ValueError(f"the standard error of the difference is {error}, must be positive")
    return (a - b) / error


@dataclass(frozen=True)
class Moments:
    """Number, mean and sum of squared deviations of masked arrays; parts can be merged, so data can stream.

    Attributes
    ----------
    n, mean, squares
        Arrays of one shape; ``mean`` and ``squares`` are 0 where ``n`` is 0.
    """

    n: NDArray[np.int64]
    mean: Floats
    squares: Floats

    @classmethod
    def of(cls, values: Floats, mask: Booleans, axes: Sequence[int]) -> Self:
        """Moments of ``values`` where ``mask`` is True, over ``axes``; both arrays have one shape."""
        axis = tuple(axes)
        n = mask.sum(axis=axis)
        count = np.maximum(n, 1)
        mean = values.sum(axis=axis, where=mask) / count
        deviation = values - np.expand_dims(mean, axis)
        squares = np.square(deviation, out=deviation).sum(axis=axis, where=mask)
        return cls(np.asarray(n, dtype=np.int64), mean, squares)

    def merge(self, other: Self) -> Self:
        """Moments of both together (T. Chan, G. Golub and R. LeVeque, Am. Stat. 37, 242 (1983))."""
        n = self.n + other.n
        fraction = other.n / np.maximum(n, 1)
        shift = other.mean - self.mean
        return type(self)(
            n,
            np.where(self.n == 0, other.mean, self.mean + shift * fraction),
            self.squares + other.squares + np.where(self.n > 0, shift**2 * self.n * fraction, 0.0),
        )

    @property
    def average(self) -> Floats:
        """Mean; NaN where there are no values."""
        return np.where(self.n > 0, self.mean, np.nan)

    @property
    def standard_deviation(self) -> Floats:
        """Sample standard deviation (``ddof = 1``); NaN (undefined) for fewer than two values."""
        return np.where(self.n > 1, np.sqrt(self.squares / np.maximum(self.n - 1, 1)), np.nan)

    @property
    def standard_error(self) -> Floats:
        """Standard error of the mean; NaN (undefined) for fewer than two values."""
        return self.standard_deviation / np.sqrt(np.maximum(self.n, 1))


def _series(values: ArrayLike, name: str, *, minimum: int) -> Floats:
    data = np.asarray(values, dtype=float)
    if data.ndim != 1 or data.size < minimum:
        raise ValueError(f"{name} must be one-dimensional with at least {minimum} values, not {data.shape}")
    if not np.all(np.isfinite(data)):
        raise ValueError(f"{int(np.sum(~np.isfinite(data)))} of {data.size} {name} are not finite")
    return data


def _same_length(first: ArrayLike, second: ArrayLike) -> tuple[Floats, Floats]:
    a, b = _series(first, "first values", minimum=1), _series(second, "second values", minimum=1)
    if a.size != b.size:
        raise ValueError(f"{a.size} and {b.size} values do not pair")
    return a, b
