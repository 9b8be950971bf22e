"""Linear CKA from the cross-covariances of the units, and unbiased HSIC from its four-index definition."""

from itertools import permutations

import numpy as np


def linear_cka(x, y):
    """|Y'X|² / (|X'X| |Y'Y|) in Frobenius norms, of centred representations (example, unit)."""
    x, y = x - x.mean(0), y - y.mean(0)
    cross = sum((x[:, a] @ y[:, b]) ** 2 for a in range(x.shape[1]) for b in range(y.shape[1]))
    return cross / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))


def unbiased_cka(x, y):
    """Cosine of unbiased HSIC values, each an average over all ordered sets of four different examples."""
    return unbiased_hsic(x, y) / np.sqrt(unbiased_hsic(x, x) * unbiased_hsic(y, y))


def unbiased_hsic(x, y):
    """Average of K_ij L_ij + K_ij L_qr - 2 K_ij L_iq over all different i, j, q, r."""
    k, l = x @ x.T, y @ y.T  # noqa: E741
    terms = [k[i, j] * (l[i, j] + l[q, r] - 2 * l[i, q]) for i, j, q, r in permutations(range(len(x)), 4)]
    return sum(terms) / len(terms)
