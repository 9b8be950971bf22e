"""Entropy by sorting values into bins one at a time."""

import math
from collections import Counter


def entropy(values, low, high, bins):
    """Entropy in bits of a list of numbers."""
    counts = Counter()
    for value in values:
        position = math.floor((value - low) / (high - low) * bins)
        counts[min(position, bins - 1)] += 1
    return -sum(n / len(values) * math.log2(n / len(values)) for n in counts.values())
