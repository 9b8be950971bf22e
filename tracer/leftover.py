"""Per-example gradients of the parameters that no rule covers: all examples at once, or one after another."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tracer.network import Network
from tracer.trees import leaves_of, rebuild


class Leftover:
    """Gradients of some parameters of a network by `torch.func.vmap(grad)`, or where that has no rule (lstm) by a loop.

    `way` says which: "vmap" or "loop". It is found out at the first call.
    """

    def __init__(self, network: Network, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.way = "vmap" if network.batch is None else "loop"
        self._network = network

    def rows(self, tensors: Mapping[str, Tensor], inputs: Any, targets: Any, n: int) -> dict[str, Tensor]:
        """The gradients of the first n examples: (n, *shape) by name."""
        own = {name: tensors[name].detach() for name in self.names}
        fixed = {name: tensor.detach() for name, tensor in tensors.items()}
        if self.way == "vmap":
            try:
                return self._at_once(own, fixed, inputs, targets, n)
            except (RuntimeError, NotImplementedError, ValueError):
                self.way = "loop"
        return self._one_by_one(own, fixed, inputs, targets, n)

    def _at_once(
        self, own: dict[str, Tensor], fixed: dict[str, Tensor], inputs: Any, targets: Any, n: int
    ) -> dict[str, Tensor]:
        network = self._network
        leaves, dims = [], []
        for given, declared in ((inputs, network.inputs), (targets, network.targets)):
            for leaf, entry in zip(leaves_of(given), declared, strict=True):
                leaves.append(leaf[:n] if entry["batched"] else leaf)
                dims.append(0 if entry["batched"] else None)

        def loss(parameters: dict[str, Tensor], *example: Tensor) -> Tensor:
            single = iter([x if dim is None else x[None] for x, dim in zip(example, dims, strict=True)])
            given, wanted = rebuild(inputs, single), rebuild(targets, single)
            return network.run({**fixed, **parameters}, given, wanted)[1].sum()  # type: ignore[union-attr]

        each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, *dims))
        return each(own, *leaves)

    def _one_by_one(
        self, own: dict[str, Tensor], fixed: dict[str, Tensor], inputs: Any, targets: Any, n: int
    ) -> dict[str, Tensor]:
        out = {name: tensor.new_zeros(n, *tensor.shape) for name, tensor in own.items()}
        with torch.enable_grad():
            parameters = {name: tensor.requires_grad_() for name, tensor in own.items()}
            for i in range(n):
                whole = self._network.batch is not None and i > 0
                if not whole:
                    given, wanted = (inputs, targets) if self._network.batch else self._example(inputs, targets, i)
                    losses = self._network.run({**fixed, **parameters}, given, wanted)[1]
                loss = losses[i if self._network.batch else 0]  # type: ignore[index]
                found = torch.autograd.grad(
                    loss, list(parameters.values()), retain_graph=self._network.batch is not None, allow_unused=True
                )
                for name, gradient in zip(parameters, found, strict=True):
                    if gradient is not None:
                        out[name][i] = gradient
        return out

    def _example(self, inputs: Any, targets: Any, i: int) -> tuple[Any, Any]:
        trees = []
        for given, declared in ((inputs, self._network.inputs), (targets, self._network.targets)):
            pairs = zip(leaves_of(given), declared, strict=True)
            trees.append(rebuild(given, iter([x[i : i + 1] if entry["batched"] else x for x, entry in pairs])))
        return trees[0], trees[1]
