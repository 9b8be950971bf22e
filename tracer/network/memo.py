"""Tables of models traced before in this process: `torch.export` is most of what a recording begins with.

What a model is made of is written down without its weights: classes and their code, attributes, shapes. Two models
of one such description have one table. The description does not reach everything a forward pass may read (a global
variable, say), so a table that is taken again is run beside the model first, as is a new one.
"""

import enum
import hashlib
import types
import weakref
from collections.abc import Iterator, Mapping
from functools import partial
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from tracer.errors import RecordError
from tracer.network.checks import currency
from tracer.network.copies import named_tensors, state_of, to_numpy, unwrap
from tracer.network.hooks import OwnHooks
from tracer.network.network import Network
from tracer.network.objective import Objective
from tracer.network.pytree import examples_in, leaves_of
from tracer.network.torch_internals import HOOKS
from tracer.network.tracing import trace

_OTHER = (
    "what torch.export makes of it computes something else than the model (two of its tensors may be one memory that "
    "is written in place, or it may read what changes between two passes)"
)
_MOST = 64  # tables that are held
_CONSTANTS = 1 << 24  # bytes of constants in a table that is held, at most
_VALUES = 1 << 20  # bytes of a tensor that is told by its values, at most
_PARTS = 100_000  # of a description, at most
_OWN = ("_parameters", "_buffers", "_modules", "training", *HOOKS)
_PLAIN = (
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    type(...),
    enum.Enum,
    torch.dtype,
    torch.device,
    torch.layout,
    torch.memory_format,
)
_ATOMS = (
    type,
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.ModuleType,
)

_tables: dict[Any, Network] = {}  # by what they depend on, of those for a fixed number of examples that too
_lock = Lock()


class _Unknown(Exception):
    """Something that cannot be described, so that models that have it are traced each time."""


def trace_once(
    model: nn.Module,
    inputs: Any,
    targets: Any = None,
    loss: Any = None,
    *,
    objective: Objective | None = None,
    chunk: int = 64,
) -> Network:
    """What `trace` gives, from an earlier trace of such a model where there is one that computes the same.

    Errors: as `trace`, and RecordError where the table computes something else than the model.
    """
    arguments = (model, inputs, targets, loss)
    described = description(model, inputs, targets, loss, objective)
    variable, fixed = (described, None), (described, chunk)  # numbers of examples
    with _lock:
        key = variable if variable in _tables else fixed
        known = _tables.get(key)
    if known is not None and currency(known, *arguments, objective=objective).holds:
        with _lock:
            _tables[key] = _tables.pop(key, known)  # those not asked for the longest go first
        return known.derived()
    network = trace(*arguments, objective=objective, chunk=chunk)
    if not currency(network, *arguments, objective=objective).holds:
        raise RecordError(_OTHER)
    if described is not None and sum(value.nbytes for value in network.constants.values()) <= _CONSTANTS:
        key = variable if network.batch is None else fixed
        with _lock:
            _tables.pop(key, None)
            _tables[key] = network.derived()
            while len(_tables) > _MOST:
                del _tables[next(iter(_tables))]
    return network


def description(
    model: nn.Module, inputs: Any, targets: Any, loss: Any, objective: Any
) -> tuple[Any, ...] | None:
    """What a trace depends on, apart from the values of weights and examples; None where that cannot be told."""
    n = examples_in(inputs)
    try:
        telling = _Telling(model)
        return (
            *map(telling.tell, (unwrap(model), loss, objective)),
            *(telling.tree(tree, n) for tree in (inputs, targets)),
            tuple(named_tensors(model)),
            torch.get_default_dtype(),
            torch.get_default_device(),
            torch.are_deterministic_algorithms_enabled(),
        )
    except (_Unknown, RecursionError):
        return None


