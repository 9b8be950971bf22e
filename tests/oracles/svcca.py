"""Canonical correlations from whitened covariances (the textbook way, by an eigenvalue problem)."""

import numpy as np


def canonical_correlations(x, y):
    """Square roots of the eigenvalues of Sxx⁻¹ Sxy Syy⁻¹ Syx, descending; both of full rank."""
    x, y = x - x.mean(0), y - y.mean(0)
    product = np.linalg.inv(x.T @ x) @ (x.T @ y) @ np.linalg.inv(y.T @ y) @ (y.T @ x)
    values = np.sort(np.linalg.eigvals(product).real)[::-1]
    return np.sqrt(np.clip(values[: min(x.shape[1], y.shape[1])], 0, 1))


def reduced(x, keep):
    """Projections of x on the fewest eigenvectors of its covariance with the share `keep` of the variance."""
    x = x - x.mean(0)
    values, vectors = np.linalg.eigh(x.T @ x)
    chosen, held = [], 0.0
    for k in sorted(range(len(values)), key=lambda k: -values[k]):
        if held >= keep * values.sum():
            break
        chosen.append(k)
        held += values[k]
    return x @ vectors[:, chosen]
