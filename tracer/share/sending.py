"""One archive sent to a URL: what is there, what of it may stay, and the rest, in an order that is safe to break off.

Where nothing can be opened yet a journal says whose objects are there: it comes first, and goes when the root has come.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tracer.archive.source import Source
from tracer.errors import ArchiveError
from tracer.share.parts import PUSHED, Parts, batches, begins, is_piece, outgrown, several
from tracer.share.tree import Progress
from tracer.store.fetch import Place, told
from tracer.store.files import PARTIAL, Directory, write_all
from tracer.store.store import ROOT, lost
from tracer.writer.place import settled

_LATER = "; push again when that is mended, which sends what is missing"


class Moved(NamedTuple):
    """What was copied: objects sent, objects that were there already, bytes sent."""

    sent: int
    kept: int
    nbytes: int


class Sending:
    """An archive on its way to a URL."""

    def __init__(
        self, source: Source, url: str, jobs: int, progress: Progress | None, others: Sequence["Sending"] = ()
    ) -> None:
        self._others = others  # of the other processes of a run
        self._source, self._url, self._jobs, self._progress = source, url, jobs, progress
        self._folder = Path(source.store.folder)  # type: ignore[arg-type]
        self._parts = Parts.of(source)
        self._fs, self._base = there(url)
        self._noted: dict[str, tuple[int, int]] = {}  # sealed objects that are there
        self._outdated = False  # whether a root is there that what is sent would contradict
        self._foreign = False  # whether all that is there is to go
        if is_local(self._fs):
            self._base = str(apart(self._base, self._folder, url))

    def run(self, overwrite: bool) -> Moved:
        """Send everything, the root last. Nothing there is changed before all of it may be."""
        self._look(overwrite)
        for other in () if self._foreign else self._others:
            other._look(overwrite)
        moved = []
        self._prepare()
        for other in self._others:
            other._prepare()
            moved.append(other._send_all())
        return Moved(*map(sum, zip(self._send_all(), *moved, strict=True)))

    # ---- what is there ----

    def _look(self, overwrite: bool) -> None:
        """Find out what may stay there. Errors: ArchiveError for what may not be replaced."""
        several(self._jobs, self._open, self._parts.open)  # before anything there has to go for it
        root, journal = self._read(ROOT), self._read(PUSHED)
        if root is None and journal is None:
            if self._occupied():
                raise self._something_else()
            return
        run_id, self._noted = _journal(journal)
        what = None if run_id == self._source.record["run_id"] else "what is left of a push of another run"
        if root is not None:
            what = self._compare()
        if what is not None and not overwrite:
            raise ArchiveError(
                f"{what} is at {self._url!r}; choose another place, or overwrite it with overwrite=True (--overwrite)"
            )
        self._foreign = what is not None

    def _compare(self) -> str | None:
        """Note what the archive there has in common with this one; else say what it is."""
        try:
            earlier = Source(self._url)
        except ArchiveError:
            raise self._something_else() from None
        try:
            if earlier.record["run_id"] != self._source.record["run_id"]:
                return "another run"
            try:
                parts = Parts.of(earlier)
            except ArchiveError:
                return "a damaged archive of this run"
            self._outdated = not begins(parts, self._source)
            if self._outdated and not outgrown(earlier, self._source):
                return "this run in another form or state"
            self._noted |= parts.sealed
            return None
        finally:
            earlier.close()

    def _something_else(self) -> ArchiveError:
        return ArchiveError(f"something else is at {self._url!r}; choose another place")

    def _occupied(self) -> bool:
        """Whether anything is there: the first that is found, since below a home directory there may be very much."""
        with told(f"list {self._url!r}"):
            self._fs.invalidate_cache()
            try:
                names = (
                    f"{at}/{name}"
                    for at, _, files in self._fs.walk(self._base, on_error="raise")
                    for name in files
                )
                return any(self._key(name) not in ("", PARTIAL) for name in names)
            except FileNotFoundError:
                return False

    def _key(self, name: str) -> str:
        return name.strip("/").removeprefix(self._base.strip("/")).lstrip("/")

    def _listed(self) -> dict[str, int]:
        """Bytes of every object there."""
        with told(f"list {self._url!r}"):
            self._fs.invalidate_cache()
            try:
                listing = self._fs.find(self._base, detail=True)
            except FileNotFoundError:
                return {}
        return {self._key(name): int(info["size"]) for name, info in listing.items()}

    def _read(self, key: str) -> bytes | None:
        try:
            with told(f"read {self._url!r}"):
                return self._fs.cat_file(f"{self._base}/{key}")
        except FileNotFoundError:
            return None
        except IsADirectoryError:
            raise self._something_else() from None

    # ---- making room ----

    def _prepare(self) -> None:
        """Say whose objects will be there, and take away what these would contradict."""
        if is_local(self._fs):
            with told(f"write to {self._url!r}", _LATER):
                Path(self._base).parent.mkdir(parents=True, exist_ok=True)
                self._there = Directory(Path(self._base))
        if self._foreign:
            self._noted = {}
        self._note(self._noted)
        if self._foreign or self._outdated:
            self._remove(ROOT)  # first: nobody opens a mixture of both
        if self._foreign:
            several(self._jobs, self._remove, [*self._listed().keys() - {"", PUSHED}])

    def _clear(self, there: dict[str, int]) -> None:
        """Remove what an earlier push sent and this commit has no more."""
        names = self._parts.names | {PUSHED}
        within = tuple(f"{other._base.removeprefix(self._base).strip('/')}/" for other in self._others)
        left = [key for key in there.keys() - names if is_piece(key) and not key.startswith(within)]
        several(self._jobs, self._remove, left)

    def _note(self, known: dict[str, tuple[int, int]]) -> None:
        journal = {"run_id": self._source.record["run_id"], "objects": known}
        self._put(PUSHED, json.dumps(journal).encode())

    # ---- sending ----

    def _send_all(self) -> Moved:
        there, sealed = self._listed(), self._parts.sealed
        self._clear(there)
        known = {
            key: entry
            for key, entry in sealed.items()
            if self._noted.get(key) == entry and there.get(key) == entry[0]
        }
        kept, missing = len(known), sorted(sealed.keys() - known.keys())
        for batch in batches(missing):
            if self._progress is not None:
                self._progress(len(known), len(sealed), batch[0])
            several(self._jobs, self._send_sealed, batch)
            known |= {key: sealed[key] for key in batch}
            self._note(known)
        several(self._jobs, self._send_open, self._parts.open)
        documents = self._parts.documents
        several(self._jobs, lambda key: self._put(key, documents[key].encode()), list(documents))
        self._check_arrived()
        self._put(ROOT, self._source.store.root)
        self._remove(PUSHED)
        return Moved(len(missing), kept, sum(sealed[key][0] for key in missing))

    def _send_sealed(self, key: str) -> None:
        if not self._parts.is_whole(key, self._folder / key):
            raise ArchiveError(f"object {key!r} is damaged or lost here; `tracer verify` lists what else is")
        if is_local(self._fs):
            self._put(key, (self._folder / key).read_bytes())
            return
        with told(f"write to {self._url!r}", _LATER):
            self._fs.put_file(str(self._folder / key), f"{self._base}/{key}")

    def _send_open(self, key: str) -> None:
        self._put(key, self._open(key))

    def _open(self, key: str) -> bytes:
        """The bytes of an object that may still change, which are as they were committed."""
        try:
            data = self._source.store.read(key)
        except FileNotFoundError:
            raise lost(key) from None
        if why := self._parts.fault(key, data):
            raise ArchiveError(
                f"object {key!r} is damaged here ({why}); `tracer verify` lists what else is, or, if the run was "
                "resumed meanwhile, push again"
            )
        return data

    def _put(self, key: str, data: bytes) -> None:
        with told(f"write to {self._url!r}", _LATER):
            if is_local(self._fs):
                # A directory, unlike a store, shows files half written.
                self._there.publish(key, lambda fd: write_all(fd, [data]))
            else:
                self._fs.pipe_file(f"{self._base}/{key}", data)

    def _remove(self, key: str) -> None:
        with told(f"write to {self._url!r}", _LATER):
            if is_local(self._fs):
                self._there.discard(key)
                return
            try:
                self._fs.rm_file(f"{self._base}/{key}")
            except FileNotFoundError:
                return

    def _check_arrived(self) -> None:
        there = self._listed()
        for key, (size, _) in self._parts.sealed.items():
            if there.get(key) != size:
                raise ArchiveError(
                    f"object {key!r} has {there.get(key, 0)} bytes at {self._url!r} instead of {size}; push "
                    "again"
                )


def there(url: str) -> tuple[Any, str]:
    """File system and path of a URL. Errors: ArchiveError where it has none, or names no place in it."""
    if url.strip("/").endswith(":") or not url.strip("/"):
        raise ArchiveError(f"{url!r} names no place for an archive; name a folder that is to be made for it")
    place = Place(url)
    return place.filesystem, place.base


def apart(base: str, local: Path, url: str) -> Path:
    """The folder or file of a URL on this machine. Errors: ArchiveError where that and the archive share files."""
    target, local = settled(base), settled(local)
    if target.is_relative_to(local) or local.is_relative_to(target):
        raise ArchiveError(f"{url!r} is the archive itself, or one lies in the other; choose another place")
    return target


def is_local(filesystem: Any) -> bool:
    """Whether files of this machine are meant."""
    named = filesystem.protocol
    return "file" in (named if isinstance(named, tuple) else (named,))


def _journal(data: bytes | None) -> tuple[str | None, dict[str, tuple[int, int]]]:
    """Whose objects an earlier push sent, and those that do not change; nobody's, where that cannot be read."""
    try:
        journal = json.loads(data or b"{}")
        return journal["run_id"], {key: (size, crc) for key, (size, crc) in journal["objects"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return None, {}
