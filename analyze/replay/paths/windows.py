"""Sums over the windows of a pooling layer, and how many elements each window of an adaptive one has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def window_sum(
    x: Tensor,
    space: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int] | None = None,
) -> Tensor:
    """Sums (n, channel, *space) of x (n, channel, *space in) over windows; what is outside of x counts as 0.

    `space` is that of the pooling layer's output, so that its rounding up or down is followed.

    >>> import torch
    >>> window_sum(torch.arange(5.0).reshape(1, 1, 5), [3], [3], [2], [1]).tolist()
    [[[1.0, 6.0, 7.0]]]
    """
    for k, size in enumerate(space):
        axis, step = k + 2, stride[k]
        apart = 1 if dilation is None else dilation[k]
        reach = (size - 1) * step + (kernel[k] - 1) * apart + 1
        after = max(reach - padding[k] - x.shape[axis], 0)
        sides = [0, 0] * (len(space) - 1 - k) + [padding[k], after]
        x = _pad(x, sides)
        span = (size - 1) * step + 1
        starts = [offset * apart for offset in range(kernel[k])]
        pieces = [
            x.narrow(axis, start, span)[(slice(None),) * axis + (slice(None, None, step),)]
            for start in starts
        ]
        x = sum(pieces[1:], pieces[0])
    return x


def _pad(x: Tensor, sides: list[int]) -> Tensor:
    from torch.nn.functional import pad

    return pad(x, sides) if any(sides) else x


def adaptive_sizes(x: Tensor, out: Tensor) -> Tensor:
    """Elements in each window of an adaptive pooling from x to out, to broadcast with out.

    >>> import torch
    >>> adaptive_sizes(torch.ones(1, 1, 5), torch.ones(1, 1, 3)).tolist()
    [2.0, 3.0, 2.0]
    """
    import torch

    sizes = torch.ones((), dtype=torch.float64)
    for whole, parts in zip(x.shape[2:], out.shape[2:], strict=True):
        along = [-(-(k + 1) * whole // parts) - k * whole // parts for k in range(parts)]
        sizes = sizes[..., None] * torch.tensor(along, dtype=torch.float64)
    return sizes
