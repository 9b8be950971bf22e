"""What the tables of an archive promise, held against its arrays: nothing they name may lie outside them."""

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

from tracer import spec
from tracer.errors import ArchiveError
from tracer.store.validate import is_size

Refuse = Callable[[str], ArchiveError]
Nodes = Mapping[str, Mapping[str, Any]]
_PADDED = 1 << 26  # elements that padding may add up to, however few there are to pad


def check_record(record: Mapping[str, Any], nodes: Nodes, refuse: Refuse) -> None:
    """Refuse a commit record whose numbers are none, or do not fit the arrays."""
    for name, holds in (
        ("run_id", isinstance(record.get("run_id"), str)),
        ("state", record.get("state") in spec.STATES),
        ("commit", is_size(record.get("commit"))),
        ("rows", isinstance(record["rows"], dict)),
        ("tails", isinstance(record.get("tails"), dict)),
        ("manifest_rows", is_size(record.get("manifest_rows"))),
        ("digest", isinstance(record["digest"], str)),
        ("resumes", _rows(record.get("resumes", []), step=_size_or_none)),
        ("committed_step", "committed_step" in record and _size_or_none(record["committed_step"])),
    ):
        if not holds:
            raise refuse(f"its commit record lacks {name!r} or garbles it")
    for group, n in record["rows"].items():
        steps = nodes.get(f"{group}/step", {})
        if not is_size(n) or steps.get("shape") != [n] or steps.get("data_type") != "int64":
            raise refuse(f"group {group!r} should hold {str(n)[:40]} steps, which its array 'step' does not")


def check_tables(attributes: Mapping[str, Any], nodes: Nodes, refuse: Refuse) -> None:
    """Refuse tables of tensors, sites, calls, layers, probes, blocks or networks that are none."""
    for name, holds in (
        ("tensors", _rows(attributes.get("tensors", []), **_TENSOR)),
        ("sites", _rows(attributes.get("sites", []), name=_text, n_units=is_size, start=_size_or_none)),
        ("calls", _rows(attributes.get("calls", []), name=_text)),
        ("layers", _rows(attributes.get("layers", []), name=_text, parameters=_texts)),
        ("card", isinstance(attributes.get("card", {}), dict)),
        ("rank", "rank" not in attributes or _rows([attributes["rank"]], rank=is_size, world_size=is_size)),
    ):
        if not holds:
            raise refuse(f"its table of {name} is damaged")
    listed = nodes.get("manifest", {}).get("attributes", {}).get("arrays", [])
    if not _texts(listed):
        raise refuse("the list of arrays of 'manifest' is damaged")
    for row in attributes.get("tensors", []):
        room = nodes.get(f"weights/{row['array']}", {}).get("shape", [0, None])[1:]
        if room and room[0] is not None and row["offset"] + prod(row["shape"]) > room[0]:
            raise refuse(f"tensor {row['name']!r} lies outside 'weights/{row['array']}'")
    for path, node in nodes.items():
        parts = path.split("/")
        if parts[0] == "probes":
            _check_probe(parts, node, attributes, nodes, refuse)
    if "gram" in nodes and not _pairs(nodes["gram"]["attributes"].get("probes", [])):
        raise refuse("the table of the probes of 'gram' is damaged")
    if spec.RANKS in nodes:
        size = nodes[spec.RANKS]["attributes"].get("world_size")
        if not is_size(size) or not 1 <= size <= spec.MAX_RANKS:
            raise refuse("the number of processes of 'ranks' is none")
    versions = nodes.get("network", {}).get("attributes", {}).get("versions", [])
    if not _rows(versions, version=is_size, from_step=is_size) or not all(
        _names(version.get("constants", {})) for version in versions
    ):
        raise refuse("the table of the versions of 'network' is damaged")


def _check_probe(
    parts: list[str], node: Mapping[str, Any], attributes: Mapping[str, Any], nodes: Nodes, refuse: Refuse
) -> None:
    own = node["attributes"]
    match parts[2:]:
        case [] if len(parts) == 2:
            capture, chunks = own.get("capture", {}), own.get("chunks", [])
            fine = isinstance(capture, dict) and all(map(_size_or_none, capture.values()))
            if not fine or not _bounds(chunks) or not isinstance(own.get("split", ""), str):
                raise refuse(f"the attributes of probe {parts[1]!r} are damaged")
            if f"{'/'.join(parts)}/id" not in nodes:
                raise refuse(f"probe {parts[1]!r} has no ids")
        case ["masks", "bits"]:
            _check_masks(parts[1], node, attributes, nodes, refuse)
        case ["sketches"]:
            values = nodes.get(f"{'/'.join(parts)}/values", {}).get("shape", [0, 0, 0])
            layers = own.get("layers", [])
            fine = (
                _rows(layers, layer=_text, offset=is_size, size=is_size, buckets=is_size) and len(values) == 3
            )
            blocks, numbers = own.get("blocks"), isinstance(own.get("tolerance"), int | float)
            if not fine or not is_size(blocks) or not is_size(own.get("seed")) or not numbers:
                raise refuse(f"the table of the sketches of probe {parts[1]!r} is damaged")
            for row in layers:
                whole = row["buckets"] == 0 or row["size"] == blocks * row["buckets"]
                if not whole or row["offset"] + row["size"] > values[2]:
                    raise refuse(f"the sketch of layer {row['layer']!r} does not fit what is stored")
        case ["gradients"]:
            values = nodes.get(f"{'/'.join(parts)}/values", {}).get("shape", [0, 0])
            shapes = {row["name"]: row["shape"] for row in attributes.get("tensors", [])}
            blocks = own.get("blocks", [])
            if not _rows(blocks, tensor=_text, form=_text) or len(values) != 2:
                raise refuse(f"the gradient blocks of probe {parts[1]!r} are damaged")
            for block in blocks:
                if not _is_block(block, len(blocks), values[1], shapes.get(block["tensor"])):
                    raise refuse(f"the gradient block of {block['tensor']!r} does not fit what is stored")


