"""Where a recording goes when something is at its path already."""

from pathlib import Path

from tracer.errors import ArchiveError, RecordError, did_you_mean
from tracer.recorder.ranks.writer import Parent
from tracer.store.store import parted
from tracer.writer.place import cannot_write, locked, remove, settled

EXISTS = ("refuse", "overwrite", "number")


def placed(path: Path, exists: str, *, resuming: bool, several: bool) -> Path:
    """The path to record at: of `exists="number"` the next one free, `run-2.zarr` after `run.zarr`.

    RecordError for another word, together with `resume=`, or where several processes would have to agree on it.
    """
    if exists not in EXISTS:
        raise RecordError(f"exists={exists!r}: {did_you_mean(str(exists), EXISTS)}.")
    if exists != "refuse" and (resuming or several):
        with_what = "resume=" if resuming else "several processes, which would have to agree on the path"
        raise RecordError(
            f"exists={exists!r} does not go with {with_what}: choose a path of its own for the run."
        )
    number, free = 1, path
    name, ending = parted(path.name)
    while exists == "number" and (free.exists() or free.is_symlink()):
        number += 1
        free = path.with_name(f"{name}-{number}{ending}")
    return free


def check_free(path: Path, exists: str) -> None:
    """ArchiveError where something is at the path that is not to be overwritten, or is no archive."""
    if not path.exists() and not path.is_symlink():
        return
    if exists != "overwrite":
        raise ArchiveError(
            f"{path} exists: choose another path, remove it, or give exists='overwrite' or exists='number'; an "
            "archive holds one run."
        )
    if path.is_symlink() or not path.is_dir() or Parent(path).record() is None:
        raise ArchiveError(
            f"{path} is no archive in a directory, so it is not overwritten: choose another path."
        )


def clear(path: Path) -> None:
    """Remove the archive at the path, if there is one. ArchiveError where it is being written."""
    if not path.exists():
        return
    with locked(settled(path)):
        try:
            remove(path)
        except OSError as error:
            raise cannot_write(path, error) from error
