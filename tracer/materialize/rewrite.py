"""A new archive made of an old one and of additions: everything recorded is carried over, step by step."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from tracer import spec
from tracer.archive import Archive
from tracer.errors import ArchiveError
from tracer.store.documents import as_json
from tracer.writer.commits import Tree
from tracer.writer.committer import Committer
from tracer.writer.row import Row

Arrays = dict[str, np.ndarray]
Declared = Mapping[str, tuple[np.dtype, tuple[int, ...], tuple[str, ...]]]
_ROWS = 4096  # updates carried over at a time
_FIELDS = ("step", "epoch", "time", "loss", "skipped")
_RAGGED = "minibatch"  # its arrays have a row for each id of each update


@dataclass
class Additions:
    """What the new archive holds beyond the old one.

    attributes: by group ("" is the root), merged. static: group to (arrays, dims). layout: group to its
    declared arrays, for streams that are new or change shape. steps: group to the steps that `make` gives,
    instead of what is recorded there. make: from a step to the arrays by group. adapt: changes the recorded
    arrays of a group to its new shape.
    """

    attributes: dict[str, dict[str, Any]] = field(default_factory=dict)
    static: dict[str, tuple[Arrays, dict[str, tuple[str, ...]]]] = field(default_factory=dict)
    layout: dict[str, Declared] = field(default_factory=dict)
    steps: dict[str, set[int]] = field(default_factory=dict)
    make: Callable[[int], dict[str, Arrays]] = lambda step: {}
    adapt: dict[str, Callable[[Arrays], Arrays]] = field(default_factory=dict)


def rewrite(archive: Archive, target: Path, additions: Additions, *, sync: bool = False) -> None:
    """Write the new archive at `target`, which must not exist; run id, state, resumes and commits go on.

    sync: wait for the disk, so that the old one may be removed afterwards.

    One snapshot of one group is in memory at a time. Reading checks every checksum of the old archive:
    ArchiveError where it is damaged, or holds what this release cannot carry over.
    """
    old = archive.attributes["tracer"]
    record = {
        "format": spec.FORMAT,
        "format_version": spec.FORMAT_VERSION,
        **{name: old[name] for name in ("run_id", "commit")},
        "state": "recording",
        "committed_step": None,
        "resumes": old.get("resumes", []),
    }
    attributes = {name: value for name, value in archive.attributes.items() if name != "tracer"}
    tree = Tree(Committer(target, sync=sync), record, as_json(attributes))
    _Copy(archive, tree, additions).run()
    tree.close(archive.state)


class _Copy:
    def __init__(self, archive: Archive, tree: Tree, additions: Additions) -> None:
        self._archive, self._tree, self._new = archive, tree, additions
        self._source = archive._source
        self._zarr = zarr.open_group(self._source.as_zarr(), mode="r")
        self._streams = self._source.streams()
        self._ragged = self._names(_RAGGED)

    def run(self) -> None:
        self._static()
        self._declare()
        for group, attributes in self._new.attributes.items():
            self._tree.group(group, as_json(attributes))
        self._rows()
        recorded = {group: {int(step) for step in self._source.steps(group)} for group in self._streams}
        ends = {int(step) for step in self._archive.epoch_ends}
        every = sorted(set().union(*recorded.values(), *self._new.steps.values()))
        for step in every:
            made = {group for group, steps in self._new.steps.items() if step in steps}
            arrays = self._new.make(step) if made else {}
            for group in dict.fromkeys([*recorded, *self._new.steps]):
                if group in made:
                    self._tree.append(group, step, step in ends, arrays[group])
                elif step in recorded.get(group, ()):
                    self._tree.append(group, step, self._ended(group, step), self._recorded(group, step))

    def _array(self, path: str) -> zarr.Array:
        array = self._zarr[path]
        assert isinstance(array, zarr.Array)
        return array

    def _dims(self, path: str) -> tuple[str, ...]:
        names: Any = getattr(self._array(path).metadata, "dimension_names", None)
        return tuple(name or "" for name in names or ())

    def _static(self) -> None:
        """Attributes of all groups, and the arrays that do not change."""
        for path, node in self._zarr.members(max_depth=None):
            group, _, name = path.rpartition("/")
            skipped = path in ("manifest", "steps") or group in ("manifest", "steps")
            if skipped:
                continue
            if isinstance(node, zarr.Group):
                self._tree.group(path, as_json(dict(node.attrs)))
            elif group not in (_RAGGED, *self._streams) and node.dtype.kind in "biufc":
                # (Text is not copied: it repeats names that are in attributes.)
                self._tree.static(path, self._source.read(path), self._dims(path))
        for group, (arrays, dims) in self._new.static.items():
            for name, values in arrays.items():
                self._tree.static(f"{group}/{name}", np.ascontiguousarray(values), dims.get(name, ()))

    def _declare(self) -> None:
        if self._ragged:
            self._tree.ragged(_RAGGED, self._layout(_RAGGED, "id"))
        for group in dict.fromkeys([*self._streams, *self._new.layout]):
            declared = self._new.layout.get(group) or self._layout(group)
            self._tree.stream(group, declared)

    def _layout(self, group: str, along: str = "step") -> Declared:
        declared = {}
        for name in self._names(group):
            array, dims = self._array(f"{group}/{name}"), self._dims(f"{group}/{name}")
            if dims[:1] != (along,):
                raise ArchiveError(
                    f"{self._archive.path!r} holds {f'{group}/{name}'!r} along {dims}, which this release "
                    "cannot carry over: use the release that recorded it"
                )
            declared[name] = (array.dtype, tuple(array.shape[1:]), dims[1:])
        return declared

    def _names(self, group: str) -> list[str]:
        """Arrays of a group, without the two columns every stream has."""
        children = self._source.children(group)
        return [name for name in children if name not in spec.STREAM_COLUMNS and self._is_array(group, name)]

    def _is_array(self, group: str, name: str) -> bool:
        return isinstance(self._zarr[f"{group}/{name}"], zarr.Array)

    def _recorded(self, group: str, step: int) -> Arrays:
        arrays = {name: self._source.snapshot(f"{group}/{name}", step) for name in self._names(group)}
        adapt = self._new.adapt.get(group)
        return adapt(arrays) if adapt else arrays

    def _ended(self, group: str, step: int) -> bool:
        return bool(self._source.read(f"{group}/epoch_end", self._source.row(group, step)))

    def _rows(self) -> None:
        """Every update, with its ids, scalars, and what was captured of its examples."""
        columns = self._archive.rows
        known = {array.name for array in spec.step_columns()}
        scalars = [name for name in columns if name not in known]
        ends = np.concatenate([[0], np.cumsum(columns["n_ids"], dtype=np.int64)])
        for first in range(0, len(columns["step"]), _ROWS):
            last = min(first + _ROWS, len(columns["step"]))
            part = slice(int(ends[first]), int(ends[last]))
            ids = self._source.read("steps/ids", part)
            ragged = {
                f"{_RAGGED}/{name}": self._source.read(f"{_RAGGED}/{name}", part) for name in self._ragged
            }
            rows = []
            for at in range(first, last):
                own = slice(int(ends[at] - ends[first]), int(ends[at + 1] - ends[first]))
                fields: Any = {name: columns[name][at].item() for name in _FIELDS}
                fields["lr"] = tuple(float(rate) for rate in columns["lr"][at])
                fields["scalars"] = {name: float(columns[name][at]) for name in scalars}
                fields["examples"] = {path: array[own] for path, array in ragged.items()}
                rows.append(Row(ids=ids[own], **fields))
            self._tree.rows(rows)
