"""PWCCA with canonical directions found by an eigenvalue problem in the units of the first representation."""

import numpy as np


def pwcca(x, y):
    """Weighted mean of canonical correlations; weight of variate h is the sum over units of |h·x_j|."""
    x, y = x - x.mean(0), y - y.mean(0)
    product = np.linalg.inv(x.T @ x) @ (x.T @ y) @ np.linalg.inv(y.T @ y) @ (y.T @ x)
    values, vectors = np.linalg.eig(product)
    order = np.argsort(-values.real)[: min(x.shape[1], y.shape[1])]
    total = weights = 0.0
    for k in order:
        variate = x @ vectors[:, k].real
        variate = variate / np.linalg.norm(variate)
        weight = sum(abs(variate @ x[:, j]) for j in range(x.shape[1]))
        total += weight * np.sqrt(max(values[k].real, 0.0))
        weights += weight
    return total / weights
