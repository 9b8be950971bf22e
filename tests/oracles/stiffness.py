"""Stiffness by loops over pairs of gradients."""

import math


def stiffness(gradients, split, ids, first, second):
    """(mean cosine, mean sign, number undefined) of one set of gradients (example, weight)."""
    cosines, signs, undefined = [], [], 0
    for i in range(len(gradients)):
        for j in range(len(gradients)):
            if (split[i], split[j]) != (first, second) or (first == second and i >= j):
                continue
            if split[i] == split[j] and ids[i] == ids[j]:
                continue
            dot = math.fsum(float(a) * float(b) for a, b in zip(gradients[i], gradients[j], strict=True))
            length = math.hypot(*gradients[i]) * math.hypot(*gradients[j])
            signs.append((dot > 0) - (dot < 0))
            if length > 0:
                cosines.append(dot / length)
            else:
                undefined += 1
    mean = [math.fsum(values) / len(values) if values else math.nan for values in (cosines, signs)]
    return *mean, undefined
