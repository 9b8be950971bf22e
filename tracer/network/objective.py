"""From a loss function to one number per example."""

import copy
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tracer.errors import MissingTraceError, RecordError
from tracer.network.averaged import each_alone, made_of
from tracer.network.copies import private_copy
from tracer.network.pytree import first_tensor, whole
from tracer.spec.correctness import Correctness

Objective = Callable[[nn.Module, Any, Any], Any]


class Scored(NamedTuple):
    """What an objective returns: outputs, losses (n,), and where it says so, the share of each example's answers
    that is correct, (n,) in [0, 1].
    """

    outputs: Any
    losses: Tensor
    correct: Tensor | None = None


class Losses:
    """A function (outputs, targets) -> losses (n,), as `per_example` makes it."""

    def __init__(self, loss: Callable[..., Any]) -> None:
        self._loss, self._name = loss, loss_name(loss)
        self._own, self._ignore_index = unreduced(loss)
        # How one number for all examples is made of what it gives for each, once that is known.
        self._made = ""

    def __call__(self, outputs: Any, targets: Any) -> Tensor:
        """The losses."""
        values = self._own(outputs, targets)
        n = _n_examples(outputs)
        if isinstance(values, Tensor) and values.ndim == 0 and isinstance(outputs, Tensor):
            if not self._made and not torch.compiler.is_compiling():
                self._made = made_of(self._name, self._own, outputs, targets)
            return each_alone(self._own, outputs, targets)
        if not isinstance(values, Tensor) or values.ndim == 0 or values.shape[0] != n:
            shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise RecordError(
                f"loss {self._name!r} must give one value per example: expected shape ({int(n)},), got {shape}; "
                "give it a `reduction` argument, "
                "or pass objective=(model, inputs, targets) -> (outputs, losses)"
            )
        return _over_examples(values, targets, self._ignore_index)

    def told(self, outputs: Any, targets: Any) -> list[str]:
        """What to say of a loss that adds numbers up which are taken apart here; after a call."""
        if self._made:
            return [
                f"Loss {self._name!r} gives one number for all examples, the {self._made} of what it gives for each "
                "alone, which is what is recorded."
            ]
        keywords = self._loss.keywords if isinstance(self._loss, functools.partial) else {}
        reduction = getattr(self._loss, "reduction", keywords.get("reduction"))
        if reduction not in ("sum", "batchmean"):
            return []
        values = self._own(outputs, targets)
        if values.ndim == 1:
            return []
        return [
            f"The loss adds up {values[0].numel()} numbers of an example (reduction={reduction!r}), and their mean is "
            "recorded: losses of examples and their gradients are smaller by that number; an objective= that adds them "
            "up records the sum."
        ]


def per_example(loss: Callable[..., Any]) -> Losses:
    """A function (outputs, targets) -> losses (n,) from a loss that may average over examples itself.

    A loss with a `reduction` argument or attribute is called with "none" (a copy of a module; the user's own
    is not touched, and is copied here and now); what remains of an example's axes is averaged, ignored tokens
    (`ignore_index`) left out. Class weights multiply and are not divided out again, so the mean over examples
    is not the weighted mean that PyTorch prints. Any other loss returns shape (n,), or one number that is the mean or
    the sum of what it gives for each example alone, which then are taken. RecordError where the result is neither;
    of one number that is found out when there are values, not in a trace.

    >>> import torch
    >>> losses = per_example(nn.CrossEntropyLoss())(torch.zeros(3, 4), torch.tensor([0, 1, 2]))
    >>> [round(value, 4) for value in losses.tolist()]
    [1.3863, 1.3863, 1.3863]
    """
    if not callable(loss):
        raise RecordError(
            f"loss must be a function or module of (outputs, targets), got {type(loss).__name__}"
        )
    return Losses(loss)


def objective_of(loss: Any, objective: Objective | None) -> Callable[[nn.Module, Any, Any], Scored]:
    """The function (model, inputs, targets) -> Scored that a loss or an objective stands for."""
    if objective is not None:
        if loss is not None:
            raise RecordError("give either loss or objective, not both")
        return lambda model, inputs, targets: scored(objective(model, whole(inputs), targets))
    losses = per_example(loss)

    def standard(model: nn.Module, inputs: Any, targets: Any) -> Scored:
        outputs = call_model(model, inputs)
        return Scored(outputs, losses(outputs, targets))

    return standard


def scored(returned: Any) -> Scored:
    """What an objective returned: (outputs, losses), or a mapping or named tuple of `outputs`, `losses`, and
    `correct` or `targets`.

    correct: one number in [0, 1] for each example, or several truth values for each. targets: aligned with the
    outputs, class numbers of which negative ones do not count (or 0 and 1, one for each output). RecordError
    where it is none of these.
    """
    if hasattr(returned, "_asdict"):
        returned = returned._asdict()
    if not isinstance(returned, Mapping):
        if not isinstance(returned, tuple | list) or len(returned) != 2:
            shown = (
                f"{len(returned)} values" if isinstance(returned, tuple | list) else type(returned).__name__
            )
            raise RecordError(
                f"the objective returns {shown}, expected (outputs, losses), or a mapping of outputs, losses and "
                "correct or targets"
            )
        return Scored(*returned)
    missing = [name for name in ("outputs", "losses") if name not in returned]
    if missing:
        raise RecordError(
            f"the objective returns {sorted(map(str, returned))} without {missing[0]!r}: return outputs, losses, and "
            "correct or targets"
        )
    outputs, losses = returned["outputs"], returned["losses"]
    correct, targets = returned.get("correct"), returned.get("targets")
    if correct is not None:
        return Scored(outputs, losses, _share(correct))
    return Scored(outputs, losses, None if targets is None else _aligned(outputs, targets))


