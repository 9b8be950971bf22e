"""A nonlinearity with its on/off pattern held fixed: linear in its input, whatever the input then is."""

from typing import Any

import torch
from torch import Tensor

from tracer.errors import ArgumentError
from tracer.network.table import Row, Site
from tracer.ops import op


def frozen(site: Site, row: Row, values: tuple[Any, ...], mask: Tensor) -> Tensor:
    """The input where the mask is on, slope times the input where it is off.

    mask: bool (example, unit), or shaped like the output. For the inputs the mask was taken from, the result
    equals the nonlinearity's exactly (ReLU and leaky ReLU); for others it is the linear map of that path.
    An upper bound (ReLU6) is kept. Where the function is not piecewise linear (GELU), the mask is 0/1 by
    convention.
    """
    x = values[site.argument] if site.scale == 1.0 else values[site.argument] / site.scale
    on = spread(mask, row, x)
    activation = op(row.op).activation
    if activation is not None and activation.slopes is not None:
        return torch.where(on, x, -torch.prelu(-x.abs(), values[activation.slopes]) * x.sign())
    off = torch.zeros((), dtype=x.dtype, device=x.device) if not site.slope else x * site.slope
    out = torch.where(on, x, off)
    high = None if activation is None else activation.ends(values)[1]
    return out if high is None else out.clamp(max=high)


def spread(mask: Tensor, row: Row, x: Tensor) -> Tensor:
    """A mask (example, unit) in the shape of a row's output; one already in that shape stays."""
    if mask.shape == x.shape:
        return mask
    if row.axis is None:
        raise ArgumentError(
            f"row {row.name!r} has no known example axis: give its mask in shape {tuple(x.shape)}"
        )
    n = mask.shape[0]
    size = list(x.shape)
    outer = size[row.axis] // (n * row.inner)
    split = [*size[: row.axis], outer, row.inner, *size[row.axis + 1 :]]
    return mask.reshape(n, *split).movedim(0, row.axis + 1).reshape(x.shape)


def by_example(value: Tensor, row: Row, n: int) -> Tensor:
    """A row's output as (example, unit), units in C order of one example's slice; a view where possible."""
    if row.axis is None:
        raise ArgumentError(f"row {row.name!r} has no known example axis")
    if row.axis == 0 and row.inner == 1 and value.shape[0] == n:
        return value.reshape(n, -1)
    size = list(value.shape)
    split = [*size[: row.axis], -1, n, row.inner, *size[row.axis + 1 :]]
    return value.reshape(split).movedim(row.axis + 1, 0).reshape(n, -1)
