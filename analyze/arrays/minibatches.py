"""Arrays of training minibatches: of every update whose ids are known."""

from __future__ import annotations

import numpy as np

from analyze.arrays import View, source
from tracer.errors import MissingTraceError


@source("minibatch_ids", "step", "minibatch", stream="minibatch")
def _minibatch_ids(view: View) -> np.ndarray:
    return view.archive.minibatch.rows("ids", view.steps)


@source("minibatch_offsets", "step", stream="minibatch")
def _minibatch_offsets(view: View) -> np.ndarray:
    seen = view.archive.minibatch
    sizes = np.diff(seen.offsets)[np.searchsorted(seen.steps, view.steps)]
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


@source("minibatch_sums_pre", "step", "minibatch", "call", stream="minibatch")
def _minibatch_sums_pre(view: View) -> np.ndarray:
    return view.archive.minibatch.rows("pre", view.steps).astype(np.float64)


@source("minibatch_sums_post", "step", "minibatch", "any_site", stream="minibatch")
def _minibatch_sums_post(view: View) -> np.ndarray:
    return view.archive.minibatch.rows("post", view.steps).astype(np.float64)


@source("minibatch_correct", "step", "minibatch", stream="minibatch")
def _minibatch_correct(view: View) -> np.ndarray:
    correct = view.archive.minibatch.rows("correct", view.steps)
    return np.where(correct < 0, np.nan, correct)


@source("minibatch_losses", "step", "minibatch", stream="minibatch")
def _minibatch_losses(view: View) -> np.ndarray:
    return view.archive.minibatch.rows("loss", view.steps)


@source("minibatch_loss", "step", stream="minibatch")
def _minibatch_loss(view: View) -> np.ndarray:
    """Loss of each update as logged, else the mean over its examples."""
    rows = view.archive.rows
    logged = rows["loss"][np.searchsorted(rows["step"], view.steps)]
    if not np.isnan(logged).any():
        return logged
    try:
        losses = view.archive.minibatch.rows("loss", view.steps)
    except MissingTraceError:
        return logged
    starts = _minibatch_offsets(view)
    means = np.add.reduceat(losses, starts[:-1]) / np.diff(starts) if len(losses) else logged
    return np.where(np.isnan(logged), means, logged)


@source("n_train", of="training")
def _n_train(view: View) -> int:
    """How many training examples there are: in the set that was recorded, else seen in training, else probed."""
    try:
        return len(view.archive.data.ids)
    except MissingTraceError:
        pass
    runs = [view.archive] if view.archive.world_size == 1 else view.archive.ranks.values()
    try:
        ids = np.concatenate([run.array("steps", "ids") for run in runs])
    except MissingTraceError:
        ids = np.empty(0)
    if len(ids):
        return len(np.unique(ids))
    if probed := sum(probe.n for probe in view.archive.probes.values() if probe.split == "train"):
        return probed
    raise MissingTraceError(
        "how many training examples there are is not known: record ids with run.batches(loader) or run.step(ids=...), "
        "or a probe of split 'train'"
    )
