"""What a root document may say, checked before anything acts on it: it may come from anywhere.

A name must not lead out of the archive, a size must be a size, a codec must be one that only decodes, and
what tables promise must lie within the arrays. Everything else about the values is up to checksums.
"""

import json
import re
from collections.abc import Callable, Mapping
from math import prod
from typing import Any

from tracer.errors import ArchiveError
from tracer.store.layout import ArrayLayout
from tracer.store.store import MAX_ROOT

MAX_CHUNK = 256 << 20  # bytes of what is decoded at once
MAX_SIZE = 1 << 53  # of an axis, and of all elements of an array: exact in every reader
MAX_NODES = 100_000  # the largest recordings have a few thousand
_MAX_INNER = 1 << 20  # inner chunks of an object
_MAX_AXES = 32
_MAX_DEPTH = 64
_MAX_HOLDERS = 1 << 21  # lists and objects of a document: 20 for each node there may be
_HOLDERS = {dict, list}  # as which they are read
_NAME = re.compile(r"[^\x00-\x1f\x7f-\x9f/\\]+")

CODECS = {"bytes", "crc32c", "sharding_indexed", "transpose", "gzip", "zstd", "blosc", "vlen-utf8"}
COMPRESSORS = {"gzip", "zstd", "blosc"}
_TYPES = {
    **dict.fromkeys(("bool", "int8", "uint8"), 1),
    **dict.fromkeys(("int16", "uint16", "float16"), 2),
    **dict.fromkeys(("int32", "uint32", "float32"), 4),
    **dict.fromkeys(("int64", "uint64", "float64", "complex64"), 8),
    **dict.fromkeys(("complex128", "string"), 16),
}

Refuse = Callable[[str], ArchiveError]


def parse(document: bytes) -> Any:
    """The value of a JSON document; ValueError where it is none, is too long, or is nested too deep."""
    if len(document) > MAX_ROOT:
        raise ValueError(f"it has {len(document)} bytes, more than the {MAX_ROOT} that are read")
    holders = document.count(b"[") + document.count(b"{")
    if holders > _MAX_HOLDERS:  # each takes 20 times its bytes and more
        raise ValueError(f"it has {holders} lists and objects, more than the {_MAX_HOLDERS} that are read")
    try:
        text = document.decode()
        value = json.loads(text, parse_constant=_no_constant)
        if "\\ud" in text or "\\uD" in text:  # halves of characters, which nothing could print or store
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    level = [value] if type(value) in _HOLDERS else []
    for _ in range(_MAX_DEPTH):
        if not level:
            return value
        level = [
            item
            for holder in level
            for item in (holder.values() if type(holder) is dict else holder)
            if type(item) in _HOLDERS
        ]
    raise ValueError("it is nested too deep")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def is_path(path: str) -> bool:
    r"""Whether a path names a node below the root, and nothing else.

    >>> [is_path(path) for path in ("steps/loss", "../x", "/x", "a//b", "a/./b", "a\\b")]
    [True, False, False, False, False, False]
    """
    parts = path.split("/")
    return all(_NAME.fullmatch(part) and part not in (".", "..") for part in parts) and ":" not in parts[0]


def check_nodes(nodes: Mapping[str, Any], refuse: Refuse) -> None:
    """Refuse nodes that no archive can hold, naming the first."""
    if len(nodes) > MAX_NODES:
        raise refuse(f"it has {len(nodes)} arrays and groups, more than the {MAX_NODES} that are read")
    for path, node in nodes.items():
        if not is_path(path):
            raise refuse(f"{path!r} cannot be the path of an array or group")
        if not isinstance(node, dict) or not isinstance(node.get("attributes"), dict):
            raise refuse(f"{path!r} has no attributes")
        if node.get("node_type") == "array":
            try:
                _check_array(node)
                ArrayLayout.of(path, node)
            except (KeyError, TypeError, IndexError, AttributeError) as error:
                raise refuse(f"the metadata of array {path!r} lack or garble {error}") from None
            except ValueError as error:
                raise refuse(f"array {path!r} {error}") from None
        elif node.get("node_type") != "group":
            raise refuse(f"{path!r} is neither array nor group")


def _check_array(node: Mapping[str, Any]) -> None:
    shape, names = node["shape"], node["dimension_names"]
    grid, encoding = node["chunk_grid"], node["chunk_key_encoding"]
    chunk = grid["configuration"]["chunk_shape"]
    if not _sizes(shape) or len(shape) > _MAX_AXES or prod(shape) > MAX_SIZE:
        raise ValueError(f"has the impossible shape {repr(shape)[:80]}")
    if grid["name"] != "regular" or not _sizes(chunk, 1) or len(chunk) != len(shape):
        raise ValueError(f"has impossible chunks {repr(chunk)[:80]}")
    if not isinstance(names, list) or len(names) != len(shape) or not all(isinstance(n, str) for n in names):
        raise ValueError("does not name its dimensions")
    if encoding["name"] not in ("default", "v2") or node.get("storage_transformers"):
        raise ValueError("has keys of an unknown form")
    if encoding.get("configuration", {}).get("separator", "/") not in ("/", "."):
        raise ValueError("has keys of an unknown form")
    size = _TYPES.get(node["data_type"]) if isinstance(node["data_type"], str) else 0
    if size is None or (size == 0 and node["data_type"].get("name") != "fixed_length_utf32"):
        raise ValueError(f"has data type {str(node['data_type'])[:80]!r}, which archives do not hold")
    if size == 0:
        size = int(node["data_type"]["configuration"]["length_bytes"])
    _check_codecs(node["codecs"], chunk, size)


def _check_codecs(codecs: list[dict[str, Any]], chunk: list[int], size: int) -> None:
    for codec in codecs:
        if codec["name"] not in CODECS:
            raise ValueError(f"uses codec {str(codec['name'])[:80]!r}, which is not decoded")
    if codecs[0]["name"] == "sharding_indexed":
        sharding = codecs[0]["configuration"]
        inner, index = sharding["chunk_shape"], sharding["index_codecs"]
        fits = _sizes(inner, 1) and len(inner) == len(chunk) and len(codecs) == 1
        if not fits or any(outer % part for outer, part in zip(chunk, inner, strict=True)):
            raise ValueError(f"has inner chunks {repr(inner)[:80]} that do not fill {repr(chunk)[:80]}")
        if [codec["name"] for codec in index] != ["bytes", "crc32c"] or sharding["index_location"] != "end":
            raise ValueError("has an index of an unknown form")
        if prod(outer // part for outer, part in zip(chunk, inner, strict=True)) > _MAX_INNER:
            raise ValueError(f"has more than {_MAX_INNER} inner chunks in an object")
        if sharding["codecs"][0]["name"] == "sharding_indexed":
            raise ValueError("has shards within shards")
        _check_codecs(sharding["codecs"], inner, size)
        return
    if codecs[-1]["name"] != "crc32c":
        raise ValueError("has no checksums")
    if prod(chunk) * size > MAX_CHUNK:
        raise ValueError(
            f"has chunks of {prod(chunk) * size} bytes, more than the {MAX_CHUNK} that are decoded"
        )


def _sizes(values: Any, least: int = 0) -> bool:
    return isinstance(values, list) and all(is_size(value) and value >= least for value in values)


def is_size(value: Any) -> bool:
    """Whether a value is a number of things that could exist."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_SIZE
