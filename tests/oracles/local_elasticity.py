"""Local elasticity from networks that were moved by hand, one pair of examples at a time."""

import numpy as np

from tests.oracles import mlp


def tables(layers, inputs, labels, lr):
    """Relative and kernelized elasticity (example stepped on, example looked at)."""
    n = len(inputs)
    relative, kernelized = np.zeros((2, n, n))
    for i in range(n):
        slope = mlp.flat(mlp.gradient(layers, inputs[i], labels[i]))
        moved = mlp.unflat(layers, mlp.flat(layers) - lr * slope)
        g = mlp.signals(layers, inputs[i], labels[i])[-1]
        for j in range(n):
            change = mlp.forward(layers, inputs[j])[0] - mlp.forward(moved, inputs[j])[0]
            own = mlp.forward(layers, inputs[i])[0] - mlp.forward(moved, inputs[i])[0]
            relative[i, j] = np.linalg.norm(change) / np.linalg.norm(own)
            kernelized[i, j] = sum(g * change) / (lr * sum(g * g))
    return relative, kernelized
