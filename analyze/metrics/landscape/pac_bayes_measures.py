"""PAC-Bayes and sharpness measures: how far may the weights move before a tenth of the accuracy is gone?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from analyze import plot
from analyze.contract import metric
from analyze.metrics.capacity.norm_measures import SCALES, rescaled
from analyze.metrics.capacity.pac_bayes import DZIUGAITE_2020
from analyze.reference import JIANG_2019
from analyze.replay.neighbourhood import Neighbourhood, ascend, draws
from tracer.errors import ArgumentError

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure
    from torch import Tensor

KINDS = ("init", "orig", "flatness", "mag_init", "mag_orig", "mag_flatness")
NAMES = tuple(f"{family}_{kind}" for family in ("pacbayes", "sharpness") for kind in KINDS)
RADII = ("sigma", "sigma_mag", "alpha", "alpha_mag")
BRACKET = 2.0


@metric(
    reads=("states", "initial_weights", "n_train"),
    variables={
        **dict.fromkeys(NAMES, ("step", "scale")),
        **dict.fromkeys(RADII, ("step",)),
        **{f"drop_{name}": ("step",) for name in RADII},
        "spread_alpha": ("step",),
        "spread_alpha_mag": ("step",),
        "accuracy": ("step",),
        "n_unfolded": ("step",),
        "n_examples": (),
    },
    scope="train",
    bounds={**dict.fromkeys(RADII, (0, BRACKET)), "accuracy": (0, 1)},
    summary={name: {"scale": "raw"} for name in NAMES},
    title="PAC-Bayes and sharpness measures",
    formula="|w - w⁰|²/4σ² + ln(m/σ) + 10;  ln(2ω)|w - w⁰|²/4α² + ln(m/σ) + 10;  1/σ²;  1/α²;  and for u_i ∝ |w_i|",
    cost=(
        "2 · halvings · (draws + restarts · (3 · iterations + 2)) forward passes a step: by default some 4,000 of at "
        "most 512 examples"
    ),
    reading=(
        "Large radii are flat minima. Run-level scalars for `compare`, raw and rescaled as in the papers' tables. "
        "Contested: published code gives variances where standard deviations are meant, re-implementations differ by "
        "factors of α, and what the ascent finds is a lower bound of the worst case."
    ),
    reference=(JIANG_2019, DZIUGAITE_2020),
    passes=lambda options, snapshots: (
        snapshots
        * 2
        * options["halvings"]
        * (options["draws"] + options["restarts"] * (3 * options["iterations"] + 2))
    ),
)
def pac_bayes_measures(
    states: Any,
    initial_weights: Mapping[str, np.ndarray],
    n_train: int,
    *,
    target: float = 0.1,
    tolerance: float = 0.01,
    halvings: int = 15,
    draws: int = 10,
    restarts: int = 2,
    iterations: int = 20,
    epsilon: float = 1e-3,
    delta: float = 1.0,
    noise: Literal["correct", "as_published_code"] = "correct",
    denominator: Literal["weight", "moved"] = "weight",
    m: int | None = None,
    examples: int | None = 512,
    seed: int = 0,
) -> dict[str, Any]:
    """Radii of noise and of a box at which accuracy falls by `target`, and the twelve measures made of them.

    `states` holds the network at every snapshot, `initial_weights` the tensors at initialisation. BatchNorm is folded
    into the layer before it, in both (where it cannot be, in `n_unfolded` cases, nothing is); all parameters move,
    biases too, while w are the weights of linear layers and convolutions end to end, ω of them, and w⁰ the initial
    ones. The first `examples` training examples count (None: all), `n_examples` of them, in eval mode.

    All (step,): `sigma` is the standard deviation of noise on every parameter for which the mean accuracy of `draws`
    draws differs from `accuracy` by `target`, by at most `halvings` halvings of [0, 2] that end within `tolerance`;
    `sigma_mag` the same for √(σ²w_i² + `epsilon`²). `alpha` is the largest box |u_i| ≤ α in which the worst accuracy
    met falls by no more, `alpha_mag` for |u_i| ≤ α|w_i|: from each of `restarts` random points `iterations` projected
    sign-gradient steps up the loss. `drop_*` is the fall reached, which ends elsewhere where accuracy does not fall
    smoothly; `spread_alpha` and `spread_alpha_mag` how far the restarts differ there. NaN where accuracy never falls so
    far, as for a network that is right on fewer than `target`.

    (step, scale), with `m` training examples (`n_train` unless stated) and c = ln(2ω/`delta`): `pacbayes_init` = |w -
    w⁰|²/4σ² + ln(m/σ) + 10, `pacbayes_orig` with |w|²; `pacbayes_flatness` 1/σ²; `pacbayes_mag_init` = ¼ Σ ln((ε² +
    (σ²+1)|w - w⁰|²/ω)/(ε² + σ²(w_i - w⁰_i)²)) + ln(m/σ) + 10 with σ = `sigma_mag`, `pacbayes_mag_orig` with |w|²
    and w_i² (`denominator="moved"` keeps (w_i - w⁰_i)², as published code does), `pacbayes_mag_flatness` 1/σ².
    `sharpness_init` = c|w - w⁰|²/4α² + ln(m/σ) + 10, `sharpness_orig`, `sharpness_flatness` 1/α²; `sharpness_mag_*`
    with 4c for 1 and α for σ, but for ln(m/σ). `rescaled` is √(v/m). `noise="as_published_code"` uses σ² and σ²w² + ε²
    as standard deviations. Random numbers depend on `seed` alone.

    >>> w, start = np.array([2.0, 0.0]), np.zeros(2)
    >>> round(complexity(w, w, 0.5, 0.5, 100), 3), round(complexity(w, w, 1.0, 1.0, 100, epsilon=1.0), 3)
    (19.298, 15.008)
    """
    if noise not in ("correct", "as_published_code") or denominator not in ("weight", "moved"):
        raise ArgumentError(
            f"noise= is 'correct' or 'as_published_code' and denominator= 'weight' or 'moved', got {noise!r} and "
            f"{denominator!r}"
        )
    import torch

    from analyze.replay.folded import fold

    chosen = states.examples(examples)
    count = n_train if m is None else m
    values: dict[str, np.ndarray] = {name: np.full((len(states), len(SCALES)), np.nan) for name in NAMES}
    plain = [*RADII, *(f"drop_{name}" for name in RADII), "spread_alpha", "spread_alpha_mag", "accuracy"]
    values |= {name: np.full(len(states), np.nan) for name in plain}
    unfolded = np.zeros(len(states), np.int64)
    for step in range(len(states)):
        state = states[step]
        tensors = {name: tensor.detach().cpu().double().numpy() for name, tensor in state.tensors.items()}
        now, before = fold(state.network, tensors), fold(state.network, initial_weights)
        unfolded[step] = now.n_unfolded
        w, start = (
            np.concatenate([each.ravel() for each in side.matrices()] or [np.empty(0)])
            for side in (now, before)
        )
        if not (len(w) and np.isfinite(w).all() and np.isfinite(start).all()):
            continue
        folded = state.with_tensors({name: torch.from_numpy(np.array(now.tensors[name])) for name in tensors})
        search = Search(folded, chosen, target, tolerance, halvings, seed)
        if math.isnan(search.accuracy):
            continue
        found = {"accuracy": search.accuracy}
        for mag in (False, True):
            end = "_mag" if mag else ""
            sigma, drop = search.noise(draws, epsilon if mag else None, published=noise != "correct")
            alpha, fall, spread = search.box(restarts, iterations, mag)
            found |= {f"sigma{end}": sigma, f"drop_sigma{end}": drop, f"alpha{end}": alpha}
            found |= {f"drop_alpha{end}": fall, f"spread_alpha{end}": spread}
        for name, value in found.items():
            values[name][step] = value
        c = math.log(2 * len(w) / delta)
        for name, value in measures(w, start, found, count, c, epsilon, moved=denominator == "moved").items():
            values[name][step] = value, rescaled(name, value, count)
    settings = {"m": int(count), "draws": draws, "restarts": restarts, "seed": seed, "noise": noise}
    return {
        **values,
        "n_unfolded": unfolded,
        "n_examples": chosen.n,
        "scale": np.array(SCALES),
        "attrs": settings,
    }


class Search:
    """Radii of one network at which its accuracy has fallen by a target."""

    def __init__(
        self, state: Any, examples: Any, target: float, tolerance: float, halvings: int, seed: int
    ) -> None:
        self.near = Neighbourhood(state, examples)
        self.target, self.tolerance, self.halvings, self.seed = target, tolerance, halvings, seed
        self.accuracy = self.near.accuracy(self.near.weights * 0)

    def noise(self, count: int, epsilon: float | None, *, published: bool = False) -> tuple[float, float]:
        """Standard deviation σ of the noise, scaled by each weight with `epsilon`, and the fall of accuracy there."""
        weights = self.near.weights

        def fall(sigma: float) -> float:
            spread = sigma + 0 * weights if epsilon is None else (sigma**2 * weights**2 + epsilon**2).sqrt()
            spread = spread**2 if published else spread
            reached = [self.near.accuracy(v * spread) for v in draws(weights, count, self.seed)]
            return abs(float(np.mean(reached)) - self.accuracy)

        return radius(fall, self.target, self.tolerance, self.halvings)

    def box(self, restarts: int, iterations: int, mag: bool) -> tuple[float, float, float]:
        """Half-width α of the box, the largest fall of accuracy met there, and how far the restarts differ."""
        weights = self.near.weights
        spreads: dict[float, float] = {}

        def fall(alpha: float) -> float:
            size: Tensor = alpha * weights.abs() if mag else alpha + 0 * weights
            reached = []
            for start in draws(weights, restarts, self.seed, uniform=True):
                _, place = ascend(self.near.loss, self.near.both, size, start * size, iterations)
                reached.append(self.accuracy - self.near.accuracy(place))
            spreads[alpha] = max(reached) - min(reached)
            return max(reached)

        alpha, drop = radius(fall, self.target, self.tolerance, self.halvings)
        return alpha, drop, spreads.get(alpha, math.nan)


def radius(
    fall: Callable[[float], float], target: float, tolerance: float, halvings: int
) -> tuple[float, float]:
    """Point of [0, 2] at which `fall` is the target, by bisection, and what it is there; NaN where it stays below.

    >>> radius(lambda sigma: sigma / 4, 0.1, 0.01, 15)
    (0.375, 0.09375)
    """
    low, high, middle, drop = 0.0, BRACKET, math.nan, math.nan
    for _ in range(halvings):
        middle = (low + high) / 2
        drop = fall(middle)
        if abs(drop - target) < tolerance:
            return middle, drop
        low, high = (low, middle) if drop > target else (middle, high)
    return (math.nan, math.nan) if high == BRACKET else (middle, drop)


def measures(
    w: np.ndarray,
    start: np.ndarray,
    radii: Mapping[str, float],
    m: int,
    c: float,
    epsilon: float,
    *,
    moved: bool = False,
) -> dict[str, float]:
    """The twelve measures of weights (ω,), initial weights and radii."""
    found = {}
    below = w - start if moved else w
    for family, box in (("pacbayes", "sigma"), ("sharpness", "alpha")):
        r, sigma = radii[box], radii["sigma"]
        factor = 1.0 if family == "pacbayes" else c
        found[f"{family}_init"] = complexity(w - start, w, r, sigma, m, factor=factor)
        found[f"{family}_orig"] = complexity(w, w, r, sigma, m, factor=factor)
        found[f"{family}_flatness"] = r**-2.0
        r, sigma = radii[f"{box}_mag"], radii["sigma_mag"]
        factor = 1.0 if family == "pacbayes" else 4 * c
        found[f"{family}_mag_init"] = complexity(
            w - start, w - start, r, sigma, m, factor=factor, epsilon=epsilon
        )
        found[f"{family}_mag_orig"] = complexity(w, below, r, sigma, m, factor=factor, epsilon=epsilon)
        found[f"{family}_mag_flatness"] = r**-2.0
    return found


def complexity(
    above: np.ndarray,
    below: np.ndarray,
    size: float,
    sigma: float,
    m: int,
    *,
    factor: float = 1.0,
    epsilon: float | None = None,
) -> float:
    """Bound of noise or box of one `size`, or with `epsilon` of one in proportion to the weights."""
    if math.isnan(size) or math.isnan(sigma):
        return math.nan
    rest, square = math.log(m / sigma) + 10, float((above**2).sum())
    if epsilon is None:
        return factor * square / (4 * size**2) + rest
    top = epsilon**2 + (size**2 + factor) * square / len(above)
    return float((math.log(top) - np.log(epsilon**2 + size**2 * below**2)).sum()) / 4 + rest


def plot_pac_bayes_measures(result: xr.Dataset, figure: Figure) -> None:
    """Radii, and the measures of both families, against training."""
    axes = plot.panels(figure, 3, height=3.0, sharey=False, titles=("radii", "PAC-Bayes", "sharpness"))
    raw = result.sel(scale="raw")
    groups = (RADII, *([f"{family}_{kind}" for kind in KINDS] for family in ("pacbayes", "sharpness")))
    for panel, names in zip(axes, groups, strict=True):
        data = result if names is RADII else raw
        for k, name in enumerate(names):
            plot.line(panel, result["step"], data[name], color=plot.PALETTE[k], label=name)
        plot.step_axis(panel, result["step"])
        if any(np.nanmax(data[name].values, initial=0.0) > 0 for name in names):
            plot.log_scale(panel)
        plot.legend(panel, below=True, fontsize=6)
