"""Full float32 where a user's training multiplies in less."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

_REDUCED = ("tf32", "bf16")
_SETTINGS = {"cuda": ("matmul",), "cudnn": ("conv", "rnn"), "mkldnn": ("matmul", "conv", "rnn")}
_KINDS: list[Any] = [  # none before PyTorch 2.9, which has the older settings alone
    kind
    for library, operations in _SETTINGS.items()
    for operation in operations
    if hasattr(kind := getattr(getattr(torch.backends, library), operation, None), "fp32_precision")
]


def full_precision() -> AbstractContextManager[Any]:
    """Float32 products and convolutions in float32, whatever `torch.set_float32_matmul_precision` says.

    Angles between gradients would miss by 1e-3 otherwise, and a replay elsewhere would not agree with what
    was recorded.
    """
    reduced = [(kind, now) for kind in _KINDS if (now := kind.fp32_precision) in _REDUCED]
    return _raised(reduced) if reduced or not _KINDS else nullcontext()


@contextmanager
def _raised(reduced: list[tuple[Any, str]]) -> Iterator[None]:
    # The older settings say the same thing once more, and PyTorch refuses to read them where the two differ.
    convolutions, products = _older(_convolutions), _older(torch.get_float32_matmul_precision)
    if convolutions:
        _set_convolutions(False)
    if products not in (None, "highest"):
        torch.set_float32_matmul_precision("highest")
    for kind, _ in reduced:
        kind.fp32_precision = "ieee"
    try:
        yield
    finally:
        if convolutions:
            _set_convolutions(True)
        if products not in (None, "highest"):
            torch.set_float32_matmul_precision(products)
        for kind, before in reduced:
            kind.fp32_precision = before


def _convolutions() -> bool:
    return torch.backends.cudnn.allow_tf32


def _set_convolutions(allowed: bool) -> None:
    torch.backends.cudnn.allow_tf32 = allowed


def _older(read: Callable[[], Any]) -> Any:
    """An older setting; None where the user has set a newer one to something else."""
    try:
        return read()
    except RuntimeError:
        return None
