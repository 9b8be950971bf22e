"""Margins and their order statistics from lists."""

from fractions import Fraction
from math import comb


def margins(scores, labels):
    """Score of the label minus the best other score."""
    return [
        row[y] - max(v for c, v in enumerate(row) if c != y) for row, y in zip(scores, labels, strict=True)
    ]


def gamma(values, percent):
    """The smallest margin with at least `percent` % of the margins at or below it."""
    ordered = sorted(values)
    for k, value in enumerate(ordered, start=1):
        if Fraction(k, len(ordered)) >= Fraction(percent, 100):
            return value
    raise AssertionError("no margin")


def ranks_around(percent, m, alpha):
    """Least and largest rank such that a quantile lies outside with chance alpha at most, half of it on each side."""
    p = Fraction(percent, 100)
    chances = [comb(m, k) * p**k * (1 - p) ** (m - k) for k in range(m + 1)]
    low = max((rank for rank in range(1, m + 1) if sum(chances[:rank]) <= alpha / 2), default=0)
    high = min((rank for rank in range(1, m + 1) if sum(chances[rank:]) <= alpha / 2), default=m + 1)
    return low, high
