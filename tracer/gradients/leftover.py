"""Per-example gradients of the parameters that no rule covers: all examples at once, or one after another."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from tracer.errors import ArgumentError
from tracer.network import Network
from tracer.network.pytree import leaves_of, rebuild
from tracer.network.torch_internals import without_fallback
from tracer.ops import op

_REFUSALS = (RuntimeError, NotImplementedError, ValueError, IndexError)


class Leftover:
    """Gradients of some parameters by `torch.func.vmap(grad)`, or where that has no rule (lstm) by a loop.

    The loop is over examples that go through alone, or where a network does not take a single one, over the losses
    of all of them. `way` says which: "vmap" or "loop". What a network does not take is found out at the first call.
    """

    def __init__(self, network: Network, names: Sequence[str]) -> None:
        self.names = tuple(names)
        alone = any(not op(row.op).vmap for row in network.rows)
        self.way = "loop" if alone or network.batch is not None else "vmap"
        self._together = network.batch is not None
        self._network = network

    def rows(self, tensors: Mapping[str, Tensor], inputs: Any, targets: Any, n: int) -> dict[str, Tensor]:
        """The gradients of the first n examples: (n, *shape) by name."""
        own = {name: tensors[name].detach() for name in self.names}
        fixed = {name: tensor.detach() for name, tensor in tensors.items()}
        if self.way == "vmap":
            try:
                return self._at_once(own, fixed, inputs, targets, n)
            except _REFUSALS:
                self.way = "loop"
        if not self._together:
            try:
                return self._one_by_one(own, fixed, inputs, targets, n)
            except _REFUSALS:
                self._together = True
        return self._of_one_batch(own, fixed, inputs, targets, n)

    def _at_once(
        self, own: dict[str, Tensor], fixed: dict[str, Tensor], inputs: Any, targets: Any, n: int
    ) -> dict[str, Tensor]:
        network = self._network
        leaves, dims = [], []
        for tree, declared in ((inputs, network.inputs), (targets, network.targets)):
            for leaf, entry in zip(leaves_of(tree), declared, strict=True):
                leaves.append(leaf[:n] if entry["batched"] else leaf)
                dims.append(0 if entry["batched"] else None)

        def loss(parameters: dict[str, Tensor], *example: Tensor) -> Tensor:
            single = iter([x if dim is None else x[None] for x, dim in zip(example, dims, strict=True)])
            tree, wanted = rebuild(inputs, single), rebuild(targets, single)
            return _single(network.run({**fixed, **parameters}, tree, wanted)[1])

        each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, *dims))
        with sdpa_kernel(SDPBackend.MATH), without_fallback():  # fused attention knows no vmap
            return each(own, *leaves)

    def _one_by_one(
        self, own: dict[str, Tensor], fixed: dict[str, Tensor], inputs: Any, targets: Any, n: int
    ) -> dict[str, Tensor]:
        out = _zeros(own, n)
        with torch.enable_grad():
            parameters = {name: tensor.requires_grad_() for name, tensor in own.items()}
            for i in range(n):
                example, wanted = self._example(inputs, targets, i)
                loss = _single(self._network.run({**fixed, **parameters}, example, wanted)[1])
                _note(out, i, parameters, loss, keep=False)
        return out

    def _of_one_batch(
        self, own: dict[str, Tensor], fixed: dict[str, Tensor], inputs: Any, targets: Any, n: int
    ) -> dict[str, Tensor]:
        """For a network that does not take examples alone: one forward pass, a backward pass an example."""
        out = _zeros(own, n)
        with torch.enable_grad():
            parameters = {name: tensor.requires_grad_() for name, tensor in own.items()}
            losses = self._network.run({**fixed, **parameters}, inputs, targets)[1]
            for i in range(n):
                _note(out, i, parameters, losses[i], keep=True)  # type: ignore[index]
        return out

    def _example(self, inputs: Any, targets: Any, i: int) -> tuple[Any, Any]:
        trees = []
        for tree, declared in ((inputs, self._network.inputs), (targets, self._network.targets)):
            pairs = zip(leaves_of(tree), declared, strict=True)
            leaves = [x[i : i + 1] if entry["batched"] else x for x, entry in pairs]
            trees.append(rebuild(tree, iter(leaves)))
        return trees[0], trees[1]


def _single(losses: Tensor | None) -> Tensor:
    """The loss of an example alone; ArgumentError where a squeeze() made something else of it."""
    if losses is None or losses.shape != (1,):
        raise ArgumentError("a single example does not have one loss")
    return losses[0]


def _zeros(own: Mapping[str, Tensor], n: int) -> dict[str, Tensor]:
    return {name: tensor.new_zeros(n, *tensor.shape) for name, tensor in own.items()}


def _note(out: dict[str, Tensor], i: int, parameters: dict[str, Tensor], loss: Tensor, keep: bool) -> None:
    gradients = torch.autograd.grad(loss, list(parameters.values()), retain_graph=keep, allow_unused=True)
    for name, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            out[name][i] = gradient