def said_targets(returned: Any) -> Tensor | None:
    """The targets that an objective returned in line with its outputs, None where it returned none."""
    fields = returned._asdict() if hasattr(returned, "_asdict") else returned
    targets = fields.get("targets") if isinstance(fields, Mapping) and fields.get("correct") is None else None
    return targets if isinstance(targets, Tensor) else None


def _share(correct: Any) -> Tensor:
    if not isinstance(correct, Tensor) or correct.ndim == 0:
        raise RecordError(
            f"the objective's correct is a {type(correct).__name__}, expected a tensor of one number in [0, 1] for "
            "each example"
        )
    values = correct.to(torch.float32)
    return values if values.ndim == 1 else values.flatten(1).mean(1)


def _aligned(outputs: Any, targets: Any) -> Tensor:
    scores = first_tensor(outputs)
    if scores is None or not isinstance(targets, Tensor):
        raise RecordError(
            "the objective's outputs and targets are not one tensor each: return correct instead"
        )
    rule = aligned_rule(scores, targets)
    try:
        right, counts, undefined = rule.verdicts(scores, targets)
    except MissingTraceError as error:
        raise RecordError(f"the objective's targets are not aligned with its outputs: {error}") from None
    right, undefined = (right & counts).to(torch.float32), (undefined & counts).any(1)
    share = right.sum(1) / counts.sum(1)
    return torch.where(undefined, torch.full_like(share, float("nan")), share)


def aligned_rule(outputs: Tensor, targets: Tensor) -> Correctness:
    """What outputs say of targets that are aligned with them: classes along one axis, or a yes or no each."""
    if targets.shape == outputs.shape or (outputs.ndim == 2 and outputs.shape[1] == 1 and targets.ndim == 1):
        return Correctness("binary")
    shape = tuple(outputs.shape)
    for axis in dict.fromkeys((outputs.ndim - 1, 1)):
        if axis and shape[:axis] + shape[axis + 1 :] == tuple(targets.shape):
            return Correctness("class", axis)
    return Correctness(
        "none", reason=f"outputs of shape {shape} do not fit targets of shape {tuple(targets.shape)}"
    )


def call_model(model: nn.Module, inputs: Any) -> Any:
    """The model on a tensor, a tuple of positional or a dict of keyword arguments."""
    inputs = whole(inputs)
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple | list) else model(inputs)


def unreduced(loss: Callable[..., Any]) -> tuple[Callable[..., Any], int | None]:
    """The loss without its reduction, and the target value it ignores (None: it has no such notion)."""
    ignored = getattr(loss, "ignore_index", None)
    reducible = hasattr(loss, "reduction")
    if isinstance(loss, nn.Module):
        loss = private_copy(loss)
    if reducible:
        replica = copy.copy(loss)
        replica.reduction = "none"  # type: ignore[attr-defined]
        return replica, ignored
    parameters = _parameters(loss)
    if "reduction" in parameters:
        ignore = parameters.get("ignore_index")
        default = ignore.default if ignore is not None else None
        index = loss.keywords.get("ignore_index", default) if isinstance(loss, functools.partial) else default
        return functools.partial(loss, reduction="none"), index
    return loss, None


def is_reducible(loss: Callable[..., Any]) -> bool:
    """Whether a loss says that it averages, and can be asked not to."""
    return hasattr(loss, "reduction") or "reduction" in _parameters(loss)


def loss_name(loss: Callable[..., Any]) -> str:
    """What to call a loss in a sentence."""
    return getattr(loss, "__name__", type(loss).__name__)


def _parameters(loss: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(loss).parameters)
    except (TypeError, ValueError):  # some built-in functions have no signature
        return {}


def _n_examples(outputs: Any) -> Any:
    tensor = first_tensor(outputs)
    if tensor is None:
        raise RecordError("the model's output holds no floating-point tensor, so there is nothing to record")
    return tensor.shape[0]


def _over_examples(values: Tensor, targets: Any, ignore_index: int | None) -> Tensor:
    """Mean over the axes after the first, ignored targets left out (an example with none left gets 0/0 =
    NaN).
    """
    if values.ndim == 1:
        return values
    axes = tuple(range(1, values.ndim))
    classes = (
        isinstance(targets, Tensor) and not targets.is_floating_point() and targets.shape == values.shape
    )
    if ignore_index is None or not classes:
        return values.mean(axes)
    counted = targets != ignore_index
    return values.sum(axes) / counted.sum(axes)
