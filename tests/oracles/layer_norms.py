"""Norms of one weight, entry by entry; singular values from eigenvalues."""

import math

import numpy as np


def norms(weight, initial):
    values = [float(w) for w in np.ravel(weight)]
    matrix = np.reshape(weight, (len(weight), -1)).astype(np.float64)
    singular = [math.sqrt(max(v, 0.0)) for v in np.linalg.eigvalsh(matrix @ matrix.T)]
    return {
        "frobenius": math.sqrt(math.fsum(v * v for v in values)),
        "l1": math.fsum(abs(v) for v in values),
        "distance_from_init": math.dist(values, [float(w) for w in np.ravel(initial)]),
        "spectral_reshaped": max(singular),
        "nuclear": sum(singular),
    }
