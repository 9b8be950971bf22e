"""What a process of one's own answers with: values as JSON and plain arrays, from which reading makes nothing else.

    read(written({"loss": np.zeros(3)}))

Whoever took that process over can send wrong numbers, but no code and no object of any class.
"""

import builtins
import json
import struct
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from tracer.errors import ArchiveError, TracerError

_LENGTH = struct.Struct("<Q")
_MOST = 1 << 28  # characters of an array of texts, each as long as the longest
_KINDS = "biufcSMm"  # of dtypes whose bytes are values, whatever they are


class ForeignAnswerError(ArchiveError):
    """What came is nothing that `written` makes."""

    def __init__(self) -> None:
        super().__init__(
            "the process that ran the network answered with what is no answer; do not trust this archive"
        )


def written(value: Any) -> bytes:
    """Bytes of a value made of None, numbers, texts, bytes, arrays, lists, tuples, dictionaries and exceptions.

    A dataclass becomes the dictionary of its fields, a path a text. Errors: TypeError for anything else.
    """
    pieces: list[bytes] = []
    head = json.dumps(_plain(value, pieces)).encode()
    return b"".join([_LENGTH.pack(len(head)), head, *pieces])


def read(content: bytes) -> Any:
    """The value; ForeignAnswerError for bytes that are none."""
    try:
        (length,) = _LENGTH.unpack_from(content)
        pieces = memoryview(content)[_LENGTH.size + length :]
        return _value(json.loads(content[_LENGTH.size : _LENGTH.size + length]), pieces)
    except (ValueError, TypeError, KeyError, IndexError, struct.error, RecursionError, MemoryError):
        raise ForeignAnswerError from None


def _plain(value: Any, pieces: list[bytes]) -> Any:
    match value:
        case None | bool() | str():
            return str(value) if isinstance(value, str) else value
        case np.ndarray() | np.generic():
            return _array(np.asarray(value), isinstance(value, np.generic), pieces)
        case int() | float():
            return value
        case bytes():
            return {"bytes": _put(value, pieces)}
        case list():
            return [_plain(item, pieces) for item in value]
        case tuple():
            return {"tuple": [_plain(item, pieces) for item in value]}
        case dict():
            return {"items": [[_plain(key, pieces), _plain(item, pieces)] for key, item in value.items()]}
        case Path():
            return str(value)
        case BaseException():
            one = len(value.args) == 1 and isinstance(value.args[0], str)
            lacks = value.name if isinstance(value, ImportError) else None
            text = value.args[0] if one else str(value)
            return {"error": type(value).__name__, "text": text, "lacks": lacks}
    if is_dataclass(value) and not isinstance(value, type):
        return _plain({field.name: getattr(value, field.name) for field in fields(value)}, pieces)
    raise TypeError(f"a {type(value).__name__} cannot be sent to another process as numbers and text")


def _array(value: np.ndarray, scalar: bool, pieces: list[bytes]) -> dict[str, Any]:
    if value.dtype.kind in "OU":
        kind = "objects" if value.dtype.kind == "O" else "texts"
        return {kind: _plain(value.ravel().tolist(), pieces), "shape": value.shape}
    if value.dtype.kind not in _KINDS or (value.size and not value.dtype.itemsize):
        raise TypeError(f"an array of {value.dtype} cannot be sent to another process as numbers and text")
    kind = "scalar" if scalar else "array"
    return {kind: value.dtype.str, "shape": value.shape, "at": _put(value.tobytes(), pieces)}


def _put(data: bytes, pieces: list[bytes]) -> list[int]:
    at = sum(map(len, pieces))
    pieces.append(data)
    return [at, at + len(data)]


def _value(plain: Any, pieces: memoryview) -> Any:
    match plain:
        case list():
            return [_value(item, pieces) for item in plain]
        case {"bytes": [int(start), int(stop)]}:
            return bytes(pieces[start:stop])
        case {"tuple": list(items)}:
            return tuple(_value(item, pieces) for item in items)
        case {"items": list(items)}:
            return {_value(key, pieces): _value(item, pieces) for key, item in items}
        case {"error": str(name), "text": str(text), "lacks": str() | None as lacks}:
            return _error(name, text, lacks)
        case {"objects": list(items), "shape": list(shape)}:
            made = np.empty(len(items), object)
            made[:] = [_value(item, pieces) for item in items]
            return made.reshape(_lengths(shape))
        case {"texts": list(items), "shape": list(shape)}:
            return _texts(items).reshape(_lengths(shape))
        case {"array": str(dtype), "shape": list(shape), "at": [int(start), int(stop)]}:
            return _numbers(dtype, shape, pieces[start:stop])
        case {"scalar": str(dtype), "shape": [], "at": [int(start), int(stop)]}:
            return _numbers(dtype, [], pieces[start:stop])[()]
        case None | bool() | int() | float() | str():
            return plain
    raise ForeignAnswerError


def _numbers(dtype: str, shape: list[Any], data: memoryview) -> np.ndarray:
    kind, lengths = np.dtype(dtype), _lengths(shape)
    if kind.kind not in _KINDS or prod(lengths) * max(1, kind.itemsize) != len(data):
        raise ForeignAnswerError
    return np.frombuffer(data, kind).reshape(lengths).copy() if len(data) else np.empty(lengths, kind)


def _texts(items: list[Any]) -> np.ndarray:
    if (
        not all(isinstance(item, str) for item in items)
        or len(items) * max(map(len, items), default=0) > _MOST
    ):
        raise ForeignAnswerError
    return np.array(items, str)


def _lengths(shape: list[Any]) -> tuple[int, ...]:
    if not all(type(length) is int and 0 <= length < 1 << 48 for length in shape):
        raise ForeignAnswerError
    return tuple(shape)


def _error(name: str, text: str, lacks: str | None) -> Exception:
    """An error of tracer's or of Python's own by its name; RuntimeError for those of other libraries.

    lacks: the package that an ImportError is about.
    """
    known = {error.__name__: error for error in _kinds(TracerError)}
    error = known.get(name) or getattr(builtins, name, None)
    try:
        if isinstance(error, type) and issubclass(error, Exception):
            return error(text, name=lacks) if issubclass(error, ImportError) else error(text)
    except TypeError:  # one that takes more than a text
        pass
    return RuntimeError(f"{name}: {text}")


def _kinds(error: type[Exception]) -> Iterator[type[Exception]]:
    yield error
    for kind in error.__subclasses__():
        yield from _kinds(kind)
