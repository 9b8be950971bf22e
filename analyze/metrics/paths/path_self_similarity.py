"""Path self-similarity: does an example keep its path through the network from one snapshot to the next?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from analyze import plot
from analyze.contract import metric
from analyze.numerics import divide, mean_defined, std_defined
from analyze.reference import GUPTA_2022
from tracer.errors import MissingTraceError

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure


@metric(
    reads=("path_count", "path_count_previous", "path_common"),
    optional={"path_count_last": {"against": "last"}, "path_common_last": {"against": "last"}},
    variables={
        "similarity": ("step", "site", "example"),
        "mean": ("step", "probe", "site"),
        "std": ("step", "probe", "site"),
        "n_undefined": ("step", "probe", "site"),
    },
    scope="probe",
    lag=True,
    each="site",
    bounds={"similarity": (0, 1), "mean": (0, 1), "std": (0, 0.5)},
    summary=("mean",),
    makes=(),
    title="Path self-similarity",
    formula="cos(p_i^{t-1}, p_i^t) = |p_i^{t-1} ∩ p_i^t| / sqrt(|p_i^{t-1}| |p_i^t|)",
    cost="counts bits; O(steps · units · examples)",
    reading="Below 1: the same example switches other units on than it did one comparison earlier.",
    reference=GUPTA_2022,
)
def path_self_similarity(
    path_count: np.ndarray,
    path_count_previous: np.ndarray,
    path_common: np.ndarray,
    *,
    path_count_last: np.ndarray | None = None,
    path_common_last: np.ndarray | None = None,
    against: Literal["previous", "last"] = "previous",
) -> dict[str, Any]:
    """Cosine between the path of an example at one snapshot and at the one before, at each site.

    The counts are (step, site, example): units on now, units on before, units on both times. `mean` and
    `std` (population) are over examples. NaN, and counted in `n_undefined`, where no unit is on at one of
    the two, as at the first snapshot, which has none before it. `against="last"` compares with the last
    snapshot instead.

    >>> now, before, both = (np.array([[[count]]]) for count in (4, 9, 3))
    >>> path_self_similarity(now, before, both)["similarity"]
    array([[[0.5]]])
    """
    if against == "last":
        if path_count_last is None or path_common_last is None:
            raise MissingTraceError('against="last" needs masks at the last snapshot')
        path_count_previous, path_common = path_count_last, path_common_last
    product = path_count.astype(np.float64) * path_count_previous
    similarity = divide(path_common, np.sqrt(product))
    mean, used = mean_defined(similarity, -1)
    return {
        "similarity": similarity,
        "mean": mean,
        "std": std_defined(similarity, -1),
        "n_undefined": similarity.shape[-1] - used,
        "attrs": {"against": against},
    }


def plot_path_self_similarity(result: xr.Dataset, figure: Figure) -> None:
    """Distribution over examples against training at a few sites: every tenth percentile, median and mean."""
    result = plot.compared(result)
    shown = plot.pick(result["site"].values, 6)
    names = [f"site {result['site'].values[k]}" for k in shown]
    axes = plot.panels(figure, len(shown), titles=names, height=2.1)
    steps = result["step"].values
    split = result["example_probe"].values if "example_probe" in result.coords else None
    for panel, k in zip(axes, shown, strict=True):
        for p, probe in enumerate(result["probe"].values):
            color = plot.color_of(str(probe), p)
            at = result.isel(site=k)
            rows = slice(None) if split is None else split == probe
            values = at["similarity"].values[:, rows]
            for low, high in ((10, 90), (25, 75)):
                plot.spread(panel, steps, values, low, high, color=color)
            plot.line(panel, steps, at["mean"].sel(probe=probe), label=str(probe), color=color)
        panel.set_ylim(0, 1.02)
        plot.step_axis(panel, steps)
    plot.legend(axes[0], loc="lower right")
    axes[0].set_ylabel("similarity to the one before")
