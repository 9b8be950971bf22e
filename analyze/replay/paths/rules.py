"""What each kind of row does to sums over paths; the kinds are those of the table's operations.

Every form takes a `Call` and returns the new sums. Paths add up in sums and concatenations, a maximum
becomes the sum over its window since each of its elements is a way through, an average weighs 1 / size, and
constants and weights count as |w|^q.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from analyze.replay.paths.scaled import Phi, aligned, bare, phis_in, plus
from analyze.replay.paths.windows import adaptive_sizes, window_sum
from tracer.errors import MissingTraceError
from tracer.ops import Argument, Op, Rule, op
from tracer.ops.written import constant

if TYPE_CHECKING:
    from torch import Tensor

    from analyze.replay.paths import Pass
    from tracer.network.table import Row

LARGEST = 1 << 14  # elements along a side of a window that is summed over


@dataclass(frozen=True)
class Refused:
    """In the place of a row's result: what is in the way of it."""

    index: int
    error: MissingTraceError


def refusal(row: Row, why: str) -> MissingTraceError:
    """The error that names a row, where it is, and what is in the way of path and operator norms."""
    where = f"module {row.module!r}" if row.module else "the network itself"
    return MissingTraceError(
        f"capacity is not defined for this network: row {row.name!r} ({row.op}, in {where}) {why}"
    )


class Call(NamedTuple):
    """One row about to be run in its form.

    args: its arguments in float64, given: as they came. function: the operation itself, keyword arguments bound.
    """

    run: Pass
    at: int
    row: Row
    args: list[Any]
    given: list[Any]
    function: Callable[..., Any]

    @property
    def record(self) -> Op:
        """What is known of the operation."""
        return op(self.row.op)

    def again(self, value: Any) -> Any:
        """The operation itself, on another first argument."""
        return self.function(value, *self.args[1:])


class Line(NamedTuple):
    """A weight, made when asked for, and how its row applies it.

    inputs: shape of what it is applied to. axis: where the output channels of one of its groups lie.
    """

    weight: Callable[[], Tensor]
    apply: Callable[[Tensor, Tensor], Tensor] | None
    inputs: tuple[int, ...]
    bias: Tensor | None = None
    axis: int = 0
    groups: int = 1


def reshape(call: Call) -> Any:
    """Moves, copies and picks units."""
    call.run.refuse_random(call.row)
    if call.record.python is not None:
        return call.args[0][call.args[1]]
    first = next(phis_in(call.args))
    if call.record.copies:
        return first
    out = call.function(*bare(call.args))
    if isinstance(out, list | tuple):
        return [first._replace(value=part) for part in out]
    return first._replace(value=out)


def scores(call: Call) -> Phi:
    """A softmax is left out: the scores before it are what counts."""
    return next(phis_in(call.args))._replace(scores=True)


def add(call: Call) -> Phi:
    """Sums and differences; a constant or parameter that is added is a bias."""
    run, weighed = call.run, call.record.weighed
    if weighed is None:
        return call.args[0]._replace(value=call.again(call.args[0].value))
    alpha = constant(call.row.kwargs.get("alpha", 1))
    if alpha is None:
        raise refusal(call.row, "weighs what it adds by a number that is computed")
    terms = []
    for position, term in enumerate(call.args[:2]):
        factor = abs(alpha) ** run.power if position == weighed else 1.0
        if isinstance(term, Phi):
            terms.append(term._replace(value=term.value * factor))
        else:
            terms.append(Phi(abs(number(term)) ** run.power * factor * float(run.include_bias)))
    return plus(terms)


def cat(call: Call) -> Phi:
    """Concatenation, stacking, and padding with zeros."""
    if call.record.pads:
        if call.run.include_bias and len(call.args) > 2 and call.args[2]:
            raise refusal(call.row, "pads with a number other than 0, a bias of no layer")
        return call.args[0]._replace(value=call.function(call.args[0].value, call.args[1]))
    power, counted = call.run.power, float(call.run.include_bias)
    parts = [
        part if isinstance(part, Phi) else Phi(abs(number(part)) ** power * counted) for part in call.args[0]
    ]
    values, exponent = aligned(parts)
    return Phi(call.function(values, *call.args[1:]), exponent)


