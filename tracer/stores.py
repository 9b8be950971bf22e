"""Where archives are read from: a directory, a zip file, or any fsspec URL, pinned at one commit."""
# ruff: noqa: D102 (the methods of a store are documented by zarr)

import asyncio
import os
import zipfile
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore, LocalStore, WrapperStore

from tracer.errors import ArchiveError

ROOT = "zarr.json"


def connect(location: str | os.PathLike[str]) -> tuple[Store, bytes]:
    """Return a store and the bytes of its root document.

    Errors: ArchiveError if nothing is there, or nothing that could be an archive.
    """
    text = os.fspath(location)
    if "://" in text and not text.startswith("file://"):
        return _connect_url(text)
    path = Path(text.removeprefix("file://"))
    if path.is_dir():
        if not (path / ROOT).is_file():
            raise ArchiveError(
                f"{text!r} is a directory but not an archive (no {ROOT}); name the folder made by record"
            )
        return LocalStore(path, read_only=True), (path / ROOT).read_bytes()
    if not path.exists():
        raise ArchiveError(f"there is no archive at {text!r}; check the path")
    try:
        store = ZipStore(path)
    except zipfile.BadZipFile:
        raise ArchiveError(f"{text!r} is neither an archive directory nor a zip file of one") from None
    return store, store.read(ROOT) or b""


def _connect_url(url: str) -> tuple[Store, bytes]:
    import fsspec

    try:
        with fsspec.open(f"{url.rstrip('/')}/{ROOT}", "rb") as file:
            root = file.read()
        return FsspecStore.from_url(url.rstrip("/"), read_only=True), root
    except FileNotFoundError:
        raise ArchiveError(f"there is no archive at {url!r}; check the URL and your credentials") from None
    except (ImportError, ValueError, OSError) as error:
        raise ArchiveError(f"cannot read {url!r}: {error}") from error


class PinnedStore(WrapperStore[Store]):
    """A store whose root document stays what it was, and in which an object that should exist must exist.

    Everything read then belongs to one commit, however far a recording goes on meanwhile; and a lost file is
    an error rather than Zarr's fill values. Errors: ArchiveError for a lost object.
    """

    def __init__(self, store: Store, root: bytes) -> None:
        super().__init__(store)
        self._root = root
        self.folder = store.root if isinstance(store, LocalStore) else None

    def _with_store(self, store: Store) -> "PinnedStore":
        return type(self)(store, self._root)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        if key == ROOT:
            return prototype.buffer.from_bytes(self._root)
        found = await self._store.get(key, prototype, byte_range)
        name = key.rpartition("/")[2]
        if found is None and (name == "c" or name.startswith("c.")):
            raise ArchiveError(f"object {key!r} is lost from the archive; `tracer verify` lists what else is")
        return found

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]


class ZipStore(Store):
    """Read-only store of a zip file. Members stored uncompressed are read in place, ranges included.

    The archive may sit at the top of the zip or in one folder.
    """

    supports_writes = supports_deletes = False
    supports_listing = True

    def __init__(self, path: Path) -> None:
        super().__init__(read_only=True)
        self.path = path
        self._zip = zipfile.ZipFile(path)
        names = self._zip.namelist()
        root = min((name for name in names if name.rpartition("/")[2] == ROOT), key=len, default=ROOT)
        prefix = root.removesuffix(ROOT)
        self._members = {
            info.filename.removeprefix(prefix): info
            for info in self._zip.infolist()
            if info.filename.startswith(prefix) and not info.is_dir()
        }
        self._starts: dict[str, int] = {}
        self._fd = os.open(path, os.O_RDONLY)
        self._is_open = True

    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes | None:
        """Return bytes of a member, None if there is no such member."""
        info = self._members.get(key)
        if info is None:
            return None
        stop = info.file_size if stop is None else min(stop, info.file_size)
        if info.compress_type != zipfile.ZIP_STORED:
            return self._zip.read(info)[start:stop]
        return os.pread(self._fd, max(0, stop - start), self._start(key, info) + start)

    def _start(self, key: str, info: zipfile.ZipInfo) -> int:
        if key not in self._starts:
            header = os.pread(self._fd, 30, info.header_offset)
            lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
            self._starts[key] = info.header_offset + 30 + lengths
        return self._starts[key]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ZipStore) and other.path == self.path

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        info = self._members.get(key)
        if info is None:
            return None
        start, stop = 0, info.file_size
        if isinstance(byte_range, RangeByteRequest):
            start, stop = byte_range.start, byte_range.end
        elif isinstance(byte_range, OffsetByteRequest):
            start = byte_range.offset
        elif isinstance(byte_range, SuffixByteRequest):
            start = max(0, stop - byte_range.suffix)
        data = await asyncio.to_thread(self.read, key, start, stop)
        return None if data is None else prototype.buffer.from_bytes(data)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def exists(self, key: str) -> bool:
        return key in self._members

    async def set(self, key: str, value: Buffer) -> None:
        self._check_writable()

    async def delete(self, key: str) -> None:
        self._check_writable()

    async def list(self) -> AsyncIterator[str]:
        for key in self._members:
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        for key in self._members:
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        base = prefix.rstrip("/") + "/" if prefix else ""
        for name in sorted({key[len(base) :].split("/")[0] for key in self._members if key.startswith(base)}):
            yield name

    def close(self) -> None:
        """Close the file."""
        if self._is_open:
            super().close()
            self._zip.close()
            os.close(self._fd)
