"""Finite metric spaces by their distances: spanning trees, magnitude, and the holes of their neighbourhoods."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
SINGULAR = 1e12  # condition number from which on a solution means nothing


def spanning_edges(distance: Floats) -> Floats:
    """Lengths (n - 1,) of the edges of a minimum spanning tree, which are the deaths of H₀ as the scale grows.

    >>> spanning_edges(np.array([[0.0, 1.0, 3.0], [1.0, 0.0, 2.0], [3.0, 2.0, 0.0]]))
    array([1., 2.])
    """
    n = len(distance)
    edges = np.empty(max(n - 1, 0))
    nearest = distance[0].copy() if n else np.empty(0)
    nearest[:1] = np.inf
    outside = np.ones(n, bool)
    outside[:1] = False
    for k in range(n - 1):
        new = int(np.argmin(np.where(outside, nearest, np.inf)))
        edges[k] = nearest[new]
        outside[new] = False
        nearest = np.minimum(nearest, distance[new])
    return edges


def distinct(distance: Floats) -> NDArray[np.int64]:
    """Positions of the points that no earlier point equals.

    >>> distinct(np.array([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [1.0, 1.0, 0.0]]))
    array([0, 2])
    """
    same = np.tril(distance == 0, -1)
    return np.flatnonzero(~same.any(1))


def weighting(distance: Floats, t: float) -> tuple[Floats, float]:
    """Weights w (n,) with Σ_j exp(-t d_ij) w_j = 1 for every i, and an estimate of the condition number (1-norm).

    By Cholesky decomposition. NaN where the condition is above 1e12, or the matrix not positive definite.

    The magnitude at scale t is their sum.

    >>> w, _ = weighting(np.array([[0.0, 3.0], [3.0, 0.0]]), 0.5)
    >>> round(float(w.sum()), 4)
    1.6351
    """
    similar = np.exp(-t * distance)
    if not len(similar) or not np.isfinite(similar).all():
        return np.full(len(similar), np.nan), np.nan
    from scipy.linalg import lapack

    factor, failed = lapack.dpotrf(similar)
    reciprocal = 0.0 if failed else float(lapack.dpocon(factor, np.linalg.norm(similar, 1))[0])
    if reciprocal < 1 / SINGULAR:
        return np.full(len(similar), np.nan), 1 / reciprocal if reciprocal else np.inf
    return lapack.dpotrs(factor, np.ones(len(similar)))[0].ravel(), 1 / reciprocal


def hops(distance: Floats, k: int) -> Floats:
    """Edges on the shortest path between points (n, n), each joined to its k nearest; infinite where there is none.

    Two points are joined where either is among the k nearest of the other; of equal distances the earlier point counts.

    >>> hops(np.abs(np.arange(4.0)[:, None] - np.arange(4)), 1)
    array([[0., 1., 2., 3.],
           [1., 0., 1., 2.],
           [2., 1., 0., 1.],
           [3., 2., 1., 0.]])
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import shortest_path

    n = len(distance)
    apart = distance + np.diag(np.full(n, np.inf))
    near = np.argsort(apart, axis=1, kind="stable")[:, :k]
    joined = np.zeros((n, n))
    np.put_along_axis(joined, near, 1.0, axis=1)
    found = shortest_path(csr_array(np.maximum(joined, joined.T)), unweighted=True, directed=False)
    return np.asarray(found, np.float64)


def betti(distance: Floats, scale: float, degrees: int = 2) -> list[int]:
    """Betti numbers β₀, β₁, ... over GF(2) of the complex of all sets of points that lie within `scale` of each other.

    distance: (n, n). degrees: how many. MissingPackageError where gudhi is needed and not installed: for β₀ alone it is
    not.

    >>> betti(np.array([[0.0, 1.0, 5.0], [1.0, 0.0, 5.0], [5.0, 5.0, 0.0]]), 1.0, degrees=1)
    [2]
    """
    if degrees == 1:
        from scipy.sparse.csgraph import connected_components

        return [int(connected_components(distance <= scale, directed=False)[0])]
    n = len(distance)
    tree = _simplex_tree()
    tree.insert_batch(np.arange(n, dtype=np.int32)[None], np.zeros(n))
    first, second = np.nonzero(np.triu(distance <= scale, 1))
    tree.insert_batch(np.stack([first, second]).astype(np.int32), np.zeros(len(first)))
    # All at one scale, so whole neighbourhoods collapse without changing a hole.
    tree.collapse_edges()
    tree.expansion(degrees)
    tree.compute_persistence(homology_coeff_field=2, min_persistence=-1.0, persistence_dim_max=True)
    numbers = [int(number) for number in tree.betti_numbers()[:degrees]]
    return numbers + [0] * (degrees - len(numbers))


def _simplex_tree() -> Any:
    from tracer.errors import missing_package

    try:
        from gudhi import SimplexTree
    except ModuleNotFoundError as error:
        raise missing_package(error) or error from None
    return SimplexTree()
