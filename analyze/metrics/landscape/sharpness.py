"""Sharpness: how much higher is the loss in the worst place nearby?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from analyze import plot
from analyze.contract import metric
from analyze.reference import BRUCKNER_2019, KESKAR_2016, NEYSHABUR_2017
from analyze.replay.neighbourhood import Neighbourhood, ascend, draws

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure


@metric(
    reads=("states",),
    variables={
        "max_gain": ("step",),
        "keskar": ("step",),
        "gain": ("step", "alpha"),
        "loss": ("step",),
        "n_examples": (),
    },
    scope="train",
    bounds={"max_gain": (0, np.inf), "keskar": (0, np.inf), "gain": (0, np.inf)},
    units={"max_gain": "nat", "gain": "nat", "loss": "nat", "keskar": "%"},
    summary=("max_gain", "keskar"),
    title="Sharpness",
    formula="max_{|v_i| ≤ α(|w_i|+1)} L(w+v) - L(w);  keskar: 100 · the same / (1 + L(w))",
    cost=(
        "(3 · starts + 1) · iterations forward and backward passes a step: by default at most 32 of 512 examples, "
        "half as many where corners are reached early"
    ),
    reading=(
        "Near 0: every network nearby fits the data as well, a flat minimum. What is found is a lower bound: "
        "a better search can only find more. Right: relative to the loss, as large losses rise faster."
    ),
    reference=(KESKAR_2016, NEYSHABUR_2017, BRUCKNER_2019),
    passes=lambda options, snapshots: (
        snapshots * (1 + (3 * options["starts"] + 1) * (3 * options["iterations"] + 1))
    ),
)
def sharpness(
    states: Any,
    *,
    alpha: float = 5e-4,
    starts: int = 1,
    iterations: int = 8,
    examples: int | None = 512,
    seed: int = 0,
) -> dict[str, Any]:
    """Largest rise of the training loss in a box around the weights, found by ascent: a lower bound.

    `states` holds the network at every snapshot. L is the mean loss of the first `examples` training
    examples (None: all) as they were trained on, in eval mode; w are all trainable parameters, biases and
    BatchNorm's gains among them, while buffers stay. `max_gain` (step,) is the largest L(w+v) - L(w) with
    |v_i| <= `alpha` (|w_i| + 1); `keskar` is 100 max_gain / (1 + L(w)), as Keskar et al. print it. `loss`
    is L(w). `gain` (step, alpha) is the same as `max_gain` for a quarter, half and all of `alpha`.

    Maximiser: projected sign-gradient ascent of at most `iterations` steps, in the smallest box from w itself
    and from `starts` random points (at a minimum the gradient at w is 0, so an ascent from there would find
    nothing), in the larger ones from the best point of the next smaller box and from one random point fewer;
    the best of all points met. So no gain is below 0, and none falls as alpha grows. The random points
    depend on `seed` alone. NaN where L(w) is not a number.

    >>> import torch
    >>> w = torch.tensor([1.0, -3.0])
    >>> loss = lambda v: float(((w + v) ** 2).sum())
    >>> gains, _ = largest_gains(loss, lambda v: (loss(v), 2 * (w + v)), w, (0.1,))
    >>> round(gains[0], 4)  # 1.2² + 3.4² - 1² - 3²
    3.0
    """
    chosen = states.examples(examples)
    radii = (alpha / 4, alpha / 2, alpha)
    gain = np.full((len(states), len(radii)), np.nan)
    loss = np.full(len(states), np.nan)
    for position in range(len(states)):
        near = Neighbourhood(states[position], chosen)
        gains = largest_gains(
            near.loss, near.both, near.weights, radii, starts=starts, iterations=iterations, seed=seed
        )
        gain[position], loss[position] = gains
    settings = {"alpha": alpha, "starts": starts, "iterations": iterations, "seed": seed}
    return {
        "max_gain": gain[:, -1],
        "keskar": 100 * gain[:, -1] / (1 + loss),
        "gain": gain,
        "loss": loss,
        "n_examples": chosen.n,
        "alpha": np.array(radii, np.float64),
        "attrs": {**{f"ascent_{name}": value for name, value in settings.items()}, "bound": "lower"},
    }


def largest_gains(
    loss: Any,
    both: Any,
    weights: Any,
    alphas: tuple[float, ...],
    *,
    starts: int = 1,
    iterations: int = 8,
    seed: int = 0,
) -> tuple[list[float], float]:
    """Largest L(w+v) - L(w) found with |v_i| <= alpha (|w_i| + 1), for increasing alphas, and L(w).

    `loss` is a function of the move v, `both` returns it with its gradient; weights (P,). Gains never fall,
    since a box holds the smaller ones.
    """
    import torch

    base, _ = both(torch.zeros_like(weights))
    if not math.isfinite(base):
        return [math.nan] * len(alphas), base
    best, where = base, torch.zeros_like(weights)
    gains: list[float] = []
    previous = 1.0
    for alpha in alphas:
        radius = alpha * (weights.abs() + 1)
        count = max(0, starts - 1) if gains else starts
        begin = [where * (alpha / previous), *(u * radius for u in draws(weights, count, seed, uniform=True))]
        for start in begin:
            value, place = ascend(loss, both, radius, start, iterations)
            if value > best:
                best, where = value, place
        gains.append(best - base)
        previous = alpha
    return gains, base


def plot_sharpness(result: xr.Dataset, figure: Figure) -> None:
    """Both sharpness measures against training, the first for three sizes of box."""
    left, right = plot.panels(figure, 2, columns=2, height=2.7, sharey=False)
    steps = result["step"]
    for k, color in enumerate(plot.depth_colors(result.sizes["alpha"])):
        values = result["gain"].isel(alpha=k)
        plot.line(left, steps, values, color=color, label=f"α = {float(result['alpha'][k]):.3g}")
    plot.line(right, steps, result["keskar"], color=plot.PALETTE[0])
    n = int(result["n_examples"])
    left.set(title=f"largest rise of the loss ({n} training examples)", ylabel="max L(w+v) - L(w)")
    right.set(title="relative to the loss (Keskar et al.)", ylabel="100 (max L - L) / (1 + L)")
    for panel in (left, right):
        plot.step_axis(panel, steps)
        panel.set_ylim(0, None)
    plot.legend(left)
