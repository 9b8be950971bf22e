"""Weights moved a little: the largest loss in a box around them, and the mean loss under noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from analyze.numerics import mean_defined
from tracer.errors import MissingTraceError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor


class Neighbourhood:
    """Mean loss, its gradient, and accuracy of a network at w + v, as functions of the flat move v (P,).

    `weights` are all trainable parameters end to end, biases and BatchNorm's gains among them; buffers stay. A network
    of less than 32 bits is moved in float64: its own numbers have no others so near.
    """

    def __init__(self, state: Any, examples: Any) -> None:
        self.state = state.movable()
        self.examples = self.state.suited(examples)
        self.weights: Tensor = self.state.flat().detach()

    def at(self, v: Tensor) -> Any:
        """The network at w + v."""
        return self.state.with_tensors(self.state.unflat(self.weights + v.to(self.weights)))

    def loss(self, v: Tensor) -> float:
        """Mean loss at w + v."""
        return float(self.at(v).loss(self.examples))

    def both(self, v: Tensor) -> tuple[float, Tensor]:
        """Mean loss at w + v and its gradient (P,), from one pass."""
        loss, gradient = self.at(v).loss_and_gradient(self.examples)
        return loss, self.state.flat(gradient)

    def accuracy(self, v: Tensor) -> float:
        """Mean share of the examples' answers that are correct at w + v, those that count; NaN where none is known."""
        try:
            shares = self.at(v).correct(self.examples)
        except MissingTraceError:
            return math.nan
        return float(mean_defined(shares)[0])

    def flat(self, tensors: Any) -> Tensor:
        """Other values of the same parameters, NumPy arrays by name, end to end."""
        import torch

        named = {name: torch.from_numpy(np.array(tensors[name])) for name in self.state.parameters}
        return self.state.flat(named).to(self.weights)


def draws(like: Tensor, count: int, seed: int, *, uniform: bool = False) -> Iterator[Tensor]:
    """Vectors of standard normal or uniform (-1, 1) numbers; the k-th depends on seed and k alone."""
    import torch

    for k in range(count):
        drawn = torch.Generator().manual_seed(int(np.random.SeedSequence([seed, k]).generate_state(1)[0]))
        if uniform:
            vector = torch.rand(like.shape, generator=drawn, dtype=torch.float64) * 2 - 1
        else:
            vector = torch.randn(like.shape, generator=drawn, dtype=torch.float64)
        yield vector.to(like)


def rise_axis(axes: Axes, values: np.ndarray) -> None:
    """Logarithmic axis for rises of the loss, straight near 0 since they may be negative."""
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    axes.set_yscale("symlog", linthresh=1e-3)
    axes.set_ylim(min(1.5 * low, -2e-4), max(1.5 * high, 2e-3))


def ascend(
    loss: Callable[[Tensor], float],
    both: Callable[[Tensor], tuple[float, Tensor]],
    radius: Tensor,
    start: Tensor,
    iterations: int,
) -> tuple[float, Tensor]:
    """Largest loss met on the way up from a start, within |v| <= radius (P,), and where.

    `loss` of a move, and `both` loss and gradient of one. Projected sign-gradient ascent: v moves by a step
    times radius in the direction of the gradient's signs and is clipped to the box. The first half of the
    steps go from corner to corner, which for a convex loss can only raise it; then they shrink to a tenth of
    the radius, so that a maximum inside is found too. Values that are not numbers are passed over.

    >>> import torch
    >>> w = torch.tensor([0.5, -1.0])
    >>> loss = lambda v: float(((w + v) ** 2).sum())
    >>> best, where = ascend(loss, lambda v: (loss(v), 2 * (w + v)), torch.full((2,), 0.1), torch.zeros(2), 4)
    >>> round(best, 4), where.double().round(decimals=4).tolist()  # 0.6² + 1.1²
    (1.57, [0.1, -0.1])
    """
    import torch

    v = torch.minimum(torch.maximum(start, -radius), radius)
    best, where = math.nan, v
    for k in range(iterations):
        value, gradient = both(v)
        if value > best or math.isnan(best):
            best, where = value, v
        left = (iterations - k) / max(iterations - iterations // 2, 1)
        step = 2.0 if k < iterations // 2 else 0.1 + 0.9 * (left - 1 / max(iterations - iterations // 2, 1))
        moved = v + step * radius * torch.nan_to_num(gradient).sign()
        moved = torch.minimum(torch.maximum(moved, -radius), radius)
        if torch.equal(moved, v):
            return best, where
        v = moved
    value = loss(v)
    return (value, v) if value > best or math.isnan(best) else (best, where)
