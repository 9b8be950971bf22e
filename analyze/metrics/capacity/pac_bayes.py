"""PAC-Bayes flatness: how much noise can the weights take before the network errs more?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from analyze import plot
from analyze.contract import metric
from analyze.metrics.landscape.expected_sharpness import mean_and_error
from analyze.reference import JIANG_2019, Reference
from analyze.replay.neighbourhood import Neighbourhood, draws

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure
    from torch import Tensor

DZIUGAITE_2020 = Reference(
    key="dziugaite2020search",
    authors=(
        "Dziugaite, Gintare Karolina",
        "Drouin, Alexandre",
        "Neal, Brady",
        "Rajkumar, Nitarshan",
        "Caballero, Ethan",
        "Wang, Linbo",
        "Mitliagkas, Ioannis",
        "Roy, Daniel M.",
    ),
    title="In Search of Robust Measures of Generalization",
    year=2020,
    venue="Advances in Neural Information Processing Systems 33",
    arxiv="2010.11924",
)
NOISE = ("plain", "magnitude")
VALUES = ("sigma", "flatness", "complexity", "drop", "drop_error")


@metric(
    reads=("states", "initial_weights"),
    variables={
        **dict.fromkeys(VALUES, ("step", "noise")),
        "at_limit": ("step", "noise"),
        "accuracy": ("step",),
        "n_examples": (),
    },
    scope="train",
    bounds={"sigma": (0, np.inf), "flatness": (0, np.inf), "drop_error": (0, np.inf), "accuracy": (0, 1)},
    integers=("at_limit",),
    units={"complexity": "nat"},
    summary={"sigma": {"noise": "each"}, "complexity": {"noise": "each"}},
    title="PAC-Bayes flatness",
    formula="σ: largest with |E acc(w + N(0, σ²)) - acc(w)| ≤ 0.1;  1/σ²;  |w - w⁰|²/4σ² + log(m/σ) + 10",
    cost="1 + 2 · (3 + bisections) · n_noise forward passes a step: by default 261 of at most 512 examples",
    reading=(
        "A flat minimum keeps its accuracy under much noise: large σ, small 1/σ². Complexity also counts how "
        "far the weights are from where they began, in units of that noise."
    ),
    reference=(JIANG_2019, DZIUGAITE_2020),
    passes=lambda options, snapshots: snapshots * (1 + 2 * (3 + options["bisections"]) * options["n_noise"]),
)
def pac_bayes(
    states: Any,
    initial_weights: Mapping[str, np.ndarray],
    *,
    tolerance: float = 0.1,
    lowest: float = 1e-5,
    highest: float = 10.0,
    bisections: int = 10,
    n_noise: int = 10,
    epsilon: float = 1e-3,
    examples: int | None = 512,
    seed: int = 0,
) -> dict[str, Any]:
    """Largest noise on the weights that keeps training accuracy within `tolerance`, and measures made of it.

    `states` holds the network at every snapshot, `initial_weights` the tensors at initialisation; m is the
    number of examples used, the first `examples` training examples (None: all), in eval mode, and w are all
    trainable parameters. For noise `plain` the standard deviation of each is σ, for `magnitude` √(σ²w_i² +
    `epsilon`²), as Jiang et al. define them. All results are (step, noise):

    `sigma`: between `lowest` and `highest`, by `bisections` halvings of the interval of log σ; the mean is
    over `n_noise` draws, the same for every σ and step (they depend on `seed` alone). `drop`, `drop_error`:
    the change of accuracy there, acc(w) minus the mean, and its standard error. `at_limit` is 1 where
    accuracy holds even at `highest` (σ is at least that), -1 where it does not at `lowest` (σ is NaN), else
    0; near chance accuracy 1 says nothing about flatness. `flatness` = 1/σ². `complexity` = |w - w⁰|²/4σ² +
    log(m/σ) + 10, and for `magnitude` ¼ Σ log((ε² + (σ²+1)|w - w⁰|²/P) / (ε² + σ²|w_i - w⁰_i|²)) + log(m/σ)
    + 10, P being the number of parameters. `accuracy` (step,) is acc(w); all are NaN where targets are no
    classes.

    >>> result = largest_noise(lambda sigma: np.array([2 * sigma]), 0.1, 1e-5, 10.0, bisections=30)
    >>> round(result[0], 6), result[1]
    (0.05, 0)
    """
    chosen = states.examples(examples)
    values = {name: np.full((len(states), len(NOISE)), np.nan) for name in VALUES}
    limit = np.zeros((len(states), len(NOISE)), np.int64)
    accuracy = np.full(len(states), np.nan)
    for position in range(len(states)):
        near = Neighbourhood(states[position], chosen)
        accuracy[position] = base = near.accuracy(near.weights * 0)
        if math.isnan(base):
            continue
        moved = near.weights.double() - near.flat(initial_weights).double()
        for k, noise in enumerate(NOISE):
            spread = _spread(near.weights, noise, epsilon)

            def drops(sigma: float, near: Any = near, base: float = base, spread: Any = spread) -> np.ndarray:
                noisy = (near.accuracy(v * spread(sigma)) for v in draws(near.weights, n_noise, seed))
                return np.array([base - value for value in noisy])

            sigma, limit[position, k] = largest_noise(
                drops, tolerance, lowest, highest, bisections=bisections
            )
            values["sigma"][position, k] = sigma
            values["flatness"][position, k] = sigma**-2
            values["complexity"][position, k] = complexity(moved, sigma, chosen.n, noise, epsilon)
            if not math.isnan(sigma):
                values["drop"][position, k], values["drop_error"][position, k], _ = mean_and_error(
                    drops(sigma)
                )
    return {
        **values,
        "at_limit": limit,
        "accuracy": accuracy,
        "n_examples": chosen.n,
        "noise": np.array(NOISE),
        "attrs": {"tolerance": tolerance, "draws": n_noise, "seed": seed, "bisections": bisections},
    }


def _spread(weights: Tensor, noise: str, epsilon: float) -> Callable[[float], Tensor]:
    if noise == "plain":
        return lambda sigma: sigma + 0 * weights
    return lambda sigma: (sigma**2 * weights**2 + epsilon**2).sqrt()


def largest_noise(
    drops: Callable[[float], np.ndarray], tolerance: float, lowest: float, highest: float, *, bisections: int
) -> tuple[float, int]:
    """Largest σ with the mean of `drops(σ)` within the tolerance, and 1 or -1 where a limit decides."""

    def holds(sigma: float) -> bool:
        return abs(float(np.mean(drops(sigma)))) <= tolerance  # not where it is NaN

    if not holds(lowest):
        return math.nan, -1
    if holds(highest):
        return highest, 1
    low, high = math.log(lowest), math.log(highest)
    for _ in range(bisections):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(math.exp(middle)) else (low, middle)
    return math.exp(low), 0


def complexity(moved: Tensor, sigma: float, m: int, noise: str, epsilon: float) -> float:
    """The part of a PAC-Bayes bound that grows with the distance from the initial weights, `moved` (P,)."""
    if math.isnan(sigma):
        return math.nan
    rest = math.log(m / sigma) + 10
    square = float((moved**2).sum())
    if noise == "plain":
        return square / (4 * sigma**2) + rest
    top = epsilon**2 + (sigma**2 + 1) * square / moved.numel()
    return float((math.log(top) - (epsilon**2 + sigma**2 * moved**2).log()).sum()) / 4 + rest


def plot_pac_bayes(result: xr.Dataset, figure: Figure) -> None:
    """Noise that accuracy survives, 1/σ², and complexity against training."""
    axes = plot.panels(figure, 3, height=2.7, sharey=False, titles=("largest noise σ", "1/σ²", "complexity"))
    steps = result["step"]
    for k, noise in enumerate(result["noise"].values):
        color = plot.PALETTE[k]
        for panel, name in zip(axes, ("sigma", "flatness", "complexity"), strict=True):
            plot.line(panel, steps, result[name].sel(noise=noise), color=color, label=f"{noise} noise")
        ends = (result["at_limit"] == 1).sel(noise=noise).values
        if ends.any():
            sigma = result["sigma"].sel(noise=noise).values
            axes[0].plot(steps.values[ends], sigma[ends], "^", color=color, markersize=7)
            axes[0].set_title("largest noise σ (▲: or more)")
    for panel in axes:
        plot.step_axis(panel, steps)
    for panel, name in zip(axes, ("sigma", "flatness", "complexity"), strict=True):
        if np.nanmax(result[name].values, initial=0.0) > 0:
            plot.log_scale(panel)
    plot.legend(axes[0])
