"""Pairs one at a time, in plain Python."""

import math
from itertools import pairwise


def pairs(gradients, inputs, labels):
    """(distance, cosine) of every pair of one class whose gradients and inputs are not zero."""
    found = []
    for i in range(len(labels)):
        for j in range(i):
            if labels[i] == labels[j] and all(
                any(v) for v in (inputs[i], inputs[j], gradients[i], gradients[j])
            ):
                found.append((1 - cosine(inputs[i], inputs[j]), cosine(gradients[i], gradients[j])))
    return found


def cosine(a, b):
    dot = math.fsum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(math.fsum(x * x for x in a)) / math.sqrt(math.fsum(y * y for y in b))


def curve(found, bins, distances):
    """Per bin of the range of all `distances`: how many pairs, mean cosine (or None), middle."""
    low, high = min(distances), max(distances)
    edges = [low + (high - low) * k / bins for k in range(bins + 1)]
    counts, means = [], []
    for k in range(bins):
        last = k == bins - 1
        inside = [c for d, c in found if edges[k] <= d < edges[k + 1] or (last and d >= edges[k])]
        counts.append(len(inside))
        means.append(sum(inside) / len(inside) if inside else None)
    return counts, means, [(a + b) / 2 for a, b in pairwise(edges)]


def line_reaches_zero(found):
    """Root of the least-squares line, by the textbook sums."""
    n = len(found)
    sx, sy = sum(d for d, _ in found), sum(c for _, c in found)
    sxx, sxy = sum(d * d for d, _ in found), sum(d * c for d, c in found)
    slope = (n * sxy - sx * sy) / (n * sxx - sx * sx)
    return -((sy - slope * sx) / n) / slope
