"""The plane of a weight trajectory: principal components without ever holding all snapshots side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tracer.errors import MissingTraceError, how_many

Floats = NDArray[np.float64]
Load = Callable[[int], np.ndarray]
NBYTES = 1 << 29  # of snapshots held side by side while their inner products are taken
RANK = 1e-12  # eigenvalues below this share of the largest are rounding


@dataclass(frozen=True)
class Plane:
    """Principal plane of a trajectory of weights.

    mean (P,), directions (component, P) of unit length, trajectory (step, component): w_s is near mean +
    trajectory_s directions. explained (component,): share of the variance.
    """

    mean: Floats
    directions: Floats
    trajectory: Floats
    explained: Floats

    def weights(self, coordinates: ArrayLike) -> Floats:
        """The weights (P,) at a point of the plane."""
        return self.mean + np.asarray(coordinates, np.float64) @ self.directions


def principal_plane(load: Load, count: int, components: int = 2) -> Plane:
    """Plane through `count` snapshots, each loaded by position as a vector of weights (P,).

    Inner products of snapshots give the components (a table of count², not P²), in float64. A component's
    sign is such that the last snapshot's coordinate is at least 0. MissingTraceError where the snapshots span
    fewer dimensions. A snapshot that is not finite takes no part, and its coordinates are NaN.

    >>> points = np.array([[0.0, 1.0, 0.0], [0.0, -1.0, 0.0], [4.0, -1.0, 0.0], [4.0, 1.0, 0.0]])
    >>> plane = principal_plane(lambda position: points[position], 4)
    >>> plane.trajectory.round(3).tolist()
    [[-2.0, 1.0], [-2.0, -1.0], [2.0, -1.0], [2.0, 1.0]]
    """
    known = [position for position in range(count) if np.isfinite(load(position)).all()]
    if len(known) < count:
        if not known:
            raise MissingTraceError(f"none of the {count} snapshots has finite weights, so there is no plane")
        plane = principal_plane(lambda position: load(known[position]), len(known), components)
        trajectory = np.full((count, components), np.nan)
        trajectory[known] = plane.trajectory
        return Plane(plane.mean, plane.directions, trajectory, plane.explained)
    first = np.asarray(load(0), np.float64)
    gram = _gram(load, first, count)
    centred = gram - gram.mean(0) - gram.mean(1)[:, None] + gram.mean()
    values, vectors = np.linalg.eigh((centred + centred.T) / 2)
    values, vectors = values[::-1], vectors[:, ::-1]
    rank = int((values > RANK * max(values[0], 0.0)).sum()) if values[0] > 0 else 0
    if rank < components:
        raise MissingTraceError(
            f"the weights of {how_many(count, 'snapshot')} span {how_many(rank, 'dimension')} and a plane has "
            f"{components}; record the stream `weights` at {components + 1} or more steps"
        )
    scale = np.sqrt(values[:components])
    trajectory = vectors[:, :components] * scale
    trajectory *= np.where(np.round(trajectory[-1], 12) < 0, -1.0, 1.0)
    mixing = trajectory / scale**2
    # Measured from the first snapshot, as the inner products are: weights travel little against their size.
    mean, directions = np.zeros_like(first), np.zeros((components, len(first)))
    for position in range(count):
        offset = np.asarray(load(position), np.float64) - first
        mean += offset / count
        directions += mixing[position][:, None] * offset
    return Plane(first + mean, directions, trajectory, values[:components] / values.clip(0).sum())


def _gram(load: Load, first: Floats, count: int) -> Floats:
    """Inner products (count, count) of the snapshots' distances from the first one."""
    gram = np.zeros((count, count))
    held = max(1, min(count, NBYTES // max(1, first.nbytes)))
    for start in range(0, count, held):
        stop = min(start + held, count)
        block = np.stack([np.asarray(load(position), np.float64) - first for position in range(start, stop)])
        gram[start:stop, start:stop] = block @ block.T
        for other in range(stop, count):
            column = block @ (np.asarray(load(other), np.float64) - first)
            gram[start:stop, other] = gram[other, start:stop] = column
    return gram


def grid(coordinates: Floats, points: int, margin: float) -> Floats:
    """`points` equally spaced coordinates, `margin` of the trajectory's range (NaN left out) more on each side.

    >>> grid(np.array([0.0, 2.0]), 3, 0.5)
    array([-1.,  1.,  3.])
    """
    low, high = float(np.nanmin(coordinates)), float(np.nanmax(coordinates))
    extra = margin * (high - low)
    return np.linspace(low - extra, high + extra, points)
