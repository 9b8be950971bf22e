"""The archive as its writing thread knows it: what is written, what is committed, how a commit is made.

A commit writes data first (objects under new names), then the tails (objects of growing columns, rewritten as
a superset of what they held), and last the root ``zarr.json`` with all shapes: renaming that file into place
*is* the commit. The documents of single arrays follow later, so that a reader without consolidated metadata
sees an older whole state.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from tracer import spec
from tracer.store.documents import ArrayNode, GroupNode, object_key
from tracer.store.layout import Layout
from tracer.store.manifest import MANIFEST, chain
from tracer.writer.columns import Column
from tracer.writer.committer import Committer
from tracer.writer.declarations import Declarations, Loose
from tracer.writer.row import Row

_NO_IDS = np.empty(0, np.int64)
_NODES_EVERY = 30.0  # seconds between rewrites of the documents of single arrays


class Tree(Declarations):
    """All state of the thread that writes. Only that thread calls it."""

    def __init__(
        self, committer: Committer, record: Mapping[str, Any], attributes: Mapping[str, Any]
    ) -> None:
        # Snapshots on the disk, to be entered by the next commit, and their streams.
        self._written: list[tuple[str, Callable[[], None]]] = []
        self._torn = False  # something failed while rows were entered: what is in memory is no whole state
        self._nodes_due = 0.0
        super().__init__(committer, record, attributes)

    # ---- taken up again ----

    def adopt(
        self,
        groups: Mapping[str, GroupNode],
        arrays: Mapping[str, ArrayNode],
        layouts: Mapping[str, Layout],
        columns: Mapping[str, list[Column]],
        rows: Mapping[str, int],
        manifest: np.ndarray,
        loose: Sequence[Loose],
    ) -> None:
        """Become an archive that exists, at the given numbers of rows; `manifest`: the rows it keeps."""
        self._groups, self._arrays, self._layouts = dict(groups), dict(arrays), dict(layouts)
        self._columns, self._rows, self._loose = dict(columns), dict(rows), list(loose)
        self._next = {group: n for group, n in rows.items() if group != "steps"}
        named = {path: node.attributes.get("logged_as") for path, node in arrays.items()}
        self._scalars = {name: path for path, name in named.items() if name is not None}
        along = {path: node.dims[:1] for path, node in arrays.items()}
        self._ragged = [path for path in columns if along[path] == ("id",) and path != "steps/ids"]
        for row in manifest:
            self._manifest_digest = chain(self._manifest_digest, row)
        self._set_shapes()
        self._stale.update(self._groups, self._arrays)
        self.changed = True

    def settle(self) -> None:
        """After the commit that took the archive up: let the next one write the manifest and every tail anew."""
        self._enter(*(loose.entry.tolist() for loose in self._loose))
        self._loose.clear()
        for blocks in self._columns.values():
            for column in blocks:
                column.dirty = column.n > 0
        self.changed = True

    # ---- data ----

    def append(self, group: str, step: int, epoch_end: bool, arrays: Mapping[str, np.ndarray]) -> None:
        """Take one snapshot of a stream, and write the objects that are full; its row is entered by the next commit."""
        row, entries = self._next[group], []
        for name, values in arrays.items():
            path = f"{group}/{name}"
            if path in self._columns:
                self._columns[path][0].extend(values[None])
                entries += self._write_sealed(path)
            elif values.size:
                numbers = (row, *[0] * (len(self._layouts[path].shape) - 1))
                entries.append(self._write_object(path, self._layouts[path], values, numbers))
        self._next[group] = row + 1
        self._written.append((group, partial(self._enter_snapshot, group, step, epoch_end, entries)))
        self.changed = True

    def _enter_snapshot(self, group: str, step: int, epoch_end: bool, entries: Sequence[list[int]]) -> None:
        self._enter(*entries)
        self._columns[f"{group}/step"][0].extend(np.array([step]))
        self._columns[f"{group}/epoch_end"][0].extend(np.array([epoch_end]))
        self._rows[group] += 1

    @property
    def written(self) -> int:
        """How many snapshots and ends of epochs wait for the next commit."""
        return len(self._written)

    def leave_out(self, first: int) -> None:
        """Never commit those that wait from the given one on."""
        for group, _ in self._written[first:]:
            if group:
                self._next[group] -= 1
        del self._written[first:]
        for path, (column, *_) in self._columns.items():
            group, _, name = path.rpartition("/")
            if group in self._next and name not in spec.STREAM_COLUMNS and column.n > self._next[group]:
                column.cut(self._next[group], partial(self._reread, path))

    def _reread(self, path: str, number: int) -> np.ndarray:
        """An object that was written full."""
        layout = self._columns[path][0].layout
        with self._committer.opened(object_key(path, number, *[0] * (len(layout.shape) - 1))) as fd:
            return layout.read(fd)

    def give_up(self, first: int) -> None:
        """After a failure: the same, and nothing at all where a part of what was declared since a commit is lacking."""
        self.leave_out(first)
        self._torn |= self._declared

    @contextmanager
    def _entering(self) -> Iterator[None]:
        self._torn = True
        yield
        self._torn = False  # not reached if entering failed half way

    def rows(self, rows: Sequence[Row]) -> None:
        """Append updates to ``steps``."""
        with self._entering():
            self._enter_rows(rows)
        self.changed = True

    def _enter_rows(self, rows: Sequence[Row]) -> None:
        n = self._rows["steps"]
        for name in ("step", "epoch", "time", "loss", "skipped"):
            self._extend(f"steps/{name}", [getattr(row, name) for row in rows])
        self._extend("steps/n_ids", [0 if row.ids is None else len(row.ids) for row in rows])
        self._extend(
            "steps/ids", np.concatenate([_NO_IDS, *(row.ids for row in rows if row.ids is not None)])
        )
        self._extend_examples(rows)
        self._extend_rates([row.lr for row in rows], n)
        self._extend_scalars([row.scalars or {} for row in rows], n)
        self._rows["steps"] = n + len(rows)
        self._record["committed_step"] = rows[-1].step

    def _extend(self, path: str, values: Sequence[Any] | np.ndarray) -> None:
        column = self._columns[path][0]
        column.extend(np.asarray(values, column.layout.dtype))

    def _extend_examples(self, rows: Sequence[Row]) -> None:
        for path in self._ragged:
            layout = self._columns[path][0].layout
            blank = spec.fill_scalar(layout.dtype)
            for row in rows:
                if row.ids is not None:
                    shape = (len(row.ids), *layout.shape[1:])
                    known = (row.examples or {}).get(path)
                    self._extend(path, np.full(shape, blank) if known is None else known)

    def _extend_rates(self, rates: Sequence[tuple[float, ...]], n: int) -> None:
        widest = max(map(len, rates))
        if n == 0 and widest > 1:  # the width of a block of parameter groups is settled by the first rows
            self._column("steps/lr", "float64", (widest,), ("step", "param_group"))
        node, blocks = self._arrays["steps/lr"], self._columns["steps/lr"]
        width = blocks[0].layout.shape[1]
        while len(blocks) * width < widest:  # groups were added to the optimizer
            blocks.append(blocks[0].beside(n))
        table = np.full((len(rates), len(blocks) * width), np.nan)
        for row, rate in zip(table, rates, strict=True):
            row[: len(rate)] = rate
        for number, block in enumerate(blocks):
            block.extend(table[:, number * width : (number + 1) * width])
        node.shape = (node.shape[0], max(node.shape[1], widest))

    def _new_scalar(self, name: str, n: int) -> None:
        rows = spec.scalar_rows(len(self._scalars))
        self._scalars[name] = path = f"steps/{spec.scalar_key(name)}"
        self._column(path, "float64", rows=rows, n=n, labels={"logged_as": name, "long_name": name})

    def _extend_scalars(self, rows: Sequence[Mapping[str, float]], n: int) -> None:
        for name in dict.fromkeys(name for row in rows for name in row if name not in self._scalars):
            self._new_scalar(name, n)
        for name, path in self._scalars.items():
            self._extend(path, [row.get(name, np.nan) for row in rows])

    def amend(self, scalars: Mapping[str, float]) -> None:
        """Add scalars to the last update."""
        with self._entering():
            n = self._rows["steps"]
            for name in [name for name in scalars if name not in self._scalars]:
                self._new_scalar(name, n)
            for name, value in scalars.items():
                self._columns[self._scalars[name]][0].amend_last(value)
        self.changed = True

    def mark_epoch_end(self, step: int) -> None:
        """Set ``epoch_end`` in the last row of each stream, if it is of that step."""
        self._written.append(("", partial(self._enter_epoch_end, step)))
        self.changed = True

    def _enter_epoch_end(self, step: int) -> None:
        for group in self._rows.keys() - {"steps"}:
            if self._columns[f"{group}/step"][0].last == step:
                self._columns[f"{group}/epoch_end"][0].amend_last(True)

    # ---- the commit ----

    def commit(self) -> int:
        """Make everything given so far visible at once: nothing, after rows could not be entered whole.

        Returns the bytes of objects that are still being filled, which were written anew.
        """
        if not self.changed or self._torn:
            return 0
        with self._entering():
            for _, enter in self._written:
                enter()
            self._written.clear()
        self._declared = False
        order = [path for path in self._columns if path != MANIFEST] + [MANIFEST]
        rewritten = sum(self._write_columns(path) for path in order)
        self._set_shapes()
        record = {
            **self._record,
            "rows": self._rows,
            "tails": self._tails(),
            "manifest_rows": self._columns[MANIFEST][0].n,
            "manifest_digest": self._manifest_digest.hex(),
        }
        self._record = self._committer.commit(record, self._root, {**self._groups, **self._arrays})
        self.changed = False
        if time.monotonic() >= self._nodes_due:
            self.write_nodes()
        return rewritten

    def close(self, state: str) -> None:
        """Commit, bring the documents of single arrays up to date, and only then say that this is the end."""
        self.commit()
        if self._torn:  # the last commit is the end
            return
        self.write_nodes()
        self._record["state"] = state
        self.changed = True
        self.commit()

    def write_nodes(self) -> None:
        """Rewrite the documents of the groups and arrays that changed; they only ever follow the root."""
        nodes: dict[str, GroupNode | ArrayNode] = {**self._groups, **self._arrays}
        self._committer.documents({path: nodes[path] for path in sorted(self._stale)})
        self._stale.clear()
        self._nodes_due = time.monotonic() + _NODES_EVERY

    def _set_shapes(self) -> None:
        lengths = {path: blocks[0].n for path, blocks in self._columns.items()}
        lengths |= {path: self._rows[path.rpartition("/")[0]] for path in self._layouts}
        for path, length in lengths.items():
            node = self._arrays[path]
            if node.shape[0] != length:
                node.shape = (length, *node.shape[1:])
                self._stale.add(path)

    def _tails(self) -> dict[str, int]:
        return {
            object_key(path, column.number, *(block,) * (column.tail.ndim - 1)): column.checksum()
            for path, blocks in self._columns.items()
            for block, column in enumerate(blocks)
            if column.n
        } | {loose.key: loose.crc for loose in self._loose}
