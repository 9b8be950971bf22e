"""What an operation without a record is made of, for tracing: one step, of which several may be needed."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tracer.ops import OPS, alias

Decompositions = dict[Any, Callable[..., Any]]

_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd


def decompositions(targets: Iterable[Any]) -> Decompositions:
    """For each of these overloads that has no record: how PyTorch writes it in others, where it does."""
    from torch._decomp import decomposition_table

    table: Decompositions = {}
    for target in targets:
        if not isinstance(target, torch._ops.OpOverload) or alias(str(target)) in OPS:
            continue
        if str(target) in _OWN:
            table[target] = _OWN[str(target)]
        elif target in decomposition_table:
            table[target] = decomposition_table[target]
        elif torch._C._dispatch_has_kernel_for_dispatch_key(target.name(), _COMPOSITE):
            # Its own `decompose` looks this table up first.
            table[target] = partial(target._op_dk, _COMPOSITE)
    return table


def is_primitive(target: Any) -> bool:
    """Whether a step of PyTorch's ended in one of its own primitives, which no table holds."""
    return str(target).startswith("prims.")


def _broadcast_tensors(tensors: list[Tensor]) -> list[Tensor]:
    """Where sizes are equal nothing is left of it."""
    size = torch.broadcast_shapes(*[tensor.shape for tensor in tensors])
    return [tensor if tensor.shape == size else tensor.expand(size) for tensor in tensors]


_OWN: dict[str, Callable[..., Any]] = {"aten.broadcast_tensors.default": _broadcast_tensors}
