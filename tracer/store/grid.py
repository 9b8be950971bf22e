"""One object of an archive checked by itself: its length, its index, and every checksum within it.

This reads what Zarr v3 calls a chunk or a shard, whatever compressed it, from the checksums alone.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod
from typing import Any

import google_crc32c
import numpy as np

Read = Callable[[int, int], bytes]
_PIECE = 1 << 20
_ABSENT = 2**64 - 1


@dataclass(frozen=True)
class Grid:
    """How an array is cut into objects, from its document."""

    path: str
    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    inner: tuple[int, ...] | None
    dtype: np.dtype | None
    raw: bool
    start: str
    separator: str

    @classmethod
    def of(cls, path: str, node: Mapping[str, Any]) -> "Grid":
        """The grid of the array at a path."""
        codecs = node["codecs"]
        inner = None
        if codecs[0]["name"] == "sharding_indexed":
            inner = tuple(codecs[0]["configuration"]["chunk_shape"])
            codecs = codecs[0]["configuration"]["codecs"]
        known = isinstance(node["data_type"], str) and node["data_type"] != "string"
        encoding = node["chunk_key_encoding"]
        version = encoding["name"] == "v2"
        separator = encoding.get("configuration", {}).get("separator", "." if version else "/")
        return cls(
            path,
            tuple(node["shape"]),
            tuple(node["chunk_grid"]["configuration"]["chunk_shape"]),
            inner,
            np.dtype(node["data_type"]).newbyteorder("<") if known else None,
            [codec["name"] for codec in codecs] == ["bytes", "crc32c"],
            "" if version else "c",
            separator,
        )

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Objects along each axis."""
        return tuple(-(-size // step) for size, step in zip(self.shape, self.chunk, strict=True))

    @property
    def n(self) -> int:
        """Number of objects."""
        return prod(self.counts)

    def key(self, numbers: tuple[int, ...]) -> str:
        """File of an object."""
        name = self.separator.join([*([self.start] if self.start else []), *map(str, numbers)])
        return f"{self.path}/{name or '0'}"

    def keys(self) -> Iterator[tuple[tuple[int, ...], str]]:
        """Every object: its numbers and its file."""
        for numbers in product(*map(range, self.counts)):
            yield numbers, self.key(numbers)

    @property
    def inner_bytes(self) -> int | None:
        """Bytes of what one checksum covers, without it; None where values are compressed."""
        if not self.raw or self.dtype is None:
            return None
        return prod(self.inner or self.chunk) * self.dtype.itemsize


def check(read: Read, size: int, grid: Grid) -> int:
    """Check an object and return its checksum as the manifest has it. ValueError says what is wrong."""
    if grid.inner is None:
        if grid.inner_bytes not in (None, size - 4):
            raise ValueError(f"it has {size} bytes instead of {grid.inner_bytes + 4}")
        return _summed(read, 0, size)
    total = 0
    for start, stop in index(read, size, grid):
        total = google_crc32c.extend(total, _summed(read, start, stop).to_bytes(4, "little"))
    return total


def index(read: Read, size: int, grid: Grid) -> list[tuple[int, int]]:
    """Byte ranges of the inner chunks of a shard that are there, in order. ValueError for a wrong index."""
    n = _n_inner(grid)
    data = size - 16 * n - 4
    if data < 0:
        raise ValueError(f"it has {size} bytes, fewer than its index takes")
    table = read(data, size)
    _compare(google_crc32c.value(table[:-4]), table[-4:], "of its index")
    entries = np.frombuffer(table[:-4], "<u8").reshape(n, 2)
    ranges = [(int(a), int(a) + int(b)) for a, b in entries.tolist() if a != _ABSENT]
    at = 0
    for start, stop in sorted(ranges):
        if start != at or (grid.inner_bytes is not None and stop - start != grid.inner_bytes + 4):
            raise ValueError(f"its index is wrong: an inner chunk at {start} to {stop}")
        at = stop
    if at != data:
        raise ValueError(f"its inner chunks end at byte {at} instead of {data}")
    return ranges


def values(read: Read, size: int, grid: Grid) -> np.ndarray:
    """The first rows of an uncompressed object: those in inner chunks cut along the first axis, or all.

    ValueError for damage, or where values are compressed.
    """
    if not grid.raw or grid.dtype is None:
        raise ValueError("its values are compressed")
    check(read, size, grid)
    if grid.inner is None:
        return np.frombuffer(read(0, size - 4), grid.dtype).reshape(grid.chunk)
    if grid.inner[1:] != grid.chunk[1:]:
        raise ValueError("its inner chunks are not whole rows")
    parts = [np.frombuffer(read(a, b - 4), grid.dtype) for a, b in index(read, size, grid)]
    flat = np.concatenate([np.empty(0, grid.dtype), *parts])
    return flat.reshape(-1, *grid.chunk[1:])


def first_values(read: Read, size: int, grid: Grid) -> np.ndarray:
    """The first rows of an uncompressed object that are sound. Never raises for damage."""
    whole = np.empty((0, *grid.chunk[1:]), grid.dtype)
    if not grid.raw or grid.dtype is None:
        return whole
    if grid.inner is None:
        try:
            return values(read, size, grid)
        except ValueError:
            return whole
    if grid.inner[1:] != grid.chunk[1:]:
        return whole
    try:
        ranges = index(read, size, grid)
    except ValueError:  # a torn end: recordings put inner chunks one after another
        assert grid.inner_bytes is not None
        length = grid.inner_bytes + 4
        ranges = [(start, start + length) for start in range(0, size - length + 1, length)][: _n_inner(grid)]
    parts = [whole]
    for start, stop in ranges:
        try:
            _summed(read, start, stop)
        except ValueError:
            break
        parts.append(np.frombuffer(read(start, stop - 4), grid.dtype).reshape(-1, *grid.chunk[1:]))
    return np.concatenate(parts)


def _n_inner(grid: Grid) -> int:
    assert grid.inner is not None
    return prod(outer // inner for outer, inner in zip(grid.chunk, grid.inner, strict=True))


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
