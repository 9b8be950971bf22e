"""What a probe pass returns, declared beforehand: dtype, shape and dimensions of every array; attributes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tracer.gradients.collect import Blocks
from tracer.probe.examples import Examples
from tracer.probe.observe import Units, as_stored
from tracer.probe.survey import Survey

Declared = dict[str, tuple[np.dtype, tuple[int, ...], tuple[str, ...]]]
Static = tuple[dict[str, np.ndarray], dict[str, tuple[str, ...]], dict[str, Any]]

_DOUBLE, _SINGLE, _BYTE = (np.dtype(kind) for kind in ("float64", "float32", "uint8"))


def stream_layout(
    stream: str,
    count: int,
    survey: Survey,
    units: Units,
    counts: tuple[int, int],
    blocks: Blocks | None,
) -> Declared:
    """Arrays of one stream of one probe, for `count` examples; counts: number of calls, of sites."""
    example = f"{stream}_example"
    n_calls, n_sites = counts
    match stream:
        case "outputs":
            outputs = as_stored(survey.outputs)
            rest = outputs.ndim - 1
            dims = ("output",) if rest == 1 else _numbered("output", rest)
            declared = {"outputs": (outputs.dtype, (count, *outputs.shape[1:]), (example, *dims))}
            if survey.losses is not None:
                declared["loss"] = (as_stored(survey.losses).dtype, (count,), (example,))
                if survey.states_correctness:
                    declared["correct"] = (_SINGLE, (count,), (example,))
            return declared
        case "masks":
            return {"bits": (_BYTE, (units.n_masks, -(-count // 8)), ("unit", "masks_byte"))}
        case "sums":
            return {
                "pre": (_DOUBLE, (count, n_calls), (example, "call")),
                "post": (_DOUBLE, (count, n_sites), (example, "site")),
            }
        case "activations":
            return {"values": (_SINGLE, (count, units.n_values), (example, "activations_unit"))}
    if blocks is None:
        return {}
    kind = _DOUBLE if blocks.dtype.itemsize == _DOUBLE.itemsize else _SINGLE
    return {"values": (kind, (blocks.size,), ("gradients_element",))}


def static_layout(examples: Examples) -> Static:
    """Arrays of a probe that do not change, their dimensions, and its attributes."""
    probe = examples.probe
    arrays = probe.arrays()
    dims = {name: ("example", *_numbered(name, array.ndim - 1)) for name, array in arrays.items()}
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
    declared: Declared = {"gram": (_DOUBLE, (layers, n, n), ("layer", "example", "example_2"))}
    return declared, {"probes": counts, **about}


def _numbered(name: str, n: int) -> tuple[str, ...]:
    return tuple(f"{name}_{k}" for k in range(1, n + 1))
