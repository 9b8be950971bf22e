"""Figures of a comparison: which measures follow generalization, and how."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from analyze import plot
from analyze.comparison.measures import WORDS
from analyze.comparison.rank_correlation import STATISTICS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from analyze.comparison.comparison import Comparison

BARS, SCATTERS, LINES = 24, 6, 5
BAND = 0.9  # of a bar's slot that its bars take
OVERLAP = "path_overlap_ratio.ratio_mean"


def leaders(comparison: Comparison, target: str, count: int) -> list[str]:
    """The measures that follow a target most closely, one label of each variable."""
    best: dict[str, str] = {}
    for label in comparison.ranked(target):
        best.setdefault(label.partition("[")[0], label)
    return list(best.values())[:count]


def bars(comparison: Comparison, figure: Figure, target: str) -> None:
    """Size of Kendall's and Pearson's correlation of each leading measure, with 95 % intervals."""
    labels = leaders(comparison, target, BARS)
    figure.set_size_inches(plot.ALONE, 0.9 + 0.3 * max(len(labels), 3))
    axes = figure.subplots()
    places = np.arange(len(labels))
    shown = ("kendall", "pearson")
    height = BAND / len(shown)
    data = comparison.turned.sel(measure=labels, target=target)
    for k, name in enumerate(shown):
        size, *span = (data[key].sel(statistic=name).values for key in ("value", "low", "high"))
        ends = np.stack(span)
        at = places + (k - (len(shown) - 1) / 2) * height
        color = plot.PALETTE[0] if k == 0 else plot.PALETTE[4]
        axes.barh(at, size, height * 0.92, color=color, label=name.capitalize())
        drawn = np.isfinite(ends).all(0)
        reach = np.stack([size - ends[0], ends[1] - size])[:, drawn].clip(0)
        axes.errorbar(size[drawn], at[drawn], xerr=reach, fmt="none", ecolor="0.25", elinewidth=0.7)
    signs = ["−" if sign < 0 else "+" for sign in data["sign"].values]
    names = [f"{label}  {sign}".replace(".", ".\n", 1) for label, sign in zip(labels, signs, strict=True)]
    axes.set_yticks(places, names, fontsize="small")
    axes.invert_yaxis()
    axes.axvline(0, color="0.3", linewidth=0.7)
    axes.set(
        xlabel="correlation",
        xlim=(None, 1.02),
    )
    if labels:
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper right", ncols=2)


def scatters(comparison: Comparison, figure: Figure, target: str, labels: list[str] | None = None) -> None:
    """Each leading measure against the target, one point a run."""
    labels = leaders(comparison, target, SCATTERS) if labels is None else labels
    panels = plot.panels(figure, len(labels) or 1, columns=min(3, len(labels) or 1), height=2.2, sharex=False)
    for k, (axes, label) in enumerate(zip(panels, labels, strict=False)):
        _scatter(axes, comparison, label, target)
        axes.set_ylabel(WORDS[target] if k % 3 == 0 else "")


def overlap(comparison: Comparison, figure: Figure, target: str) -> None:
    """Early-to-mid path similarity against the target: a point a run."""
    axes = plot.panels(figure, 1, height=2.8)[0]
    _scatter(axes, comparison, OVERLAP, target)
    axes.set(xlabel="early-to-mid ratio of path similarity", ylabel=WORDS[target])


def environments(comparison: Comparison, figure: Figure, target: str) -> None:
    """Share of environments in which the sign error is at most so large, for the leading measures."""
    axes = plot.panels(figure, 1, height=2.8)[0]
    for k, label in enumerate(leaders(comparison, target, LINES)):
        one = comparison.turned.sel(measure=label, target=target)
        errors = one["sign_error"].values
        errors = np.sort(errors[~np.isnan(errors)])
        if len(errors):
            name = f"− {label}" if one["sign"] < 0 else label
            share = np.arange(1, len(errors) + 1) / len(errors)
            color = plot.PALETTE[k % len(plot.PALETTE)]
            axes.step([0, *errors, 1], [0, *share, 1], where="post", label=name, color=color)
    axes.axvline(0.5, color=plot.GREY, linewidth=0.8, linestyle="--")
    axes.set(xlabel="sign error (0.5 is a coin)", ylabel="share of environments", xlim=(-0.02, 1.02))
    plot.legend(axes)


def _scatter(axes: Axes, comparison: Comparison, label: str, target: str) -> None:
    x, y = (comparison.table[name].to_numpy(float) for name in (label, target))
    defined = np.isfinite(x) & np.isfinite(y)
    drawn = axes.scatter(x[defined], y[defined], s=14, color=plot.PALETTE[0], alpha=0.75, linewidths=0)
    plot.name_points(drawn, list(comparison.table.index[defined]))
    positive = x[defined]
    if len(positive) and positive.min() > 0 and positive.max() > 100 * positive.min():
        axes.set_xscale("log")
    else:
        axes.locator_params(axis="x", nbins=4)
    cell = comparison.correlations["value"].sel(measure=label, target=target).values
    tau, rho = cell[STATISTICS.index("kendall")], cell[STATISTICS.index("pearson")]
    axes.set_title(f"{label}\nKendall {tau:.2f}, Pearson {rho:.2f}".replace("-0.", "−0."))
