"""Margin: by how much does the right class win?"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from analyze import plot
from analyze.contract import metric
from analyze.findings.intervals import ALPHA
from analyze.reference import BRUCKNER_2019, NEYSHABUR_2017
from tracer.errors import ArgumentError

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5)


@metric(
    reads=("margins",),
    variables={
        "gamma": ("step", "probe"),
        "gamma_low": ("step", "probe"),
        "gamma_high": ("step", "probe"),
        "quantile": ("step", "probe", "q"),
        "n_negative": ("step", "probe"),
        "n_undefined": ("step", "probe"),
        "n_examples": ("probe",),
    },
    scope="probe",
    summary={"gamma": {}, "quantile": {"q": "0.5"}},
    makes=(),
    title="Margin",
    formula="margin_i = f(x_i)[y_i] - max_{c≠y_i} f(x_i)[c]  γ = the ⌈εm⌉-th smallest margin",
    cost="reads stored outputs; O(steps · examples log examples)",
    reading=(
        "γ above 0: all but a share ε of the examples are classified correctly with that much to spare. "
        "Norms are compared only after dividing by it."
    ),
    reference=(NEYSHABUR_2017, BRUCKNER_2019),
)
def margin(
    margins: np.ndarray,
    *,
    epsilon: float = 0.05,
    q: Sequence[float] = QUANTILES,
    method: Literal["order", "linear"] = "order",
) -> dict[str, Any]:
    """Score of the true class minus the best other score: its ε-quantile γ, and other quantiles.

    `margins` is (step, example), of pre-softmax scores. γ is the k-th smallest margin, k = ⌈εm⌉, m the
    number of margins that are defined (`method="linear"` interpolates between order statistics); `quantile`
    the same at the levels `q`. `gamma_low` and `gamma_high` are the margins that hold the ε-quantile of what the
    examples were drawn from between them, at the level of one finding, whatever the shape of the distribution; NaN
    where there are too few. `n_negative` counts margins of at most 0, `n_undefined` those that are NaN.
    γ is negative, not NaN, where more than a share ε is wrong. NaN where no margin is defined.

    >>> result = margin(np.array([[3.0, -1.0, 2.0, 5.0]]), epsilon=0.5)
    >>> result["gamma"].item(), result["quantile"][0].tolist(), result["n_negative"].item()
    (2.0, [-1.0, -1.0, -1.0, -1.0, 2.0], 1)
    """
    for level in (epsilon, *q):
        if not 0 < level <= 1:
            raise ArgumentError(f"a level of a margin lies in (0, 1], got {level}")
    rows = [np.sort(row[~np.isnan(row)]) for row in np.asarray(margins, np.float64)]
    levels = [epsilon, *q]
    ends = np.array([_around(row, epsilon) for row in rows]).reshape(len(rows), 2)
    table = np.array([[_level(row, level, method) for level in levels] for row in rows])
    table = table.reshape(len(rows), len(levels))
    return {
        "gamma": table[:, 0],
        "gamma_low": ends[:, 0],
        "gamma_high": ends[:, 1],
        "quantile": table[:, 1:],
        "n_negative": np.array([np.sum(row <= 0) for row in rows]),
        "n_undefined": np.isnan(margins).sum(-1),
        "n_examples": margins.shape[-1],
        "q": np.array(q, np.float64),
        "attrs": {"epsilon": float(epsilon), "method": method},
    }


def _level(ordered: np.ndarray, level: float, method: str) -> float:
    if not len(ordered):
        return np.nan
    if method == "linear":
        return float(np.quantile(ordered, level))
    return float(ordered[rank(level, len(ordered)) - 1])


def _around(ordered: np.ndarray, level: float) -> tuple[float, float]:
    """The order statistics around a quantile: how many values lie below it has a binomial distribution."""
    low, high = ranks_around(level, len(ordered))
    if low < 1 or high > len(ordered):
        return np.nan, np.nan
    return float(ordered[low - 1]), float(ordered[high - 1])


@cache
def ranks_around(level: float, m: int) -> tuple[int, int]:
    """Ranks, from 1, of the order statistics of m values that the quantile lies between but for a chance of `ALPHA`.

    0, or m + 1, where even the least or the largest is not low or high enough. Source: David & Nagaraja 2003, Order
    Statistics, section 7.1.

    >>> ranks_around(0.05, 100), ranks_around(0.05, 1000)
    ((0, 15), (27, 78))
    """
    from scipy.special import bdtr

    below = bdtr(np.arange(m + 1), m, level)
    return int((below <= ALPHA / 2).sum()), int((1 - below > ALPHA / 2).sum()) + 1


def rank(level: float, m: int) -> int:
    """⌈level · m⌉ of the number as written: in floating point 0.07 · 100 is more than 7.

    >>> rank(0.07, 100), rank(0.05, 10)
    (7, 1)
    """
    exact = Fraction(repr(float(level))) * m
    return max(1, -(-exact.numerator // exact.denominator))


def counted(gamma: np.ndarray, examples: np.ndarray | None, undefined: np.ndarray | None) -> np.ndarray:
    """Of how many margins each γ (step,) is, int64; 0 where that was not handed over."""
    if examples is None:
        return np.zeros(len(gamma), np.int64)
    gone = 0 if undefined is None else np.nan_to_num(np.asarray(undefined, np.float64))
    return (int(examples) - gone + np.zeros(len(gamma))).astype(np.int64)


def plot_margin(result: xr.Dataset, figure: Figure) -> None:
    """γ against training, and the lower part of the margins' distribution at a few snapshots."""
    axes = plot.panels(figure, 1 + result.sizes["probe"], height=2.6, sharex=False, sharey=False)
    epsilon = result.attrs.get("epsilon", 0.05)
    steps = result["step"].values
    for k, probe in enumerate(result["probe"].values):
        color = plot.color_of(str(probe), k)
        plot.line(axes[0], steps, result["gamma"].sel(probe=probe), label=str(probe), color=color)
    axes[0].set_title(f"γ, ε = {epsilon:g}")
    plot.zero_line(axes[0])
    plot.step_axis(axes[0], steps)
    plot.legend(axes[0])
    shown = plot.pick(steps, 5)
    for panel, probe in zip(axes[1:], result["probe"].values, strict=True):
        for k, color in zip(shown, plot.depth_colors(len(shown)), strict=True):
            values = result["quantile"].sel(probe=probe).isel(step=k)
            panel.plot(values, result["q"], "o-", color=color, label=f"step {steps[k]:,}")
        panel.axvline(0, color=plot.GREY, linewidth=0.8, zorder=0)
        panel.set(title=f"margins, {probe}", xlabel="margin", ylabel="share of examples below")
    plot.legend(axes[-1])
