"""Answers: what outputs over many classes, and answers at every token, come down to."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tracer.network import Visit
from tracer.network.fixed_masks import by_example
from tracer.network.table import Row
from tracer.spec.correctness import Correctness

if TYPE_CHECKING:
    from tracer.probe.observe import Chunk

WHOLE = 4096  # classes up to which outputs are kept whole
TOP = 32  # of more classes, the largest scores that are kept
_PIECE = 1 << 22  # scores looked at together
_DOUBLE, _SINGLE, _WHOLE_NUMBER = (np.dtype(kind) for kind in ("float64", "float32", "int32"))

Declared = dict[str, tuple[np.dtype, tuple[int, ...], tuple[str, ...]]]


@dataclass(frozen=True)
class Answers:
    """How outputs answer.

    shape: of one example's outputs. axis: of the classes in outputs (example, ...), 0 where there are none. top: how
    many of the largest scores are kept, 0 where outputs are kept whole. tokens: answers of an example of which each has
    a target, 0 where there is one or none. rule: what is correct. loss_row: of the loss of each token, None where no
    row of the table is that.
    """

    shape: tuple[int, ...]
    axis: int
    top: int
    tokens: int
    rule: Correctness
    loss_row: int | None = None

    @classmethod
    def of(cls, rule: Correctness | None, outputs: Tensor, targets: object, whole: bool) -> "Answers":
        """From outputs (example, ...) and targets of some examples; `whole`: outputs are kept whole in any case."""
        shape = tuple(outputs.shape[1:])
        known = rule if rule is not None and rule.kind == "class" else None
        if not isinstance(targets, Tensor) or targets.is_floating_point() or targets.is_complex():
            return cls(shape, 0, 0, 0, Correctness("none"))
        # Where the classes lie shapes leave no doubt of, also where nothing says which answer is correct.
        guess = Correctness.inferred(
            tuple(outputs.shape), np.zeros((len(outputs), *targets.shape[1:]), np.int64)
        )
        axis = known.axis if known else guess.axis if guess.kind == "class" else 0
        many = axis > 0 and outputs.shape[axis] > WHOLE and not whole
        tokens = 0
        if known and is_tokens(known, targets) and outputs.ndim == 3:
            tokens = outputs.shape[3 - axis] - known.shift
        return cls(shape, axis, TOP if many else 0, max(0, tokens), known or Correctness("none"))

    @property
    def classes(self) -> int:
        """How many classes there are, 0 where there are none."""
        return self.shape[self.axis - 1] if self.axis else 0

    @property
    def positions(self) -> tuple[int, ...]:
        """Shape of the answers of one example."""
        return (*self.shape[: self.axis - 1], *self.shape[self.axis :])

    @property
    def _with_target(self) -> bool:
        return bool(self.top) and self.rule.kind == "class" and not self.positions

    def top_arrays(self, count: int) -> Declared:
        """Arrays that stand for the outputs of so many examples."""
        dims = ("outputs_example", *(f"output_{k}" for k in range(1, len(self.positions) + 1)))
        one = (count, *self.positions)
        declared: Declared = {
            "top_score": (_SINGLE, (*one, self.top), (*dims, "top")),
            "top_class": (_WHOLE_NUMBER, (*one, self.top), (*dims, "top")),
            "log_sum_exp": (_DOUBLE, one, dims),
            "entropy": (_DOUBLE, one, dims),
        }
        return declared | ({"target_score": (_SINGLE, one, dims)} if self._with_target else {})

    def token_arrays(self, count: int) -> Declared:
        """Arrays of the answers of so many examples."""
        names = ("log_prob", "correct", *(("loss",) if self.loss_row is not None else ()))
        return dict.fromkeys(names, (_SINGLE, (count, self.tokens), ("tokens_example", "token")))

    def take(self, chunk: "Chunk", outputs: Tensor, targets: Tensor | None) -> None:
        """What a chunk's streams hold of its outputs, beside the outputs themselves."""
        whole, tokens = chunk.count("outputs") if self.top else 0, chunk.count("tokens")
        if whole and targets is not None:
            self._take_top(chunk, outputs.detach()[:whole], self.rule.answered(targets))
        if tokens and targets is not None:
            self._take_tokens(chunk, outputs.detach()[:tokens], targets[:tokens])

    def _take_top(self, chunk: "Chunk", outputs: Tensor, targets: Tensor | None) -> None:
        names = ("top_score", "top_class", "log_sum_exp", "entropy")
        score, best, total, entropy = (chunk.place("outputs", name) for name in names)
        score, best = score.flatten(0, -2), best.flatten(0, -2)
        total, entropy = total.flatten(), entropy.flatten()
        for at, scores in self._pieces(outputs):
            values, index = largest(scores, self.top)
            score[at], best[at] = values.to(score.dtype), index.to(best.dtype)
            total[at], entropy[at] = log_sum_exp(scores)
            if self._with_target and targets is not None:
                chunk.place("outputs", "target_score")[at] = _at(scores, targets[at]).to(score.dtype)

    def _take_tokens(self, chunk: "Chunk", outputs: Tensor, targets: Tensor) -> None:
        true = self.aligned(targets)
        counts = self.rule.counted(true) & (true < self.classes)
        flat = torch.full((len(outputs), prod(self.positions)), -1, dtype=torch.int64, device=true.device)
        flat[:, : self.tokens] = torch.where(counts, true.to(torch.int64), -1)
        flat = flat.flatten()
        log_prob, correct = (torch.empty(len(flat), device=flat.device) for _ in range(2))
        for at, scores in self._pieces(outputs):
            log_prob[at] = (_at(scores, flat[at]) - log_sum_exp(scores)[0]).to(log_prob.dtype)
            best = scores.max(-1)
            right = (best.indices == flat[at]).to(correct.dtype)
            correct[at] = torch.where(best.values < torch.inf, right, torch.nan)
        for name, values in (("log_prob", log_prob), ("correct", correct)):
            taken = values.view(len(outputs), -1)[:, : self.tokens]
            chunk.place("tokens", name).copy_(torch.where(counts, taken, torch.nan))
        if self.loss_row is not None:
            chunk.place("tokens", "loss").masked_fill_(~counts, torch.nan)

    def aligned(self, targets: Tensor) -> Tensor:
        """The targets (example, token) of the answers."""
        return targets[:, self.first : self.first + self.tokens]

    @property
    def first(self) -> int:
        """Position among the targets of that of the first answer."""
        return self.rule.first + self.rule.shift

    def _pieces(self, outputs: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Scores (answer, class) of some answers at a time, with their places among all answers."""
        together = max(1, _PIECE // max(1, prod(self.shape)))
        step, answers = max(1, _PIECE // self.classes), prod(self.positions)
        for start in range(0, len(outputs), together):
            flat = outputs[start : start + together].movedim(self.axis, -1).reshape(-1, self.classes)
            for row in range(0, len(flat), step):
                scores = flat[row : row + step]
                scores = scores if scores.dtype in (torch.float32, torch.float64) else scores.float()
                scores = scores.log() if self.rule.probabilities else scores
                yield slice(start * answers + row, start * answers + row + len(scores)), scores


def is_tokens(rule: Correctness | None, targets: object) -> bool:
    """Whether targets are one class number for each token of an example."""
    whole = isinstance(targets, Tensor) and not targets.is_floating_point() and not targets.is_complex()
    several = rule is not None and rule.kind == "class" and rule.token is None
    return whole and several and isinstance(targets, Tensor) and targets.ndim == 2


def largest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest scores (answer, class) and their classes, falling; the first of several largest is first."""
    values, index = scores.topk(k, -1)
    index, order = index.sort(-1)
    values, order = values.gather(-1, order).sort(dim=-1, descending=True, stable=True)
    index = index.gather(-1, order)
    index[:, 0] = scores.argmax(-1)  # of more equal ones than are kept, `topk` takes any
    return values, index


def log_sum_exp(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithm of the sum of exponentials of scores (answer, class), and entropy of their softmax, float64.

    >>> [round(float(value), 4) for value in log_sum_exp(torch.tensor([[0.0, 0.0, -torch.inf]]))]
    [0.6931, 0.6931]
    """
    top = scores.amax(-1, keepdim=True)
    below = scores - top
    power = below.exp()
    total = power.sum(-1, dtype=torch.float64)
    mean = torch.where(power > 0, power * below, power).sum(-1, dtype=torch.float64) / total
    return top[:, 0].double() + total.log(), total.log() - mean


def _at(scores: Tensor, classes: Tensor) -> Tensor:
    """Score of one class of each answer, NaN where it is none."""
    inside = (classes >= 0) & (classes < scores.shape[-1])
    taken = scores.gather(-1, torch.where(inside, classes, 0).to(torch.int64)[:, None])[:, 0]
    return torch.where(inside, taken, torch.nan)


def loss_row_of(
    answers: Answers,
    rows: Sequence[Row],
    through: Callable[[Visit], tuple[Tensor, Tensor | None]],
    targets: Tensor,
    batch: int,
) -> int | None:
    """Index of the first row that is the loss of each token: its mean, or sum, is the loss of every example.

    through: runs some examples, of `targets`, `batch` with padding, and shows a visitor every row. None where no row is
    that.
    """
    true = answers.aligned(targets)
    counts, n = answers.rule.counted(true), len(true)
    means: dict[str, tuple[Tensor, Tensor]] = {}

    def visit(row: Row, _: object, out: object) -> None:
        if not isinstance(out, Tensor) or row.axis is None or not out.is_floating_point():
            return
        if out.numel() == batch * answers.tokens:
            values = by_example(out.detach(), row, batch)[:n].double()
            total = torch.where(counts, values, 0.0).sum(1)
            means[row.name] = total, total / counts.sum(1)

    _, losses = through(visit)
    some = counts.any(1)
    if losses is None or answers.tokens < 2 or not bool(some.any()):
        return None
    wanted = losses.detach()[:n].double()[some]
    numbers = {row.name: number for number, row in enumerate(rows)}
    fits = (name for name, both in means.items() if any(torch.allclose(x[some], wanted, 1e-4) for x in both))
    return next((numbers[name] for name in fits), None)
