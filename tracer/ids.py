"""Stable example ids: of what a sampler yields, and of what a user gives."""

import operator
from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np
from torch import Tensor, equal, int64, strided
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from tracer.errors import RecordError
from tracer.network.copies import to_numpy

_LARGEST = np.iinfo(np.int64).max


def taken(ids: Any) -> np.ndarray | Tensor:
    """A copy of example ids given by the user, of int64; RecordError as `as_ids`.

    As they come at each update, where the caches hold nothing, they stay the tensor that they are: each call costs as
    much there as ten in a row.
    """
    plain = type(ids) is Tensor and ids.is_cpu and ids.layout == strided
    if plain and ids.dtype == int64 and ids.dim() == 1:
        return ids.clone()
    return as_ids(ids)


def as_ids(ids: Any) -> np.ndarray:
    """Example ids given by the user as int64; RecordError for anything but whole numbers, one an example."""
    expected = "expected one whole number per example of the batch"
    try:
        array = to_numpy(ids) if isinstance(ids, Tensor) else np.asarray(ids)
    except Exception:  # lists of several lengths, sparse tensors, those without values
        raise RecordError(
            f"The ids given are a {_kind(ids)} that cannot be read as an array, {expected}."
        ) from None
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise RecordError(
            f"The ids given are an array of shape {array.shape} and dtype {array.dtype}, {expected}."
        )
    if array.dtype.kind == "u" and array.size and array.max() > _LARGEST:
        raise RecordError(f"The ids given go up to {array.max()}, expected none over {_LARGEST}.")
    return array.astype(np.int64)


def resolve(dataset: Dataset[Any], indices: Sequence[Any]) -> np.ndarray:
    """Stable example ids (int64): a `Subset` resolves to its base dataset, a `ConcatDataset` counts globally."""
    ids = _whole(indices, "the sampler yields")
    while isinstance(dataset, Subset):
        # One by one, since to convert them all takes milliseconds at every batch.
        known, places = dataset.indices, ids.tolist()
        of_arrays = isinstance(known, np.ndarray | Tensor)
        chosen = known[places].tolist() if of_arrays else [known[place] for place in places]
        ids, dataset = _whole(chosen, "the indices of a Subset hold"), dataset.dataset
    if len(ids) and ids.min() < 0:  # counted from the end
        ids[ids < 0] += len(dataset)  # type: ignore[arg-type]
    return ids


def counted(dataset: Dataset[Any]) -> list[Any]:
    """What ids of a dataset count through, in order; tensors stand for a `TensorDataset`, which is often made anew."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    if isinstance(dataset, TensorDataset) and dataset.tensors:
        return [dataset.tensors[0]]
    if not isinstance(dataset, ConcatDataset):
        return [dataset]
    parts: list[Any] = []
    for part in dataset.datasets:
        parts += [part.indices] if isinstance(part, Subset) else counted(part)
    return parts


def agree(parts: list[Any], others: list[Any]) -> bool:
    """Whether an id of what is `counted` here is the same example there, as far as both have it."""
    return all(map(_same, parts, others))


def _same(one: Any, other: Any) -> bool:
    if one is other or not (isinstance(one, Tensor) and isinstance(other, Tensor)):
        return one is other
    # Loaded anew they are other objects of the same values.
    alike = (one.layout, one.device, one.dtype) == (strided, other.device, other.dtype)
    return alike and other.layout == strided and equal(one, other)


def _whole(values: Sequence[Any], what: str) -> np.ndarray:
    try:
        return np.fromiter(map(operator.index, values), np.int64)
    except (TypeError, OverflowError):
        strange = next((value for value in values if not isinstance(value, SupportsIndex)), values[0])
        raise RecordError(
            f"run.batches: {what} {strange!r}, expected whole numbers as example ids: pass "
            "run.batches(loader, ids=function_of_a_batch)."
        ) from None


def _kind(ids: Any) -> str:
    if not isinstance(ids, Tensor):
        return type(ids).__name__
    return f"tensor on the {ids.device.type} device, of layout {str(ids.layout).removeprefix('torch.')},"
