"""What the writing thread has declared: groups, arrays, columns that grow row by row, and the objects of all."""

from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

import numpy as np

from tracer import spec
from tracer.store.documents import ArrayNode, GroupNode, object_key
from tracer.store.layout import Layout, as_bytes, plan
from tracer.store.manifest import MANIFEST, chain, entry
from tracer.writer.columns import Column
from tracer.writer.committer import Committer


class Loose(NamedTuple):
    """An object that is committed, but not in the manifest at present: its key, the CRC-32C of its values, its row."""

    key: str
    crc: int
    entry: np.ndarray


class Declarations:
    """Groups, arrays and columns of an archive, and how their objects are written."""

    def __init__(
        self, committer: Committer, record: Mapping[str, Any], attributes: Mapping[str, Any]
    ) -> None:
        self._committer = committer
        self._record = {**record, "resumes": record.get("resumes", [])}
        self._root = GroupNode(dict(attributes))
        self._groups: dict[str, GroupNode] = {}
        self._arrays: dict[str, ArrayNode] = {}
        self._layouts: dict[str, Layout] = {}  # of arrays that get one object a snapshot
        self._columns: dict[str, list[Column]] = {}  # one a path; lr: one for each block of parameter groups
        self._scalars: dict[str, str] = {}  # name as logged to path
        self._ragged: list[str] = []  # columns along the ids
        self._rows: dict[str, int] = {}
        self._next: dict[str, int] = {}  # the row of the next snapshot of each stream
        self._declared = False  # whether groups or arrays were since the last commit
        self._manifest_digest = bytes(32)
        self._loose: list[Loose] = []
        self._stale: set[str] = set()
        self.changed = True
        self.group("manifest", {"fields": list(spec.MANIFEST_FIELDS), "arrays": []})
        self._column(MANIFEST, "int64", (len(spec.MANIFEST_FIELDS),), ("object", "field"))
        self._declare_steps()

    # ---- declarations ----

    def group(self, path: str, attributes: Mapping[str, Any]) -> None:
        """Create a group and those above it, or merge attributes into one ("" is the root)."""
        self.changed = self._declared = True
        if not path:
            self._root.update(attributes)
            return
        parent = path.rpartition("/")[0]
        if parent and parent not in self._groups:
            self.group(parent, {})
        self._groups.setdefault(path, GroupNode()).update(attributes)
        self._stale.add(path)

    def static(self, path: str, values: np.ndarray, dims: tuple[str, ...]) -> None:
        """Write an array that does not change."""
        layout, numbers = plan(values.shape, values.dtype), (0,) * values.ndim
        wrote = self._publish(path, layout, values, numbers) if values.size else None
        self._declare(path, layout, dims, values.shape)  # only now: no commit names what could not be written
        if wrote is not None:
            self._enter(self._entry(path, numbers, wrote))

    def stream(
        self,
        group: str,
        arrays: Mapping[str, tuple[np.dtype, tuple[int, ...], tuple[str, ...]]],
        object_bytes: int = spec.OBJECT_BYTES,
    ) -> None:
        """Declare a stream: small snapshots of an array share objects, large ones get one each.

        Beside its arrays it has the two columns of every stream.
        """
        self.group(group, {"coordinates": "epoch_end"})
        self._column(f"{group}/step", "int64")
        self._column(f"{group}/epoch_end", "bool")
        self._rows[group] = self._next[group] = 0
        for name, (dtype, shape, dims) in arrays.items():
            rows = spec.snapshot_rows(prod(shape) * np.dtype(dtype).itemsize, object_bytes)
            if rows[0] > 1:
                self._column(f"{group}/{name}", str(np.dtype(dtype)), shape, ("step", *dims), rows)
                continue
            layout = self._layouts[f"{group}/{name}"] = plan((1, *shape), dtype)
            self._declare(f"{group}/{name}", layout, ("step", *dims), (0, *shape))

    def ragged(
        self, group: str, arrays: Mapping[str, tuple[np.dtype, tuple[int, ...], tuple[str, ...]]]
    ) -> None:
        """Declare columns that get a row for each id of every update."""
        self.group(group, {})
        n = self._columns["steps/ids"][0].n
        for name, (dtype, shape, dims) in arrays.items():
            rows = spec.ids_rows(prod(shape) * dtype.itemsize)
            self._column(f"{group}/{name}", str(dtype), shape, ("id", *dims), rows, n)
            self._ragged.append(f"{group}/{name}")

    def _declare_steps(self) -> None:
        self.group("steps", {"coordinates": " ".join(spec.GROUPS[0].coordinates)})
        for array in spec.step_columns():
            if array.dims == ("step",):
                labels = {"sample_dimension": "id"} if array.name == "n_ids" else {}
                self._column(f"steps/{array.name}", array.dtype, labels=labels)
        self._column("steps/ids", "int64", (), ("id",), spec.ids_rows(8))
        self._column("steps/lr", "float64", (1,), ("step", "param_group"))
        self._rows["steps"] = 0

    def _declare(
        self,
        path: str,
        layout: Layout,
        dims: tuple[str, ...],
        shape: tuple[int, ...],
        labels: Mapping[str, str] | None = None,
    ) -> None:
        group, _, name = path.rpartition("/")
        if path not in self._arrays and path != MANIFEST:
            listed = self._groups["manifest"].attributes["arrays"]
            self.group("manifest", {"arrays": [*listed, path]})
        number = self._arrays[path].number if path in self._arrays else len(self._arrays) - 1
        labels = {**spec.describe(group, name), **(labels or {})}
        self._arrays[path] = ArrayNode(
            layout.dtype, dims, layout.chunk_shape, layout.codecs, labels, shape, number
        )
        self._stale.add(path)
        self.changed = self._declared = True

    def _column(
        self,
        path: str,
        dtype: str,
        width: tuple[int, ...] = (),
        dims: tuple[str, ...] = ("step",),
        rows: tuple[int, int] | None = None,
        n: int = 0,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        rows = rows or spec.column_rows(path.rpartition("/")[0])
        column = Column(np.dtype(dtype), width, *rows, n)
        self._columns[path] = [column]
        self._declare(path, column.layout, dims, (0, *width), labels)

    # ---- objects and the manifest ----

    def _write_object(
        self, path: str, layout: Layout, values: np.ndarray, numbers: tuple[int, ...]
    ) -> list[int]:
        """Write an object and return its row of the manifest."""
        return self._entry(path, numbers, self._publish(path, layout, values, numbers))

    def _publish(
        self, path: str, layout: Layout, values: np.ndarray, numbers: tuple[int, ...]
    ) -> tuple[int, int]:
        key = object_key(path, *numbers)
        return self._committer.publish(key, lambda fd: layout.write(fd, as_bytes(values)))

    def _entry(self, path: str, numbers: tuple[int, ...], wrote: tuple[int, int]) -> list[int]:
        return entry(self._arrays[path].number, numbers, wrote, self._record["commit"] + 1)

    def _enter(self, *entries: list[int]) -> None:
        for fields in entries:
            row = np.array([fields], np.int64)
            self._manifest_digest = chain(self._manifest_digest, row)
            self._columns[MANIFEST][0].extend(row)

    def _write_columns(self, path: str) -> int:
        """Write what is full and what is still being filled; return the bytes of the latter."""
        rewritten = 0
        for block, column in enumerate(self._columns[path]):
            last = (block,) * (column.tail.ndim - 1)
            entries = self._write_sealed(path, block)
            if path != MANIFEST:  # the manifest itself is covered by its digest
                self._enter(*entries)
            if column.dirty and column.n:
                key = object_key(path, column.number, *last)
                rewritten += self._committer.publish(key, column.write_tail)
                column.dirty = False
        return rewritten

    def _write_sealed(self, path: str, block: int = 0) -> list[list[int]]:
        """Write the objects of a column that will not change any more, and return their rows of the manifest."""
        column = self._columns[path][block]
        last = (block,) * (column.tail.ndim - 1)
        return [
            self._write_object(path, column.layout, values, (number, *last))
            for number, values in column.sealed()
        ]
