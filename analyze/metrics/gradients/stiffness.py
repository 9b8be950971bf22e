"""Stiffness: does a step that helps one example help the others?"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from analyze import plot
from analyze.arrays.bands import Pairs, bands
from analyze.contract import metric
from analyze.numerics import PairMeans, divide, pairs_of
from analyze.reference import FORT_2019, WALKER_2023

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure


@metric(
    reads=("gram", "cosine", "split", "ids"),
    bands=True,
    variables={
        "cosine": ("step", "pair", "layer"),
        "sign": ("step", "pair", "layer"),
        "cosine_error": ("step", "pair", "layer"),
        "sign_error": ("step", "pair", "layer"),
        "n_undefined": ("step", "pair", "layer"),
        "n_undefined_sign": ("step", "pair", "layer"),
        "n_zero": ("step", "pair", "layer"),
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
    gram: Pairs,
    cosine: Pairs,
    split: np.ndarray,
    ids: np.ndarray,
    *,
    zero: Literal["nan", "as_zero"] = "nan",
) -> dict[str, Any]:
    """Mean cosine and mean sign of the inner products of per-example loss gradients.

    `gram` and `cosine` are (step, layer, example, example_2), `split` and `ids` (example,). A `pair` is a
    pair of splits, `train-train` and so on; its means run over the `n_pairs` unordered pairs of examples that
    are not the same (split, id). A zero gradient has no direction: its cosines are left out of the mean and
    counted in `n_undefined` (`zero="as_zero"` counts them as 0 instead), while sign(0) = 0 is included
    and counted in `n_zero`; an inner product that is NaN has no sign, and is counted in `n_undefined_sign`. NaN
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
    counts = {name: np.zeros(shape, np.int64) for name in ("n_undefined", "n_undefined_sign", "n_zero")}
    used = np.zeros(len(pairs), np.int64)
    for step in range(len(gram)):
        sums = [_Sums(split, ids, pair, gram.shape[1]) for pair in pairs]
        for (rows, products), (_, cosines) in zip(bands(gram, step), bands(cosine, step), strict=True):
            for one in sums:
                one.add(rows, products, cosines, zero == "as_zero")
        for p, one in enumerate(sums):
            used[p] = one.pairs
            for name, value in one.means().items():
                result[name][step, p] = value
            for name, number in one.counts().items():
                counts[name][step, p] = number
    names = [f"{first}-{second}" for first, second in pairs]
    return {**result, **counts, "n_pairs": used, "pair": names}


class _Sums:
    """Sums over the pairs of examples of two splits, at one snapshot, rows after rows."""

    def __init__(self, split: np.ndarray, ids: np.ndarray, pair: tuple[str, str], layers: int) -> None:
        self._ids, self._same = ids, pair[0] == pair[1]
        self._first, self._second = (np.flatnonzero(split == name) for name in pair)
        self.pairs = 0
        self._undefined, self._zero = np.zeros(layers, np.int64), np.zeros(layers, np.int64)
        self._cosines, self._signs = np.zeros(layers), np.zeros(layers, np.int64)
        self._known, self._defined = np.zeros(layers, np.int64), np.zeros(layers, np.int64)
        self._spread = {name: PairMeans(self._same) for name in ("cosine", "sign")}

    def add(self, rows: slice, products: np.ndarray, cosines: np.ndarray, as_zero: bool) -> None:
        """Add rows of the tables of inner products and cosines (layer, row, example)."""
        mine = self._first[(self._first >= rows.start) & (self._first < rows.stop)]
        if not len(mine):
            return
        block = np.ix_(np.arange(len(products)), mine - rows.start, self._second)
        equal = self._ids[mine][:, None] == self._ids[self._second] if self._same else None
        i, j = np.nonzero((mine[:, None] < self._second) & ~equal) if equal is not None else _all(block)
        places = mine[i] - rows.start, self._second[j]
        self.pairs += len(i)
        self._add_pairs(pairs_of(products, *places), pairs_of(cosines, *places), as_zero)
        for name, values in (("cosine", cosines[block]), ("sign", np.sign(products[block]))):
            if name == "cosine" and as_zero:
                values = np.where(np.isnan(values) & ~np.isnan(products[block]), 0.0, values)
            if equal is not None:
                values[:, equal] = np.nan
            self._spread[name].add(values)

    def _add_pairs(self, products: np.ndarray, cosines: np.ndarray, as_zero: bool) -> None:
        missing = np.isnan(cosines)
        self._undefined += missing.sum(-1)
        self._zero += np.count_nonzero(products == 0, -1)
        self._known += np.count_nonzero(~np.isnan(products), -1)
        self._cosines += np.where(missing, 0.0, cosines).sum(-1)
        self._defined += np.count_nonzero(~(missing & np.isnan(products)) if as_zero else ~missing, -1)
        self._signs += np.count_nonzero(products > 0, -1) - np.count_nonzero(products < 0, -1)

    def means(self) -> dict[str, np.ndarray]:
        """Means and their standard errors (layer,)."""
        errors = {f"{name}_error": spread.error() for name, spread in self._spread.items()}
        means = {"cosine": divide(self._cosines, self._defined), "sign": divide(self._signs, self._known)}
        return means | {name: error for name, error in errors.items() if error is not None}

    def counts(self) -> dict[str, np.ndarray]:
        """Pairs without a cosine, without a sign, and with the sign 0 (layer,)."""
        unknown = self.pairs - self._known
        return {"n_undefined": self._undefined, "n_undefined_sign": unknown, "n_zero": self._zero}


def _all(block: tuple[np.ndarray, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Every row with every column."""
    i, j = np.indices((block[1].size, block[2].size))
    return i.ravel(), j.ravel()


def split_pairs(split: np.ndarray) -> list[tuple[str, str]]:
    """Every split with itself, then every two of them, in order of appearance."""
    names = list(dict.fromkeys(str(name) for name in split))
    return [(name, name) for name in names] + list(combinations(names, 2))


def plot_stiffness(result: xr.Dataset, figure: Figure) -> None:
    """Stiffness against training: the whole network above, by layer below; of many probes the first with each."""
    pairs, layers = [str(pair) for pair in result["pair"].values], result["layer"].values
    if len(pairs) > len(plot.PALETTE):
        first = pairs[0][: len(pairs[0]) // 2]
        pairs = [pair for pair in pairs if pair.startswith(f"{first}-")]
    axes = plot.panels(figure, 4, columns=2, height=2.4, sharex=False, sharey=False)
    for top, name in zip(axes[:2], ("cosine", "sign"), strict=True):
        for k, pair in enumerate(pairs):
            whole = result[name].sel(pair=pair).isel(layer=-1)
            plot.line(top, result["step"], whole, label=pair, color=plot.PALETTE[k % len(plot.PALETTE)])
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
