"""Path overlap against input distance: do similar images take similar paths?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from analyze import plot
from analyze.contract import metric
from analyze.numerics import divide, mean_ranks, pairs_of, pairwise_distance, pearson, spearman
from analyze.reference import GUPTA_2022

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure


@metric(
    reads=("overlap", "path_count", "inputs"),
    optional=("raw",),
    variables={
        "pearson": ("step", "probe", "site"),
        "spearman": ("step", "probe", "site"),
        "distance": ("probe", "point"),
        "overlap": ("step", "probe", "site", "point"),
    },
    scope="probe",
    each="site",
    makes=[("site", "example", "example_2")],
    bounds={"pearson": (-1, 1), "spearman": (-1, 1), "distance": (0, np.inf), "overlap": (0, np.inf)},
    units={"distance": "input units", "overlap": "units"},
    summary=("pearson", "spearman"),
    title="Path overlap against input distance",
    formula="points (|x_i - x_j|, p_i·p_j) over pairs i < j",
    cost="n² log n per step and site",
    reading=(
        "Each point is a pair of examples. Where near pairs share more active units than distant ones the "
        "cloud falls; a correlation that moves towards 0 means the path no longer follows the pixels."
    ),
    reference=GUPTA_2022,
)
def path_distance(
    overlap: np.ndarray,
    path_count: np.ndarray,
    inputs: np.ndarray,
    *,
    raw: np.ndarray | None = None,
    space: Literal["original", "input"] = "original",
    normalized: bool = False,
    points: int = 400,
) -> dict[str, Any]:
    """Correlation, over pairs of examples, of input distance and path overlap.

    `overlap` (step, site, example, example_2) counts the units on in both paths, `path_count` (step, site,
    example) those on in one; `inputs` and, where stored, `raw` (example, ...). The Euclidean distance is
    taken in the `original` space, `raw`, or between `inputs` where that is missing or `space="input"`.
    `normalized` divides an overlap by the root of the product of both counts; a pair with an all-off path is
    then undefined and left out. `pearson` and `spearman` (step, site) are NaN with fewer than two pairs, or
    where distances or overlaps are all equal.

    `distance` (point,) and `overlap` (step, site, point) are a thinned cloud to draw: `points` pairs at
    evenly spaced ranks of distance, NaN beyond the number of pairs.

    >>> overlap = np.array([[[[4, 3, 1], [3, 4, 2], [1, 2, 4]]]])
    >>> result = path_distance(overlap, np.full((1, 1, 3), 4), [[0.0], [1.0], [4.0]])
    >>> result["pearson"].round(4), result["spearman"]
    (array([[-0.982]]), array([[-1.]]))
    """
    original = raw is not None and space == "original"
    rows = raw if original and raw is not None else inputs
    first, second = np.triu_indices(len(np.asarray(rows)), 1)
    distance = pairwise_distance(rows)[first, second]
    cloud = pairs_of(np.asarray(overlap), first, second)
    if normalized:
        count = np.asarray(path_count, np.float64)
        cloud = divide(cloud, np.sqrt(count[..., first] * count[..., second]))
    shown = np.argsort(distance, kind="stable")[_evenly(len(distance), points)]
    return {
        "pearson": pearson(distance, cloud),
        "spearman": _rank_correlation(distance, cloud),
        "distance": _padded(distance[shown], points),
        "overlap": _padded(cloud[..., shown], points),
        "attrs": {"space": "original" if original else "input", "normalized": int(normalized)},
    }


def _rank_correlation(distance: np.ndarray, cloud: np.ndarray) -> np.ndarray:
    result = np.empty(cloud.shape[:-1])
    ranks = mean_ranks(distance)
    # The ranks of all distances serve every step; only where pairs drop out are they taken anew.
    undefined = bool(np.isnan(distance).any())
    for step, row in enumerate(cloud):
        if undefined or np.isnan(row).any():
            result[step] = spearman(distance, row)
        else:
            result[step] = pearson(ranks, mean_ranks(row))
    return result


def _evenly(n: int, points: int) -> np.ndarray:
    return (
        np.unique(np.linspace(0, n - 1, min(n, points)).round().astype(np.int64)) if n else np.empty(0, int)
    )


def _padded(values: np.ndarray, length: int) -> np.ndarray:
    padded = np.full((*values.shape[:-1], length), np.nan)
    padded[..., : values.shape[-1]] = values
    return padded


def plot_path_distance(result: xr.Dataset, figure: Figure) -> None:
    """The cloud of pairs at the first and last step, per site, with its correlation over training."""
    sites = plot.pick(result["site"].values, 3)
    ends = sorted({0, result.sizes["step"] - 1})
    probe = result["probe"].values[0]
    axes = plot.panels(figure, 2 * len(sites), columns=len(sites), height=2.3, sharex=False, sharey=False)
    for k, site in enumerate(sites):
        at = result.isel(site=site).sel(probe=probe)
        for end, color in zip(ends, (plot.GREY, plot.PALETTE[0]), strict=False):
            label = f"step {int(result['step'][end]):,}"
            axes[k].plot(
                at["distance"], at["overlap"].isel(step=end), ".", color=color, markersize=2.5, label=label
            )
        axes[k].set(title=str(result["site"].values[site]), xlabel="input distance |x − x′|")
        below = axes[len(sites) + k]
        for name, style in (("pearson", "-"), ("spearman", ":")):
            for p, each in enumerate(result["probe"].values):
                values, color = result[name].isel(site=site).sel(probe=each), plot.color_of(str(each), p)
                plot.line(
                    below,
                    result["step"],
                    values,
                    linestyle=style,
                    color=color,
                    label=f"{each}, {name.capitalize()}",
                )
        plot.zero_line(below)
        plot.step_axis(below, result["step"])
        below.set(ylim=(-1.05, 1.05), title=str(result["site"].values[site]))
    axes[0].set_ylabel(f"units on in both paths ({probe})")
    axes[len(sites)].set_ylabel("correlation over pairs")
    plot.legend(axes[0], markerscale=3)
    plot.legend(axes[len(sites)])
