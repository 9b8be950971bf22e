"""A ReLU network of linear layers in NumPy, one example at a time, and its derivatives."""

import numpy as np


def layers_of(tensors):
    """[(weight, bias), ...] in float64, from tensors named 0.weight, 0.bias, 2.weight, ..."""
    names = sorted((name for name in tensors if name.endswith("weight")), key=lambda n: int(n.split(".")[0]))
    return [(as_numpy(tensors[name]), as_numpy(tensors[name.replace("weight", "bias")])) for name in names]


def as_numpy(value):
    return np.array(value.tolist(), np.float64)


def forward(layers, x, gates=None):
    """(outputs, pre-activations of hidden layers, what each layer is given) of one input."""
    pres, given = [], []
    for k, (weight, bias) in enumerate(layers):
        given.append(x)
        x = weight @ x + bias
        if k < len(layers) - 1:
            pres.append(x)
            gate = x > 0 if gates is None else gates[k]
            x = np.where(gate, x, 0.0)
    return x, pres, given


def cross_entropy(scores, label):
    shifted = scores - scores.max()
    return float(np.log(np.exp(shifted).sum()) - shifted[label])


def signals(layers, x, label):
    """Gradient of the cross entropy by what each layer gives, last layer last."""
    scores, pres, _ = forward(layers, x)
    z = np.exp(scores - scores.max())
    z = z / z.sum() - np.eye(len(scores))[label]
    found = [z]
    for k in range(len(layers) - 1, 0, -1):
        z = (layers[k][0].T @ z) * (pres[k - 1] > 0)
        found.insert(0, z)
    return found


def gradient(layers, x, label):
    """[(weight gradient, bias gradient), ...] of the cross entropy of one example."""
    given = forward(layers, x)[2]
    return [(np.outer(z, a), z) for z, a in zip(signals(layers, x, label), given, strict=True)]


def flat(layers):
    return np.concatenate([part.ravel() for pair in layers for part in pair])


def unflat(layers, vector):
    made, at = [], 0
    for pair in layers:
        parts = []
        for part in pair:
            parts.append(vector[at : at + part.size].reshape(part.shape))
            at += part.size
        made.append(tuple(parts))
    return made


def differences(function, point, step=1e-6):
    """Derivative (output, coordinate) of a function of a vector by central differences."""
    columns = []
    for k in range(len(point)):
        offset = np.zeros(len(point))
        offset[k] = step
        columns.append((np.asarray(function(point + offset)) - function(point - offset)) / (2 * step))
    return np.stack(columns, -1)
