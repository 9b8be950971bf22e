"""Intervals of shares, means, differences and correlations, all at one level."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from analyze.numerics import ROUNDING

CONFIDENCE = 0.99  # that no claim of a run's findings is wrong by chance
CLAIMS = 32  # that the rules can make; each gets an equal part of what is left (Bonferroni)
ALPHA = (1 - CONFIDENCE) / CLAIMS
# Of fewer examples, all may lie on one side of their mean by chance more often than that (sign test).
FEWEST = math.ceil(1 - math.log2(ALPHA))


@dataclass(frozen=True)
class Interval:
    """An estimate and the interval around it."""

    value: float
    low: float
    high: float

    def __neg__(self) -> Interval:
        return Interval(-self.value, -self.high, -self.low)

    def within(self, low: float, high: float) -> Interval:
        """The same of what cannot lie elsewhere, such as a cosine."""
        return Interval(self.value, max(low, self.low), min(high, self.high))

    def above(self, bound: float) -> bool:
        """Whether all of it is larger."""
        return self.low > bound

    def below(self, bound: float) -> bool:
        """Whether all of it is smaller."""
        return self.high < bound

    def excludes(self, bound: float) -> bool:
        """Whether it is all on one side."""
        return self.above(bound) or self.below(bound)


def quantile(degrees: float = math.inf, looks: int = 1) -> float:
    """Half width in standard errors: Student's with few degrees of freedom; `looks` is how many places were tried.

    >>> round(quantile(), 2), round(quantile(4), 1)
    (3.6, 11.6)
    """
    tail = 1 - ALPHA / looks / 2
    if math.isinf(degrees):
        return NormalDist().inv_cdf(tail)
    from scipy.special import stdtrit

    return float(stdtrit(degrees, tail))


def mean(value: float, error: float, n: float, looks: int = 1, fewest: int = 3) -> Interval | None:
    """Of a mean of n examples with this standard error; None where either is undefined, or n is below `fewest`.

    None also where the error is 0: that nothing varied among so many does not say that nothing does.
    """
    if not n >= fewest or not math.isfinite(value) or not (ROUNDING * abs(value) < error < math.inf):
        return None
    half = quantile(n - 1, looks) * error
    return Interval(value, value - half, value + half)


def difference(
    first: tuple[float, float], second: tuple[float, float], n: float, looks: int = 1, fewest: int = 3
) -> Interval | None:
    """Of the second mean less the first, each with its standard error, as if independent; n is the smaller number.

    Of the same examples at two times that is wider than need be, never narrower, as long as they go together.
    """
    return mean(second[0] - first[0], math.hypot(first[1], second[1]), n, looks, fewest)


def sample(values: ArrayLike, looks: int = 1) -> Interval | None:
    """Of the mean of values, NaN left out; None of fewer than FEWEST."""
    numbers = np.asarray(values, np.float64)
    numbers = numbers[~np.isnan(numbers)]
    n = len(numbers)
    if n < FEWEST:
        return None
    return mean(float(numbers.mean()), float(numbers.std(ddof=1)) / math.sqrt(n), n, looks)


def share(value: float, n: int) -> Interval | None:
    """Of a share of n examples (Wilson 1927); a mean of values in [0, 1] varies no more. None where undefined.

    >>> one = share(0.0, 1000)
    >>> one.low, round(one.high, 3)
    (0.0, 0.013)
    """
    if n < 1 or not math.isfinite(value):
        return None
    z = quantile()
    middle = (value + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(value * (1 - value) / n + z * z / (4 * n * n))
    return Interval(value, max(0.0, min(value, middle - half)), min(1.0, max(value, middle + half)))


def difference_of_shares(first: Interval, second: Interval) -> Interval:
    """Of the second share less the first, of different examples (Newcombe 1998, method 10).

    >>> gap = difference_of_shares(share(0.0, 500), share(0.1, 500))
    >>> round(gap.value, 2), gap.above(0)
    (0.1, True)
    """
    value = second.value - first.value
    low = math.hypot(second.value - second.low, first.high - first.value)
    high = math.hypot(second.high - second.value, first.value - first.low)
    return Interval(value, value - low, value + high)


def correlation(value: float, n: int) -> Interval | None:
    """Of Pearson's correlation of n examples (Fisher 1921, with Student's quantile); None with fewer than 5.

    >>> correlation(0.5, 1000).above(0.3), correlation(0.5, 10).excludes(0)
    (True, False)
    """
    if n < 5 or not math.isfinite(value):
        return None
    centre, half = math.atanh(max(-0.9999999, min(0.9999999, value))), quantile(n - 2) / math.sqrt(n - 3)
    return Interval(value, math.tanh(centre - half), math.tanh(centre + half))
