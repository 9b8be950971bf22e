"""Writing a whole archive at once: objects, manifest, documents, and last the root."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from tracer import spec
from tracer.errors import ArchiveError
from tracer.share.content import Array, Content
from tracer.store.documents import ArrayNode, GroupNode, object_key
from tracer.store.encodings import Form, Read, object_rows, packed, recorded
from tracer.store.grid import check
from tracer.store.manifest import MANIFEST, chain, entry
from tracer.store.validate import is_path
from tracer.writer.committer import Committer

Progress = Callable[[int, int, str], None]


def write_tree(
    content: Content, folder: Path, *, pack: bool, sync: bool = False, progress: Progress | None = None
) -> None:
    """Write a content to an empty directory, packed or in the form in which the recorder writes."""
    writing = _Writing(content, folder, sync)
    for number, (path, array) in enumerate(content.arrays.items()):
        if progress is not None:
            progress(number, len(content.arrays), path)
        writing.array(path, array, pack)
    writing.finish()


class _Writing:
    def __init__(self, content: Content, folder: Path, sync: bool) -> None:
        for path in (*content.groups, *content.arrays):
            if not is_path(path):
                raise ArchiveError(f"{path!r} cannot be the path of an array or group of an archive")
        self._content = content
        self._folder = folder
        self._committer = Committer(folder, sync=sync)
        self._rows = set(content.record["rows"])
        self._record = {name: value for name, value in content.record.items() if name != "digest"}
        self._record["format_version"] = spec.version_of(self._record["format_version"])
        self._tails: dict[str, int] = {}
        self._manifest: list[list[int]] = []
        self._nodes: dict[str, ArrayNode] = {}

    def array(self, path: str, array: Array, pack: bool) -> None:
        """Write the objects of an array and note them in the manifest."""
        read = partial(self._content.read, path)
        if pack:
            form = packed(path, array.shape, array.dtype, read)
        else:
            form = recorded(path, array.dims, array.shape, array.dtype, self._rows)
        number = len(self._nodes)
        entries = self._write(path, form, read)
        column = not pack and object_rows(path, array.dims, array.shape, array.dtype, self._rows) is not None
        for numbers, nbytes, crc in entries[: -1 if column else None]:
            self._manifest.append(entry(number, numbers, (nbytes, crc), self._record["commit"] + 1))
        if column and entries:
            self._tail(path, form, entries[-1][0], read)
        self._nodes[path] = _node(array, form, number)

    def _write(self, path: str, form: Form, read: Read) -> list[tuple[tuple[int, ...], int, int]]:
        grid = form.layout(path)
        entries = []
        for numbers in form.objects():
            key = object_key(path, *numbers)
            self._committer.publish(key, partial(form.write, numbers=numbers, read=read))
            with (self._folder / key).open("rb", buffering=0) as file:

                def part(start: int, stop: int, file: Any = file) -> bytes:
                    file.seek(start)
                    return file.read(stop - start)

                size = (self._folder / key).stat().st_size
                entries.append((numbers, size, check(part, size, grid)))
        return entries

    def _tail(self, path: str, form: Form, numbers: tuple[int, ...], read: Read) -> None:
        box = (slice(numbers[0] * form.chunk[0], form.shape[0]), *(slice(0, size) for size in form.shape[1:]))
        values = np.ascontiguousarray(read(box), form.dtype)
        self._tails[object_key(path, *numbers)] = google_crc32c.value(values.tobytes())

    def finish(self) -> None:
        """Write the manifest, the documents, and last the root."""
        digest = bytes(32)
        table = np.array(self._manifest, np.int64).reshape(-1, len(spec.MANIFEST_FIELDS))
        for row in table:
            digest = chain(digest, row[None])
        arrays = list(self._nodes)
        described = spec.describe(*MANIFEST.split("/"))
        array = Array(np.dtype("<i8"), ("object", "field"), table.shape, dict(described))
        form = recorded(MANIFEST, array.dims, table.shape, array.dtype, self._rows)
        entries = self._write(MANIFEST, form, lambda box: table[box])
        if entries:
            self._tail(MANIFEST, form, entries[-1][0], lambda box: table[box])
        groups = {path: GroupNode(dict(own)) for path, own in self._content.groups.items()}
        fields = {"fields": list(spec.MANIFEST_FIELDS), "arrays": arrays}
        groups.setdefault("manifest", GroupNode()).attributes.update(fields)
        nodes: dict[str, GroupNode | ArrayNode] = {**groups, **self._nodes, MANIFEST: _node(array, form, -1)}
        self._committer.documents(nodes)
        record = self._record | {
            "tails": self._tails,
            "manifest_rows": len(table),
            "manifest_digest": digest.hex(),
        }
        self._committer.commit(record, GroupNode(dict(self._content.attributes)), nodes)


def _node(array: Array, form: Form, number: int) -> ArrayNode:
    codecs, own = form.codecs, dict(array.attributes)
    return ArrayNode(array.dtype, array.dims, form.chunk, codecs, own, array.shape, number)