def scale(call: Call) -> Phi:
    """Products and quotients with a constant, or with parameters: then a layer of one weight a unit."""
    if len(call.args) == 1:
        return call.args[0]
    pair, divides = call.args[:2], call.record.affine == "first"
    if len(list(phis_in(pair))) != 1 or (divides and not isinstance(pair[0], Phi)):
        raise refusal(call.row, "is a product or quotient of activations")
    position = 0 if isinstance(pair[0], Phi) else 1
    factor = number(pair[1 - position])
    factor = 1 / factor if divides else factor
    phi = pair[position]
    out = phi._replace(value=phi.value * abs(factor) ** call.run.power)
    if not call.run.is_learned(call.at):
        return out
    return call.run.crossed(call.row, out, Line(lambda: factor, None, tuple(phi.value.shape)), channels=-1)


def avg_pool(call: Call) -> Phi:
    """An average of d elements is a sum with weights 1/d: the same average times d^(1 - q)."""
    import torch

    phi, pool = call.args[0], call.record.pool
    out = call.again(phi.value)
    if call.run.power == 1 or pool is None:
        return phi._replace(value=out)
    if pool.adaptive:
        size = adaptive_sizes(phi.value, out)
    elif pool.whole:
        size = torch.tensor(phi.value.numel() / out.numel(), dtype=torch.float64)
    else:
        ones = torch.ones_like(phi.value[:1, :1])
        inside = window_sum(ones, out.shape[2:], *window(call, phi.value.dim() - 2))
        size = inside / call.again(ones)
    return phi._replace(value=out * size ** (1 - call.run.power))


def max_pool(call: Call) -> Any:
    """The sum over each window; with `maxpool="max"` the maximum."""
    from torch.nn import functional

    phi, pool = call.args[0], call.record.pool
    outputs = call.again(phi.value)
    out = outputs[0] if isinstance(outputs, tuple) else outputs
    dims = out.dim() - 2
    if call.run.maxpool == "sum" and pool is not None:
        if pool.whole:
            out = phi.value.sum(*call.args[1:])
        elif pool.adaptive:
            average = getattr(functional, f"adaptive_avg_pool{dims}d")
            out = average(phi.value, out.shape[2:]) * adaptive_sizes(phi.value, out)
        else:
            dilation = each(call.args[4] if len(call.args) > 4 else 1, dims)
            out = window_sum(phi.value, out.shape[2:], *window(call, dims), dilation)
    summed = phi._replace(value=out)
    return [summed] if isinstance(outputs, tuple) else summed


def affine(call: Call) -> Phi:
    """Linear layers and convolutions of any kind."""
    run = call.run
    rule = call.record.rule
    assert rule is not None
    args, phi = list(call.args), call.args[rule.input]
    weight = args[rule.weight]
    if not isinstance(phi, Phi) or isinstance(weight, Phi):
        raise refusal(call.row, "is a product of activations, or has inputs for weights")
    position = rule.bias if rule.bias is not None and rule.bias < len(args) else None
    bias = None if position is None else args[position]
    if run.powered is None:
        run.powered = abs(weight) if run.power == 1 else weight * weight
    for used in (rule.input, rule.weight, *([] if position is None else [position])):
        args[used] = None

    def apply(x: Tensor, w: Tensor) -> Tensor:
        if rule.name == "addmm":
            return x @ w
        operands = list(args)
        operands[rule.input], operands[rule.weight] = x, w
        return call.function(*operands)

    out = phi._replace(value=apply(phi.value, run.powered))
    stored = call.given[rule.weight]
    made = stored.make if hasattr(stored, "make") else lambda: weight
    line = Line(made, apply, tuple(phi.value.shape), bias, *_out_axis(call, rule))
    if call.at in run.folded:
        run.before = line
        return out
    convolving = rule.convolution is not None
    if bias is not None and run.include_bias:
        shape = (-1, *[1] * (out.value.dim() - 2)) if convolving else (-1,)
        out = plus([out, Phi(abs(bias.reshape(shape)) ** run.power)])
    return run.crossed(call.row, out, line, channels=1 if convolving else -1)


