"""Losses that give one number for all examples: taken of each example alone, where the number is made of those."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tracer.errors import RecordError
from tracer.network.pytree import leaves_of, rebuild, take
from tracer.network.torch_internals import without_fallback

Loss = Callable[[Any, Any], Any]

_SAME = 1e-4  # relative: sums in another order round otherwise
_ROUNDINGS = 8  # of a dtype that has fewer digits


def each_alone(loss: Loss, outputs: Tensor, targets: Any) -> Tensor:
    """What a loss gives for each example as if there were no other, (n,), differentiable.

    All at once, by `torch.vmap`; one after another where the loss does not allow that (it looks at values or draws
    random numbers) and there are values.
    """
    leaves = leaves_of(targets)
    n = outputs.shape[0]
    own = [leaf.ndim > 0 and leaf.shape[0] == n for leaf in leaves]

    def one(output: Tensor, *of_targets: Tensor) -> Tensor:
        alone = (leaf[None] if is_own else leaf for leaf, is_own in zip(of_targets, own, strict=True))
        return loss(output[None], rebuild(targets, alone))

    at = (0, *(0 if is_own else None for is_own in own))
    if torch.compiler.is_compiling():
        return torch.vmap(one, at)(outputs, *leaves)
    try:
        with without_fallback():
            return torch.vmap(one, at)(outputs, *leaves)
    except Exception:  # vmap raises whatever it meets; what the loss itself raises comes again
        index = torch.arange(int(n))[:, None]
        return torch.stack([loss(outputs[i], take(targets, i, int(n))) for i in index.to(outputs.device)])


def made_of(name: str, loss: Loss, outputs: Tensor, targets: Any) -> str:
    """How a loss makes its number out of those of single examples: "mean" or "sum".

    Looked at with these examples, with their outputs exchanged and with smaller outputs, all together. RecordError
    where it is neither, as of a loss that compares examples or weighs them by what the others are.
    """
    with torch.no_grad():
        n = outputs.shape[0]
        outputs = torch.cat([outputs, outputs.roll(1, 0), 0.9 * outputs])
        targets = take(targets, torch.arange(3 * n) % n, n)
        whole = loss(outputs, targets)
        few = _ROUNDINGS * torch.finfo(whole.dtype).eps if whole.is_floating_point() else 0.0
        whole, bound = whole.double(), max(_SAME, few)
        alone = each_alone(loss, outputs, targets).double()
    alone = alone[~alone.isnan()]  # of examples that the loss leaves out
    size = alone.abs().mean()
    for made, value in (("mean", alone.mean()), ("sum", alone.sum())):
        if len(alone) and bool((whole - value).abs() <= bound * (size + whole.abs())):
            return made
    raise RecordError(
        f"loss {name!r} gives one number for all examples that is neither the mean nor the sum of what it gives for "
        f"each alone (of {3 * n} examples {float(whole):.4g}, mean {float(alone.mean()):.4g}), as where it compares "
        "examples or weighs them: give it a `reduction` argument, or pass objective=(model, inputs, targets) -> "
        "(outputs, losses) with one loss per example"
    )
