"""From one executed row to the per-example gradients of its parameters: one rule an operation.

A rule gets the row's arguments, the back-propagated signal z of its output and where the examples lie, and
returns a form (`tracer.gradients.forms`) for the weight and one for the bias; a form may stand for both. Which argument
of which operation is the weight is written in `tracer.ops`. A row that a rule does not cover is a ValueError.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tracer.gradients.forms import Correlation, Form, Full, Outer, Scatter
from tracer.gradients.windows import Geometry
from tracer.ops import Argument, Convolution, kernels, op


@dataclass(frozen=True)
class Place:
    """Where n examples lie in a tensor: along `axis`, each followed by `inner` elements merged into it."""

    n: int
    axis: int = 0
    inner: int = 1

    def first(self, x: Tensor) -> Tensor:
        """Examples as the first dimension, what they were merged with as the second: (n, merged, ...)."""
        if self.axis == 0 and self.inner == 1 and x.shape[0] == self.n:
            return x.unsqueeze(1)
        split = x.unflatten(self.axis, (-1, self.n, self.inner)).movedim(self.axis + 1, 0)
        rest = split.movedim((self.axis + 1, self.axis + 2), (1, 2))
        return rest.flatten(1, 2)

    def fold(self, rows: Tensor) -> Tensor:
        """Rows, one for each entry of the dimension (first), added up per example: (n, ...)."""
        if self.inner == 1 and rows.shape[0] == self.n:
            return rows
        return rows.unflatten(0, (-1, self.n, self.inner)).sum((0, 2))


@dataclass(slots=True)
class Executed:
    """One executed row: operation, resolved arguments, z of its (first) output, place of the examples in it.

    `weight`, `bias`: which parameters are wanted (False for one that is frozen, absent or no parameter). lookup:
    arguments of the row that looked the parameter up.
    """

    op: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    z: Tensor
    place: Place
    weight: bool = True
    bias: bool = True
    lookup: Sequence[Any] = ()

    def arg(self, position: int, default: Any = None) -> Any:
        """An argument, or the default of one left out."""
        return self.args[position] if position < len(self.args) else default


Forms = tuple[
    Form | None, Form | None
]  # of the weight (speaking for the bias too where form.bias), of the bias
Rule = Callable[[Executed], Forms]


def precise(x: Tensor) -> Tensor:
    """float32, or float64 where the model is."""
    if x.is_complex():
        raise ValueError("this row computes with complex numbers")
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def _linear(row: Executed) -> Forms:
    if row.place.axis == row.z.ndim - 1:
        raise ValueError("the examples lie along the features of this row")
    a, z = _flat(row, row.arg(0)), _flat(row, row.z)
    if not row.weight:
        return None, Full(z.sum(1))
    return Outer(a, z, bias=row.bias), None


def _flat(row: Executed, x: Tensor) -> Tensor:
    """(n, position, feature)."""
    return row.place.first(precise(x)).flatten(1, -2)


def _matmul(row: Executed) -> Forms:
    return _transposed_linear(row, row.arg(0)), None


def _addmm(row: Executed) -> Forms:
    weight, bias = None, None
    if row.weight:
        weight = _transposed_linear(row, row.arg(1))
        weight = weight.scaled(weight.a.new_full((len(weight.a),), float(row.kwargs.get("alpha", 1))))
    if row.bias:
        shape = row.arg(0).shape
        if shape.numel() != row.z.shape[-1]:
            raise ValueError("this bias is not one number for each output")
        rows = _flat(row, row.z).sum(1).mul_(float(row.kwargs.get("beta", 1)))
        bias = Full(rows.view(len(rows), *shape))
    return weight, bias


def _transposed_linear(row: Executed, x: Tensor) -> Outer:
    if row.place.axis == row.z.ndim - 1 or row.z.ndim != x.ndim:
        raise ValueError("the examples do not lie along the rows of this product")
    return Outer(_flat(row, row.z), _flat(row, x), swapped=True)


def _conv(row: Executed) -> Forms:
    a, z = precise(row.arg(0)), precise(row.z)
    weight = row.arg(1)
    dims = weight.ndim - 2
    form = _form(row)
    if isinstance(form.transposed, Argument) and form.transposed.among(row.args):
        return _transposed(row, a, z)
    if row.place.axis != 0 or a.ndim != dims + 2:
        raise ValueError("the examples do not lie along the first dimension of this convolution")
    stride, padding, dilation = (_each(row.arg(i, d), dims) for i, d in _options(form))
    groups = row.arg(form.groups, 1)
    if isinstance(padding[0], str):
        a, padding = _same_padding(a, padding[0], weight.shape[2:], dilation)
    geometry = Geometry(tuple(weight.shape[2:]), stride, padding, dilation, groups)
    return _correlation(row, a, z, geometry)


def _conv_transpose(row: Executed) -> Forms:
    return _transposed(row, precise(row.arg(0)), precise(row.z))


def _form(row: Executed) -> Convolution:
    rule = op(row.op).rule
    assert rule is not None and rule.convolution is not None
    return rule.convolution


def _options(form: Convolution) -> tuple[tuple[int, int], ...]:
    """Positions of stride, padding and dilation, and what they are where they are left out."""
    return (form.stride, 1), (form.padding, 0), (form.dilation, 1)


def _transposed(row: Executed, a: Tensor, z: Tensor) -> Forms:
    # The adjoint of a convolution: its weight gradient correlates z with the input, the other way round.
    form_of = _form(row)
    kernel = tuple(row.arg(1).shape[2:])
    dims = len(kernel)
    stride, padding, dilation = (_each(row.arg(i, d), dims) for i, d in _options(form_of))
    if row.place.axis != 0 or z.ndim != dims + 2:
        raise ValueError("the examples do not lie along the first dimension of this convolution")
    geometry = Geometry(kernel, stride, padding, dilation, row.arg(form_of.groups, 1))
    if geometry.seen(z.shape[2:]) != tuple(a.shape[2:]):
        raise ValueError("its output is padded by more than its stride")
    form = _correlation(replace(row, bias=False), z, a, geometry)[0] if row.weight else None
    if isinstance(form, Correlation):
        form = replace(form, swapped=True)
    return form, Full(row.place.fold(z.flatten(2).sum(2))) if row.bias else None


def _correlation(row: Executed, a: Tensor, z: Tensor, geometry: Geometry) -> Forms:
    if not row.weight:
        return None, Full(row.place.fold(z.flatten(2).sum(2)))
    if all(k == 1 and p == 0 for k, p in zip(geometry.kernel, geometry.padding, strict=True)):
        # A 1 x 1 kernel sees only the pixels it strides to.
        for d, s in enumerate(geometry.stride):
            a = a[(slice(None),) * (2 + d) + (slice(None, None, s),)]
        geometry = replace(geometry, stride=(1,) * len(geometry.stride))
    form = Correlation(a, z, geometry, bias=row.bias)
    if row.place == Place(len(a)):
        return form, None
    return Full(row.place.fold(form.rows())), Full(row.place.fold(form.bias_rows())) if row.bias else None


def _each(value: Any, dims: int) -> tuple[Any, ...]:
    values = [value] if isinstance(value, int | str) else list(value)
    return tuple(values * dims if len(values) == 1 else values)


def _same_padding(
    a: Tensor, name: str, kernel: Sequence[int], dilation: Sequence[int]
) -> tuple[Tensor, tuple[int, ...]]:
    if name == "valid":
        return a, (0,) * len(kernel)
    total = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    if all(t % 2 == 0 for t in total):
        return a, tuple(t // 2 for t in total)
    sides = [side for t in reversed(total) for side in (t // 2, t - t // 2)]
    return F.pad(a, sides), (0,) * len(kernel)


def _batch_norm(row: Executed) -> Forms:
    norm = op(row.op).normalises
    training = norm is None or (norm.training is not None and row.arg(norm.training))
    if norm is None or training or row.arg(norm.mean) is None:
        raise ValueError("batch normalisation without running statistics mixes the examples")
    mean, var, eps = row.arg(norm.mean), row.arg(norm.variance), norm.eps.among(row.args)
    a, z = precise(row.arg(0)), precise(row.z)
    if row.place.axis != 0:
        raise ValueError("the examples do not lie along the first dimension of this normalisation")
    n, channels = a.shape[:2]
    # As n x channels channels of one example, the library's own sums per channel are sums per example.
    # These sums cancel (77 to 1 near the input of VGG-19): what is left shows the rounding of z. One example at a time
    # the result is PyTorch's own bit for bit, and exact sums of the same z are no nearer to float64 (measured).
    one = (1, n * channels, a[0, 0].numel())
    mean, var = precise(mean).repeat(n), precise(var).repeat(n)
    unused = a.new_empty(0)  # statistics of a batch: not read in eval mode, but CUDA insists on tensors
    _, weight, bias = kernels.batch_norm_backward(
        z.reshape(one), a.reshape(one), None, mean, var, unused, unused, False, eps, [False, True, True]
    )
    return _affine(row, weight.view(n, channels), bias.view(n, channels))


def _affine(row: Executed, weight: Tensor, bias: Tensor) -> Forms:
    fold = row.place.fold
    return Full(fold(weight)) if row.weight else None, Full(fold(bias)) if row.bias else None


def _normalised(row: Executed) -> Tensor:
    """The row's output before its scale and shift."""
    a = precise(row.arg(0))
    norm = op(row.op).normalises
    assert norm is not None
    eps = norm.eps.among(row.args)
    size: Any = None if norm.size is None else row.arg(norm.size)
    if norm.over == "layer":
        return F.layer_norm(a, size, None, None, eps)
    if norm.over == "rms":
        return F.rms_norm(a, size, None, eps)
    if norm.over == "group":
        return F.group_norm(a, size, None, None, eps)
    by_example = norm.training is None or row.arg(norm.training)
    return F.instance_norm(a, row.arg(norm.mean), row.arg(norm.variance), None, None, by_example, 0.0, eps)


