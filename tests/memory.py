"""How much memory work takes at most, as the system counts it: nothing of ours is asked."""

import ctypes
import gc
from pathlib import Path

import pytest

SLACK = 1.2  # of a limit: what allocators and libraries keep for themselves
MIB = 1 << 20

SEARCHES = (700, 10, 10)  # for garbage: Python's own, which tests otherwise have fewer of

# Of the C library: pieces of this size are given back as soon as they are free, and so is the end of its heap. By
# itself it keeps up to 64 MiB of what was freed, which is no memory in use.
_THRESHOLD, _TRIM, _BYTES = -3, -1, 1 << 18
_RESET = Path("/proc/self/clear_refs")
counted = pytest.mark.skipif(not _RESET.exists(), reason="this system does not say what was taken at most")


class Peak:
    """Most bytes that this process takes from `begin` on, above those it has then."""

    def begin(self) -> None:
        """Forget what was taken so far."""
        gc.set_threshold(*SEARCHES)
        gc.collect()
        library = ctypes.CDLL(None)
        for option in (_THRESHOLD, _TRIM):
            library.mallopt(option, _BYTES)
        library.malloc_trim(0)
        _RESET.write_text("5")
        self._before = _status("VmRSS")

    @property
    def taken(self) -> int:
        """The most by now."""
        return _status("VmHWM") - self._before


def _status(name: str) -> int:
    """Bytes of a line of the system's account of this process."""
    return int(Path("/proc/self/status").read_text().split(f"{name}:")[1].split()[0]) << 10
