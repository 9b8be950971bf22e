"""Gradient confusion by a loop over pairs of gradients."""

import math


def gradient_confusion(gradients):
    """(eta, smallest cosine, share in conflict, pairs without a cosine) of gradients (example, weight)."""
    eta, smallest, conflicts, undefined, pairs = 0.0, math.nan, 0, 0, 0
    for i in range(len(gradients)):
        for j in range(i):
            pairs += 1
            dot = math.fsum(float(a) * float(b) for a, b in zip(gradients[i], gradients[j], strict=True))
            conflicts += dot < 0
            eta = max(eta, -dot)
            lengths = math.hypot(*gradients[i]) * math.hypot(*gradients[j])
            if lengths == 0:
                undefined += 1
            elif math.isnan(smallest) or dot / lengths < smallest:
                smallest = dot / lengths
    if not pairs:
        return math.nan, math.nan, math.nan, 0
    return eta, smallest, conflicts / pairs, undefined
