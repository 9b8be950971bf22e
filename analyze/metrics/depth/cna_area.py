"""CNA-Area: how far apart do training and test inputs use depth, at equal complexity?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from analyze import plot
from analyze.contract import metric
from analyze.numerics import ROUNDING, merge_ties, polygon_area, running_mean
from analyze.reference import GAIN_2019

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

CURVES = ("train", "test")
POINTS = 100
Curve = tuple[np.ndarray, np.ndarray]


@metric(
    reads=("depth_slope.slope", "complexity.entropy", "split"),
    variables={
        "polygon": ("step",),
        "absolute": ("step",),
        "lobe": ("step",),
        "n_distinct": ("curve",),
        "curve_complexity": ("step", "curve", "point"),
        "curve_slope": ("step", "curve", "point"),
    },
    bounds={
        "polygon": (0, 1),
        "absolute": (0, 1),
        "lobe": (0, 1),
        "curve_complexity": (0, 1),
        "curve_slope": (0, 1),
    },
    summary=("polygon", "absolute", "lobe"),
    makes=(),
    title="CNA-Area",
    formula="area between the smoothed (α, β) curves of the training and of the test examples",
    cost="n log n per step",
    reading=(
        "Left: depth slope against complexity, smoothed, for training and test examples; the shaded area "
        "between the curves is followed on the right. The wider apart, the less the network treats unseen "
        "examples as it treats those it was trained on."
    ),
    reference=GAIN_2019,
)
def cna_area(
    depth_slope_slope: np.ndarray,
    complexity_entropy: np.ndarray,
    split: np.ndarray,
    *,
    window: int = 25,
) -> dict[str, Any]:
    """Area between the curves of depth slope against complexity of training and of test examples.

    `depth_slope_slope` (step, example), `complexity_entropy` and `split` (example,). The examples of a split are
    sorted by complexity; those of equal complexity first get the mean of their slopes, so that their order decides
    nothing (`n_distinct` (curve,) says how many complexities there are). Complexity and slope are averaged over
    every `window` neighbours, and each axis is scaled so that the two curves together span [0, 1].

    `polygon` (the authors' method): each curve, complexity as a function of slope, is read off at 100 evenly
    spaced slopes; the area enclosed by one curve forth and the other back. Lobes of opposite orientation
    cancel where the curves cross. `absolute`: the integral of |β_train - β_test| over the complexities both
    curves reach; nothing cancels: the total area. `lobe`: the largest part of it between two crossings of the curves,
    which is the one polygon inscribed between them. Equal abscissae are merged to their mean. NaN where a split has
    fewer than `window` examples with both values, where an axis is constant, and for `absolute` and `lobe` where the
    curves share no complexity.

    `curve_complexity` and `curve_slope` (step, curve, point) are the scaled curves at 100 complexities, to
    draw.

    >>> alpha = np.tile(np.arange(4.0), 2)
    >>> slope = np.concatenate([np.arange(4.0), [0.0, 0.0, 0.0, 0.0]])[None]
    >>> split = np.array(["train"] * 4 + ["test"] * 4)
    >>> result = cna_area(slope, alpha, split, window=1)
    >>> float(result["absolute"][0])
    0.5
    """
    steps = len(depth_slope_slope)
    area = np.full((3, steps), np.nan)
    drawn = np.full((2, steps, len(CURVES), POINTS), np.nan)
    for step in range(steps):
        raw = [
            _smooth(complexity_entropy[mine], depth_slope_slope[step, mine], window)
            for mine in (split == name for name in CURVES)
        ]
        curves = _scaled(raw)
        if curves is None:
            continue
        parts = lobes(*curves)
        area[0, step] = enclosed(*curves)
        if len(parts):
            area[1:, step] = parts.sum(), parts.max()
        for c, (alpha, slope) in enumerate(curves):
            drawn[:, step, c] = resample(alpha, slope)
    return {
        "polygon": area[0],
        "absolute": area[1],
        "lobe": area[2],
        "n_distinct": np.array([_distinct(complexity_entropy[split == name]) for name in CURVES]),
        "curve_complexity": drawn[0],
        "curve_slope": drawn[1],
        "curve": np.array(CURVES),
        "attrs": {"window": window},
    }


def _smooth(alpha: np.ndarray, slope: np.ndarray, window: int) -> Curve:
    order = np.lexsort((slope, alpha))
    order = order[~np.isnan(alpha[order] + slope[order])]
    alpha, slope = alpha[order], slope[order]
    _, group = np.unique(alpha, return_inverse=True)
    means = np.bincount(group, slope) / np.bincount(group)
    return running_mean(alpha, window), running_mean(means[group], window)


def _distinct(alpha: np.ndarray) -> int:
    return len(np.unique(alpha[~np.isnan(alpha)]))


def _scaled(curves: list[Curve]) -> list[Curve] | None:
    if not all(len(alpha) for alpha, _ in curves):
        return None
    axes = [np.concatenate(axis) for axis in zip(*curves, strict=True)]
    low, span = [axis.min() for axis in axes], [axis.max() - axis.min() for axis in axes]
    if not all(s > 0 for s in span):
        return None
    return [((alpha - low[0]) / span[0], (slope - low[1]) / span[1]) for alpha, slope in curves]


def resample(x: np.ndarray, y: np.ndarray) -> Curve:
    """A curve (x, y) at 100 evenly spaced abscissae over its own range, linear in between."""
    x, y = merge_ties(x, y)
    points = np.linspace(x[0], x[-1], POINTS)
    return points, np.interp(points, x, y)


def enclosed(train: Curve, test: Curve) -> float:
    """Area of the polygon along one (complexity, slope) curve and back along the other, signed lobes adding.

    >>> square = np.array([0.0, 1.0])
    >>> round(enclosed((np.zeros(2), square), (np.ones(2), square)), 12)
    1.0
    """
    (x, y), (x2, y2) = (resample(slope, alpha) for alpha, slope in (train, test))
    return polygon_area(np.concatenate([x, x2[::-1]]), np.concatenate([y, y2[::-1]]))


def lobes(train: Curve, test: Curve) -> np.ndarray:
    """Areas between two piecewise linear curves, from one crossing to the next, over the abscissae both reach.

    Empty where they share none. Where the curves touch, or run together, without changing sides, a lobe goes on.

    >>> ramp = np.array([0.0, 1.0])
    >>> lobes((ramp, ramp), (ramp, 1 - ramp))
    array([0.25, 0.25])
    """
    (x, y), (x2, y2) = merge_ties(*train), merge_ties(*test)
    low, high = max(x[0], x2[0]), min(x[-1], x2[-1])
    if high <= low:
        return np.empty(0)
    at = np.unique(np.concatenate([x, x2, [low, high]]))
    at = at[(at >= low) & (at <= high)]
    gap = np.interp(at, x, y) - np.interp(at, x2, y2)
    gap[np.abs(gap) <= ROUNDING] = 0.0
    left, right = gap[:-1], gap[1:]
    crossing = np.flatnonzero(left * right < 0)
    share = left[crossing] / (left[crossing] - right[crossing])
    at = np.insert(at, crossing + 1, at[crossing] + share * np.diff(at)[crossing])
    gap = np.insert(gap, crossing + 1, 0.0)
    area = (gap[:-1] + gap[1:]) / 2 * np.diff(at)
    sides = np.sign(area)
    changes = np.flatnonzero(np.diff(sides[sides != 0])) + 1
    starts = np.flatnonzero(sides != 0)[np.concatenate([[0], changes])] if sides.any() else np.zeros(1, int)
    starts[0] = 0
    return np.asarray(np.abs(np.add.reduceat(area, starts)))


def plot_cna_area(result: xr.Dataset, figure: Figure) -> None:
    """The two curves with the area between them at the first and last step, and both areas over training."""
    ends = sorted({0, result.sizes["step"] - 1})
    axes = plot.panels(figure, len(ends) + 1, height=2.7, sharex=False, sharey=False)
    for panel, end in zip(axes, ends, strict=False):
        at = result.isel(step=end)
        for name in CURVES:
            curve = at.sel(curve=name)
            x, y, color = curve["curve_complexity"], curve["curve_slope"], plot.SPLIT_COLORS[name]
            panel.plot(x, y, color=color, label=name)
        _shade(panel, at)
        title = f"step {int(at['step']):,}"
        panel.set(title=title, xlabel="complexity α (scaled)", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes[0].set_ylabel("depth slope β (scaled)")
    plot.legend(axes[0])
    for name, color in (
        ("polygon", plot.PALETTE[6]),
        ("absolute", plot.PALETTE[3]),
        ("lobe", plot.PALETTE[2]),
    ):
        plot.line(axes[-1], result["step"], result[name], color=color, label=name)
    plot.step_axis(axes[-1], result["step"])
    axes[-1].set(title="CNA-Area", ylabel="area", ylim=(0, None))
    plot.legend(axes[-1])


def _shade(panel: Any, at: xr.Dataset) -> None:
    (x, y), (x2, y2) = ((at["curve_complexity"].values[c], at["curve_slope"].values[c]) for c in range(2))
    low, high = max(x[0], x2[0]), min(x[-1], x2[-1])
    if high > low:
        grid = np.linspace(low, high, POINTS)
        panel.fill_between(grid, np.interp(grid, x, y), np.interp(grid, x2, y2), color=plot.GREY, alpha=0.3)
