"""Metrics computed from sketches of gradients, where no exact ones are recorded: with the standard error of that.

Sketches are made in blocks, each with draws of its own. A metric is computed from all of them, and then without each
block in turn: how far it moves is how uncertain the sketches leave it (a jackknife). That is an error beside the one
that comes of few examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tracer.archive.sketches import standard_error

if TYPE_CHECKING:
    from analyze.contract import Metric
    from tracer.archive import Archive

ARRAYS = {"gram": "sketched_gram", "cosine": "sketched_cosine"}  # what stands for what
BLOCK = "sketch_block"

Dims = tuple[str, ...]
Returned = dict[str, Any]


def has_sketches(archive: Archive) -> bool:
    """Whether the gradients of any probe are sketched."""
    return any(view.has_sketches for view in archive.probes.values())


def is_sketched(card: Metric, archive: Archive) -> bool:
    """Whether a metric has nothing but sketches to be computed from, and can be."""
    return bool(card.sketched) and has_sketches(archive) and not archive.gram_probes


def sketch_of(archive: Archive) -> Mapping[str, Any]:
    """How the sketches of an archive were made."""
    return next(view.sketch for view in archive.probes.values() if view.has_sketches)


def error_of(variable: str) -> str:
    """Name of the standard error that sketches leave a variable with."""
    return f"{variable}_sketch_error"


def variables(card: Metric) -> dict[str, Dims]:
    """What a metric returns beside its own variables; of one that sums up, what can be added."""
    if card.combine:
        return {f"{name}_without": (BLOCK, *card.variables[name]) for name in card.sketched}
    return {error_of(name): card.variables[name] for name in card.sketched}


def with_errors(card: Metric, returned: Returned, without: Sequence[Returned]) -> Returned:
    """What a metric returned, with its standard errors, from what it returned without each block in turn."""
    left_out = {
        name: np.stack([np.asarray(one[name], np.float64) for one in without]) for name in card.sketched
    }
    if card.combine:
        return returned | {f"{name}_without": values for name, values in left_out.items()}
    return returned | {error_of(name): standard_error(values) for name, values in left_out.items()}


def finished(card: Metric, arrays: Mapping[str, np.ndarray]) -> dict[str, tuple[Dims, np.ndarray]]:
    """Errors of a sum, once all is added up."""
    if not card.combine:
        return {}
    errors = {name: standard_error(arrays[f"{name}_without"]) for name in card.sketched}
    return {error_of(name): (card.variables[name], error) for name, error in errors.items()}


def attributes(archive: Archive) -> dict[str, Any]:
    """What a result says of the sketches it was computed from."""
    numbers = max((row["size"] for row in sketch_of(archive)["layers"] if row["buckets"]), default=0)
    return {
        "sketches": f"computed from sketches of gradients, {numbers:,} numbers a layer; *_sketch_error is the standard "
        "error that comes of it"
        if numbers
        else "computed from sketches of gradients, which are exact for layers as small as these"
    }
