"""Where a whole archive or file is written that is to take a name: beside it, under its lock, and then at once."""

import ctypes
import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from secrets import token_hex

from tracer.errors import ArchiveError
from tracer.spec import RANKS
from tracer.store.files import Lock, sync
from tracer.store.store import written_path

_NOREPLACE, _EXCHANGE = 1, 2  # of renameat2: not onto a name in use; both names at once
_HERE = -100  # AT_FDCWD
_UNKNOWN = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP}
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}
_PART, _ORIGINAL = "part", "original"  # of private names: what is being made, what is put aside for it


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
    """A private path beside ``target``; what was put there takes the name ``target`` at the end.

    All that time the locks of ``target`` and of the ``sources`` are held. replace: the target is exchanged for
    it at once, and removed. Without that it must not exist by then. If the block raises, or writes nothing, the
    target stays as it is. Errors: ArchiveError for a name in use or a lock held, and for what the disk refuses.
    """
    with locked(target, *sources):
        if not replace and os.path.lexists(target):
            raise exists(target)
        try:
            _clear(target)
            part = _private(target, _PART)
            try:
                yield part
                if os.path.lexists(part):
                    put(part, target, replace=replace)
            finally:
                remove(part)
        except OSError as error:
            raise cannot_write(target, error) from error


def beside(target: Path) -> Path:
    """Where something that will have the name ``target`` collects, over several attempts if it has to."""
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
    place = written_path(path).absolute()
    run = place.parent.parent
    if place.parent.name == RANKS and place.name.isdecimal() and (run / "zarr.json").exists():
        for inner in (place.parent, place):
            if inner.is_symlink():
                raise ArchiveError(f"{str(inner)!r} is a link, and writing follows no link within an archive")
        return settled(run) / RANKS / place.name
    place = place.resolve() if place.exists() else place.parent.resolve() / place.name
    if not os.path.lexists(place):
        asides = (aside for aside in _left(place, _ORIGINAL) if aside.is_dir() and not aside.is_symlink())
        if aside := next(asides, None):
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
    aside = _private(other, _ORIGINAL)
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


def _private(target: Path, ending: str) -> Path:
    """A name beside the target that nothing has, and that nobody else would give: `.run.zarr.5f0c27a1.part`."""
    while os.path.lexists(place := target.with_name(f".{target.name}.{token_hex(4)}.{ending}")):
        pass
    return place


def _left(target: Path, ending: str) -> list[Path]:
    """What a process that was killed left beside the target under such names."""
    ours = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{8}}\.{ending}(\.part)?")
    try:
        return [place for place in target.parent.iterdir() if ours.fullmatch(place.name)]
    except OSError:  # no folder yet, or not for us to list
        return []


def _clear(target: Path) -> None:
    """Remove what is left of attempts that were cut off; an original only where the target is there again."""
    for ending in (_PART, _ORIGINAL) if os.path.lexists(target) else (_PART,):
        for place in _left(target, ending):
            remove(place)


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
