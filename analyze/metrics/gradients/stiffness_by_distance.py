"""Stiffness against input distance: how far from an example does learning it still help?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from analyze import plot
from analyze.arrays.bands import Pairs, bands, table
from analyze.contract import metric
from analyze.numerics import ROUNDING, divide, pairwise_distance
from analyze.reference import FORT_2019
from tracer.spec.correctness import IGNORED

ESTIMATORS = ("crossing", "linear_fit")

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@metric(
    reads=("cosine", "inputs", "labels", "layer"),
    variables={
        "cosine": ("step", "bin"),
        "n_pairs": ("step", "bin"),
        "critical_length": ("step", "estimator"),
    },
    scope="train",
    bands=True,
    makes=[("example", "example")] * 4,  # distances, and what is said of their pairs
    bounds={"cosine": (-1, 1), "critical_length": (0, np.inf)},
    sketched=("cosine", "critical_length"),
    summary={"critical_length": {"estimator": "each"}},
    title="Stiffness by input distance",
    formula="d = 1 - x·x' / (|x||x'|);  critical length ξ: the d at which the mean cosine reaches 0",
    cost="n² distances once, n² per step",
    reading=(
        "Left: near pairs help each other (cosine above 0), distant ones less. The distance where a curve "
        "meets 0 is the critical length, followed on the right: shorter means a more intricate function."
    ),
    reference=FORT_2019,
)
def stiffness_by_distance(
    cosine: Pairs,
    inputs: np.ndarray,
    labels: np.ndarray,
    layer: np.ndarray,
    *,
    bins: int = 20,
    within_class: bool = True,
    layer_name: str = "all",
) -> dict[str, Any]:
    """Mean cosine of two gradients as a function of the distance of their inputs, and where it reaches 0.

    `cosine` (step, layer, example, example_2) holds cosines of per-example loss gradients, `inputs` (example,
    ...) what the model sees, `labels` (example,), `layer` the layer names, of which `layer_name` is taken.
    Unordered pairs of one class (all pairs with `within_class=False`) fall by cosine distance of the inputs
    into `bins` equal bins between the smallest and the largest distance; coordinate `bin` is a bin's middle.
    `n_pairs` counts the pairs used: those with a zero gradient or an all-zero input are left out. An empty
    bin is NaN.

    `critical_length` by `crossing` (linear between the last positive bin mean and the first at or below 0,
    empty bins skipped) and by `linear_fit` (-a/b of the least-squares line a + b d over pairs; Fort et al.):
    0 where stiffness is not positive even at the smallest distance, inf where it never comes down to 0, NaN
    where there is no pair (for the line: no two different distances).

    >>> gradients = np.array([[[1.0, 0.9, -0.5], [0.9, 1.0, 0.2], [-0.5, 0.2, 1.0]]])[None]
    >>> angles = np.array([0.0, 0.3, 1.5])
    >>> inputs = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    >>> result = stiffness_by_distance(gradients, inputs, [7, 7, 7], ["all"], bins=4)
    >>> result["n_pairs"], result["critical_length"].round(2)
    (array([[1, 0, 1, 1]]), array([[0.66, 0.67]]))
    """
    values, distance = _pairs(cosine, inputs, labels, list(np.asarray(layer)).index(layer_name), within_class)
    index, middles = _bins(distance, bins)
    defined = ~np.isnan(values)
    count = np.array([np.bincount(index[ok], minlength=bins) for ok in defined]).reshape(-1, bins)
    total = [np.bincount(index[ok], v[ok], minlength=bins) for v, ok in zip(values, defined, strict=True)]
    mean = divide(np.reshape(total, (-1, bins)), count)
    lengths = [
        (crossing(middles, m), linear_fit(distance[ok], v[ok]))
        for m, v, ok in zip(mean, values, defined, strict=True)
    ]
    return {
        "cosine": mean,
        "n_pairs": count,
        "critical_length": np.reshape(lengths, (-1, 2)),
        "bin": middles,
        "estimator": np.array(ESTIMATORS),
    }


def _pairs(
    cosine: Pairs, inputs: np.ndarray, labels: np.ndarray, layer: int, within_class: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Cosines (step, pair) and distances (pair,) of the pairs that count."""
    cosine, labels = table(cosine), np.asarray(labels)
    apart = pairwise_distance(inputs, "cosine")
    places: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # of a band: rows within it, columns
    values = []
    for step in range(len(cosine)):
        parts = []
        for rows, cosines in bands(cosine, step):
            if rows.start not in places:
                same = (labels[rows, None] == labels) & (labels[rows, None] != IGNORED)
                keep = ~np.isnan(apart[rows]) & (same | (not within_class))
                first, second = np.nonzero(np.triu(keep, rows.start + 1))
                places[rows.start] = first, second
            parts.append(cosines[layer][places[rows.start]])
        values.append(np.concatenate(parts))
    distance = [apart[start:][where] for start, where in sorted(places.items())]
    return np.stack(values), np.concatenate(distance)


