"""The objects a commit of an archive consists of, and whether a copy of one is whole."""

import os
from dataclasses import dataclass
from math import prod
from pathlib import Path

from tracer.archive.source import Source
from tracer.errors import ArchiveError
from tracer.store.documents import object_key
from tracer.store.grid import check
from tracer.store.layout import ArrayLayout
from tracer.store.manifest import MANIFEST

_OF_MANIFEST = 1 << 16  # objects that a manifest may itself have; of those it says nothing


@dataclass(frozen=True)
class Parts:
    """Objects by key.

    sealed: (bytes, checksum as in the manifest) of those that never change again. open: the others. grids:
    how the array that an object belongs to is cut.
    """

    sealed: dict[str, tuple[int, int]]
    open: list[str]
    grids: dict[str, ArrayLayout]

    @classmethod
    def of(cls, source: Source) -> "Parts":
        """The objects of the commit that a source is pinned at."""
        paths = source.group_attributes("manifest").get("arrays", [])
        grids: dict[str, ArrayLayout] = {}
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
            for _, key in ArrayLayout.keys(grid):
                grids[key] = grid
        for array, row, column, nbytes, crc, _ in source.read(MANIFEST).tolist():
            if not 0 <= array < len(paths):
                raise ArchiveError(f"the manifest of {source.path!r} names an array that it does not list")
            n_axes = len(source.shape(paths[array]))
            numbers = (row, column, *[0] * n_axes)[:n_axes]
            key = object_key(paths[array], *numbers)
            if key in grids:
                sealed[key] = nbytes, crc
        return cls(sealed, [key for key in grids if key not in sealed], grids)

    def most(self, key: str) -> int:
        """Bytes that an object can have at most: its values, a checksum of each inner chunk, and their index."""
        grid = self.grids[key]
        return prod(grid.per_object) * (grid.most_bytes + 16) + 4

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
            return check(lambda start, stop: os.pread(fd, stop - start, start), size, self.grids[key]) == crc
        except ValueError:
            return False
        finally:
            os.close(fd)
