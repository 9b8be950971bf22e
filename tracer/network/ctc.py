"""Connectionist temporal classification in operations that a table holds: PyTorch's own kernel reads lengths."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_LONGEST = 256  # steps in time: each is ten rows
_NEVER = -1e30  # logarithm of the probability of what cannot be; infinities would give slopes that are none


def ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Any,
    target_lengths: Any,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Tensor:
    """The loss of (time, example, class) and (example, letter), as `torch.nn.functional.ctc_loss` defines it.

    What is in another form, or longer, goes to PyTorch's own. Source: Graves et al. 2006, the forward variables of
    section 4.1, in logarithms.
    """
    tensors = isinstance(input_lengths, Tensor) and isinstance(target_lengths, Tensor)
    if not tensors or log_probs.ndim != 3 or targets.ndim != 2 or log_probs.shape[0] > _LONGEST:
        return F.ctc_loss(log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity)
    blanks = torch.full_like(targets, blank)
    states = torch.cat([torch.stack([blanks, targets], 2).flatten(1), blanks[:, :1]], 1)
    may_jump = torch.cat(
        [states[:, :2] != states[:, :2], (states[:, 2:] != blank) & (states[:, 2:] != states[:, :-2])], 1
    )
    order = torch.arange(2 * targets.shape[1] + 1, device=targets.device)
    never = torch.full_like(log_probs[0, :, :1], _NEVER)
    seen = [step.gather(1, states) for step in log_probs.unbind(0)]
    alpha = torch.where(order < 2, seen[0], _NEVER)
    for time in range(1, len(seen)):
        after = torch.cat([never, alpha[:, :-1]], 1)
        jumped = torch.where(may_jump, torch.cat([never, never, alpha[:, :-2]], 1), _NEVER)
        moved = torch.stack([alpha, after, jumped], 0).logsumexp(0) + seen[time]
        alpha = torch.where((input_lengths > time)[:, None], moved, alpha)
    ends = 2 * target_lengths[:, None].to(torch.int64)
    last = torch.where((order == ends) | (order == ends - 1), alpha, _NEVER)
    losses = -last.logsumexp(1)
    impossible = losses > -0.1 * _NEVER
    losses = torch.where(impossible, 0.0 if zero_infinity else float("inf"), losses)
    if reduction == "mean":
        return (losses / target_lengths.clamp(min=1)).mean()
    return losses if reduction == "none" else losses.sum()
