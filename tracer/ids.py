"""Stable example ids: of what a sampler yields, and of what a user gives."""

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor, int64
from torch.utils.data import Dataset, Subset

from tracer.errors import RecordError
from tracer.network.copies import to_numpy


def taken(ids: Any) -> np.ndarray | Tensor:
    """A copy of example ids given by the user, of int64; RecordError as `as_ids`.

    As they come at each update, where the caches hold nothing, they stay the tensor that they are: each call costs as
    much there as ten in a row.
    """
    if type(ids) is Tensor and ids.dtype == int64 and ids.is_cpu and ids.dim() == 1:
        return ids.clone()
    return as_ids(ids)


def as_ids(ids: Any) -> np.ndarray:
    """Example ids given by the user as int64; RecordError for anything but whole numbers, one an example."""
    array = to_numpy(ids) if isinstance(ids, Tensor) else np.asarray(ids)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise RecordError(
            f"The ids given are an array of shape {array.shape} and dtype {array.dtype}, expected one whole number "
            "per example of the batch."
        )
    return array.astype(np.int64)


def resolve(dataset: Dataset[Any], indices: Sequence[Any]) -> np.ndarray:
    """Stable example ids (int64): a `Subset` resolves to its base dataset, a `ConcatDataset` counts globally."""
    try:
        ids = np.fromiter(map(operator.index, indices), np.int64)
    except (TypeError, OverflowError):
        raise RecordError(
            f"run.batches: the sampler yields {indices[0]!r}, expected whole numbers as example ids: pass "
            "run.batches(loader, ids=function_of_a_batch)."
        ) from None
    while isinstance(dataset, Subset):
        ids = np.asarray(dataset.indices, dtype=np.int64)[ids]
        dataset = dataset.dataset
    if len(ids) and ids.min() < 0:  # counted from the end
        ids[ids < 0] += len(dataset)  # type: ignore[arg-type]
    return ids
