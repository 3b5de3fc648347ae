"""Errors must be as large as the scatter that they claim to describe; most tests here compare the two."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import ArrayLike, NDArray

from campaign.physics.statistics import (
    Moments,
    block_estimate,
    block_slopes,
    integrated_autocorrelation_time,
    masked_ratio_of_means,
    normal_equivalent,
    ratio_of_means,
    student_quantile,
    z_score,
)
from tests.reference import REFERENCE, needs_reference

Floats = NDArray[np.float64]

numbers = st.floats(-1e3, 1e3, allow_nan=False).map(lambda x: round(x, 6))
positive = st.floats(0.1, 1e3)


def autoregressive(phi: float, n: int, count: int, rng: np.random.Generator) -> Floats:
    """``count`` stationary AR(1) series of unit variance, shape (count, n)."""
    noise = rng.normal(size=(count, n)) * math.sqrt(1 - phi**2)
    series = np.empty((count, n))
    series[:, 0] = rng.normal(size=count)
    for k in range(1, n):
        series[:, k] = phi * series[:, k - 1] + noise[:, k]
    return series


def sample(values: ArrayLike) -> Moments:
    """Moments of one sample, shape ``(n,)``."""
    data = np.asarray(values, dtype=float)
    return Moments.of(data, np.ones(data.shape, dtype=bool), (0,))


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9])
def test_autocorrelation_time_of_ar1(phi: float) -> None:
    exact = (1 + phi) / (2 * (1 - phi))
    series = autoregressive(phi, 4000, 20, np.random.default_rng(1))
    found = np.mean([integrated_autocorrelation_time(s) for s in series])
    assert found == pytest.approx(exact, rel=0.05)


def test_autocorrelation_time_is_at_least_half_a_sample() -> None:
    assert integrated_autocorrelation_time(np.full(100, 300.1)) == 0.5
    assert integrated_autocorrelation_time([1.0, -1.0] * 50) == 0.5  # anticorrelated


@given(hnp.arrays(float, 50, elements=numbers), positive, numbers)
def test_autocorrelation_time_does_not_depend_on_units(series: Floats, scale: float, shift: float) -> None:
    if np.ptp(series) < 1:
        return
    moved = integrated_autocorrelation_time(scale * series + shift)
    assert moved == pytest.approx(integrated_autocorrelation_time(series), rel=1e-6)


@pytest.mark.parametrize(("phi", "n"), [(0.0, 400), (0.8, 1000), (0.9, 4000)])
def test_block_error_is_the_scatter_of_means(phi: float, n: int) -> None:
    series = autoregressive(phi, n, 400, np.random.default_rng(2))
    estimates = [block_estimate(s) for s in series]
    claimed = math.sqrt(np.mean([e.standard_error**2 for e in estimates]))
    assert claimed == pytest.approx(series.mean(axis=1).std(), rel=0.12)
    covered = np.mean([abs(e.mean) < e.confidence_half_width for e in estimates])
    assert 0.91 < covered < 0.985


def test_blocks_hold_five_autocorrelation_times() -> None:
    series = autoregressive(0.9, 3000, 10, np.random.default_rng(3))
    for estimate in map(block_estimate, series):
        assert estimate.resolved
        assert estimate.block_length >= 5 * estimate.autocorrelation_time
        assert estimate.n_blocks * estimate.block_length <= 3000


def test_a_short_series_says_so_and_errs_on_the_safe_side() -> None:
    # a window of ten autocorrelation times: two blocks of five, where four are asked for
    series = autoregressive(0.95, 200, 300, np.random.default_rng(4))
    estimates = [block_estimate(s) for s in series]
    unresolved = [e for e in estimates if not e.resolved]
    assert len(unresolved) > 150
    claimed = np.mean([e.standard_error for e in unresolved])
    assert claimed > 0.9 * series.mean(axis=1).std()
    assert np.mean([abs(e.mean) < e.confidence_half_width for e in estimates]) > 0.9


def test_block_slopes_describe_a_random_walk_and_least_squares_does_not() -> None:
    rng = np.random.default_rng(5)
    time = np.arange(1.0, 1002.0)
    walks = 0.05 * time + np.cumsum(rng.normal(size=(300, time.size)), axis=1)
    slopes = [block_slopes(time, walk) for walk in walks]
    scatter = np.std([s.value for s in slopes])
    assert np.sqrt(np.mean([s.standard_error**2 for s in slopes])) == pytest.approx(scatter, rel=0.12)
    covered = np.mean([abs(s.value - 0.05) < s.confidence_half_width for s in slopes])
    assert 0.9 < covered < 0.99
    textbook = np.mean([np.sqrt(np.polyfit(time, w, 1, cov=True)[1][0, 0]) for w in walks])
    assert textbook < 0.3 * scatter


@given(positive, positive, numbers)
def test_slope_scales_with_energy_and_time(energy_scale: float, time_scale: float, shift: float) -> None:
    time = np.linspace(0, 10, 41)
    energy = np.sin(time) + time
    plain, scaled = (
        block_slopes(time, energy),
        block_slopes(time_scale * time + shift, energy_scale * energy - shift),
    )
    factor = energy_scale / time_scale
    assert scaled.value == pytest.approx(factor * plain.value, rel=1e-6)
    assert scaled.standard_error == pytest.approx(factor * plain.standard_error, rel=1e-5)


def test_ratio_of_means_is_the_formula_of_the_design() -> None:
    q, jump = np.array([1.0, 1.2, 0.9, 1.1]), np.array([30.0, 20.0, 35.0, 28.0])
    r = q / q.mean() - jump / jump.mean()
    found = ratio_of_means(q, jump)
    assert found.value == pytest.approx(q.sum() / jump.sum())
    assert found.standard_error == pytest.approx(found.value * np.sqrt(np.sum(r**2) / (4 * 3)))
    assert found.lower < found.value < found.upper
    assert (found.n, found.confidence_level) == (4, 0.95)


@pytest.mark.parametrize(("n", "noise"), [(4, 0.2), (10, 0.3)])
def test_fieller_interval_covers_as_often_as_it_says(n: int, noise: float) -> None:
    rng = np.random.default_rng(6)
    # heat flow and jump of a run are anticorrelated: a larger jump leaves less for the thermostats
    jump = 30 * (1 + noise * rng.normal(size=(4000, n)))
    q = 1.0 * (1 + 0.05 * rng.normal(size=(4000, n)) - 0.3 * (jump / 30 - 1))
    found = masked_ratio_of_means(q, jump, np.ones((4000, n), dtype=bool))
    covered = np.mean((found.lower < 1 / 30) & (found.upper > 1 / 30))
    assert covered == pytest.approx(0.95, abs=0.015)


def test_a_mean_of_ratios_is_biased_and_the_ratio_of_means_is_not() -> None:
    rng = np.random.default_rng(7)
    jump = 30 * (1 + 0.2 * rng.normal(size=(20000, 8)).clip(-4, 4))
    q = np.ones_like(jump)
    of_means = masked_ratio_of_means(q, jump, np.ones(jump.shape, dtype=bool)).value
    # the squared relative error of the jump, 4 %, against an eighth of it
    assert np.mean(q / jump) * 30 > 1.03
    assert np.mean(of_means) * 30 == pytest.approx(1.005, abs=0.003)


def test_an_unresolved_denominator_has_an_infinite_interval() -> None:
    found = ratio_of_means([1.0, 1.1, 0.9], [-10.0, 15.0, 5.0])
    assert (found.lower, found.upper) == (-math.inf, math.inf)
    assert math.isfinite(found.standard_error)


def test_one_run_has_a_value_and_no_error() -> None:
    found = ratio_of_means([2.0], [4.0])
    assert found.value == 0.5
    assert math.isnan(found.standard_error)
    assert (found.lower, found.upper) == (-math.inf, math.inf)
    one = sample([3.0])
    assert (float(one.average), int(one.n)) == (3.0, 1)
    assert math.isnan(one.standard_error)


def test_no_heat_flow_still_has_an_error() -> None:
    found = ratio_of_means([1.0, -1.0, 2.0, -2.0], [30.0, 31.0, 29.0, 30.0])
    assert found.value == 0
    assert found.standard_error == pytest.approx(np.std([1, -1, 2, -2], ddof=1) / 2 / 30, rel=0.01)


runs = st.integers(3, 12).flatmap(
    lambda n: st.tuples(
        hnp.arrays(float, n, elements=st.floats(0.5, 1.5)), hnp.arrays(float, n, elements=st.floats(10, 50))
    )
)


@given(runs, positive)
def test_ratio_scales_with_its_units_and_changes_sign_with_the_direction(
    pair: tuple[Floats, Floats], scale: float
) -> None:
    q, jump = pair
    plain, scaled, swapped = (
        ratio_of_means(q, jump),
        ratio_of_means(scale * q, jump),
        ratio_of_means(-q, jump),
    )
    for field in ("value", "standard_error", "lower", "upper"):
        assert getattr(scaled, field) == pytest.approx(scale * getattr(plain, field), rel=1e-6, abs=1e-9)
    assert swapped.value == -plain.value
    assert swapped.standard_error == pytest.approx(plain.standard_error)
    assert (swapped.lower, swapped.upper) == pytest.approx((-plain.upper, -plain.lower), rel=1e-6, abs=1e-9)
    assert plain.lower <= plain.value * (1 + 1e-9)
    assert plain.upper >= plain.value * (1 - 1e-9)


def test_weights_are_lengths_of_windows() -> None:
    # a run of twice the length counts as two
    found = ratio_of_means([1.0, 1.3], [30.0, 20.0], weights=[2.0, 1.0])
    assert found.value == pytest.approx(ratio_of_means([1.0, 1.0, 1.3], [30.0, 30.0, 20.0]).value)
    q, jump = np.array([1.0, 1.2, 0.9, 1.1, 1.05]), np.array([30.0, 26.0, 31.0, 28.0, 29.0])
    equal, jackknifed = ratio_of_means(q, jump), ratio_of_means(q, jump, weights=np.full(5, 12.0))
    assert jackknifed.value == pytest.approx(equal.value)
    assert jackknifed.standard_error == pytest.approx(equal.standard_error, rel=0.05)
    left_out = [np.delete(q, k).sum() / np.delete(jump, k).sum() for k in range(5)]
    # the jackknife: sqrt((n - 1) / n sum (x_i - mean(x))^2) of the leave-one-out estimates
    assert jackknifed.standard_error == pytest.approx(np.sqrt(4 * np.var(left_out)))


def test_masked_runs_do_not_count() -> None:
    q = np.array([[1.0, np.nan, 1.2], [1.0, 2.0, 3.0]])
    jump = np.array([[30.0, 99.0, 20.0], [1.0, 1.0, 1.0]])
    mask = np.array([[True, False, True], [False, False, False]])
    for weights in (None, np.ones((2, 3))):
        found = masked_ratio_of_means(q, jump, mask, weights=weights)
        assert found.value[0] == pytest.approx(2.2 / 50)
        assert found.n.tolist() == [2, 0]
        assert np.isnan([found.value[1], found.standard_error[1], found.lower[1]]).all()


@given(
    hnp.arrays(float, (7, 3), elements=numbers), hnp.arrays(bool, (7, 3)), st.integers(0, 7), st.booleans()
)
def test_moments_of_parts_merge_to_those_of_the_whole(
    values: Floats, mask: NDArray[np.bool_], cut: int, holes: bool
) -> None:
    if holes:
        values = np.where(mask, values, np.nan)
    whole = Moments.of(values, mask, [0])
    merged = Moments.of(values[:cut], mask[:cut], [0]).merge(Moments.of(values[cut:], mask[cut:], [0]))
    for column in range(3):
        kept = values[mask[:, column], column]
        for found in (whole, merged):
            assert found.n[column] == kept.size
            if kept.size:
                assert found.average[column] == pytest.approx(kept.mean(), abs=1e-9)
            if kept.size > 1:
                assert found.standard_deviation[column] == pytest.approx(kept.std(ddof=1), abs=1e-6)
    assert np.array_equal(np.isnan(whole.standard_error), whole.n < 2)


def test_normal_equivalent_of_students_t() -> None:
    assert normal_equivalent(student_quantile(3, 0.95), 3) == pytest.approx(1.959964, abs=1e-5)
    assert normal_equivalent(-student_quantile(1, 0.99), 1) == pytest.approx(-2.575829, abs=1e-5)
    assert normal_equivalent(2.5, 1e6) == pytest.approx(2.5, abs=1e-4)


def test_z_score() -> None:
    assert z_score(250, 3, 230, 4) == 4
    assert z_score(230, 4, 250, 3) == -4
    with pytest.raises(ValueError, match="must be positive"):
        z_score(1, 0, 2, 0)


@pytest.mark.parametrize("bad", [[], [1.0, math.nan], [[1.0, 2.0]]])
def test_missing_data_raise(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="values"):
        ratio_of_means(bad, bad)


def test_wrong_shapes_and_undefined_ratios_raise() -> None:
    with pytest.raises(ValueError, match="do not pair"):
        ratio_of_means([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="undefined"):
        ratio_of_means([1.0, 2.0], [1.0, -1.0])
    with pytest.raises(ValueError, match="blocks do not fit"):
        block_slopes([0.0, 1.0, 2.0], [0.0, 1.0, 2.0], 3)
    with pytest.raises(ValueError, match="time must increase"):
        block_slopes([0.0, 2.0, 1.0, 3.0], [0.0, 1.0, 2.0, 3.0], 3)


@needs_reference
@pytest.mark.parametrize(("file", "key"), [("nep", "itc_nep_classical"), ("tersoff-lj", "itc_tersoff_lj")])
def test_table_one_of_the_paper(file: str, key: str) -> None:
    published = json.loads((REFERENCE / "published.json").read_text())[key]
    found = sample(np.loadtxt(REFERENCE / "itc" / f"{file}.dat")[:, 1])
    assert found.n == published["n"]
    assert (found.average, found.standard_deviation) == pytest.approx(published["recomputed"], abs=1e-4)
    assert found.standard_error == pytest.approx(published["sem"], abs=1e-3)
    assert [round(float(found.average), 1), round(float(found.standard_deviation), 1)] == published["paper"]
