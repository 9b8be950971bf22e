"""The user's DataLoader, with the example ids of each batch noted as they pass.

The loader itself is never changed: a shallow copy of it carries the same dataset, generator and workers,
and a sampler that notes what it yields. Batches leave a DataLoader in the order their indices were drawn,
so the k-th batch delivered has the k-th list of indices noted, however far workers run ahead. A loader of
Accelerate's, which keeps count of epochs itself, is iterated as it is; only its sampler is exchanged.
"""

import copy
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, default_collate

from tracer.errors import RecordError
from tracer.ids import as_ids, resolve
from tracer.network.pytree import leaves_of
from tracer.network.torch_internals import at_work, draw_from
from tracer.recorder.order import Ordered

_REMEDY = "pass run.batches(loader, ids=function_of_a_batch), or run.step(ids=...) after each update"
# Loaders of Accelerate and Fabric that give each batch of the DataLoader inside, one for one.
_SHARDS = ("DataLoaderShard", "SkipDataLoader", "_FabricDataLoader")


class NotingSampler:
    """A sampler that notes each list of indices it yields; everything else is the wrapped one's."""

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler
        self.noted: deque[list[int]] = deque()

    def __iter__(self) -> Iterator[list[int]]:
        self.noted.clear()
        for indices in self.sampler:
            self.noted.append(
                list(indices) if isinstance(indices, Iterable) else [indices]
            )  # it may be reused
            yield indices

    def __len__(self) -> int:
        return len(self.sampler)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sampler, name)


class Batches:
    """Iterates user loaders; calls `deliver(ids)` for each batch delivered and `end()` when one is exhausted.

    note: takes a sentence about ids that cannot be told, which are delivered as None.
    """

    def __init__(
        self,
        deliver: Callable[[np.ndarray | None], None],
        end: Callable[[], None],
        note: Callable[[str], None],
    ) -> None:
        self._deliver, self._end, self._note = deliver, end, note
        # Persistent workers live on the loader object, so such a loader keeps one noting copy.
        self._persistent: WeakKeyDictionary[DataLoader[Any], DataLoader[Any]] = WeakKeyDictionary()

    def iterate(self, loader: Any, ids: Callable[[Any], Any] | None = None) -> Iterator[Any]:
        """The batches of `loader`, unchanged and in order.

        `ids(batch)` gives the example ids where the loader cannot: iterable datasets, loaders that are not
        a `DataLoader`, or that reorder; None where they are not known.
        """
        source = self._noted(loader) if ids is None else self._told(loader, ids)
        for batch, batch_ids in source:
            self._deliver(batch_ids)
            yield batch
        self._end()

    def _told(self, loader: Any, ids: Callable[[Any], Any]) -> Iterator[tuple[Any, np.ndarray | None]]:
        for batch in loader:
            told = ids(batch)
            array = None if told is None else as_ids(told)
            if array is not None and (sizes := _sizes(batch)) and len(array) not in sizes:
                self._note(
                    f"ids= gave {len(array)} ids for a batch of {_or(sizes)} examples: they are recorded so"
                )
            yield batch, array

    def _noted(self, loader: Any) -> Iterator[tuple[Any, np.ndarray | None]]:
        if (reason := unknown_ids(loader)) is not None:
            raise RecordError(f"run.batches got {reason}: {_REMEDY}.")
        if _inside(loader) is not loader:
            yield from noted_in_place(loader, lambda: iter(loader), self._note)
            return
        noting = self._persistent.get(loader)
        if noting is None:
            noting = noting_copy(loader, self._note)
        if loader.persistent_workers:
            self._persistent[loader] = noting
        noted = noting.batch_sampler.noted  # type: ignore[union-attr]
        for batch, order in _with_order(noting):
            yield batch, in_order(ids_of(loader, batch, noted, self._note), order, self._note)


class Delivered:
    """The batches of a loader, on every iteration from the start; whatever else a loop asks, the loader answers."""

    def __init__(self, loader: Any, begin: Callable[[], Iterator[Any]]) -> None:
        self._loader, self._begin = loader, begin
        self._running: Iterator[Any] | None = None

    def __iter__(self) -> Iterator[Any]:
        return self._begin()

    def __next__(self) -> Any:
        if self._running is None:
            self._running = self._begin()
        return next(self._running)

    def __len__(self) -> int:
        return len(self._loader)

    def __getattr__(self, name: str) -> Any:
        """What the loader has: its dataset, its sampler, the size of its batches."""
        if name.startswith("__") or "_loader" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self._loader, name)


