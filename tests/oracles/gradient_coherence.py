"""m-coherence as an expected product of two drawn gradients over the expected squared norm."""

import math


def m_coherence(gradients):
    """n E[g·g'] / E[g·g], both examples drawn independently (and so at times the same one)."""
    n = len(gradients)
    products = [
        math.fsum(float(a) * float(b) for a, b in zip(gradients[i], gradients[j], strict=True))
        for i in range(n)
        for j in range(n)
    ]
    norms = [math.fsum(float(a) ** 2 for a in row) for row in gradients]
    expected = math.fsum(norms) / n
    return n * (math.fsum(products) / n**2) / expected if expected > 0 else math.nan
