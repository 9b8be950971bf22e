"""What several metrics compute from the archive's arrays: cosines, overlaps of paths, margins, labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

import numpy as np

from analyze.arrays import View, source
from analyze.arrays.recorded import activations_at, read_bits
from analyze.numerics import divide
from tracer import bits as masks
from tracer.errors import MissingTraceError

Path = list[np.ndarray]  # of one snapshot: packed rows (example, byte) of each site


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
        length = np.where(length == 0, np.nan, length)
        # Two divisions, since the product of two small norms may underflow to 0.
        cosine = gram / length[..., None]
        cosine /= length[..., None, :]
    return np.asarray(cosine)


# ---- paths ----


@source("paths", "step", "example", "path_byte", needs=("bits", "site_slices"), itemsize=1)
def _paths(view: View) -> list[Path]:
    """Packed paths (example, byte) of each snapshot and site: the view's examples alone, without pad bits."""
    return [_path(view, packed) for packed in view.get("bits")]


def _path(view: View, packed: np.ndarray) -> Path:
    positions, padded = _positions(view)
    rows = slice(len(positions)) if positions[-1] == len(positions) - 1 else positions
    return [masks.rows_of(packed[part], padded)[rows] for part in view.get("site_slices")]


def _per_site(measure: Callable[[np.ndarray], np.ndarray], paths: Iterable[Path]) -> np.ndarray:
    """`measure(rows of a site)` for every snapshot and site: (step, site, example[, example_2])."""
    return np.stack([np.stack([measure(rows) for rows in path]) for path in paths])


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


@source("paths_previous", "step", "example", "path_byte", needs=("paths",), itemsize=1)
def _paths_previous(view: View) -> list[Path]:
    paths = view.get("paths")
    if view.lead is not None:
        return [_path(view, read_bits(view, view.lead)), *paths[:-1]]
    # Before the first snapshot there is nothing to compare with: no unit on, so that 0/0 makes it undefined.
    return [[np.zeros_like(rows) for rows in paths[0]], *paths[:-1]]


@source("path_count", "step", "site", "example", needs=("paths",))
def _path_count(view: View) -> np.ndarray:
    if "overlap" in view.cache:
        return _diagonal(view.cache["overlap"])
    return _per_site(masks.row_count, view.get("paths"))


@source("path_count_previous", "step", "site", "example", needs=("paths_previous", "path_count"))
def _path_count_previous(view: View) -> np.ndarray:
    first = _per_site(masks.row_count, view.get("paths_previous")[:1])
    return np.concatenate([first, view.get("path_count")[:-1]])


@source("path_common", "step", "site", "example", needs=("paths", "paths_previous"))
def _path_common(view: View) -> np.ndarray:
    if "overlap_joint" in view.cache:
        return _diagonal(view.cache["overlap_joint"])
    return _per_site(masks.row_count, _both(view))


def _diagonal(overlap: np.ndarray) -> np.ndarray:
    # Where another metric has needed an overlap already, what the counts would count again lies on its diagonal.
    return np.ascontiguousarray(np.diagonal(overlap, axis1=-2, axis2=-1))


@source("overlap", "step", "site", "example", "example_2", needs=("paths",))
def _overlap(view: View) -> np.ndarray:
    return _per_site(masks.row_overlap, view.get("paths"))


@source("overlap_previous", "step", "site", "example", "example_2", needs=("paths_previous", "overlap"))
def _overlap_previous(view: View) -> np.ndarray:
    first = _per_site(masks.row_overlap, view.get("paths_previous")[:1])
    return np.concatenate([first, view.get("overlap")[:-1]])


@source("overlap_joint", "step", "site", "example", "example_2", needs=("paths", "paths_previous"))
def _overlap_joint(view: View) -> np.ndarray:
    return _per_site(masks.row_overlap, _both(view))


def _both(view: View) -> Iterator[Path]:
    return map(_shared, view.get("paths"), view.get("paths_previous"))


def _shared(path: Path, other: Path) -> Path:
    return [rows & others for rows, others in zip(path, other, strict=True)]


@source("path_count_last", "site", "example", stream="masks", needs=("site_slices",), of="last")
def _path_count_last(view: View) -> np.ndarray:
    return _per_site(masks.row_count, [_last_path(view)])[0]


@source("path_common_last", "step", "site", "example", needs=("paths", "path_count_last"))
def _path_common_last(view: View) -> np.ndarray:
    last = _last_path(view)
    return _per_site(masks.row_count, [_shared(path, last) for path in view.get("paths")])


def _last_path(view: View) -> Path:
    return _path(view, read_bits(view, min(int(probe.steps("masks")[-1]) for probe, _ in view.parts())))


@source("unit_count", "step", "unit", needs=("bits",), itemsize=4)
def _unit_count(view: View) -> np.ndarray:
    packed = view.get("bits")
    # Bits after a probe's last example are 0, so there is only something to leave out where the view ends earlier.
    if any(count < probe.n_masks for probe, count in view.parts()):
        positions, padded = _positions(view)
        keep = np.zeros(padded, bool)
        keep[positions] = True
        packed = [bits & np.packbits(keep) for bits in packed]
    counts = np.empty((len(packed), len(packed[0])), np.int32)
    for row, bits in zip(counts, packed, strict=True):
        row[:] = masks.unit_count(bits)
    return counts


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


@source("n_classes", needs=("outputs",), stream="outputs", of="first")
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
