"""Stiffness: does a step that helps one example help the others?"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from analyze import plot
from analyze.contract import metric
from analyze.numerics import divide, mean_defined, pair_mean_error, pairs_of
from analyze.reference import FORT_2019, WALKER_2023

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure


@metric(
    reads=("gram", "cosine", "split", "ids"),
    variables={
        "cosine": ("step", "pair", "layer"),
        "sign": ("step", "pair", "layer"),
        "cosine_error": ("step", "pair", "layer"),
        "sign_error": ("step", "pair", "layer"),
        "n_undefined": ("step", "pair", "layer"),
        "n_pairs": ("pair",),
    },
    bounds={"cosine": (-1, 1), "sign": (-1, 1), "cosine_error": (0, np.inf), "sign_error": (0, np.inf)},
    sketched=("cosine", "sign"),
    summary=("cosine", "sign"),
    title="Stiffness",
    formula="S_cos(A,B) = mean_{i∈A, j∈B} g_i·g_j / |g_i||g_j|; S_sign(A,B) = mean_{i∈A, j∈B} sign(g_i·g_j)",
    cost="reads stored Gram matrices; O(steps · layers · examples²)",
    reading=(
        "Above 0: a step on one example lowers the loss of the others. Falling to 0: the network "
        "has begun to fit examples one by one."
    ),
    reference=(FORT_2019, WALKER_2023),
)
def stiffness(
    gram: np.ndarray,
    cosine: np.ndarray,
    split: np.ndarray,
    ids: np.ndarray,
    *,
    zero: Literal["nan", "as_zero"] = "nan",
) -> dict[str, Any]:
    """Mean cosine and mean sign of the inner products of per-example loss gradients.

    `gram` and `cosine` are (step, layer, example, example_2), `split` and `ids` (example,). A `pair` is a
    pair of splits, `train-train` and so on; its means run over the `n_pairs` unordered pairs of examples that
    are not the same (split, id). A zero gradient has no direction: its cosines are left out of the mean and
    counted in `n_undefined` (`zero="as_zero"` counts them as 0 instead), while sign(0) = 0 is included. NaN
    where no pair is left. `cosine_error` and `sign_error` are the standard errors of both means over the examples
    drawn (a jackknife), NaN with fewer than three of one split or two of each of two. From sketches the mean sign is
    nearer to 0 than it is, by pairs whose cosine is within its error of 0; `sign_sketch_error` does not show this.

    >>> gradients = np.array([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0]])
    >>> gram = (gradients @ gradients.T)[None, None]
    >>> length = np.sqrt(np.diagonal(gram, axis1=2, axis2=3))
    >>> cosine = gram / length[..., None] / length[..., None, :]
    >>> result = stiffness(gram, cosine, np.array(["train"] * 3), np.arange(3))
    >>> result["pair"], result["cosine"].round(4).tolist()
    (['train-train'], [[[0.3333]]])
    """
    pairs = split_pairs(split)
    shape = (len(gram), len(pairs), gram.shape[1])
    result = {name: np.full(shape, np.nan) for name in ("cosine", "sign", "cosine_error", "sign_error")}
    undefined = np.zeros(shape, np.int64)
    used = np.zeros(len(pairs), np.int64)
    for p, (first, second) in enumerate(pairs):
        rows, columns = distinct_pairs(split, ids, first, second)
        used[p] = len(rows)
        block = np.ix_(np.arange(gram.shape[1]), split == first, split == second)
        left_out = ids[split == first][:, None] == ids[split == second] if first == second else None
        for step in range(len(gram)):  # one at a time, so that the pairs stay in the caches
            cosines, products = (pairs_of(values[step], rows, columns) for values in (cosine, gram))
            known = np.count_nonzero(~np.isnan(products), -1)
            undefined[step, p] = np.isnan(cosines).sum(-1)
            if zero == "as_zero":
                cosines = np.where(np.isnan(cosines) & ~np.isnan(products), 0.0, cosines)
            result["cosine"][step, p] = mean_defined(cosines, -1)[0]
            signs = np.count_nonzero(products > 0, -1) - np.count_nonzero(products < 0, -1)
            result["sign"][step, p] = divide(signs, known)
            for name, values in (("cosine", cosine[step][block]), ("sign", np.sign(gram[step][block]))):
                if name == "cosine" and zero == "as_zero":
                    values = np.where(np.isnan(values) & ~np.isnan(gram[step][block]), 0.0, values)
                if left_out is not None:
                    values[:, left_out] = np.nan
                result[f"{name}_error"][step, p] = pair_mean_error(values, first == second)
    names = [f"{first}-{second}" for first, second in pairs]
    return {**result, "n_undefined": undefined, "n_pairs": used, "pair": names}


def split_pairs(split: np.ndarray) -> list[tuple[str, str]]:
    """Every split with itself, then every two of them, in order of appearance."""
    names = list(dict.fromkeys(str(name) for name in split))
    return [(name, name) for name in names] + list(combinations(names, 2))


def distinct_pairs(
    split: np.ndarray, ids: np.ndarray, first: str, second: str
) -> tuple[np.ndarray, np.ndarray]:
    """Positions (pair,), (pair,) of the unordered pairs of two splits, never of an example with itself."""
    rows, columns = np.flatnonzero(split == first), np.flatnonzero(split == second)
    i, j = (grid.ravel() for grid in np.meshgrid(rows, columns, indexing="ij"))
    keep = (i < j) & (ids[i] != ids[j]) if first == second else np.ones(len(i), bool)
    return i[keep], j[keep]


def plot_stiffness(result: xr.Dataset, figure: Figure) -> None:
    """Stiffness against training: the whole network above, by layer below."""
    pairs, layers = result["pair"].values, result["layer"].values
    axes = plot.panels(figure, 4, columns=2, height=2.4, sharex=False, sharey=False)
    for top, name in zip(axes[:2], ("cosine", "sign"), strict=True):
        for k, pair in enumerate(pairs):
            whole = result[name].sel(pair=pair).isel(layer=-1)
            plot.line(top, result["step"], whole, label=str(pair), color=plot.PALETTE[k % 7])
        plot.zero_line(top)
        plot.step_axis(top, result["step"])
        top.set(title=f"{name} stiffness, whole network", ylabel="stiffness")
    plot.legend(axes[0])
    for below, name in zip(axes[2:], ("cosine", "sign"), strict=True):
        plot.heat_over_time(
            below,
            result[name].isel(pair=0).values.T,
            result["step"].values,
            layers,
            limits=plot.around_zero(result[name].isel(pair=0)),
            cmap=plot.DIVERGING,
            colorbar=f"{name} stiffness",
        )
        below.set_title(f"{pairs[0]}, by layer")
