"""Gradient confusion: how strongly can one example's step undo another's?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analyze import plot
from analyze.arrays.bands import bands, diagonal, table
from analyze.contract import metric
from analyze.metrics.gradients.gradient_diversity import layer_heat, probe_lines
from analyze.numerics import divide, pairs_of
from analyze.reference import Reference

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SANKARARAMAN_2020 = Reference(
    key="sankararaman2020impact",
    authors=("Sankararaman, Karthik A.", "De, Soham", "Xu, Zheng", "Huang, W. Ronny", "Goldstein, Tom"),
    title=(
        "The Impact of Neural Network Overparameterization on Gradient Confusion and Stochastic Gradient "
        "Descent"
    ),
    year=2020,
    venue="International Conference on Machine Learning",
    arxiv="1904.06963",
)


@metric(
    reads=("gram",),
    bands=True,
    scope="probe",
    variables={
        "eta": ("step", "probe", "layer"),
        "min_cosine": ("step", "probe", "layer"),
        "conflicting": ("step", "probe", "layer"),
        "n_undefined": ("step", "probe", "layer"),
    },
    bounds={"eta": (0, np.inf), "min_cosine": (-1, 1), "conflicting": (0, 1)},
    units={"eta": "squared gradient norm"},
    summary=("min_cosine", "conflicting"),
    title="Gradient confusion",
    formula="η = max(0, −min_{i≠j} g_i·g_j);  min cosine = min_{i≠j} g_i·g_j / (|g_i||g_j|)",
    cost="reads stored Gram matrices; O(steps · layers · examples²)",
    reading=(
        "η = 0: no example's step raises another's loss. The larger η (or the closer the smallest cosine "
        "to -1), the more a pair of examples undoes each other's steps and the slower SGD converges near "
        "a minimum. The paper measures minibatch gradients; these are of single examples, whose extremes "
        "are wider."
    ),
    reference=SANKARARAMAN_2020,
)
def gradient_confusion(gram: ArrayLike) -> dict[str, NDArray]:
    """Confusion bound, smallest cosine and share of conflicting pairs.

    `gram` (step, layer, example, example_2) holds inner products of per-example loss gradients. Over
    unordered pairs of different examples, returns `eta`, the smallest number >= 0 with <g_i, g_j> >= -eta
    for every pair; `min_cosine`, over pairs of nonzero gradients; `conflicting`, the share of pairs with
    <g_i, g_j> < 0; and `n_undefined`, pairs left out of the cosine because a gradient is zero; all (step,
    layer). NaN where there is no pair, and (for the cosine) no pair of nonzero gradients.

    >>> result = gradient_confusion([[[[1.0, -2.0], [-2.0, 4.0]]]])
    >>> float(result["eta"][0, 0]), float(result["min_cosine"][0, 0])
    (2.0, -1.0)
    """
    pairs = table(gram)
    n = pairs.shape[-1]
    norm = np.sqrt(diagonal(pairs))
    shape = pairs.shape[:-2]
    least, cosine = np.full(shape, np.inf), np.full(shape, np.nan)
    against, known, undefined = (np.zeros(shape, np.int64) for _ in range(3))
    # One snapshot at a time: all pairs of every step and layer at once would need several copies of the input.
    for step in range(len(pairs)):
        for rows, products in bands(pairs, step):
            first, second = np.triu_indices(rows.stop - rows.start, rows.start + 1, n)
            if not len(first):
                continue
            product = pairs_of(products, first, second)
            ratio = divide(product, norm[step][:, first + rows.start] * norm[step][:, second])
            least[step] = np.minimum(least[step], product.min(-1))  # NaN where one of them is
            against[step] += (product < 0).sum(-1)
            known[step] += (~np.isnan(product)).sum(-1)
            undefined[step] += np.isnan(ratio).sum(-1)
            # NaN only where none is defined
            cosine[step] = np.fmin(cosine[step], np.fmin.reduce(np.clip(ratio, -1.0, 1.0), -1))
    eta = np.maximum(0.0, -least) if n > 1 else np.full(shape, np.nan)
    conflicting = divide(against, known)
    return {"eta": eta, "min_cosine": cosine, "conflicting": conflicting, "n_undefined": undefined}


def plot_gradient_confusion(result: xr.Dataset, figure: Figure) -> None:
    """Confusion, smallest cosine and share of conflicting pairs against training, and the cosine by layer."""
    axes = plot.panels(figure, 4, columns=2, height=2.2, sharex=False, sharey=False)
    for panel, name, label in zip(
        axes,
        ("eta", "min_cosine", "conflicting"),
        ("confusion η (|gradient|²)", "smallest cosine", "share of pairs in conflict"),
        strict=False,
    ):
        probe_lines(panel, result[name].isel(layer=-1))
        panel.set(title="whole network", ylabel=label)
    _scale(axes[0], result["eta"].isel(layer=-1).values)
    plot.zero_line(axes[1])
    axes[2].set_ylim(-0.02, 1.02)
    plot.legend(axes[0], title="probe")
    layer_heat(axes[3], result["min_cosine"], "smallest cosine")


def _scale(axes: Axes, eta: NDArray) -> None:
    """Logarithmic where there is confusion throughout; with room for exact zeros where not."""
    positive = eta[(eta > 0) & np.isfinite(eta)]
    if positive.size and not (eta == 0).any():
        plot.log_scale(axes)
    elif positive.size:
        # Far below the largest there is nothing but rounding.
        axes.set_yscale("symlog", linthresh=float(max(positive.min(), 1e-6 * positive.max())))
        axes.set_ylim(bottom=0)
