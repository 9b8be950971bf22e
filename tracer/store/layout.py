"""From array to file: how one object (a chunk or a shard of Zarr v3) is laid out, checksummed and written.

Small objects are one plain chunk: the values, then their CRC-32C. Larger ones are shards
(`sharding_indexed`): inner chunks of about 4 MiB each followed by its CRC-32C, then an index of (offset,
nbytes) and the CRC-32C of the index.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod
from typing import Any

import google_crc32c
import numpy as np

from tracer.spec import fill_scalar
from tracer.store.files import Buffer, write_all
from tracer.store.memory import RECYCLED

PIECE = 1 << 20  # checksums hold the interpreter lock, so no single call sees more than this
_PLAIN = 1 << 20  # objects up to here are one plain chunk
_SMALLEST, _TYPICAL, _LARGEST = 1 << 19, 1 << 22, 1 << 23  # bytes of an inner chunk


LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}
CRC = {"name": "crc32c"}
ABSENT = 2**64 - 1  # in the index of a shard: an inner chunk that was not written


@dataclass(frozen=True)
class ArrayLayout:
    """How a stored array is cut into objects and how their values are encoded, read once from its document.

    Objects of ``chunk`` are shards of inner chunks, or plain chunks where ``inner`` is None. dtype: little-endian as
    stored, None for text and other types that only zarr reads. order: axes as they lie in an inner chunk, where that
    is not C order. compressors: codecs between the values and their checksum.
    """

    path: str
    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    inner: tuple[int, ...] | None
    dtype: np.dtype | None
    order: tuple[int, ...] | None = None
    compressors: tuple[str, ...] = ()
    is_little: bool = True
    is_plain: bool = True  # checksums, indices and keys are as this release writes them
    start: str = "c"
    separator: str = "."

    @classmethod
    def of(cls, path: str, node: Mapping[str, Any]) -> "ArrayLayout":
        """The layout of the array at a path, whose document `validate` has let pass."""
        codecs, inner, is_plain = node["codecs"], None, True
        if codecs[0]["name"] == "sharding_indexed":
            settings = codecs[0]["configuration"]
            is_plain = len(codecs) == 1 and settings["index_codecs"] == [LITTLE, CRC]
            inner, codecs = tuple(settings["chunk_shape"]), settings["codecs"]
        order = None
        if codecs[0]["name"] == "transpose":
            order, codecs = tuple(codecs[0]["configuration"]["order"]), codecs[1:]
        names = [codec["name"] for codec in codecs]
        is_plain &= names[0] == "bytes" and names[-1] == "crc32c"
        encoding = node["chunk_key_encoding"]
        is_v2 = encoding["name"] == "v2"
        known = isinstance(node["data_type"], str) and node["data_type"] != "string"
        return cls(
            path,
            tuple(node["shape"]),
            tuple(node["chunk_grid"]["configuration"]["chunk_shape"]),
            inner,
            np.dtype(node["data_type"]).newbyteorder("<") if known else None,
            order,
            tuple(names[1:-1]),
            codecs[0].get("configuration", {}).get("endian", "little") == "little",
            is_plain,
            "" if is_v2 else "c",
            encoding.get("configuration", {}).get("separator", "." if is_v2 else "/"),
        )

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Objects along each axis."""
        return tuple(-(-size // step) for size, step in zip(self.shape, self.chunk, strict=True))

    @property
    def n(self) -> int:
        """Number of objects."""
        return prod(self.counts)

    @cached_property
    def piece(self) -> tuple[int, ...]:
        """Shape of what is decoded at once: an inner chunk, or a plain chunk."""
        return self.chunk if self.inner is None else self.inner

    @cached_property
    def per_object(self) -> tuple[int, ...]:
        """Inner chunks of an object along each axis."""
        return tuple(outer // inner for outer, inner in zip(self.chunk, self.piece, strict=True))

    @property
    def itemsize(self) -> int:
        """Bytes of a value; of a text, those of what stands for it in memory."""
        return 16 if self.dtype is None else self.dtype.itemsize

    @property
    def raw(self) -> bool:
        """Whether values lie in C order, uncompressed, so that bytes are values."""
        return self.is_plain and self.is_little and not self.compressors and self.order is None

    @property
    def is_native(self) -> bool:
        """Whether `reader` decodes it; everything else is left to zarr."""
        known = self.compressors in ((), ("zstd",), ("blosc",)) and self.is_little and self.is_plain
        return known and self.dtype is not None and (self.start, self.separator) == ("c", ".")

    @property
    def inner_bytes(self) -> int | None:
        """Bytes of what one checksum covers, without it; None where values are compressed."""
        return prod(self.piece) * self.itemsize if self.raw and self.dtype is not None else None

    @property
    def most_bytes(self) -> int:
        """Bytes that what one checksum covers can have at most, however it is encoded."""
        return 2 * prod(self.piece) * self.itemsize + 4096

    @property
    def most_of_object(self) -> int:
        """Bytes that an object can have at most: its values, a checksum of each inner chunk, and their index."""
        return prod(self.per_object) * (self.most_bytes + 16) + 4

    def key(self, numbers: tuple[int, ...]) -> str:
        """File of an object."""
        name = self.separator.join([*([self.start] if self.start else []), *map(str, numbers)])
        return f"{self.path}/{name or '0'}"

    def keys(self) -> Iterator[tuple[tuple[int, ...], str]]:
        """Every object: its numbers and its file."""
        for numbers in product(*map(range, self.counts)):
            yield numbers, self.key(numbers)


def codecs_of(
    dtype: np.dtype,
    inner: tuple[int, ...] | None,
    compressor: dict[str, Any] | None = None,
    order: tuple[int, ...] | None = None,
) -> list[dict[str, Any]]:
    """The Zarr codecs of an array as this release writes it: of shards where there are inner chunks."""
    values: list[dict[str, Any]] = [LITTLE if dtype.itemsize > 1 else {"name": "bytes"}]
    if order:
        values.insert(0, {"name": "transpose", "configuration": {"order": list(order)}})
    values += [*([compressor] if compressor else []), CRC]
    if inner is None:
        return values
    sharding = {
        "chunk_shape": list(inner),
        "codecs": values,
        "index_codecs": [LITTLE, CRC],
        "index_location": "end",
    }
    return [{"name": "sharding_indexed", "configuration": sharding}]


@dataclass(frozen=True)
class Layout:
    """How an object of ``shape`` is cut: along ``axis`` into ``pieces`` inner chunks, earlier axes into rows.

    ``pieces == 0`` is a plain chunk.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    axis: int = 0
    length: int = 0
    pieces: int = 0

    @cached_property
    def chunk_shape(self) -> tuple[int, ...]:
        """Shape of the whole object as Zarr sees it: extents rounded up to whole inner chunks, never 0."""
        shape = [max(1, extent) for extent in self.shape]
        if self.pieces:
            shape[self.axis] = self.length * self.pieces
        return tuple(shape)

    @cached_property
    def inner_shape(self) -> tuple[int, ...]:
        """Shape of one inner chunk."""
        return (*[1] * self.axis, self.length, *self.shape[self.axis + 1 :])

    @cached_property
    def codecs(self) -> list[dict[str, Any]]:
        """The Zarr codecs of the object."""
        return codecs_of(self.dtype, self.inner_shape if self.pieces else None)

    @cached_property
    def _runs(self) -> list[tuple[int, int]]:
        """Byte range of each inner chunk in the object's values, in C order of the inner chunks."""
        row = prod(self.shape[self.axis + 1 :]) * self.dtype.itemsize
        extent = self.shape[self.axis]
        return [
            ((outer * extent + start) * row, (outer * extent + min(start + self.length, extent)) * row)
            for outer in range(prod(self.shape[: self.axis]))
            for start in range(0, self.length * self.pieces, self.length)
        ]

    def write(self, fd: int, values: np.ndarray, rows: int | None = None) -> tuple[int, int]:
        """Write the object and return (bytes of the file, checksum for the manifest).

        ``values`` are the object's bytes, flat uint8; of a shard only the inner chunks that hold its first
        ``rows`` rows along ``axis`` are written. The checksum is that of the values for a plain chunk, and
        that of the inner chunks' checksums one after another for a shard.
        """
        if not self.pieces:
            return _write_summed(fd, values, 0)
        inner_bytes = prod(self.inner_shape) * self.dtype.itemsize
        index = np.full((len(self._runs), 2), np.uint64(ABSENT), "<u8")
        written = -(-rows // self.length) if rows is not None else len(self._runs)
        offset = checksum = 0
        for number, (start, stop) in enumerate(self._runs[:written]):
            nbytes, crc = _write_summed(fd, values[start:stop], inner_bytes - (stop - start), self.dtype)
            index[number] = offset, nbytes
            offset += nbytes
            checksum = google_crc32c.extend(checksum, crc.to_bytes(4, "little"))
        table = index.tobytes()
        return offset + write_all(fd, [table, _stored(google_crc32c.value(table))]), checksum

    def read(self, fd: int) -> np.ndarray:
        """Return the values of a whole object. Errors: ValueError if its size or any checksum is wrong."""
        nbytes = prod(self.shape) * self.dtype.itemsize
        runs = self._runs if self.pieces else [(0, nbytes)]
        inner_bytes = prod(self.inner_shape) * self.dtype.itemsize if self.pieces else nbytes
        index_bytes = 16 * len(runs) + 4 if self.pieces else 0
        data_bytes = len(runs) * (inner_bytes + 4)
        if os.fstat(fd).st_size != data_bytes + index_bytes:
            raise ValueError(
                f"the file has {os.fstat(fd).st_size} bytes instead of {data_bytes + index_bytes}"
            )
        values = RECYCLED.take(nbytes)
        offsets = range(0, data_bytes, inner_bytes + 4)
        if self.pieces:
            table = np.empty(index_bytes, np.uint8)
            _read_all(fd, table, data_bytes)
            _check(google_crc32c.value(table[:-4]), table[-4:])
            offsets = table[:-4].view("<u8")[::2].tolist()
        for (start, stop), offset in zip(runs, offsets, strict=True):
            rest = np.empty(inner_bytes - (stop - start) + 4, np.uint8)  # padding, then the checksum
            crc = _read_summed(fd, values[start:stop], offset)
            _read_all(fd, rest, offset + stop - start)
            _check(google_crc32c.extend(crc, rest[:-4]), rest[-4:])
        return values.view(self.dtype).reshape(self.shape)


def plan(shape: tuple[int, ...], dtype: np.dtype) -> Layout:
    """Choose the layout of one object of this shape: little padding first, then inner chunks near 4 MiB.

    >>> plan((1, 1000), np.dtype("float32")).pieces
    0
    >>> layout = plan((1, 5_000_001), np.dtype("float32"))
    >>> layout.inner_shape, layout.chunk_shape
    ((1, 1666667), (1, 5000001))
    """
    dtype = np.dtype(dtype).newbyteorder("<")
    if prod(shape) * dtype.itemsize <= _PLAIN:
        return Layout(shape, dtype)
    # The first axis whose single rows are small enough to be an inner chunk is the one that is cut.
    axis = 0
    while axis < len(shape) - 1 and prod(shape[axis + 1 :]) * dtype.itemsize > _LARGEST:
        axis += 1
    extent, row = shape[axis], prod(shape[axis + 1 :]) * dtype.itemsize

    def cost(pieces: int) -> tuple[int, int]:
        length = -(-extent // pieces)
        return (length * pieces - extent) * row, abs(length * row - _TYPICAL)

    fewest = max(1, -(-extent * row // _LARGEST))
    most = max(fewest, min(extent, extent * row // _SMALLEST, fewest + 64))
    pieces = min(range(fewest, most + 1), key=cost)
    length = -(-extent // pieces)
    return Layout(shape, dtype, axis, length, -(-extent // length))


def plan_tail(shape: tuple[int, ...], inner_rows: int, dtype: np.dtype) -> Layout:
    """Layout of an object filled row by row and rewritten: a shard, so that unfilled rows cost no bytes."""
    return Layout(shape, np.dtype(dtype).newbyteorder("<"), 0, inner_rows, shape[0] // inner_rows)


def as_bytes(array: np.ndarray) -> np.ndarray:
    """View a contiguous array as flat uint8."""
    return array.reshape(-1).view(np.uint8)


def _read_all(fd: int, into: np.ndarray, offset: int) -> None:
    rest = into.data
    while rest.nbytes:  # one call of the system moves at most 2 GiB
        got = os.preadv(fd, [rest], offset)
        if not got:
            raise ValueError("the file ends early")
        rest, offset = rest[got:], offset + got


def _read_summed(fd: int, into: np.ndarray, offset: int) -> int:
    """Fill an array of bytes from a file and return their CRC-32C, taken piece by piece while in the cache."""
    crc = 0
    for start in range(0, len(into), PIECE):
        piece = into[start : start + PIECE]
        _read_all(fd, piece, offset + start)
        crc = google_crc32c.extend(crc, piece)
    return crc


def _check(crc: int, stored: np.ndarray) -> None:
    if _stored(crc) != stored.tobytes():
        raise ValueError("a checksum does not match")


def _stored(crc: int) -> bytes:
    return crc.to_bytes(4, "little")


def _write_summed(fd: int, values: np.ndarray, pad: int, dtype: np.dtype | None = None) -> tuple[int, int]:
    """Write values, ``pad`` bytes of fill, and the CRC-32C of both; return (bytes written, CRC)."""
    pieces: list[Buffer] = [values[start : start + PIECE] for start in range(0, len(values), PIECE)]
    if pad and dtype is not None:
        pieces.append(np.full(pad // dtype.itemsize, fill_scalar(dtype), dtype).view(np.uint8))
    crc = total = 0
    for piece in pieces[:-1]:
        crc = google_crc32c.extend(crc, piece)
        total += write_all(
            fd, [piece]
        )  # the piece is still in the cache, and writing frees the interpreter lock
    if pieces:
        crc = google_crc32c.extend(crc, pieces[-1])
    return total + write_all(fd, [*pieces[-1:], _stored(crc)]), crc
