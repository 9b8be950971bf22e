"""Inner products and cosines of gradients of which only sketches are recorded."""

from __future__ import annotations

import numpy as np

from analyze.arrays import View, source
from analyze.arrays.bands import Pairs
from analyze.arrays.derived import cosines_of
from analyze.arrays.grams import settle, settled_bands, with_all
from tracer.archive.sketches import products, squares


@source("sketches", "step", "example", "sketch", stream="sketches", itemsize=4)
def _sketches(view: View) -> np.ndarray:
    return view.per_example(lambda probe, step: probe.sketches(step))


@source("sketched_gram", "step", "layer", "example", "example_2", needs=("sketches",))
def _sketched_gram(view: View) -> Pairs:
    """What `gram` is, from sketches; of the blocks of these all but `view.without`."""
    first, _ = next(view.parts())
    sketches, count = view.get("sketches"), view.size("example")
    if view.banded:

        def read(step: int, rows: slice) -> np.ndarray:
            return with_all(products(sketches[step, rows], sketches[step], first.sketch, view.without))

        return settled_bands(
            view,
            read,
            lambda step: with_all(squares(sketches[step], first.sketch, view.without)[..., None])[..., 0],
        )
    joint = np.empty((len(view.steps), view.size("layer"), count, count))
    for gram, values in zip(joint, sketches, strict=True):
        gram[:-1] = products(values, values, first.sketch, view.without)
        gram[-1] = gram[:-1].sum(0)
        settle(gram)
    return joint


@source("sketched_cosine", "step", "layer", "example", "example_2", needs=("sketched_gram",))
def _sketched_cosine(view: View) -> Pairs:
    return cosines_of(view.get("sketched_gram"))