class _Telling:
    """Makes hashable descriptions; the same object told twice is told as a reference the second time."""

    def __init__(self, model: nn.Module) -> None:
        inner = unwrap(model)
        self._weights = {id(tensor) for tensor in (*inner.parameters(), *inner.buffers())}
        self._own = OwnHooks(inner)
        self._told: dict[int, int] = {}
        self._alive: list[Any] = []  # what has an id above
        self._parts = 0

    def tell(self, value: Any) -> Any:
        self._parts += 1
        if self._parts > _PARTS:
            raise _Unknown
        if isinstance(value, _PLAIN):
            return type(value), repr(value) if isinstance(value, float | complex) else value
        if isinstance(value, _ATOMS):
            return value
        if id(value) in self._told:
            return "again", self._told[id(value)]
        self._told[id(value)] = len(self._told)
        self._alive.append(value)
        return type(value), tuple(self._parts_of(value))

    def _parts_of(self, value: Any) -> Iterator[Any]:
        if isinstance(value, nn.Module):
            yield from self._module(value)
        elif isinstance(value, Tensor):
            yield from self._tensor(value, by_value=id(value) not in self._weights)
        elif isinstance(value, types.FunctionType):
            yield from self._function(value)
        elif isinstance(value, types.MethodType):
            yield from map(self.tell, (value.__func__, value.__self__))
        elif isinstance(value, partial):
            yield from map(self.tell, (value.func, value.args, value.keywords))
        elif isinstance(value, weakref.ReferenceType):
            yield self.tell(value())
        elif isinstance(value, Mapping) and type(value).__module__ in ("builtins", "collections"):
            for key, item in value.items():
                yield from (self.tell(key), self.tell(item))
        elif isinstance(value, tuple | list):
            yield from map(self.tell, value)
        elif isinstance(value, set | frozenset):
            yield frozenset(map(self.tell, value))
        elif _is_record(value):
            yield self._class(type(value))
            yield self.tell(vars(value))
        else:
            raise _Unknown

    def _module(self, module: nn.Module) -> Iterator[Any]:
        module = unwrap(module)
        yield self._class(type(module))
        for name, tensor in module._parameters.items():
            yield name, self._weight(tensor, by_value=False)
        for name, buffer in module._buffers.items():
            yield name, self._weight(buffer, by_value=name in module._non_persistent_buffers_set)
        for name, child in module._modules.items():
            yield name, None if child is None else self.tell(unwrap(child))
        state = state_of(module)
        for name, value in state.items():
            if name not in _OWN:
                yield name, self.tell(value)
        for name in HOOKS:
            for hook in state.get(name, {}).values():
                if self._own(name, hook):
                    yield name, self.tell(hook)

    def _weight(self, tensor: Tensor | None, by_value: bool) -> Any:
        """A parameter or buffer: those of the model are given at each run, those of a loss are constants."""
        if tensor is None:
            return None
        if id(tensor) in self._told:
            return "again", self._told[id(tensor)]
        self._told[id(tensor)] = len(self._told)
        self._alive.append(tensor)
        return tuple(self._tensor(tensor, by_value or id(tensor) not in self._weights))

    def _tensor(self, tensor: Tensor, by_value: bool) -> Iterator[Any]:
        if tensor.layout != torch.strided:
            raise _Unknown
        yield from (type(tensor), tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device)
        yield from (tensor.requires_grad, _digest(tensor) if by_value else None)

    def _function(self, function: types.FunctionType) -> Iterator[Any]:
        """Its code, and what was bound as it was defined; not the function, which may hold on to much."""
        yield from (function.__module__, function.__qualname__, function.__code__, id(function.__globals__))
        yield from map(self.tell, (function.__defaults__, function.__kwdefaults__))
        for cell in function.__closure__ or ():
            try:
                yield self.tell(cell.cell_contents)
            except ValueError:  # an empty cell
                yield None

    def _class(self, kind: type) -> Any:
        """A class with its methods and plain attributes as they are now."""
        told: list[Any] = [kind]
        for base in kind.__mro__:
            if base.__module__.partition(".")[0] in ("torch", "builtins"):
                continue
            for name, value in vars(base).items():
                if isinstance(value, types.FunctionType):
                    told.append((name, value.__code__))
                elif isinstance(value, _PLAIN):
                    told.append((name, self.tell(value)))
        return tuple(told)

    def tree(self, tree: Any, n: int) -> Any:
        """The form of inputs or targets, and which tensors hold examples along their first axis."""
        leaves = leaves_of(tree)
        shapes = [
            (
                tuple(leaf.shape[1:]) if leaf.ndim and leaf.shape[0] == n else tuple(leaf.shape),
                leaf.dtype,
                leaf.device,
            )
            for leaf in leaves
        ]
        batched = tuple(leaf.ndim > 0 and leaf.shape[0] == n for leaf in leaves)
        return tuple(shapes), batched, self._form(tree)

    def _form(self, tree: Any) -> Any:
        if isinstance(tree, Tensor):
            return Tensor
        if isinstance(tree, dict):
            return dict, tuple((self.tell(key), self._form(item)) for key, item in tree.items())
        if isinstance(tree, tuple | list):
            return type(tree), tuple(map(self._form, tree))
        return self.tell(tree)


def _digest(tensor: Tensor) -> str:
    if tensor.nbytes > _VALUES or tensor.device.type != "cpu":
        raise _Unknown
    return hashlib.sha256(to_numpy(tensor).tobytes()).hexdigest()


class _Record:
    """An object that is no more than its attributes, such as a configuration."""


def _is_record(value: Any) -> bool:
    kind = type(value)
    plain = kind.__reduce_ex__ is object.__reduce_ex__ and kind.__basicsize__ == _Record.__basicsize__
    return plain and hasattr(value, "__dict__")