def _bins(distance: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    low, high = (distance.min(), distance.max()) if len(distance) else (0.0, 2.0)
    width = (high - low if _apart(low, high) else 1.0) / bins
    index = np.minimum(((distance - low) / width).astype(np.int64), bins - 1)
    return index, low + width * (np.arange(bins) + 0.5)


def _apart(low: float, high: float) -> bool:
    """Whether two distances differ by more than rounding."""
    return high - low > ROUNDING * high


def crossing(distance: np.ndarray, mean: np.ndarray) -> float:
    """Distance at which bin means (bin,) first go from above 0 to 0 or below, NaN bins skipped.

    >>> crossing(np.array([0.1, 0.2, 0.3]), np.array([0.5, np.nan, -0.5])), crossing(np.ones(1), np.ones(1))
    (0.2, inf)
    """
    distance, mean = distance[~np.isnan(mean)], mean[~np.isnan(mean)]
    if not len(mean):
        return np.nan
    below = np.flatnonzero(mean <= ROUNDING * np.abs(mean).max())
    if not len(below):
        return np.inf
    k = below[0]
    if k == 0:
        return 0.0
    return float(distance[k - 1] + (distance[k] - distance[k - 1]) * mean[k - 1] / (mean[k - 1] - mean[k]))


def linear_fit(distance: np.ndarray, value: np.ndarray) -> float:
    """Distance at which the least-squares line through (distance, value) comes down to 0.

    >>> round(linear_fit(np.array([0.0, 1.0]), np.array([1.0, 0.5])), 6)
    2.0
    """
    if not len(distance) or not _apart(distance.min(), distance.max()):
        return np.nan
    centred = distance - distance.mean()
    slope = float(centred @ (value - value.mean()) / (centred @ centred))
    if abs(slope) * (distance.max() - distance.min()) <= ROUNDING * np.abs(value).max():
        slope = 0.0  # of equal values it is rounding, and where such a line comes down, chance
    at_smallest = value.mean() + slope * (distance.min() - distance.mean())
    if at_smallest <= 0:
        return 0.0
    return float(distance.min() - at_smallest / slope) if slope < 0 else np.inf


def plot_stiffness_by_distance(result: xr.Dataset, figure: Figure) -> None:
    """Stiffness against distance at a few steps, and the critical length against training."""
    left, right = plot.panels(figure, 2, columns=2, height=2.8, sharex=False, sharey=False)
    shown = plot.pick(result["step"].values, 5)
    for k, color in zip(shown, plot.depth_colors(len(shown)), strict=True):
        at = result.isel(step=k).dropna("bin", subset=["cosine"])
        plot.line(left, at["bin"], at["cosine"], color=color, label=f"step {int(at['step']):,}")
    plot.zero_line(left)
    left.set(xlabel="input distance, 1 − cos(x, x′)", ylabel="mean gradient cosine", title="Stiffness")
    plot.legend(left)
    _plot_lengths(right, result)


def _plot_lengths(axes: Axes, result: xr.Dataset) -> None:
    steps = result["step"].values
    lengths = {str(name): result["critical_length"].sel(estimator=name).values for name in ESTIMATORS}
    finite = [value for values in lengths.values() for value in values if np.isfinite(value)]
    # An infinite length has no height to be drawn at: a triangle above the others stands for it.
    never = 1.15 * max(finite, default=1.0) or 1.0
    for k, (name, values) in enumerate(lengths.items()):
        label, color = name.replace("_", " "), plot.PALETTE[k]
        plot.line(axes, steps, np.where(np.isinf(values), np.nan, values), color=color, label=label)
        absent = np.isinf(values)
        axes.plot(steps[absent], np.full(absent.sum(), never * (1 - 0.05 * k)), "^", color=color)
    plot.step_axis(axes, steps)
    axes.set(ylabel="critical length ξ", title="Where stiffness reaches 0 (▲ never)", ylim=(0, 1.05 * never))
    plot.legend(axes)
