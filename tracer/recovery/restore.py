"""Taking up an archive again: its state restored, and what came after a step left out, in one commit.

Nothing that the last commit names is touched before that commit. It only writes documents: those of single
arrays first, which must never say more than the root, then the root. (The root of an archive that was closed
says before that that it is open again.) Objects still hold the rows left out,
as a superset; an object of the manifest that follows one left out is listed among those that may change until
the manifest, rewritten, holds it again. Files of what was left out are removed last.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from tracer import spec
from tracer.errors import ArchiveError
from tracer.store import grid as objects
from tracer.store.documents import ArrayNode, GroupNode
from tracer.store.layout import ArrayLayout, plan
from tracer.store.manifest import MANIFEST, entry
from tracer.verify.examination import Examination
from tracer.verify.tails import crc_of
from tracer.writer.columns import Column
from tracer.writer.commits import Tree
from tracer.writer.committer import Committer
from tracer.writer.declarations import Loose


@dataclass
class Rest:
    """How much of an archive is kept: rows of each group, and ids. `step` is the last one kept, -1 if none."""

    step: int
    rows: dict[str, int]
    ids: int


def up_to(steps: Mapping[str, np.ndarray], sizes: np.ndarray, step: int) -> Rest:
    """Everything up to a step; `steps` by group, `sizes` the numbers of ids of the updates."""
    rows = {group: int(np.searchsorted(values, step, side="right")) for group, values in steps.items()}
    return Rest(step, rows, int(sizes[: rows["steps"]].sum(dtype=np.int64)))


@dataclass
class Restored:
    """An archive taken up: its tree, and the keys of objects that the tree does not name any more."""

    tree: Tree
    dropped: list[str] = field(default_factory=list)


def restore(
    examination: Examination, committer: Committer, rest: Rest, *, rebuild: bool = False, resumed: bool = True
) -> Restored:
    """Restore an archive up to `rest` and commit that. Its other objects are as the examination found them.

    rebuild: make the manifest anew from the objects. resumed: enter it in `resumes`. Errors: ArchiveError for
    an archive in a form that recordings are not written in (packed, or of another release).
    """
    source = examination.source
    record = {**source.record, "state": "recording", "committed_step": None}
    record["format_version"] = spec.version_of(record["format_version"])
    record["resumes"] = list(record.get("resumes", []))
    if rest.rows["steps"]:
        record["committed_step"] = int(examination_steps(examination, rest.rows["steps"])[-1])
    if resumed:
        record["resumes"].append(
            {
                "step": None if rest.step < 0 else rest.step,
                "dropped": source.record["committed_step"],
                "commit": record["commit"] + 1,
                "time": datetime.now(UTC).isoformat(timespec="seconds"),
            }
        )
    attributes = {name: value for name, value in source.attributes.items() if name != "tracer"}
    tree = Tree(committer, record, attributes)
    nodes = _Nodes(examination, rest)
    table, loose = nodes.manifest(rebuild, record["commit"] + 1)
    if (
        source.record["state"] != "recording"
    ):  # only then may documents of single arrays say less than the root
        committer.amend(source.store.root, _reopen)
    tree.adopt(nodes.groups(), nodes.arrays, nodes.layouts, nodes.columns, rest.rows, table, loose)
    tree.write_nodes()
    tree.commit()
    tree.settle()
    return Restored(tree, sorted(nodes.dropped()))


def _reopen(attributes: dict[str, Any]) -> None:
    attributes["tracer"]["state"] = "recording"


def examination_steps(examination: Examination, n: int) -> np.ndarray:
    """The first n steps of the updates, from sound objects alone."""
    return sound_rows(examination, "steps/step")[:n]


def sound_rows(examination: Examination, path: str, block: tuple[int, ...] = ()) -> np.ndarray:
    """The committed rows of a column up to the first that is damaged or lost.

    block: which of several that lie side by side, as in learning rates of groups that were added; default the first.
    """
    grid, inventory = examination.grids[path], examination.inventory
    parts = []
    for number in range(grid.counts[0]):
        numbers = (number, *(block or [0] * (len(grid.shape) - 1)))
        key, wanted = grid.key(numbers), min(grid.chunk[0], grid.shape[0] - number * grid.chunk[0])
        values = np.empty((0, *grid.chunk[1:]), grid.dtype)
        if key in inventory.sizes:
            values = objects.first_values(inventory.reader(key), inventory.sizes[key], grid)[:wanted]
        torn = examination.record["tails"].get(key) == crc_of(values)  # only its end: it is written anew
        if key in examination.bad and len(values) == wanted and not torn:
            values = values[:0]  # sound by itself, but not what was committed: another object in its place
        parts.append(values)
        if len(values) < wanted:
            break
    return np.concatenate([np.empty((0, *grid.chunk[1:]), grid.dtype), *parts])


class _Nodes:
    """The documents of an archive as a tree has them, cut to what is kept."""

    def __init__(self, examination: Examination, rest: Rest) -> None:
        self._examination, self._rest = examination, rest
        self._source, self._nodes = examination.source, examination.source.nodes
        self._numbers = {path: i for i, path in enumerate(self._listed())} | {MANIFEST: -1}
        self.layouts: dict[str, Any] = {}
        self.columns: dict[str, list[Column]] = {}
        self.arrays: dict[str, ArrayNode] = {}
        for path in sorted(examination.grids, key=lambda path: self._numbers.get(path, 1 << 60)):
            self.arrays[path] = self._array(path)

    def _listed(self) -> list[str]:
        return list(self._source.group_attributes("manifest").get("arrays", []))

    def groups(self) -> dict[str, GroupNode]:
        """All groups; of the networks only the versions that hold up to the last step kept."""
        groups = {}
        for path, node in self._nodes.items():
            if node["node_type"] == "group":
                attributes = dict(node["attributes"])
                if path == "network":
                    versions = attributes.get("versions", [])
                    attributes["versions"] = [
                        v for v in versions if v["from_step"] <= max(0, self._rest.step)
                    ]
                groups[path] = GroupNode(attributes)
        return groups

    def _array(self, path: str) -> ArrayNode:
        node, grid = self._nodes[path], self._examination.grids[path]
        if path not in self._numbers or grid.dtype is None:
            raise self._foreign(path)
        shape = self._shape(path, grid)
        if shape is not None and self._is_column(path):
            self.columns[path] = self._blocks(path, grid, shape[0])
            codecs = self.columns[path][0].layout.codecs
        elif shape is not None:
            layout = self.layouts[path] = plan((1, *shape[1:]), grid.dtype)
            codecs = layout.codecs if layout.chunk_shape == grid.chunk else []
        else:
            codecs = node["codecs"]
        encoding = node["chunk_key_encoding"]
        if codecs != node["codecs"] or encoding != {"name": "default", "configuration": {"separator": "."}}:
            raise self._foreign(path)
        dims, labels = tuple(node["dimension_names"]), node["attributes"]
        return ArrayNode(
            grid.dtype, dims, grid.chunk, codecs, labels, shape or grid.shape, self._numbers[path]
        )

    def _foreign(self, path: str) -> ArchiveError:
        return ArchiveError(
            f"{self._source.path!r} cannot be continued, since {path!r} is not as a recording writes it (packed, or of "
            "another release): unpack it first, or record into a new archive"
        )

    def _shape(self, path: str, grid: ArrayLayout) -> tuple[int, ...] | None:
        """The shape that is kept, None for an array that does not grow."""
        group = path.rpartition("/")[0]
        if path == MANIFEST:
            return grid.shape
        along = self._nodes[path]["dimension_names"][:1]
        if along == ["id"] and group in ("steps", "minibatch"):
            return (self._rest.ids, *grid.shape[1:])
        return (self._rest.rows[group], *grid.shape[1:]) if group in self._rest.rows else None

    def _is_column(self, path: str) -> bool:
        group, _, name = path.rpartition("/")
        ragged = self._nodes[path]["dimension_names"][:1] == ["id"]
        shared = self._examination.grids[path].chunk[:1] != (1,)  # one object holds several snapshots
        return path == MANIFEST or group == "steps" or ragged or name in spec.STREAM_COLUMNS or shared

    def _blocks(self, path: str, grid: ArrayLayout, n: int) -> list[Column]:
        if grid.inner is None or not grid.raw or grid.dtype is None:
            raise self._foreign(path)
        count = -(-grid.shape[1] // grid.chunk[1]) if path == "steps/lr" else 1
        return [self._column(path, grid, n, block) for block in range(count)]

    def _column(self, path: str, grid: ArrayLayout, n: int, block: int) -> Column:
        assert grid.inner is not None and grid.dtype is not None
        column = Column(grid.dtype, grid.chunk[1:], grid.chunk[0], grid.inner[0])
        if n and path != MANIFEST:
            number = (n - 1) // grid.chunk[0]
            key = grid.key((number, *[block] * (len(grid.shape) - 1)))
            inventory = self._examination.inventory
            column.load(n, objects.first_values(inventory.reader(key), inventory.sizes[key], grid))
        return column

    # ---- the manifest ----

    def manifest(self, rebuild: bool, commit: int) -> tuple[np.ndarray, list[Loose]]:
        """The rows of the manifest that stay as they are, and the objects to be entered anew."""
        if rebuild:
            every = self._examination.expected
            rows, rest = np.empty((0, len(spec.MANIFEST_FIELDS)), np.int64), self._entries(every, commit)
        else:
            table = self._source.read(MANIFEST)
            inside = [self._stays(int(row[0]), int(row[1])) for row in table]
            first = inside.index(False) if False in inside else len(table)
            rows, rest = (
                table[:first],
                [row for row, stay in zip(table[first:], inside[first:], strict=True) if stay],
            )
            # Taken up before, and killed before the manifest held these again.
            rest += self._entries(self._source.record["tails"], commit)
        self._load_manifest(rows)
        return rows, [self._loose(row) for row in rest]

    def _stays(self, number: int, row: int) -> bool:
        """Whether an object is kept as it is: not left out, and not open again."""
        path = self._listed()[number]
        if path in self.columns:
            return row < self.columns[path][0].number
        return path not in self.layouts or row < self.arrays[path].shape[0]

    def _entries(self, keys: Iterable[str], commit: int) -> list[np.ndarray]:
        """Rows of the manifest for those of the objects that are sound and will not change."""
        examination, entries = self._examination, []
        for key in keys:
            path, numbers = examination.expected[key]
            number = self._numbers[path]
            if path == MANIFEST or key in examination.bad or not self._stays(number, (*numbers, 0)[0]):
                continue
            size = examination.inventory.sizes[key]
            crc = objects.check(examination.inventory.reader(key), size, examination.grids[path])
            entries.append(np.array(entry(number, numbers, (size, crc), commit), np.int64))
        return entries

    def _loose(self, row: np.ndarray) -> Loose:
        path = self._listed()[int(row[0])]
        grid = self._examination.grids[path]
        numbers = (int(row[1]), int(row[2]), *[0] * 30)[: len(grid.shape)]
        values = self._examination.committed(path, numbers)
        if values is None:
            raise ArchiveError(
                f"{grid.key(numbers)!r} has lost committed values; `tracer verify --repair` first"
            )
        return Loose(grid.key(numbers), crc_of(values), row)

    def _load_manifest(self, table: np.ndarray) -> None:
        column = self.columns[MANIFEST][0]
        column.load(len(table), table[max(0, len(table) - 1) // len(column.tail) * len(column.tail) :])

    def dropped(self) -> Iterable[str]:
        """Keys of the objects that were named before and are not any more."""
        named: set[str] = set()
        for path, node in self.arrays.items():
            grid = self._examination.grids[path]
            shape = (self.columns[MANIFEST][0].n, grid.shape[1]) if path == MANIFEST else node.shape
            cut = replace(grid, shape=shape)
            named.update(key for _, key in cut.keys())  # noqa: SIM118  (a grid is no dict)
        return self._examination.expected.keys() - named
