"""Slope of a straight line by the normal equations."""

import math


def slope(z):
    """Least-squares slope of z[d] against d = 1, 2, ..."""
    n = len(z)
    if n < 2:
        return math.nan
    d = range(1, n + 1)
    top = n * math.fsum(a * b for a, b in zip(d, z, strict=True)) - sum(d) * math.fsum(z)
    return top / (n * sum(a * a for a in d) - sum(d) ** 2)
