"""The objects a commit of an archive consists of, whether a copy of one is whole, and copying many of them."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from tracer.archive.source import Source
from tracer.errors import ArchiveError
from tracer.store.documents import object_key, to_json
from tracer.store.files import PARTIAL
from tracer.store.grid import check
from tracer.store.layout import ArrayLayout
from tracer.store.manifest import MANIFEST, chain
from tracer.store.store import ROOT
from tracer.verify.tails import box, fault, is_as_committed

PUSHED = "manifest/objects/pushed"  # what has arrived at a URL, until the root has
_BATCH = 256  # objects between two reports of how far it is
_OF_MANIFEST = 1 << 16  # objects that a manifest may itself have; of those it says nothing


@dataclass(frozen=True)
class Parts:
    """Objects by key.

    source: whose they are. sealed: (bytes, checksum as in the manifest) of those that never change again. open:
    the others. places: how the array that an object belongs to is cut, and the object's numbers in it. documents:
    those of single groups and arrays.
    """

    source: Source
    sealed: dict[str, tuple[int, int]]
    open: list[str]
    places: dict[str, tuple[ArrayLayout, tuple[int, ...]]]
    documents: dict[str, str]

    @classmethod
    def of(cls, source: Source) -> "Parts":
        """The objects of the commit that a source is pinned at."""
        paths = source.group_attributes("manifest").get("arrays", [])
        places: dict[str, tuple[ArrayLayout, tuple[int, ...]]] = {}
        sealed: dict[str, tuple[int, int]] = {}
        cut = {
            path: source.layout(path) for path, node in source.nodes.items() if node["node_type"] == "array"
        }
        named = source.record["manifest_rows"] + len(source.record["tails"]) + _OF_MANIFEST
        if sum(grid.n for grid in cut.values()) > named:
            raise ArchiveError(
                f"the arrays of {source.path!r} should have more objects than its manifest names; it is damaged or "
                "made to harm: `tracer verify` lists where"
            )
        for grid in cut.values():
            places |= {key: (grid, numbers) for numbers, key in ArrayLayout.keys(grid)}
        table, digest = source.read(MANIFEST), bytes(32)
        for entry in table:
            digest = chain(digest, entry)
        if digest.hex() != source.record["manifest_digest"]:
            raise ArchiveError(
                f"the manifest of {source.path!r} is not what was committed; `tracer verify` lists what else is not"
            )
        for array, row, column, nbytes, crc, _ in table.tolist():
            if not 0 <= array < len(paths):
                raise ArchiveError(f"the manifest of {source.path!r} names an array that it does not list")
            n_axes = len(source.shape(paths[array]))
            numbers = (row, column, *[0] * n_axes)[:n_axes]
            key = object_key(paths[array], *numbers)
            if key in places:
                sealed[key] = nbytes, crc
        documents = {f"{path}/{ROOT}": to_json(node) for path, node in source.nodes.items()}
        return cls(source, sealed, [key for key in places if key not in sealed], places, documents)

    @property
    def names(self) -> set[str]:
        """The keys of all files of the commit."""
        return {ROOT, *self.places, *self.documents}

    def most(self, key: str) -> int:
        """Bytes that an object can have at most."""
        return self.places[key][0].most_of_object

    def is_whole(self, key: str, file: Path) -> bool:
        """Whether a file holds the sealed object of a key: its size, its checksums, and the manifest's."""
        size, crc = self.sealed[key]
        try:
            fd = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return False
        try:
            if os.fstat(fd).st_size != size:
                return False
            return (
                check(lambda start, stop: os.pread(fd, stop - start, start), size, self.places[key][0]) == crc
            )
        except ValueError:
            return False
        finally:
            os.close(fd)

    def fault(self, key: str, data: bytes) -> str | None:
        """What is wrong with the bytes of an object that may still change, None if nothing is."""
        (grid, numbers), size = self.places[key], len(data)
        if key in self.source.record["tails"]:
            return fault(self.source, grid, numbers, lambda start, stop: data[start:stop], size)
        if grid.path != MANIFEST:
            return "neither the manifest nor the root says what it holds"
        try:
            check(lambda start, stop: data[start:stop], size, grid)
        except ValueError as error:
            return str(error)
        return None


def is_piece(key: str) -> bool:
    """Whether a file has a name that one of an archive has, be it of this or of another."""
    name = key.rpartition("/")[2]
    return name in (ROOT, "c") or name.startswith("c.") or key.endswith((PARTIAL, PUSHED))


def begins(parts: Parts, now: Source) -> bool:
    """Whether an earlier commit can be read of the objects of a later one: these hold its rows, and more after them."""
    earlier, tails = parts.source, parts.source.record["tails"]
    if not all(_same_cut(earlier, now, path) for path, node in earlier.nodes.items() if "shape" in node):
        return False
    table, listed = earlier.read(MANIFEST), earlier.group_attributes("manifest").get("arrays", [])
    if now.group_attributes("manifest").get("arrays", [])[: len(listed)] != listed:
        return False
    if now.read(MANIFEST)[: len(table)].tolist() != table.tolist():
        return False
    held = {key: parts.places[key] for key in tails if key in parts.places}
    return len(held) == len(tails) and all(
        is_as_committed(earlier.record, key, now.read(grid.path, box(grid, numbers)))
        for key, (grid, numbers) in held.items()
    )


def _same_cut(earlier: Source, now: Source, path: str) -> bool:
    if "shape" not in now.nodes.get(path, {}):
        return False
    old, new = earlier.layout(path), now.layout(path)
    grown = len(old.shape) == len(new.shape) and all(map(int.__le__, old.shape, new.shape))
    return grown and replace(old, shape=()) == replace(new, shape=())


def outgrown(earlier: Source, now: Source) -> bool:
    """Whether a run was resumed, or filled in, after an earlier commit of it."""
    old, new = (one.record.get("resumes", []) for one in (earlier, now))
    if new[: len(old)] != old:
        return False
    filled, steps = (_materialized(one) for one in (earlier, now))
    kept = all(step in steps.get(path, []) for path, own in filled.items() for step in own)
    return kept and (new, steps) != (old, filled)


def _materialized(source: Source) -> dict[str, list[int]]:
    return {path: node["attributes"].get("materialized", []) for path, node in source.nodes.items()}


def several(jobs: int, copy: Callable[[str], object], keys: Sequence[str]) -> None:
    """Copy several objects at a time; the first error ends it."""
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        for _ in pool.map(copy, keys):
            pass


def batches(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    """The keys, some at a time."""
    for start in range(0, len(keys), _BATCH):
        yield keys[start : start + _BATCH]
