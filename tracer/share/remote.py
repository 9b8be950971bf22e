"""To an object store and back: objects in parallel, those already there not again, the root document last.

Any URL of fsspec will do. Credentials and endpoints come from where its file systems look for them: their
environment variables and the configuration of fsspec.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from tracer.archive import ranks
from tracer.archive.source import Source
from tracer.errors import ArchiveError
from tracer.share.parts import Parts
from tracer.share.tree import Progress
from tracer.spec import RANKS
from tracer.store.documents import to_json
from tracer.store.fetch import Place
from tracer.store.files import Directory, create, write_all
from tracer.store.store import ROOT, is_remote, is_zip, local_path, lost
from tracer.verify import verify
from tracer.writer.place import beside, exists, fresh, locked, put, remove, settled

_JOURNAL = "manifest/objects/pushed"  # what has arrived, until the root has
_BATCH = 256  # objects between two entries in the journal


class Moved(NamedTuple):
    """What was copied: objects sent, objects that were there already, bytes sent."""

    sent: int
    kept: int
    nbytes: int


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
            _Push(part, f"{place}/{ranks.within(rank)}", jobs, progress) for rank, part in others.items()
        ]
        return _Push(source, place, jobs, progress, parts).run(overwrite)
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
            for inner in (part, part / RANKS, *(part / ranks.within(rank) for rank in others)):
                if inner.is_symlink():
                    remove(inner)
                inner.mkdir(exist_ok=True)
            for rank, one in {**others, 0: source}.items():
                moved.append(_pull(one, part / ranks.within(rank), jobs, progress))
            _check_arrived(part, place, full=False)
            put(part, target)
        return Moved(*map(sum, zip(*moved, strict=True)))
    finally:
        for one in (source, *others.values()):
            one.close()


# ---- push ----


class _Push:
    def __init__(
        self, source: Source, url: str, jobs: int, progress: Progress | None, others: Sequence["_Push"] = ()
    ) -> None:
        import fsspec

        self._others = others  # of the other processes of a run
        self._source, self._url, self._jobs, self._progress = source, url, jobs, progress
        self._folder = Path(source.store.folder)  # type: ignore[arg-type]
        self._parts = Parts.of(source)
        self._fs, self._base = fsspec.core.url_to_fs(url)

    def run(self, overwrite: bool) -> Moved:
        """Send everything, the root last."""
        noted = self._noted(overwrite)
        if _is_local(self._fs):
            Path(self._base).parent.mkdir(parents=True, exist_ok=True)
            self._there = Directory(settled(self._base))
        moved = [other.run(overwrite) for other in self._others]
        there = self._listed()
        sealed = self._parts.sealed
        unchanged = [
            key for key in sealed if noted.get(key) == sealed[key] and there.get(key) == sealed[key][0]
        ]
        known = {key: sealed[key] for key in unchanged}
        missing = sorted(sealed.keys() - known.keys())
        sent = 0
        for batch in _batches(missing):
            self._report(len(known), batch[0])
            _all(self._jobs, self._send_sealed, batch)
            known |= {key: sealed[key] for key in batch}
            sent += len(batch)
            self._put_bytes(_JOURNAL, json.dumps(known).encode())
        documents = {f"{path}/{ROOT}": to_json(node).encode() for path, node in self._source.nodes.items()}
        _all(self._jobs, self._send, self._parts.open)
        _all(self._jobs, lambda key: self._put_bytes(key, documents[key]), list(documents))
        self._check_arrived()
        self._put_bytes(ROOT, self._source.store.root)
        if self._fs.exists(f"{self._base}/{_JOURNAL}"):
            self._fs.rm_file(f"{self._base}/{_JOURNAL}")
        nbytes = sum(sealed[key][0] for key in missing)
        return Moved(*map(sum, zip(Moved(sent, len(unchanged), nbytes), *moved, strict=True)))

    def _noted(self, overwrite: bool) -> dict[str, tuple[int, int]]:
        """Sealed objects that are there by the word of an earlier push, or of the archive there."""
        journal = self._read(_JOURNAL)
        noted = {} if journal is None else {key: tuple(entry) for key, entry in json.loads(journal).items()}
        if self._read(ROOT) is None:
            return noted
        try:
            earlier = Source(self._url)
        except ArchiveError:
            raise ArchiveError(f"something else is at {self._url!r}; choose another place") from None
        try:
            sealed = Parts.of(earlier).sealed
            same = earlier.record["run_id"] == self._source.record["run_id"]
        finally:
            earlier.close()
        if same and all(self._parts.sealed.get(key) == entry for key, entry in sealed.items()):
            return noted | sealed
        if not overwrite:
            what = "this run in another form" if same else "another run"
            raise ArchiveError(
                f"{what} is at {self._url!r}; choose another place, or overwrite it with overwrite=True"
            )
        self._fs.rm_file(f"{self._base}/{ROOT}")  # first: nobody opens a mixture of both
        self._fs.rm(self._base, recursive=True)
        return {}

    def _listed(self) -> dict[str, int]:
        """Bytes of every object there."""
        root = self._base.strip("/")
        self._fs.invalidate_cache()
        try:
            listing = self._fs.find(self._base, detail=True)
        except FileNotFoundError:
            return {}
        return {
            name.strip("/").removeprefix(root).lstrip("/"): int(info["size"])
            for name, info in listing.items()
        }

    def _read(self, key: str) -> bytes | None:
        try:
            return self._fs.cat_file(f"{self._base}/{key}")
        except FileNotFoundError:
            return None

    def _send_sealed(self, key: str) -> None:
        if not self._parts.is_whole(key, self._folder / key):
            raise ArchiveError(f"object {key!r} is damaged or lost here; `tracer verify` lists what else is")
        self._send(key)

    def _send(self, key: str) -> None:
        if _is_local(self._fs):
            self._put_bytes(key, (self._folder / key).read_bytes())
        else:
            self._fs.put_file(str(self._folder / key), f"{self._base}/{key}")

    def _put_bytes(self, key: str, data: bytes) -> None:
        place = f"{self._base}/{key}"
        if not _is_local(self._fs):
            self._fs.pipe_file(place, data)
            return
        # A directory, unlike a store, shows files half written.
        self._there.publish(key, lambda fd: write_all(fd, [data]))

    def _check_arrived(self) -> None:
        there = self._listed()
        for key, (size, _) in self._parts.sealed.items():
            if there.get(key) != size:
                raise ArchiveError(
                    f"object {key!r} has {there.get(key, 0)} bytes at {self._url!r} instead of {size}; push "
                    "again"
                )

    def _report(self, done: int, key: str) -> None:
        if self._progress is not None:
            self._progress(done, len(self._parts.sealed), key)


def _push_file(local: Path, url: str, overwrite: bool) -> Moved:
    import fsspec

    Source(local).close()  # refuses what is no archive
    filesystem, place = fsspec.core.url_to_fs(url)
    if filesystem.exists(place) and not overwrite:
        raise ArchiveError(
            f"{url!r} exists already; choose another place, or overwrite it with overwrite=True"
        )
    if _is_local(filesystem):
        Path(place).parent.mkdir(parents=True, exist_ok=True)
    filesystem.put_file(str(local), place)
    return Moved(1, 0, local.stat().st_size)


# ---- pull ----


def _pull(source: Source, part: Path, jobs: int, progress: Progress | None) -> Moved:
    parts, into = Parts.of(source), Directory(part)
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
    for batch in _batches(missing):
        if progress is not None:
            progress(done, len(parts.sealed), batch[0])
        _all(jobs, fetch, batch)
        done += len(batch)
    _all(jobs, fetch, parts.open)
    for path, node in source.nodes.items():
        into.publish_text(f"{path}/{ROOT}", to_json(node))
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


# ---- both ----


def _all(jobs: int, copy: Callable[[str], None], keys: Sequence[str]) -> None:
    """Copy several objects at a time; the first error ends it."""
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        for _ in pool.map(copy, keys):
            pass


def _batches(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(keys), _BATCH):
        yield keys[start : start + _BATCH]


def _is_local(filesystem: Any) -> bool:
    return "file" in (
        filesystem.protocol if isinstance(filesystem.protocol, tuple) else (filesystem.protocol,)
    )
