"""Hessian: how curved is the loss where training is, and in how many directions?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from analyze import plot
from analyze.contract import metric
from analyze.numerics import divide
from analyze.numerics.lanczos import density, largest, ritz, signs
from analyze.reference import Reference

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GHORBANI_2019 = Reference(
    key="ghorbani2019investigation",
    authors=("Ghorbani, Behrooz", "Krishnan, Shankar", "Xiao, Ying"),
    title="An Investigation into Neural Net Optimization via Hessian Eigenvalue Density",
    year=2019,
    venue="International Conference on Machine Learning",
    arxiv="1901.10159",
)
YAO_2020 = Reference(
    key="yao2020pyhessian",
    authors=("Yao, Zhewei", "Gholami, Amir", "Keutzer, Kurt", "Mahoney, Michael W."),
    title="PyHessian: Neural Networks Through the Lens of the Hessian",
    year=2020,
    arxiv="1912.07145",
)
BINS = 201


@metric(
    reads=("states",),
    variables={
        "eigenvalue": ("step", "rank"),
        "trace": ("step",),
        "trace_error": ("step",),
        "grid": ("step", "bin"),
        "density": ("step", "bin"),
        "ritz_value": ("step", "draw", "node"),
        "ritz_weight": ("step", "draw", "node"),
        "edge": ("step",),
    },
    scope="train",
    bounds={"trace_error": (0, np.inf), "density": (0, np.inf), "ritz_weight": (0, 1)},
    units="nat / weight²",
    summary={"eigenvalue": {"rank": "first"}, "trace": {}, "edge": {}},
    title="Hessian of the loss",
    formula="H = ∇²L(w);  tr H ≈ mean_v vᵀHv, v of signs;  density from Lanczos quadrature",
    cost=(
        "a Hessian-vector product is about 6 forward passes of at most 128 examples: about 50 of them for "
        "the largest eigenvalues, 16 for the trace and 15 for each of 3 draws for the density, at every "
        "snapshot"
    ),
    reading=(
        "Plain gradient descent is stable while the largest eigenvalue is below 2 / learning rate; rising "
        "to it and staying is training at the edge of stability. Density: most directions are flat, a few "
        "eigenvalues (about as many as classes) stand apart, and below 0 are directions in which the loss "
        "is curved downwards."
    ),
    reference=(GHORBANI_2019, YAO_2020),
    passes=lambda options, snapshots: (
        snapshots * 6 * (50 + options["trace_draws"] + options["draws"] * options["nodes"])
    ),
)
def hessian(
    states: Any,
    *,
    examples: int = 128,
    top: int = 5,
    trace_draws: int = 16,
    draws: int = 3,
    nodes: int = 15,
    tolerance: float = 1e-3,
    seed: int = 0,
    double: bool = False,
) -> dict[str, Any]:
    """Largest eigenvalues, trace and spectral density of the Hessian of the mean training loss.

    `states` holds the network at every snapshot and the examples of the training probe, of which the first
    `examples` count; trainable parameters move, buffers stay, BatchNorm in eval mode. `eigenvalue` (step,
    rank) are the `top` largest (algebraic), by implicitly restarted Lanczos to a relative `tolerance`, from
    the whole matrix where it is small. `trace` (step) is Hutchinson's estimate from `trace_draws` random sign
    vectors, `trace_error` its standard error (NaN for one). `ritz_value` and `ritz_weight` (step, draw, node)
    are the Gauss quadrature of the spectrum from `nodes` Lanczos steps from each of `draws` such vectors, NaN
    where fewer suffice; `density` (step, bin) widens them to Gaussians on `grid` (step, bin) and integrates
    to 1; `edge` is their smallest value. `seed` draws the same vectors at every snapshot. `double` computes
    in float64 whatever the run was in. All NaN where the loss is not finite.

    >>> found = spectrum(lambda v: np.array([4.0, 1.0, 0.0]) * v, 3, top=2, trace_draws=4, draws=2, nodes=5)
    >>> found["eigenvalue"].tolist(), float(found["trace"]), float(found["trace_error"])
    ([4.0, 1.0], 5.0, 0.0)
    """
    sample = states.examples(examples)
    options: dict[str, Any] = {"top": top, "trace_draws": trace_draws, "draws": draws, "nodes": nodes}
    options |= {"tolerance": tolerance, "seed": seed}
    rows = []
    for state in states:
        rows.append(
            _of_state(state.double() if double else state, sample.double() if double else sample, options)
        )
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return {**columns, "rank": np.arange(1, top + 1), "attrs": {"n_examples": sample.n}}


def _of_state(state: Any, sample: Any, options: dict[str, Any]) -> dict[str, Any]:
    import torch

    size = len(state.flat())

    def product(vector: np.ndarray) -> np.ndarray:
        direction = torch.from_numpy(np.array(vector)).to(state.device, state.dtype)
        image = state.hvp(state.unflat(direction), sample)
        return np.asarray(state.flat(image).double().cpu().numpy())

    if not np.isfinite(state.loss(sample)):
        empty = spectrum(lambda v: v, 50, **options)  # for the shapes
        return {name: np.full(np.shape(value), np.nan) for name, value in empty.items()}
    return spectrum(product, size, **options)


def spectrum(
    product: Any,
    size: int,
    *,
    top: int,
    trace_draws: int,
    draws: int,
    nodes: int,
    tolerance: float = 1e-4,
    seed: int = 0,
) -> dict[str, Any]:
    """What `hessian` says of one symmetric matrix of `size` columns, known by its product with a vector."""
    starts = signs(size, max(trace_draws, draws), seed)
    traces = np.array([start @ product(start) for start in starts[:trace_draws]])
    quadratures = [ritz(product, start, nodes) for start in starts[:draws]]
    values, weights = (np.stack([pair[side] for pair in quadratures]) for side in (0, 1))
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    width = max((high - low) / 60, 1e-12 * max(abs(low), abs(high)), 1e-300)
    grid = np.linspace(low - 5 * width, high + 5 * width, BINS)
    return {
        "eigenvalue": largest(product, size, top, seed, tolerance),
        "trace": traces.mean(),
        "trace_error": traces.std(ddof=1) / np.sqrt(trace_draws) if trace_draws > 1 else np.nan,
        "grid": grid,
        # A spectrum that is 0 throughout is one point, which has no density.
        "density": density(values, weights, grid, width) if low or high else np.full(BINS, np.nan),
        "ritz_value": values,
        "ritz_weight": weights,
        "edge": low,
    }


def plot_hessian(result: xr.Dataset, figure: Figure) -> None:
    """Largest eigenvalues and trace against training, and densities of the spectrum."""
    top, trace, spectra = plot.panels(figure, 3, columns=3, height=2.7, sharex=False, sharey=False)
    for color, rank in zip(plot.depth_colors(result.sizes["rank"]), result["rank"].values, strict=True):
        plot.line(top, result["step"], result["eigenvalue"].sel(rank=rank), color=color, label=f"λ{rank}")
    plot.line(top, result["step"], result["edge"], color=plot.GREY, linestyle=":", label="smallest seen")
    top.set(title="largest eigenvalues", ylabel="eigenvalue")
    plot.legend(top)
    plot.band(trace, result["step"], result["trace"], result["trace_error"], color=plot.PALETTE[0])
    trace.set(title="trace, ± one standard error", ylabel="tr H")
    for panel in (top, trace):
        plot.step_axis(panel, result["step"])
        plot.zero_line(panel)
    _plot_densities(spectra, result)


def _plot_densities(panel: Axes, result: xr.Dataset) -> None:
    steps = result["step"].values
    shown = plot.pick(steps, 3)
    for color, position in zip(plot.depth_colors(len(shown)), shown, strict=True):
        at = result.isel(step=position)
        values = divide(
            at["density"].values, at["density"].values > 1e-6 * np.nanmax(np.append(at["density"], 0))
        )
        panel.plot(at["grid"], values, color=color, linewidth=1, label=f"step {steps[position]:,}")
    if np.isfinite(result["density"].values).any():
        plot.log_scale(panel)
    panel.set(title="density of eigenvalues", xlabel="eigenvalue", ylabel="density")
    plot.legend(panel)
