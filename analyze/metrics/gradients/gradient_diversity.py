"""Gradient diversity: how different are the examples' pulls on the weights?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analyze import plot
from analyze.arrays.bands import diagonal, pair_sums, table
from analyze.contract import metric
from analyze.numerics import divide
from analyze.reference import Reference

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

YIN_2018 = Reference(
    key="yin2018gradient",
    authors=(
        "Yin, Dong",
        "Pananjady, Ashwin",
        "Lam, Max",
        "Papailiopoulos, Dimitris",
        "Ramchandran, Kannan",
        "Bartlett, Peter",
    ),
    title="Gradient Diversity: a Key Ingredient for Scalable Distributed Learning",
    year=2018,
    venue="International Conference on Artificial Intelligence and Statistics",
    arxiv="1706.05699",
)


def sum_and_norms(gram: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Squared norm of the summed gradient, and sum of the squared norms.

    `gram` is (..., example, example_2); both results are (...) in float64. A squared norm of the sum that
    is no larger than the rounding error of adding the Gram matrix up is returned as exactly 0.

    >>> tuple(map(float, sum_and_norms([[1.0, -1.0], [-1.0, 4.0]])))
    (3.0, 5.0)
    """
    pairs = table(gram)
    total, absolute = pair_sums(pairs)
    rounding = 4 * np.finfo(np.float64).eps * absolute
    return np.where(total <= rounding, 0.0, total), diagonal(pairs).sum(-1)


def count_zero(gram: ArrayLike) -> NDArray[np.int64]:
    """Number of examples whose gradient is exactly zero: (..., example, example_2) -> (...).

    >>> int(count_zero([[4.0, 0.0], [0.0, 0.0]]))
    1
    """
    return np.sum(diagonal(table(gram)) == 0, axis=-1, dtype=np.int64)


@metric(
    reads=("gram",),
    bands=True,
    scope="probe",
    variables={
        "diversity": ("step", "probe", "layer"),
        "batch_size_bound": ("step", "probe", "layer"),
        "n_zero": ("step", "probe", "layer"),
    },
    bounds={"diversity": (0, np.inf), "batch_size_bound": (0, np.inf)},
    units={"batch_size_bound": "examples"},
    summary=("diversity", "batch_size_bound"),
    beside="gradient_coherence",
    title="Gradient diversity",
    formula="Δ = Σ_i |g_i|² / |Σ_i g_i|²;  batch-size bound = n Δ",
    cost="reads stored Gram matrices; O(steps · layers · examples²)",
    reading=(
        "1 / n: every example pulls the same way, and larger batches only repeat the work. Rising: the "
        "examples disagree more; batches up to about n Δ still converge as fast per example as single "
        "ones."
    ),
    reference=YIN_2018,
)
def gradient_diversity(gram: ArrayLike) -> dict[str, NDArray]:
    """Sum of squared gradient norms over the squared norm of their sum, and the batch size it bounds.

    `gram` (step, layer, example, example_2) holds inner products of per-example loss gradients. Returns
    `diversity` = sum_i |g_i|^2 / |sum_i g_i|^2, `batch_size_bound` = n * diversity and `n_zero`, the number
    of examples with a zero gradient; all (step, layer). Equal gradients give 1/n, orthogonal ones 1. It is
    inf where the gradients cancel, and NaN where every one is zero.

    >>> result = gradient_diversity([[[[1.0, 0.0], [0.0, 3.0]]]])
    >>> float(result["diversity"][0, 0]), float(result["batch_size_bound"][0, 0])
    (1.0, 2.0)
    """
    total, norms = sum_and_norms(gram)
    diversity = np.where((total == 0) & (norms > 0), np.inf, divide(norms, total))
    n = np.shape(gram)[-1]
    return {"diversity": diversity, "batch_size_bound": n * diversity, "n_zero": count_zero(gram)}


def plot_gradient_diversity(result: xr.Dataset, figure: Figure) -> None:
    """Batch-size bound of the whole network against training, and diversity by layer."""
    left, right = plot.panels(figure, 2, columns=2, height=2.6, sharex=False, sharey=False)
    probe_lines(left, result["batch_size_bound"].isel(layer=-1))
    left.set(title="whole network", ylabel="n × gradient diversity (examples)")
    plot.log_scale(left)
    plot.legend(left, title="probe")
    layer_heat(right, result["diversity"], "gradient diversity", log=True)


def probe_lines(axes: Axes, values: xr.DataArray, **style: str) -> None:
    """One line a probe of values (step, probe), in the colours of its split."""
    for position, name in enumerate(values["probe"].values):
        color = plot.color_of(str(name), position)
        plot.line(axes, values["step"], values.sel(probe=name), label=str(name), color=color, **style)
    plot.step_axis(axes, values["step"])


def layer_heat(
    axes: Axes,
    values: xr.DataArray,
    name: str,
    *,
    log: bool = False,
    limits: tuple[float, float] | None = None,
) -> None:
    """Layers by snapshots of the first probe of values (step, probe, layer), logarithmic if `log`."""
    table = values.isel(probe=0).values.T
    label = f"log10 {name}" if log else name
    if log:
        table = np.log10(np.where(table > 0, table, np.nan))
    steps, layers = values["step"].values, values["layer"].values
    plot.heat_over_time(axes, table, steps, layers, limits=limits, colorbar=label)
    axes.set_title(f"{values['probe'].values[0]}, by layer")
