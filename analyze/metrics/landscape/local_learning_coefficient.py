"""Local learning coefficient: how fast does the volume of nearby weights of nearly the same loss shrink?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from analyze import plot
from analyze.contract import metric
from analyze.numerics import langevin
from analyze.reference import Reference

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

LAU_2023 = Reference(
    key="lau2023local",
    authors=("Lau, Edmund", "Furman, Zach", "Wang, George", "Murfet, Daniel", "Wei, Susan"),
    title="The Local Learning Coefficient: A Singularity-Aware Complexity Measure",
    year=2023,
    arxiv="2308.12108",
)
FURMAN_2024 = Reference(
    key="furman2024estimating",
    authors=("Furman, Zach", "Lau, Edmund"),
    title="Estimating the Local Learning Coefficient at Scale",
    year=2024,
    arxiv="2402.03698",
)
GRID = tuple(lead * 10.0**power for power in range(-8, 1) for lead in (1, 2, 5))
STABLE = 0.2  # of ε h_max, of the 4 from which on a chain diverges: the bias along the steepest direction is then 5 %
SETTINGS = {"": (1.0, 1.0), "_half_step": (0.5, 1.0), "_half_gamma": (1.0, 0.5), "_double_gamma": (1.0, 2.0)}
VALUES = (
    *(f"llc{end}" for end in SETTINGS),
    "llc_sd",
    "loss",
    "step_size",
    "step_times_curvature",
    "r_hat",
    "share_below",
    "share_plateau",
)


@metric(
    reads=("states",),
    variables={
        **dict.fromkeys(VALUES, ("step",)),
        "trace": ("step", "chain", "draw"),
        "trustworthy": ("step",),
        "n_diverged": ("step",),
        "n_examples": (),
    },
    integers=("trustworthy",),
    scope="train",
    bounds={"share_below": (0, 1), "share_plateau": (0, 1), "llc_sd": (0, np.inf), "r_hat": (0, np.inf)},
    units={"trace": "nat", "loss": "nat"},
    summary=("llc",),
    title="Local learning coefficient",
    formula="λ = nβ (E L(w) - L(w*)),  w from chains of density exp(-nβ L(w) - (γ/2)|w - w*|²)",
    cost=(
        "4 settings · chains · (draws + burn_in) gradients a step, about 3 forward passes each: by default 96,000 of "
        "at most 256 examples"
    ),
    reading=(
        "Small: many directions leave the loss as it is. To be believed only where `trustworthy` is 1, and compared at "
        "one number of examples and one γ. Contested: absolute values rarely converge in large networks, their order "
        "is more stable, and in the middle of training w* is no minimum, so that λ depends on γ."
    ),
    reference=(LAU_2023, FURMAN_2024),
    passes=lambda options, snapshots: (
        snapshots
        * 3
        * (options["chains"] * (options["draws"] + _burn_in(options)) * (4 if options["checks"] else 1) + 40)
    ),
)
def local_learning_coefficient(
    states: Any,
    *,
    gamma: float = 1.0,
    step_size: float | None = None,
    chains: int = 4,
    draws: int = 1000,
    burn_in: int | None = None,
    batch: int | None = None,
    checks: bool = True,
    examples: int | None = 256,
    seed: int = 0,
) -> dict[str, Any]:
    """Local learning coefficient λ at every snapshot by stochastic gradient Langevin dynamics, and what speaks for it.

    `states` holds the network at every snapshot. L is the mean loss of the first `examples` training examples (None:
    all), n = `n_examples` of them, in eval mode without weight decay; nβ = n/ln n; w* are all trainable parameters,
    buffers stay. Each of `chains` chains makes `burn_in` (default: as many as draws) and `draws` steps w - (ε/2)(nβ
    ∇L + `gamma` (w - w*)) + √ε N(0, 1), with gradients of `batch` examples drawn anew each time (None: all, so that
    there is no noise but the injected one). `step_size` is ε; by default the largest of 1, 2, 5 times powers of ten
    with ε h_max of at most 0.2, h_max = nβ · (largest curvature) + γ.

    All (step,): `llc` is the mean over the chains of nβ (mean L - L(w*)), never clipped, `llc_sd` their standard
    deviation (ddof 1), `loss` L(w*), `step_size`, `step_times_curvature` ε h_max (NaN for a given step without checks).
    `checks` repeats it all at half the step (`llc_half_step`) and half and twice γ (`llc_half_gamma`,
    `llc_double_gamma`), else NaN. `r_hat` over chains; `share_below` of the draws with L below L(w*), large where w* is
    no minimum; `share_plateau` of the chains whose halves' means differ by less than a standard deviation; `n_diverged`
    chains with a loss that is not finite are left out. `trace` (step, chain, draw) are the losses. `trustworthy` is 1
    where nothing diverged, all chains have their plateau, `r_hat` is below 1.1, at most 5 % of the draws lie below, and
    the repetitions, which must have been made, differ by less than a tenth or two standard deviations. For a quadratic
    loss a finite chain gives `analyze.numerics.langevin.quadratic_coefficient`: γ pulls λ down and ε pushes it up.
    Random numbers depend on `seed` alone. NaN where L(w*) is not finite or n < 2.

    >>> rows = np.random.default_rng(0)
    >>> both = lambda w: (float(w @ w) / 2, w)
    >>> losses = langevin.chain(both, np.zeros(4), 50.0, 0.01, 5.0, 4000, 500, rows)
    >>> bool(abs(50.0 * losses.mean() - langevin.quadratic_coefficient(np.ones(4), 50.0, 0.01, 5.0)) < 0.15)
    True
    """
    chosen = states.examples(examples).that_count()
    burn = _burn_in({"burn_in": burn_in, "draws": draws})
    values = {name: np.full(len(states), np.nan) for name in VALUES}
    traces = np.full((len(states), chains, draws), np.nan)
    trusted, diverged = (np.zeros(len(states), np.int64) for _ in range(2))
    n_beta = chosen.n / np.log(chosen.n) if chosen.n > 1 else np.nan
    for position in range(len(states)):
        around = _Around(states[position], chosen, batch)
        if not (np.isfinite(around.loss) and np.isfinite(n_beta)):
            continue
        asked = checks or step_size is None
        top = n_beta * around.curvature(seed) + gamma if asked else np.nan
        step = (
            max((e for e in GRID if e * top <= STABLE), default=GRID[0]) if step_size is None else step_size
        )
        found: dict[str, Any] = {"loss": around.loss, "step_size": step, "step_times_curvature": step * top}
        for end, (smaller, pull) in SETTINGS.items():
            if end and not checks:
                continue
            rows = [
                around.chain(n_beta, step * smaller, gamma * pull, draws, burn, [seed, k])
                for k in range(chains)
            ]
            whole = np.array([row for row in rows if np.isfinite(row).all()]).reshape(-1, draws)
            each = n_beta * (whole.mean(1) - around.loss)
            found[f"llc{end}"] = each.mean() if len(each) else np.nan
            if not end:
                traces[position], diverged[position] = rows, chains - len(each)
                found |= _diagnosed(whole, each, around.loss)
        for name, value in found.items():
            values[name][position] = value
        trusted[position] = int(_trustworthy(found, int(diverged[position])))
    return {
        **values,
        "trace": traces,
        "trustworthy": trusted,
        "n_diverged": diverged,
        "n_examples": chosen.n,
        "chain": np.arange(chains),
        "draw": np.arange(draws),
        "attrs": {"gamma": gamma, "n_beta": float(n_beta), "burn_in": burn, "seed": seed},
    }


def _burn_in(options: Any) -> int:
    return int(options["draws"] if options["burn_in"] is None else options["burn_in"])


def _diagnosed(whole: np.ndarray, each: np.ndarray, loss: float) -> dict[str, float]:
    return {
        "llc_sd": each.std(ddof=1) if len(each) > 1 else np.nan,
        "r_hat": langevin.potential_scale(whole) if len(whole) else np.nan,
        "share_below": float((whole < loss).mean()) if len(whole) else np.nan,
        "share_plateau": float(np.mean([langevin.plateau(row) for row in whole])) if len(whole) else np.nan,
    }


def _trustworthy(found: dict[str, Any], diverged: int) -> bool:
    near = max(0.1 * abs(found["llc"]), 2 * found["llc_sd"])
    others = [abs(found.get(f"llc{end}", np.nan) - found["llc"]) for end in SETTINGS if end]
    return (
        diverged == 0
        and found["share_plateau"] == 1
        and found["r_hat"] < 1.1
        and found["share_below"] <= 0.05
        and all(other <= near for other in others)
    )


class _Around:
    """The loss and its gradient around one state, in float64 vectors (P,)."""

    def __init__(self, state: Any, examples: Any, batch: int | None) -> None:
        self.state, self.examples = (state := state.movable()), examples
        self.batch = examples.n if batch is None else min(batch, examples.n)
        self.start = np.asarray(state.flat().double().cpu().numpy())
        self.loss = state.loss(examples)

    def curvature(self, seed: int, iterations: int = 20) -> float:
        """Largest absolute eigenvalue of the Hessian, by power iteration."""
        vector = np.random.default_rng([seed, 1 << 20]).standard_normal(len(self.start))
        size = 0.0
        for _ in range(iterations):
            vector = vector / np.linalg.norm(vector)
            vector = self._flat(self.state.hvp(self._named(vector), self.examples))
            size = float(np.linalg.norm(vector))
            if not 0 < size < np.inf:
                return 0.0
        return size

    def chain(
        self, n_beta: float, step: float, gamma: float, draws: int, burn_in: int, seed: Any
    ) -> np.ndarray:
        """Losses of one chain, as `langevin.chain` has them."""
        noise, order = np.random.default_rng(seed), np.random.default_rng([*seed, 1])

        def both(w: np.ndarray) -> tuple[float, np.ndarray]:
            some = self.examples
            if self.batch < some.n:
                some = some.take(np.sort(order.choice(some.n, self.batch, replace=False)))
            loss, gradient = self.state.with_tensors(self._named(w)).loss_and_gradient(some)
            return loss, self._flat(gradient)

        return langevin.chain(both, self.start, n_beta, step, gamma, draws, burn_in, noise)

    def _named(self, w: np.ndarray) -> Any:
        import torch

        return self.state.unflat(torch.from_numpy(w.copy()).to(self.state.device, self.state.dtype))

    def _flat(self, gradient: Any) -> np.ndarray:
        return np.asarray(self.state.flat(gradient).double().cpu().numpy())


def plot_local_learning_coefficient(result: xr.Dataset, figure: Figure) -> None:
    """λ with its spread over chains and its repetitions, and the chains of the last snapshot."""
    left, right = plot.panels(figure, 2, columns=2, height=2.8, sharex=False, sharey=False)
    steps = result["step"]
    plot.band(
        left, steps, result["llc"], result["llc_sd"].fillna(0.0), color=plot.PALETTE[0], label="λ, ± sd"
    )
    for k, end in enumerate(list(SETTINGS)[1:], start=1):
        words = end[1:].replace("_", " ").replace("gamma", "γ")
        plot.line(left, steps, result[f"llc{end}"], color=plot.PALETTE[k], label=words, linewidth=0.8)
    doubtful = (result["trustworthy"] == 0).values & np.isfinite(result["llc"].values)
    left.plot(
        steps.values[doubtful], result["llc"].values[doubtful], "x", color="black", label="not trustworthy"
    )
    for k, color in enumerate(plot.depth_colors(result.sizes["chain"])):
        right.plot(result["draw"], result["trace"].isel(step=-1, chain=k), color=color, linewidth=0.6)
    if np.isfinite(result["loss"].values[-1]):
        plot.zero_line(right, float(result["loss"][-1]))
    left.set(title="local learning coefficient", ylabel="λ")
    right.set(title=f"chains at step {int(steps[-1]):,} (grey: L(w*))", xlabel="draw", ylabel="loss")
    plot.step_axis(left, steps)
    plot.legend(left)
