"""BCa intervals: against every draw there is, a second implementation, and another package's."""

import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest

from mambavl.fuse import bca

MANY = 1e6  # units: what is widened is in the sixth figure


def by_hand(values, level):
    """BCa of a mean over all n^n draws, written out from the formulas; and those draws."""
    n, phi = len(values), NormalDist()
    draws = sorted(sum(drawn) / n for drawn in itertools.product(values, repeat=n))
    value = sum(values) / n
    below = sum(1 for one in draws if one < value) + sum(1 for one in draws if one == value) / 2
    z0 = phi.inv_cdf(below / len(draws))
    left_out = [(sum(values) - one) / (n - 1) for one in values]
    mean = sum(left_out) / n
    a = sum((mean - one) ** 3 for one in left_out) / 6 / sum((mean - one) ** 2 for one in left_out) ** 1.5
    ends = []
    for z in (phi.inv_cdf(level / 2), phi.inv_cdf(1 - level / 2)):
        place = phi.cdf(z0 + (z0 + z) / (1 - a * (z0 + z))) * (len(draws) - 1)
        low = math.floor(place)
        high = min(low + 1, len(draws) - 1)
        ends.append(draws[low] + (place - low) * (draws[high] - draws[low]))
    return draws, left_out, ends


@pytest.mark.parametrize(
    "values", [[0.5, 1.25, 2.0, 2.5, 8.0], [-8.0, 1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0, 5.0]]
)
@pytest.mark.parametrize("level", [0.05, 0.2])
def test_it_is_the_formula_over_every_draw_there_is(values, level):
    draws, left_out, ends = by_hand(values, level)
    found = bca.interval(sum(values) / 5, np.array(draws), np.array(left_out), units=MANY, level=level)
    assert found == pytest.approx(ends, abs=1e-4)


def test_it_is_that_of_another_package_on_the_same_draws():
    stats = pytest.importorskip("scipy.stats", reason="comes with the package of the `audit` extra")
    values = np.random.default_rng(2).exponential(size=15)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=999, method="BCa", rng=np.random.default_rng(3))
    left_out = (values.sum() - values) / 14
    draws = theirs.bootstrap_distribution
    found = bca.interval(values.mean(), draws, left_out, units=MANY, level=0.05)
    assert found == pytest.approx((theirs.confidence_interval.low, theirs.confidence_interval.high), abs=1e-4)


def test_without_bias_and_skewness_it_is_the_middle_of_the_draws():
    draws, level = np.arange(-500.0, 501.0), np.array([1.0, 2.0, 3.0])
    assert bca.interval(0.0, draws, level, units=MANY, level=0.1) == pytest.approx((-450, 450), abs=0.6)


def test_few_units_make_it_wider_as_student_s_t_does():
    draws = np.random.default_rng(0).normal(size=200_000)
    low, high = bca.interval(0.0, draws, np.array([-1.0, 0.0, 1.0]), units=6, level=0.05)
    expected = math.sqrt(6 / 5) * 2.570582  # Student's t of 5 degrees of freedom, from a table
    assert (low, high) == pytest.approx((-expected, expected), abs=0.05)


def test_a_right_tail_moves_both_ends_to_the_right():
    values = np.random.default_rng(4).exponential(size=20)
    rng = np.random.default_rng(5)
    draws = rng.choice(values, (5000, 20)).mean(1)
    plain = np.quantile(draws, [0.025, 0.975])
    low, high = bca.interval(values.mean(), draws, (values.sum() - values) / 19, units=MANY, level=0.05)
    assert low > plain[0]
    assert high > plain[1]


def test_draws_on_one_side_of_the_value_end_at_the_last_of_them():
    low, high = bca.interval(10.0, np.arange(5.0), np.array([9.0, 10.0, 11.0]), units=MANY, level=0.05)
    assert low > 2  # the middle of the draws
    assert 3.9 < high <= 4


def test_draws_that_are_all_the_value_have_no_width():
    assert bca.interval(2.0, np.full(50, 2.0), np.full(7, 2.0), units=7, level=0.05) == (2.0, 2.0)


def test_more_skewness_than_can_be_corrected_ends_at_the_edge():
    left_out = np.array([0.0, 0.0, 0.0, -1.0])  # d: -1/4, -1/4, -1/4, 3/4
    a = (27 - 3) / 64 / 6 / (12 / 16) ** 1.5
    assert bca.acceleration(left_out) == pytest.approx(a)
    draws = np.arange(101.0)
    assert bca.interval(50.0, draws, left_out, units=1.2, level=0.001) == (0.0, 100.0)
    assert bca.interval(50.0, draws, -left_out, units=1.2, level=0.001) == (0.0, 100.0)


@pytest.mark.parametrize(
    ("chance", "freedom", "value"),
    [  # from printed tables
        (0.975, 1, 12.706205),
        (0.975, 2, 4.302653),
        (0.975, 5, 2.570582),
        (0.995, 9, 3.249836),
        (0.975, 29, 2.045230),
        (0.5, 3, 0.0),
        (0.025, 5, -2.570582),
    ],
)
def test_student_s_quantiles_are_those_of_the_tables(chance, freedom, value):
    assert bca.student(chance, freedom) == pytest.approx(value, abs=1e-6)


def test_with_many_degrees_of_freedom_student_is_normal():
    assert bca.student(0.975, 1e6) == pytest.approx(NormalDist().inv_cdf(0.975), abs=1e-5)


def test_degrees_of_freedom_need_not_be_whole():
    """With 1.5 the integral is known: P(|X| < x) by the incomplete beta function, here by a sum of slices."""
    freedom, x = 1.5, bca.student(0.95, 1.5)
    at = (np.arange(2_000_000) + 0.5) * x / 2_000_000
    density = (1 + at**2 / freedom) ** (-(freedom + 1) / 2) / math.sqrt(freedom)
    scale = math.gamma((freedom + 1) / 2) / math.gamma(freedom / 2) / math.gamma(0.5)
    assert 0.5 + scale * density.sum() * x / 2_000_000 == pytest.approx(0.95, abs=1e-8)
