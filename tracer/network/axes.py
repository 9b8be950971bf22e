"""Where the examples lie in every row's output, from its size at two batch sizes.

A dimension whose size follows the number of examples holds them. When it is a multiple, examples are merged
with another dimension (attention works on head x example). In row-major order a view does not change how many
elements come after the example axis, so a view tells where inside the merged dimension they lie, and any
other operation that keeps the multiple keeps the place.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tracer.network.table import Row, Size
from tracer.ops import ITEM, op

Place = tuple[Size, int, int]  # size, axis, inner


def linear_size(small: tuple[int, ...], large: tuple[int, ...], n_small: int, n_large: int) -> Size | None:
    """Size as a function of the number of examples, from two instances; None if their ranks differ or it is
    not linear.

    >>> linear_size((3, 12), (5, 20), 3, 5)
    ((1, 0), (4, 0))
    """
    if len(small) != len(large):
        return None
    size: list[int | tuple[int, int]] = []
    for a, b in zip(small, large, strict=True):
        factor, rest = divmod(b - a, n_large - n_small)
        if rest:
            return None
        size.append((factor, a - factor * n_small) if factor else a)
    return tuple(size)


def input_place(shape: Sequence[int]) -> Place:
    """Place of the examples in a batched input: its first dimension."""
    return ((1, 0), *shape[1:]), 0, 1


def place_rows(rows: Sequence[Row], inputs: Mapping[tuple[str, int], Place]) -> list[Row]:
    """The rows (which know their sizes) with `axis` and `inner` filled in; unknown stays None."""
    known: dict[tuple[str, Any], Place] = dict(inputs)
    sources: list[list[tuple[str, Any]]] = []
    placed = []
    for index, row in enumerate(rows):
        references = list(row.references())
        if row.op == ITEM:
            references = sources[references[0][1]]
        sources.append(references)
        axis, inner = _place(row, [known[key] for key in references if key in known])
        placed.append(replace(row, axis=axis, inner=inner))
        if axis is not None and row.shape is not None:
            known["row", index] = (row.shape, axis, inner)
    return placed


def _place(row: Row, sources: list[Place]) -> tuple[int | None, int]:
    moving = [] if row.shape is None else [i for i, size in enumerate(row.shape) if not isinstance(size, int)]
    if len(moving) != 1:
        return None, 1
    (axis,) = moving
    factor, rest = row.shape[axis]  # type: ignore[index, misc]
    if rest:
        return None, 1
    if factor == 1:
        return axis, 1
    inner = _merged(row, axis, factor, sources)
    return (None, 1) if inner is None else (axis, inner)


def _merged(row: Row, axis: int, factor: int, sources: list[Place]) -> int | None:
    """Elements after the example axis inside a merged dimension, None if the sources do not tell."""
    keeps_order = not op(row.op).reorders
    if keeps_order and sources:
        size, source_axis, source_inner = sources[0]
        after = source_inner * _elements(size[source_axis + 1 :])
        inner, rest = divmod(after, max(1, _elements((row.shape or ())[axis + 1 :])))
        return None if rest or inner == 0 or factor % inner else inner
    told = {inner for size, at, inner in sources if size[at] == (factor, 0)}
    return told.pop() if len(told) == 1 and not keeps_order else None


def _elements(size: Size) -> int:
    return math.prod(part for part in size if isinstance(part, int))
