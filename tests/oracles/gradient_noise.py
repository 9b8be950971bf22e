"""Gradient noise from the covariance matrix of the weights, written out."""

import numpy as np


def gradient_noise(gradients):
    """(trace, squared norm of the mean, eigenvalues descending) of gradients (example, weight)."""
    n, weights = gradients.shape
    mean = [sum(gradients[i][w] for i in range(n)) / n for w in range(weights)]
    covariance = np.zeros((weights, weights))
    for a in range(weights):
        for b in range(weights):
            products = [(gradients[i][a] - mean[a]) * (gradients[i][b] - mean[b]) for i in range(n)]
            covariance[a, b] = sum(products) / n
    values = sorted(np.linalg.eigvals(covariance).real, reverse=True)
    return sum(covariance[a, a] for a in range(weights)), sum(m * m for m in mean), values
