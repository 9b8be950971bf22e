"""Where a whole archive or file is written that is to take a name: beside it, under its lock, and then at once."""

import ctypes
import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tracer.errors import ArchiveError
from tracer.spec import RANKS
from tracer.store.files import Lock, sync

_NOREPLACE, _EXCHANGE = 1, 2  # of renameat2: not onto a name in use; both names at once
_HERE = -100  # AT_FDCWD
_UNKNOWN = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP}
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}


@contextmanager
def locked(target: Path, *sources: Path) -> Iterator[None]:
    """Hold the locks of an archive to be written and of others that it is made of, each once.

    A source in a place where nothing can be written needs none. Errors: ArchiveError if another process holds
    one of them, or none can be had for the target.
    """
    with ExitStack() as held:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            held.callback(Lock(target).release)
        except OSError as error:
            raise cannot_write(target, error) from error
        for source in {path for path in sources if path != target}:
            try:
                held.callback(Lock(source).release)
            except OSError as error:
                if error.errno not in _READ_ONLY:
                    raise
        yield


@contextmanager
def fresh(target: Path, *, replace: bool = False, sources: tuple[Path, ...] = ()) -> Iterator[Path]:
    """A path beside ``target`` at which nothing is; what was put there takes the name ``target`` at the end.

    All that time the locks of ``target`` and of the ``sources`` are held. replace: the target is exchanged for
    it at once, and removed. Without that it must not exist by then. If the block raises, or writes nothing, the
    target stays as it is. Errors: ArchiveError for a name in use or a lock held, and for what the disk refuses.
    """
    part = beside(target)
    with locked(target, *sources):
        if not replace and os.path.lexists(target):
            raise exists(target)
        try:
            remove(part)  # what an attempt that was cut off left behind, or a link
            try:
                yield part
                if os.path.lexists(part):
                    put(part, target, replace=replace)
            finally:
                remove(part)
        except OSError as error:
            raise cannot_write(target, error) from error


def beside(target: Path) -> Path:
    """Where something that will have the name ``target`` is written."""
    return target.with_name(f"{target.name}.part")


def put(part: Path, target: Path, *, replace: bool = False) -> None:
    """Give what is at ``part`` the name ``target``; what had it is exchanged for it and then is at ``part``.

    Errors: ArchiveError if the name is in use and not to be replaced.
    """
    if replace and os.path.lexists(target):
        exchange(part, target)
    else:
        _name(part, target)
    sync(target.parent)  # before anything of an original is removed


def settled(path: str | os.PathLike[str]) -> Path:
    """The path of an archive without links on the way to it, so that all who change it use one lock.

    Where an exchange was cut off between two renames, the original gets its name back first. Errors:
    ArchiveError for what one of several processes recorded, if a link within the run's archive leads to it.
    """
    place = Path(path).absolute()
    run = place.parent.parent
    if place.parent.name == RANKS and place.name.isdecimal() and (run / "zarr.json").exists():
        for inner in (place.parent, place):
            if inner.is_symlink():
                raise ArchiveError(f"{str(inner)!r} is a link, and writing follows no link within an archive")
        return settled(run) / RANKS / place.name
    place = place.resolve() if place.exists() else place.parent.resolve() / place.name
    aside = _aside(place)
    if not os.path.lexists(place) and aside.is_dir() and not aside.is_symlink():
        aside.rename(place)
    return place


def remove(path: Path) -> None:
    """Remove a file, a link or a directory, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def exchange(one: Path, other: Path) -> None:
    """Exchange two names at once, or where the system cannot, one after the other."""
    if _renameat2(one, other, _EXCHANGE):
        return
    aside = _aside(other)
    remove(aside)
    other.rename(aside)
    one.rename(other)
    aside.rename(one)


def exists(target: Path) -> ArchiveError:
    """What is said of a name in use."""
    return ArchiveError(f"{str(target)!r} exists already; choose another output or remove it first")


def cannot_write(target: Path, error: OSError) -> ArchiveError:
    """What is said of a place that cannot be written."""
    return ArchiveError(
        f"cannot write {str(target)!r}: {error.strerror or error}; what was recorded is as it was"
    )


def _name(part: Path, target: Path) -> None:
    try:
        if _renameat2(part, target, _NOREPLACE):
            return
    except FileExistsError:
        raise exists(target) from None
    if os.path.lexists(target):
        raise exists(target)
    part.rename(target)


def _aside(target: Path) -> Path:
    return target.with_name(f"{target.name}.original")


def _renameat2(one: Path, other: Path, flags: int) -> bool:
    """Whether the system did it; OSError if it can and did not."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    if libc.renameat2(_HERE, os.fsencode(one), _HERE, os.fsencode(other), flags) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNKNOWN:
        return False
    raise OSError(number, os.strerror(number), str(one))
