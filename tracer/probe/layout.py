"""What a probe pass returns, declared beforehand: dtype, shape and dimensions of every array; attributes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tracer.gradients.sketch import Sketches
from tracer.probe.examples import Examples
from tracer.probe.observers import Declared, numbered

Static = tuple[dict[str, np.ndarray], dict[str, tuple[str, ...]], dict[str, Any]]


def static_layout(examples: Examples) -> Static:
    """Arrays of a probe that do not change, their dimensions, and its attributes."""
    probe = examples.probe
    arrays = probe.arrays()
    dims = {name: ("example", *numbered(name, array.ndim - 1)) for name, array in arrays.items()}
    if probe.private:
        dims["digest"] = ("example", "digest_byte")
    card = {
        "split": probe.split,
        "capture": examples.taken,
        "chunks": [list(bounds) for bounds in examples.chunks],
        "digest": probe.digest,
    }
    return arrays, dims, card


def gram_layout(
    layers: int, probes: Sequence[Examples], about: Mapping[str, Any]
) -> tuple[Declared, dict[str, Any]]:
    """The joint Gram matrices and their attributes, `about` among them."""
    counts = [[p.name, p.n_gradients] for p in probes if p.n_gradients]
    n = sum(p.n_gradients for p in probes)
    declared: Declared = {"gram": (np.dtype("float64"), (layers, n, n), ("layer", "example", "example_2"))}
    return declared, {"probes": counts, **about}


def sketch_layout(examples: Examples, sketches: Sketches) -> tuple[str, tuple[Declared, dict[str, Any]]]:
    """Group of a probe's sketches, its arrays and its attributes."""
    shape, dims = (examples.n_gradients, sketches.size), ("sketches_example", "sketches_element")
    declared: Declared = {"values": (np.dtype("float32"), shape, dims)}
    return f"probes/{examples.name}/sketches", (declared, sketches.attributes)