def _check_masks(
    probe: str, node: Mapping[str, Any], attributes: Mapping[str, Any], nodes: Nodes, refuse: Refuse
) -> None:
    for site in attributes.get("sites", []):
        start = site.get("start")
        if start is not None and start + site["n_units"] > node["shape"][1]:
            raise refuse(f"site {site['name']!r} lies outside the masks of probe {probe!r}")
    taken = nodes[f"probes/{probe}"]["attributes"].get("capture", {}).get("masks")
    if taken is not None and taken > 8 * node["shape"][2]:
        raise refuse(f"probe {probe!r} has masks of fewer examples than it says")


def _is_block(block: Mapping[str, Any], n_blocks: int, room: int, shape: list[int] | None) -> bool:
    """Whether what a block refers to exists. A form of a later release is left to whoever rebuilds it."""
    parts = block.get("parts", [])
    if not _rows(parts, name=_text, offset=is_size, shape=_sizes):
        return False
    if any(part["offset"] + prod(part["shape"]) > room for part in parts):
        return False
    shapes = {part["name"]: part["shape"] for part in parts}
    match block["form"]:
        case "full":
            return "grad" not in shapes or len(shapes["grad"]) > 0
        case "outer":
            a, z = shapes.get("a"), shapes.get("z")
            return a is None or z is None or (len(a) == len(z) == 3 and a[:2] == z[:2])
        case "conv":
            return _is_convolution(block, shapes, shape)
        case "sum":
            return is_size(block.get("source")) and block["source"] < n_blocks
        case "zero":
            return _sizes(block.get("shape")) and block["shape"] == shape
        case "scatter":
            index, z = shapes.get("index"), shapes.get("z")
            if index is None or z is None or shape is None or block.get("shape") != shape:
                return False
            return len(z) == 3 and z[:2] == index and shape[1:] == z[2:]
    return True


def _is_convolution(
    block: Mapping[str, Any], shapes: Mapping[str, list[int]], shape: list[int] | None
) -> bool:
    a, z, groups = shapes.get("a"), shapes.get("z"), block.get("groups")
    fields = [block.get(name) for name in ("kernel", "stride", "padding", "dilation")]
    if a is None or z is None or len(a) != len(z) or len(a) < 3 or not is_size(groups) or not groups:
        return False
    if not all(_sizes(field) and len(field) == len(a) - 2 for field in fields):  # type: ignore[arg-type]
        return False
    kernel, stride, padding, dilation = (list(field or ()) for field in fields)
    if 0 in (*kernel, *stride, *dilation) or a[1] % groups or z[1] % groups:
        return False
    if shape is not None and prod(shape) != z[1] * (a[1] // groups) * prod(kernel):
        return False
    padded = [size + 2 * pad for size, pad in zip(a[2:], padding, strict=True)]
    reach = [
        (n - 1) * s + (k - 1) * d + 1 for n, s, k, d in zip(z[2:], stride, kernel, dilation, strict=True)
    ]
    fits = all(need <= have for need, have in zip(reach, padded, strict=True))
    return fits and prod(a[:2]) * prod(padded) <= max(_PADDED, 64 * prod(a))


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_text, value))


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and all(map(is_size, value))


def _size_or_none(value: Any) -> bool:
    return value is None or is_size(value)


def _rows(value: Any, **fields: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(
        isinstance(row, dict) and all(holds(row.get(name)) for name, holds in fields.items()) for row in value
    )


def _pairs(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(pair, list) and len(pair) == 2 and _text(pair[0]) and is_size(pair[1]) for pair in value
    )


def _bounds(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(map(is_size, pair)) and pair[0] < pair[1]
        for pair in value
    )


def _names(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_text, value.values()))


_TENSOR: dict[str, Callable[[Any], bool]] = {
    "name": _text,
    "shape": _sizes,
    "array": _text,
    "offset": is_size,
}
