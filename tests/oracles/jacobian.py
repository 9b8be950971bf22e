"""Jacobians of a network by central differences."""

import numpy as np

from tests.oracles import mlp


def norms(layers, inputs, softmax=False):
    """Frobenius norm of the derivative of the outputs (or probabilities) of each input."""

    def outputs(x):
        scores = mlp.forward(layers, x)[0]
        exponentials = np.exp(scores - scores.max())
        return exponentials / exponentials.sum() if softmax else scores

    return [np.sqrt((mlp.differences(outputs, x) ** 2).sum()) for x in inputs]
