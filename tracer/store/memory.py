"""Memory for large values, used again once nothing refers to it: fresh memory costs as much as reading into it."""

import threading
import weakref

import numpy as np

SMALLEST = 1 << 20  # bytes; the C library keeps what is smaller by itself
LIMIT = 128 << 20  # bytes kept for later


class Recycled:
    """Hands out uninitialised bytes; those of an array that is gone, with all its views, are handed out again.

    At most `limit` bytes are kept meanwhile.
    """

    def __init__(self, smallest: int = SMALLEST, limit: int = LIMIT) -> None:
        self._smallest, self._limit = smallest, limit
        self._free: list[np.ndarray] = []
        self._lock = threading.RLock()  # an array may go, and come back here, while the lock is held

    def take(self, nbytes: int) -> np.ndarray:
        """Return a flat array of so many bytes, their values undefined."""
        if nbytes < self._smallest:
            return np.empty(nbytes, np.uint8)
        memory = self._fitting(nbytes)
        values = np.frombuffer(memory.data, np.uint8, nbytes)  # what all views of it refer to
        weakref.finalize(values, self._return, memory).atexit = False
        return values

    def _fitting(self, nbytes: int) -> np.ndarray:
        with self._lock:
            for number in reversed(range(len(self._free))):  # the latest may still be in the cache
                if nbytes <= self._free[number].nbytes <= 2 * nbytes:
                    return self._free.pop(number)
        return np.empty(nbytes, np.uint8)

    def _return(self, memory: np.ndarray) -> None:
        with self._lock:
            self._free.append(memory)
            while sum(buffer.nbytes for buffer in self._free) > self._limit:
                self._free.pop(0)


RECYCLED = Recycled()
