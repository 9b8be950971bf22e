"""Full float32 where a user's training multiplies in less."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_REDUCED = ("tf32", "bf16")
_SETTINGS = {"cuda": ("matmul",), "cudnn": ("conv", "rnn"), "mkldnn": ("matmul", "conv", "rnn")}


@contextmanager
def full_precision() -> Iterator[None]:
    """Float32 products and convolutions in float32, whatever `torch.set_float32_matmul_precision` says.

    Angles between gradients would miss by 1e-3 otherwise, and a replay elsewhere would not agree with what
    was recorded.
    """
    kinds: list[Any] = [
        getattr(getattr(torch.backends, library), operation)
        for library, operations in _SETTINGS.items()
        for operation in operations
    ]
    reduced = [(kind, kind.fp32_precision) for kind in kinds if kind.fp32_precision in _REDUCED]
    for kind, _ in reduced:
        kind.fp32_precision = "ieee"
    try:
        yield
    finally:
        for kind, before in reduced:
            kind.fp32_precision = before
