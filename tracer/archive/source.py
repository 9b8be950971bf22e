"""One commit of an archive, read as plain arrays: the layer between the files and what they mean."""

import os
import warnings
from collections.abc import Iterable
from functools import cached_property
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from tracer import spec
from tracer.archive.tables import check
from tracer.errors import ArchiveError, MissingTraceError, did_you_mean
from tracer.store import validate
from tracer.store.documents import document_digest, object_key
from tracer.store.layout import ArrayLayout, Layout, plan
from tracer.store.reader import Chunks
from tracer.store.store import ROOT, fixed, lost
from tracer.store.stores import DirectoryStore, connect

if TYPE_CHECKING:
    import zarr

_FREE = 256 << 20  # bytes that may be asked for whatever the files are
_RATIO = 1000  # beyond that: how many times the bytes of its files an array may take
_MANY = 1 << 20  # objects that one call reads at most


class Source:
    """Arrays and attributes of an archive at the commit found when it was opened.

    within: where in the archive at the location that of one of several processes is. path: as messages name it.
    place: where the whole archive can be opened again. Errors: ArchiveError for what is not an archive, is damaged,
    or is of a later major version.
    """

    def __init__(self, location: str | os.PathLike[str], within: str = "") -> None:
        self.path = "/".join([os.fspath(location).rstrip("/"), within]) if within else os.fspath(location)
        self.place = fixed(os.fspath(location))
        self.store = connect(location, within)
        self._seen = (
            self.store.stamp()
        )  # and the root read again, now that it is known what was looked at before
        try:
            root = self.store.root_now() or self.store.root
            self._show(root, *read_root(root, self.path))
        except BaseException:
            self.store.close()
            raise
        self._history = _history(self.record, self._nodes)

    def replace(self, root: bytes) -> None:
        """Show what another root document says of the same objects; it need not have its own digest."""
        self._show(root, *read_root(root, self.path, sealed=False))

    def _show(self, root: bytes, attributes: dict[str, Any], nodes: dict[str, dict[str, Any]]) -> None:
        self.attributes, self._nodes = attributes, nodes
        self.record: dict[str, Any] = self.attributes["tracer"]
        self.store.root = root
        self._columns: dict[str, np.ndarray] = {}
        self._whole: dict[str, int] = {}
        self._layouts: dict[str, ArrayLayout] = {}
        self._rows: dict[str, Layout | None] = {}
        for name in ("_chunks", "_group"):
            self.__dict__.pop(name, None)

    def document(self) -> Any:
        """A copy of the root document."""
        return validate.parse(self.store.root)

    @cached_property
    def _chunks(self) -> Chunks:
        return Chunks(self.store)

    @cached_property
    def _group(self) -> "zarr.Group":
        import zarr

        from tracer.store.decoders import bounded

        with bounded():
            return zarr.open_group(self.as_zarr(), mode="r")

    def as_zarr(self) -> "zarr.abc.store.Store":
        """The files as zarr and xarray read them, at this commit."""
        from tracer.store.zarr_view import ZarrView

        return ZarrView(self.store)

    def node(self, path: str) -> dict[str, Any]:
        """The document of an array. Errors: MissingTraceError if there is none."""
        return self._node(path)

    def layout(self, path: str) -> ArrayLayout:
        """How an array is cut and encoded, read once. Errors: MissingTraceError if there is none."""
        if path not in self._layouts:
            self._layouts[path] = ArrayLayout.of(path, self._node(path))
        return self._layouts[path]

    @property
    def nodes(self) -> dict[str, dict[str, Any]]:
        """The documents of all groups and arrays, by path."""
        return self._nodes

    def close(self) -> None:
        """Let go of the files."""
        self.store.close()

    def has(self, path: str) -> bool:
        """Whether there is a group or array at ``path``."""
        return path in self._nodes

    def children(self, path: str) -> list[str]:
        """Names directly below a group."""
        start = len(path) + 1
        return [
            node[start:] for node in self._nodes if node.startswith(f"{path}/") and "/" not in node[start:]
        ]

    def group_attributes(self, path: str) -> dict[str, Any]:
        """Attributes of a group or array, empty if it is not there."""
        return self._nodes.get(path, {}).get("attributes", {})

    def shape(self, path: str) -> tuple[int, ...]:
        """Committed shape of an array."""
        return tuple(self._node(path)["shape"])

    def streams(self) -> list[str]:
        """Paths of the groups that have snapshots."""
        return [path for path in self.record["rows"] if path != "steps"]

    def read(self, path: str, selection: Any = ()) -> np.ndarray:
        """Return a part of an array as NumPy.

        Errors: MissingTraceError if there is no such array, ArchiveError if its bytes are lost or damaged.
        """
        self._node(path)
        try:
            if (whole := self._row_layout(path)) is not None and _is_row(selection, whole):
                values = self._read_row(path, whole, int(selection[0]))[selection[1:]]
            else:
                values = self._read_part(path, selection)
        except ArchiveError:
            self._check_current(failed=True)
            raise
        except Exception as error:  # codecs and stores raise anything from ValueError to IndexError
            self._check_current(failed=True)
            raise ArchiveError(
                f"{path!r} of {self.path!r} cannot be read ({error}); `tracer verify` says what is damaged"
            ) from error
        self._check_current()
        return values

    def _read_part(self, path: str, selection: Any) -> np.ndarray:
        self._check_cost(path, selection)
        values = self._chunks.read(self.layout(path), selection)
        return np.asarray(self._array(path)[selection]) if values is None else values

    def _array(self, path: str) -> "zarr.Array":
        import zarr

        from tracer.store.decoders import bounded

        with bounded():
            array = self._group[path]
        assert isinstance(array, zarr.Array)
        return array

    def _check_cost(self, path: str, selection: Any) -> None:
        """Refuse to make an array far larger than its files could fill, before memory is taken for it."""
        size = self._size(path, selection)
        if size > self._most(path, selection, size):
            raise self._too_large(repr(path), size)

    def keep(self, path: str) -> None:
        """Count an array among those kept whole; refuse it where all their files together could not fill them.

        Each alone may be small enough to be read whatever its files are, and there may be very many. Errors:
        MissingTraceError if there is no such array, ArchiveError for what is refused.
        """
        self._node(path)
        self._whole[path] = self._size(path, ())
        size = sum(self._whole.values())
        if size > _FREE and size > sum(self._most(kept, (), n, free=0) for kept, n in self._whole.items()):
            raise self._too_large(f"{path!r} with the other columns", size)

    def _size(self, path: str, selection: Any) -> int:
        grid = self.layout(path)
        return prod(stop - start for start, stop in _spans(selection, grid.shape)) * grid.itemsize

    def _most(self, path: str, selection: Any, size: int, free: int = _FREE) -> int:
        """Bytes that a part of an array, of `size`, may take: some are free, and more where its files are large."""
        grid = self.layout(path)
        spans = _spans(selection, grid.shape)
        first = [start // step for (start, _), step in zip(spans, grid.chunk, strict=True)]
        counts = [-(-stop // step) - at for at, (_, stop), step in zip(first, spans, grid.chunk, strict=True)]
        if prod(counts) > _MANY:
            return -1
        if size <= free:
            return free
        offsets = product(*(range(at, at + count) for at, count in zip(first, counts, strict=True)))
        stored = sum(self.store.stored_size(grid.key(numbers)) for numbers in offsets)
        return max(free, stored * (1 if grid.raw else _RATIO))

    def _too_large(self, what: str, size: int) -> ArchiveError:
        return ArchiveError(
            f"{what} of {self.path!r} says that it holds {size} bytes, which its files cannot; it is damaged or "
            "made to harm: get the archive from its author again"
        )

    def _check_current(self, failed: bool = False) -> None:
        """Refuse to mix commits: what a resumed recording dropped, or `materialize` moved, is now something else.

        failed: reading failed, for which another commit, or a packed archive in the place of this, is reason enough.
        """
        stamp = self.store.stamp()
        if stamp is None or (stamp == self._seen and not failed):
            return  # only a directory is recorded or packed while it is open here
        root = self.store.root_now()
        if not root:
            raise ArchiveError(
                f"{self.path!r} is gone since it was opened here: it was moved or removed; open it where it is now"
            )
        attributes, nodes = read_root(root, self.path)
        record = attributes["tracer"]
        other = _history(record, nodes) != self._history
        if failed and not other and record["digest"] != self.record["digest"]:
            raise ArchiveError(
                f"{self.path!r} changed since it was opened here and cannot be read as it was; open it again to read on"
            )
        if other:
            raise ArchiveError(
                f"{self.path!r} was resumed, filled in or replaced since it was opened here; open it again to read on"
            )
        self._seen = stamp

    def _read_row(self, path: str, layout: Layout, row: int) -> np.ndarray:
        key = object_key(path, row, *[0] * (len(layout.shape) - 1))
        assert isinstance(self.store, DirectoryStore)
        try:
            with self.store.opened(key) as fd:
                return layout.read(fd)[0]
        except FileNotFoundError:
            raise lost(key) from None

    def _row_layout(self, path: str) -> Layout | None:
        """Layout of an array's snapshots, if they are local files just as this release would write them.

        Those are read directly, several times faster than by `Chunks`, which read everything else.
        """
        if path not in self._rows:
            node = self._nodes[path]
            streams = (
                isinstance(self.store, DirectoryStore) and path.rpartition("/")[0] in self.record["rows"]
            )
            layout = (
                plan((1, *node["shape"][1:]), np.dtype(node["data_type"]))
                if streams and node["shape"]
                else None
            )
            if layout is not None:
                dots = node["chunk_key_encoding"]["configuration"] == {"separator": "."}
                chunk_shape = node["chunk_grid"]["configuration"]["chunk_shape"]
                known = dots and layout.codecs == node["codecs"] and list(layout.chunk_shape) == chunk_shape
                layout = layout if known else None
            self._rows[path] = layout
        return self._rows[path]

    def steps(self, group: str) -> np.ndarray:
        """Steps of a stream (or of ``steps``), int64, increasing."""
        return self.column(f"{group}/step")

    def column(self, path: str) -> np.ndarray:
        """All of an array that is small and asked for again and again, read once."""
        if path not in self._columns:
            self.keep(path)
            self._columns[path] = self.read(path)
        return self._columns[path]

    def row(self, group: str, step: int) -> int:
        """Return the row of a step in a stream.

        Errors: MissingTraceError naming the recorded steps on both sides.
        """
        steps = self.steps(group)
        row = int(np.searchsorted(steps, step))
        if row < len(steps) and steps[row] == step:
            return row
        near = [str(value) for value in steps[max(0, row - 1) : row + 1]]
        hint = f"the nearest are {' and '.join(near)}" if near else "none is"
        raise MissingTraceError(
            f"step {step} is not recorded in {group!r}; {hint} (see the snapshots= schedule of record)"
        )

    def snapshot(self, path: str, step: int, selection: Iterable[Any] = ()) -> np.ndarray:
        """Return an array of a stream at a step, or a part of it."""
        return self.read(path, (self.row(path.rpartition("/")[0], step), *selection))

    def _node(self, path: str) -> dict[str, Any]:
        if self._nodes.get(path, {}).get("node_type") != "array":
            arrays = [name for name, node in self._nodes.items() if node["node_type"] == "array"]
            raise MissingTraceError(f"{self.path!r} holds no array {path!r}; {did_you_mean(path, arrays)}")
        return self._nodes[path]


def _history(record: dict[str, Any], nodes: dict[str, dict[str, Any]]) -> tuple[Any, ...]:
    """What stays the same as long as rows are only added at the end: nothing dropped, and nothing put between."""
    own = {path: node["attributes"] for path, node in nodes.items()}
    filled = {path: one["materialized"] for path, one in own.items() if "materialized" in one}
    return record["run_id"], len(record.get("resumes", [])), filled


def _is_row(selection: Any, layout: Layout) -> bool:
    """Whether a selection takes one snapshot, all of it unless it is small anyway."""
    one = isinstance(selection, tuple) and len(selection) > 0 and isinstance(selection[0], int | np.integer)
    return one and prod(layout.shape) > 0 and (len(selection) == 1 or not layout.pieces)


def _spans(selection: Any, shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """First and last index of each axis that a selection touches."""
    asked = selection if isinstance(selection, tuple) else (selection,)
    spans = []
    for size, part in zip(shape, [*asked, *[slice(None)] * (len(shape) - len(asked))], strict=True):
        if isinstance(part, slice):
            start, stop, _ = part.indices(size)
            spans.append((start, max(start, stop)))
        elif isinstance(part, int | np.integer):
            at = int(part) % max(1, size)
            spans.append((at, at + 1))
        else:
            spans.append((0, size))
    return spans


def read_root(
    root: bytes, path: str, sealed: bool = True
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Attributes, and documents by path, of a root document, which has to have its own digest where ``sealed``.

    Errors: ArchiveError for one that no archive has.
    """
    try:
        document = validate.parse(root)
        attributes = document.get("attributes", {})
        record = attributes.get("tracer", {})
        is_archive = record.get("format") == spec.FORMAT
    except (ValueError, AttributeError) as error:
        why = f" ({error})" if isinstance(error, ValueError) else ""
        raise ArchiveError(
            f"{path!r} is not an archive: its zarr.json is not the JSON of a group{why}"
        ) from None
    if not is_archive:
        raise ArchiveError(
            f"{path!r} is a Zarr group but not an archive of tracer; open it with zarr or xarray"
        )
    minor = _check_version(str(record.get("format_version")), path)
    try:
        nodes = document["consolidated_metadata"]["metadata"]
        for node in nodes.values():
            node["attributes"], node["node_type"]
        record["rows"], record["digest"]
    except (KeyError, TypeError, AttributeError) as error:
        raise ArchiveError(
            f"{path!r} is damaged: its zarr.json lacks {error}; restore it from a copy"
        ) from error

    def refuse(why: str) -> ArchiveError:
        return ArchiveError(f"{path!r} is damaged or made to harm: {why}; restore it from a copy")

    if (
        sealed and document_digest(root, str(record["digest"])) != record["digest"]
    ):  # one bit may change a number
        raise refuse(f"its digest does not match, so its {ROOT} was changed")
    if minor > spec.MINOR:
        warnings.warn(
            f"{path!r} has format {spec.MAJOR}.{minor}, newer than {spec.FORMAT_VERSION}: what is new is not shown",
            UserWarning,
            stacklevel=5,
        )
    validate.check_nodes(nodes, refuse)
    check(attributes, nodes, refuse)
    return attributes, nodes


def _check_version(version: str, path: str) -> int:
    """The minor version."""
    try:
        major, minor = (int(part) for part in version.split("."))
    except ValueError:
        raise ArchiveError(f"{path!r} is damaged: {version!r} is not a format version") from None
    if major != spec.MAJOR:
        raise ArchiveError(
            f"{path!r} has format {version}, this release reads {spec.MAJOR}.x: use another release of tracer"
        )
    return minor
