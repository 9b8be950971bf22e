"""Accuracy of a linear classifier under noise, and the largest noise it survives, by trying many."""

import math

import numpy as np


def mean_drop(weight, bias, inputs, labels, noises):
    """Accuracy minus its mean over noise vectors (weights, then biases)."""

    def accuracy(w, b):
        return np.mean((inputs @ w.T + b).argmax(1) == labels)

    noisy = []
    for noise in noises:
        moved = noise[: weight.size].reshape(weight.shape), noise[weight.size :]
        noisy.append(accuracy(weight + moved[0], bias + moved[1]))
    return accuracy(weight, bias) - np.mean(noisy)


def complexity(moved, sigma, m, epsilon=None):
    square = math.fsum(d * d for d in moved)
    if epsilon is None:
        return square / (4 * sigma**2) + math.log(m / sigma) + 10
    top = epsilon**2 + (sigma**2 + 1) * square / len(moved)
    logs = math.fsum(math.log(top / (epsilon**2 + sigma**2 * d * d)) for d in moved)
    return logs / 4 + math.log(m / sigma) + 10
