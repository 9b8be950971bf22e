"""Two checks of what a table cannot see. Each gives a plain result with one sentence; none raises.

The table holds a forward computation. It cannot show that the backward pass differs from it (custom
`autograd.Function`, tensor hooks), or that the model has changed since (an annealed attribute). Each of these
gives wrong numbers and no error, and so does a batch that is more than its examples (`tracer.network.independence`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tracer.errors import first_line
from tracer.network.copies import (
    memory_returned,
    named_tensors,
    private_copy,
    quiet,
    unwrap,
    unwrapped_name,
)
from tracer.network.network import Network
from tracer.network.objective import Objective, call_model, objective_of
from tracer.network.pytree import cloned, examples_in, first_tensor, take
from tracer.network.table import Row

_EXAMPLES = 8
_RELATIVE = 1e-5
_RELATIVE_GRADIENT = 1e-4
_SEED = 20_190_531


@dataclass(frozen=True)
class Closure:
    """Whether gradients through the table are the model's own. parameters: names where they are not."""

    holds: bool
    message: str
    parameters: tuple[str, ...] = ()


@dataclass(frozen=True)
class Currency:
    """Whether the table still computes what the model computes; if not, trace again. difference: largest,
    absolute.
    """

    holds: bool
    message: str
    difference: float = 0.0


def whose(row: Row) -> str:
    """How a message names what a row belongs to."""
    return f"module {row.module!r}" if row.module else "the loss" if row.loss else "the model's own forward"


def draws(row: Row) -> str:
    """What to say of a row whose result is drawn anew at each run."""
    return (
        f"{whose(row)} draws random numbers in eval mode ({row.op}): every pass differs, so per-example "
        "quantities are off; draw it outside, and give it to the probe as a further input, through objective="
    )


def some(tree: Any, size: int) -> Any:
    """The first `size` examples, repeated from the start where there are fewer."""
    n = examples_in(tree)
    return tree if n == 0 else take(tree, torch.arange(size) % n, n)


def same(a: Tensor, b: Tensor, relative: float = _RELATIVE) -> bool:
    """Whether two tensors are equal up to rounding, relative to the largest magnitude in the first."""
    if a.shape != b.shape:
        return False
    if torch.equal(a, b):
        return True
    if not (a.is_floating_point() or a.is_complex()):
        return False
    scale = float(a.detach().abs().nan_to_num(0.0, 0.0).max()) if a.numel() else 0.0
    return torch.allclose(a.to(b.dtype), b, rtol=relative, atol=relative * scale, equal_nan=True)


def closure(
    network: Network,
    model: nn.Module,
    inputs: Any,
    targets: Any,
    loss: Any = None,
    *,
    objective: Objective | None = None,
) -> Closure:
    """Compare gradients of a randomly weighted sum of losses, through the table and through a private copy.

    The weights (and signs) keep an error in one example from hiding in the sum.
    """
    try:
        with quiet(model, loss, objective, grad=True):
            return _closure(network, private_copy(model), inputs, targets, objective_of(loss, objective))
    except Exception as error:
        return Closure(
            False, f"the gradient check could not run ({first_line(error)}): gradients are off", ()
        )


def _closure(network: Network, model: nn.Module, inputs: Any, targets: Any, goal: Objective) -> Closure:
    if network.random_rows:
        return Closure(False, draws(network.random_rows[0]))
    size = network.batch or min(_EXAMPLES, max(2, examples_in(inputs)))
    inputs, targets = some(inputs, size), some(targets, size)
    parameters = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
    if not parameters:
        return Closure(True, "no parameter is trainable, so there is no gradient to compare")
    generator = torch.Generator().manual_seed(_SEED)
    weights = torch.randn(size, generator=generator)
    tensors = named_tensors(model) | {name: buffer.clone() for name, buffer in model.named_buffers()}
    with memory_returned():  # before as much is used again
        theirs = _gradients(goal(model, cloned(inputs), cloned(targets)).losses, weights, parameters)
    leaves = {name: parameter.detach().requires_grad_() for name, parameter in parameters.items()}
    _, losses = network.run({**tensors, **leaves}, inputs, targets)
    if losses is None:
        return Closure(False, "the network was traced without a loss, so it has no gradients")
    differing = _differing((losses * weights.to(losses)).sum(), leaves, theirs)
    wrong = tuple(name for name in parameters if name in differing)
    if wrong:
        shown = ", ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        return Closure(
            False,
            f"the model's own backward pass differs from that of its forward computation for {shown} "
            "(a custom autograd.Function, checkpoint(use_reentrant=True), a tensor hook or a no_grad region): "
            "gradients are off for this run",
            wrong,
        )
    return Closure(True, "gradients through the table equal the model's own for every parameter")


