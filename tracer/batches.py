"""The user's DataLoader, with the example ids of each batch noted as they pass.

The loader itself is never changed: a shallow copy of it carries the same dataset, generator and workers,
and a sampler that notes what it yields. Batches leave a DataLoader in the order their indices were drawn,
so the k-th batch delivered has the k-th list of indices noted, however far workers run ahead.
"""

import copy
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from tracer.errors import RecordError


class _NotingSampler:
    """A sampler that notes each list of indices it yields; everything else is the wrapped one's."""

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler
        self.noted: deque[list[int]] = deque()

    def __iter__(self) -> Iterator[list[int]]:
        self.noted.clear()
        for indices in self.sampler:
            self.noted.append(list(indices))
            yield indices

    def __len__(self) -> int:
        return len(self.sampler)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sampler, name)


class Batches:
    """Iterates user loaders; calls `deliver(ids)` for each batch delivered and `end()` when one is exhausted."""

    def __init__(self, deliver: Callable[[np.ndarray], None], end: Callable[[], None]) -> None:
        self._deliver = deliver
        self._end = end
        # Persistent workers live on the loader object, so such a loader keeps one noting copy.
        self._persistent: WeakKeyDictionary[DataLoader[Any], DataLoader[Any]] = WeakKeyDictionary()

    def iterate(self, loader: Any, ids: Callable[[Any], Any] | None = None) -> Iterator[Any]:
        """The batches of `loader`, unchanged and in order.

        `ids(batch)` gives the example ids where the loader cannot: iterable datasets, loaders that are not
        a `DataLoader`, or that reorder.
        """
        source = self._noted(loader) if ids is None else ((batch, as_ids(ids(batch))) for batch in loader)
        for batch, batch_ids in source:
            self._deliver(batch_ids)
            yield batch
        self._end()

    def _noted(self, loader: Any) -> Iterator[tuple[Any, np.ndarray]]:
        _refuse_unknown_ids(loader)
        noting = self._persistent.get(loader) or _noting_copy(loader)
        if loader.persistent_workers:
            self._persistent[loader] = noting
        noted = noting.batch_sampler.noted  # type: ignore[union-attr]
        for batch in noting:
            yield batch, resolve(loader.dataset, noted.popleft())


def _noting_copy(loader: DataLoader[Any]) -> DataLoader[Any]:
    noting = copy.copy(loader)
    sampler = _NotingSampler(loader.batch_sampler)
    # DataLoader.__setattr__ forbids replacing a sampler on the user's loader; this is our own copy.
    noting.__dict__["batch_sampler"] = sampler
    if loader._iterator is not None:
        # Workers started before recording go on; starting others would draw another seed.
        loader._iterator._index_sampler = sampler
    return noting


def _refuse_unknown_ids(loader: Any) -> None:
    remedy = "pass run.batches(loader, ids=function_of_a_batch), or run.step(ids=...) after each update"
    if not isinstance(loader, DataLoader):
        raise RecordError(
            f"run.batches got a {type(loader).__name__}, which does not tell example ids: {remedy}."
        )
    if isinstance(loader.dataset, IterableDataset):
        raise RecordError(
            f"run.batches: the dataset {type(loader.dataset).__name__} is iterable and has no stable example "
            f"ids, and tracer never guesses them: {remedy}."
        )
    if loader.batch_sampler is None:
        raise RecordError(
            "run.batches: this DataLoader has batch_size=None, so one index may stand for a whole batch and "
            f"example ids are not known: {remedy}."
        )
    if not getattr(loader, "in_order", True):
        raise RecordError(
            "run.batches: this DataLoader has in_order=False, so batches arrive in another order than their "
            f"indices were drawn: {remedy}."
        )


def as_ids(ids: Any) -> np.ndarray:
    """Example ids given by the user as int64; RecordError for anything but whole numbers, one an example."""
    array = ids.detach().cpu().numpy() if isinstance(ids, Tensor) else np.asarray(ids)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise RecordError(
            f"The ids given are an array of shape {array.shape} and dtype {array.dtype}, expected one whole number "
            "per example of the batch."
        )
    return array.astype(np.int64)


def resolve(dataset: Dataset[Any], indices: list[int]) -> np.ndarray:
    """Stable example ids (int64): a `Subset` resolves to its base dataset, a `ConcatDataset` counts globally."""
    try:
        ids = np.asarray(indices, dtype=np.int64)
    except (TypeError, ValueError):
        raise RecordError(
            f"run.batches: the sampler yields {indices[0]!r}, expected whole numbers as example ids: pass "
            "run.batches(loader, ids=function_of_a_batch)."
        ) from None
    while isinstance(dataset, Subset):
        ids = np.asarray(dataset.indices, dtype=np.int64)[ids]
        dataset = dataset.dataset
    return ids
