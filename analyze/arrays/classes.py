"""What the loss calls correct, for all that speaks of classes, margins and errors: the one place that is asked."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np

from analyze.arrays import View, source
from analyze.numerics import divide
from tracer.errors import MissingTraceError
from tracer.spec.correctness import IGNORED, Correctness, are_probabilities

CHOOSE = (
    "record with an objective= that returns outputs, losses and targets of one answer of each example (of a token, "
    "pixel or label), such as outputs[:, -1] and targets[:, -1]"
)


@source("correctness")
def _correctness(view: View) -> Correctness | None:
    """What the loss calls correct; None where the archive does not say, as older ones do not."""
    return Correctness.from_card(view.archive.card)


def rule_for(rule: Correctness | None, outputs: tuple[int, ...], targets: np.ndarray) -> Correctness:
    """The rule of an archive; for one that does not say, what shapes (example, ...) and targets leave no doubt of."""
    return Correctness.inferred(outputs, targets) if rule is None else rule


@source("labels", "example", needs=("correctness",))
def _labels(view: View) -> np.ndarray:
    return class_labels(view.get("targets"), view.get("correctness"))


@source("true_labels", "example", needs=("correctness",))
def _true_labels(view: View) -> np.ndarray:
    return class_labels(view.get("true_targets"), view.get("correctness"))


def class_labels(targets: np.ndarray, rule: Correctness | None = None) -> np.ndarray:
    """Class of each example, int64 (example,), from class numbers, 0 and 1 as floats, or class probabilities.

    Examples that the loss leaves out have label -100.

    >>> class_labels(np.array([[0.0, 1.0], [1.0, 0.0]]))
    array([1, 0])
    """
    targets = np.asarray(targets) if rule is None else rule.answered(np.asarray(targets))
    if targets.ndim == 2 and targets.shape[1] == 1:
        targets = targets[:, 0]
    if rule is not None and targets.ndim == 1 and rule.kind != "none":
        if rule.kind == "binary":
            return (targets > rule.middle).astype(np.int64)
        left_out = targets == (IGNORED if rule.ignore_index is None else rule.ignore_index)
        return np.where(left_out, IGNORED, targets).astype(np.int64)
    if targets.ndim == 1 and (targets.dtype.kind in "iub" or np.isin(targets, (0, 1)).all()):
        return targets.astype(np.int64)
    if targets.ndim == 2 and are_probabilities(targets):
        return targets.argmax(1)
    if targets.ndim == 2 and targets.dtype.kind in "iub":
        raise MissingTraceError(
            f"targets are one class for each of {targets.shape[1]} tokens, and this needs one for each example: "
            f"{CHOOSE}; `token_prediction` speaks of tokens"
        )
    raise MissingTraceError(
        f"targets of shape {targets.shape} and type {targets.dtype} are not classes; "
        "this needs one class number, or class probabilities, for each example"
    )


def classes_in(labels: np.ndarray) -> np.ndarray:
    """The classes there are, in order; what the loss leaves out is none. MissingTraceError where that leaves nothing.

    >>> classes_in(np.array([2, 0, -100, 2]))
    array([0, 2])
    """
    classes = np.unique(labels[np.asarray(labels) != IGNORED])
    if not len(classes):
        raise MissingTraceError(
            "compares classes, and the loss leaves out every example that it could look at"
        )
    return classes


def classes_used(states: Any, labels: np.ndarray, examples: int) -> np.ndarray:
    """The classes among the first examples of any probe, so that results of all probes have one size.

    labels: of the examples of this one; -1 and what the loss leaves out are none.
    """
    replay, known = getattr(states, "replay", None), [labels]
    if replay is not None:
        for name in replay.probes:
            with suppress(MissingTraceError):
                others = replay.probe(name).first(examples).labels
                known += [others] if others.ndim == 1 else []
    every = np.concatenate(known)
    return np.unique(every[every >= 0])


@source("n_classes", needs=("outputs",), stream="outputs", of="first")
def _n_classes(view: View) -> int:
    known = [probe.n_classes for probe, _ in view.parts() if probe.has_top]
    return known[0] if known else max(2, view.size("output"))


@source("scores", "step", "example", "output", needs=("outputs", "correctness"))
def _scores(view: View) -> np.ndarray:
    return class_scores(view.get("outputs"), view.get("targets"), view.get("correctness"))


def class_scores(outputs: np.ndarray, targets: np.ndarray, rule: Correctness | None = None) -> np.ndarray:
    """Scores (step, example, class) in float64, before any softmax, of one class for each example.

    `outputs` is (step, example, ...). One score alone is that of class 1 against 0 for class 0; of probabilities the
    logarithms (of one alone, of its odds) are taken. MissingTraceError where an example has no one class.
    """
    outputs = np.asarray(outputs, np.float64)
    rule = rule_for(rule, outputs.shape[1:], targets)
    if rule.kind == "none":
        raise MissingTraceError(rule.reason)
    if rule.kind == "binary" and outputs[:1, :1].size <= 1:
        scores = outputs.reshape(*outputs.shape[:2], 1)
        if rule.probabilities:
            with np.errstate(divide="ignore", invalid="ignore"):
                scores = np.log(scores) - np.log1p(-scores)
        return np.concatenate([np.zeros_like(scores), scores], -1)
    if rule.kind == "binary" or outputs.ndim != 3 or rule.axis != 1:
        raise MissingTraceError(
            f"outputs of shape {outputs.shape[1:]} give each example several answers, and this needs one class for "
            f"each example: {CHOOSE}"
        )
    if rule.probabilities:
        with np.errstate(divide="ignore", invalid="ignore"):
            outputs = np.log(outputs)
    return outputs


@source("margins", "step", "example", needs=("scores", "labels"))
def _margins(view: View) -> np.ndarray:
    if not has_top(view):
        return class_margins(view.get("scores"), view.get("labels"))
    labels = view.get("labels")
    rows = [_largest(view, step, labels) for step in view.steps]
    return np.array(rows).reshape(len(rows), len(labels))


def has_top(view: View) -> bool:
    """Whether the largest scores of each answer stand for the outputs."""
    return any(probe.has_top for probe, _ in view.parts())


def _tops(view: View, step: int) -> Any:
    """What stands for the outputs (example, ...) of all probes of a view."""
    parts = [(probe.top(step), count) for probe, count in view.parts()]
    return type(parts[0][0])(
        *(
            None
            if values[0] is None
            else np.concatenate([v[:n] for v, (_, n) in zip(values, parts, strict=True)])
            for values in zip(*(top for top, _ in parts), strict=True)
        )
    )


def _largest(view: View, step: int, labels: np.ndarray) -> np.ndarray:
    """Margins (example,) from the score of the target and the two largest scores."""
    top = _tops(view, step)
    if top.target_score is None:
        raise MissingTraceError(f"outputs give each example several answers, and this needs one: {CHOOSE}")
    scores, true = top.top_score.astype(np.float64), top.target_score.astype(np.float64)
    others = np.where(top.top_class[:, 0] == labels, scores[:, 1], scores[:, 0])
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(top.log_sum_exp), true - others, np.nan)


def class_margins(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Score of the true class minus the largest other score, (step, example).

    `scores` is (step, example, class), `labels` (example,). NaN where a score is NaN, where both scores are
    infinite, or where the label is not one of the classes.

    >>> class_margins(np.array([[[2.0, 0.5, 1.0], [0.0, 3.0, 1.0]]]), np.array([0, 2]))
    array([[ 1., -2.]])
    """
    valid = (labels >= 0) & (labels < scores.shape[-1])
    index = np.broadcast_to(np.where(valid, labels, 0)[:, None], (*scores.shape[:-1], 1))
    true = np.take_along_axis(scores, index, -1)[..., 0]
    others = scores.copy()
    np.put_along_axis(others, index, -np.inf, -1)
    with np.errstate(invalid="ignore"):
        return np.where(valid, true - others.max(-1), np.nan)


