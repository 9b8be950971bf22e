"""Largest singular value of a layer as the linear map it is: a convolution with its stride and padding."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np

from analyze.chain import Convolution

DENSE_UP_TO = 1024  # inputs of a convolution below which its whole matrix is built


def spectral_norm(matrix: np.ndarray) -> float:
    """Largest singular value of a matrix; NaN where an entry is not finite.

    >>> spectral_norm(np.array([[3.0, 0.0], [0.0, -4.0]]))
    4.0
    """
    return float(singular_values(matrix)[0]) if matrix.size else 0.0


def singular_values(matrix: np.ndarray) -> np.ndarray:
    """Singular values in decreasing order, float64; all NaN where an entry is not finite."""
    matrix = np.asarray(matrix, np.float64)
    if not np.isfinite(matrix).all():
        return np.full(min(matrix.shape), np.nan)
    return np.linalg.svd(matrix, compute_uv=False)


def convolution_norm(kernel: np.ndarray, geometry: Convolution, *, tolerance: float = 1e-6) -> float:
    """Largest singular value of a zero-padded convolution (out, in / groups, *kernel) on `geometry.space`.

    A small one is written out as a matrix; else Lanczos iterations to `tolerance`, relative, from a fixed
    start.

    >>> geometry = Convolution(space=(4,), stride=(1,), before=(0,), after=(0,), dilation=(1,))
    >>> round(convolution_norm(np.array([[[2.0]]]), geometry), 12)
    2.0
    """
    kernel = np.asarray(kernel, np.float64)
    if not np.isfinite(kernel).all():
        return math.nan
    if not kernel.any():
        return 0.0
    inputs = (kernel.shape[1] * geometry.groups, *geometry.space)
    if math.prod(inputs) <= DENSE_UP_TO:
        columns = np.eye(math.prod(inputs)).reshape(-1, *inputs)
        return spectral_norm(np.stack([convolve(kernel, column, geometry).ravel() for column in columns]))
    from scipy.sparse.linalg import LinearOperator, svds

    outputs = convolve(kernel, np.zeros(inputs), geometry).shape
    operator = LinearOperator(
        (math.prod(outputs), math.prod(inputs)),
        matvec=lambda x: convolve(kernel, x.reshape(inputs), geometry).ravel(),
        rmatvec=lambda y: transposed(kernel, y.reshape(outputs), geometry).ravel(),
        dtype=np.float64,
    )
    start = np.random.default_rng(0).normal(size=min(operator.shape))
    return float(svds(operator, k=1, tol=tolerance, v0=start, return_singular_vectors=False)[0])


def convolve(kernel: np.ndarray, x: np.ndarray, geometry: Convolution) -> np.ndarray:
    """Convolution, as networks mean it, of one input (channel, *space): (out, *space out)."""
    padded = np.pad(x, [(0, 0), *zip(geometry.before, geometry.after, strict=True)])
    groups, space = geometry.groups, _space_out(kernel, geometry)
    out = np.zeros((groups, kernel.shape[0] // groups, math.prod(space)))
    for weight, window in _offsets(kernel, geometry, space):
        out += weight @ padded[window].reshape(groups, kernel.shape[1], -1)
    return out.reshape(kernel.shape[0], *space)


def transposed(kernel: np.ndarray, y: np.ndarray, geometry: Convolution) -> np.ndarray:
    """The transposed map of `convolve`: from (out, *space out) back to (channel, *space)."""
    groups, space = geometry.groups, _space_out(kernel, geometry)
    sides = zip(geometry.space, geometry.before, geometry.after, strict=True)
    padded = np.zeros((kernel.shape[1] * groups, *(s + b + a for s, b, a in sides)))
    grouped = y.reshape(groups, kernel.shape[0] // groups, -1)
    for weight, window in _offsets(kernel, geometry, space):
        padded[window] += (weight.swapaxes(1, 2) @ grouped).reshape(padded.shape[0], *space)
    inner = (slice(b, b + s) for b, s in zip(geometry.before, geometry.space, strict=True))
    return padded[(slice(None), *inner)]


def _space_out(kernel: np.ndarray, geometry: Convolution) -> tuple[int, ...]:
    sides = zip(geometry.space, geometry.before, geometry.after, strict=True)
    reach = [d * (k - 1) + 1 for d, k in zip(geometry.dilation, kernel.shape[2:], strict=True)]
    return tuple(
        (s + b + a - r) // step + 1 for (s, b, a), r, step in zip(sides, reach, geometry.stride, strict=True)
    )


def _offsets(
    kernel: np.ndarray, geometry: Convolution, space: tuple[int, ...]
) -> Iterator[tuple[np.ndarray, tuple[slice, ...]]]:
    """Each position in the kernel: its weights (group, out, in) and the part of the padded input it meets."""
    for offset in product(*(range(k) for k in kernel.shape[2:])):
        starts = [o * d for o, d in zip(offset, geometry.dilation, strict=True)]
        window = (
            slice(start, start + step * (size - 1) + 1, step)
            for start, step, size in zip(starts, geometry.stride, space, strict=True)
        )
        at: Any = (slice(None), slice(None), *offset)
        weight = kernel[at].reshape(geometry.groups, -1, kernel.shape[1])
        yield weight, (slice(None), *window)
