"""What a model's passes take, from its sizes alone: a run on tensors without values, before anything is traced."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tracer.network.copies import private_copy, quiet
from tracer.network.cost import work_of
from tracer.network.objective import Objective, call_model, objective_of
from tracer.network.pytree import first_tensor, leaves_of, rebuild
from tracer.network.torch_internals import fake_tensors, hushed
from tracer.ops import op

_EXAMPLES = 2


@dataclass
class Estimate:
    """Of one example, nearly: a table has a few rows more or less.

    nbytes: of all results that are no views. work, calls: operations of the forward pass, and how many were called.
    outputs: shape of the output. units, masked: of all nonlinearities, and of those that have a mask. sites: how
    many. held: numbers in the gradients of each module that owns parameters, as rows or as factors, by path.
    """

    nbytes: int = 0
    work: int = 0
    calls: int = 0
    outputs: tuple[int, ...] = ()
    units: int = 0
    masked: int = 0
    sites: int = 0
    held: dict[str, int] = field(default_factory=dict)


def estimate(
    model: nn.Module, inputs: Any, targets: Any, *, loss: Any = None, objective: Objective | None = None
) -> Estimate | None:
    """The estimate of a model; None where it does not run on tensors without values. The model is only read."""
    sizes = Estimate()
    real = [_first(tree) for tree in (inputs, targets)]
    try:
        with quiet(model, loss, objective, grad=False), hushed(), fake_tensors() as fake:
            replica = private_copy(model)
            few = [rebuild(tree, iter(map(fake.from_tensor, leaves_of(tree)))) for tree in real]
            for name, module in replica.named_modules():
                if any(p.requires_grad for p in module.parameters(recurse=False)):
                    module.register_forward_hook(_holding(sizes.held, name))
            with _Watch(sizes):
                if loss is None and objective is None:
                    outputs = call_model(replica, few[0])
                else:
                    outputs = objective_of(loss, objective)(replica, *few).outputs
            sizes.outputs = tuple(first_tensor(outputs).shape[1:])  # type: ignore[union-attr]
    except Exception:  # whatever the model asks of values that are not there
        return None
    return sizes


def _first(tree: Any) -> Any:
    return rebuild(tree, iter([leaf[:_EXAMPLES] for leaf in leaves_of(tree)]))


def _holding(held: dict[str, int], name: str) -> Any:
    def hook(module: nn.Module, inputs: tuple[Any, ...], out: Any) -> None:
        rows = sum(p.numel() for p in module.parameters(recurse=False) if p.requires_grad)
        tensors = [first_tensor(tree) for tree in (list(inputs), out)]
        factors = sum(tensor.numel() for tensor in tensors if tensor is not None) // _EXAMPLES
        held[name] = held.get(name, 0) + min(rows, factors or rows)

    return hook


class _Watch(TorchDispatchMode):
    """Adds up what runs under it."""

    def __init__(self, sizes: Estimate) -> None:
        super().__init__()
        self._sizes = sizes

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        alias = func._schema.returns[0].alias_info if func._schema.returns else None
        if alias is not None and not alias.is_write:  # a view
            return out
        sizes, results = self._sizes, _tensors(out)
        sizes.calls += 1
        if alias is None:  # else it is written in place
            sizes.nbytes += sum(result.numel() * result.element_size() for result in results) // _EXAMPLES
        sizes.work += work_of(func, args, out, _tensors([args, kwargs]), results) // _EXAMPLES
        activation = op(str(func).replace("_.", ".")).activation
        if activation is not None and results:
            units = prod(results[0].shape[1:])
            sizes.sites += 1
            sizes.units += units
            sizes.masked += units if activation.mask else 0
        return out


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]
