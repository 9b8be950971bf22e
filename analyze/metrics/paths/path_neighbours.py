"""Neighbours by path: which images does the network treat most like this one, and do they stay the same?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from analyze import plot
from analyze.contract import metric
from analyze.numerics import divide, mean_defined
from analyze.reference import GUPTA_2022
from tracer.errors import MissingTraceError

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@metric(
    reads=("overlap", "overlap_previous", "ids", "site"),
    optional={key: {"kind": "activation"} for key in ("activations", "activations_previous", "any_site")},
    variables={"rank": ("step", "site", "baseline", "example"), "turnover": ("step", "site")},
    scope="train",
    lag=True,
    bounds={"rank": (-1, np.inf), "turnover": (0, 1)},
    integers=("rank",),
    summary=("turnover",),
    title="Nearest neighbours by path",
    formula="rank of j around i by decreasing p_i·p_j;  turnover = 1 - |top6 ∩ top6′| / |top6 ∪ top6′|",
    cost="n log n per step, site and baseline",
    reading=(
        "One line per image that ever comes among the six most like the baseline image. Lines that cross "
        "and leave mean the network is still changing its mind about what is alike; flat lines, that it has "
        "settled. The last panel is the share of the six that is exchanged between two snapshots."
    ),
    reference=GUPTA_2022,
)
def path_neighbours(
    overlap: np.ndarray,
    overlap_previous: np.ndarray,
    ids: np.ndarray,
    site: np.ndarray,
    *,
    activations: Sequence[np.ndarray] | None = None,
    activations_previous: Sequence[np.ndarray] | None = None,
    any_site: np.ndarray | None = None,
    kind: Literal["path", "activation"] = "path",
    baselines: Sequence[int] = (5, 10, 15),
    top: int = 6,
) -> dict[str, Any]:
    """Rank of every other example around a few baseline examples, and how fast the nearest are exchanged.

    `overlap` and `overlap_previous` (step, site, example, example_2) count the units on in both paths, at a
    snapshot and at the one before; `ids` (example,). With `kind="activation"` examples are compared by the
    cosine of their activations instead: one array (step, example, unit) per site. `baselines` are positions
    in the probe; those beyond its size are left out.

    `rank` (step, site, baseline, example) is 0 for the most similar example, ties going to the lower id, and
    -1 for the baseline itself and examples whose similarity to it is undefined. `turnover` (step, site) is one minus
    the Jaccard index of the `top` nearest at both snapshots, mean over baselines; a baseline that overlaps with no
    other example at either is left out.
    NaN where all are, as at the first snapshot.

    Raises MissingTraceError where no baseline is in the probe, or where activations are wanted and not there.

    >>> now = np.array([[[[9, 5, 7, 5], [5, 9, 0, 0], [7, 0, 9, 0], [5, 0, 0, 9]]]])
    >>> result = path_neighbours(now, np.zeros_like(now), np.array([4, 3, 2, 1]), ["relu"], baselines=[0])
    >>> result["rank"].tolist(), result["turnover"]
    ([[[[-1, 2, 0, 1]]]], array([[nan]]))
    """
    if kind == "activation":
        overlap, overlap_previous = _cosines(activations), _cosines(activations_previous)
        site = np.arange(overlap.shape[1]) if any_site is None else any_site
    chosen = np.array([b for b in baselines if b < len(ids)], dtype=np.int64)
    if not len(chosen):
        raise MissingTraceError(
            f"baseline positions {list(baselines)} lie outside a probe of {len(ids)} examples; "
            f"give the option baselines= positions below {len(ids)}"
        )
    now, before = (_others(table[:, :, chosen], chosen) for table in (overlap, overlap_previous))
    rank, rank_before = ranks(now, ids), ranks(before, ids)
    near, near_before = ((r >= 0) & (r < top) for r in (rank, rank_before))
    jaccard = divide((near & near_before).sum(-1), (near | near_before).sum(-1))
    alike = (now > 0).any(-1) & (before > 0).any(-1)
    turnover, _ = mean_defined(np.where(alike, 1.0 - jaccard, np.nan), axis=-1)
    return {
        "rank": rank,
        "turnover": turnover,
        "baseline": chosen,
        "site": site,
        "attrs": {"kind": kind, "top": top},
    }


def ranks(similarity: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Ranks by decreasing similarity (..., baseline, example): 0 the nearest, ties by id; -1 where similarity is -inf.

    >>> ranks(np.array([[-np.inf, 2.0, 2.0]]), np.array([0, 8, 3]))
    array([[-1,  1,  0]])
    """
    by_id = np.argsort(ids, kind="stable")
    key = -np.round(similarity, 12)  # counts, or cosines, which rounding would else put in order
    order = by_id[np.argsort(key[..., by_id], axis=-1, kind="stable")]
    rank = np.empty(order.shape, np.int64)
    np.put_along_axis(rank, order, np.broadcast_to(np.arange(len(ids)), order.shape), axis=-1)
    return np.where(np.isneginf(similarity), -1, rank)  # they came last, so that no other rank is moved


