"""The positive-homogeneous form of a network: its table run on ones with |w|^q, so that outputs are sums over paths.

A path starts at one input, passes one unit after another and ends at one output; it is worth the product of
the |w|^q it meets. Sums over all of them follow from one forward pass in float64 (Neyshabur et al. 2017; Gonon
et al. 2023 for graphs), where every row is replaced by a form that adds paths up: see `Pass`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from analyze.chain import Row, references, refusal, short
from analyze.windows import adaptive_sizes, window_sum

if TYPE_CHECKING:
    from torch import Tensor

MaxPool = Literal["sum", "max"]
Units = Literal["unrolled", "channels"]
# Of an argument that they copy or measure, only the shape matters to these.
SHAPE_ONLY = ("sym_size", "sym_numel", "zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full")
CASTS = ("to", "_to_copy", "type_as", "lift_fresh_copy", "detach", "alias", "contiguous", "clone")
ZERO = -(1 << 40)  # exponent of a value that is 0 throughout: below that of any other


class Phi(NamedTuple):
    """Sums over the paths into each unit: `value` · 2^`exponent`. `scores`: a softmax was left out before."""

    value: Any
    exponent: int = 0
    scores: bool = False


class Affine(NamedTuple):
    """One parametrised row as the linear map it is, a BatchNorm after it folded in.

    weight: float64, in the row's own layout. apply: the map (1, ...) -> (1, ...); None where it scales every
    unit by its own weight. inputs: shape of what it is applied to. units, channels: of its output.
    """

    name: str
    weight: Tensor
    apply: Callable[[Tensor], Tensor] | None
    inputs: tuple[int, ...]
    units: int
    channels: int


class Line(NamedTuple):
    """A weight and how its row applies it; `axis`: where the output channels of one of its groups lie."""

    weight: Tensor
    apply: Callable[[Tensor, Tensor], Tensor] | None
    inputs: tuple[int, ...]
    bias: Tensor | None = None
    axis: int = 0
    groups: int = 1


@dataclass(frozen=True)
class PathSums:
    """Natural logarithms of sums over all paths, by (q, literal), and the maps the paths cross, in order."""

    log: dict[tuple[int, bool], float]
    maps: list[Affine]


def path_sums(
    network: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    *,
    include_bias: bool = False,
    maxpool: MaxPool = "sum",
    units: Units = "unrolled",
) -> PathSums:
    """Sums over all paths of the product of |w|^q, q = 1 and 2, of any network whose rows have a form.

    `network` is the stored table, with the values of its constants under `values`, `tensors` parameters and
    buffers by name. `literal` puts a factor 2 (q = 1) or 4h (q = 2) on every parametrised row, h being the
    units of its output, or with `units="channels"` its channels. `include_bias` counts paths that begin at a
    bias. -inf where no path is above 0, NaN where a weight is not finite.

    Raises MissingTraceError, naming the row and its module, where a row has no such form.

    >>> x, w = {"input": 0}, {"tensor": "w"}
    >>> rows = [{"name": "fc", "op": "aten.linear.default", "args": [x, w, None]}]
    >>> table = {"rows": rows, "inputs": [{"shape": [5, 2], "dtype": "float32", "batched": True}]}
    >>> sums = path_sums(table, {"w": np.array([[3.0, -4.0]])})
    >>> round(np.exp(sums.log[1, False])), round(np.exp(sums.log[2, True])), sums.maps[0].units
    (7, 100, 1)
    """
    logs = {}
    for power in (2, 1):
        run = Pass(network, tensors, power, include_bias, maxpool, units)
        logs |= {(power, literal): total for literal, total in run.totals().items()}
    return PathSums(logs, run.maps)


class Lanes(tuple[Any, ...]):
    """What a row returns without and with the literal factors: two sums carried side by side."""


@dataclass
class Pass:
    """One run of a table in its positive-homogeneous form of one power.

    Weights count as |w|^power, biases not at all unless included; activations with f(0) = 0 and slopes of at
    most 1 pass everything on; a maximum becomes the sum over its window, since each element is a way through;
    an average has the weight 1 / size, to the power; sums add paths; constants count like weights. BatchNorm
    in eval mode is folded into the affine row before it, where nothing else uses that row. Numbers that do not
    depend on the input are computed as they are. Each value carries an exponent, so that nothing overflows.
    """

    network: Mapping[str, Any]
    tensors: Mapping[str, np.ndarray]
    power: int = 1
    include_bias: bool = False
    maxpool: MaxPool = "sum"
    units: Units = "unrolled"
    maps: list[Affine] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rows: Sequence[Row] = self.network["rows"]
        self.sites = {site["row"]: site for site in self.network.get("sites") or ()}
        self.needed = self._needed()
        self.folded = self._folded()
        self.n = self.network.get("batch") or 1
        self.values: dict[int, Any] = {}
        self.literal = False

    def totals(self) -> dict[bool, float]:
        """Natural logarithm of the sum over all paths of the whole network, by literal."""
        import torch

        last = {key: index for index in self.needed for key in self._parents(index)}
        output = self._output()
        with torch.no_grad():
            for index in self.needed:
                self.powered: Any = None
                self.values[index] = self._row(index)
                for key in set(self._parents(index)):
                    if last[key] == index and key != output:
                        del self.values[key]
        phis = self.values[output]
        if not isinstance(phis, Lanes) or not all(isinstance(phi, Phi) for phi in phis):
            raise refusal(self.rows[output], "is not one tensor of scores")
        return {literal: self._log_sum(phi) for literal, phi in zip((False, True), phis, strict=True)}

    def _log_sum(self, phi: Phi) -> float:
        total = float(phi.value.sum() / self.n)
        if not math.isfinite(total):
            return math.nan
        return math.log(total) + phi.exponent * math.log(2.0) if total > 0 else -math.inf

    def _output(self) -> int:
        kind, key = self.network.get("output") or ("row", self._last_row())
        if kind != "row":
            raise refusal({"name": "output", "op": "none", "module": ""}, "is an input or a constant")
        return int(key)

    def _last_row(self) -> int:
        return max((k for k, row in enumerate(self.rows) if not row.get("loss")), default=-1)

    def _parents(self, index: int) -> Iterator[int]:
        row = self.rows[index]
        site = self.sites.get(index)
        # A hand-written ReLU also reads the sign of its argument, which is no way for a path.
        given = row["args"][site.get("argument", 0)] if site else [row["args"], *row.get("kwargs", {}).values()]
        return (key for kind, key in references(given) if kind == "row")

    def _needed(self) -> list[int]:
        wanted, waiting = set(), [self._output()]
        while waiting:
            index = waiting.pop()
            if index not in wanted and index >= 0:
                wanted.add(index)
                waiting.extend(self._parents(index))
        return sorted(wanted)

    def _folded(self) -> dict[int, int]:
        """Affine row -> the BatchNorm row folded into it."""
        uses: dict[int, list[int]] = {}
        for index in self.needed:
            if not short(self.rows[index]).startswith("sym_"):
                for key in self._parents(index):
                    uses.setdefault(key, []).append(index)
        found = {}
        for index, users in uses.items():
            first = self.rows[users[0]]
            if len(users) == 1 and self._form(first) == "batch_norm" and first["args"][0] == {"row": index}:
                dims = len(self.rows[index].get("shape") or (1, 1))
                if self._form(self.rows[index]) == "conv" or (self._form(self.rows[index]) == "linear" and dims == 2):
                    found[index] = users[0]
        return found

    def _form(self, row: Row) -> str | None:
        from tracer.ops import op

        entry = op(row["op"])
        if entry.rule is not None and entry.rule.name in ("addmm", "matmul"):
            return "linear"
        return entry.homogeneous

    # ---- rows ----

    def _row(self, index: int) -> Any:
        from tracer.ops import ALLOWED

        row = self.rows[index]
        if row["op"] not in ALLOWED:
            raise refusal(row, "is no operation that an archive may hold")
        given = row["args"] if index not in self.sites else []
        args = [self._value(argument) for argument in given]
        if index not in self.sites and (short(row).startswith(SHAPE_ONLY) or not any(_phis(args))):
            return self._plain(row, args)
        results = []
        for self.literal in (False, True):
            results.append(self._lane(index, row))
        return Lanes(results)

    def _plain(self, row: Row, args: list[Any]) -> Any:
        """What does not depend on the values of the input, as it is."""
        from tracer.program import resolve

        self._refuse_random(row)
        kwargs = {name: self._value(value) for name, value in row.get("kwargs", {}).items()}
        return resolve(row["op"])(*_bare(args), **_bare(kwargs))

    def _refuse_random(self, row: Row) -> None:
        from tracer.ops import op

        positions = op(row["op"]).random
        if positions is not None and all(k < len(row["args"]) and row["args"][k] for k in positions):
            raise refusal(row, "draws random numbers")

    def _lane(self, index: int, row: Row) -> Any:
        from tracer.program import resolve

        site, form = self.sites.get(index), self._form(row)
        if site is not None or form == "relu":
            return self._activation(row, site)
        args = [self._value(argument) for argument in row["args"]]
        kwargs = {name: self._value(value) for name, value in row.get("kwargs", {}).items()}
        if form is None:
            raise refusal(row, "has no positive-homogeneous form")
        if form not in ("reshape", "scores") and any(phi.scores for phi in _phis(args)):
            raise refusal(row, "works on what a softmax returned")
        if row.get("shape") is not None and row.get("axis") is None:
            raise refusal(row, "has no known example axis, so it may mix examples")
        return getattr(self, f"_{form}")(index, row, args, kwargs, resolve(row["op"]))

    def _value(self, argument: Any) -> Any:
        import torch

        from tracer.table import decode

        if isinstance(argument, list):
            return [self._value(item) for item in argument]
        kinds = list(references(argument))
        if not kinds:
            return decode(argument, torch.device("cpu"))
        ((kind, key),) = kinds
        if kind == "row":
            value = self.values[key]
            return value[self.literal] if isinstance(value, Lanes) else value
        if kind == "input":
            return self._input(key)
        stored = np.asarray(self.tensors[key] if kind == "tensor" else self.network["values"][key])
        return torch.from_numpy(np.array(stored, np.float64 if stored.dtype.kind == "f" else stored.dtype))

    def _input(self, key: int) -> Phi:
        import torch

        declared = self.network["inputs"][key]
        shape = list(declared["shape"])
        if declared.get("batched", True):
            shape[0] = self.n
        return Phi(torch.ones(shape, dtype=torch.float64))

    def _activation(self, row: Row, site: Mapping[str, Any] | None) -> Any:
        name = short(row)
        slope = site.get("slope") if site else 0.0
        passes = name in ("relu", "tanh", "relu6") or (name == "hardtanh" and _around_zero(row))
        if site is not None and site.get("kind") in ("path", "gate"):
            passes = slope is not None and abs(slope) <= 1
        if not passes:
            raise refusal(row, "is no activation with f(0) = 0 and slopes of at most 1")
        return self._value(row["args"][site.get("argument", 0) if site else 0])

    def _reshape(self, index: int, row: Row, args: list[Any], kwargs: dict[str, Any], call: Any) -> Any:
        self._refuse_random(row)
        if short(row) == "getitem":
            return args[0][args[1]]
        first = next(_phis(args))
        if short(row) in CASTS:
            return first
        out = call(*_bare(args), **_bare(kwargs))
        if isinstance(out, list | tuple):
            return [first._replace(value=part) for part in out]
        return first._replace(value=out)

    def _scores(self, index: int, row: Row, args: list[Any], kwargs: dict[str, Any], call: Any) -> Phi:
        return next(_phis(args))._replace(scores=True)

    def _add(self, index: int, row: Row, args: list[Any], kwargs: dict[str, Any], call: Any) -> Phi:
        if short(row) == "sum":
            return args[0]._replace(value=call(args[0].value, *args[1:]))
        # rsub subtracts its first argument times alpha, the others their second.
        scaled = 0 if short(row) == "rsub" else 1
        terms = []
        for position, term in enumerate(args[:2]):
            factor = abs(kwargs.get("alpha", 1)) ** self.power if position == scaled else 1.0
            if isinstance(term, Phi):
                terms.append(term._replace(value=term.value * factor))
            elif self.include_bias:
                terms.append(Phi(abs(self._tensor(term)) ** self.power * factor))
        return plus(terms)

    def _cat(self, index: int, row: Row, args: list[Any], kwargs: dict[str, Any], call: Any) -> Phi:
        if short(row) == "constant_pad_nd":
            fill = abs(float(args[2])) if len(args) > 2 else 0.0
            if fill and self.include_bias:
                raise refusal(row, "pads with a number that is not 0")
            return args[0]._replace(value=call(args[0].value, args[1]))
        parts = [part if isinstance(part, Phi) else Phi(self._bias(part)) for part in args[0]]
        values, exponent = aligned(parts)
        return Phi(call(values, *args[1:], **kwargs), exponent)

    def _bias(self, value: Any) -> Any:
        return abs(self._tensor(value)) ** self.power * float(self.include_bias)

    def _tensor(self, value: Any) -> Any:
        import torch

        return value.double() if isinstance(value, torch.Tensor) else torch.tensor(float(value), dtype=torch.float64)

    def _scale(self, index: int, row: Row, args: list[Any], kwargs: dict[str, Any], call: Any) -> Phi:
        if short(row) == "neg":
            return args[0]
        if len(list(_phis(args))) != 1 or (short(row) == "div" and not isinstance(args[0], Phi)):
            raise refusal(row, "is a product or quotient of activations")
        position = 0 if isinstance(args[0], Phi) else 1
        factor = self._tensor(args[1 - position])
        factor = 1 / factor if short(row) == "div" else factor
        phi = args[position]
        phi = phi._replace(value=phi.value * abs(factor) ** self.power)
        if not self._is_learned(index):
            return phi
        return self._crossed(row, phi, Line(factor, None, tuple(phi.value.shape)), channels=-1)

    def _is_learned(self, index: int) -> bool:
        waiting, seen = [index], set()
        parameters = self.network.get("parameters") or ()
        while waiting:
            row = self.rows[waiting.pop()]
            for kind, key in () if short(row).startswith(SHAPE_ONLY) else references(row["args"]):
                if kind == "tensor" and key in parameters:
                    return True
                if kind == "row" and key not in seen and not isinstance(self.values.get(key), Phi):
                    seen.add(key)
                    waiting.append(key)
        return False

    # ---- pooling ----

    def _avg_pool(self, index: int, row: Row, args: list[Any], kwargs: dict[str, Any], call: Any) -> Phi:
        import torch

        phi, name = args[0], short(row)
        out = call(phi.value, *args[1:], **kwargs)
        if self.power == 1:
            return phi._replace(value=out)
        if "adaptive" in name:
            size = adaptive_sizes(phi.value, out)
        elif name.startswith("mean"):
            size = torch.tensor(phi.value.numel() / out.numel(), dtype=torch.float64)
        else:
            ones = torch.ones_like(phi.value[:1, :1])
            valid = window_sum(ones, out.shape[2:], *_window(args, phi.value.dim() - 2))
            size = valid / call(ones, *args[1:], **kwargs)
        return phi._replace(value=out * size ** (1 - self.power))

    def _max_pool(self, index: int, row: Row, args: list[Any], kwargs: dict[str, Any], call: Any) -> Any:
        phi, name = args[0], short(row)
        found = call(phi.value, *args[1:], **kwargs)
        out = found[0] if isinstance(found, tuple) else found
        if self.maxpool == "sum":
            if name == "amax":
                out = phi.value.sum(*args[1:], **kwargs)
            elif "adaptive" in name:
                average = getattr(_functional(), f"adaptive_avg_pool{out.dim() - 2}d")
                out = average(phi.value, out.shape[2:]) * adaptive_sizes(phi.value, out)
            else:
                dims = phi.value.dim() - 2
                dilation = args[4] if len(args) > 4 else 1
                out = window_sum(phi.value, out.shape[2:], *_window(args, dims), _each(dilation, dims))
        summed = phi._replace(value=out)
        return [summed] if isinstance(found, tuple) else summed

    # ---- weights ----

    def _linear(self, index: int, row: Row, args: list[Any], kwargs: dict[str, Any], call: Any) -> Phi:
        from tracer.ops import op

        rule = op(row["op"]).rule
        assert rule is not None
        phi, weight = args[rule.input], args[rule.weight]
        if not isinstance(phi, Phi) or isinstance(weight, Phi):
            raise refusal(row, "is a product of activations, or has inputs for weights")
        bias = args[rule.bias] if rule.bias is not None and rule.bias < len(args) else None
        others = [None if isinstance(argument, Phi) or argument is weight or argument is bias else argument for argument in args]

        def apply(x: Tensor, w: Tensor) -> Tensor:
            if rule.name == "addmm":
                return x @ w
            given = list(others)
            given[rule.input], given[rule.weight] = x, w
            return call(*given, **kwargs)

        if self.powered is None:
            self.powered = abs(weight) if self.power == 1 else weight * weight
        out = phi._replace(value=apply(phi.value, self.powered))
        line = Line(weight, apply, tuple(phi.value.shape), bias, *_out_axis(row, rule.name, args))
        if index in self.folded:
            self.before = line
            return out
        convolving = rule.name.startswith("conv")
        if bias is not None and self.include_bias:
            shape = (-1, *[1] * (out.value.dim() - 2)) if convolving else (-1,)
            out = plus([out, Phi(abs(bias.reshape(shape)) ** self.power)])
        return self._crossed(row, out, line, channels=1 if convolving else -1)

    _conv = _linear

    def _batch_norm(self, index: int, row: Row, args: list[Any], kwargs: dict[str, Any], call: Any) -> Any:
        phi, gain, shift, mean, variance = args[:5]
        whole = short(row) == "batch_norm"
        if mean is None or (whole and args[5]):
            raise refusal(row, "normalises by the batch")
        scale = (variance + args[7 if whole else 6]) ** -0.5
        scale = scale if gain is None else scale * gain
        moved = -mean
        line = Line(scale, None, tuple(phi.value.shape))
        if self.folded.get(row["args"][0].get("row", -1)) == index:
            line = self.before
            moved = moved if line.bias is None else moved + line.bias
            line = line._replace(weight=scaled(line.weight, scale, line.axis, line.groups))
        along = (-1, *[1] * (phi.value.dim() - 2))
        out = phi._replace(value=phi.value * abs(scale).reshape(along) ** self.power)
        if self.include_bias:
            moved = scale * moved + (0.0 if shift is None else shift)
            out = plus([out, Phi(abs(moved).reshape(along) ** self.power)])
        out = self._crossed(row, out, line, channels=1)
        return out if whole else [out]

    def _crossed(self, row: Row, phi: Phi, line: Line, channels: int) -> Phi:
        """The value after a parametrised row: noted, with its factor, and brought back to a moderate size."""
        units, wide = phi.value.numel() // self.n, phi.value.shape[channels]
        if self.literal:
            h = wide if self.units == "channels" else units
            phi = phi._replace(value=phi.value * (2.0 if self.power == 1 else 4.0 * h))
        else:
            apply = None if line.apply is None else partial(_applied, line.apply, line.weight)
            self.maps.append(Affine(row["name"], line.weight, apply, (1, *line.inputs[1:]), units, wide))
        return moderate(phi)


def _applied(apply: Callable[[Tensor, Tensor], Tensor], weight: Tensor, x: Tensor) -> Tensor:
    return apply(x, weight.to(x.dtype))


def moderate(phi: Phi) -> Phi:
    """The same sums with the largest between 1/2 and 1, where that is finite."""
    largest = float(phi.value.max())
    if largest == 0:
        return phi._replace(exponent=ZERO)
    if not math.isfinite(largest):
        return phi
    shift = math.frexp(largest)[1]
    return phi._replace(value=phi.value * math.ldexp(1.0, -shift), exponent=phi.exponent + shift)


def aligned(parts: Sequence[Phi]) -> tuple[list[Any], int]:
    """The parts' values at one exponent, that of the largest."""
    exponent = max(part.exponent for part in parts)
    shifts = [max(part.exponent - exponent, -2000) for part in parts]
    return [part.value * math.ldexp(1.0, shift) for part, shift in zip(parts, shifts, strict=True)], exponent


