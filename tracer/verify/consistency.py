"""Whether what an archive holds fits together: rows with ids, snapshots with rows, streams and documents alike."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from tracer.archive.gradients import rebuild
from tracer.archive.source import Source
from tracer.spec import stream_of


def inconsistencies(source: Source) -> Iterator[tuple[str, str]]:
    """(where, what) of rows that do not fit each other. Errors: ArchiveError for what cannot be read."""
    nodes, record = source.nodes, source.record
    for group, n in record["rows"].items():
        steps = source.read(f"{group}/step")
        if (np.diff(steps) <= 0).any():
            yield f"{group}/step", "the steps do not increase"
        for name in source.children(group):
            node = nodes[f"{group}/{name}"]
            along = node.get("dimension_names", [None])[:1]
            if node["node_type"] == "array" and along == ["step"] and node["shape"][0] != n:
                yield f"{group}/{name}", f"it has {node['shape'][0]} rows where the group has {n}"
    if "steps" not in record["rows"] or "steps/n_ids" not in nodes or "steps/ids" not in nodes:
        yield "steps", "the updates are not there"
        return
    steps, total = source.steps("steps"), int(source.read("steps/n_ids").sum(dtype=np.int64))
    if record.get("committed_step") != (int(steps[-1]) if len(steps) else None):
        yield "steps/step", f"its last row is not step {record.get('committed_step')} of the commit record"
    for path, node in nodes.items():
        along = node.get("dimension_names", [None])[:1]
        ragged = path.startswith(("steps/", "minibatch/")) and along == ["id"]
        if ragged and node["shape"][0] != total:
            yield path, f"it has {node['shape'][0]} rows for {total} ids"


def unlike(source: Source) -> Iterator[tuple[str, str, int]]:
    """(stream, what, step) of snapshots without the row of their update, or lacking where others have one.

    A commit holds whole steps, so the same stream of all probes, and the Grams with the gradients, are there at
    the same steps; what was computed afterwards may be there at fewer.
    """
    rows, alike = source.steps("steps"), dict[str, dict[str, np.ndarray]]()
    for group in source.streams():
        steps = source.steps(group)
        alone = np.setdiff1d(steps, rows)
        if len(alone):
            yield group, f"has a snapshot of step {alone[0]}, whose row is not in steps", int(alone[0])
        if "materialized" not in source.group_attributes(group):
            stream = stream_of(group)
            alike.setdefault(stream if group != "minibatch/masks" else group, {})[group] = steps
    for groups in alike.values():
        every = np.unique(np.concatenate(list(groups.values())))
        for group, steps in groups.items():
            lost = np.setdiff1d(every, steps)
            if len(lost):
                other = next(name for name, known in groups.items() if lost[0] in known)
                yield group, f"lacks the snapshot of step {lost[0]} that {other!r} has", int(lost[0])


def misshapen(source: Source) -> Iterator[tuple[str, str]]:
    """(where, what) of gradient blocks that stand for gradients of another shape than the tensor's."""
    shapes = {row["name"]: tuple(row["shape"]) for row in source.attributes.get("tensors", [])}
    for group in source.nodes:
        blocks = source.group_attributes(group).get("blocks", []) if group.endswith("/gradients") else []
        for tensor in dict.fromkeys(block["tensor"] for block in blocks):
            try:
                rows = rebuild([_of_none(block) for block in blocks], tensor, lambda *_: np.empty(0))
            except ValueError as error:  # an ArchiveError too
                yield f"{group}/values", f"the gradients of {tensor!r} cannot be rebuilt: {error}"
                continue
            if tensor in shapes and rows.shape[1:] != shapes[tensor]:
                made, own = list(rows.shape[1:]), list(shapes[tensor])
                yield (
                    f"{group}/values",
                    f"the gradients of {tensor!r} are of shape {made}, the tensor of {own}",
                )


def _of_none(block: dict[str, Any]) -> dict[str, Any]:
    """The same block of no example at all, for the shape of what is rebuilt of it."""
    parts = [{**part, "shape": [0, *part["shape"][1:]]} for part in block.get("parts", [])]
    return {**block, "parts": parts}


def is_older(old: Any, new: Any, key: str = "") -> bool:
    """Whether a document may be that of an earlier commit: shapes and lists only grow, keys are only added.

    >>> is_older({"shape": [2], "attributes": {}}, {"shape": [3], "attributes": {"a": 1}})
    True
    >>> is_older({"shape": [2]}, {"shape": [3], "data_type": "int64"})
    False
    """
    if key == "shape":
        return (
            isinstance(old, list)
            and len(old) == len(new)
            and all(isinstance(a, int) and 0 <= a <= b for a, b in zip(old, new, strict=True))
        )
    if isinstance(old, dict) and isinstance(new, dict):
        if old.get("shape", [1])[:1] == [0]:  # nothing is in it yet: it may still be cut in another way
            old = {
                **old,
                **{name: new[name] for name in ("chunk_grid", "codecs") if name in old and name in new},
            }
        same_keys = old.keys() <= new.keys() if key == "attributes" else old.keys() == new.keys()
        return same_keys and all(is_older(old[name], new[name], name) for name in old)
    if isinstance(old, list) and isinstance(new, list) and key in ("arrays", "versions", "missing"):
        return new[: len(old)] == old
    return bool(old == new)