def _out_axis(call: Call, rule: Rule) -> tuple[int, int]:
    """Where the output channels of one group of a weight lie, and the number of groups where it is not 0."""
    convolution = rule.convolution
    if convolution is None:
        return (0, 1) if rule.bias is not None and rule.bias > rule.weight else (1, 1)
    transposed = convolution.transposed
    if not (transposed.among(call.args) if isinstance(transposed, Argument) else transposed):
        return 0, 1
    return 1, call.args[convolution.groups]


def batch_norm(call: Call) -> Any:
    """BatchNorm in eval mode: the rest of the affine row before it, or a layer of one weight a channel."""
    phi, gain, shift, mean, variance = call.args[:5]
    run, norm = call.run, call.record.normalises
    assert norm is not None
    if mean is None or (norm.training is not None and call.args[norm.training]):
        raise refusal(call.row, "normalises by the batch")
    size = (variance + norm.eps.among(call.args)) ** -0.5
    size = size if gain is None else size * gain
    moved = -mean
    line = Line(lambda: size, None, tuple(phi.value.shape))
    if run.folded.get(call.row.args[0].get("row", -1)) == call.at:
        before = run.before
        moved = moved if before.bias is None else moved + before.bias
        line = before._replace(weight=partial(_scaled, before, size))
    along = (-1, *[1] * (phi.value.dim() - 2))
    out = phi._replace(value=phi.value * abs(size).reshape(along) ** run.power)
    if run.include_bias:
        moved = size * moved + (0.0 if shift is None else shift)
        out = plus([out, Phi(abs(moved).reshape(along) ** run.power)])
    out = run.crossed(call.row, out, line, channels=1)
    return out if norm.results == 1 else [out]


def _scaled(line: Line, size: Tensor) -> Tensor:
    """A weight with each output channel times its size."""
    weight = line.weight()
    if line.axis == 0:
        return weight * size.reshape(-1, *[1] * (weight.dim() - 1))
    split = weight.reshape(line.groups, -1, *weight.shape[1:])
    return (split * size.reshape(line.groups, 1, -1, *[1] * (weight.dim() - 2))).reshape(weight.shape)


def number(value: Any) -> Tensor:
    """A constant as a float64 tensor."""
    import torch

    if isinstance(value, torch.Tensor):
        return value.double()
    return torch.tensor(float(value), dtype=torch.float64)


def window(call: Call, dims: int) -> tuple[list[int], list[int], list[int]]:
    """Kernel, stride and padding of a pooling row's arguments."""
    args = call.args
    kernel = each(args[1], dims)
    if max(kernel) > LARGEST:
        raise refusal(call.row, f"has windows of {max(kernel)} elements a side")
    stride = each(args[2], dims) if len(args) > 2 and args[2] not in (None, []) else kernel
    return kernel, stride, each(args[3] if len(args) > 3 else 0, dims)


def each(value: Any, dims: int) -> list[int]:
    """One number for every dimension of space."""
    listed = list(value) if isinstance(value, list | tuple) else [value]
    return listed * dims if len(listed) == 1 else listed


FORMS: dict[str, Callable[[Call], Any]] = {
    "reshape": reshape,
    "scores": scores,
    "add": add,
    "cat": cat,
    "scale": scale,
    "average": avg_pool,
    "max": max_pool,
    "linear": affine,
    "conv": affine,
    "batch_norm": batch_norm,
}
