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


def _slice_scatter(
    tensor: Tensor, source: Tensor, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Tensor:
    """A part written into complex numbers, which has no derivative, as what is before, the part, and what is behind."""
    if not tensor.is_complex() or step != 1:
        return NotImplemented
    cut = partial(torch.ops.aten.slice.Tensor, tensor, dim)
    pieces = [cut(0, start or 0), source, *([] if end is None else [cut(end)])]
    joined = torch.cat([piece.to(tensor.dtype) for piece in pieces], dim)
    return joined if joined.shape[dim] == tensor.shape[dim] else NotImplemented


def _select_scatter(tensor: Tensor, source: Tensor, dim: int, index: int) -> Tensor:
    end = None if index == -1 else index + 1
    return _slice_scatter(tensor, source.unsqueeze(dim), dim, index, end)


def _meshgrid(tensors: list[Tensor], *, indexing: str = "ij") -> list[Tensor]:
    """PyTorch's own form cannot be taken apart."""
    if indexing == "xy" and len(tensors) > 1:
        second, first, *rest = _meshgrid([tensors[1], tensors[0], *tensors[2:]])
        return [first, second, *rest]
    sizes = [tensor.numel() for tensor in tensors]
    ones = [1] * len(sizes)
    return [
        tensor.reshape([*ones[:axis], -1, *ones[axis + 1 :]]).expand(sizes)
        for axis, tensor in enumerate(tensors)
    ]


def _grouped_mm(
    rows: Tensor, weights: Tensor, ends: Tensor | None, bias: Any = None, out_dtype: Any = None
) -> Tensor:
    """Rows (row, in) in groups, one after another up to `ends`, each with weights (group, in, out); 0 behind the last.

    Every group's weights are applied to every row: which rows are whose is known only from values.
    """
    if ends is None or (rows.ndim, weights.ndim) != (2, 3) or bias is not None or out_dtype is not None:
        return NotImplemented
    place = torch.arange(rows.shape[0], device=rows.device)
    starts = torch.cat([torch.zeros_like(ends[:1]), ends[:-1]])
    own = (place >= starts[:, None]) & (place < ends[:, None])
    products = torch.matmul(rows[None], weights)
    return torch.where(own[..., None], products, torch.zeros_like(products)).sum(0)


_OWN: dict[str, Callable[..., Any]] = {
    "aten.copy.default": _copy,
    "aten.broadcast_tensors.default": _broadcast_tensors,
    "aten.empty.memory_format": _zeros,
    "aten.new_empty.default": _new_zeros,
    "aten.empty_like.default": _zeros_like,
    "aten.meshgrid.default": _meshgrid,
    "aten.meshgrid.indexing": _meshgrid,
    "aten.slice_scatter.default": _slice_scatter,
    "aten.select_scatter.default": _select_scatter,
    "aten._grouped_mm.default": _grouped_mm,
    "transformers.grouped_mm_fallback.default": _grouped_mm,  # how its experts are run without a graphics card
}
