"""The user's DataLoader, with the example ids of each batch noted as they pass.

The loader is iterated as it is: workers that last live on it, and whoever uses it beside the recording is to find
them as they would be without. Only while it makes an iterator is its sampler exchanged for one that notes what it
yields. Batches leave a DataLoader in the order their indices were drawn, so the k-th batch delivered has the k-th list
of indices noted, however far workers run ahead.
"""

import copy
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from torch.utils.data import DataLoader, IterableDataset, default_collate

from tracer.errors import RecordError
from tracer.ids import agree, as_ids, counted, resolve
from tracer.network.pytree import leaves_of
from tracer.network.randomness import untouched_random_state
from tracer.network.torch_internals import draw_from
from tracer.recorder.order import Ordered, sizes_of

_REMEDY = "pass run.batches(loader, ids=function_of_a_batch), or run.step(ids=...) after each update"
# Loaders of Accelerate and Fabric that give each batch of the DataLoader inside, one for one.
_SHARDS = ("DataLoaderShard", "SkipDataLoader", "_FabricDataLoader")
_MIXED = (
    "Loaders of several data sets were given to run.batches, whose ids all count from 0, so one id may stand for "
    "several examples: join the data sets in a ConcatDataset, or pass run.batches(loader, ids=function_of_a_batch)"
)
_BEGUN_AGAIN = (
    "A loader with persistent workers was begun again while a loop over it went on, which then takes batches of the "
    "new round: of such updates no ids are recorded"
)


class NotingSampler:
    """A sampler that notes each list of indices it yields; everything else is the wrapped one's."""

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler
        self.noted: deque[list[int]] = deque()

    def __iter__(self) -> Iterator[Any]:
        # Begun at once, as it is where nobody notes: a sampler may draw random numbers then.
        drawn, self.noted = iter(self.sampler), deque()
        return _noting(drawn, self.noted)

    def __len__(self) -> int:
        return len(self.sampler)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sampler, name)


def _noting(drawn: Iterator[Any], noted: deque[list[int]]) -> Iterator[Any]:
    for indices in drawn:
        if isinstance(indices, Iterator):  # which can be read only once
            indices = list(indices)
        noted.append(list(indices) if isinstance(indices, Iterable) else [indices])  # it may be reused
        yield indices


# Whoever begins a loader with persistent workers gets the same iterator, so one sampler notes for all of them.
_OF_WORKERS: WeakKeyDictionary[DataLoader[Any], NotingSampler] = WeakKeyDictionary()


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
        self._parts: list[Any] = []  # the data sets that ids count through
        # The loader of the last batch and how many it gave; None where it was exhausted.
        self._loader: Any = None
        self._given = 0
        self.told: np.ndarray | None = None  # ids of the last batch

    def iterate(self, loader: Any, ids: Callable[[Any], Any] | None = None) -> Iterator[Any]:
        """The batches of `loader`, unchanged and in order.

        `ids(batch)` gives the example ids where the loader cannot: iterable datasets, loaders that are not
        a `DataLoader`, or that reorder; None where they are not known. The iterator of the loader is made at once,
        as by `iter(loader)`, which draws random numbers.
        """
        while isinstance(loader, Delivered) and loader._batches is self:
            loader, ids = loader._loader, ids or loader._ids
        innermost = loader
        while isinstance(innermost, Delivered):
            if innermost._batches is self:
                raise RecordError(
                    "run.batches got batches that this recorder and another one note already: give each recorder's "
                    "run.batches the loader once, before the epochs."
                )
            innermost = innermost._loader
        if self._loader is not None and self._loader is innermost:
            self.finish()
        return self._delivered(innermost, self._noted(loader) if ids is None else self._told(loader, ids))

    def finish(self) -> None:
        """End the epoch of a loop that took all batches of its loader and did not ask whether there are more."""
        loader, self._loader = self._loader, None
        if loader is not None and self._given == _length(loader):
            self._end()

    def _delivered(self, loader: Any, source: Iterator[tuple[Any, np.ndarray | None]]) -> Iterator[Any]:
        for given, (batch, batch_ids) in enumerate(source, 1):
            self._loader, self._given, self.told = loader, given, batch_ids
            self._deliver(batch_ids)
            yield batch
        self._loader = None
        self._end()

    def _told(self, loader: Any, ids: Callable[[Any], Any]) -> Iterator[tuple[Any, np.ndarray | None]]:
        return ((batch, self._checked(batch, ids(batch))) for batch in iter(loader))

    def _checked(self, batch: Any, told: Any) -> np.ndarray | None:
        array = None if told is None else as_ids(told)
        if array is not None and (sizes := sizes_of(batch)) and len(array) not in sizes:
            self._note(
                f"ids= gave {len(array)} ids for a batch of {_or(sizes)} examples: they are recorded so"
            )
        return array

    def _noted(self, loader: Any) -> Iterator[tuple[Any, np.ndarray | None]]:
        if isinstance(loader, Delivered) and (other := loader._batches) is not None:
            return ((batch, other.told) for batch in iter(loader))
        if (reason := unknown_ids(loader)) is not None:
            raise RecordError(f"run.batches got {reason}: {_REMEDY}.")
        parts = counted(loader.dataset)
        if not agree(self._parts, parts):
            self._note(_MIXED)
        self._parts = max(self._parts, parts, key=len)
        if _inside(loader) is not loader:
            return noted_in_place(loader, lambda: iter(loader), self._note)
        with _exchanged(loader, self._note) as (noting, seen):
            batches = iter(loader)
        return _with_ids(loader, batches, noting, noting.noted, seen, self._note)


