"""An archive in one zip file, on this machine or at a URL, read in place: only what is asked for is fetched."""
# ruff: noqa: D102 (the methods of a store are documented by zarr)

import asyncio
import io
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from typing import Any

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype

from tracer.errors import ArchiveError
from tracer.store.validate import MAX_ROOT

ROOT = "zarr.json"
_MAX_MEMBER = 1 << 30  # bytes of a compressed member of a zip file, which is unpacked as a whole
_HEADER = 30  # bytes before the name of a member
_NEAR = 1 << 16  # bytes that are rather fetched than asked for by a second request
_TAIL = 1 << 16  # bytes at the end of a remote file, where its directory is, fetched at once


def is_remote(location: str) -> bool:
    """Whether a location is a URL of another place than this machine's files."""
    return "://" in location and not location.startswith("file://")


class LocalFile:
    """Parts of a file."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDONLY)

    @property
    def size(self) -> int:
        """Bytes by now."""
        return os.fstat(self._fd).st_size

    def read(self, start: int, stop: int) -> bytes:
        """Bytes of a range, as far as there are any."""
        return os.pread(self._fd, max(0, min(stop, self.size) - start), start)

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)


class RemoteFile:
    """Parts of a file at a URL, each by a request for its range."""

    def __init__(self, url: str) -> None:
        import fsspec

        try:
            self._fs, self._place = fsspec.core.url_to_fs(url)
            size = self._fs.info(self._place).get("size")
        except (ImportError, ValueError) as error:
            raise ArchiveError(f"cannot read {url!r}: {error}") from error
        if size is None:
            raise ArchiveError(
                f"{url!r} does not say how long it is, so it cannot be read in place; pull it first"
            )
        self.url, self.size = url, int(size)
        self._tail_at = max(0, self.size - _TAIL)
        self._tail = self._get(self._tail_at, self.size)

    def read(self, start: int, stop: int) -> bytes:
        """Bytes of a range, as far as there are any."""
        stop = min(stop, self.size)
        if start >= self._tail_at:
            return self._tail[start - self._tail_at : max(start, stop) - self._tail_at]
        return self._get(start, stop)

    def _get(self, start: int, stop: int) -> bytes:
        data = bytes(self._fs.cat_file(self._place, start=start, end=stop)) if stop > start else b""
        if len(data) > stop - start:
            raise ArchiveError(
                f"the server of {self.url!r} sends whole files only; pull it first, then open it here"
            )
        return data

    def close(self) -> None:
        """Forget what was fetched."""
        self._tail = b""


class _Reader(io.RawIOBase):
    """A file as the zip library reads it."""

    def __init__(self, file: LocalFile | RemoteFile) -> None:
        self._file, self._at = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._file.size}[whence]
        if start + offset < 0:
            raise OSError("a seek before the start")
        self._at = start + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(self._at, self._at + len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


class ZipStore(Store):
    """Read-only store of a zip file. Members stored uncompressed are read in place, ranges included.

    The archive may sit at the top of the zip or in one folder; ``within``: of an archive within it.
    """

    supports_writes = supports_deletes = False
    supports_listing = True

    def __init__(self, path: str | os.PathLike[str], within: str = "") -> None:
        super().__init__(read_only=True)
        self.path, self._within = path, within
        text = os.fspath(path)
        self._file: LocalFile | RemoteFile = RemoteFile(text) if is_remote(text) else LocalFile(text)
        try:
            self._zip = zipfile.ZipFile(io.BufferedReader(_Reader(self._file), 1 << 16))
            self._find_members()
        except BaseException:
            self._file.close()
            raise
        self._starts: dict[str, int] = {}
        self._is_open = True

    def _find_members(self) -> None:
        names = Counter(info.filename for info in self._zip.infolist())
        twice = next((name for name, n in names.items() if n > 1), None)
        if twice is not None:
            raise ArchiveError(f"{str(self.path)!r} holds {twice!r} twice, so it is not clear what it says")
        root = min((name for name in names if name.rpartition("/")[2] == ROOT), key=len, default=ROOT)
        self.prefix = root.removesuffix(ROOT) + (f"{self._within}/" if self._within else "")
        self.members = {
            info.filename.removeprefix(self.prefix): info
            for info in self._zip.infolist()
            if info.filename.startswith(self.prefix) and not info.filename.endswith("/")
        }

    def infolist(self) -> list[zipfile.ZipInfo]:
        """Every entry of the zip file."""
        return self._zip.infolist()

    def stored(self, key: str) -> int:
        """Bytes that a member takes in the zip file, 0 if there is none."""
        info = self.members.get(key)
        return 0 if info is None else info.compress_size

    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes | None:
        """Return bytes of a member, None if there is no such member. Errors: ArchiveError if it is damaged."""
        info = self.members.get(key)
        if info is None:
            return None
        try:
            stop = info.file_size if stop is None else min(stop, info.file_size)
            if info.compress_type != zipfile.ZIP_STORED:
                return self._unpacked(key, info)[start:stop]
            if info.flag_bits & 1 or info.file_size != info.compress_size:
                raise ValueError("it is encrypted or damaged")
            return self._stored(key, info, start, max(start, stop))
        except (OSError, RuntimeError, ValueError, EOFError, zlib.error, zipfile.BadZipFile) as error:
            if isinstance(error, ArchiveError):
                raise
            raise ArchiveError(f"{key!r} cannot be read from {str(self.path)!r}: {error}") from error

    def _unpacked(self, key: str, info: zipfile.ZipInfo) -> bytes:
        limit = MAX_ROOT if key == ROOT else _MAX_MEMBER
        if info.file_size > limit:
            raise ArchiveError(
                f"{key!r} of {str(self.path)!r} unpacks to {info.file_size} bytes, more than the {limit} that are "
                "read; store members uncompressed, or unpack the zip file"
            )
        return self._zip.read(info)

    def _stored(self, key: str, info: zipfile.ZipInfo, start: int, stop: int) -> bytes:
        """A part of an uncompressed member: with its header the first time, whose length only that says."""
        if key in self._starts:
            return self._file.read(self._starts[key] + start, self._starts[key] + stop)
        near = stop if start <= _NEAR else 0
        guess = _HEADER + len(info.orig_filename.encode()) + near
        data = self._file.read(info.header_offset, info.header_offset + guess)
        lengths = int.from_bytes(data[26:28], "little") + int.from_bytes(data[28:30], "little")
        if len(data) < _HEADER:
            raise ValueError("it is cut short")
        self._starts[key] = info.header_offset + _HEADER + lengths
        found = data[_HEADER + lengths + start : _HEADER + lengths + stop]
        return found if len(found) == stop - start else self._stored(key, info, start, stop)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ZipStore) and (other.path, other.prefix) == (self.path, self.prefix)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        info = self.members.get(key)
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
        return key in self.members

    async def set(self, key: str, value: Buffer) -> None:
        self._check_writable()

    async def delete(self, key: str) -> None:
        self._check_writable()

    async def list(self) -> AsyncIterator[str]:
        for key in self.members:
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        for key in self.members:
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        base = prefix.rstrip("/") + "/" if prefix else ""
        for name in sorted({key[len(base) :].split("/")[0] for key in self.members if key.startswith(base)}):
            yield name

    def close(self) -> None:
        """Close the file."""
        if self._is_open:
            super().close()
            self._zip.close()
            self._file.close()
