"""A store as zarr and xarray read it, pinned at the commit it was opened at."""
# ruff: noqa: D102 (the methods of a store are documented by zarr)

import asyncio
from collections.abc import AsyncIterator, Iterable

import zarr.abc.store
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype

from tracer.store.store import ROOT, Store, lost


class ZarrView(zarr.abc.store.Store):
    """Read-only. Its root document stays what it was, and an object that should exist must exist.

    Everything read then belongs to one commit, however far a recording goes on meanwhile; and a lost file is
    an error rather than Zarr's fill values. Errors: ArchiveError for a lost object.
    """

    supports_writes = supports_deletes = False
    supports_listing = True

    def __init__(self, store: Store) -> None:
        super().__init__(read_only=True)
        self._store = store
        self._is_open = True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ZarrView) and other._store is self._store

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        if key == ROOT:
            return prototype.buffer.from_bytes(self._store.root)
        start, stop = 0, None
        if isinstance(byte_range, RangeByteRequest):
            start, stop = byte_range.start, byte_range.end
        elif isinstance(byte_range, OffsetByteRequest):
            start = byte_range.offset
        elif isinstance(byte_range, SuffixByteRequest):
            start = -byte_range.suffix
        try:
            data = await asyncio.to_thread(self._store.read, key, start, stop)
        except FileNotFoundError:
            name = key.rpartition("/")[2]
            if name == "c" or name.startswith("c."):
                raise lost(key) from None
            return None
        return prototype.buffer.from_bytes(data)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def exists(self, key: str) -> bool:
        return key == ROOT or await asyncio.to_thread(self._store.size, key) is not None

    async def set(self, key: str, value: Buffer) -> None:
        self._check_writable()

    async def delete(self, key: str) -> None:
        self._check_writable()

    def _keys(self) -> Iterable[str]:
        listing = self._store.files()
        return () if listing is None else listing.sizes

    async def list(self) -> AsyncIterator[str]:
        for key in self._keys():
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        for key in self._keys():
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        base = prefix.rstrip("/") + "/" if prefix else ""
        for name in sorted({key[len(base) :].split("/")[0] for key in self._keys() if key.startswith(base)}):
            yield name
