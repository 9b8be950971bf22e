"""Which runs can be compared: along one hyper-parameter, given others, and within an environment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def condition_sets(n_axes: int, most: int = 2) -> list[tuple[int, ...]]:
    """Sets of at most `most` of the axes, the empty one first.

    >>> condition_sets(2)
    [(), (0,), (1,), (0, 1)]
    """
    return [chosen for size in range(most + 1) for chosen in combinations(range(n_axes), size)]


@dataclass(frozen=True)
class Part:
    """Pairs of runs that differ on one axis only, sorted by the group they are compared in."""

    axis: int
    pairs: NDArray[np.int64]  # (pair, 2)
    group: NDArray[np.int64]  # (pair,)
    n_groups: int


@dataclass(frozen=True)
class Design:
    """Which runs are comparable: along one hyper-parameter, given others, and within an environment."""

    labels: NDArray[np.int64]  # (axis, run)
    parts: tuple[Part, ...]
    pairs: NDArray[np.int64]  # (pair, 2)
    environment: NDArray[np.int64]  # (pair,)
    names: tuple[tuple[int, ...], ...]  # of each environment: see `of`
    conditions: tuple[
        tuple[NDArray[np.int64], ...], ...
    ]  # for each set of axes, groups of runs that share it

    @classmethod
    def of(cls, axes: Sequence[ArrayLike], n_runs: int, environments: ArrayLike | None = None) -> Design:
        """Design of labels (run,) of each axis; `environments` (run,) replaces the default environments.

        By default an environment is a change of one axis from one value to another, all other axes fixed; its
        name is the axis, the codes of both values, and those of every axis (-1 on the one that changes). With
        labels, an environment holds the pairs of runs of one label that differ on a single axis, or all its
        pairs where there are no axes; its name is the code of the label. A code is the place of a value among
        the sorted distinct values.

        >>> design = Design.of([[1, 1, 2, 2], ["a", "b", "a", "b"]], 4)
        >>> design.names
        ((0, 0, 1, -1, 0), (0, 0, 1, -1, 1), (1, 0, 1, 0, -1), (1, 0, 1, 1, -1))
        """
        labels = codes(axes, n_runs)
        parts = tuple(_part(labels, axis) for axis in range(len(labels)))
        if environments is None:
            pairs, keys = _changes(labels, parts)
        else:
            of_run = codes([environments], n_runs)[0]
            each = [part.pairs for part in parts] or [_all_pairs(n_runs)]
            pairs = np.concatenate(each)
            pairs = pairs[of_run[pairs[:, 0]] == of_run[pairs[:, 1]]]
            keys = of_run[pairs[:, :1]]
        names, where = np.unique(keys, axis=0, return_inverse=True)
        conditions = tuple(tuple(groups(labels[list(s)])) for s in condition_sets(len(labels)))
        return cls(
            labels, parts, pairs, where.reshape(-1), tuple(tuple(row) for row in names.tolist()), conditions
        )


def _part(labels: NDArray[np.int64], axis: int) -> Part:
    differing, where, number = [], [], 0
    for runs in groups(np.delete(labels, axis, 0)):
        pairs = runs[_all_pairs(len(runs))]
        pairs = pairs[labels[axis, pairs[:, 0]] != labels[axis, pairs[:, 1]]]
        if len(pairs):
            differing.append(pairs)
            where.append(np.full(len(pairs), number))
            number += 1
    none = np.empty((0, 2), np.int64)
    return Part(axis, np.concatenate([none, *differing]), np.concatenate([none[:, 0], *where]), number)


def _changes(labels: NDArray[np.int64], parts: Sequence[Part]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs that differ on one axis, and for each: the axis, its two values, and those of every axis else."""
    pairs = np.concatenate([np.empty((0, 2), np.int64), *(part.pairs for part in parts)])
    axis = np.repeat(np.array([part.axis for part in parts], np.int64), [len(part.pairs) for part in parts])
    first, second = labels[:, pairs[:, 0]], labels[:, pairs[:, 1]]
    changed = np.arange(len(labels))[:, None] == axis
    low, high = (np.where(changed, edge(first, second), 0).sum(0) for edge in (np.minimum, np.maximum))
    return pairs, np.stack([axis, low, high, *np.where(changed, -1, first)], 1)


def groups(labels: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Runs that agree on every row of labels (axis, run)."""
    _, where = (
        np.unique(labels, axis=1, return_inverse=True) if len(labels) else (0, np.zeros(labels.shape[1]))
    )
    where = np.asarray(where, np.int64).reshape(-1)
    return np.split(np.argsort(where, kind="stable"), np.cumsum(np.bincount(where))[:-1])


def codes(axes: Sequence[ArrayLike], n_runs: int) -> NDArray[np.int64]:
    """Number of each label among the sorted distinct labels of its axis: (axis, run)."""
    rows = []
    for labels in axes:
        values = list(np.asarray(labels, dtype=object))
        known = {label: k for k, label in enumerate(sorted(set(values), key=_sortable))}
        rows.append([known[label] for label in values])
    return np.array(rows, np.int64).reshape(len(rows), n_runs)


def _sortable(label: Any) -> tuple[int, Any]:
    number = isinstance(label, int | float | np.number) and not isinstance(label, bool)
    return (0, float(label)) if number else (1, str(label))


def _all_pairs(n: int) -> NDArray[np.int64]:
    return np.stack(np.triu_indices(n, 1), 1).astype(np.int64)
