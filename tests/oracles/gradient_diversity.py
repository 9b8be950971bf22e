"""Gradient diversity from the gradients themselves, coordinate by coordinate."""

import math


def gradient_diversity(gradients):
    """Sum of squared norms over the squared norm of the sum, of gradients (example, weight)."""
    norms = math.fsum(float(value) ** 2 for row in gradients for value in row)
    total = [math.fsum(float(row[w]) for row in gradients) for w in range(len(gradients[0]))]
    squared = math.fsum(value**2 for value in total)
    if norms == 0:
        return math.nan
    return math.inf if squared == 0 else norms / squared
