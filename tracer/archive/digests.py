"""Digests of what an archive holds, from the checksums of its manifest: nothing large is read for them."""

import json
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

from tracer import spec
from tracer.archive.source import Source

MANIFEST = "manifest/objects"


class Digests:
    """Digests of the arrays of one archive, whole or of one snapshot.

    Two equal digests mean equal bytes, up to collisions of CRC-32C. The number of the commit is no part of
    them, so that they survive a copy of the archive that is written anew.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._known: dict[tuple[str, int | None], str] = {}
        self._places: dict[str, dict[int, int]] = {}
        self._sealed: dict[str, dict[tuple[int, int], tuple[int, int]]] | None = None

    def of(self, group: str, step: int | None = None) -> str:
        """Digest of a stream at a step, or of all arrays directly in a group and its attributes.

        Empty for a group that is not there, and for a step that the stream does not have.
        """
        if not self._source.has(group):
            return ""
        row = None if step is None else self._rows(group).get(step)
        if row is None and step is not None:
            return ""
        key = group, row
        if key not in self._known:
            self._known[key] = self._digest(group, row)
        return self._known[key]

    def _rows(self, group: str) -> dict[int, int]:
        """Where in a stream each of its steps is."""
        steps = self._source.steps(group)
        known = self._places.get(group)
        if known is None or len(known) != len(steps):
            known = self._places[group] = {step: row for row, step in enumerate(steps.tolist())}
        return known

    def _digest(self, group: str, row: int | None) -> str:
        digest = blake2b(digest_size=16)
        digest.update(json.dumps(self._source.group_attributes(group), sort_keys=True).encode())
        for name in sorted(self._source.children(group)):
            path = f"{group}/{name}"
            node = self._source.nodes[path]
            if node["node_type"] == "array" and (row is None or name not in spec.STREAM_COLUMNS):
                shape = node["shape"] if row is None else node["shape"][1:]
                digest.update(json.dumps([name, node["data_type"], shape]).encode())
                for piece in self._pieces(path, node, row):
                    digest.update(piece)
        return digest.hexdigest()

    def _pieces(self, path: str, node: dict[str, Any], row: int | None) -> Iterator[bytes]:
        """What tells the objects of an array apart that hold a row, or all: their checksums, else their values."""
        grid = self._source.layout(path)
        sealed = self._manifest().get(path, {})
        for numbers, _ in grid.keys():  # noqa: SIM118  (a grid is no dict)
            first = numbers[0] if numbers else 0
            if row is not None and row // grid.chunk[0] != first:
                continue
            known = sealed.get((first, numbers[1] if len(numbers) > 1 else 0))
            shared = row is not None and grid.raw and grid.chunk[0] > 1
            if known is None or shared or any(numbers[2:]):
                # An object that may still grow is in no manifest: what is committed of it counts, and the same when it
                # is full.
                part = () if row is None else (slice(row, row + 1),)
                yield self._source.read(path, part).tobytes()
                return
            within = first if row is None else row % grid.chunk[0]
            yield json.dumps([within, *numbers[1:], *known]).encode()

    def _manifest(self) -> dict[str, dict[tuple[int, int], tuple[int, int]]]:
        if self._sealed is None:
            self._sealed = {}
            listed = self._source.group_attributes("manifest").get("arrays", [])
            table = self._source.read(MANIFEST).tolist() if self._source.has(MANIFEST) else []
            for array, row, column, nbytes, crc, _ in table:
                if 0 <= array < len(listed):
                    self._sealed.setdefault(listed[array], {})[row, column] = nbytes, crc
        return self._sealed
