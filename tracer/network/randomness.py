"""The random streams a training loop may draw from, saved and put back around what must not draw.

Those of everyone (Python's, NumPy's, PyTorch's on each device in use), and generators that an object holds or that
its code refers to.
"""

import random
import sys
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
    NoneType,
)
from typing import Any

import numpy as np
import torch

from tracer.network.hooks import Hook

_DEVICES = ("cuda", "xpu", "mps")
_CODE = (FunctionType, staticmethod, classmethod, property, type)
_MOST = {True: 1000, False: 10_000}  # pieces of code, and other things, that are looked at, the nearest first
_ELEMENTS = 1000  # of a container: one with more holds examples, not transforms
_CONTAINERS = (dict, list, tuple, set, frozenset, deque)
# A hook of a recording draws nothing, and behind it lies all that is being recorded.
_LEAVES = (torch.Tensor, np.ndarray, str, bytes, int, float, NoneType, CodeType, ModuleType, Hook)
# Most of what a model holds, told apart at once.
_PLAIN = {*_LEAVES, torch.nn.Parameter, bool}
OFTEN_EMPTY = {dict, OrderedDict, list, tuple, set}
_LIBRARIES = {*sys.stdlib_module_names, "numpy", "torch", "tracer"}  # their streams are those of everyone


def random_state() -> dict[str, Any]:
    """The states of the random streams of Python, NumPy and torch (devices: those in use)."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        **{device: _device_state(device) for device in _DEVICES},
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Put back what `random_state` returned."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    for device in _DEVICES:
        if state[device]:
            module = torch.get_device_module(device)
            if device == "mps":
                module.set_rng_state(state[device][0])
            else:
                module.set_rng_state_all(state[device])


@contextmanager
def untouched_random_state(*holders: Any) -> Iterator[None]:
    """Leave every random stream as it was found, those of generators that the holders may draw from too."""
    held = [(generator, state_of(generator)) for generator in generators_of(*holders)]
    state = random_state()
    try:
        yield
    finally:
        restore_random_state(state)
        for generator, own in held:
            set_state(generator, own)


def comparable(state: Any) -> Any:
    """A state of random streams, or of a generator, as values that `==` compares.

    >>> comparable({"torch": torch.tensor([97, 98], dtype=torch.uint8)})
    {'torch': b'ab'}
    """
    if isinstance(state, dict):
        return {name: comparable(part) for name, part in state.items()}
    if isinstance(state, list | tuple):
        return [part if isinstance(part, int) else comparable(part) for part in state]
    if isinstance(state, torch.Tensor):
        return state.numpy().tobytes()
    return state.tobytes() if isinstance(state, np.ndarray) else state


def _device_state(device: str) -> list[torch.Tensor]:
    if device == "mps":
        return [torch.mps.get_rng_state()] if torch.backends.mps.is_available() else []
    module = getattr(torch, device, None)
    return module.get_rng_state_all() if module is not None and module.is_initialized() else []


def generators_of(*holders: Any) -> list[Any]:
    """The generators that objects and functions may draw from, other than everyone's; a generator is its own.

    They are looked for in attributes, in containers, and in what functions refer to: closures, defaults and the global
    variables they name. Functions are those held, and all of an object's class. No code of the user's runs.

    >>> numbers = np.random.default_rng(0)
    >>> generators_of([numbers.random]) == [numbers.bit_generator]
    True
    """
    found: list[Any] = []
    seen: set[int] = set()
    left = dict(_MOST)
    held, code = deque(holders), deque[Any]()  # code is read last: what it refers to may be half a library
    while held or code:
        value = (held or code).popleft()
        kind = type(value)  # `isinstance` may ask the object
        if issubclass(kind, np.random.Generator):
            value, kind = value.bit_generator, np.random.BitGenerator
        is_code = issubclass(kind, _CODE)
        if id(value) in seen or issubclass(kind, _LEAVES) or not left[is_code]:
            continue
        seen.add(id(value))
        if _is_generator(kind):
            found.append(value)
            continue
        left[is_code] -= 1
        for other in _referred(value, kind):
            other_kind = type(other)
            if not (other_kind in _PLAIN or (other_kind in OFTEN_EMPTY and not other)):
                (code if issubclass(other_kind, _CODE) else held).append(other)
    return found


def state_of(generator: Any) -> Any:
    """The state of one that `generators_of` found."""
    if isinstance(generator, np.random.BitGenerator):
        return generator.state
    return generator.getstate() if isinstance(generator, random.Random) else generator.get_state()


def set_state(generator: Any, state: Any) -> None:
    """Put back what `state_of` returned."""
    if isinstance(generator, np.random.BitGenerator):
        generator.state = state
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.set_state(state)


def _is_generator(kind: type) -> bool:
    if issubclass(kind, random.Random):
        return not issubclass(kind, random.SystemRandom)  # which has no state
    return issubclass(kind, torch.Generator | np.random.RandomState | np.random.BitGenerator)


def _referred(value: Any, kind: type) -> Iterator[Any]:
    """What a thing refers to, one step away."""
    if issubclass(kind, FunctionType):
        yield from _of_function(value)
    elif issubclass(kind, MethodType | BuiltinFunctionType):
        yield from (value.__self__, getattr(value, "__func__", None))
    elif issubclass(kind, partial):
        yield from (value.func, value.args, value.keywords)
    elif issubclass(kind, staticmethod | classmethod):
        yield value.__func__
    elif issubclass(kind, property):
        yield value.fget
    elif issubclass(kind, type):
        for base in value.__mro__:
            if not _of_library(vars(base).get("__module__")):
                yield from list(vars(base).values())
        return
    elif issubclass(kind, _CONTAINERS):
        yield from _elements(value)
    with suppress(AttributeError, TypeError):
        yield from list(object.__getattribute__(value, "__dict__").values())
    for base in kind.__mro__:
        for member in vars(base).values() if "__slots__" in vars(base) else ():
            if isinstance(member, MemberDescriptorType):
                with suppress(AttributeError):
                    yield member.__get__(value)
    yield kind


def _of_function(function: FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # an empty cell
            yield cell.cell_contents
    yield from (function.__defaults__, function.__kwdefaults__)
    if _of_library(function.__globals__.get("__name__")):
        return
    names, codes = set[str](), [function.__code__]
    while codes:
        code = codes.pop()
        names.update(code.co_names)
        codes += [inner for inner in code.co_consts if isinstance(inner, CodeType)]
    scopes = {id(function.__globals__): function.__globals__}
    waiting = list(scopes.values())
    while waiting:
        scope = waiting.pop()
        for value in [scope[name] for name in names & scope.keys()]:
            if not issubclass(type(value), ModuleType):
                yield value
                continue
            inside = object.__getattribute__(value, "__dict__")  # a function may say `module.name`
            if id(inside) not in scopes and not _of_library(inside.get("__name__")):
                scopes[id(inside)] = inside
                waiting.append(inside)


def _of_library(name: Any) -> bool:
    return not isinstance(name, str) or name.partition(".")[0] in _LIBRARIES


def _elements(value: Any) -> Iterator[Any]:
    kind = next(kind for kind in _CONTAINERS if issubclass(type(value), kind))
    if kind.__len__(value) <= _ELEMENTS:
        yield from list(dict.values(value) if kind is dict else kind.__iter__(value))