def _gradients(losses: Tensor, weights: Tensor, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gradients of a private copy's parameters, by `backward` as in training.

    What only `torch.autograd.grad` is asked for, a function that runs its part of the model again in its own backward
    pass leaves out. Tensors that are no part of the model keep what gradient they have.
    """
    if not losses.requires_grad:
        return {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    total = (losses * weights.to(losses)).sum()
    leaves = [*parameters.values(), *_leaves(total)]
    gradients: list[Tensor | None]
    if any(leaf._backward_hooks or leaf._post_accumulate_grad_hooks for leaf in leaves):
        gradients = list(torch.autograd.grad(total, list(parameters.values()), allow_unused=True))
    else:
        before = [leaf.grad for leaf in leaves]
        for leaf in leaves:
            leaf.grad = None
        total.backward()
        gradients = [parameter.grad for parameter in parameters.values()]
        for leaf, gradient in zip(leaves, before, strict=True):
            leaf.grad = gradient
    return {
        name: torch.zeros_like(parameter) if gradient is None else _dense(gradient)
        for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True)
    }


def reached(losses: Tensor, model: nn.Module) -> list[str]:
    """Names of parameters of `model` that losses, or other tensors with gradients, were computed with."""
    leaves = {id(leaf) for leaf in _leaves(losses)}
    return [unwrapped_name(name) for name, p in unwrap(model).named_parameters() if id(p) in leaves]


def _differing(total: Tensor, leaves: Mapping[str, Tensor], theirs: dict[str, Tensor]) -> set[str]:
    """Names of the leaves whose gradients are not those given, which are let go one by one, as they are compared."""
    largest = max(float(gradient.norm()) for gradient in theirs.values())
    differing = set()

    def compare(name: str, ours: Tensor) -> None:
        if not _close(ours, theirs.pop(name), largest):
            differing.add(name)

    for name, leaf in leaves.items():

        def arrived(leaf: Tensor, name: str = name) -> None:
            assert leaf.grad is not None
            compare(name, _dense(leaf.grad))
            leaf.grad = None

        leaf.register_post_accumulate_grad_hook(arrived)
    if total.requires_grad:
        total.backward()
    for name in list(theirs):
        compare(name, torch.zeros_like(leaves[name]))
    return differing


def _leaves(total: Tensor) -> Iterator[Tensor]:
    """Tensors that a backward pass would give a gradient to."""
    waiting, seen = [total.grad_fn], set[Any]()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [other for other, _ in node.next_functions]
            if isinstance(leaf := getattr(node, "variable", None), Tensor):
                yield leaf


def _dense(gradient: Tensor) -> Tensor:
    return gradient.to_dense() if gradient.is_sparse else gradient


def _close(ours: Tensor, theirs: Tensor, largest: float) -> bool:
    if not bool(torch.isfinite(theirs).all()):
        return torch.equal(torch.isfinite(ours), torch.isfinite(theirs))
    allowed = _RELATIVE_GRADIENT * float(theirs.norm()) + 1e-7 * largest
    return float((ours - theirs).norm()) <= allowed


def currency(
    network: Network,
    model: nn.Module,
    inputs: Any,
    targets: Any = None,
    loss: Any = None,
    *,
    objective: Objective | None = None,
) -> Currency:
    """Run eight examples through a private copy of the model as it is now, and through the table on the same
    weights.
    """
    try:
        # With gradients on, as in training: a model may register hooks on its activations.
        with quiet(model, loss, objective, grad=True):
            return _currency(network, private_copy(model), inputs, targets, loss, objective)
    except Exception as error:
        return Currency(
            False, f"the currency check could not run ({first_line(error)}): the model must be traced again"
        )


def _currency(
    network: Network, model: nn.Module, inputs: Any, targets: Any, loss: Any, objective: Objective | None
) -> Currency:
    if network.random_rows:
        return Currency(True, "the model draws random numbers in eval mode, so there is nothing to compare")
    size = network.batch or min(_EXAMPLES, max(2, examples_in(inputs)))
    inputs, targets = some(inputs, size), some(targets, size)
    with_losses = network.losses is not None and targets is not None
    ours = network.run(named_tensors(model), inputs, targets if with_losses else None)
    goal = objective_of(loss, objective) if with_losses or objective is not None else None
    theirs = goal(model, inputs, targets) if goal else (call_model(model, inputs), None, None)
    outputs = first_tensor(theirs[0])
    pairs = [(ours[0], outputs)] + ([(ours[1], theirs[1])] if with_losses else [])
    if all(a is not None and b is not None and same(a, b) for a, b in pairs):
        return Currency(True, "the table computes what the model computes")
    difference = max((_distance(a, b) for a, b in pairs), default=float("inf"))
    return Currency(
        False,
        f"the model no longer computes what was traced (outputs or losses differ by up to {difference:.3g}; "
        "something that it or its objective reads has changed): it must be traced again",
        difference,
    )


def _distance(a: Tensor | None, b: Tensor | None) -> float:
    if a is None or b is None or a.shape != b.shape:
        return float("inf")
    return (
        float((a.detach().double() - b.detach().double()).abs().nan_to_num(0.0).max()) if a.numel() else 0.0
    )
