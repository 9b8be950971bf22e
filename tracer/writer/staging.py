"""Reused buffers between the training thread and the writing thread, with back-pressure by bytes."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Protocol

import numpy as np


class Arrival(Protocol):
    """When arrays on their way from elsewhere may be read, and that they have been."""

    def wait(self) -> None:
        """Return once they are there."""

    def release(self) -> None:
        """Say that they were read; their memory may be used again."""


def _pageable(size: int) -> np.ndarray:
    return np.empty(size, np.uint8)


class Staging:
    """Buffers handed out by one thread and given back by another.

    All bookkeeping belongs to the thread that takes; the other one only puts into a queue, so neither ever
    waits for a lock of the other, not even in a signal handler. ``limit`` is a cap in bytes on what is handed
    out together; a single larger request is still accepted when nothing else is out. ``allocate`` makes a new
    buffer of so many bytes, uint8.
    """

    def __init__(self, limit: int, allocate: Callable[[int], np.ndarray] = _pageable) -> None:
        self.limit = limit
        self._allocate = allocate
        self._free: dict[int, list[np.ndarray]] = defaultdict(list)
        self._returned: SimpleQueue[np.ndarray] = SimpleQueue()
        self._out = 0
        self._held = 0

    def take(self, sizes: Sequence[int]) -> list[np.ndarray]:
        """Buffers of so many bytes each, waiting while too much is out.

        They are taken together: one that waited for another of the same snapshot would wait forever.
        """
        total = sum(sizes)
        while not self._returned.empty():
            self._take_back()
        while self._out and self._out + total > self.limit:
            self._take_back()
        buffers = []
        for size in sizes:
            buffers.append(self._free[size].pop() if self._free[size] else self._fresh(size))
            self._out += size
        return buffers

    def copies(self, *arrays: np.ndarray | Sequence[np.ndarray]) -> list[np.ndarray]:
        """Contiguous little-endian copies in reused buffers, waiting while too much is out.

        Flat arrays in a sequence are laid end to end.
        """
        parts = [[array] if isinstance(array, np.ndarray) else array for array in arrays]
        buffers = self.take([sum(part.nbytes for part in together) for together in parts])
        copied = []
        for array, together, buffer in zip(arrays, parts, buffers, strict=True):
            copied.append(buffer.view(together[0].dtype.newbyteorder("<")))
            if isinstance(array, np.ndarray):
                copied[-1] = copied[-1].reshape(array.shape)
                np.copyto(copied[-1], array)
            else:
                np.concatenate(array, out=copied[-1])
        return copied

    def copy(self, array: np.ndarray) -> np.ndarray:
        """Return such a copy of one array."""
        return self.copies(array)[0]

    def give_back(self, *staged: np.ndarray) -> None:
        """Return buffers, from any thread."""
        for array in staged:
            self._returned.put(array.reshape(-1).view(np.uint8))

    def _fresh(self, size: int) -> np.ndarray:
        if self._held + size > self.limit:  # buffers of other sizes would add up beyond the limit
            self._free.clear()
            self._held = self._out
        self._held += size
        return self._allocate(size)

    def _take_back(self) -> None:
        buffer = self._returned.get()
        self._out -= buffer.nbytes
        self._free[buffer.nbytes].append(buffer)
