"""Neighbourhood stiffness: does a step on an example help the examples around it?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from analyze import plot
from analyze.arrays.bands import Pairs, bands, table
from analyze.contract import metric
from analyze.numerics import divide, pairwise_distance, settled
from analyze.reference import WALKER_2023
from tracer.errors import ArgumentError

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

MARKERS = ("o", "s", "^", "D", "v")  # classes, where few enough to tell apart


@metric(
    reads=("cosine", "gram", "inputs", "ids", "layer"),
    variables={
        "cosine": ("step", "example"),
        "sign": ("step", "example"),
        "n_neighbours": ("step", "example"),
        "position": ("example", "component"),
    },
    scope="train",
    bands=True,
    makes=[("example", "example")] * 4,  # distances, and the weights of neighbours
    bounds={"cosine": (-1, 1), "sign": (-1, 1)},
    units={"position": "input units"},
    sketched=("cosine", "sign"),
    summary=("cosine",),
    title="Neighbourhood stiffness",
    formula="N_i = sum_j w_ij S(i, j) / sum_j w_ij over the nearest neighbours j of i",
    cost="n² distances once, n² per step",
    reading=(
        "Each point is a training example where it lies in input space. Low or negative values line up "
        "along the boundary the network has learned: there a step on one example hurts its neighbours."
    ),
    reference=WALKER_2023,
)
def neighbourhood_stiffness(
    cosine: Pairs,
    gram: Pairs,
    inputs: np.ndarray,
    ids: np.ndarray,
    layer: np.ndarray,
    *,
    neighbours: int = 10,
    radius: float | None = None,
    kernel: Literal["uniform", "gaussian"] = "uniform",
    layer_name: str = "all",
) -> dict[str, Any]:
    """Weighted mean stiffness between an example and its nearest neighbours in input space.

    `cosine` and `gram` (step, layer, example, example_2) hold cosines and inner products of per-example loss
    gradients, `inputs` (example, ...), `ids` (example,), `layer` the layer names, of which `layer_name` is
    taken. The neighbours of an example, itself excluded, are the `neighbours` nearest by Euclidean distance
    (of equally near ones the lower id), or with `radius` all within it. `kernel="uniform"` weighs them
    equally, `"gaussian"` by exp(-d²/2h²), h the median distance of a neighbour. A pair with a zero gradient
    has sign 0 and no cosine: it is left out of the cosine, and of `n_neighbours`, which counts those used.
    NaN where there is none.

    `position` (example, component) is where to draw an example: its input where that has two values, else the
    first two principal components of the inputs.

    >>> gram = np.array([[[[1.0, 1.0, -1.0], [1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]]]])
    >>> inputs = [[0.0, 0.0], [1.0, 0.0], [5.0, 0.0]]
    >>> neighbourhood_stiffness(gram, gram, inputs, [0, 1, 2], ["all"], neighbours=1)["cosine"]
    array([[ 1.,  1., -1.]])
    """
    at = list(np.asarray(layer)).index(layer_name)
    weights = neighbour_weights(inputs, ids, neighbours, radius, kernel)
    gram, cosine = table(gram), table(cosine)
    total, known, signs = (np.empty((len(gram), len(weights))) for _ in range(3))
    used = np.empty(total.shape, np.int64)
    for step in range(len(gram)):
        for (rows, products), (_, cosines) in zip(bands(gram, step), bands(cosine, step), strict=True):
            own, defined = weights[rows], ~np.isnan(cosines[at])
            total[step, rows] = np.einsum("ij,ij->i", own, np.where(defined, cosines[at], 0.0))
            known[step, rows] = np.einsum("ij,ij->i", own, defined)
            signs[step, rows] = np.einsum("ij,ij->i", own, np.sign(products[at]))
            used[step, rows] = np.count_nonzero(own * defined, axis=-1)
    position, share = positions(inputs)
    return {
        "cosine": divide(total, known),
        "sign": divide(signs, weights.sum(1)),
        "n_neighbours": used,
        "position": position,
        "component": np.array([1, 2]),
        "attrs": {"position_variance_share": share},
    }


def neighbour_weights(
    inputs: np.ndarray, ids: np.ndarray, neighbours: int, radius: float | None, kernel: str
) -> np.ndarray:
    """Weight of example_2 in the neighbourhood of example (example, example_2), 0 outside it.

    >>> neighbour_weights([[0.0], [1.0], [-1.0]], [5, 8, 6], 1, None, "uniform")[0]
    array([0., 0., 1.])
    """
    distance = pairwise_distance(inputs)
    np.fill_diagonal(distance, np.inf)
    if radius is None:
        order = np.argsort(np.asarray(ids), kind="stable")
        nearest = order[np.argsort(settled(distance)[:, order], axis=1, kind="stable")]
        inside = np.zeros(distance.shape, dtype=bool)
        np.put_along_axis(inside, nearest[:, : min(neighbours, len(distance) - 1)], True, axis=1)
    else:
        inside = distance <= radius
    inside &= np.isfinite(distance)  # an input that is not finite has no neighbours, and is none
    width = np.median(distance[inside]) if inside.any() else 0.0
    if kernel == "uniform" or width == 0:
        return inside.astype(np.float64)
    if kernel != "gaussian":
        raise ArgumentError(f"kernel is 'uniform' or 'gaussian', got {kernel!r}")
    return np.where(inside, np.exp(-np.square(distance) / (2 * width**2)), 0.0)


def positions(inputs: np.ndarray) -> tuple[np.ndarray, float]:
    """Two coordinates per example, and the share of the variance of the inputs they show.

    >>> positions([[3.0, 4.0], [1.0, 2.0]])
    (array([[3., 4.],
           [1., 2.]]), 1.0)
    """
    rows = np.asarray(inputs, np.float64)
    rows = rows.reshape(len(rows), -1)
    if rows.shape[1] == 2:
        return rows, 1.0
    shown = np.full((len(rows), 2), np.nan)
    finite = np.isfinite(rows).all(1)
    rows = rows[finite]
    left, scale, right = np.linalg.svd(rows - rows.mean(0) if len(rows) else rows, full_matrices=False)
    # The sign of a principal component is arbitrary; fix it so that reruns draw the same picture.
    signs = np.sign(right[np.arange(len(right)), np.abs(right).argmax(1)])
    shown[finite] = 0.0
    n_axes = min(2, len(scale))
    shown[finite, :n_axes] = (left * scale * signs)[:, :n_axes]
    return shown, float(divide(np.square(scale[:2]).sum(), np.square(scale).sum()))


def plot_neighbourhood_stiffness(result: xr.Dataset, figure: Figure) -> None:
    """The data in two dimensions, each example coloured by its stiffness, at up to three steps."""
    shown = plot.pick(result["step"].values, 3)
    titles = [f"step {int(result['step'][k]):,}" for k in shown]
    axes = plot.panels(figure, len(shown), titles=titles, height=2.9)
    share = float(result.attrs.get("position_variance_share", 1.0))
    names = ["input 1", "input 2"] if share == 1.0 else ["principal component 1", "principal component 2"]
    labels = result["label"].values if "label" in result.coords else np.zeros(result.sizes["example"])
    classes = list(np.unique(labels))
    x, y = result["position"].values.T
    drawn: Any = None
    low, high = plot.around_zero(result["cosine"].values[shown])
    for k, panel in zip(shown, axes, strict=True):
        value = result["cosine"].isel(step=k).values
        for c, label in enumerate(classes):
            mine = labels == label
            style: Any = {
                "edgecolors": plot.GREY,
                "linewidths": 0.4,
                "vmin": low,
                "vmax": high,
                "cmap": plot.DIVERGING,
            }
            marker = MARKERS[c] if len(classes) <= len(MARKERS) else "o"
            drawn = panel.scatter(
                x[mine], y[mine], c=value[mine], s=22, marker=marker, plotnonfinite=False, **style
            )
        panel.set_xlabel(names[0])
    within = f"\n({100 * share:.0f} % of the variance is in this plane)" if share < 1.0 else ""
    axes[0].set_ylabel(names[1] + within)
    figure.colorbar(drawn, ax=axes, label="mean cosine with neighbours", shrink=0.9)
