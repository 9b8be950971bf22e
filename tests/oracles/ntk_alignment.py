"""Tangent kernels from Jacobians by central differences; alignments entry by entry."""

import numpy as np

from tests.oracles import mlp


def kernel(layers, inputs):
    """Sum over outputs of the inner products of their gradients by all weights."""
    point = mlp.flat(layers)
    jacobians = [
        mlp.differences(lambda w, x=x: mlp.forward(mlp.unflat(layers, w), x)[0], point) for x in inputs
    ]
    return np.array([[(a * b).sum() for b in jacobians] for a in jacobians])


def alignment(first, second):
    pairs = list(zip(first.ravel(), second.ravel(), strict=True))
    length = [sum(pair[side] ** 2 for pair in pairs) ** 0.5 for side in (0, 1)]
    return sum(a * b for a, b in pairs) / (length[0] * length[1])


def centred(kernel):
    n = len(kernel)
    projection = np.eye(n) - np.full((n, n), 1 / n)
    return projection @ kernel @ projection
