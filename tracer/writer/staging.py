"""Reused buffers between the training thread and the writing thread, with back-pressure by bytes."""

from collections import defaultdict
from queue import SimpleQueue

import numpy as np


class Staging:
    """Buffers handed out by one thread and given back by another.

    All bookkeeping belongs to the thread that takes; the other one only puts into a queue, so neither ever
    waits for a lock of the other, not even in a signal handler. ``limit`` is a cap in bytes on what is handed
    out together; a single larger array is still accepted when nothing else is out.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._free: dict[int, list[np.ndarray]] = defaultdict(list)
        self._returned: SimpleQueue[np.ndarray] = SimpleQueue()
        self._out = 0
        self._held = 0

    def copy(self, array: np.ndarray) -> np.ndarray:
        """Return a contiguous little-endian copy in a reused buffer, waiting while too much is out."""
        size = array.nbytes
        while not self._returned.empty():
            self._take_back()
        while self._out and self._out + size > self.limit:
            self._take_back()
        buffer = self._free[size].pop() if self._free[size] else self._fresh(size)
        self._out += size
        staged = buffer.view(array.dtype.newbyteorder("<")).reshape(array.shape)
        np.copyto(staged, array)
        return staged

    def give_back(self, *staged: np.ndarray) -> None:
        """Return buffers, from any thread."""
        for array in staged:
            self._returned.put(array.reshape(-1).view(np.uint8))

    def _fresh(self, size: int) -> np.ndarray:
        if self._held + size > self.limit:  # buffers of other sizes would add up beyond the limit
            self._free.clear()
            self._held = self._out
        self._held += size
        return np.empty(size, np.uint8)

    def _take_back(self) -> None:
        buffer = self._returned.get()
        self._out -= buffer.nbytes
        self._free[buffer.nbytes].append(buffer)
