"""Arrays that grow row by row: the object still being filled is kept in memory and rewritten at commits."""

from collections.abc import Iterator

import google_crc32c
import numpy as np

from tracer.spec import fill_scalar
from tracer.store.layout import as_bytes, plan_tail


class Column:
    """One growing column, in objects of ``rows`` rows, each cut in inner chunks of ``inner`` rows.

    The last full object stays open until a row follows it, because the last row may still be amended.
    """

    def __init__(self, dtype: np.dtype, width: tuple[int, ...], rows: int, inner: int, n: int = 0) -> None:
        self.layout = plan_tail((rows, *width), inner, dtype)
        self.n = 0
        self.number = 0
        self.dirty = False
        self._full: list[tuple[int, np.ndarray]] = []
        self.tail = self._blank()
        if n:  # joined late: the rows before are undefined
            self.extend(np.full((n, *width), fill_scalar(dtype), dtype))

    @property
    def filled(self) -> int:
        """Rows in the tail."""
        return self.n - self.number * len(self.tail)

    def extend(self, values: np.ndarray) -> None:
        """Append rows."""
        while len(values):
            if self.filled == len(self.tail):
                self._full.append((self.number, self.tail))
                self.number, self.tail = self.number + 1, self._blank()
            taken = values[: len(self.tail) - self.filled]
            self.tail[self.filled : self.filled + len(taken)] = taken
            self.n += len(taken)
            self.dirty = True
            values = values[len(taken) :]

    @property
    def last(self) -> object:
        """Value of the last row, None if there is none."""
        return self.tail[self.filled - 1] if self.n else None

    def amend_last(self, value: object) -> None:
        """Set the last row."""
        self.tail[self.filled - 1] = value
        self.dirty = True

    def sealed(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (number, values) of the objects that became full and will not change again."""
        while self._full:
            yield self._full[0]
            self._full.pop(0)  # only once it is written: a write that failed may be tried again

    def write_tail(self, fd: int) -> None:
        """Write the object still being filled."""
        self.layout.write(fd, as_bytes(self.tail), self.filled)

    def checksum(self) -> int:
        """CRC-32C of the filled rows of the tail."""
        return google_crc32c.value(as_bytes(self.tail[: self.filled]))

    def _blank(self) -> np.ndarray:
        return np.full(self.layout.shape, fill_scalar(self.layout.dtype), self.layout.dtype)
