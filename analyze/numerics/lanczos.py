"""Spectra of large symmetric matrices that are known by their products with vectors alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Product = Callable[[Floats], Floats]
BREAKDOWN = 1e-10  # of the largest coefficient: the vector left is rounding, and the space is exhausted


def signs(size: int, draws: int, seed: int) -> Floats:
    """Random vectors of entries 1 and -1, (draw, size)."""
    return np.asarray(np.random.default_rng(seed).integers(0, 2, (draws, size)) * 2.0 - 1.0, np.float64)


def tridiagonal(product: Product, start: Floats, steps: int) -> tuple[Floats, Floats]:
    """Lanczos coefficients: diagonal (k,) and beside it (k - 1,); fully reorthogonalised.

    Fewer than `steps` where the space that the start vector reaches is smaller.

    >>> diagonal, beside = tridiagonal(lambda v: np.array([1.0, 3.0]) * v, np.ones(2), 5)
    >>> diagonal.round(12).tolist(), beside.round(12).tolist()
    ([2.0, 2.0], [1.0])
    """
    basis = [start / np.linalg.norm(start)]
    diagonal: list[float] = []
    beside: list[float] = []
    for step in range(min(steps, len(start))):
        image = product(basis[step])
        diagonal.append(float(basis[step] @ image))
        for _ in range(2):  # once more for what rounding left
            for vector in basis:
                image = image - (vector @ image) * vector
        length = float(np.linalg.norm(image))
        if length <= BREAKDOWN * max(np.abs(diagonal).max(), max(beside, default=0.0)) or step + 1 == steps:
            break
        beside.append(length)
        basis.append(image / length)
    return np.array(diagonal), np.array(beside[: len(diagonal) - 1])


def ritz(product: Product, start: Floats, steps: int) -> tuple[Floats, Floats]:
    """Nodes and weights (steps,) of the Gauss quadrature of the spectrum seen from a start vector.

    The weights add up to 1; entries beyond the space's size are NaN.
    """
    from scipy.linalg import eigh_tridiagonal

    diagonal, beside = tridiagonal(product, start, steps)
    values, vectors = eigh_tridiagonal(diagonal, beside) if len(diagonal) > 1 else (diagonal, np.ones((1, 1)))
    nodes, weights = np.full((2, steps), np.nan)
    nodes[: len(values)], weights[: len(values)] = values, vectors[0] ** 2
    return nodes, weights


def density(nodes: Floats, weights: Floats, grid: Floats, width: float) -> Floats:
    """Density (grid,) of weighted nodes (draw, node), each widened to a Gaussian; integrates to 1.

    >>> at = np.linspace(-1, 1, 2001)
    >>> round(float(density(np.array([[0.0]]), np.array([[1.0]]), at, 0.1).sum() * 0.001), 6)
    1.0
    """
    known = ~np.isnan(nodes)
    values, shares = nodes[known], weights[known] / len(nodes)
    bells = np.exp(-(((grid[:, None] - values) / width) ** 2) / 2) / (width * np.sqrt(2 * np.pi))
    return np.asarray(bells @ shares)


def largest(product: Product, size: int, count: int, seed: int, tolerance: float) -> Floats:
    """Largest eigenvalues, decreasing (count,), NaN beyond the size; of a small matrix, from all of it."""
    eigenvalues = np.full(count, np.nan)
    if size <= max(2 * count + 2, 40):
        table = np.stack([product(column) for column in np.eye(size)])
        values = np.linalg.eigvalsh((table + table.T) / 2)[::-1]
    else:
        from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

        operator = LinearOperator((size, size), matvec=lambda v: product(np.ravel(v)), dtype=np.float64)
        start = signs(size, 1, seed)[0]
        if not product(start).any():  # ARPACK takes a matrix of zeros for an error
            return np.zeros(count)
        try:
            values = eigsh(operator, count, which="LA", v0=start, tol=tolerance, return_eigenvectors=False)
        except ArpackNoConvergence as stopped:
            values = stopped.eigenvalues
        values = np.sort(values)[::-1]
    values = values[:count]
    eigenvalues[: len(values)] = values
    return eigenvalues
