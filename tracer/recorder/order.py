"""In which order a collate_fn puts the examples of a batch, seen by comparing what goes in with what comes out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

_LOOKED_AT = 64  # numbers of an example and of a row of a batch, at each end: padding may be at either
_COMPARED = 1 << 22  # numbers of all pairs of examples

_NUMBERS = (bool, int, float)

Rows = list[np.ndarray]  # the numbers of each example, flat


class Ordered:
    """A collate_fn that returns (batch, order) for the batch of another one; see `order_of`.

    It runs where that does, in workers too, calls it once and draws nothing.
    """

    def __init__(self, collate: Callable[[Any], Any]) -> None:
        self._collate = collate

    def __call__(self, examples: Any) -> tuple[Any, list[int] | None]:
        """The other one's batch, and the order."""
        values = _noted(lambda: _values_of(examples)) if isinstance(examples, list) else None
        n = len(examples) if values else 0  # before the other one, which may change the list
        batch = self._collate(examples)
        return batch, _noted(lambda: _order(values, batch, n)) if values else None


def _noted(look: Callable[[], Any]) -> Any:
    """What looking at a user's objects says; nothing where they do not let it."""
    try:
        return look()
    except Exception:
        return None


def order_of(examples: Sequence[Any], batch: Any) -> list[int] | None:
    """Position among `examples` of each row of a batch; empty where they were moved and it is not known how.

    None where no part of the batch is recognised in the examples. What tells most examples apart decides, and of the
    parts of the batch the one of most numbers, where few may agree by chance.

    >>> order_of([[5, 7], [1, 0], [2, 2]], {"input_ids": [[1, 0, 0], [5, 7, 0], [2, 2, 0]]})
    [1, 0, 2]
    """
    return _order(_values_of(examples), batch, len(examples))


def sizes_of(batch: Any) -> set[int]:
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


def _part_sizes(part: Any) -> set[int]:
    return {len(part)} if isinstance(part, tuple | list) else sizes_of(part)


def _order(values: Mapping[tuple[Any, ...], Rows], batch: Any, n: int) -> list[int] | None:
    if n < 2:
        return None
    told = [(_distinct(rows), rows) for rows in values.values() if len(rows) == n]
    leaves = sorted(
        (rows for rows in _parts_of(batch) if len(rows) == n), key=lambda rows: -sum(map(len, rows))
    )
    for distinct, rows in sorted(told, key=lambda each: -each[0]):
        for leaf in leaves if distinct > 1 else ():
            if all(map(_same, leaf, rows)):
                return list(range(n))
            same = _alike(leaf, rows)
            if same.any(0).all() and same.any(1).all():
                once = (same.sum(0) == 1).all() and (same.sum(1) == 1).all()
                return [int(place) for place in same.argmax(1)] if once else []
    return None


def _same(row: np.ndarray, other: np.ndarray) -> bool:
    """Whether one begins or ends as the other does."""
    n = min(len(row), len(other), _LOOKED_AT)
    return n > 0 and (np.array_equal(row[:n], other[:n]) or np.array_equal(row[-n:], other[-n:]))


