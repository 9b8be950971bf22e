"""Files as the writer needs them: whole or absent under their name, never through a link, one writer for an archive.

Every name inside an archive is reached from the archive's own folder, component by component, by descriptors
that refuse links; every file is new when it is written and gets its name by rename. Whatever somebody put into
the way - a link, a pipe, a second name of another file - is replaced or refused, and never written to.
"""

import errno
import fcntl
import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from tracer import spec
from tracer.errors import ArchiveError
from tracer.store.store import ROOT, written_path

PARTIAL = "manifest/objects/partial"  # what the writer calls a file that is not complete yet
_MANY_BUFFERS = 512  # the system takes at most 1024 in one call
_UNSUPPORTED = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_NEW = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW
_PIECE = 1 << 20

Buffer = Any  # bytes or a flat array of bytes
T = TypeVar("T")


def write_all(fd: int, buffers: Sequence[Buffer]) -> int:
    """Write every byte of the buffers in order and return how many they were."""
    total = 0
    for start in range(0, len(buffers), _MANY_BUFFERS):
        pending = [
            memoryview(buffer).cast("B") for buffer in buffers[start : start + _MANY_BUFFERS] if len(buffer)
        ]
        while pending:
            written = os.writev(fd, pending)
            total += written
            while pending and written >= pending[0].nbytes:
                written -= pending.pop(0).nbytes
            if pending and written:
                pending[0] = pending[0][written:]
    return total


def beside(path: Path, ending: str) -> Path:
    """The place of a file or folder that belongs to an archive but not into it.

    What one of several processes recorded is an archive within that of the run, where no foreign file may be:
    its place is beside the run's.

    >>> str(beside(Path("/runs/a.zarr"), ".lock"))
    '/runs/a.zarr.lock'
    """
    run = path.parent.parent
    if path.parent.name == spec.RANKS and path.name.isdecimal() and (run / "zarr.json").exists():
        return run.with_name(f"{run.name}.rank{path.name}{ending}")
    return path.with_name(path.name + ending)


def sync(place: Path) -> None:
    """Wait until a file, or the names in a folder, have reached the disk."""
    fd = os.open(place, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def create(name: str | Path, folder: int | None = None) -> int:
    """Open a new file for writing; what had its name before, a link too, loses it and is not touched."""
    try:
        return os.open(name, _NEW, 0o666, dir_fd=folder)
    except FileExistsError:
        os.unlink(name, dir_fd=folder)
        return os.open(name, _NEW, 0o666, dir_fd=folder)


class Directory:
    """The directory of an archive being written. Files appear under their names complete, by rename.

    It is made if it is missing. Calls come from any thread. Errors, of every method: ArchiveError where a
    folder of the archive is a link, or something that is no folder; OSError for what the disk refuses.
    """

    def __init__(self, path: Path, *, sync: bool = False) -> None:
        self.path = path
        self._sync = sync
        self._made: set[str] = set()
        self._touched: set[str] = {"", "manifest"}  # the first commit may be into a new directory
        self._outside = True
        self._one_at_a_time = threading.Lock()
        with suppress(FileExistsError):
            os.mkdir(path)  # noqa: PTH102
        # Not beside the group metadata: readers that list groups must not find a foreign object there.
        self._scratch, _, self._partial = PARTIAL.rpartition("/")
        with self._folder(self._scratch, make=True):
            pass

    def publish(self, key: str, fill: Callable[[int], T], *, last: bool = False) -> T:
        """Let ``fill`` write to a descriptor, name the file ``key``, and return what ``fill`` returned.

        ``last`` (the commit itself) first makes sure that everything published before has reached the disk,
        where that was asked for.
        """
        parent, _, name = key.rpartition("/")
        with self._one_at_a_time, self._folder(self._scratch) as scratch:
            fd = create(self._partial, scratch)
            try:
                result = fill(fd)
                if self._sync:
                    os.fsync(fd)
            finally:
                os.close(fd)
            if last:
                self._sync_folders()
            with self._folder(parent, make=True) as folder:
                os.rename(self._partial, name, src_dir_fd=scratch, dst_dir_fd=folder)
            if self._sync:
                self._touched.add(parent)
                if last:
                    self._sync_folders()
        return result

    def publish_text(self, key: str, text: str, *, last: bool = False) -> None:
        """Publish a text file."""
        self.publish(key, lambda fd: write_all(fd, [text.encode()]), last=last)

    def new(self, key: str) -> int:
        """Open a new file that has its name at once, so that several may be written at a time."""
        parent, _, name = key.rpartition("/")
        with self._folder(parent, make=True) as folder:
            return create(name, folder)

    @contextmanager
    def opened(self, key: str) -> Iterator[int]:
        """A descriptor of a file that was published, for reading."""
        parent, _, name = key.rpartition("/")
        with self._folder(parent) as folder:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder)
        try:
            yield fd
        finally:
            os.close(fd)

    def discard(self, key: str) -> None:
        """Remove a file no commit names."""
        parent, _, name = key.rpartition("/")
        with suppress(FileNotFoundError), self._folder(parent) as folder:
            os.unlink(name, dir_fd=folder)

    def move(self, key: str, other: "Directory") -> None:
        """Let another directory have a file, or a link itself, under the same key; nothing if there is none here."""
        parent, _, name = key.rpartition("/")
        with suppress(FileNotFoundError, ArchiveError), self._folder(parent) as folder:
            os.stat(name, dir_fd=folder, follow_symlinks=False)
            with other._folder(parent, make=True) as target:
                os.rename(name, name, src_dir_fd=folder, dst_dir_fd=target)
            self._touched.add(parent)
            other._touched.add(parent)

    def copy(self, key: str, other: "Directory") -> None:
        """Copy an ordinary file into another directory, under the same key."""
        parent, _, name = key.rpartition("/")
        with self._folder(parent) as folder:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        try:
            if stat.S_ISREG(os.fstat(fd).st_mode):
                other.publish(key, lambda into: _copy(fd, into))
        finally:
            os.close(fd)

    def settle(self) -> None:
        """Wait until all names given so far have reached the disk, where that was asked for."""
        if self._sync:
            self._sync_folders()

    @contextmanager
    def _folder(self, name: str, make: bool = False) -> Iterator[int]:
        """A descriptor of a folder of the archive, made if asked for, reached without following any link."""
        make = make and name not in self._made
        fd = os.open(self.path, _FOLDER)
        try:
            at = ""
            for part in name.split("/") if name else ():
                at = f"{at}/{part}" if at else part
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(part, dir_fd=fd)
                        self._touched.update((at, at.rpartition("/")[0]))
                outer, fd = fd, _inner(fd, part, at, self.path)
                os.close(outer)
            if make:
                self._made.add(name)
            yield fd
        finally:
            os.close(fd)

    def _sync_folders(self) -> None:
        if self._outside:
            sync(self.path.parent)
            self._outside = False
        for name in sorted(self._touched):
            with self._folder(name) as fd:
                os.fsync(fd)
        self._touched.clear()


