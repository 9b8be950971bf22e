"""What several metrics compute from the archive's arrays: cosines, overlaps of paths, margins, labels."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from analyze.numerics import divide
from analyze.sources import activations_at, read_bits
from analyze.view import View, source
from tracer import bits as masks
from tracer.errors import MissingTraceError


@source("norms2", "step", "layer", "example", needs=("gram",))
def _norms2(view: View) -> np.ndarray:
    return np.diagonal(view.get("gram"), axis1=-2, axis2=-1)


@source("cosine", "step", "layer", "example", "example_2", needs=("gram",))
def _cosine(view: View) -> np.ndarray:
    return cosines(view.get("gram"))


def cosines(gram: np.ndarray) -> np.ndarray:
    """Cosines (..., example, example_2) of a Gram matrix, NaN where either norm is 0.

    >>> cosines(np.array([[4.0, 3.0, 0.0], [3.0, 9.0, 0.0], [0.0, 0.0, 0.0]]))
    array([[1. , 0.5, nan],
           [0.5, 1. , nan],
           [nan, nan, nan]])
    """
    with np.errstate(invalid="ignore"):
        length = np.sqrt(np.diagonal(gram, axis1=-2, axis2=-1))
        # Two divisions, since the product of two small norms may underflow to 0.
        return divide(divide(gram, length[..., None]), length[..., None, :])


# ---- paths ----


def _per_site(
    view: View, packed: list[np.ndarray], measure: Callable[[np.ndarray, int], np.ndarray]
) -> np.ndarray:
    """`measure(bits of a site, examples)` for every snapshot and site: (step, site, example[, example_2])."""
    positions, padded = _positions(view)
    slices = view.get("site_slices")

    def one(bits: np.ndarray) -> np.ndarray:
        # Probes lie on whole bytes of their own; the pad bits between them are dropped here.
        value = measure(bits, padded)
        return value[positions] if value.ndim == 1 else value[np.ix_(positions, positions)]

    return np.stack([np.stack([one(bits[part]) for part in slices]) for bits in packed])


def _positions(view: View) -> tuple[np.ndarray, int]:
    """Where the view's examples are among the bits side by side, and how many bits there are."""
    rows, start = [], 0
    for probe, count in view.parts():
        rows.append(start + np.arange(count))
        start += -(-probe.n_masks // 8) * 8
    return np.concatenate(rows), start


@source("site_slices", "site")
def _site_slices(view: View) -> list[slice]:
    ends = np.cumsum([0, *(int(site["n_units"]) for site in view.masked_sites)])
    return [slice(int(start), int(stop)) for start, stop in pairwise(ends)]


@source("n_units", "site")
def _n_units(view: View) -> np.ndarray:
    return np.array([int(site["n_units"]) for site in view.masked_sites], np.int64)


@source("bits_previous", "step", "unit", "byte", needs=("bits",), itemsize=1)
def _bits_previous(view: View) -> list[np.ndarray]:
    packed = view.get("bits")
    return [_lead_bits(view), *packed[:-1]]


def _lead_bits(view: View) -> np.ndarray:
    # Before the first snapshot there is nothing to compare with: no unit on, so that 0/0 makes it undefined.
    return np.zeros_like(view.get("bits")[0]) if view.lead is None else read_bits(view, view.lead)


@source("path_count", "step", "site", "example", needs=("bits", "site_slices"))
def _path_count(view: View) -> np.ndarray:
    return _per_site(view, view.get("bits"), masks.count)


@source("path_count_previous", "step", "site", "example", needs=("bits_previous", "path_count"))
def _path_count_previous(view: View) -> np.ndarray:
    first = _per_site(view, view.get("bits_previous")[:1], masks.count)
    return np.concatenate([first, view.get("path_count")[:-1]])


@source("path_common", "step", "site", "example", needs=("bits_previous", "bits", "site_slices"))
def _path_common(view: View) -> np.ndarray:
    return _per_site(view, _both(view), masks.count)


@source("overlap", "step", "site", "example", "example_2", needs=("bits", "site_slices"))
def _overlap(view: View) -> np.ndarray:
    return _per_site(view, view.get("bits"), masks.overlap)


@source("overlap_previous", "step", "site", "example", "example_2", needs=("bits_previous", "overlap"))
def _overlap_previous(view: View) -> np.ndarray:
    first = _per_site(view, view.get("bits_previous")[:1], masks.overlap)
    return np.concatenate([first, view.get("overlap")[:-1]])


@source("overlap_joint", "step", "site", "example", "example_2", needs=("bits_previous", "site_slices"))
def _overlap_joint(view: View) -> np.ndarray:
    return _per_site(view, _both(view), masks.overlap)


def _both(view: View) -> list[np.ndarray]:
    pairs = zip(view.get("bits"), view.get("bits_previous"), strict=True)
    return [now & before for now, before in pairs]


@source("path_count_last", "site", "example", stream="masks", needs=("site_slices",))
def _path_count_last(view: View) -> np.ndarray:
    return _per_site(view, [_last_bits(view)], masks.count)[0]


@source("path_common_last", "step", "site", "example", needs=("bits", "site_slices"))
def _path_common_last(view: View) -> np.ndarray:
    last = _last_bits(view)
    return _per_site(view, [bits & last for bits in view.get("bits")], masks.count)


def _last_bits(view: View) -> np.ndarray:
    return read_bits(view, min(int(probe.steps("masks")[-1]) for probe, _ in view.parts()))


@source("unit_count", "step", "unit", needs=("bits",))
def _unit_count(view: View) -> np.ndarray:
    positions, padded = _positions(view)
    keep = np.zeros(padded, bool)
    keep[positions] = True
    chosen = np.packbits(keep)
    return np.stack([masks.unit_count(bits & chosen) for bits in view.get("bits")])


@source("activations_previous", "step", "example", "any_unit", needs=("activations",), itemsize=4)
def _activations_previous(view: View) -> list[np.ndarray]:
    earlier = []
    for site, values in zip(view.archive.sites, view.get("activations"), strict=True):
        lead = np.zeros_like(values[:1]) if view.lead is None else activations_at(view, site, [view.lead])
        earlier.append(np.concatenate([lead, values[:-1]]))
    return earlier


# ---- labels, margins ----


@source("labels", "example")
def _labels(view: View) -> np.ndarray:
    return class_labels(view.get("targets"))


@source("true_labels", "example")
def _true_labels(view: View) -> np.ndarray:
    return class_labels(view.get("true_targets"))


def class_labels(targets: np.ndarray) -> np.ndarray:
    """Class of each example, int64 (example,), from class numbers, 0 and 1 as floats, or class probabilities.

    >>> class_labels(np.array([[0.0, 1.0], [1.0, 0.0]]))
    array([1, 0])
    """
    targets = np.asarray(targets)
    if targets.ndim == 2 and targets.shape[1] == 1:
        targets = targets[:, 0]
    if targets.ndim == 1 and (targets.dtype.kind in "iub" or np.isin(targets, (0, 1)).all()):
        return targets.astype(np.int64)
    if targets.ndim == 2 and (targets >= 0).all() and np.allclose(targets.sum(1), 1, atol=1e-4):
        return targets.argmax(1)
    raise MissingTraceError(
        f"targets of shape {targets.shape} and type {targets.dtype} are not classes; "
        "this needs one class number, or class probabilities, for each example"
    )


@source("n_classes", needs=("outputs",), stream="outputs")
def _n_classes(view: View) -> int:
    return max(2, view.size("output"))


@source("margins", "step", "example", needs=("outputs",))
def _margins(view: View) -> np.ndarray:
    return class_margins(view.get("outputs"), view.get("labels"))


def class_margins(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Score of the true class minus the largest other score, (step, example).

    `outputs` is (step, example, class), `labels` (example,). A single output is the score of class 1
    against 0 for class 0. NaN where a score is NaN or the label is not one of the classes.

    >>> class_margins(np.array([[[2.0, 0.5, 1.0], [0.0, 3.0, 1.0]]]), np.array([0, 2]))
    array([[ 1., -2.]])
    """
    scores = two_scores(outputs)
    valid = (labels >= 0) & (labels < scores.shape[-1])
    index = np.broadcast_to(np.where(valid, labels, 0)[:, None], (*scores.shape[:-1], 1))
    true = np.take_along_axis(scores, index, -1)[..., 0]
    others = scores.copy()
    np.put_along_axis(others, index, -np.inf, -1)
    with np.errstate(invalid="ignore"):
        return np.where(valid, true - others.max(-1), np.nan)


def two_scores(outputs: np.ndarray) -> np.ndarray:
    """Scores (step, example, class) in float64; a single output becomes the two scores 0 and itself."""
    scores = np.asarray(outputs, np.float64)
    if scores.ndim == 2:
        scores = scores[..., None]
    if scores.ndim != 3:
        raise MissingTraceError(
            f"outputs of shape {scores.shape[1:]} are not one score per class; "
            "this needs outputs (example, class)"
        )
    return scores if scores.shape[-1] > 1 else np.concatenate([np.zeros_like(scores), scores], -1)


@source("correct", "step", "example", needs=("outputs",))
def _correct(view: View) -> np.ndarray:
    return correct_share(view.get("outputs"), view.get("targets"))


def correct_share(outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Whether the largest score is that of the target, as 0 or 1: (step, example), float64.

    The first of several largest scores counts, and an example whose scores hold NaN is wrong. For targets
    (example, position...) the share of positions that are right, those with a negative target left out.

    >>> correct_share(np.array([[[2.0, 0.5], [0.0, 3.0]]]), np.array([0, 0]))
    array([[1., 0.]])
    """
    targets = np.asarray(targets)
    if targets.ndim == 1 or targets.shape[1:] == outputs.shape[2:]:
        outputs, targets = two_scores(outputs), class_labels(targets)
    if targets.dtype.kind not in "iub":
        raise MissingTraceError(
            f"targets of type {targets.dtype} are not classes, so there is no error to count"
        )
    axis = _class_axis(outputs.shape[1:], targets.shape)
    right = (outputs.argmax(axis + 1) == targets) & ~np.isnan(outputs).any(axis + 1)
    if targets.ndim == 1:
        return right.astype(np.float64)
    counted = (targets >= 0).reshape(len(targets), -1)
    return divide((right.reshape(*right.shape[:2], -1) & counted).sum(-1), counted.sum(-1))


def _class_axis(outputs: tuple[int, ...], targets: tuple[int, ...]) -> int:
    # torch's own losses have the classes second, language models have them last.
    for axis in (1, len(outputs) - 1):
        if outputs[:axis] + outputs[axis + 1 :] == targets:
            return axis
    raise MissingTraceError(
        f"outputs of shape {outputs} do not fit targets of shape {targets}, so there is no error to count"
    )
