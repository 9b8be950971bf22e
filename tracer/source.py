"""One commit of an archive, read as plain arrays: the layer between the files and what they mean."""

import json
import os
import warnings
from collections.abc import Iterable
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import zarr

from tracer import spec
from tracer.chunks import Layout, plan
from tracer.errors import ArchiveError, MissingTraceError, did_you_mean
from tracer.metadata import object_key
from tracer.stores import PinnedStore, connect


class Source:
    """Arrays and attributes of an archive at the commit found when it was opened.

    Errors: ArchiveError for what is not an archive, is damaged, or is of a later major version.
    """

    def __init__(self, location: str | os.PathLike[str]) -> None:
        self.path = os.fspath(location)
        store, root = connect(location)
        self.store = PinnedStore(store, root)
        try:
            self.attributes, self._nodes = _parse(root, self.path)
        except BaseException:
            self.store.close()
            raise
        self.record: dict[str, Any] = self.attributes["tracer"]
        self._steps: dict[str, np.ndarray] = {}
        self._layouts: dict[str, Layout | None] = {}

    @cached_property
    def _group(self) -> zarr.Group:
        return zarr.open_group(self.store, mode="r")

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
            if (whole := self._layout(path)) is not None and _is_row(selection, whole):
                return self._read_row(path, whole, int(selection[0]))[selection[1:]]
            array = self._group[path]
            assert isinstance(array, zarr.Array)
            return np.asarray(array[selection])
        except ArchiveError:
            raise
        except Exception as error:  # codecs and stores raise anything from ValueError to IndexError
            raise ArchiveError(
                f"{path!r} of {self.path!r} cannot be read ({error}); `tracer verify` says what is damaged"
            ) from error

    def _read_row(self, path: str, layout: Layout, row: int) -> np.ndarray:
        key = object_key(path, row, *[0] * (len(layout.shape) - 1))
        assert self.store.folder is not None
        try:
            fd = os.open(self.store.folder / key, os.O_RDONLY)
        except FileNotFoundError:
            raise ArchiveError(
                f"object {key!r} is lost from the archive; `tracer verify` lists what else is"
            ) from None
        try:
            return layout.read(fd)[0]
        finally:
            os.close(fd)

    def _layout(self, path: str) -> Layout | None:
        """Layout of an array's snapshots, if they are local files just as this release would write them.

        Those are read directly, several times faster than through zarr, which reads everything else.
        """
        if path not in self._layouts:
            node = self._nodes[path]
            streams = self.store.folder is not None and path.rpartition("/")[0] in self.record["rows"]
            found = (
                plan((1, *node["shape"][1:]), np.dtype(node["data_type"]))
                if streams and node["shape"]
                else None
            )
            if found is not None:
                dots = node["chunk_key_encoding"]["configuration"] == {"separator": "."}
                chunk_shape = node["chunk_grid"]["configuration"]["chunk_shape"]
                known = dots and found.codecs == node["codecs"] and list(found.chunk_shape) == chunk_shape
                found = found if known else None
            self._layouts[path] = found
        return self._layouts[path]

    def steps(self, group: str) -> np.ndarray:
        """Steps of a stream (or of ``steps``), int64, increasing."""
        if group not in self._steps:
            self._steps[group] = self.read(f"{group}/step")
        return self._steps[group]

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


def _is_row(selection: Any, layout: Layout) -> bool:
    """Whether a selection takes one snapshot, all of it unless it is small anyway."""
    one = isinstance(selection, tuple) and len(selection) > 0 and isinstance(selection[0], int | np.integer)
    return one and prod(layout.shape) > 0 and (len(selection) == 1 or not layout.pieces)


def _parse(root: bytes, path: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    try:
        document = json.loads(root)
        attributes = document.get("attributes", {})
        record = attributes.get("tracer", {})
        is_archive = record.get("format") == spec.FORMAT
    except (ValueError, AttributeError):
        raise ArchiveError(f"{path!r} is not an archive: its zarr.json is not the JSON of a group") from None
    if not is_archive:
        raise ArchiveError(
            f"{path!r} is a Zarr group but not an archive of tracer; open it with zarr or xarray"
        )
    _check_version(str(record.get("format_version")), path)
    try:
        nodes = document["consolidated_metadata"]["metadata"]
        for node in nodes.values():
            node["attributes"], node["node_type"]
        spec_rows, _ = record["rows"], record["digest"]
        return attributes, (nodes if spec_rows is not None else {})
    except (KeyError, TypeError, AttributeError) as error:
        raise ArchiveError(
            f"{path!r} is damaged: its zarr.json lacks {error}; restore it from a copy"
        ) from error


def _check_version(version: str, path: str) -> None:
    try:
        major, minor = (int(part) for part in version.split("."))
    except ValueError:
        raise ArchiveError(f"{path!r} is damaged: {version!r} is not a format version") from None
    if major != spec.MAJOR:
        raise ArchiveError(
            f"{path!r} has format {version}, this release reads {spec.MAJOR}.x: use another release of tracer"
        )
    if minor > spec.MINOR:
        warnings.warn(
            f"{path!r} has format {version}, newer than {spec.FORMAT_VERSION}: what is new is not shown",
            UserWarning,
            stacklevel=4,
        )
