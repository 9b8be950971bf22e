"""What an archive says, apart from how its files say it: groups, arrays, attributes, read box by box."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import ceil, prod
from typing import Any, Protocol

import numpy as np

from tracer.archive.source import Source
from tracer.errors import ArchiveError
from tracer.share.selection import Selection
from tracer.store.manifest import MANIFEST

_BOX = 1 << 24  # bytes of what is compared or copied at once

Box = tuple[slice, ...]


@dataclass(frozen=True)
class Array:
    """An array: everything but its values."""

    dtype: np.dtype
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    attributes: dict[str, Any] = field(default_factory=dict)


class Content(Protocol):
    """An archive to be written anew. ``attributes`` are the root's, less the commit record."""

    record: dict[str, Any]
    attributes: dict[str, Any]
    groups: dict[str, dict[str, Any]]
    arrays: dict[str, Array]

    def read(self, path: str, box: Box) -> np.ndarray:
        """Values within a box."""
        ...


class ArchiveContent:
    """The content of an archive, or of the part of it that a selection keeps. The manifest is no content."""

    def __init__(self, source: Source, selection: Selection | None = None) -> None:
        self._source = source
        self._taken = Selection() if selection is None else selection
        nodes = {path: node for path, node in source.nodes.items() if not self._taken.drops(path)}
        self.record = {**source.record, "rows": self._taken.rows(source.record["rows"])}
        root = {name: value for name, value in source.attributes.items() if name != "tracer"}
        self.attributes = root | self._taken.attributes.get("", {})
        self.groups = {
            path: node["attributes"] | self._taken.attributes.get(path, {})
            for path, node in nodes.items()
            if node["node_type"] == "group"
        }
        self.arrays = {
            path: self._array(path, node)
            for path, node in nodes.items()
            if node["node_type"] == "array" and path != MANIFEST
        }

    def _array(self, path: str, node: Mapping[str, Any]) -> Array:
        kind = node["data_type"]
        if not isinstance(kind, str) or kind == "string":
            raise ArchiveError(
                f"array {path!r} of {self._source.path!r} is of type {str(kind)[:40]!r}, which this release "
                "cannot copy; use another release of tracer"
            )
        shape = tuple(
            len(self._taken.axes[path][axis]) if axis in self._taken.axes.get(path, {}) else size
            for axis, size in enumerate(node["shape"])
        )
        dims = tuple(node["dimension_names"])
        return Array(np.dtype(kind).newbyteorder("<"), dims, shape, node["attributes"])

    def read(self, path: str, box: Box) -> np.ndarray:
        """Values within a box of what is kept."""
        axes = self._taken.axes.get(path)
        if not axes:
            return self._source.read(path, box)
        runs = [
            _runs(axes[axis][part]) if axis in axes else [(part.start, part.stop)]
            for axis, part in enumerate(box)
        ]
        out = np.empty([sum(b - a for a, b in pieces) for pieces in runs], self.arrays[path].dtype)
        for pieces in product(*(_placed(pieces) for pieces in runs)):
            target = tuple(slice(at, at + b - a) for at, (a, b) in pieces)
            out[target] = self._source.read(path, tuple(slice(a, b) for _, (a, b) in pieces))
        return out


def boxes(shape: Sequence[int], itemsize: int, limit: int = _BOX) -> Iterator[Box]:
    """Cut an array into boxes of at most about ``limit`` bytes, in C order.

    >>> [box[0] for box in boxes((5, 4), 8, 64)]
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    if not prod(shape):
        return
    steps = []
    for axis, size in enumerate(shape):
        rest = prod(shape[axis + 1 :]) * itemsize
        steps.append(min(size, max(1, limit // max(1, rest))))
    counts = [range(ceil(size / step)) for size, step in zip(shape, steps, strict=True)]
    for numbers in product(*counts):
        yield tuple(
            slice(n * step, min(size, (n + 1) * step))
            for n, step, size in zip(numbers, steps, shape, strict=True)
        )


def difference(one: Content, other: Content) -> str | None:
    """The first thing in which two contents differ, bit for bit; None if they are equal.

    Commit numbers and digests may differ, and what the card says of packing.
    """
    for name in ("run_id", "state", "rows", "committed_step"):
        if one.record[name] != other.record[name]:
            return f"{name} of the commit record"
    if _without(one.attributes) != _without(other.attributes):
        return "the attributes of the root"
    for path in one.groups.keys() | other.groups.keys():
        if path != "manifest" and one.groups.get(path) != other.groups.get(path):
            return f"the attributes of group {path!r}"
    for path in sorted(one.arrays.keys() | other.arrays.keys()):
        if one.arrays.get(path) != other.arrays.get(path):
            return f"the shape, type or attributes of {path!r}"
        for box in boxes(one.arrays[path].shape, one.arrays[path].dtype.itemsize):
            mine, theirs = one.read(path, box), other.read(path, box)
            if np.ascontiguousarray(mine).tobytes() != np.ascontiguousarray(theirs).tobytes():
                return f"the values of {path!r}"
    return None


def _without(attributes: Mapping[str, Any]) -> dict[str, Any]:
    card = {name: value for name, value in attributes.get("card", {}).items() if name != "packed"}
    return {**attributes, "card": card}


def _runs(indices: np.ndarray) -> list[tuple[int, int]]:
    """Consecutive numbers as ranges.

    >>> _runs(np.array([0, 1, 2, 5, 7, 8]))
    [(0, 3), (5, 6), (7, 9)]
    """
    if not len(indices):
        return []
    parts = np.split(indices, np.flatnonzero(np.diff(indices) != 1) + 1)
    return [(int(part[0]), int(part[-1]) + 1) for part in parts]


def _placed(pieces: list[tuple[int, int]]) -> list[tuple[int, tuple[int, int]]]:
    placed, at = [], 0
    for start, stop in pieces:
        placed.append((at, (start, stop)))
        at += stop - start
    return placed
