"""Stochastic gradient descent in NumPy from ids and inputs, one example after another."""

import numpy as np

from tests.oracles import mlp


def retrained(layers, inputs, labels, ids, lrs, momentum=0.0, dampening=0.0, decay=0.0, nesterov=False):
    """Layers after every update; ids: one list an update."""
    velocity, states = None, [layers]
    for batch, lr in zip(ids, lrs, strict=True):
        slope = np.zeros(len(mlp.flat(layers)))
        for i in batch:
            slope += mlp.flat(mlp.gradient(layers, inputs[i], labels[i])) / len(batch)
        slope += decay * mlp.flat(layers)
        if momentum:
            velocity = slope if velocity is None else momentum * velocity + (1 - dampening) * slope
            slope = slope + momentum * velocity if nesterov else velocity
        layers = mlp.unflat(layers, mlp.flat(layers) - lr * slope)
        states.append(layers)
    return states


def fixed_path_loss(weights, paths, inputs, labels):
    """Mean loss of `weights` with the gates that the inputs have in `paths`."""
    total = 0.0
    for x, label in zip(inputs, labels, strict=True):
        gates = [pre > 0 for pre in mlp.forward(paths, x)[1]]
        total += mlp.cross_entropy(mlp.forward(weights, x, gates)[0], label)
    return total / len(inputs)
