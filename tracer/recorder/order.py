"""In which order a collate_fn puts the examples of a batch, seen by comparing what goes in with what comes out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

_LOOKED_AT = 64  # numbers of an example and of a row of a batch, at each end: padding may be at either
_COMPARED = 1 << 22  # numbers of all pairs of examples

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


def _order(values: Mapping[tuple[Any, ...], Rows], batch: Any, n: int) -> list[int] | None:
    if n < 2:
        return None
    told = [(_distinct(rows), rows) for rows in values.values() if len(rows) == n]
    leaves = sorted(
        (rows for rows in _parts_of(batch) if len(rows) == n), key=lambda rows: -sum(map(len, rows))
    )
    for distinct, rows in sorted(told, key=lambda each: -each[0]):
        for leaf in leaves if distinct > 1 else ():
            if all(_alike([row], [other])[0, 0] for row, other in zip(leaf, rows, strict=True)):
                return list(range(n))
            same = _alike(leaf, rows)
            if same.any(0).all() and same.any(1).all():
                once = (same.sum(0) == 1).all() and (same.sum(1) == 1).all()
                return [int(place) for place in same.argmax(1)] if once else []
    return None


def _alike(leaf: Rows, rows: Rows) -> np.ndarray:
    """Whether row i of a batch begins or ends as example j does, or the other way round: bool (row, example)."""
    width = max(1, min(_LOOKED_AT, _COMPARED // (len(leaf) * len(rows))))
    begin = _matching([row[:width] for row in leaf], [row[:width] for row in rows])
    return begin | _matching([row[-width:][::-1] for row in leaf], [row[-width:][::-1] for row in rows])


def _matching(leaf: Rows, rows: Rows) -> np.ndarray:
    width = max(map(len, [*leaf, *rows]), default=0)
    one, other = (np.stack([np.pad(row, (0, width - len(row))) for row in side]) for side in (leaf, rows))
    known = np.minimum(np.array([len(row) for row in leaf])[:, None], np.array([len(row) for row in rows]))
    equal = (one[:, None] == other) | (np.arange(width) >= known[..., None])
    return np.asarray(equal.all(-1) & (known > 0))


def _distinct(rows: Rows) -> int:
    return len({row.tobytes() for row in rows})


def _values_of(examples: Sequence[Any]) -> dict[tuple[Any, ...], Rows]:
    """The numbers of each example by where they are in it."""
    values: dict[tuple[Any, ...], Rows] = {}
    for example in examples:
        for where, row in _numbers(example, ()):
            values.setdefault(where, []).append(row)
    return values


def _numbers(tree: Any, where: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], np.ndarray]]:
    row = _flat(tree)
    if row is not None:
        yield where, row
    elif isinstance(tree, Mapping):
        for name, part in tree.items():
            yield from _numbers(part, (*where, name))
    elif isinstance(tree, tuple | list):
        for place, part in enumerate(tree):
            yield from _numbers(part, (*where, place))


def _parts_of(batch: Any) -> Iterator[Rows]:
    """What may hold a row for each example, in all parts of a batch."""
    if isinstance(batch, Tensor | np.ndarray):
        if batch.ndim:
            rows = [_flat(row) for row in batch]
            if all(row is not None for row in rows):
                yield rows  # type: ignore[misc]
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
        return (
            None if value.layout != torch.strided or value.is_complex() else _ends(value.detach().flatten())
        )
    if isinstance(value, list | tuple):
        plain = value and all(isinstance(one, bool | int | float) for one in value)
        return _ends(np.asarray(value)) if plain else None
    if isinstance(value, bool | int | float | np.number | np.ndarray):
        array = np.asarray(value).reshape(-1)
        return _ends(array) if array.dtype.kind in "biuf" else None
    return None


def _ends(row: Any) -> np.ndarray:
    """A copy: an example's memory may be used again, and torch's is not NumPy's to hold."""
    pieces = [row] if len(row) <= 2 * _LOOKED_AT else [row[:_LOOKED_AT], row[-_LOOKED_AT:]]
    return np.array([number for piece in pieces for number in piece.tolist()], np.float64)
