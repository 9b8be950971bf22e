"""What a model computes in its own forward pass, seen as it happens: calls and sites, named as in its table.

Nothing is computed twice and nothing is changed: a mode over PyTorch's functions looks at results as they
pass, and only while a forward pass is watched. Under `torch.compile` such a mode would recompile, so there
only hooks of modules are used, and of a model compiled as a whole nothing inside is seen.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tracer.network import Network
from tracer.network.copies import unwrap, unwrapped_name
from tracer.network.fixed_masks import by_example
from tracer.network.hooks import Hook
from tracer.network.table import Row, Site
from tracer.network.torch_internals import opened
from tracer.ops import ACTIVATIONS, APPLIED, OPERATORS
from tracer.probe.packing import pack_on

Level = Literal["functions", "modules", "outputs"]

_PRODUCTS = tuple(name for name, rule in APPLIED.items() if rule.call == "product")


@dataclass
class Seen:
    """What one forward pass of n examples gave: sums (n,) by position of the call or site, bits by site."""

    n: int
    names: set[str] = field(default_factory=set)
    pre: dict[int, Tensor] = field(default_factory=dict)
    post: dict[int, Tensor] = field(default_factory=dict)
    bits: dict[int, Tensor] | None = None


class Watch:
    """Watches forward passes of a model for the calls and sites of its network.

    level: "functions" sees functional calls too, "modules" those of modules that are not compiled, "outputs"
    nothing inside. unknown: names that were met but are not in the table. Between `begin` and `end` one
    forward pass of the model runs on this thread. failed: told what looking raises; the forward pass goes on.
    """

    def __init__(
        self,
        model: nn.Module,
        network: Network | None,
        sums: bool = True,
        failed: Callable[[Exception], None] | None = None,
    ) -> None:
        self.level: Level = _level(model) if network is not None else "outputs"
        self.unknown: set[str] = set()
        self.seen = Seen(0)
        self._model, self._sums, self._failed = model, sums, failed
        self._rows: Sequence[Row] = [] if network is None else network.rows
        self._sites = {} if network is None else {site.name: i for i, site in enumerate(network.sites)}
        self._calls = {} if network is None else {call.name: i for i, call in enumerate(network.calls)}
        self._tables = (self._sites, self._calls)
        self._site_of: Sequence[Site] = [] if network is None else network.sites
        self._site_row = [self._rows[site.row] for site in self._site_of]
        self._call_row = [] if network is None else [self._rows[call.row] for call in network.calls]
        self._bases = {name: _base(name) for name in (*self._sites, *self._calls)}
        self._site_bases = {self._bases[name] for name in self._sites}
        self._call_bases = {self._bases[name] for name in self._calls}
        self._expected = Counter(self._key(name, table) for table in self._tables for name in table)
        self._parameters = {id(parameter) for parameter in unwrap(model).parameters()}
        self._mode = _Functions(self)
        self._counts: Counter[tuple[str, bool]] = Counter()
        self._path = [""]
        self._start = 0
        self._watching = self._mode_is_on = False
        self._handles: list[Any] = []

    def unseen(self) -> list[str]:
        """Names of the table that the last forward pass did not show, or not in a form that can be used."""
        wanted = (*self._calls, *self._sites) if self._sums else self._sites
        return [name for name in wanted if name not in self.seen.names]

    # Hooks.

    def attach(self) -> None:
        """Put hooks on the model's modules."""
        for name, module in _eager_modules(self._model):
            if self.level == "functions":
                self._handles.append(
                    module.register_forward_pre_hook(self._hook(_entering(self._path, name)))
                )
                self._handles.append(module.register_forward_hook(self._hook(_leaving(self._path, name))))
            elif self.level == "modules" and name:
                self._attach_module(name, module)

    def _attach_module(self, name: str, module: nn.Module) -> None:
        if name in self._site_bases:
            sites: list[tuple[str | None, Tensor]] = []  # entered, not yet left
            self._handles.append(
                module.register_forward_pre_hook(
                    self._hook(lambda _, args: sites.append(self._enter_module(name, args[0])))
                )
            )
            self._handles.append(
                module.register_forward_hook(
                    self._hook(lambda _, args, out: self.after_site(sites.pop()[0], out))
                )
            )
        elif name in self._call_bases and isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
            self._handles.append(
                module.register_forward_hook(self._hook(lambda _, args, out: self.call(name, out)))
            )

    def _hook(self, observe: Callable[..., None]) -> Hook:
        return Hook(observe, self.fail)

    def fail(self, error: Exception) -> None:
        """Give up on the forward pass that is watched."""
        self._watching = False
        if self._failed is None:
            raise error
        self._failed(error)

    def _enter_module(self, name: str, pre: Tensor) -> tuple[str | None, Tensor]:
        return self.before_site(name, pre), pre

    def detach(self) -> None:
        """Take all hooks off."""
        self.end()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def begin(self, n: int, start: int | None) -> None:
        """Watch a forward pass of n examples; with masks where `start`, their first bit, is given."""
        self.seen = Seen(n, bits=None if start is None else {})
        self._start = start or 0
        self._counts.clear()
        del self._path[1:]
        self._watching = True
        if self.level == "functions":
            self._mode.__enter__()
            self._mode_is_on = True

    def end(self) -> Seen:
        """Stop watching."""
        if self._mode_is_on:
            self._mode_is_on = False
            self._mode.__exit__(None, None, None)
        if self._watching and self._counts != self._expected:
            self._drop_doubtful()
        self._watching = False
        return self.seen

    def _drop_doubtful(self) -> None:
        # One call more or less than in the table, and nobody knows which of that name is which.
        for table, sums in zip(self._tables, (self.seen.post, self.seen.pre), strict=True):
            for name, position in table.items():
                key = self._key(name, table)
                if self._counts[key] != self._expected[key]:
                    sums.pop(position, None)
                    self.seen.names.discard(name)
                    if table is self._sites:
                        (self.seen.bits or {}).pop(position, None)

    def _key(self, name: str, table: Mapping[str, int]) -> tuple[str, bool]:
        """What calls of one name are counted under; a module's calls and sites are counted apart."""
        return self._bases.get(name, name), table is self._sites

    # What is seen.

    @property
    def path(self) -> str:
        """Path of the module that is running."""
        return self._path[-1]

    def is_site(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Whether a function called with these arguments is a nonlinearity."""
        activation = ACTIVATIONS[name]
        if activation.either:  # that one argument is zero cannot be seen without waiting for the device
            return f"{self.path}:{name}" in self._site_bases
        # A bare threshold or clamp is a nonlinearity only at 0.
        given = [
            args[i] if len(args) > i else kwargs.get(activation.keywords[i - 1]) for i in activation.zero
        ]
        return all(isinstance(number, int | float) and number == 0 for number in given)

    def is_call(self, name: str, args: Sequence[Any]) -> bool:
        """Whether a function called with these arguments applies weights."""
        return name not in _PRODUCTS or (len(args) > 1 and id(args[1]) in self._parameters)

    def site_base(self, name: str) -> str:
        """Name of a site here, less the number of its call: the module's path where that is the site."""
        return self.path if self.path in self._site_bases else f"{self.path}:{name}"

    def call_base(self, name: str) -> str:
        """The same for a call."""
        names = (f":{name}", *(f":{other}" for other in _PRODUCTS if name in _PRODUCTS))
        return self.path or next((base for base in names if base in self._call_bases), names[0])

    def before_site(self, base: str, pre: Any) -> str | None:
        """Look at a pre-activation before it may be overwritten; the site's name, None if not ours."""
        name = self._next(base, self._sites)
        if name is None or self.seen.bits is None or not isinstance(pre, Tensor):
            return name
        site, row = self._site_of[self._sites[name]], self._site_row[self._sites[name]]
        if site.has_mask and tuple(pre.shape) == row.size(self.seen.n):
            pre = pre.detach()
            self.seen.bits[self._sites[name]] = pack_on(by_example(pre, row, self.seen.n), self._start)
        return name

    def after_site(self, name: str | None, out: Any) -> None:
        """Look at the output of a site."""
        if name is not None and self._watching:
            self._add(self.seen.post, name, self._sites, out, self._site_row)

    def call(self, base: str, out: Any) -> None:
        """Look at the output of a call."""
        name = self._next(base, self._calls)
        if name is not None:
            self._add(self.seen.pre, name, self._calls, out, self._call_row)

    def _next(self, base: str, table: Mapping[str, int]) -> str | None:
        if not self._watching:
            return None
        key = base, table is self._sites
        self._counts[key] += 1
        name = base if self._counts[key] == 1 else f"{base}#{self._counts[key]}"
        if name in table:
            return name
        self.unknown.add(name)
        return None

    def _add(
        self, sums: dict[int, Tensor], name: str, table: Mapping[str, int], out: Any, rows: Sequence[Row]
    ) -> None:
        position = table[name]
        if not self._sums:
            self.seen.names.add(name)
        elif isinstance(out, Tensor):
            total = sum_units(out, rows[position], self.seen.n)
            if total is not None:
                sums[position] = total
                self.seen.names.add(name)


class _Functions(TorchFunctionMode):
    """Shows a watch every call of a function of PyTorch's that may be a call or a site."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = _NAMES.get(getattr(function, "__name__", ""))
        if name is None:
            return function(*args, **kwargs)
        if function in _OPENED:
            with self:
                return _OPENED[function](*args, **kwargs)
        site, is_call = None, False
        try:
            is_call, site = self._before(name, args, kwargs)
        except Exception as error:  # no matter of the training
            self._watch.fail(error)
        out = function(*args, **kwargs)
        try:
            if is_call:
                self._watch.call(self._watch.call_base(name), out)
            elif site is not None:
                self._watch.after_site(site, out)
        except Exception as error:
            self._watch.fail(error)
        return out

    def _before(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[bool, str | None]:
        """Whether a function applies weights, else the name of the site that it is."""
        watch = self._watch
        if name in APPLIED and watch.is_call(name, args):
            return True, None
        if name not in ACTIVATIONS or not watch.is_site(name, args, kwargs):
            return False, None
        return False, watch.before_site(watch.site_base(name), args[0] if args else kwargs.get("input"))


def sum_units(value: Tensor, row: Row, n: int) -> Tensor | None:
    """Sum over the units of each example, (n,); None where the examples are not known to lie anywhere.

    In float32 (float64 for such models): PyTorch adds in blocks, which errs by less than 1e-7 of the sum
    of the magnitudes, and summing in float64 would cost 2 to 30 times as much.
    """
    size = row.size(n)
    if row.axis is None or size is None:
        return None
    value = value.detach()
    if tuple(value.shape) != size:
        if value.numel() == prod(size):
            value = value.reshape(size)
        elif row.axis or row.inner != 1 or not value.ndim or value.shape[0] != n:
            return None
    wide = None if value.dtype in (torch.float32, torch.float64) else torch.float32
    if value.shape[row.axis] != n or row.inner != 1:
        return by_example(value, row, n).sum(1, dtype=wide)
    others = [axis for axis in range(value.ndim) if axis != row.axis]
    return value.sum(others, dtype=wide) if others else value.to(wide or value.dtype, copy=True)


def _level(model: nn.Module) -> Level:
    if isinstance(model, nn.DataParallel):
        return "outputs"
    if _is_compiled(model) or _is_compiled(unwrap(model)):
        return "outputs"
    return "modules" if any(map(_is_compiled, model.modules())) else "functions"


def _is_compiled(module: nn.Module) -> bool:
    return "_orig_mod" in module._modules or getattr(module, "_compiled_call_impl", None) is not None


def _eager_modules(model: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    """Modules by their first registered name, those that are compiled, or inside one that is, left out."""
    hidden: set[int] = set()
    for name, module in unwrap(model).named_modules():
        if id(module) in hidden or _is_compiled(module):
            hidden.update(map(id, module.modules()))
        else:
            yield unwrapped_name(name), module


def _entering(path: list[str], name: str) -> Callable[..., None]:
    return lambda module, args: path.append(name)


def _leaving(path: list[str], name: str) -> Callable[..., None]:
    def leave(module: nn.Module, args: Any, out: Any) -> None:
        # What an exception left behind, caught by the model itself, goes too.
        while len(path) > 1 and path.pop() != name:
            pass

    return leave


def _base(name: str) -> str:
    """A name without the number of its call.

    >>> _base("layer1.0.relu#2"), _base(":relu")
    ('layer1.0.relu', ':relu')
    """
    return re.sub(r"#\d+$", "", name)


_OPENED = {function: opened(function) for function in (F.multi_head_attention_forward, F.tanhshrink)}
_NAMES = (
    {form.format(name): name for name in APPLIED | ACTIVATIONS for form in ("{}", "{}_", "_{}")}
    | OPERATORS
    | {function.__name__: function.__name__ for function in _OPENED}
)
