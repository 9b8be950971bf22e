"""CNA-Margin: the area between the complexity curves, weighted by the margin of the training examples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from analyze import plot
from analyze.contract import metric
from analyze.metrics.outcome.margin import counted
from analyze.reference import GAIN_2019

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure


@metric(
    reads=("cna_area.polygon", "cna_area.absolute", "cna_area.lobe", "margin.gamma"),
    optional=("margin.n_examples", "margin.n_undefined"),
    variables={**dict.fromkeys(("polygon", "absolute", "lobe", "gamma", "n_margins"), ("step",))},
    scope="train",
    units={"polygon": "score", "absolute": "score", "lobe": "score", "gamma": "score"},
    summary=("polygon", "absolute", "lobe"),
    makes=(),
    title="CNA-Margin",
    formula="γ · CNA-Area",
    cost="none beyond cna_area and margin",
    reading=(
        "The product of both, over training. It is negative where γ is: while more than the share ε of the "
        "training examples is misclassified."
    ),
    reference=GAIN_2019,
)
def cna_margin(
    cna_area_polygon: np.ndarray,
    cna_area_absolute: np.ndarray,
    cna_area_lobe: np.ndarray,
    margin_gamma: np.ndarray,
    *,
    margin_n_examples: np.ndarray | None = None,
    margin_n_undefined: np.ndarray | None = None,
) -> dict[str, Any]:
    """Product of CNA-Area and the margin γ of the training examples.

    `cna_area_polygon`, `cna_area_absolute`, `cna_area_lobe` and `margin_gamma` (step,). `polygon`, `absolute` and
    `lobe` (step,) are the products, in units of the scores; the sign of γ is kept. `gamma` passes γ on for the figure,
    `n_margins` (step,) is of how many margins it is (0 where not handed over). NaN where either factor is.

    >>> cna_margin(np.array([0.5]), np.array([0.25]), np.array([0.125]), np.array([-2.0]))["polygon"]
    array([-1.])
    """
    gamma = np.asarray(margin_gamma, np.float64)
    areas = {"polygon": cna_area_polygon, "absolute": cna_area_absolute, "lobe": cna_area_lobe}
    return {name: area * gamma for name, area in areas.items()} | {
        "gamma": gamma,
        "n_margins": counted(gamma, margin_n_examples, margin_n_undefined),
    }


def plot_cna_margin(result: xr.Dataset, figure: Figure) -> None:
    """CNA-Margin and the margin itself against training."""
    left, right = plot.panels(figure, 2, columns=2, height=2.7, sharey=False)
    for name, color in (
        ("polygon", plot.PALETTE[6]),
        ("absolute", plot.PALETTE[3]),
        ("lobe", plot.PALETTE[2]),
    ):
        plot.line(left, result["step"], result[name], color=color, label=name)
    plot.line(right, result["step"], result["gamma"], color=plot.SPLIT_COLORS["train"])
    left.set(title="CNA-Margin", ylabel="γ · area (score)")
    n = int(result["n_margins"][-1])
    right.set(title=f"Margin of {n or 'the'} training examples", ylabel="γ (score)")
    for panel in (left, right):
        plot.zero_line(panel)
        plot.step_axis(panel, result["step"])
    plot.legend(left, title="area")
