"""Loss and correctness of the examples of a forward pass, from its outputs and their targets."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tracer.errors import MissingTraceError, first_line
from tracer.network.loss_kind import correctness_of
from tracer.network.objective import per_example
from tracer.network.pytree import first_tensor, leaves_of, rebuild
from tracer.network.randomness import generators_of, untouched_random_state
from tracer.recorder.minibatch.capture import Part
from tracer.spec.correctness import Correctness


class MinibatchLosses:
    """Computes losses and correctness of the examples of a forward pass, as far as they are wanted and known.

    note: takes sentences for the user where they turn out not to be. rule: what is correct, where that is known before
    training; else it is asked of the loss at the first batch, whose values are waited for.
    """

    def __init__(
        self,
        loss: Any,
        *,
        losses: bool,
        correct: bool,
        note: Callable[[str], None],
        rule: Correctness | None = None,
    ) -> None:
        self._loss = loss
        self._losses = per_example(loss) if losses and loss is not None else None
        # A loss of the user's may draw random numbers; to save and restore every stream takes a good part of a
        # millisecond, so it is not done for those of PyTorch. Its generators are looked for once.
        self._guard: Callable[[], AbstractContextManager[Any]] = nullcontext
        if not _of_torch(loss):
            self._guard = partial(untouched_random_state, *generators_of(loss))
        self._correct, self._note = correct, note
        self._rule = rule

    @property
    def wanted(self) -> bool:
        """Whether there is anything left to compute."""
        return self._correct or self._losses is not None

    def __call__(self, part: Part, outputs: Any, targets: Any) -> None:
        """Losses and correctness of a forward pass."""
        scores = first_tensor(outputs)
        if scores is None or (part.outputs is not None and scores._version != part.version):
            self._note(
                "The outputs of training forward passes cannot be used: they hold no tensor, or are "
                "overwritten"
            )
            return
        with torch.no_grad(), self._guard():
            targets = _on(targets, scores.device)
            if self._losses is not None:
                # The user's loss meets what may not be its targets: no reason to stop training.
                try:
                    part.verdicts["loss"] = self._losses(outputs, targets).detach()
                except Exception as error:
                    self._losses = None
                    self._note(
                        "Losses of minibatch examples are not captured, the loss refuses them: "
                        f"{first_line(error)}"
                    )
            if self._correct:
                try:
                    part.verdicts["correct"] = self._verdicts(scores, targets)
                except MissingTraceError as error:
                    self._correct = False
                    self._note(f"Correctness of minibatch examples is not known: {error}")

    def _verdicts(self, scores: Tensor, targets: Any) -> Tensor:
        if self._rule is None:
            self._rule = self._find_rule(scores, targets)
        return correct_answers(self._rule, scores, targets)

    def _find_rule(self, scores: Tensor, targets: Any) -> Correctness:
        if self._loss is not None:
            return correctness_of(self._loss, scores.detach(), targets)
        if not isinstance(targets, Tensor):
            return Correctness("none", reason="targets are not one tensor")
        return Correctness.inferred(tuple(scores.shape), targets.cpu().numpy())


def correct_answers(rule: Correctness, scores: Tensor, targets: Tensor) -> Tensor:
    """1 where an example's answer is correct, 0 where not, -1 where that is undefined: int8 (n,).

    MissingTraceError where there is no such thing, or where an example has several answers.

    >>> scores, targets = torch.tensor([[0.0, 2.0], [3.0, 1.0], [0.0, 0.0]]), torch.tensor([1, 1, -100])
    >>> correct_answers(Correctness("class"), scores, targets)
    tensor([ 1,  0, -1], dtype=torch.int8)
    """
    right, counts, undefined = rule.verdicts(scores, targets)
    if right.shape[1] != 1:
        raise MissingTraceError(
            "each example has several answers, of which some may be correct and others not"
        )
    return torch.where(counts & ~undefined, right.to(torch.int8), -1)[:, 0]


def _of_torch(loss: Any) -> bool:
    home = loss if hasattr(loss, "__name__") else type(loss)
    return getattr(home, "__module__", "").startswith("torch.nn.")


def _on(tree: Any, device: torch.device) -> Any:
    def move(leaf: Tensor) -> Tensor:
        if leaf.device == device:
            return leaf
        # From pageable memory the copy would wait for the device.
        return (leaf.pin_memory() if device.type == "cuda" else leaf).to(device, non_blocking=True)

    return rebuild(tree, iter([move(leaf) for leaf in leaves_of(tree)]))
