"""Full float32 where a user's training multiplies in less."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

_REDUCED = ("tf32", "bf16")
_SETTINGS = {"cuda": ("matmul",), "cudnn": ("conv", "rnn"), "mkldnn": ("matmul", "conv", "rnn")}
_KINDS: list[Any] = [
    getattr(getattr(torch.backends, library), operation)
    for library, operations in _SETTINGS.items()
    for operation in operations
]


def full_precision() -> AbstractContextManager[Any]:
    """Float32 products and convolutions in float32, whatever `torch.set_float32_matmul_precision` says.

    Angles between gradients would miss by 1e-3 otherwise, and a replay elsewhere would not agree with what
    was recorded.
    """
    reduced = [(kind, now) for kind in _KINDS if (now := kind.fp32_precision) in _REDUCED]
    return _raised(reduced) if reduced else nullcontext()


@contextmanager
def _raised(reduced: list[tuple[Any, str]]) -> Iterator[None]:
    for kind, _ in reduced:
        kind.fp32_precision = "ieee"
    try:
        yield
    finally:
        for kind, before in reduced:
            kind.fp32_precision = before
