"""Confidence and variability of one example."""

from itertools import pairwise

import numpy as np


def slow(scores, label):
    """One example, from the scores at each epoch."""
    p, right = [], []
    for row in scores:
        exponentials = [float(np.exp(value)) for value in row]
        p.append(exponentials[label] / sum(exponentials))
        right.append(exponentials.index(max(exponentials)) == label)
    mean = sum(p) / len(p)
    flips = sum(a and not b for a, b in pairwise(right))
    return {
        "confidence": mean,
        "variability": (sum((value - mean) ** 2 for value in p) / len(p)) ** 0.5,
        "correctness": sum(right) / len(right),
        "forgetfulness": flips if any(right) else np.nan,
    }
