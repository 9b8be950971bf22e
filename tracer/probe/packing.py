"""Masks packed where they are made: by NumPy on a processor, by torch on an accelerator."""

import numpy as np
import torch
from torch import Tensor

from tracer import bits
from tracer.network.copies import lent


def pack_on(pre: Tensor, start: int = 0) -> Tensor:
    """Bits of `pre > 0`, unit-major (`tracer.bits`): pre (example, unit) -> uint8 (unit, byte), on pre's
    device.

    `start`: number of the first example; bits before it in its byte are 0, so that neighbours can be ORed
    together.
    """
    if pre.device.type == "cpu":
        pre = pre.float() if pre.dtype == torch.bfloat16 else pre  # which NumPy lacks
        return torch.from_numpy(_pack_numpy(lent(pre), start % 8))
    return _pack_torch(pre > 0, start % 8)


def _pack_numpy(pre: np.ndarray, before: int) -> np.ndarray:
    on = np.empty((before + len(pre), pre.shape[1]), bool)
    on[:before] = False
    np.greater(pre, 0, out=on[before:])
    return bits.pack(on)


def _pack_torch(on: Tensor, before: int) -> Tensor:
    n, units = on.shape
    after = -(before + n) % 8
    padded = torch.cat([on.new_zeros(before, units), on, on.new_zeros(after, units)]).view(torch.uint8)
    # Made where it is used: a list copied to the device would wait for it.
    weights = torch.bitwise_right_shift(128, torch.arange(8, device=on.device))[:, None].to(torch.uint8)
    return (padded.view(-1, 8, units) * weights).sum(1, dtype=torch.uint8).T.contiguous()
