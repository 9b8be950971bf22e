"""Correctness: which of a network's answers its loss counts as right, one small record that everything asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import inf
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from tracer.errors import MissingTraceError

IGNORED = -100  # label of an example that the loss leaves out, PyTorch's own default
UNSAID = (
    "the objective does not say which examples are correct: return {'outputs': ..., 'losses': ...} with "
    "'correct', one number in [0, 1] for each example, or with 'targets' that are aligned with the outputs"
)


@dataclass(frozen=True)
class Correctness:
    """What a loss calls correct.

    kind: "class", the largest of the scores along `axis` of the outputs wins; "binary", every output says yes
    or no by itself; "none", there is no such thing, for `reason`. ignore_index: target that does not count;
    negative class numbers never do. shift: outputs at a position are compared with the target so many
    positions later. first: position of the target of the first output, where an objective cut the outputs itself.
    token: position of the one target of each example that is answered, where an objective chose it. probabilities:
    outputs are those, and not scores (logits). signed: binary targets are -1 and 1, and not 0 and 1. stated: an
    objective said so itself, which is stored for each example.
    """

    kind: Literal["class", "binary", "none"]
    axis: int = 1
    ignore_index: int | None = None
    shift: int = 0
    probabilities: bool = False
    signed: bool = False
    stated: bool = False
    reason: str = ""
    first: int = 0
    token: int | None = None

    @classmethod
    def from_card(cls, card: Mapping[str, Any]) -> Correctness | None:
        """What the card of an archive says; None where it says nothing.

        >>> Correctness.from_card({"correctness": {"kind": "class", "ignore_index": 255}}).ignore_index
        255
        """
        stored = card.get("correctness")
        if stored is None:
            return None
        names = [entry.name for entry in fields(cls)]
        if not isinstance(stored, Mapping) or stored.get("kind") not in ("class", "binary", "none"):
            raise MissingTraceError("the card's record of which examples are correct is damaged")
        known = {name: stored[name] for name in names if name in stored}
        numbers = {"axis": 1, "ignore_index": -(1 << 62), "shift": 0, "first": 0, "token": 0}
        for name, value in known.items():
            whole = isinstance(value, int) and not isinstance(value, bool)
            fine = (
                whole and numbers[name] <= value < 1 << 62
                if name in numbers
                else isinstance(value, str if name in ("kind", "reason") else bool)
            )
            if not fine:
                raise MissingTraceError(f"the card's record of which examples are correct garbles {name!r}")
        return cls(**known)

    @classmethod
    def inferred(cls, outputs: tuple[int, ...], targets: ArrayLike) -> Correctness:
        """From the shape of outputs (example, ...) and from targets alone, where nothing else is known.

        >>> Correctness.inferred((5, 7, 3), np.zeros((5, 7), int)).axis
        2
        """
        values = np.asarray(targets)
        whole, shape = values.dtype.kind in "iub", values.shape
        if len(shape) == 2 and shape[1] == 1:
            values, shape = values[:, 0], shape[:1]
        if len(shape) == 1 and len(outputs) < 3 and (whole or np.isin(values, (0, 1)).all()):
            return cls("binary" if len(outputs) == 1 or outputs[1] == 1 else "class")
        if shape == outputs and len(shape) == 2 and are_probabilities(values):
            return cls("class")
        # torch's own losses have the classes second, language models have them last.
        axes = [
            axis for axis in (1, len(outputs) - 1) if axis and outputs[:axis] + outputs[axis + 1 :] == shape
        ]
        if axes and whole:
            return cls("class", axes[0])
        what = f"targets of shape {shape} and type {values.dtype}"
        return cls(
            "none", reason=f"{what} are not classes of outputs of shape {outputs}: there is no error to count"
        )

    def to_card(self) -> dict[str, Any]:
        """The record as JSON holds it: what differs from the defaults."""
        default = Correctness(self.kind)
        said = asdict(self)
        return {
            name: value for name, value in said.items() if name == "kind" or value != getattr(default, name)
        }

    @property
    def middle(self) -> float:
        """What lies between the two targets of a binary loss."""
        return 0.0 if self.signed else 0.5

    @property
    def threshold(self) -> float:
        """Output above which a binary answer is yes."""
        return 0.5 if self.probabilities else 0.0

    def verdicts(self, outputs: Any, targets: Any) -> tuple[Any, Any, Any]:
        """Whether each answer is right, whether it counts, and whether it is undefined: bool (example, answer).

        `outputs` (example, ...) and `targets` are NumPy arrays, or tensors, of one example after the other. The
        first of several largest scores wins. An answer is undefined where a score is NaN or +inf.
        MissingTraceError where the loss knows no correctness, or the shapes do not fit it.
        """
        if self.kind == "none":
            raise MissingTraceError(self.reason or "the loss does not say which examples are correct")
        n, targets = targets.shape[0], self.answered(targets)
        if self.kind == "binary":
            if outputs.reshape(n, -1).shape != targets.reshape(n, -1).shape:
                raise self._misfit(outputs, targets)
            scores, true = outputs.reshape(n, -1), targets.reshape(n, -1) > self.middle
            return (scores > self.threshold) == true, true == true, scores != scores
        if outputs.ndim <= self.axis:
            raise self._misfit(outputs, targets)
        undefined = ((outputs != outputs) | (outputs == inf)).any(self.axis)
        true = targets.argmax(self.axis) if targets.shape == outputs.shape else targets
        return self.verdicts_on(outputs.argmax(self.axis), true, undefined)

    def verdicts_on(self, best: Any, targets: Any, undefined: Any) -> tuple[Any, Any, Any]:
        """The same of the classes (example, ...) whose scores are largest."""
        n = targets.shape[0]  # not len(), which would fix the number where this is traced
        answers, true, undefined = best.reshape(n, -1), targets.reshape(n, -1), undefined.reshape(n, -1)
        if self.first:
            true = true[:, self.first : self.first + answers.shape[1]]
        if answers.shape != true.shape:
            raise self._misfit(best, targets)
        if self.shift:
            answers, undefined = answers[:, : -self.shift], undefined[:, : -self.shift]
            true = true[:, self.shift :]
        return answers == true, self.counted(true), undefined

    def answered(self, targets: Any) -> Any:
        """The targets (example, ...) that are answered, of those that a probe has."""
        return targets if self.token is None else targets[:, self.token]

    def counted(self, classes: Any) -> Any:
        """Whether each of these class numbers is an answer that counts."""
        counts = classes >= 0
        return counts if self.ignore_index is None else counts & (classes != self.ignore_index)

    def has_answers(self, targets: np.ndarray) -> np.ndarray:
        """Whether the loss counts an answer of each example at all, bool (example,): else its loss says nothing.

        >>> Correctness("class", ignore_index=7).has_answers(np.array([[7, 7], [7, 1]]))
        array([False,  True])
        """
        n = len(targets)
        if self.kind != "class" or self.stated or targets.dtype.kind not in "iu":
            return np.ones(n, bool)
        return self.counted(self.answered(targets).reshape(n, -1)[:, self.first or self.shift :]).any(1)

    def _misfit(self, outputs: Any, targets: Any) -> MissingTraceError:
        return MissingTraceError(
            f"outputs of shape {tuple(outputs.shape)} do not fit targets of shape {tuple(targets.shape)}, so "
            "there is no error to count"
        )


def are_probabilities(targets: np.ndarray) -> bool:
    """Whether each row of targets (example, class) adds up to 1 and none is below 0."""
    return bool((targets >= 0).all() and np.allclose(targets.sum(1), 1, atol=1e-4))
