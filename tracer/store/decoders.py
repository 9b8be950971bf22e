"""Decompression that never makes more than a chunk holds, however much untrusted bytes promise."""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

import zarr
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec
from zarr.registry import register_codec

from tracer.errors import ArchiveError

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


class BoundedZstd(ZstdCodec):
    """zstd, of one frame that says how much it holds."""

    async def _decode_single(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        _check(_zstd_size(chunk_bytes.to_bytes()), chunk_spec)
        return await super()._decode_single(chunk_bytes, chunk_spec)


class BoundedBlosc(BloscCodec):
    """blosc, whose header says how much it holds."""

    async def _decode_single(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        data = chunk_bytes.to_bytes()
        sound = len(data) >= 16 and int.from_bytes(data[12:16], "little") == len(data)
        _check(int.from_bytes(data[4:8], "little") if sound else None, chunk_spec)
        return await super()._decode_single(chunk_bytes, chunk_spec)


class BoundedGzip(GzipCodec):
    """gzip, counted while it is unpacked, since its own count cannot be relied on."""

    async def _decode_single(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        expected = _expected(chunk_spec)
        unpacked = zlib.decompressobj(wbits=31)
        try:
            data = unpacked.decompress(chunk_bytes.to_bytes(), expected + 1)
        except zlib.error as error:
            raise ArchiveError(f"a chunk cannot be decompressed ({error})") from None
        _check(len(data) if unpacked.eof and not unpacked.unused_data else None, chunk_spec)
        return chunk_spec.prototype.buffer.from_bytes(data)


_BOUNDED = {"zstd": BoundedZstd, "blosc": BoundedBlosc, "gzip": BoundedGzip}
for _name, _class in _BOUNDED.items():
    register_codec(_name, _class, qualname=f"tracer.{_name}")


@contextmanager
def bounded() -> Iterator[None]:
    """Let zarr take these decoders for the arrays it opens meanwhile; nobody else's choice is changed."""
    with zarr.config.set({f"codecs.{name}": f"tracer.{name}" for name in _BOUNDED}):
        yield


def _expected(chunk_spec: Any) -> int:
    return prod(chunk_spec.shape) * chunk_spec.dtype.to_native_dtype().itemsize


def _check(size: int | None, chunk_spec: Any) -> None:
    expected = _expected(chunk_spec)
    if chunk_spec.dtype.to_native_dtype().hasobject:  # text: as long as it is, within reason
        expected = size = min(size or 0, 1 << 24)
    if size != expected:
        raise ArchiveError(f"a chunk of {expected} bytes says that it holds {'?' if size is None else size}")


def _zstd_size(data: bytes) -> int | None:
    """Size of the content of a zstd frame by its header, None where it does not say (RFC 8878, 3.1.1.1)."""
    if len(data) < 6 or data[:4] != _ZSTD_MAGIC:
        return None
    descriptor = data[4]
    single, flag = descriptor >> 5 & 1, descriptor >> 6
    width = (1 if single else 0, 2, 4, 8)[flag]
    at = 5 + (1 - single) + (0, 1, 2, 4)[descriptor & 3]
    if not width or len(data) < at + width:
        return None
    return int.from_bytes(data[at : at + width], "little") + (256 if width == 2 else 0)
