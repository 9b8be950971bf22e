"""Reading chunks and shards directly: compressed or not, from any store, the latest decoded ones kept.

In a packed archive an inner chunk holds many snapshots, usually read one after another. Zarr decodes it for
each of them; here it is decoded once.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from itertools import product
from math import prod
from typing import Any

import google_crc32c
import numpy as np

from tracer.store.layout import ABSENT, ArrayLayout
from tracer.store.store import Store, lost

CACHE = 128 << 20  # bytes of decoded chunks that are kept
_GAP, _RUN = 1 << 16, 32 << 20  # inner chunks this near are fetched together, up to so many bytes
_FAR = 2**62  # bytes, beyond any object
# Bytes that an object may have to be read at once: elsewhere a request costs more than these.
_SMALL = 1 << 19

Range = tuple[int, int]


def decode(layout: ArrayLayout, data: np.ndarray) -> np.ndarray:
    """Values of an inner chunk. ValueError if its checksum or size is wrong."""
    if _crc(data[:-4]) != data[-4:].tobytes():
        raise ValueError("a checksum does not match")
    assert layout.dtype is not None
    if layout.compressors:
        values = np.empty(prod(layout.piece), layout.dtype)
        _decompress(layout.compressors[0], data[:-4], values.view(np.uint8))
    else:
        values = np.frombuffer(data[:-4], layout.dtype)
    if layout.order is None:
        return values.reshape(layout.piece)
    turned = values.reshape([layout.piece[axis] for axis in layout.order]).transpose(np.argsort(layout.order))
    return np.ascontiguousarray(turned)


def _decompress(name: str | None, data: np.ndarray, into: np.ndarray) -> None:
    from numcodecs import blosc, zstd

    from tracer.store.decoders import _zstd_size

    if name == "zstd":
        size = _zstd_size(data[:18].tobytes())
    else:  # the header of blosc: bytes 4 to 8 are the size of the values, 12 to 16 that of the data
        header = data[:16].tobytes()
        whole = len(header) == 16 and int.from_bytes(header[12:], "little") == len(data)
        size = int.from_bytes(header[4:8], "little") if whole else None
    if size != len(into):  # before anything is decompressed: the bytes may come from anywhere
        raise ValueError(f"an inner chunk holds {size} bytes instead of {len(into)}")
    {"zstd": zstd, "blosc": blosc}[str(name)].decompress(data, into)


class Chunks:
    """Arrays of one store, read by inner chunks; at most ``limit`` bytes of decoded ones are kept."""

    def __init__(self, store: Store, limit: int = CACHE) -> None:
        self._store = store
        self._limit = limit
        self._size = 0
        self._kept: OrderedDict[tuple[str, int], np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, layout: ArrayLayout, selection: Any) -> np.ndarray | None:
        """Return a part of an array; None if its layout or the selection is left to zarr.

        Errors: ArchiveError for a lost object, ValueError for a damaged one.
        """
        box = box_of(selection, layout.shape) if layout.is_native else None
        if box is None:
            return None
        assert layout.dtype is not None
        ranges, whole = box
        out = np.empty([stop - start for start, stop in ranges], layout.dtype)
        if out.size:
            for numbers, wanted in _by_object(layout, ranges):
                for at, values in self._inner_chunks(layout.key(numbers), layout, wanted):
                    origin = [
                        (n * outer + k) * size
                        for n, outer, k, size in zip(
                            numbers, layout.per_object, at, layout.piece, strict=True
                        )
                    ]
                    _copy(values, origin, out, ranges)
        native = out.astype(layout.dtype.newbyteorder("="), copy=False)
        return native[tuple(slice(None) if kept else 0 for kept in whole)]

    def _inner_chunks(
        self, key: str, layout: ArrayLayout, wanted: list[tuple[int, ...]]
    ) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
        """Yield the place within the object, and the values, of each inner chunk wanted."""
        numbers = {int(np.ravel_multi_index(at, layout.per_object)) if at else 0: at for at in wanted}
        missing = []
        for number, at in numbers.items():
            values = self._known(key, number)
            if values is None:
                missing.append(number)
            else:
                yield at, values
        if not missing:
            return
        if layout.inner is None:
            yield numbers[0], self._keep(key, 0, decode(layout, self._fetch(key, 0, layout.most_bytes)))
            return
        whole = self._whole(key, layout)
        index = self._index(key, prod(layout.per_object), whole)
        # A large snapshot as recorded is read once, and again as fast as from here.
        once = layout.raw and layout.piece[:1] == (1,) and self._store.folder is not None
        for run in _runs([(*index[number].tolist(), number) for number in missing], layout.most_bytes):
            start, stop = run[0][0], run[-1][0] + run[-1][1]
            data = self._fetch(key, start, stop) if whole is None else whole[start:stop]
            if len(data) != stop - start:
                raise ValueError("an object ends before its inner chunks do")
            for offset, nbytes, number in run:
                values = decode(layout, data[offset - start : offset - start + nbytes])
                yield numbers[number], values if once else self._keep(key, number, values)

    def _whole(self, key: str, layout: ArrayLayout) -> np.ndarray | None:
        """All of an object, by one request; None for one that may be large, or is larger than it may be."""
        most = prod(layout.per_object) * (layout.most_bytes + 16) + 4
        if most > _SMALL:
            return None
        data = self._known(key, -2)
        if data is None:
            data = self._keep(key, -2, self._fetch(key, 0, most + 1))
        return data if len(data) <= most else None

    def _index(self, key: str, n: int, whole: np.ndarray | None) -> np.ndarray:
        index = self._known(key, -1)
        if index is None:
            data = self._fetch(key, -(16 * n + 4)) if whole is None else whole[-(16 * n + 4) :]
            if len(data) != 16 * n + 4 or _crc(data[:-4]) != data[-4:].tobytes():
                raise ValueError(f"the index of {key!r} is damaged")
            index = self._keep(key, -1, np.frombuffer(data[:-4], "<u8").reshape(n, 2))
        return index

    def _fetch(self, key: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        try:
            return np.frombuffer(self._store.read(key, start, stop), np.uint8)
        except FileNotFoundError:
            raise lost(key) from None

    def _known(self, key: str, number: int) -> np.ndarray | None:
        with self._lock:
            cached = self._kept.get((key, number))
            if cached is not None:
                self._kept.move_to_end((key, number))
            return cached

    def _keep(self, key: str, number: int, values: np.ndarray) -> np.ndarray:
        with self._lock:
            if (key, number) not in self._kept:
                self._kept[key, number] = values
                self._size += values.nbytes
                while self._size > self._limit and len(self._kept) > 1:
                    self._size -= self._kept.popitem(last=False)[1].nbytes
        return values


def box_of(selection: Any, shape: tuple[int, ...]) -> tuple[list[Range], list[bool]] | None:
    """Range of each axis, and whether the axis stays; None for anything but integers and plain slices.

    >>> box_of((2, slice(1, None)), (4, 3, 5))
    ([(2, 3), (1, 3), (0, 5)], [False, True, True])
    """
    parts = selection if isinstance(selection, tuple) else (selection,)
    if len(parts) > len(shape):
        return None
    ranges: list[Range] = []
    for part, size in zip(parts, shape, strict=False):
        if isinstance(part, slice) and part.step in (None, 1):
            start, stop, _ = part.indices(size)
            ranges.append((start, max(start, stop)))
        elif isinstance(part, int | np.integer) and -size <= part < size:
            ranges.append((int(part) % size, int(part) % size + 1))
        else:
            return None
    ranges += [(0, size) for size in shape[len(parts) :]]
    return ranges, [isinstance(part, slice) for part in parts] + [True] * (len(shape) - len(parts))


def _by_object(
    layout: ArrayLayout, ranges: list[Range]
) -> Iterator[tuple[tuple[int, ...], list[tuple[int, ...]]]]:
    """Each object that a box touches, with the places of the inner chunks within it."""
    for numbers in product(
        *(range(a // c, -(-b // c)) for (a, b), c in zip(ranges, layout.chunk, strict=True))
    ):
        places = []
        for number, outer, inner, (a, b) in zip(numbers, layout.chunk, layout.piece, ranges, strict=True):
            start, stop = (
                max(a, number * outer) - number * outer,
                min(b, (number + 1) * outer) - number * outer,
            )
            places.append(range(start // inner, -(-stop // inner)))
        yield numbers, list(product(*places))


def _copy(values: np.ndarray, origin: list[int], out: np.ndarray, ranges: list[Range]) -> None:
    source, target = [], []
    for start, size, (a, b) in zip(origin, values.shape, ranges, strict=True):
        low, high = max(a, start), min(b, start + size)
        source.append(slice(low - start, high - start))
        target.append(slice(low - a, high - a))
    out[tuple(target)] = values[tuple(source)]


def _runs(pieces: list[tuple[int, int, int]], most: int) -> Iterator[list[tuple[int, int, int]]]:
    """Group (offset, nbytes, number), of at most so many bytes each, into runs worth one request each."""
    if any(offset == ABSENT for offset, _, _ in pieces):
        raise ValueError("an inner chunk is missing")
    if any(nbytes > most or offset > _FAR for offset, nbytes, _ in pieces):
        raise ValueError("the index of an object points outside it")
    run: list[tuple[int, int, int]] = []
    for piece in sorted(pieces):
        if run and (piece[0] - sum(run[-1][:2]) > _GAP or sum(piece[:2]) - run[0][0] > _RUN):
            yield run
            run = []
        run.append(piece)
    yield run


def _crc(data: np.ndarray) -> bytes:
    return google_crc32c.value(data).to_bytes(4, "little")
