"""CNA-Area: how far apart do training and test inputs use depth, at equal complexity?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from analyze import plot
from analyze.contract import metric
from analyze.numerics import merge_ties, polygon_area, running_mean
from analyze.reference import GAIN_2019

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

CURVES = ("train", "test")
POINTS = 100
Curve = tuple[np.ndarray, np.ndarray]


@metric(
    reads=("depth_slope.slope", "complexity.entropy", "split", "ids"),
    variables={
        "polygon": ("step",),
        "absolute": ("step",),
        "curve_complexity": ("step", "curve", "point"),
        "curve_slope": ("step", "curve", "point"),
    },
    bounds={
        "polygon": (0, 1),
        "absolute": (0, 1),
        "curve_complexity": (0, 1),
        "curve_slope": (0, 1),
    },
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
    ids: np.ndarray,
    *,
    window: int = 25,
) -> dict[str, Any]:
    """Area between the curves of depth slope against complexity of training and of test examples.

    `depth_slope_slope` (step, example), `complexity_entropy`, `split` and `ids` (example,). The examples of a
    split are sorted by complexity (equal ones by id), complexity and slope are averaged over every `window`
    neighbours, and each axis is scaled so that the two curves together span [0, 1].

    `polygon` (the authors' method): each curve, complexity as a function of slope, is read off at 100 evenly
    spaced slopes; the area enclosed by one curve forth and the other back. Lobes of opposite orientation
    cancel where the curves cross. `absolute`: the integral of |β_train - β_test| over the complexities both
    curves reach; nothing cancels. Equal abscissae are merged to their mean. NaN where a split has fewer than
    `window` examples with both values, where an axis is constant, and for `absolute` where the curves share
    no complexity.

    `curve_complexity` and `curve_slope` (step, curve, point) are the scaled curves at 100 complexities, to
    draw.

    >>> alpha = np.tile(np.arange(4.0), 2)
    >>> slope = np.concatenate([np.arange(4.0), [0.0, 0.0, 0.0, 0.0]])[None]
    >>> split = np.array(["train"] * 4 + ["test"] * 4)
    >>> result = cna_area(slope, alpha, split, np.arange(8), window=1)
    >>> float(result["absolute"][0])
    0.5
    """
    steps = len(depth_slope_slope)
    area = np.full((2, steps), np.nan)
    drawn = np.full((2, steps, len(CURVES), POINTS), np.nan)
    for step in range(steps):
        raw = [
            _smooth(complexity_entropy[mine], depth_slope_slope[step, mine], ids[mine], window)
            for mine in (split == name for name in CURVES)
        ]
        curves = _scaled(raw)
        if curves is None:
            continue
        area[:, step] = enclosed(*curves), between(*curves)
        for c, (alpha, slope) in enumerate(curves):
            drawn[:, step, c] = resample(alpha, slope)
    return {
        "polygon": area[0],
        "absolute": area[1],
        "curve_complexity": drawn[0],
        "curve_slope": drawn[1],
        "curve": np.array(CURVES),
        "attrs": {"window": window},
    }


def _smooth(alpha: np.ndarray, slope: np.ndarray, ids: np.ndarray, window: int) -> Curve:
    order = np.lexsort((ids, alpha))
    order = order[~np.isnan(alpha[order] + slope[order])]
    return running_mean(alpha[order], window), running_mean(slope[order], window)


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


def between(train: Curve, test: Curve) -> float:
    """Integral of the distance of two piecewise linear curves over the abscissae both reach; NaN if none.

    >>> ramp = np.array([0.0, 1.0])
    >>> between((ramp, ramp), (ramp, 1 - ramp))
    0.5
    """
    (x, y), (x2, y2) = merge_ties(*train), merge_ties(*test)
    low, high = max(x[0], x2[0]), min(x[-1], x2[-1])
    if high <= low:
        return np.nan
    at = np.unique(np.concatenate([x, x2, [low, high]]))
    at = at[(at >= low) & (at <= high)]
    gap = np.interp(at, x, y) - np.interp(at, x2, y2)
    left, right = np.abs(gap[:-1]), np.abs(gap[1:])
    crossing = np.sign(gap[:-1]) * np.sign(gap[1:]) < 0
    total = np.where(left + right > 0, left + right, 1.0)
    # Where the curves cross, two triangles instead of a trapezium.
    mean = np.where(crossing, (left**2 + right**2) / (2 * total), (left + right) / 2)
    return float(np.sum(mean * np.diff(at)))


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
        title = f"step {int(at['step'])}"
        panel.set(title=title, xlabel="complexity α (scaled)", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes[0].set_ylabel("depth slope β (scaled)")
    plot.legend(axes[0])
    for name, color in (("polygon", plot.PALETTE[6]), ("absolute", plot.PALETTE[3])):
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
