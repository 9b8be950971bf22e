"""Where archives are read from: a directory, a zip file, or any fsspec URL, pinned at one commit."""
# ruff: noqa: D102 (the methods of a store are documented by zarr)

import os
import stat
import zipfile
from collections.abc import Iterable
from pathlib import Path

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore, WrapperStore

from tracer.errors import ArchiveError
from tracer.store.validate import MAX_ROOT
from tracer.store.zipped import ROOT, ZipStore, is_remote

__all__ = ["ROOT", "PinnedStore", "ZipStore", "connect", "is_remote"]


def connect(location: str | os.PathLike[str], within: str = "") -> tuple[Store, bytes]:
    """Return a store and the bytes of its root document; of the archive at a path within another, if one is given.

    Errors: ArchiveError if nothing is there, or nothing that could be an archive.
    """
    text = os.fspath(location)
    if is_remote(text):
        if text.rstrip("/").endswith(".zip"):
            return _connect_zip(text.rstrip("/"), within)
        return _connect_url("/".join([text.rstrip("/"), within]) if within else text)
    path = Path(text.removeprefix("file://"))
    if path.is_dir():
        path, whole = path / within, path
        if path.resolve() != whole.resolve() / within:
            raise _link(within)
        text = os.fspath(path)
        if not (path / ROOT).is_file():
            raise ArchiveError(
                f"{text!r} is a directory but not an archive (no {ROOT}); name the folder made by record"
            )
        return LocalStore(path, read_only=True), _root_of(path)
    if not path.exists():
        raise ArchiveError(f"there is no archive at {text!r}; check the path")
    if not path.is_file():
        raise ArchiveError(f"{text!r} is neither an archive directory nor a zip file of one")
    return _connect_zip(path, within)


def _connect_zip(location: str | Path, within: str) -> tuple[Store, bytes]:
    try:
        store = ZipStore(location, within)
    except FileNotFoundError:
        raise ArchiveError(
            f"there is no file at {str(location)!r}; check the URL and your credentials"
        ) from None
    except (zipfile.BadZipFile, NotImplementedError, ValueError, IndexError, OSError) as error:
        if isinstance(error, ArchiveError):
            raise
        why = f" ({error})" if isinstance(location, str) and isinstance(error, OSError) else ""
        raise ArchiveError(
            f"{str(location)!r} is neither an archive directory nor a zip file of one{why}"
        ) from None
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
