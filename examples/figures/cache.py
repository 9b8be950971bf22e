"""Results of one seed each, kept by all they follow from, so that a script that was stopped goes on where it was.

A result is a dictionary of numbers, texts and arrays (or of such dictionaries); its file is named by a hash of the
source of the function that computes it and of all it calls in this folder, of its arguments and seed, of the scale and
the device. Other versions of tracer and analyze do not change it: remove the folder to compute everything anew.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, ClassVar

import numpy as np

HERE = Path(__file__).parent
SECONDS, NETWORKS = "processor seconds", "networks"
Result = dict[str, Any]


class Trained:
    """Processor seconds of training: `seen` by archive, of the result being made; `now` of those that are new."""

    seen: ClassVar[dict[str, float]] = {}
    now = 0.0

    @classmethod
    def note(cls, path: Path, seconds: float, new: bool) -> None:
        """The network of the archive `path` is used, which took so long when it was trained."""
        cls.seen[f"{path.parent.name}:{path.stem}"] = seconds
        cls.now += seconds if new else 0.0


def cached(
    folder: Path, settings: Any, function: Callable[..., Result], *arguments: Any
) -> tuple[Result, dict[str, float]]:
    """`function(*arguments)` and processor seconds by what took them; from `folder` where it is there.

    `settings` is what names it besides the source of the function. Seconds are those of training, by archive, as
    results share networks, and, by the name of the result's file, those of all else.
    """
    known = json.dumps([sources(function), settings], sort_keys=True)
    name = f"{function.__name__}-{hashlib.sha256(known.encode()).hexdigest()[:20]}.npz"
    path = folder / name
    if not path.is_file():
        Trained.seen, Trained.now = {}, 0.0
        began = time.process_time()
        result = function(*arguments)
        seconds = time.process_time() - began - Trained.now
        write(path, {**result, SECONDS: seconds, NETWORKS: Trained.seen})
    result = read(path)
    return result, {name: result.pop(SECONDS), **result.pop(NETWORKS, {})}


def write(path: Path, result: Result) -> None:
    """A file with the arrays of a result, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{os.getpid()}.npz")
    np.savez_compressed(part, **dict(_leaves(result)))
    part.replace(path)


def read(path: Path) -> Result:
    """What `write` was given; numbers and texts as Python's own."""
    result: Result = {}
    with np.load(path, allow_pickle=False) as file:
        for name in file.files:
            *parents, last = name.split("/")
            inner = result
            for parent in parents:
                inner = inner.setdefault(parent, {})
            inner[last] = file[name].item() if file[name].ndim == 0 else file[name]
    return result


def _leaves(result: Result, before: str = "") -> Iterator[tuple[str, np.ndarray]]:
    for name, value in result.items():
        if "/" in name:
            raise ValueError(f"the name {name!r} of a result holds a slash, which divides names")
        if isinstance(value, dict):
            yield from _leaves(value, f"{before}{name}/")
        else:
            yield before + name, np.asarray(value)


def sources(function: Callable[..., Any]) -> dict[str, str]:
    """Source of a function and of all functions, classes and constants of this folder that it can reach."""
    texts: dict[str, str] = {}
    waiting: list[Any] = [function]
    while waiting:
        one = inspect.unwrap(waiting.pop())
        name = f"{_file(one)}:{one.__qualname__}"
        if name in texts:
            continue
        texts[name] = inspect.getsource(one)
        for code, values in _codes(one):
            for used in _names(code):
                value = values.get(used)
                waiting += [each for each in _callables(value) if _file(each)]
                if isinstance(value, str | int | float | tuple | list | dict | range):
                    texts[f"{_file(one)}:{used}"] = _plain(value)
    return texts


def _codes(one: Any) -> Iterator[tuple[CodeType, dict[str, Any]]]:
    members = vars(one).values() if inspect.isclass(one) else [one]
    for member in members:
        member = getattr(member, "fget", None) or member
        if isinstance(member, FunctionType):
            yield member.__code__, member.__globals__


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names(inner)


def _callables(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for each in value:
            yield from _callables(each)
    elif callable(value) and hasattr(inspect.unwrap(value), "__qualname__"):
        yield value


def _file(one: Any) -> str:
    """Name of the file of this folder where something is defined, and else nothing."""
    try:
        path = Path(inspect.getfile(inspect.unwrap(one)))
    except (TypeError, OSError):
        return ""
    return path.name if path.parent == HERE else ""


def _plain(value: Any) -> str:
    """A constant as text, without the addresses of functions."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {_plain(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "(" + ", ".join(map(_plain, value)) + ")"
    return value.__qualname__ if callable(value) and hasattr(value, "__qualname__") else repr(value)
