"""One object of an archive checked by itself: its length, its index, and every checksum within it.

This reads what Zarr v3 calls a chunk or a shard, whatever compressed it, from the checksums alone.
"""

from collections.abc import Callable
from math import prod

import google_crc32c
import numpy as np

from tracer.store.layout import ABSENT, ArrayLayout

Read = Callable[[int, int], bytes]
_PIECE = 1 << 20


def check(read: Read, size: int, layout: ArrayLayout) -> int:
    """Check an object and return its checksum as the manifest has it. ValueError says what is wrong."""
    if layout.inner is None:
        if layout.inner_bytes not in (None, size - 4):
            raise ValueError(f"it has {size} bytes instead of {layout.inner_bytes + 4}")
        return _summed(read, 0, size)
    total = 0
    for start, stop in index(read, size, layout):
        total = google_crc32c.extend(total, _summed(read, start, stop).to_bytes(4, "little"))
    return total


def index(read: Read, size: int, layout: ArrayLayout) -> list[tuple[int, int]]:
    """Byte ranges of the inner chunks of a shard that are there, in order. ValueError for a wrong index."""
    n = prod(layout.per_object)
    data = size - 16 * n - 4
    if data < 0:
        raise ValueError(f"it has {size} bytes, fewer than its index takes")
    table = read(data, size)
    _compare(google_crc32c.value(table[:-4]), table[-4:], "of its index")
    entries = np.frombuffer(table[:-4], "<u8").reshape(n, 2)
    ranges = [(int(a), int(a) + int(b)) for a, b in entries.tolist() if a != ABSENT]
    at = 0
    for start, stop in sorted(ranges):
        if start != at or (layout.inner_bytes is not None and stop - start != layout.inner_bytes + 4):
            raise ValueError(f"its index is wrong: an inner chunk at {start} to {stop}")
        at = stop
    if at != data:
        raise ValueError(f"its inner chunks end at byte {at} instead of {data}")
    return ranges


def values(read: Read, size: int, layout: ArrayLayout) -> np.ndarray:
    """The first rows of an uncompressed object: those in inner chunks cut along the first axis, or all.

    ValueError for damage, or where values are compressed.
    """
    if not layout.raw or layout.dtype is None:
        raise ValueError("its values are compressed")
    check(read, size, layout)
    if layout.inner is None:
        return np.frombuffer(read(0, size - 4), layout.dtype).reshape(layout.chunk)
    if layout.inner[1:] != layout.chunk[1:]:
        raise ValueError("its inner chunks are not whole rows")
    parts = [np.frombuffer(read(a, b - 4), layout.dtype) for a, b in index(read, size, layout)]
    flat = np.concatenate([np.empty(0, layout.dtype), *parts])
    return flat.reshape(-1, *layout.chunk[1:])


def first_values(read: Read, size: int, layout: ArrayLayout) -> np.ndarray:
    """The first rows of an uncompressed object that are sound. Never raises for damage."""
    whole = np.empty((0, *layout.chunk[1:]), layout.dtype)
    if not layout.raw or layout.dtype is None:
        return whole
    if layout.inner is None:
        try:
            return values(read, size, layout)
        except ValueError:
            return whole
    if layout.inner[1:] != layout.chunk[1:]:
        return whole
    try:
        ranges = index(read, size, layout)
    except ValueError:  # a torn end: recordings put inner chunks one after another
        assert layout.inner_bytes is not None
        length = layout.inner_bytes + 4
        ranges = [(start, start + length) for start in range(0, size - length + 1, length)][
            : prod(layout.per_object)
        ]
    parts = [whole]
    for start, stop in ranges:
        try:
            _summed(read, start, stop)
        except ValueError:
            break
        parts.append(np.frombuffer(read(start, stop - 4), layout.dtype).reshape(-1, *layout.chunk[1:]))
    return np.concatenate(parts)


def _summed(read: Read, start: int, stop: int) -> int:
    """CRC-32C of a range whose last four bytes hold it."""
    if stop - start < 4:
        raise ValueError(f"{stop - start} bytes hold no checksum")
    crc = 0
    for at in range(start, stop - 4, _PIECE):
        crc = google_crc32c.extend(crc, read(at, min(at + _PIECE, stop - 4)))
    _compare(crc, read(stop - 4, stop), f"of bytes {start} to {stop - 4}")
    return crc


def _compare(crc: int, stored: bytes, what: str) -> None:
    if crc.to_bytes(4, "little") != stored:
        raise ValueError(f"the checksum {what} does not match")
