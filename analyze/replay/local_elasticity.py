"""What a step of gradient descent on one example does to the outputs of others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from analyze.replay.examples import Examples
from analyze.replay.output_kernel import projected
from tracer.errors import MissingTraceError

if TYPE_CHECKING:
    from analyze.replay.state import State


def elasticities(state: State, examples: Examples, lr: float) -> tuple[np.ndarray, np.ndarray]:
    """Relative and kernelized elasticity, float64 (example stepped on, example looked at).

    Row i: after one step, of size `lr`, on example i alone. NaN where the step moves nothing (relative: the
    example's own outputs; kernelized: the loss has no slope).
    """
    projected(state.network)  # refuses outputs that are not one tensor with the examples first
    exact, sample = state.double(), examples.double()
    before = exact.outputs(sample).reshape(sample.n, -1)
    relative, kernelized = np.full((2, sample.n, sample.n), np.nan)
    for i in range(sample.n):
        one = sample.take([i])
        gradient = exact.gradient(one)
        moved = exact.with_tensors(
            {name: exact.tensors[name] - lr * slope for name, slope in gradient.items()}
        )
        change = (before - moved.outputs(sample).reshape(sample.n, -1)).cpu().numpy()
        slope = _loss_slope(exact, one).cpu().numpy().ravel()
        own = np.linalg.norm(change[i])
        if own > 0:
            relative[i] = np.linalg.norm(change, axis=1) / own
        if slope @ slope > 0:
            kernelized[i] = change @ slope / (lr * (slope @ slope))
    return relative, kernelized


def _loss_slope(state: State, one: Examples) -> Tensor:
    """Gradient of an example's loss by its outputs."""
    seen: list[Tensor] = []
    name = state.network.rows[state.network.output[1]].name

    def visit(row: object, values: object, out: Tensor) -> Tensor | None:
        if getattr(row, "name", "") != name:
            return None
        seen.append(out.detach().clone().requires_grad_())
        return seen[-1]

    size = state.network.batch
    if size is not None:
        raise MissingTraceError(f"local elasticity takes examples one by one, this network {size} at a time")
    with torch.inference_mode(False), torch.enable_grad():
        _, losses = state.network.run(state.tensors, one.inputs, one.targets, visit=visit)
        if losses is None:
            raise MissingTraceError("this network was recorded without a loss, so no step can be made")
        if not losses.requires_grad:
            return torch.zeros_like(seen[-1])
        (slope,) = torch.autograd.grad(losses.sum(), seen[-1], allow_unused=True)
    return torch.zeros_like(seen[-1]) if slope is None else slope
