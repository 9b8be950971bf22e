"""Betti numbers: how many pieces and holes does one class have, layer by layer?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from analyze import plot
from analyze.arrays.classes import classes_in
from analyze.contract import metric
from analyze.numerics import divide, pairwise_distance
from analyze.numerics.metric_spaces import betti, distinct, hops
from analyze.reference import Reference

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

NAITZAT_2020 = Reference(
    key="naitzat2020topology",
    authors=("Naitzat, Gregory", "Zhitnikov, Andrey", "Lim, Lek-Heng"),
    title="Topology of Deep Neural Networks",
    year=2020,
    venue="Journal of Machine Learning Research 21",
    arxiv="2004.06093",
)


@metric(
    reads=("activations", "inputs", "labels", "ids", "correct", "any_site"),
    scope="train",
    variables={
        "betti": ("step", "place", "k", "epsilon", "degree"),
        "total": ("step", "place", "k", "epsilon"),
        "centre": ("step", "k", "epsilon"),
        "n_points": ("step",),
        "n_duplicates": ("step", "place"),
    },
    bounds={"betti": (0, np.inf), "total": (0, np.inf), "centre": (0, np.inf)},
    summary={"total": {"k": "last", "epsilon": "last"}},
    title="Betti numbers of a class",
    formula="β_j of the complex of points within ε edges of each other in the k-nearest-neighbour graph;  ω = Σ_j β_j",
    makes=[("example", "example_2")] * 6,
    cost="distances O(most² · units), and homology of up to most³ triangles, a place, k and ε of every step",
    reading=(
        "ω falls to a few where layers have made one piece of the class. What is said of it must hold over all k and "
        "ε, and beside a network at initialisation. Contested: that ReLU lowers it faster than tanh rests mostly on "
        "synthetic sets; a layer that can be undone changes no Betti number, so that a fall there shows scale and "
        "sampling."
    ),
    needs='activations of a probe: Probe(..., capture={"activations": 512}); degrees above 0 the extra `topology`',
    reference=NAITZAT_2020,
)
def betti_numbers(
    activations: Sequence[np.ndarray],
    inputs: np.ndarray,
    labels: np.ndarray,
    ids: np.ndarray,
    correct: np.ndarray,
    any_site: np.ndarray,
    *,
    label: int | None = None,
    k: Sequence[int] = (14, 35),
    epsilon: Sequence[float] = (1.5, 2.5),
    degrees: int = 2,
    most: int = 150,
) -> dict[str, Any]:
    """Betti numbers of the representation of one class by the input and by every site.

    `activations` lists (step, example, unit) per site `any_site`, `inputs` is (example, ...), `labels` and `ids`
    (example,), `correct` (step, example). The points are the training examples of class `label` (default: the lowest)
    that are classified rightly at that step, at most the `most` of lowest id, the same at every place; of equal points
    one is left (`n_duplicates`). At each place every point is joined to its `k` nearest (Euclidean), and the distance
    of two points is the number of edges between them, so that scales mean the same at every place; points within
    `epsilon` of each other form simplices. `betti` (step, place, k, epsilon, degree) are β₀ up to β of `degrees` - 1
    over GF(2), `total` their sum ω, and `centre` (step, k, epsilon) = Σ l (ω_{l-1} - ω_l)⁺/Σ (ω_{l-1} - ω_l)⁺ the
    place, counted from the input as 0, where ω falls; NaN without a fall. `n_points` (step,) count before duplicates
    are merged. NaN for fewer than k + 1 points, or where a value is not finite. With known topology of the input choose
    k by β₀ at ε = 1 and then ε by β₁; pixels have no known one.

    >>> angle = np.arange(12) * np.pi / 6
    >>> circle = np.stack([np.cos(angle), np.sin(angle)], 1)
    >>> betti(hops(pairwise_distance(circle), 2), 1.0, degrees=1)
    [1]
    """
    classes = classes_in(labels)
    chosen_class = (int(classes[0]) if len(classes) else -1) if label is None else label
    places = ["input", *map(str, any_site)]
    shape = len(correct), len(places), len(k), len(epsilon)
    numbers = np.full((*shape, degrees), np.nan)
    points, duplicates = np.zeros(shape[0], np.int64), np.zeros(shape[:2], np.int64)
    order = np.argsort(ids, kind="stable")
    for step in range(shape[0]):
        rows = order[((labels == chosen_class) & (correct[step] == 1))[order]][:most]
        points[step] = len(rows)
        for place, values in enumerate([inputs, *(site[step] for site in activations)]):
            found, duplicates[step, place] = _of_points(values[rows], k, epsilon, degrees)
            numbers[step, place] = found
    total = numbers.sum(-1)
    fall = np.maximum(total[:, :-1] - total[:, 1:], 0.0)
    depth = np.arange(1, len(places))[:, None, None]
    return {
        "betti": numbers,
        "total": total,
        "centre": divide((depth * fall).sum(1), fall.sum(1)),
        "n_points": points,
        "n_duplicates": duplicates,
        "place": np.array(places),
        "k": np.array(k, np.int64),
        "epsilon": np.array(epsilon, np.float64),
        "degree": np.arange(degrees),
        "attrs": {"label": chosen_class},
    }


def _of_points(
    values: np.ndarray, ks: Sequence[int], scales: Sequence[float], degrees: int
) -> tuple[np.ndarray, int]:
    """Betti numbers (k, epsilon, degree) of points (point, ...), and how many of them equal an earlier one."""
    found = np.full((len(ks), len(scales), degrees), np.nan)
    if len(values) < 2 or not np.isfinite(values).all():
        return found, 0
    rows = np.asarray(values, np.float64).reshape(len(values), -1)
    distance = pairwise_distance(rows)
    kept = distinct(distance)
    distance = distance[np.ix_(kept, kept)]
    for i, k in enumerate(ks):
        if len(kept) > k:
            between = hops(distance, k)
            found[i] = [betti(between, scale, degrees) for scale in scales]
    return found, len(rows) - len(kept)


def plot_betti_numbers(result: xr.Dataset, figure: Figure) -> None:
    """Sum of the Betti numbers from place to place, at the first and the last snapshot, for every k and scale."""
    sizes = [(i, j) for i in range(result.sizes["k"]) for j in range(result.sizes["epsilon"])]
    titles = [f"k = {int(result['k'][i])}, ε = {float(result['epsilon'][j]):g}" for i, j in sizes]
    axes = plot.panels(figure, len(sizes), titles=titles, columns=2, height=2.3)
    steps = result["step"].values
    shown = plot.pick(steps, 3)
    for panel, (i, j) in zip(axes, sizes, strict=True):
        for position, color in zip(shown, plot.depth_colors(len(shown)), strict=True):
            values = result["total"].isel(k=i, epsilon=j, step=position)
            plot.line(
                panel, range(result.sizes["place"]), values, color=color, label=f"step {steps[position]:,}"
            )
        plot.name_ticks(panel.xaxis, result["place"].values, limit=10, rotation=90)
        if not np.isfinite(result["total"].values).any():
            panel.text(0.5, 0.5, "too few points", ha="center", transform=panel.transAxes)
    axes[0].set_ylabel(f"ω, class {result.attrs.get('label', '')}")
    plot.legend(axes[0])
