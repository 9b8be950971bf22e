"""Where archives are read from: a directory, a zip file, or any fsspec URL, pinned at one commit."""
# ruff: noqa: D102 (the methods of a store are documented by zarr)

import asyncio
import os
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore, WrapperStore

from tracer.archive.guard import MAX_ROOT
from tracer.errors import ArchiveError

ROOT = "zarr.json"
_MAX_MEMBER = 1 << 30  # bytes of a compressed member of a zip file, which is unpacked as a whole


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
        return LocalStore(path, read_only=True), _root_of(path)
    if not path.exists():
        raise ArchiveError(f"there is no archive at {text!r}; check the path")
    if not path.is_file():
        raise ArchiveError(f"{text!r} is neither an archive directory nor a zip file of one")
    try:
        store = ZipStore(path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, IndexError, OSError) as error:
        if isinstance(error, ArchiveError):
            raise
        raise ArchiveError(f"{text!r} is neither an archive directory nor a zip file of one") from None
    return store, store.read(ROOT) or b""


def _root_of(folder: Path) -> bytes:
    """The bytes of the root document: of an ordinary file, of a size a document can have."""
    file = folder / ROOT
    found = file.lstat()
    if not stat.S_ISREG(found.st_mode):
        raise ArchiveError(
            f"{str(file)!r} is a link or no ordinary file, which is not followed; copy the archive with its links "
            "resolved (cp -rL) and open the copy"
        )
    if found.st_size > MAX_ROOT:
        raise ArchiveError(f"{str(file)!r} has {found.st_size} bytes, more than the {MAX_ROOT} that are read")
    return file.read_bytes()


def _connect_url(url: str) -> tuple[Store, bytes]:
    import fsspec

    try:
        with fsspec.open(f"{url.rstrip('/')}/{ROOT}", "rb") as file:
            root = file.read(MAX_ROOT + 1)
        return FsspecStore.from_url(url.rstrip("/"), read_only=True), root
    except FileNotFoundError:
        raise ArchiveError(f"there is no archive at {url!r}; check the URL and your credentials") from None
    except (ImportError, ValueError, OSError) as error:
        raise ArchiveError(f"cannot read {url!r}: {error}") from error


def _link(key: str) -> ArchiveError:
    return ArchiveError(
        f"{key!r} of the archive is a link, or lies behind one, which is not followed; copy the archive with its "
        "links resolved (cp -rL) and open the copy"
    )


class PinnedStore(WrapperStore[Store]):
    """A store whose root document stays what it was, and in which an object that should exist must exist.

    Everything read then belongs to one commit, however far a recording goes on meanwhile; and a lost file is
    an error rather than Zarr's fill values. Errors: ArchiveError for a lost object.
    """

    def __init__(self, store: Store, root: bytes) -> None:
        super().__init__(store)
        self.root = root
        self.folder = store.root if isinstance(store, LocalStore) else None
        self._inside: set[str] = {""}

    def local(self, key: str) -> Path | None:
        """The file of a key, None if the store is no directory. Errors: ArchiveError if a link leads to it."""
        if self.folder is None:
            return None
        parent = key.rpartition("/")[0]
        if parent not in self._inside:
            if (self.folder / parent).resolve() != self.folder.resolve() / parent:
                raise _link(parent)
            self._inside.add(parent)
        file = self.folder / key
        try:
            mode = file.lstat().st_mode
        except OSError:
            return file
        if stat.S_ISLNK(mode):
            raise _link(key)
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise ArchiveError(f"{key!r} of the archive is no ordinary file; get it from its author again")
        return file

    def size(self, key: str) -> int:
        """Bytes of an object, 0 if it is lost."""
        if (file := self.local(key)) is not None:
            return file.stat().st_size if file.exists() else 0
        if isinstance(self._store, ZipStore):
            return self._store.stored(key)
        try:
            return int(sync(self._store.getsize(key)))
        except FileNotFoundError:
            return 0

    def stamp(self) -> tuple[int, ...] | None:
        """What changes when the root document is replaced; None where that is not looked at."""
        if self.folder is None:
            return None
        try:
            found = (self.folder / ROOT).stat()
        except OSError:
            return (0,)
        return found.st_ino, found.st_mtime_ns, found.st_size

    def root_now(self) -> bytes:
        """The root document as it is by now, b"" if it is gone."""
        assert self.folder is not None
        try:
            return _root_of(self.folder)
        except OSError:
            return b""

    def _with_store(self, store: Store) -> "PinnedStore":
        return type(self)(store, self.root)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        if key == ROOT:
            return prototype.buffer.from_bytes(self.root)
        self.local(key)
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
        try:
            self._find_members()
        except BaseException:
            self._zip.close()
            raise
        self._starts: dict[str, int] = {}
        self._fd = os.open(path, os.O_RDONLY)
        self._is_open = True

    def _find_members(self) -> None:
        names = Counter(info.filename for info in self._zip.infolist())
        twice = next((name for name, n in names.items() if n > 1), None)
        if twice is not None:
            raise ArchiveError(f"{str(self.path)!r} holds {twice!r} twice, so it is not clear what it says")
        root = min((name for name in names if name.rpartition("/")[2] == ROOT), key=len, default=ROOT)
        self.prefix = root.removesuffix(ROOT)
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
            stop = min(stop, self.path.stat().st_size)
            return os.pread(self._fd, max(0, stop - start), self._start(key, info) + start)
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
            os.close(self._fd)
