"""Three checks of what a table cannot see. Each gives a plain result with one sentence; none raises.

The table holds a forward computation. It cannot show that the backward pass differs from it (custom
`autograd.Function`, tensor hooks), that the model has changed since (an annealed attribute), or that a batch
is more than its examples (BatchNorm without running statistics). Each of these gives wrong numbers and no
error.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tracer.network import Network
from tracer.network.copies import named_tensors, private_copy, quiet
from tracer.network.fixed_masks import by_example
from tracer.network.objective import Objective, call_model, objective_of
from tracer.network.pytree import examples_in, first_tensor, leaves_of, rebuild, take
from tracer.network.table import Row

_EXAMPLES = 8
_RELATIVE = 1e-5
_RELATIVE_GRADIENT = 1e-4
_SEED = 20_190_531


@dataclass(frozen=True)
class Independence:
    """Whether example i's outputs and loss depend on example i alone.

    module: path of the first module that mixes examples or draws random numbers, None if independent.
    wrong_axes: rows whose example axis was disproved; `network` no longer claims it.
    """

    holds: bool
    message: str
    module: str | None = None
    wrong_axes: tuple[str, ...] = ()


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


def independence(
    network: Network, tensors: Mapping[str, Tensor], inputs: Any, targets: Any = None
) -> Independence:
    """Change one example and see whether anything changes for another one.

    Rows whose claimed example axis is disproved, while outputs and losses are independent, lose that claim
    (`Network.forget_axes`).
    """
    try:
        with quiet(grad=False):
            return _independence(network, tensors, inputs, targets)
    except Exception as error:
        return Independence(
            False,
            f"the independence check could not run ({_first_line(error)}): per-example quantities are off",
        )


def _independence(network: Network, tensors: Mapping[str, Tensor], inputs: Any, targets: Any) -> Independence:
    drawn = network.random_rows
    if drawn:
        return _random(drawn[0])
    size = network.batch or 4
    base = _some(inputs, size), _some(targets, size)
    other = _change(base[0], size), _change(base[1], size)
    targets_given = targets is not None
    first: dict[str, Any] = {}
    result = network.run(tensors, base[0], base[1] if targets_given else None, visit=_keep(first))
    again: list[Row] = []
    network.run(
        tensors, base[0], base[1] if targets_given else None, visit=_compare(first, again, None, size)
    )
    if again:
        return _random(again[0])
    mixing: list[Row] = []
    changed = network.run(
        tensors, other[0], other[1] if targets_given else None, visit=_compare(first, mixing, 1, size)
    )
    if all(
        a is None or _same(_others(a, size), _others(b, size)) for a, b in zip(result, changed, strict=True)
    ):
        network.forget_axes([row.name for row in mixing])
        return Independence(
            True,
            "each example's outputs and loss depend on that example alone",
            None,
            tuple(r.name for r in mixing),
        )
    row = mixing[0] if mixing else network.rows[-1]
    return Independence(
        False,
        f"{_who(row)} mixes the examples of a batch ({row.op}): no gradient or path belongs to one example, "
        "so per-example quantities are off",
        row.module,
    )


def _who(row: Row) -> str:
    return f"module {row.module!r}" if row.module else "the loss" if row.loss else "the model's own forward"


def _random(row: Row) -> Independence:
    return Independence(
        False,
        f"{_who(row)} draws random numbers in eval mode ({row.op}): every pass differs, "
        "so per-example quantities are off",
        row.module,
    )


def _some(tree: Any, size: int) -> Any:
    n = examples_in(tree)
    return tree if n == 0 else take(tree, torch.arange(size) % n, n)


def _keep(values: dict[str, Any]) -> Any:
    def visit(row: Row, _: tuple[Any, ...], out: Any) -> None:
        values[row.name] = out

    return visit


def _compare(base: Mapping[str, Any], differing: list[Row], example: int | None, size: int) -> Any:
    """A visitor noting rows where others than `example` differ from `base` (None: where anything does)."""

    def visit(row: Row, _: tuple[Any, ...], out: Any) -> None:
        before = base[row.name]
        if not isinstance(out, Tensor) or not isinstance(before, Tensor):
            return
        if example is not None:
            if row.axis is None:
                return
            before, out = (_others(by_example(value, row, size), size) for value in (before, out))
        if not _same(before, out):
            differing.append(row)

    return visit


def _others(value: Tensor, size: int) -> Tensor:
    """All examples but the changed one (number 1)."""
    return torch.cat([value[:1], value[2:]]) if value.shape[0] == size else value


def _same(a: Tensor, b: Tensor, relative: float = _RELATIVE) -> bool:
    if a.shape != b.shape:
        return False
    if torch.equal(a, b):
        return True
    if not (a.is_floating_point() or a.is_complex()):
        return False
    scale = float(a.detach().abs().nan_to_num(0.0, 0.0).max()) if a.numel() else 0.0
    return torch.allclose(a.to(b.dtype), b, rtol=relative, atol=relative * scale, equal_nan=True)


def _change(tree: Any, size: int) -> Any:
    """The same examples with number 1 changed, within the range of the values given."""
    generator = torch.Generator().manual_seed(_SEED)
    leaves = [
        _changed(leaf.clone(), generator) if leaf.ndim and leaf.shape[0] == size else leaf
        for leaf in leaves_of(tree)
    ]
    return rebuild(tree, iter(leaves))


def _changed(leaf: Tensor, generator: torch.Generator) -> Tensor:
    old = leaf[1].clone()
    order = torch.randperm(old.numel(), generator=generator).to(leaf.device)
    shuffled = old.reshape(-1)[order].reshape(old.shape)
    if leaf.is_floating_point():
        leaf[1] = 0.5 * shuffled + 0.5 * leaf[0]
        if torch.equal(leaf[1], old):
            leaf[1] = old + 0.125
    else:
        different = [row for row in leaf if not torch.equal(row, old)]
        leaf[1] = different[0] if different and torch.equal(shuffled, old) else shuffled
    return leaf


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
        with quiet(grad=True):
            return _closure(network, private_copy(model), inputs, targets, objective_of(loss, objective))
    except Exception as error:
        return Closure(
            False, f"the gradient check could not run ({_first_line(error)}): gradients are off", ()
        )


def _closure(network: Network, model: nn.Module, inputs: Any, targets: Any, goal: Objective) -> Closure:
    if network.random_rows:
        return Closure(False, _random(network.random_rows[0]).message)
    size = network.batch or min(_EXAMPLES, max(2, examples_in(inputs)))
    inputs, targets = _some(inputs, size), _some(targets, size)
    parameters = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
    if not parameters:
        return Closure(True, "no parameter is trainable, so there is no gradient to compare")
    generator = torch.Generator().manual_seed(_SEED)
    weights = torch.randn(size, generator=generator)
    tensors = {**named_tensors(model), **parameters}
    _, through_table = network.run(tensors, inputs, targets)
    _, through_model = goal(model, inputs, targets)
    if through_table is None:
        return Closure(False, "the network was traced without a loss, so it has no gradients")
    ours = _gradients(through_table, weights, parameters)
    theirs = _gradients(through_model, weights, parameters)
    largest = max(float(g.norm()) for g in theirs.values())
    wrong = tuple(name for name in parameters if not _close(ours[name], theirs[name], largest))
    if wrong:
        shown = ", ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        return Closure(
            False,
            f"the model's own backward pass differs from that of its forward computation for {shown} "
            "(a custom autograd.Function, a tensor hook or a no_grad region): gradients are off for this run",
            wrong,
        )
    return Closure(True, "gradients through the table equal the model's own for every parameter")


def _gradients(losses: Tensor, weights: Tensor, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if not losses.requires_grad:
        return {name: torch.zeros_like(tensor) for name, tensor in parameters.items()}
    total = (losses * weights.to(losses)).sum()
    found = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    return {
        name: torch.zeros_like(tensor) if gradient is None else gradient
        for (name, tensor), gradient in zip(parameters.items(), found, strict=True)
    }


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
        with quiet(grad=True):
            return _currency(network, private_copy(model), inputs, targets, loss, objective)
    except Exception as error:
        return Currency(
            False, f"the currency check could not run ({_first_line(error)}): the model must be traced again"
        )


def _currency(
    network: Network, model: nn.Module, inputs: Any, targets: Any, loss: Any, objective: Objective | None
) -> Currency:
    if network.random_rows:
        return Currency(True, "the model draws random numbers in eval mode, so there is nothing to compare")
    size = network.batch or _EXAMPLES
    inputs, targets = _some(inputs, size), _some(targets, size)
    with_losses = network.losses is not None and targets is not None
    ours = network.run(named_tensors(model), inputs, targets if with_losses else None)
    goal = objective_of(loss, objective) if with_losses else None
    theirs = goal(model, inputs, targets) if goal else (call_model(model, inputs), None)
    outputs = first_tensor(theirs[0])
    pairs = [(ours[0], outputs)] + ([(ours[1], theirs[1])] if with_losses else [])
    if all(a is not None and b is not None and _same(a, b) for a, b in pairs):
        return Currency(True, "the table computes what the model computes")
    difference = max((_distance(a, b) for a, b in pairs), default=float("inf"))
    return Currency(
        False,
        f"the model no longer computes what was traced (outputs or losses differ by up to {difference:.3g}; "
        "an attribute read in forward has changed): it must be traced again",
        difference,
    )


def _distance(a: Tensor | None, b: Tensor | None) -> float:
    if a is None or b is None or a.shape != b.shape:
        return float("inf")
    return (
        float((a.detach().double() - b.detach().double()).abs().nan_to_num(0.0).max()) if a.numel() else 0.0
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
