"""Bands of a table in a file without a name, so that what reads them again does not make them again."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable

import numpy as np

LEAST_FREE = 1 << 30  # bytes of a disk that are left to others


def folder() -> str:
    """Where such files are: TMPDIR if it is set, else a folder for large ones, which is hardly ever in memory."""
    large = "/var/tmp"
    usual = "TMPDIR" in os.environ or not os.access(large, os.W_OK)
    return tempfile.gettempdir() if usual else large


class OnDisk:
    """`make`, reading what it made before from a file; made again where the disk has no room for it.

    make: of a snapshot by its position and rows, float64 values. The file goes with this, and with the process
    however that ends.
    """

    def __init__(self, make: Callable[[int, slice], np.ndarray]) -> None:
        self._make = make
        self._kept: dict[tuple[int, int, int], tuple[int, tuple[int, ...]]] = {}
        self._end = 0
        self.file = None
        with contextlib.suppress(OSError):  # there may be no folder to write into
            self._folder = folder()
            self.file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115
            weakref.finalize(self, self.file.close)

    def __call__(self, step: int, rows: slice) -> np.ndarray:
        """Rows at a snapshot."""
        at = (step, rows.start, rows.stop)
        if self.file is not None and at in self._kept:
            place, shape = self._kept[at]
            values = np.empty(shape)
            self.file.seek(place)
            if self.file.readinto(values.data) == values.nbytes:
                return values
        values = np.ascontiguousarray(self._make(step, rows), np.float64)
        with contextlib.suppress(OSError):  # full all the same
            if self.file is not None and shutil.disk_usage(self._folder).free > values.nbytes + LEAST_FREE:
                self.file.seek(self._end)
                if self.file.write(values.data) == values.nbytes:
                    self._kept[at] = self._end, values.shape
                    self._end += values.nbytes
        return values