def _feature_norm(row: Executed) -> Forms:
    shape = tuple(row.arg(1))
    if row.place.axis >= row.z.ndim - len(shape):
        raise ValueError("the examples lie along the normalised dimensions")

    def rows(x: Tensor) -> Tensor:
        return row.place.first(x).flatten(1, -1 - len(shape)).sum(1)

    z = precise(row.z)
    weight = Full(rows(_normalised(row).mul_(z))) if row.weight else None
    return weight, Full(rows(z)) if row.bias else None


def _channel_norm(row: Executed) -> Forms:
    z = precise(row.z)
    if row.place.axis != 0:
        raise ValueError("the examples do not lie along the first dimension of this normalisation")
    channels = (*z.shape[:2], -1)  # a group norm takes examples without positions
    weight = _normalised(row).mul_(z).reshape(channels).sum(2) if row.weight else z.new_empty(0)
    return _affine(row, weight, z.reshape(channels).sum(2))


def _embedding(row: Executed) -> Forms:
    return _scatter(row.args, row.place.first(row.arg(1)).flatten(1), _flat(row, row.z)), None


def _scatter(lookup: Sequence[Any], index: Tensor, z: Tensor) -> Scatter:
    """Signals z (n, t, width) of the entries that a lookup (its arguments) took, index (n, t)."""
    padding = lookup[2] if len(lookup) > 2 else -1
    if len(lookup) > 3 and lookup[3]:
        raise ValueError("gradients scaled by frequency in the batch mix the examples")
    if padding >= 0:
        z = z.masked_fill((index == padding).unsqueeze(-1), 0)
    return Scatter(index, z, len(lookup[0]))