def _inner(folder: int, name: str, whole: str, path: Path) -> int:
    try:
        return os.open(name, _FOLDER, dir_fd=folder)
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        raise ArchiveError(
            f"{whole!r} of {str(path)!r} is a link or no folder, and writing follows no link; copy the archive with "
            "its links resolved (cp -rL) and use the copy"
        ) from None


def _copy(fd: int, into: int) -> None:
    while piece := os.read(fd, _PIECE):
        write_all(into, [piece])


class Lock:
    """An exclusive claim on an archive, held in a file beside it and given up when the process ends.

    Errors: ArchiveError if another process holds it, or the file is a link or no ordinary file.
    """

    def __init__(self, path: Path) -> None:
        self.file = beside(path, ".lock")
        self._fd: int | None = self._claim(path)

    def _claim(self, path: Path) -> int:
        while True:
            fd = self._open()
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                # A file system without locks still refuses an existing archive; only that protection is left.
                if error.errno not in _UNSUPPORTED:
                    os.close(fd)
                    raise ArchiveError(
                        f"another process is writing {str(path)!r}; wait for it to end or choose another path"
                    ) from None
            if self._is_current(fd):
                return fd
            os.close(fd)  # the former holder removed the file between our two calls

    def _open(self) -> int:
        try:
            fd = os.open(self.file, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
                raise
        else:
            if stat.S_ISREG(os.fstat(fd).st_mode):
                return fd
            os.close(fd)
        raise ArchiveError(f"{str(self.file)!r} is a link or no ordinary file; remove it, then try again")

    def _is_current(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), self.file.lstat())
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Give the claim up and remove its file, if it is one that holds nothing, as ours do."""
        if self._fd is not None:
            if self._is_current(self._fd) and not os.fstat(self._fd).st_size:
                self.file.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = None

    def forget(self) -> None:
        """Close the inherited descriptor in a forked child, which leaves the parent's claim alone."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


_CLAIMS: dict[
    tuple[Path, int], int
] = {}  # folders that a thread of this process writes into, and how often it said so


@contextmanager
def claimed(folder: str | Path | None) -> Iterator[None]:
    """Be the only one who writes results into a folder; for None nothing. Claims of one thread may be nested.

    The claim ends with the process, however that ends. Errors: ArchiveError if another analysis or comparison
    writes there, nothing can be written, or it is an archive or a URL.
    """
    if folder is None:
        yield
        return
    path = written_path(folder).resolve()
    if (path / ROOT).is_file() and (path / "steps").is_dir():
        raise ArchiveError(f"{str(folder)!r} is an archive; choose another place for the results")
    mine = path, threading.get_ident()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = None if _CLAIMS.get(mine) else Lock(path)
    except OSError as error:
        raise _no_place(folder, error) from error
    _CLAIMS[mine] = _CLAIMS.get(mine, 0) + 1
    try:
        yield
    except OSError as error:
        if error.filename is None or not Path(os.fsdecode(error.filename)).resolve().is_relative_to(path):
            raise
        raise _no_place(folder, error) from error
    finally:
        _CLAIMS[mine] -= 1
        if lock is not None:
            del _CLAIMS[mine]
            lock.release()


def _no_place(folder: str | Path, error: OSError) -> ArchiveError:
    return ArchiveError(
        f"cannot write into {str(folder)!r}: {error.strerror or error}; choose another place for the results"
    )


def as_utf8(text: str) -> bytes:
    r"""Text as it is stored; of a file name that is no UTF-8, the bytes in question as a terminal shows them.

    >>> as_utf8("é.zarr"), as_utf8("\udcff.zarr")
    (b'\xc3\xa9.zarr', b'\\udcff.zarr')
    """
    return text.encode(errors="backslashreplace")


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Write a file that is there as it was, or whole, whenever the process ends."""
    path = Path(path)
    new = path.with_name(f".{path.name}.new")
    fd = create(new)
    try:
        write_all(fd, [as_utf8(content) if isinstance(content, str) else content])
    finally:
        os.close(fd)
    new.replace(path)
