"""Inner products of per-example gradients, as recorded: of a whole snapshot, or in bands of rows."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

from analyze.arrays import View, source
from analyze.arrays.bands import Bands, Pairs, cuts
from analyze.arrays.scratch import OnDisk
from analyze.numerics import ROUNDING


def _joint(view: View) -> int:
    """Bytes of the inner products of all examples with gradients, which those of a view are cut from."""
    n = sum(count for _, count in view.archive.gram_probes)
    return 8 * view.size("layer") * (n**2 - sum(view.counts) ** 2)


@source("gram", "step", "layer", "example", "example_2", stream="gram", beside=_joint)
def _gram(view: View) -> Pairs:
    rows = _gram_rows(view)
    if view.banded:
        return _gram_bands(view, rows)
    joint = view.once("gram", lambda: _gram_with_all(view))
    if np.array_equal(rows, rows[0] + np.arange(len(rows))):  # side by side: no copy
        beside = slice(rows[0], rows[-1] + 1)
        return joint[:, :, beside, beside]
    return joint[:, :, rows[:, None], rows]


def _gram_rows(view: View) -> np.ndarray:
    """Where the view's examples are among all those with inner products."""
    starts, total = {}, 0
    for name, available in view.archive.gram_probes:
        starts[name] = total
        total += available
    parts = zip(view.probes, view.counts, strict=True)
    return np.concatenate([starts[name] + np.arange(count) for name, count in parts])


def _gram_bands(view: View, examples: np.ndarray) -> Bands:
    """The same as a table that is read in bands of rows."""

    def read(step: int, rows: slice) -> np.ndarray:
        wanted = examples[rows]
        first = int(wanted.min())  # probes may be in another order than they were recorded in
        stored = view.archive.gram(view.steps[step], slice(first, int(wanted.max()) + 1))
        return with_all(stored[:, wanted - first][:, :, examples])

    return settled_bands(view, read)


def settled_bands(
    view: View,
    read: Callable[[int, slice], np.ndarray],
    squares: Callable[[int], np.ndarray] | None = None,
    kept: bool = False,
) -> Bands:
    """A table of inner products of which `read` makes rows, small ones settled as in one that is read whole.

    squares: its diagonal at a snapshot (layer, example), where that is made faster than by reading all of it. kept:
    on disk, so that it is made once for all that reads it.
    """
    layers, n = view.size("layer"), view.size("example")

    def on_diagonal(step: int) -> np.ndarray:
        values = np.empty((layers, n))
        for rows in cuts(layers, n):
            values[:, rows] = np.diagonal(read(step, rows)[:, :, rows], axis1=1, axis2=2)
        return values

    diagonal = cache(squares or on_diagonal)

    def make(step: int, rows: slice) -> np.ndarray:
        band, lengths = read(step, rows), np.sqrt(diagonal(step))
        settle_by(band, lengths[:, rows], lengths)
        return band

    return Bands((len(view.steps), layers, n, n), diagonal, OnDisk(make) if kept else make)


def with_all(products: np.ndarray) -> np.ndarray:
    """Inner products of each layer (layer, n, m), and their sum behind them."""
    joint = np.empty((len(products) + 1, *products.shape[1:]))
    joint[:-1] = products
    joint[-1] = joint[:-1].sum(0)
    return joint


def _gram_with_all(view: View) -> np.ndarray:
    first = np.asarray(view.archive.gram(view.steps[0]))
    joint = np.empty((len(view.steps), len(first) + 1, *first.shape[1:]))
    for position, step in enumerate(view.steps):
        joint[position, :-1] = first if position == 0 else view.archive.gram(step)
        joint[position, -1] = joint[position, :-1].sum(0)
        settle(joint[position])
    return joint


def settle(gram: np.ndarray) -> None:
    """Make products 0 that are so but for rounding, of which even the sign would be chance: (layer, n, n), in place."""
    length = np.sqrt(np.diagonal(gram, axis1=-2, axis2=-1))
    settle_by(gram, length, length)


def settle_by(products: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> None:
    """The same of products (layer, n, m) of vectors of these lengths, (layer, n) and (layer, m)."""
    products[np.abs(products) <= ROUNDING * rows[..., None] * columns[..., None, :]] = 0.0
