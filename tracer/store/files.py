"""Files as the writer needs them: whole or absent under their name, and one writer for an archive."""

import errno
import fcntl
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tracer import spec
from tracer.errors import ArchiveError

_MANY_BUFFERS = 512  # the system takes at most 1024 in one call
_UNSUPPORTED = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}

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


class Directory:
    """The directory of an archive being written. Files appear under their names complete, by rename."""

    def __init__(self, path: Path, *, sync: bool = False) -> None:
        self.path = path
        self._sync = sync
        self._touched = {path.parent, path, path / "manifest"}  # the first commit may be into a new directory
        self._made: set[str] = set()
        # Not beside the group metadata: readers that list groups must not find a foreign object there.
        (path / "manifest" / "objects").mkdir(parents=True, exist_ok=True)
        self._partial = str(path / "manifest" / "objects" / "partial")
        self._prefix = f"{path}/"  # a commit names a dozen files, and making a Path of each is half its time

    def publish(self, key: str, fill: Callable[[int], T], *, last: bool = False) -> T:
        """Let ``fill`` write to a descriptor, name the file ``key``, and return what ``fill`` returned.

        ``last`` (the commit itself) first makes sure that everything published before has reached the disk,
        where that was asked for.
        """
        self._make_parent(key)
        fd = os.open(self._partial, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o666)
        try:
            result = fill(fd)
            if self._sync:
                os.fsync(fd)
        finally:
            os.close(fd)
        if last:
            self._sync_directories()
        os.rename(self._partial, self._prefix + key)  # noqa: PTH104
        if self._sync:
            self._touched.add((self.path / key).parent)
            if last:
                self._sync_directories()
        return result

    def publish_text(self, key: str, text: str, *, last: bool = False) -> None:
        """Publish a text file."""
        self.publish(key, lambda fd: write_all(fd, [text.encode()]), last=last)

    def discard(self, key: str) -> None:
        """Remove a file no commit names."""
        (self.path / key).unlink(missing_ok=True)

    def _make_parent(self, key: str) -> None:
        parent = key.rpartition("/")[0]
        if parent and parent not in self._made:
            (self.path / parent).mkdir(parents=True, exist_ok=True)
            self._made.add(parent)
            if self._sync:
                self._touched.update(self.path / folder for folder in (Path(parent), *Path(parent).parents))

    def _sync_directories(self) -> None:
        for folder in self._touched:
            sync(folder)
        self._touched.clear()


class Lock:
    """An exclusive claim on an archive, held in a file beside it and given up when the process ends.

    Errors: ArchiveError if another process holds it.
    """

    def __init__(self, path: Path) -> None:
        self.file = beside(path, ".lock")
        self._fd: int | None = self._claim(path)

    def _claim(self, path: Path) -> int:
        while True:
            fd = os.open(self.file, os.O_CREAT | os.O_RDWR, 0o666)
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

    def _is_current(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), self.file.stat())
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Give the claim up and remove its file."""
        if self._fd is not None:
            self.file.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = None

    def forget(self) -> None:
        """Close the inherited descriptor in a forked child, which leaves the parent's claim alone."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
