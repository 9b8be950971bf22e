"""Derivatives of the loss through a network's table, chunk after chunk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from tracer.archive import gradients as factors
from tracer.gradients.leftover import Leftover
from tracer.probe import Probe
from tracer.rerun import part, settled
from tracer.rerun.passes import FillPass
from tracer.rerun.wanted import Wanted

if TYPE_CHECKING:
    from analyze.replay.examples import Examples
    from analyze.replay.state import State

Bounds = Sequence[tuple[int, int]]
Named = dict[str, Tensor]
_LEAST = 1 << 28  # bytes: results themselves are asked for, whatever they take


def gradient(state: State, examples: Examples, chunks: Bounds, masks: Mapping[str, Tensor]) -> Named:
    """Gradient of the mean loss, by parameter; 0 where the loss does not depend on it."""
    return with_losses(state, examples, chunks, masks)[1]


def with_losses(
    state: State, examples: Examples, chunks: Bounds, masks: Mapping[str, Tensor]
) -> tuple[Tensor, Named]:
    """Loss of each example, and the gradient of their mean by parameter, from one pass."""
    total = {name: torch.zeros_like(state.tensors[name]) for name in state.parameters}
    seen = []
    with settled(grad=True):
        for start, stop in chunks:
            live, losses = _losses(state, examples, start, stop, masks)
            seen.append(losses.detach())
            if not losses.requires_grad:
                continue
            gradients = torch.autograd.grad(losses.sum(), list(live.values()), allow_unused=True)
            for name, piece in zip(live, gradients, strict=True):
                if piece is not None:
                    total[name] += piece / max(1, examples.counted.sum())
    return torch.cat(seen), total


def hvp(state: State, vector: Mapping[str, Tensor], examples: Examples, chunks: Bounds) -> Named:
    """Hessian of the mean loss times a vector, by parameter."""
    total = {name: torch.zeros_like(state.tensors[name]) for name in state.parameters}
    # Fused attention cannot be differentiated twice.
    with settled(grad=True), sdpa_kernel(SDPBackend.MATH):
        for start, stop in chunks:
            live, losses = _losses(state, examples, start, stop, {})
            if not losses.requires_grad:
                continue
            first = torch.autograd.grad(
                losses.sum(), list(live.values()), create_graph=True, allow_unused=True
            )
            pairs = zip(live, first, strict=True)
            product = sum((g * vector[name].to(g)).sum() for name, g in pairs if g is not None)
            if not (isinstance(product, Tensor) and product.requires_grad):
                continue
            second = torch.autograd.grad(product, list(live.values()), allow_unused=True)
            for name, piece in zip(live, second, strict=True):
                if piece is not None:
                    total[name] += piece / max(1, examples.counted.sum())
    return total


def per_example(state: State, examples: Examples, chunks: Bounds) -> Named:
    """Gradient of each example's loss, (example, *shape) by parameter."""
    if state.dtype == torch.float64:  # what is stored of gradients is float32
        pieces = [_rows(state, examples, start, stop) for start, stop in chunks]
        return {name: torch.cat([piece[name] for piece in pieces]) for name in state.parameters}
    seen, arrays = _recorded(state, examples, chunks, "exact")
    blocks, values = seen.attributes["probes/_/gradients"]["blocks"], arrays["probes/_/gradients"]["values"]

    def rebuilt(name: str) -> Tensor:
        rows = factors.rebuild(blocks, name, lambda start, stop: values[start:stop])
        return torch.from_numpy(rows).to(state.tensors[name])

    return {name: rebuilt(name) for name in state.parameters}


def gram(state: State, examples: Examples, chunks: Bounds) -> Tensor:
    """Inner products of gradients, float64 (layer, example, example)."""
    _, arrays = _recorded(state, examples, chunks, "gram")
    return torch.from_numpy(arrays["gram"]["gram"])


def _recorded(state: State, examples: Examples, chunks: Bounds, mode: str) -> tuple[FillPass, dict[str, Any]]:
    """The gradients of these examples as a recording takes them."""
    probe = Probe(examples.inputs, examples.targets)
    want = Wanted(probe, {"gradients": examples.n}, chunks=list(chunks))
    memory = max(state.memory, _LEAST)
    seen = FillPass(state.network, {"_": want}, tensors=state.tensors, gradients=mode, memory=memory)
    return seen, seen.run(state.tensors, {"gradients"})


def _rows(state: State, examples: Examples, start: int, stop: int) -> Named:
    size = state.network.batch
    inputs, targets = (part(tree, start, stop, size) for tree in (examples.inputs, examples.targets))
    with settled(grad=True):
        return Leftover(state.network, state.parameters).rows(state.tensors, inputs, targets, stop - start)


def _losses(
    state: State, examples: Examples, start: int, stop: int, masks: Mapping[str, Tensor]
) -> tuple[Named, Tensor]:
    live = {name: state.tensors[name].detach().requires_grad_() for name in state.parameters}
    _, losses = state.run_chunk({**state.tensors, **live}, examples, start, stop, masks, losses=True)
    assert losses is not None
    return live, losses