def _added(row: Executed) -> Forms:
    # What is added to every example alike: the signal of the sum, each example's own.
    weight, bias = _shift(row)
    rows = (weight or bias).rows()  # type: ignore[union-attr]
    index = row.lookup[1].reshape(1, -1).expand(len(rows), -1)
    form = _scatter(row.lookup, index, rows.reshape(*index.shape, -1))
    return (form, None) if row.weight else (None, form)


def _prelu(row: Executed) -> Forms:
    x, slope = precise(row.arg(0)), row.arg(1)
    if row.place.axis != 0 or row.place.inner != 1:
        raise ValueError("the examples do not lie along the first dimension of this activation")
    rows = x.clamp_max(0).mul_(precise(row.z))
    channels = rows.reshape(len(x), 1 if slope.numel() == 1 else x.shape[1], -1)
    return Full(channels.sum(2).view(len(x), *slope.shape)), None


def _shift(row: Executed) -> Forms:
    operand = op(row.op).operand
    sign = operand.sign if operand is not None and row.bias else 1.0
    factor = sign * (float(row.kwargs.get("alpha", 1)) if row.bias else 1.0)
    z = precise(row.z)
    return broadcast(row, z if factor == 1 else z * factor)


def _scale(row: Executed) -> Forms:
    return broadcast(row, precise(row.z) * row.arg(0 if row.bias else 1))


def broadcast(row: Executed, z: Tensor) -> Forms:
    """Gradient of a parameter (argument 1 as bias, 0 as weight) broadcast to the size of the output."""
    parameter = row.arg(1 if row.bias else 0)
    place = row.place
    aligned = (1,) * (z.ndim - parameter.ndim) + tuple(parameter.shape)
    if place.inner != 1 or z.shape[place.axis] != place.n or aligned[place.axis] != 1:
        raise ValueError("the examples do not lie along a dimension the parameter is broadcast over")
    over = [d for d, size in enumerate(aligned) if size == 1 and z.shape[d] != 1 and d != place.axis]
    rows = z.sum(over, keepdim=True) if over else z
    form = Full(rows.movedim(place.axis, 0).reshape(place.n, *parameter.shape))
    return (None, form) if row.bias else (form, None)


# Of the last two, the parameter is argument 0 ("weight") or 1 ("bias") of an elementwise operation.
RULES: dict[str, Rule] = {
    "linear": _linear,
    "matmul": _matmul,
    "addmm": _addmm,
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "batch_norm": _batch_norm,
    "layer_norm": _feature_norm,
    "rms_norm": _feature_norm,
    "group_norm": _channel_norm,
    "instance_norm": _channel_norm,
    "embedding": _embedding,
    "added": _added,
    "prelu": _prelu,
    "shift": _shift,
    "scale": _scale,
}
