"""Trajectory dimension: of what dimension is the set of weights that training passes through?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from analyze import plot
from analyze.contract import metric
from analyze.numerics.metric_spaces import SINGULAR, distinct, spanning_edges, weighting
from analyze.reference import Reference
from tracer.errors import MissingTraceError, byte_size

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

BIRDAL_2021 = Reference(
    key="birdal2021intrinsic",
    authors=("Birdal, Tolga", "Lou, Aaron", "Guibas, Leonidas", "Şimşekli, Umut"),
    title="Intrinsic Dimension, Persistent Homology and Generalization in Neural Networks",
    year=2021,
    venue="Advances in Neural Information Processing Systems 34",
    arxiv="2111.13171",
)
DUPUIS_2023 = Reference(
    key="dupuis2023generalization",
    authors=("Dupuis, Benjamin", "Deligiannidis, George", "Şimşekli, Umut"),
    title="Generalization Bounds with Data-dependent Fractal Dimensions",
    year=2023,
    arxiv="2302.02766",
)
ANDREEVA_2024 = Reference(
    key="andreeva2024topological",
    authors=("Andreeva, Rayna", "Dupuis, Benjamin", "Sarkar, Rik", "Birdal, Tolga", "Şimşekli, Umut"),
    title="Topological Generalization Bounds for Discrete-Time Stochastic Optimization Algorithms",
    year=2024,
    arxiv="2407.08723",
)
FEWEST, FIRST, BETWEEN, LARGEST = 400, 200, 50, 950
SCALES = 20
SMALL = 0.01
LIMIT = 1 << 30  # bytes of iterates held at once
COLUMNS = 1 << 14  # elements of every iterate that are multiplied at once
CLOSE = 1e-12  # of the largest square, up to which a squared distance is no difference of products
VALUES = (
    "ph_dimension",
    "ph_dimension_sd",
    "ph_slope",
    "ph_residual",
    "e_alpha",
    "positive_magnitude",
    "positive_magnitude_small",
    "magnitude_dimension",
    "magnitude_t_low",
    "magnitude_t_high",
    "condition",
)


@metric(
    reads=("weights", "layer_tensors", "step", "n_train"),
    optional={"losses": {"distance": "losses"}, "split": {"distance": "losses"}},
    whole=True,
    variables={
        **dict.fromkeys(VALUES, ()),
        "magnitude": ("t",),
        "n_iterates": (),
        "n_duplicates": (),
        "n_scales": (),
    },
    bounds={"ph_dimension_sd": (0, np.inf), "e_alpha": (0, np.inf), "ph_residual": (0, np.inf)},
    summary=("ph_dimension", "e_alpha", "magnitude_dimension"),
    makes=(),
    title="Dimension of the trajectory",
    formula="E_α(q) = Σ (edges of a spanning tree)^α ~ q^m, dim = α/(1-m);  Mag(t) = Σ_j w_j, Σ_j e^{-t d_ij} w_j = 1",
    cost="O(iterates² · parameters) for the distances, 160 spanning trees and 22 systems of equations of the iterates",
    reading=(
        "Needs a snapshot at every one of the last 1,000 steps or so. Compare within one learning rate and batch size. "
        "Contested: the dimension is confounded with these hyper-parameters, fails for poor initialisations, and the "
        "norm of the weights predicts better (Tan et al. 2024); the bounds' term of mutual information is not computed."
    ),
    reference=(BIRDAL_2021, DUPUIS_2023, ANDREEVA_2024),
)
def trajectory_dimension(
    weights: Sequence[Mapping[str, np.ndarray]],
    layer_tensors: Mapping[str, Sequence[str]],
    step: np.ndarray,
    n_train: int,
    *,
    losses: np.ndarray | None = None,
    split: np.ndarray | None = None,
    distance: Literal["weights", "losses"] = "weights",
    alpha: float = 1.0,
    iterates: int = 1000,
    redraws: int = 10,
    seed: int = 0,
) -> dict[str, Any]:
    """Persistent-homology dimension, E_α and magnitude of the last iterates of a run; one number a run each.

    `weights` holds one mapping from tensor name to values per snapshot, `layer_tensors` the trainable parameters of
    each layer, `step` (step,) the snapshots. The points are the last `iterates` snapshots that are equally far apart in
    steps, `n_iterates` of them, with all trainable parameters end to end and Euclidean distances, not normalised;
    `distance="losses"` takes (1/n) Σ_i |ℓ_i - ℓ_i'| of the recorded `losses` (step, example) of the `split` train
    instead. Equal points are merged (`n_duplicates`).

    `e_alpha` is the sum of the `alpha`-th powers of the edges of the minimum spanning tree of all points. For sizes q =
    200, 250, ... up to 950 or 50 fewer than there are points, E_α of `redraws` random subsets (by `seed`); `ph_slope` m
    is the least-squares slope of the mean ln E_α on ln q, `ph_residual` the root mean square about it, `ph_dimension` =
    α/(1 - m) and `ph_dimension_sd` its standard deviation over redraws. NaN for fewer than 400 points, for m ≥ 1 and
    where all points are equal. `positive_magnitude` is Σ max(w_j, 0) at t = √`n_train`, `positive_magnitude_small` at t
    = 0.01. `magnitude` (t) is Mag at `t`, 20 logarithmically spaced scales from 1/(10 D) to 1000/D, D the largest
    distance; `magnitude_dimension` is the slope of ln Mag on ln t over the `n_scales` of them at which 2 < Mag < N/2,
    from `magnitude_t_low` to `magnitude_t_high`, NaN for fewer than 4. `condition` is the largest condition number met
    at t = √n_train and 0.01; from 1e12 on, which it then is, what rests on it is NaN. NaN throughout where a weight or
    loss is not finite.

    >>> rows = np.arange(3.0)[:, None] * [[3.0, 4.0]]
    >>> found = of_distances(np.abs(np.subtract.outer(*[np.arange(3.0) * 5] * 2)), 4)
    >>> found["e_alpha"], round(found["positive_magnitude"], 4)  # 1 + 2 tanh(t d/2) at t = 2, d = 5
    (10.0, 2.9998)
    """
    rows = equally_spaced(step, iterates)
    if distance == "losses":
        if losses is None or split is None or "train" not in split:
            raise MissingTraceError(
                'distance="losses" needs losses of a train probe at every snapshot with weights; record both together'
            )
        points = np.asarray(losses[rows][:, split == "train"], np.float64)
        points = points[:, ~np.isnan(points).all(0)]  # without examples that the loss leaves out
        table = np.array([np.abs(points - point).mean(1) for point in points])
    else:
        names = [name for owned in layer_tensors.values() for name in owned]
        points = _flat(weights, rows, names)
        table = distances(points)
    finite = len(rows) > 0 and bool(np.isfinite(table).all())
    found: dict[str, Any] = (
        of_distances(table, n_train, alpha=alpha, redraws=redraws, seed=seed) if finite else {}
    )
    blank: dict[str, Any] = {**dict.fromkeys(VALUES, np.nan), "n_duplicates": 0, "n_scales": 0}
    blank |= {"magnitude": np.full(SCALES, np.nan), "t": np.arange(1.0, SCALES + 1)}
    between = int(step[rows[1]] - step[rows[0]]) if len(rows) > 1 else 0
    return {
        **blank,
        **found,
        "n_iterates": len(rows),
        "attrs": {"steps_between": between, "seed": seed, "alpha": alpha},
    }


def equally_spaced(step: np.ndarray, most: int) -> np.ndarray:
    """Positions of the last snapshots that are equally far apart, at most `most`.

    >>> equally_spaced(np.array([0, 4, 8, 9, 10]), 100)
    array([2, 3, 4])
    """
    gaps = np.diff(step)
    if not len(gaps):
        return np.arange(len(step))
    other = np.flatnonzero(gaps != gaps[-1])
    first = int(other[-1]) + 1 if len(other) else 0
    return np.arange(max(first, len(step) - most), len(step))


def _flat(weights: Sequence[Mapping[str, np.ndarray]], rows: np.ndarray, names: Sequence[str]) -> np.ndarray:
    held: list[np.ndarray] = []
    for row in rows:
        tensors = weights[int(row)]  # read here, all of them at once
        found = [np.asarray(tensors[name]) for name in names]
        kind = np.float64 if any(values.dtype == np.float64 for values in found) else np.float32
        held.append(np.concatenate([np.empty(0, kind), *(values.astype(kind).ravel() for values in found)]))
        if held[0].nbytes * len(rows) > LIMIT:
            raise MissingTraceError(
                f"the distances of {len(rows)} iterates of {held[0].size} parameters take "
                f"{byte_size(held[0].nbytes * len(rows))} at once, more than {byte_size(LIMIT)}; take fewer with "
                'iterates=, or distance="losses"'
            )
    return np.array(held)


def distances(points: np.ndarray) -> np.ndarray:
    """Euclidean distances (point, point) of rows (point, element), added up in float64.

    >>> distances(np.array([[0.0, 0.0], [3.0, 4.0], [3.0, 4.0]])).tolist()
    [[0.0, 5.0, 5.0], [5.0, 0.0, 0.0], [5.0, 0.0, 0.0]]
    """
    if not np.isfinite(points).all():
        return np.full((len(points), len(points)), np.nan)
    gram = np.zeros((len(points), len(points)))
    for start in range(0, points.shape[1], COLUMNS):
        some = points[:, start : start + COLUMNS].astype(np.float64)
        some -= some.mean(0)
        gram += some @ some.T
    squares = np.diagonal(gram)
    table = np.maximum(squares[:, None] + squares - 2 * gram, 0.0)
    # Of near points the products leave rounding alone, so they are subtracted from each other.
    for i, j in np.argwhere(np.triu(table < CLOSE * squares.max(initial=0.0), 1)):
        table[i, j] = table[j, i] = float(((points[i].astype(np.float64) - points[j]) ** 2).sum())
    np.fill_diagonal(table, 0.0)
    return np.sqrt(table)


def of_distances(
    table: np.ndarray, n_train: int, *, alpha: float = 1.0, redraws: int = 10, seed: int = 0
) -> dict[str, Any]:
    """What `trajectory_dimension` says of distances (point, point); names of what is undefined are left out."""
    kept = distinct(table)
    found: dict[str, Any] = {"n_duplicates": len(table) - len(kept)}
    table = table[np.ix_(kept, kept)]
    if len(table) < 2:
        return found
    found["e_alpha"] = float((spanning_edges(table) ** alpha).sum())
    found |= dimension(table, alpha, redraws, seed)
    conditions = []
    for name, t in (("positive_magnitude", n_train**0.5), ("positive_magnitude_small", SMALL)):
        weights, condition = weighting(table, t)
        found[name] = float(np.maximum(weights, 0).sum()) if np.isfinite(weights).all() else np.nan
        conditions.append(condition)
    found["condition"] = min(max(conditions), SINGULAR)
    scales = np.geomspace(0.1, 1000, SCALES) / table.max()
    magnitude = np.array([weighting(table, t)[0].sum() for t in scales])
    inside = np.flatnonzero((magnitude > 2) & (magnitude < len(table) / 2))
    found |= {"magnitude": magnitude, "t": scales, "n_scales": len(inside)}
    if len(inside) >= 4:
        slope = np.polyfit(np.log(scales[inside]), np.log(magnitude[inside]), 1)[0]
        found |= {"magnitude_dimension": float(slope)}
        found |= {"magnitude_t_low": scales[inside[0]], "magnitude_t_high": scales[inside[-1]]}
    return found


def dimension(table: np.ndarray, alpha: float, redraws: int, seed: int) -> dict[str, float]:
    """Slope and dimension from spanning trees of random subsets of points with these distances."""
    if len(table) < FEWEST:
        return {}
    sizes = np.arange(FIRST, min(LARGEST, len(table) - BETWEEN) + 1, BETWEEN)
    draw = np.random.default_rng(seed)
    logs = np.empty((redraws, len(sizes)))
    for row in logs:
        for k, size in enumerate(sizes):
            some = draw.choice(len(table), size, replace=False)
            row[k] = np.log((spanning_edges(table[np.ix_(some, some)]) ** alpha).sum())
    x = np.log(sizes)
    slope, start = np.polyfit(x, logs.mean(0), 1)
    residual = float(np.sqrt(np.mean((logs.mean(0) - slope * x - start) ** 2)))
    each = np.array([_dimension(np.polyfit(x, row, 1)[0], alpha) for row in logs])
    return {
        "ph_slope": float(slope),
        "ph_residual": residual,
        "ph_dimension": _dimension(float(slope), alpha),
        "ph_dimension_sd": float(each.std()) if np.isfinite(each).all() else np.nan,
    }


def _dimension(slope: float, alpha: float) -> float:
    return alpha / (1 - slope) if slope < 1 else np.nan


def plot_trajectory_dimension(result: xr.Dataset, figure: Figure) -> None:
    """Magnitude against scale, and the dimensions in words."""
    (axes,) = plot.panels(figure, 1, height=2.8)
    plot.line(axes, result["t"], result["magnitude"])
    words = [f"{int(result['n_iterates'])} iterates"]
    for name, what in (("ph_dimension", "PH dimension"), ("magnitude_dimension", "magnitude dimension")):
        value = float(result[name])
        words.append(f"{what} {value:.3g}" if np.isfinite(value) else f"{what} undefined")
    if np.nanmax(result["magnitude"].values, initial=0.0) > 0:
        axes.set_xscale("log")
        plot.log_scale(axes)
    axes.set(title=", ".join(words), xlabel="scale t", ylabel="magnitude")
