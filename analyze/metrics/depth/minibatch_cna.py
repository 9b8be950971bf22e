"""CNA of every training minibatch, as it was seen: complexity against neural activation, update by update."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from analyze import plot
from analyze.contract import metric
from analyze.numerics import depth_slope, pearson, running_mean
from analyze.reference import GAIN_2019
from tracer.errors import ArgumentError, MissingTraceError

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

STEPS_AT_ONCE = 4096


@metric(
    reads=("minibatch_sums_pre", "minibatch_ids", "minibatch_offsets", "alpha", "alpha_ids"),
    optional={"minibatch_loss": {}, "minibatch_sums_post": {"where": "post"}},
    variables={"pearson": ("step",), "n_examples": ("step",), "loss": ("step",)},
    bounds={"pearson": (-1, 1)},
    units={"loss": "loss"},
    summary=("pearson",),
    title="CNA of each minibatch",
    formula="corr(α, β) over the minibatch; β = slope of the pre-activation sums over depth",
    cost="one correlation per update",
    reading=(
        "Correlation between how complex an input is and how its layer sums grow with depth, for the very "
        "minibatch of each update, before that update. Points scatter; the line is their running mean."
    ),
    needs='record(..., minibatch=("sums",), data=dataset)',
    reference=GAIN_2019,
)
def minibatch_cna(
    minibatch_sums_pre: np.ndarray,
    minibatch_ids: np.ndarray,
    minibatch_offsets: np.ndarray,
    alpha: np.ndarray,
    alpha_ids: np.ndarray,
    *,
    minibatch_loss: np.ndarray | None = None,
    minibatch_sums_post: np.ndarray | None = None,
    where: Literal["pre", "post"] = "pre",
) -> dict[str, Any]:
    """Pearson correlation of complexity and depth slope within the minibatch of every update.

    `minibatch_sums_pre` (id, call) holds summed pre-activations of each example when it was trained on,
    `minibatch_ids` (id,) its id; the examples of update s are rows `minibatch_offsets[s]` to
    `minibatch_offsets[s + 1]`, (step + 1,). `alpha` and `alpha_ids` (training_id,) give the complexity of
    each training example. The slope runs over all calls but the last (the scores), or with `where="post"` over
    `minibatch_sums_post` (id, site), sums after every nonlinearity. Sums are those of the
    training forward, so they belong to the weights before the update and to train mode.

    `pearson` (step,) is NaN for fewer than two examples, one hidden call, or constant complexity or slope;
    examples of unknown complexity are left out, and `n_examples` counts those used. `loss` (step,) passes the
    minibatch's loss on for the figure, NaN where it was not recorded.

    >>> sums = np.array([[0.0, 1.0, 9.0], [0.0, 2.0, 9.0], [0.0, 0.0, 9.0], [0.0, 5.0, 9.0]])
    >>> offsets, alpha = np.array([0, 3, 4]), np.array([1.0, 2.0, 0.0, 3.0])
    >>> minibatch_cna(sums, np.array([0, 1, 2, 3]), offsets, alpha, np.arange(4))["pearson"]
    array([ 1., nan])
    """
    if where not in ("pre", "post"):
        raise ArgumentError(f"where= is 'pre' or 'post', got {where!r}")
    sums = minibatch_sums_pre[:, :-1] if where == "pre" else minibatch_sums_post
    if sums is None:
        raise MissingTraceError("this recording has no sums after the nonlinearities of its minibatches")
    slope = depth_slope(sums)
    complexity = look_up(minibatch_ids, alpha_ids, alpha)
    sizes = np.diff(minibatch_offsets)
    used = np.concatenate([[0], np.cumsum(~np.isnan(complexity + slope))])[minibatch_offsets]
    values = np.full(len(sizes), np.nan)
    for start in range(0, len(sizes), STEPS_AT_ONCE):
        part = slice(start, start + STEPS_AT_ONCE)
        rows = slice(minibatch_offsets[start], minibatch_offsets[min(start + STEPS_AT_ONCE, len(sizes))])
        values[part] = pearson(*(_padded(flat[rows], sizes[part]) for flat in (complexity, slope)))
    loss = np.full(len(sizes), np.nan) if minibatch_loss is None else np.asarray(minibatch_loss, np.float64)
    return {"pearson": values, "n_examples": np.diff(used), "loss": loss}


def look_up(wanted: np.ndarray, ids: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Value of each wanted id; NaN for an id that is not among `ids`.

    >>> look_up(np.array([7, 1, 2]), np.array([2, 7]), np.array([0.5, 0.25]))
    array([0.25,  nan, 0.5 ])
    """
    if not len(ids):
        return np.full(len(wanted), np.nan)
    order = np.argsort(ids, kind="stable")
    at = np.minimum(np.searchsorted(ids, wanted, sorter=order), len(ids) - 1)
    return np.where(ids[order[at]] == wanted, values[order[at]], np.nan)


def _padded(flat: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    inside = np.arange(sizes.max(initial=0)) < sizes[:, None]
    table = np.full(inside.shape, np.nan)
    table[inside] = flat
    return table


def plot_minibatch_cna(result: xr.Dataset, figure: Figure) -> None:
    """Training loss and minibatch CNA against the minibatch number, each with its running mean."""
    names = ["loss", "pearson"] if result["loss"].notnull().any() else ["pearson"]
    axes = plot.panels(figure, len(names), columns=2, height=2.7, sharey=False)
    labels = {"loss": "training loss", "pearson": "CNA before the update"}
    for panel, name, color in zip(axes, names, plot.PALETTE, strict=False):
        shown = result[["step", name]].dropna("step", subset=[name])
        step, values = shown["step"].values, shown[name].values
        window = min(180, max(1, len(values) // 10))
        panel.plot(step, values, ".", markersize=1.5, color=color, alpha=0.35, label="minibatch")
        smooth = running_mean(values, window)
        panel.plot(step[window // 2 :][: len(smooth)], smooth, color="black", label=f"mean of {window}")
        panel.set(xlabel="minibatch number (update)", ylabel=labels[name])
        plot.legend(panel, markerscale=5)
    plot.zero_line(axes[-1])