def noting_copy(loader: DataLoader[Any], note: Callable[[str], None]) -> DataLoader[Any]:
    """A copy whose `batch_sampler.noted` holds the indices of its batches, those to come first.

    With a collate_fn of the user's it gives pairs of a batch and the order of its examples.
    """
    noting = copy.copy(loader)
    draw_from(noting, NotingSampler(loader.batch_sampler))
    if _is_seen(loader, at_work(loader), note):
        noting.__dict__["collate_fn"] = Ordered(loader.collate_fn)
    return noting


def _is_seen(loader: DataLoader[Any], started: bool, note: Callable[[str], None]) -> bool:
    """Whether a collate_fn is to be seen at work; a note where it runs in workers that have `started` without that."""
    if not _may_move(loader.collate_fn):
        return False
    if started:
        note(
            "In which order a collate_fn puts the examples of a batch is not seen in persistent workers: the ids "
            f"recorded are in the order that the sampler drew them; if it moves them, {_REMEDY}"
        )
    return not started


def _may_move(collate: Any) -> bool:
    """Whether a collate_fn is a user's own; those of PyTorch and Transformers keep the order."""
    while (inner := getattr(collate, "data_collator", None)) is not None:  # without columns that are not used
        collate = inner
    return str(getattr(collate, "__module__", "")).partition(".")[0] not in ("torch", "transformers")


class Single(DataLoader[Any]):
    """A loader with an `Ordered` collate_fn that gives the batches alone; `orders` has those to come first."""

    orders: deque[list[int] | None]

    def __iter__(self) -> Any:
        """Batches as the collate_fn inside made them."""
        self.orders.clear()
        for batch, order in super().__iter__():
            self.orders.append(order)
            yield batch


def single(noting: DataLoader[Any]) -> DataLoader[Any]:
    """A noting copy for somebody else to iterate, who is to see no pairs."""
    if isinstance(noting.collate_fn, Ordered):
        kind = type(noting)
        noting.__class__ = type(kind.__name__, (Single, kind), {"__module__": kind.__module__})
        noting.__dict__["orders"] = deque()
    return noting


def _with_order(noting: DataLoader[Any]) -> Iterator[tuple[Any, list[int] | None]]:
    """Batches, each with the order of its examples where its collate_fn is seen at work."""
    if not isinstance(noting.collate_fn, Ordered):
        return ((batch, None) for batch in noting)
    return ((batch, order) for batch, order in noting)  # a list, where a thread has put it into pinned memory


def in_order(
    ids: np.ndarray | None, order: list[int] | None, note: Callable[[str], None]
) -> np.ndarray | None:
    """Ids as a collate_fn has put their examples; None, and a note, where it moved them and it is not known how."""
    if ids is None or order is None:
        return ids
    if len(order) == len(ids):
        return ids[order]
    note(
        "A collate_fn puts the examples of a batch in an order that its parts do not tell: of such updates no ids are "
        f"recorded; {_REMEDY}"
    )
    return None


def noted_in_place(
    loader: Any, iterate: Callable[[], Iterator[Any]], note: Callable[[str], None]
) -> Iterator[tuple[Any, np.ndarray | None]]:
    """Batches of `loader` with their ids, where `iterate` makes its iterator; it may be a loader of Accelerate's.

    Only the sampler and the collate_fn are exchanged, until the first batch is there.
    """
    base = _inside(loader)
    own = {name: base.__dict__[name] for name in ("batch_sampler", "collate_fn")}
    noting = NotingSampler(base.batch_sampler)
    draw_from(base, noting)
    # Persistent workers go on with the collate_fn that they began with, also where nobody records.
    if seen := _is_seen(base, base.persistent_workers, note):
        base.__dict__["collate_fn"] = Ordered(base.collate_fn)
    pairs = _from_first(loader, iterate(), noting, lambda: base.__dict__.update(own))
    for batch, order in pairs if seen else ((batch, None) for batch in pairs):
        yield batch, in_order(ids_of(loader, batch, noting.noted, note), order, note)


