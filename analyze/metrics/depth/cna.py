"""CNA: do complex inputs use the deep layers more?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from analyze import plot
from analyze.contract import metric
from analyze.numerics import pearson, spearman
from analyze.reference import GAIN_2019

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure


@metric(
    reads=("depth_slope.slope", "complexity.entropy", "complexity.compression"),
    optional=("generalization.loss",),
    variables={
        "pearson": ("step", "probe"),
        "spearman": ("step", "probe"),
        "n_examples": ("step", "probe"),
        "loss": ("step", "probe"),
    },
    scope="probe",
    bounds={"pearson": (-1, 1), "spearman": (-1, 1)},
    summary=("pearson", "spearman"),
    makes=(),
    title="Cognitive Neural Activation (CNA)",
    formula="CNA = corr(α(x), β(x) | x ∈ X)",
    cost="O(steps · examples)",
    reading="The CNA tends to bend where the loss bends. Higher: complex inputs reach deeper.",
    reference=GAIN_2019,
)
def cna(
    depth_slope_slope: np.ndarray,
    complexity_entropy: np.ndarray,
    complexity_compression: np.ndarray,
    *,
    generalization_loss: np.ndarray | None = None,
    alpha: Literal["entropy", "compression"] = "entropy",
) -> dict[str, Any]:
    """Correlation, over the examples of a probe, of input complexity α with depth slope β.

    The slope is (step, example), entropy and compression ratio, of which `alpha` chooses one, (example,).
    `n_examples` is how many have both. NaN with fewer than two of them, or where α or β is the same for
    all. `loss` repeats the mean loss of the probe (NaN if not recorded), for the figure.

    >>> slope, entropy = np.array([[1.0, 2.0, 4.0]]), np.array([3.0, 4.0, 6.0])
    >>> result = cna(slope, entropy, entropy)
    >>> result["pearson"], result["spearman"], result["n_examples"]
    (array([1.]), array([1.]), array([3]))
    """
    complexity = complexity_entropy if alpha == "entropy" else complexity_compression
    defined = ~(np.isnan(depth_slope_slope) | np.isnan(complexity))
    unknown = np.full(len(depth_slope_slope), np.nan)
    return {
        "pearson": pearson(complexity, depth_slope_slope),
        "spearman": spearman(complexity, depth_slope_slope),
        "n_examples": defined.sum(-1),
        "loss": unknown if generalization_loss is None else generalization_loss,
        "attrs": {"alpha": alpha},
    }


def plot_cna(result: xr.Dataset, figure: Figure) -> None:
    """Loss on the left and CNA on the right, against training."""
    axes = plot.panels(figure, 2, columns=2, height=2.6, titles=("loss", "CNA"), sharey=False)
    for k, probe in enumerate(result["probe"].values):
        color = plot.color_of(str(probe), k)
        at = result.sel(probe=probe)
        plot.line(axes[0], result["step"], at["loss"], label=f"{probe}, loss", color=color)
        plot.line(axes[1], result["step"], at["pearson"], label=f"{probe}, Pearson", color=color)
        plot.line(
            axes[1], result["step"], at["spearman"], label=f"{probe}, Spearman", color=color, linestyle=":"
        )
    plot.zero_line(axes[1])
    for panel in axes:
        plot.step_axis(panel, result["step"])
    plot.legend(axes[1])
