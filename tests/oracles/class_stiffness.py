"""Class stiffness by loops over pairs of gradients."""

import math


def cell(gradients, labels, ids, first, second):
    """(mean cosine, mean sign, number of unordered pairs) between the examples of two classes."""
    cosines, signs, pairs = [], [], 0
    for i, g in enumerate(gradients):
        for j, h in enumerate(gradients):
            if (labels[i], labels[j]) != (first, second) or ids[i] == ids[j] or (first == second and i > j):
                continue
            pairs += 1
            dot = math.fsum(a * b for a, b in zip(g, h, strict=True))
            signs.append((dot > 0) - (dot < 0))
            length = math.hypot(*g) * math.hypot(*h)
            if length > 0:
                cosines.append(dot / length)
    return *(math.fsum(v) / len(v) if v else math.nan for v in (cosines, signs)), pairs
