"""One example at a time: sort the others by distance, take the first k, average."""

import math


def neighbours(inputs, ids, i, k=None, radius=None):
    distance = {j: math.dist(inputs[i], inputs[j]) for j in range(len(inputs)) if j != i}
    if radius is not None:
        return {j: d for j, d in distance.items() if d <= radius}
    nearest = sorted(distance, key=lambda j: (distance[j], ids[j]))[:k]
    return {j: distance[j] for j in nearest}


def stiffness(gradients, inputs, ids, i, kind, width=None, **which):
    """Weighted mean over the neighbours of example i; None where there is none that counts."""
    top = bottom = 0.0
    for j, d in neighbours(inputs, ids, i, **which).items():
        dot = sum(a * b for a, b in zip(gradients[i], gradients[j], strict=True))
        norm = math.hypot(*gradients[i]) * math.hypot(*gradients[j])
        if kind == "cosine" and norm == 0:
            continue
        weight = 1.0 if width is None else math.exp(-(d**2) / (2 * width**2))
        top += weight * (dot / norm if kind == "cosine" else (dot > 0) - (dot < 0))
        bottom += weight
    return top / bottom if bottom else None


def median_distance(inputs, ids, **which):
    found = sorted(d for i in range(len(inputs)) for d in neighbours(inputs, ids, i, **which).values())
    middle = len(found) // 2
    return found[middle] if len(found) % 2 else (found[middle - 1] + found[middle]) / 2
