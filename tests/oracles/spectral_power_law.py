"""The power law that fits best, one x_min and one eigenvalue after another."""

import math


def slow_fit(values):
    """Every x_min but the largest, one eigenvalue after another."""
    values, best = sorted(values), (math.inf,)
    for x_min in values[:-1]:
        tail = [value for value in values if value >= x_min]
        alpha = 1 + len(tail) / sum(math.log(value / x_min) for value in tail)
        gaps = [abs(1 - (value / x_min) ** (1 - alpha) - j / len(tail)) for j, value in enumerate(tail)]
        best = min(best, (max(gaps), alpha, x_min, len(tail)))
    return dict(zip(("distance", "alpha", "x_min", "n_tail"), best, strict=True))
