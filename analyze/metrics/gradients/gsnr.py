"""GSNR: do the examples agree on the sign and size of each parameter's gradient?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analyze import plot
from analyze.contract import metric
from analyze.metrics.gradients.gradient_diversity import layer_heat
from analyze.reference import Reference

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

LIU_2020 = Reference(
    key="liu2020understanding",
    authors=("Liu, Jinlong", "Jiang, Guoqing", "Bai, Yunzhi", "Chen, Ting", "Wang, Huayan"),
    title="Understanding Why Neural Networks Generalize Well Through GSNR of Parameters",
    year=2020,
    venue="International Conference on Learning Representations",
    arxiv="2001.07384",
)
COLUMNS = 1 << 16
# Below this share of the mean square, a variance found as a difference of two means has lost too many digits.
CANCELLED = 1e-6


def signal_to_noise(gradient: ArrayLike) -> NDArray[np.float64]:
    """Squared mean over population variance of each parameter's gradient: (example, ...) -> (parameter,).

    NaN where the gradient is the same for every example (no variance) or not finite.

    >>> signal_to_noise([[1.0, 2.0], [3.0, 2.0]])
    array([ 4., nan])
    """
    rows = np.asarray(gradient)
    rows = rows.reshape(len(rows), -1)
    ratio = np.full(rows.shape[1], np.nan)
    # In blocks: a float64 copy of the gradients of every example would be twice the size of the stored ones.
    for start in range(0, rows.shape[1], COLUMNS):
        block = rows[:, start : start + COLUMNS].astype(np.float64)
        varies = np.isfinite(block).all(axis=0) & (block != block[:1]).any(axis=0)
        block = block[:, varies]
        ratio[start : start + COLUMNS][varies] = np.square(block.mean(axis=0)) / block.var(axis=0)
    return ratio


def of_factors(a: ArrayLike, z: ArrayLike) -> NDArray[np.float64]:
    """`signal_to_noise` of gradients z_i a_i', from a (example, in) and z (example, out): (out · in,).

    Both means are one product each, in float64, and no gradient is made, except of parameters whose variance
    would be lost to cancellation.

    >>> of_factors([[1.0, 2.0], [3.0, 2.0]], [[1.0], [1.0]])
    array([ 4., nan])
    """
    a, z = np.asarray(a, np.float64), np.asarray(z, np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        mean, square = z.T @ a / len(a), (z**2).T @ a**2 / len(a)
        variance = square - mean**2
        ratio = np.full(mean.shape, np.nan)
        sure = (variance > CANCELLED * square) & np.isfinite(square)
    ratio[sure] = mean[sure] ** 2 / variance[sure]
    rows, columns = np.nonzero(~sure & (square != 0))
    for start in range(0, len(rows), COLUMNS):
        i, j = rows[start : start + COLUMNS], columns[start : start + COLUMNS]
        ratio[i, j] = signal_to_noise(z[:, i] * a[:, j])
    return ratio.reshape(-1)


def _ratios(tensors: Mapping[str, ArrayLike], name: str) -> NDArray[np.float64]:
    factors = getattr(tensors, "linear_factors", lambda name: None)(name)
    return signal_to_noise(tensors[name]) if factors is None else of_factors(*factors)


@metric(
    reads=("gradients", "layer_tensors"),
    scope="probe",
    variables={
        "median": ("step", "probe", "layer"),
        "lower": ("step", "probe", "layer"),
        "upper": ("step", "probe", "layer"),
        "mean": ("step", "probe", "layer"),
        "n_undefined": ("step", "probe", "layer"),
        "n_parameters": ("step", "probe", "layer"),
    },
    bounds=(0, np.inf),
    summary=("median", "mean"),
    title="Gradient signal-to-noise ratio",
    formula="GSNR(θ_j) = (mean_i ∂L_i/∂θ_j)² / var_i ∂L_i/∂θ_j",
    cost=(
        "reads the stored gradients of every example once; O(steps · examples · parameters), as two matrix products "
        "for a linear layer"
    ),
    reading=(
        "Large: the examples agree on where a parameter should go, so a step carries over to unseen ones. "
        "With n examples chance alone gives about 1 / n: a median there says that what is left to learn "
        "is particular to single examples."
    ),
    needs='exact per-example gradients: record(..., gradients="exact")',
    reference=LIU_2020,
)
def gsnr(
    gradients: Iterable[Mapping[str, ArrayLike]], layer_tensors: Mapping[str, Sequence[str]]
) -> dict[str, NDArray]:
    """Gradient signal-to-noise ratio of the parameters, summarised per layer and over the network.

    `gradients` yields, for each step, a mapping from a parameter's name to its per-example gradients
    (example, ...); `layer_tensors` lists the parameters of each layer. Those of a linear layer are not made where
    their factors are stored: both means follow from these, in float64. The ratio of a parameter is mean^2 /
    variance over examples (population variance). Returns, with the whole network as last layer: `median`,
    quartiles `lower` and `upper`, `mean` of the ratio over the parameters where it is defined,
    `n_undefined` (parameters whose gradient has no variance, as behind a dead unit) and `n_parameters`; all
    (step, layer). NaN without any.

    >>> result = gsnr([{"w": [[1.0, 2.0], [3.0, 6.0]]}], {"fc": ["w"]})
    >>> result["median"].tolist(), result["n_parameters"].tolist()
    ([[4.0, 4.0]], [[2, 2]])
    """
    rows = []
    for tensors in gradients:
        ratios = [
            np.concatenate([np.empty(0), *(_ratios(tensors, name) for name in names if name in tensors)])
            for names in layer_tensors.values()
        ]
        rows.append([_summary(ratio) for ratio in [*ratios, np.concatenate([np.empty(0), *ratios])]])
    table = np.array(rows).reshape(len(rows), len(layer_tensors) + 1, 6)
    names = ("lower", "median", "upper", "mean")
    floats = {name: table[..., column] for column, name in enumerate(names)}
    counts = {"n_undefined": table[..., 4].astype(np.int64), "n_parameters": table[..., 5].astype(np.int64)}
    return floats | counts


def _summary(ratio: NDArray[np.float64]) -> list[float]:
    defined = ratio[~np.isnan(ratio)]
    spread = [*np.quantile(defined, [0.25, 0.5, 0.75]), defined.mean()] if len(defined) else [np.nan] * 4
    return [*spread, len(ratio) - len(defined), len(ratio)]


def plot_gsnr(result: xr.Dataset, figure: Figure) -> None:
    """Median and quartiles of the whole network against training, and the median by layer."""
    left, right = plot.panels(figure, 2, columns=2, height=2.6, sharex=False, sharey=False)
    whole = result.isel(layer=-1)
    for position, name in enumerate(whole["probe"].values):
        mine, color = whole.sel(probe=name), plot.color_of(str(name), position)
        plot.line(left, mine["step"], mine["median"], color=color, label=str(name))
        left.fill_between(mine["step"], mine["lower"], mine["upper"], color=color, alpha=0.18, linewidth=0)
    plot.step_axis(left, whole["step"])
    left.set(title="whole network: median and quartiles", ylabel="signal-to-noise ratio")
    plot.log_scale(left)
    plot.legend(left, title="probe")
    layer_heat(right, result["median"], "median GSNR", log=True)
