"""Early-to-mid path similarity: did paths settle before the learning rate first fell?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from analyze import plot
from analyze.contract import metric
from analyze.numerics import divide, mean_defined
from analyze.reference import GUPTA_2022
from tracer.errors import MissingTraceError

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

EARLY, MID, OTHER = 0, 1, -1


@metric(
    reads=("path_cross_similarity.mean", "lr", "epoch_end", "step"),
    variables={
        "ratio": ("site",),
        "ratio_mean": (),
        "similarity": ("step", "site"),
        "period": ("step",),
    },
    scope="train",
    whole=True,
    bounds={"ratio": (0, np.inf), "ratio_mean": (0, np.inf), "similarity": (0, 1), "period": (-1, 1)},
    integers=("period",),
    summary=("ratio_mean",),
    makes=(),
    title="Early-to-mid path similarity",
    formula="ρ = mean of R̄ before the first change of the learning rate / mean between the first and second",
    cost="none beyond path_cross_similarity",
    reading=(
        "Mean cross path similarity of the training examples from epoch to epoch; shaded the early and the "
        "mid period. The ratio of their means, per site, goes with generalization across models."
    ),
    needs="a learning rate that changes at least once, and snapshots at the ends of epochs",
    reference=GUPTA_2022,
)
def path_overlap_ratio(
    path_cross_similarity_mean: np.ndarray,
    lr: np.ndarray,
    epoch_end: np.ndarray,
    step: np.ndarray,
    *,
    milestones: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Mean cross path similarity before the first change of the learning rate, over that until the second.

    `path_cross_similarity_mean` (step, site) compares each snapshot with the one before, over pairs of
    training examples; `lr` (step, param_group) is the rate of the update that produced a snapshot,
    `epoch_end` and `step` (step,) say which it is. The early period holds the comparisons up to the last
    epoch at the first rate, the mid period those at the second rate, to the end where it never changes again:
    no comparison spans two rates. With `milestones`, steps (m1, m2), early is step <= m1 and mid m1 < step <=
    m2.

    `ratio` (site,) and its mean over sites, `ratio_mean`, are NaN where a period has no defined similarity or
    the mid mean is 0. `similarity` repeats the input, and `period` (step,) is 0 for early, 1 for mid, else
    -1, to draw.

    Raises MissingTraceError where snapshots are not ends of epochs or the rate never changes.

    >>> similarity = np.array([[np.nan], [0.2], [0.4], [0.5], [0.7]])
    >>> rate = np.array([[0.1], [0.1], [0.1], [0.01], [0.01]])
    >>> result = path_overlap_ratio(similarity, rate, np.ones(5, bool), np.arange(5))
    >>> result["ratio"].round(6), result["period"].tolist()
    (array([0.5]), [-1, 0, 0, 1, 1])
    """
    if milestones is None:
        if not np.all(epoch_end[1:]):
            raise MissingTraceError(
                "compares whole epochs, and the snapshots of masks are not ends of epochs; "
                "record with snapshots=tracer.epochs()"
            )
        period = periods(lr)
    else:
        first, second = milestones
        period = np.where(step <= first, EARLY, np.where(step <= second, MID, OTHER))
    early, mid = (mean_defined(path_cross_similarity_mean[period == part], 0)[0] for part in (EARLY, MID))
    ratio = divide(early, mid)
    return {
        "ratio": ratio,
        "ratio_mean": mean_defined(ratio)[0],
        "similarity": path_cross_similarity_mean,
        "period": period,
    }


def periods(lr: np.ndarray) -> np.ndarray:
    """Period of each snapshot (step,) from the rate (step, param_group) of the update that produced it.

    >>> periods(np.array([[np.nan], [1.0], [0.1], [0.01]])).tolist()
    [-1, 0, 1, -1]
    """
    if len(lr) < 3:
        raise MissingTraceError(
            "needs masks at the ends of two epochs or more, between which the learning rate changes; "
            "record with snapshots=tracer.epochs()"
        )
    # The first snapshot compares with nothing, and no update produced it.
    changed = np.any(lr[2:] != lr[1:-1], axis=1)
    rates = np.concatenate([[0], np.cumsum(changed)])
    if not changed.any():
        raise MissingTraceError(
            "needs a learning rate that changes between epochs, and this one never does; "
            "give the option milestones= two steps to compare without"
        )
    names = np.array([EARLY, MID, OTHER])
    return np.concatenate([[OTHER], names[np.minimum(rates, 2)]])


def plot_path_overlap_ratio(result: xr.Dataset, figure: Figure) -> None:
    """Similarity from epoch to epoch with both periods shaded, and the ratio of each site."""
    left, right = plot.panels(figure, 2, columns=2, height=2.9, sharex=False, sharey=False)
    sites, steps, period = result["site"].values, result["step"].values, result["period"].values
    colors = plot.depth_colors(len(sites))
    for k, color in enumerate(colors):
        plot.line(left, steps, result["similarity"].isel(site=k), color=color, label=str(sites[k]))
    for part, name, shade in ((EARLY, "early", plot.PALETTE[4]), (MID, "mid", plot.PALETTE[5])):
        inside = np.flatnonzero(period == part)
        if len(inside):
            left.axvspan(steps[max(inside[0] - 1, 0)], steps[inside[-1]], color=shade, alpha=0.18, label=name)
    left.set(ylabel="mean cross path similarity", title="From epoch to epoch")
    plot.step_axis(left, steps)
    right.barh(np.arange(len(sites)), result["ratio"], color=colors)
    plot.name_ticks(right.yaxis, sites)
    right.invert_yaxis()
    mean = float(result["ratio_mean"])
    right.axvline(mean, color="black", linewidth=1.0, linestyle="--")
    right.set(xlabel="early / mid", title=f"Ratio by site (mean {mean:.3f}, dashed)")
    plot.legend(left)
