"""Reading chunks and shards directly: compressed or not, from any store, the latest decoded ones kept.

In a packed archive an inner chunk holds many snapshots, usually read one after another. Zarr decodes it for
each of them; here it is decoded once.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import google_crc32c
import numpy as np

from tracer.store.documents import object_key
from tracer.store.store import Store, lost

CACHE = 128 << 20  # bytes of decoded chunks that are kept
_GAP, _RUN = 1 << 16, 32 << 20  # inner chunks this near are fetched together, up to so many bytes
_ABSENT, _FAR = 2**64 - 1, 2**62
_LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}

Range = tuple[int, int]


@dataclass(frozen=True)
class Stored:
    """How an array is cut and encoded: objects of ``chunk``, each cut in inner chunks if it is a shard."""

    shape: tuple[int, ...]
    dtype: np.dtype
    chunk: tuple[int, ...]
    inner: tuple[int, ...]
    sharded: bool
    compressor: str | None
    order: tuple[int, ...] | None = None  # axes as they lie in an inner chunk, if not in C order

    @classmethod
    def of(cls, node: Mapping[str, Any]) -> "Stored | None":
        """The form of an array's document; None for one that is left to zarr."""
        codecs, chunk = node["codecs"], tuple(node["chunk_grid"]["configuration"]["chunk_shape"])
        inner, sharded = chunk, codecs[0]["name"] == "sharding_indexed"
        if sharded:
            settings = codecs[0]["configuration"]
            if len(codecs) > 1 or settings["index_codecs"] != [_LITTLE, {"name": "crc32c"}]:
                return None
            inner, codecs = tuple(settings["chunk_shape"]), settings["codecs"]
        order = None
        if codecs[0]["name"] == "transpose":
            order, codecs = tuple(codecs[0]["configuration"]["order"]), codecs[1:]
        names = [codec["name"] for codec in codecs]
        known = names[0] == "bytes" and names[-1] == "crc32c" and names[1:-1] in ([], ["zstd"], ["blosc"])
        little = codecs[0].get("configuration", {}).get("endian", "little") == "little"
        dots = node["chunk_key_encoding"] == {"name": "default", "configuration": {"separator": "."}}
        plain = isinstance(node["data_type"], str) and node["data_type"] != "string"
        if not (known and little and dots and plain):
            return None
        dtype = np.dtype(node["data_type"]).newbyteorder("<")
        compressor = names[1] if len(names) > 2 else None
        return cls(tuple(node["shape"]), dtype, chunk, inner, sharded, compressor, order)

    @property
    def per_object(self) -> tuple[int, ...]:
        """Inner chunks of an object along each axis."""
        return tuple(outer // inner for outer, inner in zip(self.chunk, self.inner, strict=True))

    def decode(self, data: np.ndarray) -> np.ndarray:
        """Values of an inner chunk. ValueError if its checksum or size is wrong."""
        if _crc(data[:-4]) != data[-4:].tobytes():
            raise ValueError("a checksum does not match")
        values = np.empty(prod(self.inner), self.dtype) if self.compressor else None
        if values is None:
            values = np.frombuffer(data[:-4], self.dtype)
        else:
            _decompress(self.compressor, data[:-4], values.view(np.uint8))
        if self.order is None:
            return values.reshape(self.inner)
        turned = values.reshape([self.inner[axis] for axis in self.order]).transpose(np.argsort(self.order))
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
    if size != len(into):  # before anything is decompressed: the bytes may come from a stranger
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
        self._forms: dict[str, Stored | None] = {}

    def read(self, path: str, node: Mapping[str, Any], selection: Any) -> np.ndarray | None:
        """Return a part of an array; None if its form or the selection is left to zarr.

        Errors: ArchiveError for a lost object, ValueError for a damaged one.
        """
        if path not in self._forms:
            self._forms[path] = Stored.of(node)
        form = self._forms[path]
        box = None if form is None else box_of(selection, form.shape)
        if form is None or box is None:
            return None
        ranges, whole = box
        out = np.empty([stop - start for start, stop in ranges], form.dtype)
        if out.size:
            for numbers, wanted in _by_object(form, ranges):
                for at, values in self._inner_chunks(object_key(path, *numbers), form, wanted):
                    origin = [
                        (n * outer + k) * size
                        for n, outer, k, size in zip(numbers, form.per_object, at, form.inner, strict=True)
                    ]
                    _copy(values, origin, out, ranges)
        native = out.astype(form.dtype.newbyteorder("="), copy=False)
        return native[tuple(slice(None) if kept else 0 for kept in whole)]

    def _inner_chunks(
        self, key: str, form: Stored, wanted: list[tuple[int, ...]]
    ) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
        """Yield the place within the object, and the values, of each inner chunk wanted."""
        numbers = {int(np.ravel_multi_index(at, form.per_object)) if at else 0: at for at in wanted}
        missing = []
        for number, at in numbers.items():
            values = self._known(key, number)
            if values is None:
                missing.append(number)
            else:
                yield at, values
        if not missing:
            return
        if not form.sharded:
            yield numbers[0], self._keep(key, 0, form.decode(self._fetch(key)))
            return
        index = self._index(key, prod(form.per_object))
        most = 2 * prod(form.inner) * form.dtype.itemsize + 4096  # no encoding makes more of an inner chunk
        for run in _runs([(*index[number].tolist(), number) for number in missing], most):
            start, stop = run[0][0], run[-1][0] + run[-1][1]
            data = self._fetch(key, start, stop)
            if len(data) != stop - start:
                raise ValueError("an object ends before its inner chunks do")
            for offset, nbytes, number in run:
                piece = data[offset - start : offset - start + nbytes]
                yield numbers[number], self._keep(key, number, form.decode(piece))

    def _index(self, key: str, n: int) -> np.ndarray:
        found = self._known(key, -1)
        if found is None:
            data = self._fetch(key, -(16 * n + 4))
            if len(data) != 16 * n + 4 or _crc(data[:-4]) != data[-4:].tobytes():
                raise ValueError(f"the index of {key!r} is damaged")
            found = self._keep(key, -1, np.frombuffer(data[:-4], "<u8").reshape(n, 2))
        return found

    def _fetch(self, key: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        try:
            return np.frombuffer(self._store.read(key, start, stop), np.uint8)
        except FileNotFoundError:
            raise lost(key) from None

    def _known(self, key: str, number: int) -> np.ndarray | None:
        with self._lock:
            found = self._kept.get((key, number))
            if found is not None:
                self._kept.move_to_end((key, number))
            return found

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


def _by_object(form: Stored, ranges: list[Range]) -> Iterator[tuple[tuple[int, ...], list[tuple[int, ...]]]]:
    """Each object that a box touches, with the places of the inner chunks within it."""
    for numbers in product(
        *(range(a // c, -(-b // c)) for (a, b), c in zip(ranges, form.chunk, strict=True))
    ):
        places = []
        for number, outer, inner, (a, b) in zip(numbers, form.chunk, form.inner, ranges, strict=True):
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
    if any(offset == _ABSENT for offset, _, _ in pieces):
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
