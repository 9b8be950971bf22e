"""What several metrics compute from the archive's arrays: cosines, overlaps of paths, margins, labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from analyze.arrays import View, source
from analyze.arrays.recorded import activations_at, read_bits
from analyze.numerics import divide
from tracer import bits as masks
from tracer.correctness import IGNORED, Correctness, are_probabilities
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
    return _counted(view, _per_site(masks.row_count, view.get("paths")))


@source("path_count_previous", "step", "site", "example", needs=("paths_previous", "path_count"))
def _path_count_previous(view: View) -> np.ndarray:
    return np.concatenate([_before(view, masks.row_count), view.get("path_count")[:-1]])


@source("path_common", "step", "site", "example", needs=("paths", "paths_previous"))
def _path_common(view: View) -> np.ndarray:
    if "overlap_joint" in view.cache:
        return _diagonal(view.cache["overlap_joint"])
    return _counted(view, _per_site(masks.row_count, _both(view)), joint=True)


def _diagonal(overlap: np.ndarray) -> np.ndarray:
    # Where another metric has needed an overlap already, what the counts would count again lies on its diagonal.
    return np.ascontiguousarray(np.diagonal(overlap, axis1=-2, axis2=-1))


@source("overlap", "step", "site", "example", "example_2", needs=("paths",))
def _overlap(view: View) -> np.ndarray:
    return _counted(view, _per_site(masks.row_overlap, view.get("paths")))


@source("overlap_previous", "step", "site", "example", "example_2", needs=("paths_previous", "overlap"))
def _overlap_previous(view: View) -> np.ndarray:
    return np.concatenate([_before(view, masks.row_overlap), view.get("overlap")[:-1]])


@source("overlap_joint", "step", "site", "example", "example_2", needs=("paths", "paths_previous"))
def _overlap_joint(view: View) -> np.ndarray:
    return _counted(view, _per_site(masks.row_overlap, _both(view)), joint=True)


def _before(view: View, measure: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Counts (1, site, example, ...) at the snapshot before the first one."""
    counts = _per_site(measure, view.get("paths_previous")[:1])
    return counts if view.lead is None else _blanked(counts, _defined(view, view.lead)[None])


def _both(view: View) -> Iterator[Path]:
    return map(_shared, view.get("paths"), view.get("paths_previous"))


def _shared(path: Path, other: Path) -> Path:
    return [rows & others for rows, others in zip(path, other, strict=True)]


@source("path_count_last", "site", "example", stream="masks", needs=("site_slices",))
def _path_count_last(view: View) -> np.ndarray:
    last = _last_step(view)
    counts = _per_site(masks.row_count, [_path(view, read_bits(view, last))])
    return _blanked(counts, _defined(view, last)[None])[0]


@source("path_common_last", "step", "site", "example", needs=("paths",))
def _path_common_last(view: View) -> np.ndarray:
    step = _last_step(view)
    last = _path(view, read_bits(view, step))
    counts = _per_site(masks.row_count, [_shared(path, last) for path in view.get("paths")])
    return _counted(view, _blanked(counts, np.repeat(_defined(view, step)[None], len(counts), 0)))


def _last_step(view: View) -> int:
    return min(int(probe.steps("masks")[-1]) for probe, _ in view.parts())


# Of a pre-activation that is NaN the mask says "off", so whether a path is one is asked of what else is stored.


@source("path_defined", "step", "example")
def _path_defined(view: View) -> np.ndarray:
    """Whether the network gave numbers for the example: else it has no path."""
    return np.stack([_defined(view, step) for step in view.steps])


def _counted(view: View, counts: np.ndarray, joint: bool = False) -> np.ndarray:
    """Counts of paths, NaN where there is no path; `joint`: at this or at the snapshot before."""
    defined = view.get("path_defined")
    if joint:
        first = np.ones_like(defined[:1]) if view.lead is None else _defined(view, view.lead)[None]
        defined = defined & np.concatenate([first, defined[:-1]])
    return _blanked(counts, defined)


def _blanked(counts: np.ndarray, defined: np.ndarray) -> np.ndarray:
    """Counts (step, site, example[, example_2]), as floats with NaN where an example (step, example) has no path."""
    if defined.all():
        return counts
    counts = counts.astype(np.float64)
    for step, row in enumerate(defined):
        counts[step][:, ~row] = np.nan
        if counts.ndim == 4:
            counts[step][..., ~row] = np.nan
    return counts


