"""Cross path similarity, pair by pair and unit by unit."""

import math


def pairs(now, before):
    """Similarity of every pair i < j: lists of paths (example, unit) of 0 and 1 at two snapshots."""
    values = []
    for i in range(len(now)):
        for j in range(i + 1, len(now)):
            shared = [a * b for a, b in zip(now[i], now[j], strict=True)]
            earlier = [a * b for a, b in zip(before[i], before[j], strict=True)]
            length = math.sqrt(sum(a * a for a in shared) * sum(b * b for b in earlier))
            dot = sum(a * b for a, b in zip(shared, earlier, strict=True))
            values.append(dot / length if length else math.nan)
    return values
