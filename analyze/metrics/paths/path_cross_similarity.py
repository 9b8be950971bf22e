"""Path cross-similarity: do two images share the same units from one snapshot to the next?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from analyze import plot
from analyze.contract import metric
from analyze.numerics import divide, histogram, mean_defined, pairs_of, std_defined
from analyze.reference import GUPTA_2022

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

DIMS = ("step", "probe", "site")


@metric(
    reads=("overlap", "overlap_previous", "overlap_joint"),
    variables={"mean": DIMS, "std": DIMS, "n_undefined": DIMS, "histogram": (*DIMS, "bin")},
    scope="probe",
    lag=True,
    each="site",
    bounds={"mean": (0, 1), "std": (0, 0.5), "histogram": (0, np.inf)},
    units={"histogram": "pairs"},
    summary=("mean",),
    title="Path cross-similarity",
    formula="R_ij = |p_i∩p_j∩p'_i∩p'_j| / sqrt(|p_i∩p_j| |p'_i∩p'_j|), i < j, p' one comparison earlier",
    cost="O(steps · units · examples²) bit operations",
    reading=(
        "Near 1: the units that a pair of images shares stay the same. Below 1: images meet in different "
        "features at different times of training."
    ),
    reference=GUPTA_2022,
)
def path_cross_similarity(
    overlap: np.ndarray, overlap_previous: np.ndarray, overlap_joint: np.ndarray, *, bins: int = 50
) -> dict[str, Any]:
    """Cosine between the units two examples share at one snapshot and those they shared at the one before.

    The overlaps are counts (step, site, example, example_2): units on for both examples now, before, and
    both times. Over unordered pairs of different examples: `mean`, `std` (population), `n_undefined`, the
    pairs that share no unit at one of the snapshots (NaN, left out), and `histogram`, counts in `bins`
    equal bins on [0, 1]. All but `n_undefined` are NaN where no pair is defined, as at the first snapshot.
    Two identical snapshots give exactly 1.

    >>> now, before, both = (np.array([[[[9, count], [count, 9]]]]) for count in (4, 9, 3))
    >>> path_cross_similarity(now, before, both)["mean"]
    array([[0.5]])
    """
    shape = overlap.shape[:2]
    mean, std = np.full(shape, np.nan), np.full(shape, np.nan)
    undefined, counts = np.zeros(shape, np.int64), np.full((*shape, bins), np.nan)
    pairs = np.triu_indices(overlap.shape[-1], 1)
    # One snapshot at a time: the pairs of all of them at once would double the memory.
    for step in range(shape[0]):
        now, before, both = (
            pairs_of(overlaps[step], *pairs) for overlaps in (overlap, overlap_previous, overlap_joint)
        )
        values = divide(both, np.sqrt(now.astype(np.float64) * before))
        mean[step], used = mean_defined(values, -1)
        std[step] = std_defined(values, -1)
        undefined[step] = values.shape[-1] - used
        for site, row in enumerate(values):
            counts[step, site] = histogram(row, bins)
    middles = (np.arange(bins) + 0.5) / bins
    return {"mean": mean, "std": std, "n_undefined": undefined, "histogram": counts, "bin": middles}


def plot_path_cross_similarity(result: xr.Dataset, figure: Figure) -> None:
    """Distribution over pairs against training as a heat map, with its mean; training probe, a few sites."""
    probe = "train" if "train" in result["probe"].values else result["probe"].values[0]
    known = plot.compared(result.sel(probe=probe))
    shown = plot.pick(result["site"].values, 6)
    names = [f"site {result['site'].values[k]}" for k in shown]
    axes = plot.panels(figure, len(shown), titles=names, height=2.1)
    counts = known["histogram"].values
    shares = divide(counts, counts.sum(-1, keepdims=True))
    most = float(np.nanmax(shares, initial=0.0)) or 1.0
    edges, steps = np.linspace(0, 1, counts.shape[-1] + 1), known["step"].values
    drawn: Any = None
    for panel, k in zip(axes, shown, strict=True):
        drawn = plot.histogram_over_time(panel, shares[:, k], steps, edges, limits=(0, most))
        plot.line(panel, steps, known["mean"].isel(site=k), color=plot.PALETTE[1], label="mean")
    axes[0].set_ylabel(f"similarity ({probe})")
    plot.legend(axes[0])
    figure.colorbar(drawn, ax=axes, label="share of pairs", shrink=0.8)
