"""One archive looked through: every object against manifest, digests, documents and rows."""

from contextlib import suppress
from typing import Any

import numpy as np

from tracer import spec
from tracer.archive.ranks import world_size
from tracer.archive.source import Source
from tracer.errors import ArchiveError, MissingTraceError
from tracer.store import grid as objects
from tracer.store.documents import to_json
from tracer.store.files import PARTIAL
from tracer.store.layout import ArrayLayout
from tracer.store.manifest import MANIFEST, chain
from tracer.store.store import MAX_ROOT
from tracer.verify import tails
from tracer.verify.consistency import inconsistencies, is_older, misshapen, unlike
from tracer.verify.inventory import Inventory
from tracer.verify.report import LISTED, Report


class Examination:
    """One pass over an archive. `bad` are the keys of objects that are not as they were written."""

    def __init__(self, source: Source, inventory: Inventory, report: Report) -> None:
        self.source, self.inventory, self.report = source, inventory, report
        self.record = source.record
        self.grids = {p: source.layout(p) for p, n in source.nodes.items() if n["node_type"] == "array"}
        self.bad: dict[str, tuple[str, tuple[int, ...]]] = {}
        self.sealed: dict[str, tuple[int, int]] = {}  # key to bytes and checksum
        self.expected: dict[str, tuple[str, tuple[int, ...]]] = {}
        inventory.leave_out_ranks(world_size(source))

    def run(self, full: bool) -> None:
        """Check everything; `full` reads every object."""
        self._container(full)
        self._objects()
        self._manifest()
        self._sizes()
        self._tails()
        self._extra()
        self._documents()
        if full:
            self._checksums()
        self._rows(full)
        self.report.counts |= {
            "arrays": len(self.grids),
            "objects": len(self.expected),
            "bytes": sum(self.inventory.sizes.get(key, 0) for key in self.expected),
            "snapshots": self._n_snapshots(),
        }

    def _n_snapshots(self) -> int:
        """Steps at which any stream was recorded, as far as they can be read."""
        steps: set[int] = set()
        for group in self.source.streams():
            with suppress(ArchiveError, MissingTraceError):
                steps.update(self.source.steps(group).tolist())
        return len(steps)

    def damage(self, kind: str, key: str, text: str) -> None:
        """Report an object that is not as it was written."""
        if key in self.expected:
            self.bad[key] = self.expected[key]
        self.report.add(kind, key, text)

    def _container(self, full: bool) -> None:
        for where, why in self.inventory.faults(full):
            self.report.add("damaged", where, why)

    def _objects(self) -> None:
        """List the objects that the shapes imply; of an absurd number none."""
        listed = self.inventory.listed
        files = (
            len(self.inventory.sizes) if listed else self.record["manifest_rows"] + len(self.record["tails"])
        )
        for path, grid in self.grids.items():
            if grid.n > 2 * files + LISTED:
                held = "files" if listed else "objects by its manifest"
                self.report.add(
                    "missing", path, f"{grid.n} objects should exist, the archive has {files} {held}"
                )
                continue
            self.expected |= {key: (path, numbers) for numbers, key in grid.keys()}  # noqa: SIM118  (a grid is no dict)
        if not listed:
            self.inventory.look_for([*self.expected, *(f"{path}/zarr.json" for path in self.source.nodes)])
            self.report.notes.append(
                "the files cannot be listed there, so none was looked for that is no part of it"
            )
        for key, why in self.inventory.odd:
            self.report.add("extra", key, why)
        for key in self.expected:
            if key not in self.inventory.sizes:
                self.damage("missing", key, "is lost")

    def _manifest(self) -> None:
        node = self.source.nodes.get(MANIFEST)
        if node is None or node["shape"] != [self.record["manifest_rows"], len(spec.MANIFEST_FIELDS)]:
            self.report.add("manifest", MANIFEST, "its shape is not that of the commit record")
            return
        try:
            table = self.source.read(MANIFEST)
        except ArchiveError as error:
            self.report.add("manifest", MANIFEST, str(error))
            return
        digest = bytes(32)
        for row in table:
            digest = chain(digest, row)
        if digest.hex() != self.record["manifest_digest"]:
            self.report.add("manifest", MANIFEST, "its digest does not match: rows were changed")
        self._enter(table)

    def _enter(self, table: np.ndarray) -> None:
        listed = self.source.group_attributes("manifest").get("arrays", [])
        for array, row, column, nbytes, crc, _ in table.tolist():
            grid = self.grids.get(listed[array]) if 0 <= array < len(listed) else None
            if grid is None:
                self.report.add("manifest", MANIFEST, f"names array {array}, which is none")
                continue
            key = grid.key((row, column, *[0] * 30)[: len(grid.shape)])
            if key in self.sealed:
                self.report.add("manifest", key, "is in the manifest twice")
            elif key not in self.expected:
                self.report.add("manifest", key, "is in the manifest but outside the shape of its array")
            self.sealed[key] = nbytes, crc
        tails = set(self.record["tails"])
        for key in self.expected:
            if self.expected[key][0] != MANIFEST and (key in self.sealed) == (key in tails):
                both = "both in the manifest and" if key in tails else "neither in the manifest nor"
                self.report.add("manifest", key, f"is {both} among the objects that may change")

    def _sizes(self) -> None:
        for key, (nbytes, _) in self.sealed.items():
            size = self.inventory.sizes.get(key)
            if size is not None and size != nbytes:
                self.damage("size", key, f"has {size} bytes instead of {nbytes}")

    def _tails(self) -> None:
        """The rows that are committed, of the objects that may still change."""
        for key in self.record["tails"]:
            if key not in self.expected:
                self.report.add("manifest", key, "may still change, but is outside the shape of its array")
            elif key in self.inventory.sizes:
                path, numbers = self.expected[key]
                read, size = self.inventory.reader(key), self.inventory.sizes[key]
                if why := tails.fault(self.source, self.grids[path], numbers, read, size):
                    self.damage("damaged", key, why)

    def committed(self, path: str, numbers: tuple[int, ...]) -> np.ndarray | None:
        """The committed values of an object, None if some are lost. ValueError for damage."""
        grid = self.grids[path]
        key = grid.key(numbers)
        return tails.committed(
            self.source, grid, numbers, self.inventory.reader(key), self.inventory.sizes[key]
        )

    def _extra(self) -> None:
        """Files that no shape implies: left over by a process that was killed, or put there by someone."""
        documents = {"zarr.json", *(f"{path}/zarr.json" for path in self.source.nodes)}
        left = []
        for key in self.inventory.sizes.keys() - self.expected.keys() - documents:
            name = key.rpartition("/")[2]
            if key == PARTIAL or (
                self.record["state"] != "complete" and (name == "c" or name.startswith("c."))
            ):
                left.append(key)
            else:
                self.report.add("extra", key, "is no part of the archive")
        self.leftover = sorted(left)
        if left:
            self.report.notes.append(
                f"{len(left)} objects beyond the last commit were left by a process that ended; they mean nothing"
            )

    def _documents(self) -> None:
        for path, node in self.source.nodes.items():
            key = f"{path}/zarr.json"
            if key in self.inventory.sizes:
                try:
                    big = self.inventory.sizes[key] > MAX_ROOT
                    why = "is too large" if big else self._differs(self.inventory.read(key), node)
                except (ArchiveError, OSError) as error:
                    why = str(error)
                if why:
                    self.report.add("document", key, why)
            elif self.record["state"] != "recording":
                self.report.add("document", key, "is lost")

    def _differs(self, document: bytes, node: dict[str, Any]) -> str | None:
        from tracer.store.validate import parse

        try:
            parsed = parse(document)
        except ValueError as error:
            return f"is no JSON ({error})"
        text = to_json(node).encode()
        if document == text:
            return None
        if self.record["state"] == "recording":
            near = is_older(parsed, node) or is_older(node, parsed)  # it may be newer than the root read here
            return None if near else "is not what any commit wrote"
        own = text in self.source.store.root  # then this writer made both, and byte by byte the same
        return "is not what the root says of it" if own or parsed != node else None

    def _checksums(self) -> None:
        """Every object whole: its checksums, and the one the manifest has of it."""
        for key, (path, _) in self.expected.items():
            if key not in self.inventory.sizes or key in self.bad:
                continue
            try:
                crc = objects.check(self.inventory.reader(key), self.inventory.sizes[key], self.grids[path])
            except (ValueError, ArchiveError) as error:
                self.damage("damaged", key, str(error))
                continue
            if key in self.sealed and self.sealed[key][1] != crc:
                self.damage("damaged", key, "its checksum is not that of the manifest")
        for path, grid in self.grids.items():
            if not grid.raw and not any(owner == path for owner, _ in self.bad.values()):
                self._decode(path, grid)

    def _decode(self, path: str, grid: ArrayLayout) -> None:
        first = next(iter(grid.keys()), None)
        for numbers, key in grid.keys() if first is not None and first[1] in self.expected else ():
            try:
                self.source.read(path, tails.box(grid, numbers))
            except ArchiveError as error:
                self.damage("damaged", key, str(error))

    def _rows(self, full: bool) -> None:
        """That rows fit each other: steps increase, ids are as many as said, every stream has its rows."""
        try:
            for text in inconsistencies(self.source):
                self.report.add("rows", text[0], text[1])
            for group, text_, step in unlike(self.source):
                self.report.add("streams", group, text_, step)
            for where, what in misshapen(self.source):
                self.report.add("blocks", where, what)
        except (ArchiveError, MissingTraceError) as error:
            if not self.bad:
                self.report.add("rows", "steps", str(error))
