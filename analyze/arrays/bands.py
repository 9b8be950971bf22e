"""Tables over pairs of examples that are larger than the memory: made, and handed over, some rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

BYTES = 8 << 20  # of a band, unless one row takes more


class Bands:
    """A table (step, layer, example, example_2), symmetric, of which a band of rows is in memory at a time.

    shape: of the table. diagonal: of a snapshot by its position, (layer, example). `bands` goes through it.
    """

    def __init__(
        self,
        shape: tuple[int, int, int, int],
        diagonal: Callable[[int], np.ndarray],
        make: Callable[[int, slice], np.ndarray],
    ) -> None:
        """diagonal: of a snapshot by its position, (layer, example). make: of that and rows, (layer, row, example)."""
        self.shape, self.diagonal = shape, diagonal
        self._make = make
        self._last: tuple[tuple[int, int], np.ndarray] | None = None

    def __len__(self) -> int:
        return self.shape[0]

    def band(self, step: int, rows: slice) -> np.ndarray:
        """Rows of the table at a snapshot, by its position: (layer, row, example), read-only."""
        at = (step, rows.start)
        if (
            self._last is None or self._last[0] != at
        ):  # what is derived from a table asks for the same rows next
            self._last = None
            made = self._make(step, rows)
            made.flags.writeable = False
            self._last = at, made
        return self._last[1]

    @property
    def rows(self) -> list[slice]:
        """The bands."""
        return cuts(self.shape[1], self.shape[-1])


Pairs: TypeAlias = "np.ndarray | Bands"


def band_rows(layers: int, n: int) -> int:
    """Rows of a band of a table of n examples."""
    return max(1, min(n, BYTES // max(1, 8 * layers * n)))


def cuts(layers: int, n: int) -> list[slice]:
    """The rows of each band of a table of n examples."""
    size = band_rows(layers, n)
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def rows_of(table: Pairs, step: int, rows: slice) -> np.ndarray:
    """Rows of a table over pairs at a snapshot, by its position: (layer, row, example)."""
    return table.band(step, rows) if isinstance(table, Bands) else table[step][:, rows]


def bands(table: Pairs, step: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Rows of a table over pairs at a snapshot, with their values (layer, row, example): all of them if it is an array.

    >>> [(rows, values.shape) for rows, values in bands(np.zeros((1, 2, 3, 3)), 0)]
    [(slice(0, 3, None), (2, 3, 3))]
    """
    if isinstance(table, Bands):
        for rows in table.rows:
            yield rows, table.band(step, rows)
    else:
        yield slice(0, table.shape[-1]), table[step]


def table(values: ArrayLike | Bands) -> Pairs:
    """A table over pairs as float64, unless it is made in bands."""
    return values if isinstance(values, Bands) else np.asarray(values, np.float64)


def diagonal(table: Pairs) -> np.ndarray:
    """The diagonal of a table over pairs: (step, layer, example).

    >>> diagonal(np.arange(4.0).reshape(1, 1, 2, 2)).tolist()
    [[[0.0, 3.0]]]
    """
    if isinstance(table, Bands):
        return np.stack([table.diagonal(step) for step in range(len(table))])
    return np.diagonal(table, axis1=-2, axis2=-1)


def pair_sums(table: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """Sums over all entries, and over their absolute values: (step, layer) each."""
    if not isinstance(table, Bands):
        return table.sum(axis=(-2, -1)), np.abs(table).sum(axis=(-2, -1))
    totals = np.zeros((2, *table.shape[:2]))
    for step in range(len(table)):
        for _, values in bands(table, step):
            totals[:, step] += values.sum((-2, -1)), np.abs(values).sum((-2, -1))
    return totals[0], totals[1]
