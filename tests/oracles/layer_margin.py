"""Margins over the lengths of their gradients by central differences, one example and one place at a time."""

import numpy as np

from tests.oracles import mlp


def margins(layers, inputs, labels, normalise=True):
    """(place, example): the inputs, then what every nonlinearity gives."""
    found = []
    for place in range(len(layers)):
        values = []
        for x in inputs:
            for weight, bias in layers[:place]:
                x = np.maximum(weight @ x + bias, 0)
            values.append(x)
        rest = layers[place:]
        spread = np.sqrt(np.var(values, axis=0).sum()) if normalise else 1.0
        found.append([_margin(rest, x, label) / spread for x, label in zip(values, labels, strict=True)])
    return np.array(found)


def _margin(layers, x, label):
    scores = mlp.forward(layers, x)[0]
    other = max((score, c) for c, score in enumerate(scores) if c != label)[1]

    def difference(point):
        scores = mlp.forward(layers, point)[0]
        return [scores[label] - scores[other]]

    length = np.linalg.norm(mlp.differences(difference, x))
    return difference(x)[0] / length if length > 0 else np.nan
