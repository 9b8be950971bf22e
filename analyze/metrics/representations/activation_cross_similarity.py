"""Cross activation similarity: do two examples keep the activations they share?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from analyze import plot
from analyze.contract import metric
from analyze.numerics import divide, histogram, mean_defined, std_defined
from analyze.reference import GUPTA_2022

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

UNITS_AT_ONCE = 8192  # float64 copies of 512 examples then stay below 100 MB


@metric(
    reads=("activations", "activations_previous"),
    variables={
        "mean": ("step", "probe", "site"),
        "std": ("step", "probe", "site"),
        "n_undefined": ("step", "probe", "site"),
        "histogram": ("step", "probe", "site", "bin"),
    },
    scope="probe",
    lag=True,
    bounds={"mean": (-1, 1), "std": (0, 1), "histogram": (0, np.inf)},
    summary=("mean",),
    title="Cross activation similarity",
    formula="R_ij = (a_i∘a_j)·(a′_i∘a′_j) / (|a_i∘a_j| |a′_i∘a′_j|)",
    cost="n² N per step and site (three matrix products)",
    reading=(
        "Near 1: what a pair of examples has in common at a site is the same as one comparison earlier. "
        "Low early and rising later is the usual course; the bars are one standard deviation over pairs."
    ),
    makes=[("example", "example_2")] * 7,
    needs='activations, recorded with Probe(..., capture={"activations": n}), n at least 2',
    reference=GUPTA_2022,
)
def activation_cross_similarity(
    activations: Sequence[np.ndarray], activations_previous: Sequence[np.ndarray], *, bins: int = 50
) -> dict[str, Any]:
    """Cosine between the shared activations of two examples at one snapshot and at the one before.

    `activations` and `activations_previous` hold one array (step, example, unit) per site. For a pair of
    examples a∘b is the product unit by unit; the similarity of the products at both snapshots lies in [0, 1]
    for activations that are never negative (else in [-1, 1]). Over unordered pairs of different examples:
    `mean`, `std` (population), `n_undefined`, the pairs that share no activation at one of the snapshots
    (NaN, left out), and `histogram`, counts in `bins` equal bins on [0, 1], a value below 0 in the first.
    All but `n_undefined` are NaN where no pair is defined, as at the first snapshot. Two identical snapshots
    give exactly 1.

    >>> now = [np.array([[[1.0, 2.0], [1.0, 1.0]]])]
    >>> before = [np.array([[[1.0, 0.0], [2.0, 5.0]]])]
    >>> activation_cross_similarity(now, before)["mean"].round(4)
    array([[0.4472]])
    """
    shape = (len(activations[0]), len(activations))
    mean, std = np.full(shape, np.nan), np.full(shape, np.nan)
    undefined, counts = np.zeros(shape, np.int64), np.full((*shape, bins), np.nan)
    for site, (now, before) in enumerate(zip(activations, activations_previous, strict=True)):
        for step in range(shape[0]):
            values = cross_similarity(now[step], before[step])
            mean[step, site], used = mean_defined(values)
            std[step, site] = std_defined(values, axis=0)
            undefined[step, site] = len(values) - used
            counts[step, site] = histogram(np.clip(values, 0.0, 1.0), bins)
    middles = (np.arange(bins) + 0.5) / bins
    return {"mean": mean, "std": std, "n_undefined": undefined, "histogram": counts, "bin": middles}


def cross_similarity(now: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Similarities (pair,) of shared activations (example, unit) at two snapshots, over pairs i < j.

    >>> cross_similarity(np.ones((2, 3)), np.ones((2, 3)))
    array([1.])
    """
    n = len(now)
    shared, size, size_before = np.zeros((3, n, n))
    scale, scale_before = _scale(now), _scale(before)
    # |a_i∘a_j|² is entry (i, j) of the Gram matrix of the squares: no pair is ever formed unit by unit.
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, now.shape[1], UNITS_AT_ONCE):
            units = slice(start, start + UNITS_AT_ONCE)
            a = now[:, units].astype(np.float64) / scale
            b = before[:, units].astype(np.float64) / scale_before
            for total, rows in ((shared, a * b), (size, a * a), (size_before, b * b)):
                total += rows @ rows.T
        pairs = np.triu_indices(n, 1)
        values = divide(shared[pairs], np.sqrt(size[pairs] * size_before[pairs]))
    return np.clip(values, -1.0, 1.0)


def _scale(values: np.ndarray) -> float:
    # Fourth powers of large activations would leave the range of float64.
    largest = float(np.abs(values).max(initial=0.0))
    return largest if 0.0 < largest < np.inf else 1.0


def plot_activation_cross_similarity(result: xr.Dataset, figure: Figure) -> None:
    """Distribution over pairs at each snapshot as a heat map with its mean, one panel per site and probe."""
    cells = [(p, s) for p in range(result.sizes["probe"]) for s in plot.pick(result["site"].values, 4)]
    names = [f"{result['site'].values[s]}, {result['probe'].values[p]}" for p, s in cells]
    columns = min(4, result.sizes["site"])
    axes = plot.panels(figure, len(cells), titles=names, columns=columns, height=2.0)
    known = plot.compared(result)
    steps, bins = known["step"].values, known.sizes["bin"]
    # Most of the range is empty late in training; the drawn part begins where there are pairs.
    used = np.flatnonzero(known["histogram"].sum(["step", "probe", "site"]).values)
    lowest = np.floor(10 * used[0] / bins) / 10 if len(used) else 0.0
    drawn: Any = None
    for panel, (p, s) in zip(axes, cells, strict=True):
        at = known.isel(probe=p, site=s)
        shares = divide(at["histogram"], at["histogram"].sum("bin").values[:, None])
        limits = (0, min(1.0, 12 / bins))
        drawn = plot.histogram_over_time(panel, shares, steps, np.linspace(0, 1, bins + 1), limits=limits)
        panel.errorbar(
            steps, at["mean"], at["std"], color="black", lw=1.2, elinewidth=0.5, label="mean ± std"
        )
        panel.set_ylim(lowest, 1)
    axes[0].set_ylabel("similarity to previous")
    figure.colorbar(drawn, ax=axes[-columns:], label="share of pairs", shrink=0.9, extend="max")
    plot.legend(axes[0])
