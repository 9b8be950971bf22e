"""Arrays that grow row by row: the object still being filled is kept in memory and rewritten at commits."""

from collections.abc import Callable, Iterator
from math import prod
from mmap import ACCESS_COPY, mmap

import google_crc32c
import numpy as np

from tracer.spec import fill_scalar
from tracer.store.layout import PIECE, as_bytes, plan_tail


class Column:
    """One growing column, in objects of ``rows`` rows, each cut in inner chunks of ``inner`` rows.

    The last full object stays open until a row follows it, because the last row may still be amended.
    """

    def __init__(self, dtype: np.dtype, width: tuple[int, ...], rows: int, inner: int, n: int = 0) -> None:
        self.layout = plan_tail((rows, *width), inner, dtype)
        self._inner = inner
        self.n = 0
        self.number = 0
        self.dirty = False
        self._crc, self._summed = 0, 0  # checksum of the first rows of the tail, and how many these are
        self._full: list[tuple[int, np.ndarray]] = []
        self.tail = self._blank()
        if n:  # joined late: the rows before are undefined
            self.extend(np.full((n, *width), fill_scalar(dtype), dtype))

    def beside(self, n: int) -> "Column":
        """Another one of the same dtype and the same objects, n rows of which are undefined."""
        rows, *width = self.layout.shape
        return Column(self.layout.dtype, tuple(width), rows, self._inner, n)

    @property
    def filled(self) -> int:
        """Rows in the tail."""
        return self.n - self.number * len(self.tail)

    def extend(self, values: np.ndarray) -> None:
        """Append rows."""
        while len(values):
            if self.filled == len(self.tail):
                self._full.append((self.number, self.tail))
                self._open(self.number + 1, self._blank())
            taken = values[: len(self.tail) - self.filled]
            self.tail[self.filled : self.filled + len(taken)] = taken
            self.n += len(taken)
            self._blank_rest()
            self.dirty = True
            values = values[len(taken) :]

    def load(self, n: int, values: np.ndarray) -> None:
        """Go on after n rows, the last of which, in one object, have these values."""
        self.n, self.number = n, max(0, n - 1) // len(self.tail)
        self.tail[: self.filled] = values[: self.filled]
        self._blank_rest()

    def cut(self, n: int, read: Callable[[int], np.ndarray]) -> None:
        """Take the last rows back; `read` gives the values of an object that was full and may be written."""
        number = max(0, n - 1) // len(self.tail)
        if number < self.number:
            waiting = dict(self._full)
            self._open(number, waiting[number] if number in waiting else np.array(read(number)))
            self._full = [(k, values) for k, values in self._full if k < number]
        self.dirty |= n != self.n
        self.n = n
        self._summed = 0
        self._blank_rest()

    @property
    def last(self) -> object:
        """Value of the last row, None if there is none."""
        return self.tail[self.filled - 1] if self.n else None

    def amend_last(self, value: object) -> None:
        """Set the last row."""
        self.tail[self.filled - 1] = value
        self.dirty = True
        self._summed = 0

    def sealed(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (number, values) of the objects that became full and will not change again."""
        while self._full:
            yield self._full[0]
            self._full.pop(0)  # only once it is written: a write that failed may be tried again

    def write_tail(self, fd: int) -> int:
        """Write the object still being filled; return its bytes."""
        return self.layout.write(fd, as_bytes(self.tail), self.filled)[0]

    def checksum(self) -> int:
        """CRC-32C of the filled rows of the tail."""
        new = as_bytes(self.tail[self._summed : self.filled])
        crc = self._crc if self._summed else 0
        for start in range(0, len(new), PIECE):
            crc = google_crc32c.extend(crc, new[start : start + PIECE])
        self._crc, self._summed = crc, self.filled
        return crc

    def _open(self, number: int, tail: np.ndarray) -> None:
        self.number, self.tail, self._summed = number, tail, 0

    def _blank_rest(self) -> None:
        """Fill the rest of the last inner chunk, which is written too."""
        end = -(-self.filled // self._inner) * self._inner
        self.tail[self.filled : end] = fill_scalar(self.layout.dtype)

    def _blank(self) -> np.ndarray:
        """Memory of the system's own, of which what no row was put into takes none and costs no search of the heap."""
        n = prod(self.layout.shape)
        memory = mmap(-1, max(1, n * self.layout.dtype.itemsize), access=ACCESS_COPY)
        return np.frombuffer(memory, self.layout.dtype, n).reshape(self.layout.shape)
