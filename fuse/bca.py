"""A bootstrap's interval, corrected for bias and skewness: BCa.

    B. Efron, "Better bootstrap confidence intervals", JASA 82 (1987), 171-185:

    low, high = quantiles of the draws at  Phi(z0 + (z0 + z) / (1 - a (z0 + z))),  z = -+ width
    z0 = Phi^-1(share of draws below the value)         a = sum d^3 / (6 (sum d^2)^(3/2))

where d is the mean of the values without one unit each, less that value without it: a jackknife. Units are
what is drawn, here videos. With few of them a bootstrap is too narrow, as a variance that is divided by n and
taken for known is; so width is not z's but sqrt(n / (n - 1)) times Student's t with n - 1 degrees of freedom
(T. Hesterberg, "What teachers should know about the bootstrap", The American Statistician 69 (2015), 371-386:
expanded intervals). Of units of unequal weight n is (sum w)^2 / sum w^2 (Kish).
"""

import math
from statistics import NormalDist

import numpy as np

NORMAL = NormalDist()


def interval(
    value: float, draws: np.ndarray, without: np.ndarray, *, units: float, level: float
) -> tuple[float, float]:
    """Low and high of the middle 1 - level.

    draws (B,): the measure in each draw; without (n,): without each unit; units: how many these are worth, 2
    or more. A draw that equals the value is half below it.
    """
    below = (draws < value).mean() + (draws == value).mean() / 2
    edge = 0.5 / len(draws)  # where all draws lie on one side, bias is as large as can be told
    z0 = NORMAL.inv_cdf(min(max(float(below), edge), 1 - edge))
    a, width = acceleration(without), half_width(units, level)
    low, high = np.quantile(draws, [_level(z0, a, -width), _level(z0, a, width)])
    return float(low), float(high)


def acceleration(without: np.ndarray) -> float:
    """a of the jackknife's values (n,); 0 where they are all equal."""
    apart = without.mean() - without
    spread = float((apart**2).sum())
    return float((apart**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0


def half_width(units: float, level: float) -> float:
    """By how many standard deviations the ends of a symmetric interval lie apart from its middle."""
    return math.sqrt(units / (units - 1)) * student(1 - level / 2, units - 1)


def _level(z0: float, a: float, z: float) -> float:
    """Of the draws, where a normal statistic without bias and skewness has Phi(z)."""
    below = 1 - a * (z0 + z)
    if below <= 0:  # past the pole: the skewness is more than the formula can correct
        return 1.0 if z0 + z > 0 else 0.0
    return NORMAL.cdf(z0 + (z0 + z) / below)


def student(chance: float, freedom: float) -> float:
    """The quantile of Student's t, for degrees of freedom that need not be whole: where the integral of its
    density reaches `chance`, by halving an interval and Simpson's rule.
    """
    if chance < 0.5:
        return -student(1 - chance, freedom)
    low, high = 0.0, 1.0
    while 0.5 + _mass(high, freedom) < chance:
        low, high = high, 2 * high
    while high - low > 1e-10 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if 0.5 + _mass(middle, freedom) < chance else (low, middle)
    return high


def _mass(end: float, freedom: float, steps: int = 2000) -> float:
    """Of Student's t between 0 and `end`. With x = sqrt(freedom) tan(angle) the density is that of
    cos^(freedom - 1), which is smooth and ends before pi / 2, however heavy the tails are.
    """
    angle = np.linspace(0.0, math.atan(end / math.sqrt(freedom)), steps + 1)
    heights = np.cos(angle) ** (freedom - 1)
    sums = heights[0] + heights[-1] + 4 * heights[1::2].sum() + 2 * heights[2:-1:2].sum()
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
    return float(scale * sums * angle[1] / 3)
