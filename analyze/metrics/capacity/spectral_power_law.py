"""Power law of the weights' spectrum: WeightWatcher's α, and how well the law fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from analyze import plot
from analyze.contract import metric
from analyze.metrics.capacity.layer_norms import weight_names
from analyze.numerics import ROUNDING, mean_defined
from analyze.reference import Reference

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

MARTIN_2018 = Reference(
    key="martin2018implicit",
    authors=("Martin, Charles H.", "Mahoney, Michael W."),
    title=(
        "Implicit Self-Regularization in Deep Neural Networks: Evidence from Random Matrix Theory and Implications for "
        "Learning"
    ),
    year=2018,
    arxiv="1810.01075",
)
MARTIN_2021 = Reference(
    key="martin2021predicting",
    authors=("Martin, Charles H.", "Peng, Tongsu", "Mahoney, Michael W."),
    title=(
        "Predicting Trends in the Quality of State-of-the-Art Neural Networks without Access to Training or Testing "
        "Data"
    ),
    year=2021,
    venue="Nature Communications",
    arxiv="2002.06716",
)
NAMES = (
    "alpha",
    "distance",
    "x_min",
    "alpha_error",
    "alpha_hat",
    "alpha_hat_ww",
    "log_alpha_norm",
    "alpha_shuffled",
)
FEWEST = 10  # eigenvalues below which a layer is not fitted
SMALLEST = 1e-5  # eigenvalues up to which are left out


@metric(
    reads=("weights", "layer_tensors"),
    variables={
        **dict.fromkeys((*NAMES, "n_tail", "n_eigenvalues"), ("step", "layer")),
        "n_usable": ("step",),
        "n_fitted": ("step",),
    },
    bounds={"distance": (0, 1), "alpha": (1, np.inf), "alpha_error": (0, np.inf), "x_min": (0, np.inf)},
    summary=("alpha", "alpha_hat"),
    title="Power law of the spectrum",
    formula="α = 1 + n / Σ ln(λ/x_min) over the n eigenvalues λ ≥ x_min of WᵀW, for the x_min of smallest D",
    work=8,
    cost="the eigenvalues of every kernel slice, twice, and O(eigenvalues²) a layer and step",
    reading=(
        "To be read beside D and n_tail alone: a fit is usable from 10 eigenvalues in the tail, D up to 0.15 and α up "
        "to 8. The authors take α below 2 for over-trained and above 6 for under-trained. Contested: the correlation "
        "with quality is across models of one family, weak or reversed at one depth, and a power law seldom fits "
        "better than a log-normal; shuffled entries have some α too."
    ),
    reference=(MARTIN_2018, MARTIN_2021),
)
def spectral_power_law(
    weights: Sequence[Mapping[str, np.ndarray]],
    layer_tensors: Mapping[str, Sequence[str]],
    *,
    largest_distance: float = 0.15,
    seed: int = 0,
) -> dict[str, Any]:
    """Exponent of the power law that the largest eigenvalues of each layer's WᵀW follow, and its quality of fit.

    `weights` holds one mapping from tensor name to values per step, `layer_tensors` the parameters of each layer, of
    which those with exactly one matrix or kernel count. Eigenvalues are squared singular values, not divided by a
    size; those of a convolution are pooled over its slices (out, in), one for each place of the kernel; those up to
    1e-5 are left out and layers with fewer than 10 are not fitted. For every eigenvalue but the largest as x_min, with
    n eigenvalues from x_min on, α = 1 + n/Σ ln(λ/x_min) and D is the largest distance between the fitted and the
    empirical distribution; the x_min of smallest D counts.

    (step, layer): `alpha`, `distance` (D), `x_min`, `n_tail` (n), `alpha_error` = (α - 1)/√n, `alpha_hat` = α log₁₀
    λ_max, `alpha_hat_ww` the same of slices scaled by √½ first as the authors' program has it, `log_alpha_norm` =
    log₁₀ Σ λ^α, `n_eigenvalues`, and `alpha_shuffled` of the same entries in random order (by `seed`), a control:
    what it equals is no structure. Layer `all` has the plain means over the layers that were fitted, `n_fitted` of
    them, of which `n_usable` have n of at least 10, D of at most `largest_distance` and α of at most 8. NaN where a
    weight is not finite, or its eigenvalues are all equal. α does not change with the scale of W, the others do.

    >>> round(fit([1.0, np.e])["alpha"], 4), round(fit([1.0, np.e])["distance"], 4)
    (3.0, 0.3647)
    >>> found = fit([1.0, 2.0, 4.0, 8.0])
    >>> round(found["alpha"], 4), round(found["distance"], 4), found["x_min"]
    (1.9618, 0.2366, 1.0)
    """
    first = weights[0] if len(weights) else {}
    matrices = {}
    for layer, names in layer_tensors.items() if first else ():
        owned = [name for name in weight_names(names, first) if first[name].ndim >= 2]
        if len(owned) == 1:
            matrices[layer] = owned[0]
    layers = [*layer_tensors, "all"]
    values = {name: np.full((len(weights), len(layers)), np.nan) for name in NAMES}
    counts = {name: np.zeros((len(weights), len(layers)), np.int64) for name in ("n_tail", "n_eigenvalues")}
    for step, tensors in enumerate(weights):
        for column, layer in enumerate(layer_tensors):
            if layer not in matrices:
                continue
            for name, number in of_weight(tensors[matrices[layer]], seed).items():
                (counts if name in counts else values)[name][step, column] = number
    for value in values.values():
        value[:, -1] = mean_defined(value[:, :-1], 1)[0]
    for count in counts.values():
        count[:, -1] = count.sum(1)
    alpha, distance = values["alpha"][:, :-1], values["distance"][:, :-1]
    usable = (counts["n_tail"][:, :-1] >= 10) & (distance <= largest_distance) & (alpha <= 8)
    return {
        **values,
        **counts,
        "n_fitted": np.isfinite(alpha).sum(1),
        "n_usable": usable.sum(1),
        "layer": np.array(layers),
        "attrs": {"rule": "x_min of smallest D among all eigenvalues", "seed": seed},
    }


def of_weight(weight: np.ndarray, seed: int = 0) -> dict[str, float]:
    """What `spectral_power_law` says of one matrix or kernel (out, in, ...)."""
    weight = np.asarray(weight, np.float64)
    if not np.isfinite(weight).all():
        return {}
    eigenvalues = spectrum(weight)
    found: dict[str, float] = {"n_eigenvalues": len(eigenvalues)}
    if len(eigenvalues) < FEWEST:
        return found
    found |= fit(eigenvalues)
    alpha, top = found["alpha"], float(eigenvalues.max())
    shuffled = np.random.default_rng(seed).permutation(weight.ravel()).reshape(weight.shape)
    control = spectrum(shuffled)
    with np.errstate(over="ignore"):
        total = float(np.sum((eigenvalues / top) ** alpha))
    return found | {
        "alpha_hat": alpha * np.log10(top),
        "alpha_hat_ww": alpha * np.log10(top / 2 if weight.ndim > 2 else top),
        "log_alpha_norm": np.log10(total) + alpha * np.log10(top),
        "alpha_shuffled": fit(control)["alpha"] if len(control) >= FEWEST else np.nan,
    }


def spectrum(weight: np.ndarray) -> np.ndarray:
    """Eigenvalues above 1e-5 of WᵀW, of all slices (out, in) of a kernel together, in increasing order."""
    if not weight.size:
        return np.empty(0)
    slices = weight.reshape(*weight.shape[:2], -1).transpose(2, 0, 1)
    flat = slices if slices.shape[1] <= slices.shape[2] else slices.transpose(0, 2, 1)
    values = np.sort(np.linalg.eigvalsh(flat @ flat.transpose(0, 2, 1)).ravel())
    return np.asarray(values[values > SMALLEST])


def fit(eigenvalues: ArrayLike) -> dict[str, float]:
    """Exponent, distance, x_min, size of the tail and standard error of the power law that fits best; NaN if none."""
    ordered = np.sort(np.asarray(eigenvalues, np.float64))
    blank: dict[str, float] = {
        **dict.fromkeys(("alpha", "distance", "x_min", "alpha_error"), np.nan),
        "n_tail": 0,
    }
    if len(ordered) < 2 or ordered[-1] - ordered[0] <= ROUNDING * ordered[-1]:
        return blank
    best = blank
    for first in range(len(ordered) - 1):
        ratio = ordered[first:] / ordered[first]
        logs = np.log(ratio)
        n = len(logs)
        if logs.sum() <= ROUNDING * n:  # the largest ones are all equal: no slope
            continue
        alpha = 1 + n / float(logs.sum())
        distance = float(np.abs(1 - np.exp(logs * (1 - alpha)) - np.arange(n) / n).max())
        if np.isnan(best["distance"]) or distance < best["distance"]:
            error = (alpha - 1) / n**0.5
            best = {
                "alpha": alpha,
                "distance": distance,
                "x_min": float(ordered[first]),
                "alpha_error": error,
                "n_tail": n,
            }
    return best


def plot_spectral_power_law(result: xr.Dataset, figure: Figure) -> None:
    """α with its control, and the distance D, of each layer against training."""
    left, middle, right = plot.panels(figure, 3, height=2.8, sharey=False)
    layers = [
        str(name)
        for name in result["layer"].values
        if name != "all" and result["alpha"].sel(layer=name).notnull().any()
    ]
    for layer, color in zip(layers, plot.depth_colors(len(layers)), strict=False):
        at = result.sel(layer=layer)
        plot.line(left, result["step"], at["alpha"], color=color, label=layer)
        plot.line(middle, result["step"], at["alpha_shuffled"], color=color)
        plot.line(right, result["step"], at["distance"], color=color)
    for panel, title in zip(
        (left, middle, right), ("α", "α, entries shuffled", "D (0.15: fit of no use)"), strict=True
    ):
        panel.set_title(title)
        plot.step_axis(panel, result["step"])
    plot.zero_line(right, 0.15)
    plot.legend(left)