def _others(similarity: np.ndarray, baselines: np.ndarray) -> np.ndarray:
    """Similarities to the baselines, -inf for their own and where there is none."""
    similarity = np.where(np.isnan(similarity), -np.inf, similarity)
    similarity[:, :, np.arange(len(baselines)), baselines] = -np.inf
    return similarity


def _cosines(activations: Sequence[np.ndarray] | None) -> np.ndarray:
    if activations is None:
        raise MissingTraceError(
            'kind="activation" needs stored activations; '
            'record them with tracer.Probe(..., capture={"activations": n})'
        )
    tables = []
    for site in activations:
        rows = np.asarray(site, np.float64)
        unit = divide(rows, np.linalg.norm(rows, axis=-1, keepdims=True))
        tables.append(unit @ unit.swapaxes(-1, -2))
    return np.stack(tables, axis=1)


def plot_path_neighbours(result: xr.Dataset, figure: Figure) -> None:
    """Ranks around each baseline at the first and last site, and the turnover of every site."""
    sites = sorted({0, result.sizes["site"] - 1})
    baselines, steps = result["baseline"].values[:3], result["step"].values
    count = len(sites) * len(baselines)
    panels = plot.panels(figure, count + 1, columns=len(baselines), height=1.9, sharex=False, sharey=False)
    for k, axes in enumerate(panels[:count]):
        site, baseline = sites[k // len(baselines)], baselines[k % len(baselines)]
        _plot_ranks(axes, result.isel(site=site).sel(baseline=baseline), int(result.attrs.get("top", 6)))
        if k % len(baselines) == 0:
            axes.set_ylabel("rank (0 = nearest)")
    axes = panels[-1]
    for site, color in enumerate(plot.depth_colors(result.sizes["site"])):
        label = str(result["site"].values[site])
        plot.line(axes, steps, result["turnover"].isel(site=site), color=color, label=label)
    plot.step_axis(axes, steps)
    axes.set(ylabel="share exchanged", title="turnover of the nearest", ylim=(-0.05, 1.05))
    plot.legend(axes)


def _plot_ranks(axes: Axes, result: xr.Dataset, top: int) -> None:
    rank = result["rank"].values
    seen = np.flatnonzero(((rank >= 0) & (rank < top)).any(0))
    for n, example in enumerate(seen):
        color = plot.PALETTE[n % len(plot.PALETTE)]
        axes.plot(result["step"], rank[:, example], marker="o", markersize=2.5, linewidth=0.9, color=color)
    site, baseline = result["site"].values, result["baseline"].values
    axes.set(ylim=(top - 0.5, -0.5), title=f"{site}, around position {baseline}", yticks=range(top))
    plot.step_axis(axes, result["step"])