def plus(parts: Sequence[Phi]) -> Phi:
    """Sum of the parts, which broadcast."""
    values, exponent = aligned(parts)
    return Phi(sum(values[1:], values[0]), exponent)


def scaled(weight: Any, scale: Any, axis: int, groups: int) -> Any:
    """A weight with each output channel times its scale; `axis` holds the channels of one group."""
    if axis == 0:
        return weight * scale.reshape(-1, *[1] * (weight.dim() - 1))
    split = weight.reshape(groups, -1, *weight.shape[1:])
    return (split * scale.reshape(groups, 1, -1, *[1] * (weight.dim() - 2))).reshape(weight.shape)


def _out_axis(row: Row, rule: str, args: Sequence[Any]) -> tuple[int, int]:
    if rule in ("addmm", "matmul"):
        return 1, 1
    if rule == "conv_transpose":
        return 1, args[6] if len(args) > 6 else 1
    if short(row) == "convolution" and args[6]:
        return 1, args[8]
    return 0, 1


def _phis(values: Any) -> Iterator[Phi]:
    if isinstance(values, Phi):
        yield values
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _phis(value)


def _bare(values: Any) -> Any:
    if isinstance(values, Phi):
        return values.value
    if isinstance(values, dict):
        return {name: _bare(value) for name, value in values.items()}
    return [_bare(value) for value in values] if isinstance(values, list) else values


def _around_zero(row: Row) -> bool:
    from tracer.structure import constant

    low, high = (constant(argument) for argument in (row["args"][1:3] + [-1.0, 1.0][len(row["args"]) - 1 :])[:2])
    return low is not None and high is not None and low <= 0 <= high


def _window(args: Sequence[Any], dims: int) -> tuple[list[int], list[int], list[int]]:
    kernel = _each(args[1], dims)
    stride = _each(args[2], dims) if len(args) > 2 and args[2] not in (None, []) else kernel
    return kernel, stride, _each(args[3] if len(args) > 3 else 0, dims)


def _each(value: Any, dims: int) -> list[int]:
    listed = list(value) if isinstance(value, list | tuple) else [value]
    return listed * dims if len(listed) == 1 else listed


def _functional() -> Any:
    import torch

    return torch.nn.functional
