"""Linear regions by halving: intervals whose ends have different patterns are cut until they are tiny."""

import numpy as np

from tests.oracles import mlp

TINY = 1e-9


def regions(layers, start, stop, samples=2001):
    """Number of regions on the segment; misses those that lie between two samples of one pattern."""

    def pattern(t):
        return tuple(np.concatenate([pre > 0 for pre in mlp.forward(layers, start + t * (stop - start))[1]]))

    points = np.linspace(0, 1, samples)
    patterns = [pattern(t) for t in points]
    count = 1
    for k in range(samples - 1):
        count += _switches(pattern, points[k], points[k + 1], patterns[k], patterns[k + 1])
    return count


def _switches(pattern, low, high, first, last):
    if first == last:
        return 0
    if high - low < TINY:
        return 1
    middle = (low + high) / 2
    between = pattern(middle)
    return _switches(pattern, low, middle, first, between) + _switches(pattern, middle, high, between, last)
