"""The text of Zarr v3 metadata documents, cached so that a commit only formats what grew."""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np

from tracer.spec import fill_value

_BLANK = "0" * 64
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-](inf|nan)")
_HALF = re.compile("[\ud800-\udfff]")
_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def to_json(value: Any) -> str:
    """Return compact standard JSON. NumPy numbers become numbers, non-finite ones null, since JSON has none.

    >>> to_json({"lr": float("nan"), "shape": (np.int64(3),)})
    '{"lr":null,"shape":[3]}'
    """
    try:
        return _ENCODER.encode(value)
    except (TypeError, ValueError):
        return _ENCODER.encode(_plain(value))


def to_cell(value: Any) -> Any:
    """A value for a cell of a CSV: a text that a spreadsheet would take for a formula gets an apostrophe.

    >>> [to_cell(value) for value in ("=1+1", "-x", "-1.5", "+1e-3", "features.1", -2.5)]
    ["'=1+1", "'-x", '-1.5', '+1e-3', 'features.1', -2.5]
    """
    if isinstance(value, str):
        value = value.replace("\r", "\\r")  # which would begin a new row
    if not isinstance(value, str) or value[:1] not in ("=", "+", "-", "@", "\t", "\r", "\n", "\0"):
        return value
    return value if _NUMBER.fullmatch(value) else f"'{value}"


def as_json(attributes: Mapping[str, Any]) -> dict[str, Any]:
    r"""Return a deep copy of attributes as JSON has them: lists, objects, numbers, strings.

    Halves of characters, such as the bytes of a path that are no UTF-8, become what a terminal shows of them, since
    nothing could store them.

    >>> as_json({"title": "\udcff", "shape": (2,)})
    {'title': '\\udcff', 'shape': [2]}
    """
    text = to_json(dict(attributes))
    return json.loads(_HALF.sub(lambda half: f"\\\\u{ord(half[0]):x}", text))


def merge(into: dict[str, Any], new: Mapping[str, Any]) -> None:
    """Merge ``new`` into ``into``, objects within them too.

    >>> card = {"model": {"name": "MLP"}}
    >>> merge(card, {"model": {"layers": 3}})
    >>> card
    {'model': {'name': 'MLP', 'layers': 3}}
    """
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


@dataclass
class GroupNode:
    """A group: its attributes and their text."""

    attributes: dict[str, Any] = field(default_factory=dict)
    _text: str | None = None

    def update(self, attributes: Mapping[str, Any]) -> None:
        """Merge attributes."""
        merge(self.attributes, attributes)
        self._text = None

    def text(self) -> str:
        """Return the document of the group."""
        if self._text is None:
            self._text = f'{{"zarr_format":3,"node_type":"group","attributes":{to_json(self.attributes)}}}'
        return self._text


@dataclass
class ArrayNode:
    """An array: everything but its shape is fixed."""

    dtype: np.dtype
    dims: tuple[str, ...]
    chunk_shape: tuple[int, ...]
    codecs: list[dict[str, Any]]
    attributes: dict[str, Any]
    shape: tuple[int, ...]
    number: int = -1  # place in the manifest's list of arrays
    _rest: str | None = None

    def text(self) -> str:
        """Return the document of the array at its committed shape."""
        if self._rest is None:
            self._rest = to_json(self._document())[1:]
        return f'{{"zarr_format":3,"node_type":"array","shape":{to_json(self.shape)},{self._rest}'

    def _document(self) -> dict[str, Any]:
        # The separator keeps all objects of an array in its own directory: no directory has to be made for
        # each.
        return {
            "data_type": self.dtype.name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": self.chunk_shape}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "fill_value": fill_value(self.dtype),
            "codecs": self.codecs,
            "dimension_names": self.dims,
            "attributes": self.attributes,
            "storage_transformers": [],
        }


def object_key(path: str, *numbers: int) -> str:
    """Return the file of an object of the array at ``path``.

    >>> object_key("steps/lr", 0, 1), object_key("network/constant_0_0")
    ('steps/lr/c.0.1', 'network/constant_0_0/c')
    """
    return path + "/" + ".".join(["c", *map(str, numbers)])


def root_text(record: Mapping[str, Any], root: GroupNode, nodes: Mapping[str, GroupNode | ArrayNode]) -> str:
    """Return the root document: commit record, attributes, the documents of all nodes, and its digest."""
    blank = to_json({**record, "digest": _BLANK})
    attributes = to_json(root.attributes)
    inside = "" if attributes == "{}" else "," + attributes[1:-1]
    members = ",".join(f"{to_json(path)}:{nodes[path].text()}" for path in family_order(nodes))
    text = (
        f'{{"zarr_format":3,"node_type":"group","attributes":{{"tracer":{blank}{inside}}},'
        f'"consolidated_metadata":{{"kind":"inline","must_understand":false,"metadata":{{{members}}}}}}}'
    )
    mark = f'"digest":"{_BLANK}"'
    return text.replace(mark, f'"digest":"{document_digest(text.encode())}"', 1)


def family_order(paths: Iterable[str]) -> list[str]:
    """Order paths as given, but each before its family: zarr-python nests them only in such an order.

    >>> family_order(["a", "b", "a/x", "b/y", "a/z"])
    ['a', 'a/x', 'a/z', 'b', 'b/y']
    """
    families: dict[str, list[str]] = {}
    for path in paths:
        families.setdefault(path.rpartition("/")[0], []).append(path)

    def below(parent: str) -> Iterator[str]:
        for path in families.get(parent, ()):
            yield path
            yield from below(path)

    return list(below(""))


def document_digest(document: bytes, digest: str = _BLANK) -> str:
    """Digest of a root document whose own ``digest`` is set to zeros first."""
    blank = document.replace(f'"digest":"{digest}"'.encode(), f'"digest":"{_BLANK}"'.encode(), 1)
    return blake2b(blank, digest_size=32).hexdigest()