def _defined(view: View, step: int) -> np.ndarray:
    """Whether the network gave numbers, bool (example,), by the sums, else by the outputs, else by the weights."""

    def find() -> np.ndarray:
        return np.concatenate([_finite(view, probe, step)[:count] for probe, count in view.parts()])

    return np.asarray(view.once(f"defined {step} {view.probes} {view.counts}", find))


def _finite(view: View, probe: Any, step: int) -> np.ndarray:
    for read in (_sums_at, _outputs_at):
        try:
            values = read(view.archive, probe, step)
        except MissingTraceError:
            continue
        if values is not None:
            fine = np.isfinite(values.reshape(len(values), -1)).all(1)
            return np.concatenate([fine, np.ones(max(0, probe.n - len(fine)), bool)])
    try:
        weights = view.archive.weights(step)
    except MissingTraceError:
        return np.ones(probe.n, bool)
    sound = all(np.isfinite(w).all() for w in weights.values() if w.dtype.kind in "fc")
    return np.full(probe.n, sound)


def _sums_at(archive: Any, probe: Any, step: int) -> np.ndarray | None:
    """Sums of all calls and sites; None where one of them may be NaN for another reason than the weights."""
    if archive.card.get("network") != "table":
        return None  # a model that branches leaves some out
    columns = np.concatenate(probe.sums(step), axis=1)
    # So are the sums of rows whose examples are not known, for every example.
    return None if not columns.shape[1] or np.isnan(columns).all(0).any() else columns


def _outputs_at(archive: Any, probe: Any, step: int) -> np.ndarray:
    return np.asarray(probe.outputs(step))


@source("unit_count", "step", "unit", needs=("bits", "path_defined"), itemsize=4)
def _unit_count(view: View) -> np.ndarray:
    packed, defined = view.get("bits"), view.get("path_defined")
    # Bits after a probe's last example are 0, so there is only something to leave out where the view ends earlier.
    if any(count < probe.n_masks for probe, count in view.parts()):
        positions, padded = _positions(view)
        keep = np.zeros(padded, bool)
        keep[positions] = True
        packed = [bits & np.packbits(keep) for bits in packed]
    counts = np.empty((len(packed), len(packed[0])), np.int32)
    positions, padded = _positions(view)
    for row, bits, numbers in zip(counts, packed, defined, strict=True):
        if not numbers.all():  # the bits of an example without a path may be on
            keep = np.zeros(padded, bool)
            keep[positions[numbers]] = True
            bits = bits & np.packbits(keep)
        row[:] = masks.unit_count(bits)
    return counts


@source("activations_previous", "step", "example", "any_unit", needs=("activations",), itemsize=4)
def _activations_previous(view: View) -> list[np.ndarray]:
    earlier = []
    for site, values in zip(view.archive.sites, view.get("activations"), strict=True):
        lead = np.zeros_like(values[:1]) if view.lead is None else activations_at(view, site, [view.lead])
        earlier.append(np.concatenate([lead, values[:-1]]))
    return earlier


# ---- what the loss calls correct: classes, margins, errors ----


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
    targets = np.asarray(targets)
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
    raise MissingTraceError(
        f"targets of shape {targets.shape} and type {targets.dtype} are not classes; "
        "this needs one class number, or class probabilities, for each example"
    )


def classes_in(labels: np.ndarray) -> np.ndarray:
    """The classes there are, in order; what the loss leaves out is none.

    >>> classes_in(np.array([2, 0, -100, 2]))
    array([0, 2])
    """
    return np.unique(labels[np.asarray(labels) != IGNORED])


@source("n_classes", needs=("outputs",), stream="outputs")
def _n_classes(view: View) -> int:
    return max(2, view.size("output"))


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
            f"outputs of shape {outputs.shape[1:]} give each example several answers; this needs one class for each "
            "example"
        )
    if rule.probabilities:
        with np.errstate(divide="ignore", invalid="ignore"):
            outputs = np.log(outputs)
    return outputs


@source("margins", "step", "example", needs=("scores", "labels"))
def _margins(view: View) -> np.ndarray:
    return class_margins(view.get("scores"), view.get("labels"))


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
    return correct_share(view.get("outputs"), view.get("targets"), rule)


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
        right, counts, undefined = rule.verdicts(snapshot, targets)
        share = divide((right & counts).sum(1), counts.sum(1))
        rows.append(np.where((undefined & counts).any(1), np.nan, share))
    return np.array(rows).reshape(len(rows), len(targets))