class Delivered:
    """The batches of a loader, on every iteration from the start; whatever else a loop asks, the loader answers.

    batches, ids: by which `begin` delivers them, so that others know of it.
    """

    def __init__(
        self,
        loader: Any,
        begin: Callable[[], Iterator[Any]],
        batches: Batches | None = None,
        ids: Callable[[Any], Any] | None = None,
    ) -> None:
        self._loader, self._begin, self._batches, self._ids = loader, begin, batches, ids
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
    """A copy, for a trainer to keep, whose `batch_sampler.noted` holds the indices of its batches, those to come first.

    With a collate_fn of the user's it gives pairs of a batch and the order of its examples.
    """
    noting = copy.copy(loader)
    if loader.persistent_workers:  # the same ones for both, whichever starts them or shuts them down
        shared = property(
            lambda _: loader._iterator, lambda _, workers: setattr(loader, "_iterator", workers)
        )
        _specialize(noting, {"_iterator": shared})
    draw_from(noting, NotingSampler(loader.batch_sampler))
    if _is_seen(loader, note):
        noting.__dict__["collate_fn"] = Ordered(loader.collate_fn)
    return noting


def _specialize(loader: DataLoader[Any], members: dict[str, Any], *bases: type) -> None:
    kind = type(loader)
    loader.__class__ = type(kind.__name__, (*bases, kind), {"__module__": kind.__module__, **members})


def _is_seen(loader: DataLoader[Any], note: Callable[[str], None]) -> bool:
    """Whether a collate_fn is to be seen at work; a note where it runs in persistent workers.

    These go on with the collate_fn that they began with, also where nobody records.
    """
    if not _may_move(loader.collate_fn):
        return False
    if loader.persistent_workers:
        note(
            "In which order a collate_fn puts the examples of a batch is not seen in persistent workers: the ids "
            f"recorded are in the order that the sampler drew them; if it moves them, {_REMEDY}"
        )
    return not loader.persistent_workers


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
        _specialize(noting, {}, Single)
        noting.__dict__["orders"] = deque()
    return noting


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
    """Batches of `loader` with their ids, where `iterate` makes its iterator; it may be a loader of Accelerate's."""
    with _exchanged(_inside(loader), note) as (noting, seen):
        batches = iterate()
        first = list(islice(batches, 1))  # with it there is the iterator inside, which keeps our sampler
    for _ in range(min(getattr(loader, "skip_batches", 0), len(noting.noted))):
        noting.noted.popleft()
    yield from _with_ids(loader, chain(first, batches), noting, noting.noted, seen, note)


@contextmanager
def _exchanged(base: DataLoader[Any], note: Callable[[str], None]) -> Iterator[tuple[NotingSampler, bool]]:
    """While this lasts, an iterator that a DataLoader makes draws from the sampler given.

    True with it: its batches are pairs of a batch and the order of its examples.
    """
    own = {name: base.__dict__[name] for name in ("batch_sampler", "collate_fn")}
    noting = NotingSampler(base.batch_sampler)
    if base.persistent_workers:
        noting = _OF_WORKERS.setdefault(base, noting)
    if seen := _is_seen(base, note):
        base.__dict__["collate_fn"] = Ordered(base.collate_fn)
    draw_from(base, noting)
    try:
        yield noting, seen
    finally:
        base.__dict__.update(own)


def _with_ids(
    loader: Any,
    batches: Iterator[Any],
    noting: NotingSampler,
    noted: deque[list[int]],
    seen: bool,
    note: Callable[[str], None],
) -> Iterator[tuple[Any, np.ndarray | None]]:
    for given in batches:
        batch, order = given if seen else (given, None)  # a list, where it was put into pinned memory
        if noting.noted is noted:
            yield batch, in_order(ids_of(loader, batch, noted, note), order, note)
        else:
            note(_BEGUN_AGAIN)
            yield batch, None


def _inside(loader: Any) -> Any:
    """The DataLoader in one of Accelerate's or Fabric's, which give its batches one for one; else the loader."""
    attribute = "_dataloader" if type(loader).__name__ == "_FabricDataLoader" else "base_dataloader"
    return getattr(loader, attribute, loader)


def _length(loader: Any) -> int | None:
    """How many batches it has; None where it does not say, which is no reason for a training to fail."""
    with untouched_random_state(getattr(loader, "batch_sampler", None)):
        try:
            return len(loader)
        except Exception:
            return None


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
    sizes = {len(leaf) for leaf in leaves_of(batch) if leaf.ndim} if plain else sizes_of(batch)
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


def _or(sizes: set[int]) -> str:
    return " or ".join(map(str, sorted(sizes)))


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
