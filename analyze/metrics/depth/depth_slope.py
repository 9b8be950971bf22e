"""Depth slope: does an example use the late layers more than the early ones?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from analyze import plot
from analyze.contract import metric
from analyze.reference import GAIN_2019

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure


@metric(
    reads=("sums_pre", "sums_post", "call_units", "site_units"),
    variables={"slope": ("step", "example")},
    summary=("slope",),
    makes=(),
    title="Depth slope",
    formula="β(x) = Σ_d (d - d̄)(z_d(x) - z̄) / Σ_d (d - d̄)^2",
    cost="reads stored sums; O(steps · examples · layers)",
    reading="Above 0: activations grow with depth for this example. The CNA asks which examples have more.",
    reference=GAIN_2019,
)
def depth_slope(
    sums_pre: np.ndarray,
    sums_post: np.ndarray,
    call_units: np.ndarray,
    site_units: np.ndarray,
    *,
    where: Literal["pre", "post"] = "pre",
    normalize: Literal["sum", "mean"] = "sum",
) -> dict[str, Any]:
    """Least-squares slope, against depth, of the sum of an example's activations in each layer.

    `where="pre"` takes `sums_pre` (step, example, call): sums of the pre-activations of every linear and
    convolutional call, in order of execution, without the last (the outputs). `where="post"` takes
    `sums_post` (step, example, site): sums after every nonlinearity. `normalize="mean"` divides by the
    number of units (`call_units`, `site_units`), since wide layers dominate the sums. NaN with fewer than
    two layers.

    >>> sums = np.array([[[1.0, 2.0, 3.0, 99.0]]])
    >>> units = np.ones(4)
    >>> depth_slope(sums, sums, units, units)["slope"]
    array([[1.]])
    >>> depth_slope(sums, sums, units, units, where="post")["slope"]
    array([[29.5]])
    """
    sums, units = (sums_pre[..., :-1], call_units[:-1]) if where == "pre" else (sums_post, site_units)
    z = sums / units if normalize == "mean" else np.asarray(sums, np.float64)
    depth = np.arange(z.shape[-1]) - (z.shape[-1] - 1) / 2
    slope = np.full(z.shape[:-1], np.nan)
    if len(depth) >= 2:
        with np.errstate(invalid="ignore"):
            # The first layer is taken off before summing, so that equal sums give a slope of exactly 0.
            slope = (z - z[..., :1]) @ depth / (depth @ depth)
    return {"slope": slope, "attrs": {"where": where, "normalize": normalize, "n_layers": len(depth)}}


def plot_depth_slope(result: xr.Dataset, figure: Figure) -> None:
    """Distribution over examples against training: middle half and middle 80 %, median, one panel a probe."""
    probes = result["probe"].values
    names = list(dict.fromkeys(probes))
    titles = [f"{name}: median, 50 % and 80 % of examples" for name in names]
    axes = plot.panels(figure, len(names), titles=titles, columns=2, height=2.6)
    for k, (panel, name) in enumerate(zip(axes, names, strict=True)):
        values = result["slope"].values[:, probes == name]
        color = plot.color_of(str(name), k)
        for low, high in ((10, 90), (25, 75)):
            plot.spread(panel, result["step"], values, low, high, color=color)
        plot.line(panel, result["step"], np.median(values, axis=1), color=color)
        plot.zero_line(panel)
        plot.step_axis(panel, result["step"])
    axes[0].set_ylabel("depth slope β")
