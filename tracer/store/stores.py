"""Where archives are: the kinds of store, and the directory among them."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tracer.errors import ArchiveError
from tracer.store.store import MAX_ROOT, ROOT, Listing, Store, is_remote, local_path
from tracer.store.urls import UrlStore
from tracer.store.zipped import ZipStore

_LONGEST = 1000  # characters of the key of a folder that is looked into: no archive has longer ones


class DirectoryStore(Store):
    """An archive in a directory. Links are not followed, inside it or on the way through it."""

    def __init__(self, folder: Path) -> None:
        self.where = str(folder)
        self.folder: Path = folder.absolute()  # the program may change its directory
        self._base = str(self.folder)
        self._inside: set[str] = {""}
        self.root = self._root()

    @classmethod
    def takes(cls, location: str) -> bool:
        """A directory of this machine."""
        return not is_remote(location) and local_path(location).is_dir()

    @classmethod
    def open(cls, location: str, within: str = "") -> "DirectoryStore":
        """The directory, or one within it."""
        whole = local_path(location)
        path = whole / within
        if path.resolve() != whole.resolve() / within:
            raise _link(within)
        if not (path / ROOT).is_file():
            raise ArchiveError(
                f"{str(path)!r} is a directory but not an archive (no {ROOT}); name the folder made by record"
            )
        return cls(path)

    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """Part of a file."""
        with self.opened(key) as fd:
            start, stop, _ = slice(start, stop).indices(os.fstat(fd).st_size)
            pieces = []
            while start < stop and (piece := os.pread(fd, stop - start, start)):
                pieces.append(piece)
                start += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def size(self, key: str) -> int | None:
        """Bytes of a file."""
        try:
            return os.stat(self._local(key)).st_size  # noqa: PTH116
        except FileNotFoundError:
            return None

    def files(self) -> Listing:
        """Every file below the directory."""
        listing = Listing()
        for entry, key in _walk(self.folder, ""):
            try:
                info = entry.stat(follow_symlinks=False)
            except FileNotFoundError:  # a recording goes on meanwhile
                continue
            if stat.S_ISLNK(info.st_mode):
                listing.odd.append((key, "is a link"))
            elif stat.S_ISDIR(info.st_mode):
                listing.odd.append((key, "is a folder deeper than any of an archive"))
            elif not stat.S_ISREG(info.st_mode):
                listing.odd.append((key, "is no ordinary file"))
            else:
                listing.sizes[key] = info.st_size
        return listing

    def stamp(self) -> tuple[int, ...]:
        """Which file the root document is, and of when."""
        try:
            info = (self.folder / ROOT).stat()
        except OSError:
            return (0,)
        return info.st_ino, info.st_mtime_ns, info.st_size

    def root_now(self) -> bytes:
        """The root document as it is by now."""
        try:
            return self._root()
        except OSError:
            return b""

    @contextmanager
    def opened(self, key: str) -> Iterator[int]:
        """A descriptor of a file."""
        fd = os.open(self._local(key), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            yield fd
        finally:
            os.close(fd)

    def _local(self, key: str) -> str:
        """The path of a file that may be opened: ArchiveError where a link leads to it or it is a device."""
        self._check_folder(key.rpartition("/")[0])
        file = f"{self._base}/{key}"
        try:
            mode = os.lstat(file).st_mode
        except OSError:
            return file
        if stat.S_ISLNK(mode):
            raise _link(key)
        if stat.S_ISDIR(mode):
            raise FileNotFoundError(key)
        if not stat.S_ISREG(mode):
            raise ArchiveError(f"{key!r} of the archive is no ordinary file; get it from its author again")
        return file

    def _check_folder(self, folder: str) -> None:
        """ArchiveError where a folder within the archive, or one around it, is a link or leads elsewhere."""
        if folder in self._inside:
            return
        outer, _, name = folder.rpartition("/")
        self._check_folder(outer)
        if name in ("", ".", "..") or os.path.islink(f"{self._base}/{folder}"):  # noqa: PTH114
            raise _link(folder)
        self._inside.add(folder)

    def _root(self) -> bytes:
        file = self.folder / ROOT
        info = file.lstat()
        if not stat.S_ISREG(info.st_mode):
            raise ArchiveError(
                f"{str(file)!r} is a link or no ordinary file, which is not followed; copy the archive with its links "
                "resolved (cp -rL) and open the copy"
            )
        if info.st_size > MAX_ROOT:
            raise ArchiveError(
                f"{str(file)!r} has {info.st_size} bytes, more than the {MAX_ROOT} that are read"
            )
        return file.read_bytes()


def _link(key: str) -> ArchiveError:
    return ArchiveError(
        f"{key!r} of the archive is a link, or lies behind one, which is not followed; copy the archive with its "
        "links resolved (cp -rL) and open the copy"
    )


def _walk(folder: Path, prefix: str) -> Iterator[tuple["os.DirEntry[str]", str]]:
    """All that is no folder, and folders beyond which the system would take no path."""
    waiting = [(folder, prefix)]
    while waiting:
        place, start = waiting.pop()
        with os.scandir(place) as entries:
            for entry in entries:
                key = start + entry.name
                if entry.is_dir(follow_symlinks=False) and len(key) < _LONGEST:
                    waiting.append((Path(entry.path), f"{key}/"))
                else:
                    yield entry, key


KINDS: list[type[Store]] = [ZipStore, UrlStore, DirectoryStore]  # the first that takes a location opens it


def connect(location: str | os.PathLike[str], within: str = "") -> Store:
    """Open the store of an archive; of the archive at a path within another, if one is given.

    Errors: ArchiveError if nothing is there, or nothing that could be an archive.
    """
    text = os.fspath(location)
    for kind in KINDS:
        if kind.takes(text):
            return kind.open(text, within)
    raise ArchiveError(f"there is no archive at {text!r}; check the path")


def is_path(location: str | os.PathLike[str]) -> bool:
    """Whether a location is a path of this machine, there or not: no URL, and nothing that another store takes."""
    text = os.fspath(location)
    if is_remote(text):
        return False
    return os.path.lexists(local_path(text)) or not any(kind.takes(text) for kind in KINDS)
