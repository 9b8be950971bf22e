"""Correlation of complexity and slope by its definition."""

import math
import statistics


def cna(alpha, beta):
    """Pearson correlation of two lists, NaN where one does not vary."""
    kept = [(a, b) for a, b in zip(alpha, beta, strict=True) if not (math.isnan(a) or math.isnan(b))]
    if len(kept) < 2:
        return math.nan
    first, second = zip(*kept, strict=True)
    if len(set(first)) == 1 or len(set(second)) == 1:
        return math.nan
    return statistics.correlation(first, second)
