"""Gradient noise: the covariance of per-example gradients around their mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analyze import plot
from analyze.contract import metric
from analyze.metrics.gradients.gradient_diversity import layer_heat, probe_lines
from analyze.numerics import divide
from analyze.reference import Reference

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

ZHU_2019 = Reference(
    key="zhu2019anisotropic",
    authors=("Zhu, Zhanxing", "Wu, Jingfeng", "Yu, Bing", "Wu, Lei", "Ma, Jinwen"),
    title=(
        "The Anisotropic Noise in Stochastic Gradient Descent: Its Behavior of Escaping from Sharp Minima "
        "and Regularization Effects"
    ),
    year=2019,
    venue="International Conference on Machine Learning",
    arxiv="1803.00195",
)
MCCANDLISH_2018 = Reference(
    key="mccandlish2018empirical",
    authors=("McCandlish, Sam", "Kaplan, Jared", "Amodei, Dario", "OpenAI Dota Team"),
    title="An Empirical Model of Large-Batch Training",
    year=2018,
    arxiv="1812.06162",
)


@metric(
    reads=("gram",),
    scope="probe",
    variables={
        "trace": ("step", "probe", "layer"),
        "signal": ("step", "probe", "layer"),
        "noise_scale": ("step", "probe", "layer"),
        "effective_rank": ("step", "probe", "layer"),
        "eigenvalue": ("step", "probe", "layer", "rank"),
    },
    bounds=(0, np.inf),
    units={
        "trace": "squared gradient norm",
        "signal": "squared gradient norm",
        "eigenvalue": "squared gradient norm",
        "noise_scale": "examples",
        "effective_rank": "directions",
    },
    summary=("noise_scale", "effective_rank"),
    beside="gradient_coherence",
    title="Gradient noise",
    formula=(
        "C = (1/n) Σ_i (g_i − ḡ)(g_i − ḡ)ᵀ;  tr C, its largest eigenvalues λ_k;  noise scale = tr C / "
        "|ḡ|²; effective rank = (tr C)² / Σ_k λ_k²"
    ),
    cost="reads stored Gram matrices; one symmetric eigenvalue problem per step and layer, O(examples³)",
    reading=(
        "The noise scale is the batch size beyond which averaging more examples hardly changes the step. "
        "A few eigenvalues far above the rest (low effective rank): the noise pushes along few directions."
    ),
    reference=(ZHU_2019, MCCANDLISH_2018),
)
def gradient_noise(gram: ArrayLike, *, k: int = 10) -> dict[str, Any]:
    """Trace and largest eigenvalues of the covariance of the per-example gradients.

    `gram` (step, layer, example, example_2) holds inner products of per-example loss gradients. The
    covariance (1/n) sum_i (g_i - g)(g_i - g)^T has the nonzero eigenvalues of the centred Gram matrix over
    n. Returns `trace`, `signal` (squared norm of the mean gradient), `noise_scale` = trace / signal (the
    batch size at which noise and signal are equal; inf where only the mean vanishes, NaN where both do),
    `effective_rank` = trace^2 / sum of squared eigenvalues (NaN without noise), all (step, layer), and
    `eigenvalue` (step, layer, rank), the `k` largest in descending order, NaN beyond n. All NaN where the
    Gram matrix is not finite.

    >>> result = gradient_noise([[[[1.0, -1.0], [-1.0, 1.0]]]], k=2)
    >>> float(result["trace"][0, 0]), result["eigenvalue"][0, 0].tolist()
    (1.0, [1.0, 0.0])
    """
    gram = np.asarray(gram, dtype=np.float64)
    shape, n = gram.shape[:-2], gram.shape[-1]
    trace, signal, squares = (np.full(shape, np.nan) for _ in range(3))
    eigenvalue = np.full((*shape, k), np.nan)
    # One snapshot at a time: centring all at once would hold a second copy of the input.
    for step in range(len(gram)) if n else ():
        finite = np.isfinite(gram[step]).all((-2, -1))
        matrices = gram[step][finite]
        signal[step, finite] = np.maximum(matrices.mean((-2, -1)), 0.0)
        spectrum = _centred_spectra(matrices)
        trace[step, finite], squares[step, finite] = spectrum.sum(-1), np.square(spectrum).sum(-1)
        eigenvalue[step, finite, : min(k, n)] = spectrum[:, :k]
    scale = np.where((signal == 0) & (trace > 0), np.inf, divide(trace, signal))
    return {
        "trace": trace,
        "signal": signal,
        "noise_scale": scale,
        "effective_rank": divide(np.square(trace), squares),
        "eigenvalue": eigenvalue,
        "rank": np.arange(1, k + 1),
    }


def _centred_spectra(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """Eigenvalues (matrix, rank) of centred Gram matrices over n, descending; rounding of the input is 0.

    The matrices are overwritten.
    """
    n = matrices.shape[-1]
    largest = np.maximum(matrices.max((-2, -1), initial=0.0), -matrices.min((-2, -1), initial=0.0))
    mean = matrices.mean(axis=-2)
    matrices -= mean[:, None]
    matrices -= (mean - mean.mean(-1, keepdims=True))[:, :, None]
    centred = matrices + matrices.swapaxes(-1, -2)
    values = np.linalg.eigvalsh(centred)[:, ::-1] / (2 * n)
    return np.where(values > (n * np.finfo(np.float64).eps * largest)[:, None], values, 0.0)


def plot_gradient_noise(result: xr.Dataset, figure: Figure) -> None:
    """Noise against signal, the noise scale, the spectrum and the noise scale by layer."""
    whole = result.isel(layer=-1)
    axes = plot.panels(figure, 4, columns=2, height=2.3, sharex=False, sharey=False)
    probe_lines(axes[0], whole["trace"])
    for position, name in enumerate(whole["probe"].values):
        signal = whole["signal"].sel(probe=name)
        color = plot.color_of(str(name), position)
        plot.line(axes[0], whole["step"], signal, color=color, linestyle="--")
    axes[0].set(title="whole network: noise (solid), mean gradient (dashed)", ylabel="squared gradient norm")
    probe_lines(axes[1], whole["noise_scale"])
    axes[1].set(title="whole network", ylabel="noise scale (examples)")
    spectrum = whole["eigenvalue"].isel(probe=0)
    for color, rank in zip(plot.depth_colors(spectrum.sizes["rank"]), spectrum["rank"].values, strict=True):
        plot.line(axes[2], spectrum["step"], spectrum.sel(rank=rank), color=color, label=f"λ{rank}")
    plot.step_axis(axes[2], spectrum["step"])
    axes[2].set(title=f"{whole['probe'].values[0]}, largest eigenvalues", ylabel="squared gradient norm")
    for panel in axes[:3]:
        plot.log_scale(panel)
        plot.legend(panel, ncols=2)
    layer_heat(axes[3], result["noise_scale"], "noise scale", log=True)