def _alike(leaf: Rows, rows: Rows) -> np.ndarray:
    """Whether row i of a batch begins or ends as example j does, or the other way round: bool (row, example)."""
    places: dict[bytes, list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault(row.tobytes(), []).append(place)
    whole = [places.get(row.tobytes(), []) for row in leaf]
    if set().union(*whole) == set(range(len(rows))) and all(whole):  # without padding, which is soon seen
        return np.array([[place in there for place in range(len(rows))] for there in map(set, whole)])
    width = max(1, min(_LOOKED_AT, _COMPARED // (len(leaf) * len(rows))))
    begin = _matching([row[:width] for row in leaf], [row[:width] for row in rows])
    return begin | _matching([row[-width:][::-1] for row in leaf], [row[-width:][::-1] for row in rows])


def _matching(leaf: Rows, rows: Rows) -> np.ndarray:
    width = max(map(len, [*leaf, *rows]), default=0)
    one, other = (_padded(side, width) for side in (leaf, rows))
    known = np.minimum(np.array([len(row) for row in leaf])[:, None], np.array([len(row) for row in rows]))
    equal = (one[:, None] == other) | (np.arange(width) >= known[..., None])
    return np.asarray(equal.all(-1) & (known > 0))


def _padded(rows: Rows, width: int) -> np.ndarray:
    padded = np.zeros((len(rows), width))
    for place, row in zip(padded, rows, strict=True):
        place[: len(row)] = row
    return padded


def _distinct(rows: Rows) -> int:
    return len({row.tobytes() for row in rows})


def _values_of(examples: Sequence[Any]) -> dict[tuple[Any, ...], Rows]:
    """The numbers of each example by where they are in it."""
    values: dict[tuple[Any, ...], list[Any]] = {}
    for example in examples:
        for where, value in _numbers(example, ()):
            values.setdefault(where, []).append(value)
    return {where: rows for where, column in values.items() if (rows := _rows(column))}


def _rows(column: list[Any]) -> Rows:
    """The numbers of each of these, all at once where they are alike; empty where one has none."""
    if all(type(value) in _NUMBERS for value in column):
        return list(np.array(column, np.float64).reshape(-1, 1))
    alike = {(type(value), getattr(value, "shape", None), getattr(value, "dtype", None)) for value in column}
    if len(alike) == 1 and isinstance(column[0], Tensor) and _flat(column[0]) is not None:
        flat = [value.reshape(-1) for value in column]
        many = len(flat[0]) > 2 * _LOOKED_AT
        pieces = [end for row in flat for end in (row[:_LOOKED_AT], row[-_LOOKED_AT:])] if many else flat
        return list(_ends(torch.cat(pieces).reshape(len(flat), -1)))
    rows = [_flat(value) for value in column]
    return [row for row in rows if row is not None] if all(row is not None for row in rows) else []


def _numbers(tree: Any, where: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """What has numbers in an example."""
    if isinstance(tree, Tensor) or type(tree) in _NUMBERS:
        yield where, tree
    elif isinstance(tree, Mapping):
        for name, part in tree.items():
            yield from _numbers(part, (*where, name))
    elif (row := _flat(tree)) is not None:
        yield where, row
    elif isinstance(tree, tuple | list):
        for place, part in enumerate(tree):
            yield from _numbers(part, (*where, place))


def _parts_of(batch: Any) -> Iterator[Rows]:
    """What may hold a row for each example, in all parts of a batch."""
    if isinstance(batch, Tensor | np.ndarray):
        if batch.ndim and len(batch) and _flat(batch[0]) is not None:
            yield list(_ends(batch.reshape(len(batch), -1)))
        return
    if not isinstance(batch, tuple | list | Mapping):
        return
    parts = list(batch.values()) if isinstance(batch, Mapping) else list(batch)
    if isinstance(batch, tuple | list) and parts:
        rows = [_flat(part) for part in parts]
        if all(row is not None for row in rows):
            yield rows  # type: ignore[misc]
    for part in parts:
        yield from _parts_of(part)


def _flat(value: Any) -> np.ndarray | None:
    """Numbers as float64 (number,), of many the first and last; None for anything else."""
    if isinstance(value, Tensor):
        strange = value.layout != torch.strided or value.is_complex()
        return None if strange else _ends(value.reshape(1, -1))[0]
    if isinstance(value, list | tuple):
        ends = value if len(value) <= 2 * _LOOKED_AT else [*value[:_LOOKED_AT], *value[-_LOOKED_AT:]]
        plain = ends and all(issubclass(kind, _NUMBERS) for kind in set(map(type, ends)))
        return np.array(ends, np.float64) if plain else None
    if isinstance(value, _NUMBERS):
        return np.array([value], np.float64)
    if isinstance(value, np.number | np.ndarray):
        array = np.asarray(value).reshape(1, -1)
        return _ends(array)[0] if array.dtype.kind in "biuf" else None
    return None


def _ends(rows: Any) -> np.ndarray:
    """Of each row, a copy: an example's memory may be used again, and torch's is not NumPy's to hold."""
    many = rows.shape[1] > 2 * _LOOKED_AT
    pieces = [rows[:, :_LOOKED_AT], rows[:, -_LOOKED_AT:]] if many else [rows]
    if isinstance(rows, Tensor):
        return torch.cat([piece.detach() for piece in pieces], 1).to("cpu", torch.float64, copy=True).numpy()
    return np.concatenate(pieces, 1).astype(np.float64)
