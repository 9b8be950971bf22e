"""To an object store and back: objects in parallel, those already there not again, the root document last.

Any URL of fsspec will do. Credentials and endpoints come from where its file systems look for them: their
environment variables and the configuration of fsspec.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from tracer.archive import ranks
from tracer.archive.source import Source
from tracer.errors import ArchiveError
from tracer.share.parts import Parts, batches, is_piece, several
from tracer.share.sending import Moved, Sending, apart, is_local, there
from tracer.share.tree import Progress
from tracer.spec import RANKS
from tracer.store.fetch import Place, told
from tracer.store.files import Directory, create
from tracer.store.store import ROOT, is_remote, is_zip, local_path, lost
from tracer.verify import verify
from tracer.writer.place import beside, exists, fresh, locked, put, remove, settled


def push(
    path: str | os.PathLike[str],
    url: str,
    *,
    jobs: int = 8,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Moved:
    """Copy a directory archive, finished or still recording, or a zip file, to a URL.

    The archive can be opened there once the root document has arrived, as the last object. Called again after
    a break, or when the run has gone on, it sends what is missing: an object is kept if it was noted there
    with the size and checksum it has here. To ``hf://`` everything goes in one commit.

    Errors: ArchiveError if another archive is there (``overwrite=True`` replaces it), an object here is
    damaged, or what arrived is not what was sent.
    """
    if is_remote(os.fspath(path)):
        raise ArchiveError(f"{os.fspath(path)!r} is not on this machine: pull it first")
    local, place = local_path(os.fspath(path)), url.rstrip("/")
    if place.startswith("hf://"):
        from tracer.share.hub import push_to_hub

        n, nbytes = push_to_hub(local, place)
        return Moved(n, 0, nbytes)
    if local.is_file():
        return _push_file(local, place, overwrite)
    source = Source(local)
    others: dict[int, Source] = {}
    try:
        others = ranks.every(source)
        parts = [
            Sending(part, f"{place}/{ranks.within(rank)}", jobs, progress) for rank, part in others.items()
        ]
        return Sending(source, place, jobs, progress, parts).run(overwrite)
    finally:
        for one in (source, *others.values()):
            one.close()


def pull(url: str, path: str | os.PathLike[str], *, jobs: int = 8, progress: Progress | None = None) -> Moved:
    """Copy an archive, or the zip file of one, from a URL to a new directory or file.

    Every object is checked as it arrives, and the whole once more by `verify`. They collect in ``path`` + ".part";
    called again after a break, it fetches what is missing there or damaged.

    Errors: ArchiveError if ``path`` exists, or the archive at the URL is damaged.
    """
    target, place = settled(path), url.rstrip("/")
    if os.path.lexists(target):
        raise exists(target)
    if is_zip(place) or place.endswith(".zip"):
        return _pull_file(place, target)
    source = Source(place)
    others: dict[int, Source] = {}
    try:
        others = ranks.every(source)
        part, moved = beside(target), []
        with locked(target):
            _check_left(part, source)
            for inner in (part, part / RANKS, *(part / ranks.within(rank) for rank in others)):
                if inner.is_symlink():
                    remove(inner)
                inner.mkdir(exist_ok=True)
            parts = {rank: Parts.of(one) for rank, one in {**others, 0: source}.items()}
            _clear(
                part,
                {f"{ranks.within(rank)}/{key}".lstrip("/") for rank in parts for key in parts[rank].names},
            )
            for rank, wanted in parts.items():
                moved.append(_pull(wanted, part / ranks.within(rank), jobs, progress))
            try:
                _check_arrived(part, place, full=False)
            except ArchiveError:
                Directory(part).discard(ROOT)  # what is left of a pull is no archive
                raise
            put(part, target)
        return Moved(*map(sum, zip(*moved, strict=True)))
    finally:
        for one in (source, *others.values()):
            one.close()


def _push_file(local: Path, url: str, overwrite: bool) -> Moved:
    Source(local).close()  # refuses what is no archive
    filesystem, place = there(url)
    with told(f"write to {url!r}"):
        if filesystem.isdir(place) or (filesystem.exists(place) and not overwrite):
            raise ArchiveError(
                f"{url!r} exists already; choose another place, or overwrite a file with overwrite=True"
            )
        if is_local(filesystem):
            apart(place, local, url)
            Path(place).parent.mkdir(parents=True, exist_ok=True)
        filesystem.put_file(str(local), place)
    return Moved(1, 0, local.stat().st_size)


# ---- pull ----


def _check_left(part: Path, source: Source) -> None:
    """Refuse what is where a pull collects, if it may be something else than what is left of one."""
    if part.is_symlink() or not part.exists():
        return
    if not part.is_dir():
        raise _in_the_way(part)
    odd = next((key for key in _files(part) if not is_piece(key)), None)
    if odd is not None:
        raise _in_the_way(part / odd)
    if (part / ROOT).exists():
        try:
            left = Source(part)
        except ArchiveError:
            raise _in_the_way(part / ROOT) from None
        left.close()
        if left.record["run_id"] != source.record["run_id"]:
            raise _in_the_way(part / ROOT)


def _in_the_way(place: Path) -> ArchiveError:
    return ArchiveError(
        f"{str(place)!r} is in the way and not what is left of a pull of this archive; move it away, then pull again"
    )


def _files(folder: Path) -> Iterator[str]:
    for place, _, names in os.walk(folder):
        for name in names:
            yield (Path(place) / name).relative_to(folder).as_posix()


def _clear(part: Path, names: set[str]) -> None:
    """Remove what is left of a pull of another archive, or of an earlier commit."""
    into = Directory(part)
    for key in [key for key in _files(part) if key not in names]:
        into.discard(key)


def _pull(parts: Parts, part: Path, jobs: int, progress: Progress | None) -> Moved:
    source, into = parts.source, Directory(part)
    missing = [key for key in parts.sealed if not parts.is_whole(key, part / key)]
    _check_room(source.path, part, sum(parts.sealed[key][0] for key in missing))

    def fetch(key: str) -> None:
        limit = parts.sealed[key][0] if key in parts.sealed else parts.most(key)
        try:
            with os.fdopen(into.new(key), "wb") as file:
                source.store.copy(key, limit, file.write)
        except FileNotFoundError:
            raise lost(key) from None
        if key in parts.sealed and not parts.is_whole(key, part / key):
            into.discard(key)
            raise ArchiveError(
                f"object {key!r} of {source.path!r} is damaged; ask for the archive to be pushed again"
            )

    done = len(parts.sealed) - len(missing)
    for batch in batches(missing):
        if progress is not None:
            progress(done, len(parts.sealed), batch[0])
        several(jobs, fetch, batch)
        done += len(batch)
    several(jobs, fetch, parts.open)
    for key, document in parts.documents.items():
        into.publish_text(key, document)
    into.publish_text(ROOT, source.store.root.decode(), last=True)
    nbytes = sum(parts.sealed[key][0] for key in missing)
    return Moved(len(missing), len(parts.sealed) - len(missing), nbytes)


def _pull_file(url: str, target: Path) -> Moved:
    place = Place(url)
    with fresh(target) as part:
        try:
            size = place.size()
            if size is None:
                raise ArchiveError(
                    f"{url!r} does not say how long it is, so it could go on for ever; fetch it by other means"
                )
            _check_room(url, target.parent, size)
            with os.fdopen(create(part), "wb") as file:
                nbytes = place.copy("", size, file.write)
        except FileNotFoundError:
            raise ArchiveError(f"there is no file at {url!r}; check the URL and your credentials") from None
        if nbytes != size:
            raise ArchiveError(f"of the {size} bytes of {url!r} only {nbytes} arrived; pull it again")
        _check_arrived(part, url, full=True)
    return Moved(1, 0, target.stat().st_size)


def _check_arrived(part: Path, url: str, full: bool) -> None:
    """Refuse what has come if it is not sound: tails, documents and the headers of a zip file included."""
    report = verify(part, full=full)
    if not report.ok:
        others = f" (and {len(report.findings) - 1} more)" if len(report.findings) > 1 else ""
        raise ArchiveError(
            f"{url!r} is damaged: {report.findings[0]}{others}; ask for the archive to be pushed again"
        )


def _check_room(url: str, place: Path, nbytes: int) -> None:
    free = shutil.disk_usage(place).free
    if nbytes > free:
        raise ArchiveError(
            f"{url!r} says that it has {nbytes} bytes, of which {free} have room at {str(place)!r}"
        )
