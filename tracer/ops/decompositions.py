"""What an operation without a record is made of, for tracing: one step, of which several may be needed."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tracer.ops import OPS, alias

Decompositions = dict[Any, Callable[..., Any]]

# PyTorch's own forms in Python of these take the reduction as a word, and misread the number that a program has.
MISREAD = ("aten.nll_loss.default", "aten.margin_ranking_loss.default", "aten.hinge_embedding_loss.default")

COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd

# Composite operations that never give a part of what they take, though PyTorch's own list leaves that open.
NEW = ("aten.batch_norm.default",)


def decompositions(targets: Iterable[Any]) -> Decompositions:
    """For each of these overloads that has no record: how PyTorch writes it in others, where it does."""
    from torch._decomp import decomposition_table

    table: Decompositions = {}
    for target in targets:
        own = str(target) in _OWN
        if not isinstance(target, torch._ops.OpOverload) or (alias(str(target)) in OPS and not own):
            continue
        if own:
            table[target] = _OWN[str(target)]
        elif target in decomposition_table and str(target) not in MISREAD:
            table[target] = decomposition_table[target]
        elif torch._C._dispatch_has_kernel_for_dispatch_key(target.name(), COMPOSITE):
            # Its own `decompose` looks this table up first.
            table[target] = partial(target._op_dk, COMPOSITE)
    return table


def is_primitive(target: Any) -> bool:
    """Whether a step of PyTorch's ended in one of its own primitives, which no table holds."""
    return str(target).startswith("prims.")


def _broadcast_tensors(tensors: list[Tensor]) -> list[Tensor]:
    """Where sizes are equal nothing is left of it."""
    size = torch.broadcast_shapes(*[tensor.shape for tensor in tensors])
    return [tensor if tensor.shape == size else tensor.expand(size) for tensor in tensors]


def _zeros(size: Any, *, dtype: Any = None, layout: Any = None, device: Any = None, **_: Any) -> Tensor:
    """Memory that is written before it is read may as well be zero, and then no run differs from another."""
    return torch.zeros(size, dtype=dtype, layout=layout, device=device)


def _new_zeros(tensor: Tensor, size: Any, *, dtype: Any = None, device: Any = None, **_: Any) -> Tensor:
    return tensor.new_zeros(size, dtype=dtype, device=device)


def _zeros_like(tensor: Tensor, *, dtype: Any = None, device: Any = None, **_: Any) -> Tensor:
    return torch.zeros_like(tensor, dtype=dtype, device=device)


def _copy(tensor: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    """What is written into a part of a tensor, in its size: copying has no derivative where it has no place."""
    source = source.to(tensor.dtype)
    return source if source.shape == tensor.shape else source.expand(tensor.shape)


_OWN: dict[str, Callable[..., Any]] = {
    "aten.copy.default": _copy,
    "aten.broadcast_tensors.default": _broadcast_tensors,
    "aten.empty.memory_format": _zeros,
    "aten.new_empty.default": _new_zeros,
    "aten.empty_like.default": _zeros_like,
}
