"""The user's DataLoader, with the example ids of each batch noted as they pass.

The loader itself is never changed: a shallow copy of it carries the same dataset, generator and workers,
and a sampler that notes what it yields. Batches leave a DataLoader in the order their indices were drawn,
so the k-th batch delivered has the k-th list of indices noted, however far workers run ahead. A loader of
Accelerate's, which keeps count of epochs itself, is iterated as it is; only its sampler is exchanged.
"""

import copy
from collections import deque
from collections.abc import Callable, Iterator
from itertools import chain, islice
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from torch.utils.data import DataLoader, IterableDataset

from tracer.errors import RecordError
from tracer.ids import as_ids, resolve

_REMEDY = "pass run.batches(loader, ids=function_of_a_batch), or run.step(ids=...) after each update"
# Accelerate's loaders that give each batch of the DataLoader inside, one for one.
_SHARDS = ("DataLoaderShard", "SkipDataLoader")


class NotingSampler:
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
        if (reason := unknown_ids(loader)) is not None:
            raise RecordError(f"run.batches got {reason}: {_REMEDY}.")
        if hasattr(loader, "base_dataloader"):
            yield from noted_in_place(loader, lambda: iter(loader))
            return
        noting = self._persistent.get(loader) or noting_copy(loader)
        if loader.persistent_workers:
            self._persistent[loader] = noting
        noted = noting.batch_sampler.noted  # type: ignore[union-attr]
        for batch in noting:
            yield batch, resolve(loader.dataset, noted.popleft())


def noting_copy(loader: DataLoader[Any]) -> DataLoader[Any]:
    """A copy whose `batch_sampler.noted` holds the indices of its batches, those to come first."""
    noting = copy.copy(loader)
    sampler = NotingSampler(loader.batch_sampler)
    # DataLoader.__setattr__ forbids replacing a sampler on the user's loader; this is our own copy.
    noting.__dict__["batch_sampler"] = sampler
    if loader._iterator is not None:
        # Workers started before recording go on; starting others would draw another seed.
        loader._iterator._index_sampler = sampler
    return noting


def noted_in_place(loader: Any, iterate: Callable[[], Iterator[Any]]) -> Iterator[tuple[Any, np.ndarray]]:
    """Batches of `loader` with their ids, where `iterate` makes its iterator; it may be a loader of Accelerate's.

    Only the sampler is exchanged, until the first batch is there.
    """
    base = getattr(loader, "base_dataloader", loader)
    sampler = base.batch_sampler
    noting = NotingSampler(sampler)
    base.__dict__["batch_sampler"] = noting
    if base._iterator is not None:  # persistent workers
        base._iterator._index_sampler = noting
    return _with_ids(loader, iterate(), noting, lambda: base.__dict__.update(batch_sampler=sampler))


def _with_ids(
    loader: Any, batches: Iterator[Any], noting: NotingSampler, restore: Callable[[], None]
) -> Iterator[tuple[Any, np.ndarray]]:
    try:
        first = list(islice(batches, 1))  # with it there is the iterator inside, which keeps our sampler
    finally:
        restore()
    for _ in range(min(getattr(loader, "skip_batches", 0), len(noting.noted))):
        noting.noted.popleft()
    for batch in chain(first, batches):
        yield batch, resolve(loader.dataset, noting.noted.popleft())


def unknown_ids(loader: Any) -> str | None:
    """What it is about `loader` that leaves the example ids of its batches unknown; None: they are known."""
    if not isinstance(loader, DataLoader):
        return f"a {type(loader).__name__}, which does not tell example ids"
    if isinstance(loader.dataset, IterableDataset):
        return (
            f"a loader of {type(loader.dataset).__name__}, which is iterable and has no stable example ids, and tracer "
            "never guesses them"
        )
    if loader.batch_sampler is None:
        return "a DataLoader with batch_size=None, of which one index may stand for a whole batch"
    if not getattr(loader, "in_order", True):
        return (
            "a DataLoader with in_order=False, so that batches arrive in another order than they were drawn"
        )
    if hasattr(loader, "base_dataloader") and (
        type(loader).__name__ not in _SHARDS or type(loader.base_dataloader) is not DataLoader
    ):
        inside = type(loader.base_dataloader).__name__
        return f"a {type(loader).__name__} of a {inside}, of which it is not known how batches are made"
    return None
