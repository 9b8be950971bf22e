"""Ranks from the eigenvalues of the covariance."""

import numpy as np


def slow(matrix):
    """From the eigenvalues of the covariance, one sum after another."""
    moved = matrix - matrix.mean(axis=0)
    eigenvalues = [max(0.0, value) for value in np.linalg.eigvalsh(moved.T @ moved / len(moved))]
    sigma = [value**0.5 for value in eigenvalues if value > 1e-12]
    entropy = -sum(s / sum(sigma) * np.log(s / sum(sigma)) for s in sigma)
    return {
        "effective_rank": np.exp(entropy),
        "participation_ratio": sum(eigenvalues) ** 2 / sum(value**2 for value in eigenvalues),
        "stable_rank": sum(eigenvalues) / max(eigenvalues),
    }
