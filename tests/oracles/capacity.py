"""Every path of a chain of linear layers, one by one; singular values from the eigenvalues of WᵀW."""

import math
from itertools import product

import numpy as np


def path_sum(matrices, power, factor=lambda matrix: 1.0):
    """Sum over all paths of the product of factor · |w|^power."""
    units = [range(matrices[0].shape[1]), *(range(len(m)) for m in matrices)]
    return math.fsum(
        math.prod(factor(m) * abs(m[path[k + 1], path[k]]) ** power for k, m in enumerate(matrices))
        for path in product(*units)
    )


def largest_singular_value(matrix):
    return math.sqrt(max(np.linalg.eigvalsh(matrix.T @ matrix)))


def measures(matrices, gamma, literal):
    """The four capacities as printed: products and sums written out."""
    two, four, h = (2.0, 4.0, len) if literal else (1.0, 1.0, lambda matrix: 1.0)
    return {
        "l2": math.prod(four * float((m**2).sum()) for m in matrices) / gamma**2,
        "l1_path": path_sum(matrices, 1, lambda m: two) ** 2 / gamma**2,
        "l2_path": path_sum(matrices, 2, lambda m: four * h(m)) / gamma**2,
        "spectral": math.prod(h(m) * largest_singular_value(m) ** 2 for m in matrices) / gamma**2,
    }


def convolution(kernel, height, width, padding):
    """A convolution of stride 1 as a matrix (outputs, inputs), entry by entry."""
    out, channels, k, _ = kernel.shape
    rows, columns = height + 2 * padding - k + 1, width + 2 * padding - k + 1
    matrix = np.zeros((out, rows, columns, channels, height, width))
    for o, i, j, c, a, b in product(*(range(n) for n in (out, rows, columns, channels, k, k))):
        at = i - padding + a, j - padding + b
        if 0 <= at[0] < height and 0 <= at[1] < width:
            matrix[(o, i, j, c, *at)] = kernel[o, c, a, b]
    return matrix.reshape(out * rows * columns, -1)