@source("correct", "step", "example", needs=("outputs", "correctness"))
def _correct(view: View) -> np.ndarray:
    rule = view.get("correctness")
    if rule is not None and rule.stated:
        return view.per_example(lambda probe, step: probe.correct(step)).astype(np.float64)
    if not has_top(view):
        return correct_share(view.get("outputs"), view.get("targets"), rule)
    if rule is None:
        raise MissingTraceError("the archive does not say which answers are correct: record the run again")
    tops = (_tops(view, step) for step in view.steps)
    rows = [share_of(rule, top.top_class[..., 0], view.get("targets"), top.top_score[..., 0]) for top in tops]
    return np.array(rows).reshape(len(rows), sum(view.counts))


def share_of(rule: Correctness, best: np.ndarray, targets: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Share of each example's answers that are right (example,), from its largest scores and their classes."""
    if rule.kind == "none":
        raise MissingTraceError(rule.reason or "the loss does not say which examples are correct")
    undefined = ~(score < np.inf)
    return _share(*rule.verdicts_on(best, rule.answered(np.asarray(targets)), undefined))


def _share(right: np.ndarray, counts: np.ndarray, undefined: np.ndarray) -> np.ndarray:
    share = divide((right & counts).sum(1), counts.sum(1))
    return np.where((undefined & counts).any(1), np.nan, share)


@source("entropies", "step", "example", needs=("scores",))
def _entropies(view: View) -> np.ndarray:
    if not has_top(view):
        rows = [entropy(scores) for scores in view.get("scores")]
        return np.array(rows).reshape(len(rows), sum(view.counts))
    rows = [_tops(view, step).entropy for step in view.steps]
    if rows[0].ndim > 1:
        raise MissingTraceError(f"outputs give each example several answers, and this needs one: {CHOOSE}")
    return np.stack(rows)


def entropy(scores: np.ndarray) -> np.ndarray:
    """Entropy of the softmax of scores (example, class) in nats, (example,); NaN where no score is finite.

    >>> entropy(np.array([[0.0, 0.0, -np.inf], [np.nan, 0.0, 0.0]])).round(4)
    array([0.6931,    nan])
    """
    top = scores.max(-1, keepdims=True)
    known = np.isfinite(top)
    with np.errstate(invalid="ignore"):
        power = np.exp(np.where(known, scores - top, np.nan))
    share = power / power.sum(-1, keepdims=True)
    return -np.where(share > 0, share * np.log(np.where(share > 0, share, 1.0)), share).sum(-1)


def correct_share(outputs: np.ndarray, targets: np.ndarray, rule: Correctness | None = None) -> np.ndarray:
    """Share of each example's answers that are right, 0 or 1 where there is one: (step, example), float64.

    `outputs` is (step, example, ...). What the loss leaves out does not count. The first of several largest scores
    wins. NaN where nothing counts, or where a score is NaN or +inf.

    >>> correct_share(np.array([[[2.0, 0.5], [0.0, 3.0]]]), np.array([0, 0]))
    array([[1., 0.]])
    """
    targets = np.asarray(targets)
    rule = rule_for(rule, outputs.shape[1:], targets)
    rows = []
    for snapshot in outputs:  # one at a time: what is compared takes the memory of the outputs
        rows.append(_share(*rule.verdicts(snapshot, targets)))
    return np.array(rows).reshape(len(rows), len(targets))
