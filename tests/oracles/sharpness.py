"""The loss at every corner of the box, one after the other."""

from itertools import product

import numpy as np


def softmax_loss(weight, bias, inputs, labels):
    """Mean cross-entropy of a linear classifier."""
    scores = inputs @ weight.T + bias
    scores = scores - scores.max(1, keepdims=True)
    logs = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    return -logs[np.arange(len(labels)), labels].mean()


def best_corner(loss, weights, alpha):
    """Largest loss(w + v) - loss(w) over the 2^P corners of |v_i| <= alpha (|w_i| + 1)."""
    radius = alpha * (np.abs(weights) + 1)
    corners = product((-1, 1), repeat=len(weights))
    return max(loss(weights + np.array(signs) * radius) for signs in corners) - loss(weights)
