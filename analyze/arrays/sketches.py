"""Inner products and cosines of gradients of which only sketches are recorded."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from analyze.arrays import View, source
from analyze.arrays.bands import Pairs, rows_of
from analyze.arrays.derived import cosines_of
from analyze.arrays.grams import settle, settled_bands, with_all
from tracer.archive.sketches import Table, left_out, products, squares


@source("sketches", "step", "example", "sketch", stream="sketches", itemsize=4)
def _sketches(view: View) -> np.ndarray:
    return view.per_example(lambda probe, step: probe.sketches(step))


@source("sketched_gram", "step", "layer", "example", "example_2", needs=("sketches",))
def _sketched_gram(view: View) -> Pairs:
    """What `gram` is, from sketches; of the blocks of these all but `view.without`."""
    probe, _ = next(view.parts())
    every = None if view.whole is None else view.whole.get("sketched_gram")
    made = partial(_rows, view.get("sketches"), probe.sketch, view.without, every)
    lengths = partial(_lengths, view.get("sketches"), probe.sketch, view.without)
    if view.banded:
        return settled_bands(view, lambda *where: with_all(made(*where)), lengths, kept=every is None)
    n = view.size("example")
    joint = np.empty((len(view.steps), view.size("layer"), n, n))
    for step, gram in enumerate(joint):
        gram[:-1] = made(step, slice(0, n))
        gram[-1] = gram[:-1].sum(0)
        np.einsum("lii->li", gram)[:] = lengths(step)
        settle(gram)
    return joint


@source("sketched_cosine", "step", "layer", "example", "example_2", needs=("sketched_gram",))
def _sketched_cosine(view: View) -> Pairs:
    return cosines_of(view.get("sketched_gram"))


def leaving_out(view: View, block: int) -> View:
    """The same view without a block of the sketches; what else was made in the view itself is let go."""
    view.cache = {name: made for name, made in view.cache.items() if name in ("sketches", "sketched_gram")}
    cache = {"sketches": view.get("sketches")}
    return replace(view, without=block, whole=view, shared={}, cache=cache)


def _rows(
    sketches: np.ndarray, table: Table, without: int | None, every: Pairs | None, step: int, rows: slice
) -> np.ndarray:
    """Rows of the inner products of each layer (layer, row, example); `every`: those of all blocks of the sketches."""
    made = products(sketches[step, rows], sketches[step], table, without)
    return made if every is None else left_out(rows_of(every, step, rows)[:-1], made, table)


def _lengths(sketches: np.ndarray, table: Table, without: int | None, step: int) -> np.ndarray:
    """Their diagonal (layer, example), which unlike a difference is never below 0."""
    return with_all(squares(sketches[step], table, without)[..., None])[..., 0]