def _inside(loader: Any) -> Any:
    """The DataLoader in one of Accelerate's or Fabric's, which give its batches one for one; else the loader."""
    attribute = "_dataloader" if type(loader).__name__ == "_FabricDataLoader" else "base_dataloader"
    return getattr(loader, attribute, loader)


def _from_first(
    loader: Any, batches: Iterator[Any], noting: NotingSampler, restore: Callable[[], None]
) -> Iterator[Any]:
    try:
        first = list(islice(batches, 1))  # with it there is the iterator inside, which keeps our sampler
    finally:
        restore()
    for _ in range(min(getattr(loader, "skip_batches", 0), len(noting.noted))):
        noting.noted.popleft()
    yield from chain(first, batches)


def ids_of(
    loader: Any, batch: Any, noted: deque[list[int]], note: Callable[[str], None]
) -> np.ndarray | None:
    """Example ids of the batch that comes next; None, and a note, where its examples are not those drawn for it.

    RecordError where nothing was drawn for it, or something else than whole numbers.
    """
    if not noted:
        raise RecordError(
            f"run.batches got a {type(loader).__name__} that gave a batch without drawing indices for it, so its "
            f"example ids are not known: {_REMEDY}."
        )
    ids = resolve(loader.dataset, noted.popleft())
    inside = _inside(loader)
    if inside.collate_fn is default_collate and not hasattr(loader.dataset, "__getitems__"):
        return ids  # one example for each id, by construction
    plain = inside.collate_fn is default_collate
    sizes = {len(leaf) for leaf in leaves_of(batch) if leaf.ndim} if plain else _sizes(batch)
    if not sizes:
        note(
            f"Batches are a {type(batch).__name__}, whose number of examples cannot be told: the ids recorded are "
            "those that the sampler drew for it"
        )
    elif len(ids) not in sizes:
        note(
            f"A batch of {_or(sizes)} examples came where {len(ids)} were drawn, as where "
            f"a collate_fn drops or merges some: of such updates no ids are recorded; {_REMEDY}"
        )
        return None
    return ids


def _sizes(batch: Any) -> set[int]:
    """What may be the number of examples in a batch, by its parts; empty where nothing tells."""
    number = getattr(batch, "num_graphs", None)  # of graphs joined into one
    if isinstance(number, int):
        return {number}
    if isinstance(batch, Tensor):
        return {len(batch)} if batch.ndim else set()
    if isinstance(batch, Mapping):
        return set[int]().union(*(_part_sizes(part) for part in batch.values()))
    if not isinstance(batch, tuple | list):
        return set()
    sizes = set[int]().union(*(_part_sizes(part) for part in batch))
    alike = not any(isinstance(part, Tensor) for part in batch)
    return sizes | ({len(batch)} if alike and len(batch) > 2 else set())  # a list of examples


def _or(sizes: set[int]) -> str:
    return " or ".join(map(str, sorted(sizes)))


def _part_sizes(part: Any) -> set[int]:
    return {len(part)} if isinstance(part, tuple | list) else _sizes(part)


def unknown_ids(loader: Any) -> str | None:
    """What it is about `loader` that leaves the example ids of its batches unknown; None: they are known."""
    if not isinstance(loader, DataLoader) and _inside(loader) is loader:
        return f"a {type(loader).__name__}, which does not tell example ids"
    if isinstance(loader.dataset, IterableDataset):
        return (
            f"a loader of {type(loader.dataset).__name__}, which is iterable and has no stable example ids, and tracer "
            "never guesses them"
        )
    own = type(loader).__iter__ is DataLoader.__iter__ or isinstance(loader, Single)
    if not own and _inside(loader) is loader:
        return f"a {type(loader).__name__}, which iterates in its own way and may keep an iterator or leave batches out"
    if loader.batch_sampler is None:
        return "a DataLoader with batch_size=None, of which one index may stand for a whole batch"
    if not getattr(loader, "in_order", True):
        return (
            "a DataLoader with in_order=False, so that batches arrive in another order than they were drawn"
        )
    if _inside(loader) is not loader and (
        type(loader).__name__ not in _SHARDS or type(_inside(loader)) is not DataLoader
    ):
        inside = type(_inside(loader)).__name__
        return f"a {type(loader).__name__} of a {inside}, of which it is not known how batches are made"
    return None
