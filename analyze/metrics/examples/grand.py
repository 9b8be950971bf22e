"""GraNd: the norm of each example's loss gradient, a score of how much it moves the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analyze import plot
from analyze.arrays.bands import diagonal, table
from analyze.contract import metric
from analyze.metrics.examples.el2n import PAUL_2021, score_histogram, spread_lines
from analyze.metrics.gradients.gradient_diversity import layer_heat
from analyze.numerics import mean_defined, std_defined

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure


@metric(
    reads=("gram",),
    bands=True,
    scope="probe",
    variables={
        "score": ("step", "layer", "example"),
        "mean": ("step", "probe", "layer"),
        "std": ("step", "probe", "layer"),
        "n_zero": ("step", "probe", "layer"),
        "n_undefined": ("step", "probe", "layer"),
    },
    bounds=(0, np.inf),
    units="gradient norm",
    summary=("mean",),
    title="GraNd scores",
    formula="GraNd(i) = |g_i|, g_i the loss gradient of example i",
    cost="reads the diagonal of stored Gram matrices",
    reading=(
        "Examples with a large score move the weights most: early in training the hard, rare or "
        "mislabelled ones. The paper prunes examples with small scores."
    ),
    reference=PAUL_2021,
)
def grand(gram: ArrayLike) -> dict[str, NDArray]:
    """Norm of every example's loss gradient, per layer and for the whole network.

    `gram` (step, layer, example, example_2) holds inner products of per-example loss gradients. Returns
    `score` = |g_i| (step, layer, example), its `mean` and population `std` over examples and `n_zero`, the
    number of exactly zero gradients, and `n_undefined`, of gradients that are not finite: their score is
    NaN (step, layer). The paper averages the score over several initialisations; average the results of
    several archives for that.

    >>> grand([[[[9.0, 0.0], [0.0, 16.0]]]])["score"].tolist()
    [[[3.0, 4.0]]]
    """
    squared = diagonal(table(gram))
    score = np.sqrt(np.where(np.isfinite(squared), squared, np.nan))
    mean, used = mean_defined(score, axis=-1)
    return {
        "score": score,
        "mean": mean,
        "std": std_defined(score, axis=-1),
        "n_zero": np.sum(squared == 0, axis=-1, dtype=np.int64),
        "n_undefined": score.shape[-1] - used,
    }


def plot_grand(result: xr.Dataset, figure: Figure) -> None:
    """Mean score against training, its distribution at a few steps, and its mean by layer."""
    axes = plot.panels(figure, 3, columns=3, height=2.5, sharex=False, sharey=False)
    whole = result.isel(layer=-1)
    spread_lines(axes[0], whole, "gradient norm")
    score_histogram(axes[1], whole["score"], "gradient norm")
    layer_heat(axes[2], result["mean"], "mean gradient norm", log=True)
