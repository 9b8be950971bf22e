"""Inner products and cosines of gradients of which only sketches are recorded."""

from __future__ import annotations

import numpy as np

from analyze.arrays import View, source
from analyze.arrays.derived import cosines
from analyze.arrays.recorded import settle
from tracer.archive.sketches import products


@source("sketches", "step", "example", "sketch", stream="sketches", itemsize=4)
def _sketches(view: View) -> np.ndarray:
    return view.per_example(lambda probe, step: probe.sketches(step))


@source("sketched_gram", "step", "layer", "example", "example_2", needs=("sketches",))
def _sketched_gram(view: View) -> np.ndarray:
    """What `gram` is, from sketches; of the blocks of these all but `view.without`."""
    first, _ = next(view.parts())
    sketches, count = view.get("sketches"), view.size("example")
    joint = np.empty((len(view.steps), view.size("layer"), count, count))
    for gram, values in zip(joint, sketches, strict=True):
        gram[:-1] = products(values, values, first.sketch, view.without)
        gram[-1] = gram[:-1].sum(0)
        settle(gram)
    return joint


@source("sketched_cosine", "step", "layer", "example", "example_2", needs=("sketched_gram",))
def _sketched_cosine(view: View) -> np.ndarray:
    return cosines(view.get("sketched_gram"))
