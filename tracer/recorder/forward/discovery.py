"""What a model calls in a forward pass: its nonlinearities, its uses of weights, its sources of chance."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from tracer.network.pytree import leaves_of
from tracer.network.randomness import comparable, random_state
from tracer.network.table import Row
from tracer.network.torch_internals import transform_level, within_transform
from tracer.ops import ACTIVATIONS, APPLIED, op, overload
from tracer.recorder.forward import observer

_READ = frozenset(("__bool__", "__int__", "__float__", "__index__", "item", "tolist", "numpy", "__array__"))

Key = tuple[str, str, int]  # "site" or "call", name without number, number of the call


class Watched(Protocol):
    """A model whose forward passes are watched.

    activations: paths of the modules that are nonlinearities. names: of parameters, by their `id`.
    """

    activations: frozenset[str]
    names: dict[int, str]

    @property
    def path(self) -> str | None:
        """Path of the module that is running, None outside of the model."""

    def row_of(self, key: Key) -> Row | None:
        """The row of a site or call, None for one that is not known."""


class Functions(TorchFunctionMode):
    """Tells `site` and `call` of each nonlinearity and each use of weights, in order."""

    def __init__(self, network: Watched) -> None:
        super().__init__()
        self._network = network
        self._counts: Counter[tuple[str, str]] = Counter()
        self._level = 0

    def __enter__(self) -> Any:
        self._level = transform_level()
        return super().__enter__()

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        path = self._network.path
        if path is None:
            return function(*args, **kwargs)
        self.used(function, args, kwargs, path)
        if transform_level() > self._level:  # a derivative that the objective takes: no example's own values
            return function(*args, **kwargs)
        name = observer._NAMES.get(getattr(function, "__name__", ""))
        if name is None:
            return function(*args, **kwargs)
        if function in observer._OPENED:
            with self:
                return observer._OPENED[function](*args, **kwargs)
        if name in APPLIED and self._applies_weights(name, args):
            out = function(*args, **kwargs)
            self.met(("call", path or f":{name}"), name, path, (), None, out)
            return out
        constants = _constants(name, args, kwargs) if name in ACTIVATIONS else None
        if constants is None:
            return function(*args, **kwargs)
        pre = args[0] if args else kwargs.get("input")
        if isinstance(pre, Tensor):
            pre = pre.detach().clone()  # it may be overwritten in place
        out = function(*args, **kwargs)
        base = path if path in self._network.activations else f"{path}:{name}"
        self.met(("site", base), name, path, constants, pre, out)
        return out

    def _applies_weights(self, name: str, args: Sequence[Any]) -> bool:
        return name not in observer._PRODUCTS or (len(args) > 1 and id(args[1]) in self._network.names)

    def met(
        self, name: tuple[str, str], op: str, path: str, constants: Sequence[Any], pre: Any, out: Any
    ) -> None:
        """Count a site or call and look at it."""
        self._counts[name] += 1
        if isinstance(out, Tensor):
            row = Row("", overload(op), [None, *constants], {}, path)
            self.look((*name, self._counts[name]), row, pre, out)

    def used(self, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], path: str) -> None:
        """Look at any function of the model."""

    def look(self, key: Key, row: Row, pre: Any, out: Tensor) -> None:
        """Look at a site or call."""


class Discovery(Functions):
    """Notes which sites, calls, parameters and sources of chance a forward pass meets."""

    def __init__(self, network: Watched) -> None:
        super().__init__(network)
        self.found: dict[Key, tuple[Row, tuple[int, ...]]] = {}
        self.first_used: dict[str, None] = {}
        self.alone = False
        self.mixing: str | None = None
        self._entered = 0
        self.drawing: str | None = None  # path of the module that draws from a stream of everyone's

    def __enter__(self) -> Any:
        if not self._entered:  # again within, for functions that are opened
            self._counts.clear()
            self._before, self._streams = "", comparable(random_state())
        self._entered += 1
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._entered -= 1
        if not self._entered:
            self._watch_streams("")

    def _watch_streams(self, path: str) -> None:
        if (
            within_transform()
        ):  # where no tensor's values can be read; the pass is looked at as a whole in the end
            return
        if self.drawing is None and comparable(random_state()) != self._streams:
            self.drawing = self._before
        self._before = path

    def used(self, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], path: str) -> None:
        """Note parameters and generators among the arguments, and values that are read."""
        name = getattr(function, "__name__", "")
        own = isinstance(kwargs.get("generator"), torch.Generator)
        self.alone |= own or name in _READ
        norm = op(overload(name)).normalises
        if norm is not None and norm.over == "batch" and norm.training is not None:
            by_batch = args[norm.training] if len(args) > norm.training else kwargs.get("training")
        else:
            by_batch = False
        if by_batch:
            self.mixing = self.mixing or path
        self._watch_streams(path)
        for leaf in leaves_of([list(args), dict(kwargs)]):
            if id(leaf) in self._network.names:
                self.first_used.setdefault(self._network.names[id(leaf)])

    def look(self, key: Key, row: Row, pre: Any, out: Tensor) -> None:
        """Note it where it is met first."""
        dtype = str(out.dtype).removeprefix("torch.")
        self.found.setdefault(key, (replace(row, dtype=dtype), tuple(out.shape)))


class Watching(Functions):
    """Shows a visitor the rows of a forward pass of n examples."""

    def __init__(self, network: Watched, visit: Callable[..., Any], n: int) -> None:
        super().__init__(network)
        self._visit, self._n = visit, n
        self.unknown: set[str] = set()

    def look(self, key: Key, row: Row, pre: Any, out: Tensor) -> None:
        """Show it if it is known and has the size it had."""
        known = self._network.row_of(key)
        if known is None or (known.axis is not None and known.size(self._n) != tuple(out.shape)):
            self.unknown.add(f"{key[1]}#{key[2]}" if key[2] > 1 else key[1])
        else:
            self._visit(known, (pre,), out.detach().clone())  # it, too, may be overwritten later


def _constants(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any] | None:
    """Numbers that go with a nonlinearity; None for a call that is not one (a clamp at another value)."""
    activation = ACTIVATIONS[name]
    if activation.either:
        zero = isinstance(args[1], Tensor) and not bool(args[1].any())
        return [0] if zero else None
    values = list(args[1:3])
    for position, keyword in enumerate(activation.keywords):
        if position >= len(values):
            values.append(kwargs.get(keyword))
    for position in range(len(activation.zero)):
        if position >= len(values) or values[position] != 0:
            return None
    return [_number(value) for value in values]


def _number(value: Any) -> Any:
    return {"float": value.hex()} if isinstance(value, float) else value if isinstance(value, int) else None
