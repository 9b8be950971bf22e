"""Expected sharpness: how much higher is the loss at a typical place nearby, at what price?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from analyze import plot
from analyze.contract import metric
from analyze.numerics import divide, mean_defined
from analyze.reference import BRUCKNER_2019, NEYSHABUR_2017
from analyze.replay.neighbourhood import Neighbourhood, draws, rise_axis

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

SIGMA = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)


@metric(
    reads=("states", "initial_weights"),
    variables={
        "gain": ("step", "sigma"),
        "gain_error": ("step", "sigma"),
        "kl": ("step", "sigma"),
        "n_pairs": ("step", "sigma"),
        "n_examples": (),
    },
    scope="train",
    bounds={"gain_error": (0, np.inf), "kl": (0, np.inf)},
    units={"gain": "nat", "gain_error": "nat", "kl": "nat"},
    summary={"gain": {"sigma": "0.01"}, "kl": {"sigma": "0.01"}},
    title="Expected sharpness",
    formula="E_{v_i ~ N(0, σ_i²)} L(w+v) - L(w);  KL = Σ (w_i - w⁰_i)² / 2σ_i²;  σ_i = σ (10|w_i| + 1)",
    cost="1 + 2 · pairs · noise levels forward passes a step: by default 61 passes of at most 512 examples",
    reading=(
        "A PAC-Bayes bound adds the two: the loss under noise, and the distance from the start in units of "
        "that noise. Curves nearer to the lower left corner promise a smaller generalization gap."
    ),
    reference=(NEYSHABUR_2017, BRUCKNER_2019),
    passes=lambda options, snapshots: snapshots * (1 + 2 * options["pairs"] * len(options["sigma"])),
)
def expected_sharpness(
    states: Any,
    initial_weights: Mapping[str, np.ndarray],
    *,
    sigma: Sequence[float] = SIGMA,
    noise: Literal["magnitude", "plain"] = "magnitude",
    prior: Literal["initial", "zero"] = "initial",
    pairs: int = 5,
    examples: int | None = 512,
    seed: int = 0,
) -> dict[str, Any]:
    """Mean rise of the training loss when noise is added to the weights, and what the noise buys in KL.

    `states` holds the network at every snapshot, `initial_weights` the tensors at initialisation. L is the
    mean loss of the first `examples` training examples (None: all) in eval mode; w are all trainable
    parameters. Noise has standard deviation `sigma` (10|w_i| + 1) for parameter i, or `sigma` for all with
    `noise="plain"`.

    `gain` (step, sigma): mean of L(w+v) - L(w) over `pairs` draws v and their opposites -v, so that the
    slope at w cancels; `gain_error`: its standard error from pair to pair (NaN for one pair); `n_pairs`:
    pairs whose losses are finite, the others are left out; NaN where none is. `kl` (step, sigma): Σ (w_i -
    w⁰_i)² / 2σ_i², w⁰ the initial weights, or 0 with `prior="zero"`. The draws depend on `seed` alone, so
    that steps and noise levels share them.

    >>> import torch
    >>> spread = torch.ones(1000, dtype=torch.float64)
    >>> gains = rises(lambda v: float((v ** 2).mean()), spread, 0.0, pairs=2, seed=0)
    >>> round(float(np.mean(gains)), 1)
    1.0
    """
    chosen = states.examples(examples)
    shape = (len(states), len(sigma))
    gain, error, kl = (np.full(shape, np.nan) for _ in range(3))
    count = np.zeros(shape, np.int64)
    for position in range(len(states)):
        near = Neighbourhood(states[position], chosen)
        moved = near.weights.double()
        base = near.loss(near.weights * 0)
        if prior == "initial":
            moved = moved - near.flat(initial_weights).double()
        for k, scale in enumerate(sigma):
            spread = scale * (10 * near.weights.abs() + 1 if noise == "magnitude" else near.weights * 0 + 1)
            rise = rises(near.loss, spread, base, pairs=pairs, seed=seed)
            gain[position, k], error[position, k], count[position, k] = mean_and_error(rise)
            kl[position, k] = float((moved**2 / (2 * spread.double() ** 2)).sum())
    return {
        "gain": gain,
        "gain_error": error,
        "kl": kl,
        "n_pairs": count,
        "n_examples": chosen.n,
        "sigma": np.array(sigma, np.float64),
        "attrs": {"noise": noise, "prior": prior, "seed": seed, "draws": 2 * pairs},
    }


def rises(loss: Any, spread: Any, base: float, *, pairs: int, seed: int) -> np.ndarray:
    """Mean of L(v) and L(-v) minus base for each draw of v with standard deviations `spread` (P,)."""
    moves = (vector * spread for vector in draws(spread, pairs, seed))
    return np.array([(loss(move) + loss(-move)) / 2 - base for move in moves])


def mean_and_error(values: np.ndarray) -> tuple[float, float, int]:
    """Mean of the finite values, its standard error, and how many they are.

    >>> mean_and_error(np.array([1.0, 3.0, np.inf]))
    (2.0, 1.0, 2)
    """
    values = np.where(np.isfinite(values), values, np.nan)
    mean, count = mean_defined(values)
    squares = np.nansum((values - mean) ** 2)
    error = np.sqrt(divide(squares, (count - 1) * count)) if count > 1 else np.nan
    return float(mean), float(error), int(count)


def plot_expected_sharpness(result: xr.Dataset, figure: Figure) -> None:
    """Rise of the loss against noise at a few steps, against training, and against KL."""
    first, second, third = plot.panels(figure, 3, height=2.7, sharex=False, sharey=False)
    steps, sigma = result["step"].values, result["sigma"].values
    shown = plot.pick(steps, 5)
    for k, color in zip(shown, plot.depth_colors(len(shown)), strict=True):
        gain, error = (result[name].isel(step=k).values for name in ("gain", "gain_error"))
        first.errorbar(sigma, gain, np.nan_to_num(error), color=color, marker="o", label=f"step {steps[k]:,}")
        cost = result["kl"].isel(step=k).values
        third.plot(np.where(cost > 0, cost, np.nan), gain, "o-", color=color)
    for k, color in zip(range(len(sigma)), plot.depth_colors(len(sigma)), strict=True):
        plot.line(second, steps, result["gain"].isel(sigma=k), color=color, label=f"σ = {sigma[k]:g}")
    first.set(xscale="log", xlabel="σ", ylabel="E L(w+v) - L(w)", title="at a few steps")
    second.set(title="against training")
    third.set(xlabel="KL (nat)", title="against what it costs")
    if np.nanmax(result["kl"].values, initial=0.0) > 0:
        third.set_xscale("log")
    plot.step_axis(second, steps)
    for panel in (first, second, third):
        plot.zero_line(panel)
        rise_axis(panel, result["gain"].values)
    plot.legend(first)
    plot.legend(second)
