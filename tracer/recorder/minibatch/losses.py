"""Loss and correctness of the examples of a forward pass, from its outputs and their targets."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tracer.network.objective import per_example
from tracer.network.pytree import first_tensor, leaves_of, rebuild
from tracer.recorder.minibatch.capture import Part

_NO_CLASSES = (
    "Correctness of minibatch examples is not known, because targets are not one class number for each "
    "example"
)


class Judge:
    """Computes losses and correctness of the examples of a forward pass, as far as they are wanted and known.

    note: takes sentences for the user where they turn out not to be.
    """

    def __init__(self, loss: Any, *, correct: bool, note: Callable[[str], None]) -> None:
        self._losses = None if loss is None else per_example(loss)
        self._correct, self._note = correct, note

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
        with torch.no_grad():
            targets = _on(targets, scores.device)
            if self._losses is not None:
                # The user's loss meets what may not be its targets: no reason to stop training.
                try:
                    part.verdicts["loss"] = self._losses(outputs, targets).detach()
                except Exception as error:
                    self._losses = None
                    self._note(
                        "Losses of minibatch examples are not captured, the loss refuses them: "
                        f"{_first_line(error)}"
                    )
            if self._correct:
                correct = correct_classes(scores, targets)
                if correct is None:
                    self._correct = False
                    self._note(_NO_CLASSES)
                else:
                    part.verdicts["correct"] = correct


def correct_classes(scores: Tensor, targets: Any) -> Tensor | None:
    """Whether the largest score is that of the target's class, int8 (n,); None where targets are no classes.

    Scores that hold NaN are wrong. A single score stands for class 1 where it is above 0.

    >>> correct_classes(torch.tensor([[0.0, 2.0], [3.0, 1.0]]), torch.tensor([1, 1]))
    tensor([1, 0], dtype=torch.int8)
    """
    if not isinstance(targets, Tensor) or targets.is_floating_point() or targets.is_complex():
        return None
    if targets.ndim == 2 and targets.shape[1] == 1:
        targets = targets[:, 0]
    scores = scores[:, None] if scores.ndim == 1 else scores
    if targets.ndim != 1 or scores.ndim != 2 or len(scores) != len(targets):
        return None
    best, chosen = scores.max(1)  # NaN where there is one
    if scores.shape[1] == 1:
        chosen = (best > 0).long()
    return ((chosen == targets) & (best == best)).to(torch.int8)


def _on(tree: Any, device: torch.device) -> Any:
    def move(leaf: Tensor) -> Tensor:
        if leaf.device == device:
            return leaf
        # From pageable memory the copy would wait for the device.
        return (leaf.pin_memory() if device.type == "cuda" else leaf).to(device, non_blocking=True)

    return rebuild(tree, iter([move(leaf) for leaf in leaves_of(tree)]))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
