"""Unit by unit products of every pair of examples."""

import math


def similarities(now, before):
    """Similarity of every pair i < j; None where one of the products is zero."""
    found = []
    for i in range(len(now)):
        for j in range(i + 1, len(now)):
            shared = [float(x) * float(y) for x, y in zip(now[i], now[j], strict=True)]
            earlier = [float(x) * float(y) for x, y in zip(before[i], before[j], strict=True)]
            length = math.hypot(*shared) * math.hypot(*earlier)
            dot = math.fsum(x * y for x, y in zip(shared, earlier, strict=True))
            found.append(dot / length if length else None)
    return found
