"""How an array is cut and encoded in a file tree: as recorded, or packed along time and compressed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from math import ceil, prod
from typing import Any

import google_crc32c
import numpy as np

from tracer import spec
from tracer.spec import fill_scalar
from tracer.store.files import write_all
from tracer.store.layout import ABSENT, ArrayLayout, codecs_of, plan, plan_tail

SNAPSHOTS = 64  # of masks in one inner chunk, at most
_BESIDE = 1 << 19  # bytes of an inner chunk of masks: in larger ones they take no less
_PATIENT = 1 << 26  # bytes of masks up to which time is spent to have them small: 2 to 3 MB/s instead of 40
_QUICK = 1 << 22  # bytes of anything else up to which a few percent less are worth a hundredfold time
_JOINED = 1 << 20  # bytes of an inner chunk that joins snapshots
_INNER = 1 << 22  # bytes of an inner chunk cut from a large one
_BLOCK = 1 << 26  # bytes of all inner chunks that share their snapshots: a reader keeps these
_OBJECT = 1 << 28  # bytes of an object, before compression
_MANY = 4096  # inner chunks of an object
_PAYS = 0.9  # of the size: what compresses less is not worth its time

Box = tuple[slice, ...]
Read = Callable[[Box], np.ndarray]


@dataclass(frozen=True)
class Form:
    """Objects of ``chunk``, each a shard of inner chunks, or one plain chunk where ``inner`` is None.

    ``compressor`` is the codec of Zarr between the values and their checksum, ``order`` the order of the axes
    before it, ``level`` its effort.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    chunk: tuple[int, ...]
    inner: tuple[int, ...] | None = None
    compressor: str | None = None
    order: tuple[int, ...] | None = None
    level: int = 1

    @property
    def codecs(self) -> list[dict[str, Any]]:
        """The Zarr codecs of the array."""
        return codecs_of(self.dtype, self.inner, self._compressor if self.compressor else None, self.order)

    @property
    def _compressor(self) -> dict[str, Any]:
        if self.compressor == "zstd":
            return {"name": "zstd", "configuration": {"level": self.level, "checksum": False}}
        settings = {"cname": "zstd", "clevel": self.level, "shuffle": self.compressor, "blocksize": 0}
        return {"name": "blosc", "configuration": {"typesize": self.dtype.itemsize, **settings}}

    def layout(self, path: str) -> ArrayLayout:
        """How the array at a path is cut in this form."""
        document = {
            "codecs": self.codecs,
            "data_type": self.dtype.name,
            "chunk_grid": {"configuration": {"chunk_shape": list(self.chunk)}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "shape": list(self.shape),
        }
        return ArrayLayout.of(path, document)

    def objects(self) -> Iterator[tuple[int, ...]]:
        """Numbers of all objects, in order."""
        counts = (ceil(size / step) for size, step in zip(self.shape, self.chunk, strict=True))
        yield from product(*map(range, counts))

    def encode(self, values: np.ndarray) -> bytes:
        """Bytes of an inner chunk, less the checksum."""
        from numcodecs import blosc, zstd

        turned = np.ascontiguousarray(values if self.order is None else values.transpose(self.order))
        flat = turned.reshape(-1)
        match self.compressor:
            case None:
                return flat.tobytes()
            case "zstd":
                return zstd.compress(flat.view(np.uint8), self.level)
            case shuffle:
                mode = {"shuffle": blosc.SHUFFLE, "bitshuffle": blosc.BITSHUFFLE}[shuffle]
                return blosc.compress(flat, b"zstd", self.level, mode, blocksize=flat.nbytes)

    def write(self, fd: int, numbers: tuple[int, ...], read: Read) -> None:
        """Write an object whose values ``read`` gives, box by box."""
        if self.inner is None:
            write_all(fd, _summed(self.encode(self.filled(numbers, self.chunk, read))))
            return
        counts = [outer // inner for outer, inner in zip(self.chunk, self.inner, strict=True)]
        index = np.full((prod(counts), 2), np.uint64(ABSENT), "<u8")
        offset = 0
        for number, place in enumerate(product(*map(range, counts))):
            at = tuple(n * count + p for n, count, p in zip(numbers, counts, place, strict=True))
            if all(n * step < size for n, step, size in zip(at, self.inner, self.shape, strict=True)):
                pieces = _summed(self.encode(self.filled(at, self.inner, read)))
                index[number] = offset, sum(map(len, pieces))
                offset += write_all(fd, pieces)
        write_all(fd, _summed(index.tobytes()))

    def part(self, at: tuple[int, ...], size: tuple[int, ...], read: Read) -> np.ndarray:
        """Values of the box number ``at`` of a grid, as far as the array reaches."""
        box = tuple(
            slice(n * step, min((n + 1) * step, end))
            for n, step, end in zip(at, size, self.shape, strict=True)
        )
        return np.asarray(read(box), self.dtype)

    def filled(self, at: tuple[int, ...], size: tuple[int, ...], read: Read) -> np.ndarray:
        """The same, completed with fill beyond the end of the array."""
        values = self.part(at, size, read)
        if values.shape == size:
            return values
        whole = np.full(size, fill_scalar(self.dtype), self.dtype)
        whole[tuple(slice(extent) for extent in values.shape)] = values
        return whole


def recorded(
    path: str, dims: tuple[str, ...], shape: tuple[int, ...], dtype: np.dtype, rows: set[str]
) -> Form:
    """The form in which the recorder writes an array. ``rows``: the groups that grow."""
    group = path.rpartition("/")[0]
    if not shape:
        return Form(shape, dtype, ())
    growing = object_rows(path, dims, shape, dtype, rows)
    if growing is not None:
        layout = plan_tail((growing[0], *shape[1:]), growing[1], dtype)
    else:
        layout = plan((1, *shape[1:]) if group in rows else shape, dtype)
    return Form(shape, dtype, layout.chunk_shape, layout.inner_shape if layout.pieces else None)


def object_rows(
    path: str, dims: tuple[str, ...], shape: tuple[int, ...], dtype: np.dtype, rows: set[str]
) -> tuple[int, int] | None:
    """Rows in one object and in one inner chunk of an array that grows row by row, None for any other.

    The last object of such an array may still change while it is recorded.
    """
    group, _, name = path.rpartition("/")
    row_bytes = prod(shape[1:]) * dtype.itemsize
    if dims[:1] == ("id",) and group.split("/")[0] in ("steps", "minibatch"):
        return spec.ids_rows(row_bytes)
    if path == "manifest/objects" or group == "steps" or (group in rows and name in spec.STREAM_COLUMNS):
        return spec.column_rows(group)
    several = spec.snapshot_rows(row_bytes) if group in rows else (1, 1)
    return several if several[0] > 1 else None


def packed(path: str, shape: tuple[int, ...], dtype: np.dtype, read: Read) -> Form:
    """The form of an array in a packed archive: snapshots joined, and compressed if a sample says it pays."""
    if not shape or not prod(shape):
        return Form(shape, dtype, tuple(max(1, size) for size in shape))
    masks = path.endswith("masks/bits") and len(shape) == 3
    inner = _mask_box(shape) if masks else _box(shape, dtype.itemsize)
    chunk = _object(shape, inner, dtype.itemsize)
    best, least = Form(shape, dtype, chunk, inner), 1.0
    if masks:
        # Bits of one unit and example over time lie together: better unless very few change.
        effort = 9 if prod(shape) <= _PATIENT else 5
        choices = [("bitshuffle", (1, 2, 0), effort, 1.0), ("zstd", None, 1, 1.0)]
    else:
        effort = 9 if prod(shape) * dtype.itemsize <= _QUICK else 1
        choices = [("zstd" if dtype.itemsize == 1 else "shuffle", None, effort, _PAYS)]
    sample = _sample(best, read)
    for compressor, order, level, most in choices:
        form = Form(shape, dtype, chunk, inner, compressor, order, level)
        share = sum(len(form.encode(values)) for values in sample) / sum(values.nbytes for values in sample)
        if share <= most and share < least:
            best, least = form, share
    return best


def _mask_box(shape: tuple[int, ...]) -> tuple[int, ...]:
    n, units, width = shape
    most = min(SNAPSHOTS, max(1, _BLOCK // (units * width)))
    snapshots = _even(n, most)
    if most >= 8:  # whole bytes of one bit over time: a few of fill cost less than bits that lie askew
        snapshots = min(ceil(snapshots / 8) * 8, most // 8 * 8)
    return snapshots, min(units, max(1, _BESIDE // (snapshots * width))), width


def _box(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Inner chunk of whole rows, or a part of one row where rows are large."""
    row = prod(shape[1:]) * itemsize
    if row <= _JOINED:
        return (_even(shape[0], _JOINED // row), *shape[1:])
    axis = 1
    while axis < len(shape) - 1 and prod(shape[axis + 1 :]) * itemsize > _INNER:
        axis += 1
    length = _even(shape[axis], _INNER // (prod(shape[axis + 1 :]) * itemsize))
    return (*[1] * axis, length, *shape[axis + 1 :])


def _even(size: int, most: int) -> int:
    """Length of equal pieces, the last of which has the least of fill, which is written where nothing compresses."""
    return ceil(size / ceil(size / max(1, most)))


def _object(shape: tuple[int, ...], inner: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Shape of an object: all of every axis but the first, and of that as much as is handy."""
    rest = [ceil(size / step) * step for size, step in zip(shape[1:], inner[1:], strict=True)]
    beside = prod(size // step for size, step in zip(rest, inner[1:], strict=True))
    block = inner[0] * prod(rest) * itemsize
    several = max(1, min(_OBJECT // block, _MANY // beside, ceil(shape[0] / inner[0])))
    return (inner[0] * several, *rest)


def _sample(form: Form, read: Read) -> list[np.ndarray]:
    """First, middle and last inner chunk."""
    assert form.inner is not None
    counts = [ceil(size / step) for size, step in zip(form.shape, form.inner, strict=True)]
    last = prod(counts) - 1
    places = {tuple(map(int, np.unravel_index(number, counts))) for number in (0, last // 2, last)}
    return [form.filled(place, form.inner, read) for place in sorted(places)]


def _summed(data: bytes) -> list[bytes]:
    crc, view = 0, np.frombuffer(data, np.uint8)
    for start in range(0, len(view), 1 << 20):  # the checksum holds the interpreter lock
        crc = google_crc32c.extend(crc, view[start : start + (1 << 20)])
    return [data, crc.to_bytes(4, "little")]
