"""What a model looks up in values while it is traced, though a table reads none: to raise an error, or known anyhow."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from tracer.network.ctc import ctc_loss
from tracer.network.torch_internals import tell_values


@contextmanager
def unchecked() -> Iterator[None]:
    """Arguments of `torch.distributions` and of losses are taken as they are, and lengths stay tensors.

    Distributions that are asked to check their arguments (`validate_args=True`) do.
    """
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        with _Unchecked():
            yield
    finally:
        Distribution.set_default_validate_args(before)


class _Unchecked(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _WRITTEN.get(func, func)(*args, **(kwargs or {}))


def _gaussian_nll_loss(
    input: Tensor,
    target: Tensor,
    var: Tensor | float,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> Tensor:
    """The loss as PyTorch defines it: a variance below `eps` counts as `eps`, and has the slope it has there."""
    if not isinstance(var, Tensor):
        var = var * torch.ones_like(input)
    elif var.shape != input.shape and var.shape == input.shape[:-1]:
        var = var[..., None]
    var = var + (var.clamp(min=eps) - var).detach()
    losses = 0.5 * (var.log() + (input - target) ** 2 / var)
    if full:
        losses = losses + 0.5 * math.log(2 * math.pi)
    return losses if reduction == "none" else losses.mean() if reduction == "mean" else losses.sum()


def _arange(*args: Any, **kwargs: Any) -> Tensor:
    """A few numbers counted out, such as the axes to sum over, are the same for all examples and may be read."""
    made = torch.arange(*args, **kwargs)
    plain = not kwargs and all(type(value) is int for value in args)
    if plain and len(range(*args)) <= _FEW:
        tell_values(made, range(*args))
    return made


_FEW = 64
_WRITTEN = {F.gaussian_nll_loss: _gaussian_nll_loss, F.ctc_loss: ctc_loss, torch.arange: _arange}
