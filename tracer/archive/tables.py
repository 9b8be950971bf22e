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


def check(attributes: Mapping[str, Any], nodes: Nodes, refuse: Refuse) -> None:
    """Refuse a root document that promises what is not there, or is not as all who read it take for granted."""
    record = attributes["tracer"]
    _check_record(record, nodes, refuse)
    _check_specified(attributes, record["rows"], nodes, refuse)
    _check_tables(attributes, nodes, refuse)


def _check_record(record: Mapping[str, Any], nodes: Nodes, refuse: Refuse) -> None:
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
            raise refuse(f"group {group!r} should hold {repr(n)[:40]} steps, which its array 'step' does not")


def _check_specified(
    attributes: Mapping[str, Any], rows: Mapping[str, int], nodes: Nodes, refuse: Refuse
) -> None:
    """Refuse nodes that are not as the format has them: of another kind or length, or lacking what all reading needs.

    What the format does not name is left to later releases, but for the group it has to be in, and its steps. An
    array that one kind of reading needs is missed by that.
    """
    for entry in spec.ROOT_ATTRIBUTES:
        if not _typed(attributes, entry):
            raise refuse(f"its attribute {entry.name!r} is no {entry.type}")
    if nodes.get("steps", {}).get("node_type") != "group":
        raise refuse("it has no group 'steps'")
    for path, node in nodes.items():
        owner, _, name = path.rpartition("/")
        if owner and nodes.get(owner, {}).get("node_type") != "group":
            raise refuse(f"{path!r} is in a group that is not there")
        known = spec.find_group(path if node["node_type"] == "group" else owner)
        if node["node_type"] == "group":
            if known is not None:
                _check_group(path, known, rows, nodes, refuse)
        elif owner in rows and node["dimension_names"][:1] == ["step"] and node["shape"][0] != rows[owner]:
            raise refuse(f"array {path!r} has {node['shape'][0]} rows where its group has {rows[owner]}")
        elif known is not None and not _is_specified(node, name, known):
            raise refuse(f"array {path!r} has not the data type or the dimensions that it must have")
        elif owner == "steps":
            logged = node["attributes"].get("logged_as", name)
            if not _text(logged) or (logged != name and logged in _COLUMNS):
                raise refuse(f"scalar {path!r} was logged under no name of a scalar")


def _check_group(path: str, known: spec.Group, rows: Mapping[str, int], nodes: Nodes, refuse: Refuse) -> None:
    if (known.stream or path == "steps") and path not in rows:
        raise refuse(f"its commit record has no number of rows of {path!r}")
    for array in known.all_arrays():
        needed = array.required and (path == "steps" or array.name in spec.STREAM_COLUMNS)
        if needed and nodes.get(f"{path}/{array.name}", {}).get("node_type") != "array":
            raise refuse(f"group {path!r} lacks its array {array.name!r}")
    for entry in known.attributes:
        if not _typed(nodes[path]["attributes"], entry):
            raise refuse(f"the attribute {entry.name!r} of {path!r} is no {entry.type}")


def _is_specified(node: Mapping[str, Any], name: str, group: spec.Group) -> bool:
    """Whether an array has the data type, the axes and the first dimension of the format, if that names it at all."""
    arrays = {array.name: array for array in group.all_arrays()}
    array = arrays.get(name) or arrays.get("<scalar>") or arrays.get("<dtype>")
    if array is None:
        return True
    dtype, dims = node["data_type"], node["dimension_names"]
    typed = array.dtype in ("any", "<dtype>") or (_text(dtype) and dtype.startswith(array.dtype))
    least = len(array.dims) - array.dims.count("...")
    axes = len(dims) == least if "..." not in array.dims else len(dims) >= least
    return typed and axes and dims[:1] == list(array.dims[:1])


def _typed(attributes: Mapping[str, Any], entry: spec.Attribute) -> bool:
    """Whether an attribute is of the type that the format gives it, if it is there."""
    return entry.name not in attributes or _TYPES[entry.type](attributes[entry.name])


def _check_tables(attributes: Mapping[str, Any], nodes: Nodes, refuse: Refuse) -> None:
    """Refuse tables of tensors, sites, calls, layers, probes, blocks or networks that are none."""
    for name, holds in (
        ("tensors", _rows(attributes.get("tensors", []), **_TENSOR)),
        ("sites", _rows(attributes.get("sites", []), name=_text, n_units=is_size, start=_size_or_none)),
        ("calls", _rows(attributes.get("calls", []), name=_text)),
        ("layers", _rows(attributes.get("layers", []), name=_text, parameters=_texts)),
        ("provenance", isinstance(attributes.get("provenance", {}), dict)),
        ("rank", "rank" not in attributes or _rows([attributes["rank"]], rank=is_size, world_size=is_size)),
    ):
        if not holds:
            raise refuse(f"its table of {name} is damaged")
    card = attributes.get("card", {})
    for name, is_sound in _CARD.items():
        if card.get(name) is not None and not is_sound(card[name]):
            raise refuse(f"{name!r} of its card is damaged")
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
            layers = own.get("layers")
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


def _described(value: Any) -> bool:
    """What a card says of a model or an optimizer: its class, or a mapping with it."""
    if not isinstance(value, dict):
        return _text(value)
    n = value.get("n_parameters", 0)
    return _text(value.get("class", "")) and is_size(n) and _rows(value.get("groups", []))


def _mapping(value: Any) -> bool:
    return isinstance(value, dict)


def _captures(value: Any) -> bool:
    return _mapping(value) and all(
        _mapping(probe) and _mapping(probe.get("capture", {})) for probe in value.values()
    )


_COLUMNS = {array.name for array in spec.step_columns()}
_TYPES: dict[str, Callable[[Any], bool]] = {
    "object": _mapping,
    "list": lambda value: isinstance(value, list),
    "string": _text,
    "integer": is_size,
    "number": lambda value: isinstance(value, int | float),
}
# What is read of a card; each may be null, or not be there.
_CARD: dict[str, Callable[[Any], bool]] = {
    "model": _described,
    "optimizer": _described,
    "network": _text,
    "snapshots": _names,
    "gradients": _mapping,
    "foreign_ops": _texts,
    "probes": _captures,
    "packed": lambda value: _mapping(value) and _mapping(value.get("left_out", {})),
    "environment": _mapping,
    "memory": is_size,
    "chunk": is_size,
}
_TENSOR: dict[str, Callable[[Any], bool]] = {
    "name": _text,
    "shape": _sizes,
    "array": _text,
    "offset": is_size,
}
