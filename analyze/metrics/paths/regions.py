"""Linear regions: into how many straight pieces does the network cut the way from one input to another?"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from analyze import plot
from analyze.contract import metric
from analyze.numerics import divide, mean_defined, std_defined
from analyze.reference import Reference
from tracer.errors import MissingTraceError

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

HANIN_2019 = Reference(
    key="hanin2019complexity",
    authors=("Hanin, Boris", "Rolnick, David"),
    title="Complexity of Linear Regions in Deep Networks",
    year=2019,
    venue="International Conference on Machine Learning",
    arxiv="1901.09021",
)
HANIN_2019_FEW = Reference(
    key="hanin2019deep",
    authors=("Hanin, Boris", "Rolnick, David"),
    title="Deep ReLU Networks Have Surprisingly Few Activation Patterns",
    year=2019,
    venue="Advances in Neural Information Processing Systems 32",
    arxiv="1906.00904",
)

AMONG = (
    2_000  # examples of whose pairs some are drawn: the list of all of more would be larger than the archive
)


@metric(
    reads=("states", "labels", "ids"),
    variables={
        "regions": ("step", "probe", "pair"),
        "sampled": ("step", "probe", "pair"),
        "density": ("step", "probe", "pair"),
        "mean": ("step", "probe"),
        "std": ("step", "probe"),
        "n_undefined": ("step", "probe"),
        "id_from": ("probe", "pair"),
        "id_to": ("probe", "pair"),
    },
    integers=("id_from", "id_to"),
    scope="probe",
    bounds={"regions": (1, np.inf), "sampled": (1, np.inf), "density": (0, np.inf), "mean": (1, np.inf)},
    units={"density": "1 / input distance"},
    summary=("mean",),
    title="Linear regions",
    formula="1 + #{t in (0, 1): a unit of f(a + t(b - a)) switches}",
    cost="a float64 forward pass of all breakpoints (at most 2,000) a nonlinearity, for 10 pairs a probe and step",
    reading=(
        "The number of linear pieces between two inputs: near the number of units at initialisation, "
        "however deep the network. Growing with training: the network spends more pieces on the space "
        "between examples. Dotted: what samples along the segment see, always fewer."
    ),
    reference=(HANIN_2019, HANIN_2019_FEW),
    # Of a pair: samples in float64, with a look at every unit, and breakpoints, nonlinearity after nonlinearity.
    passes=lambda options, snapshots: snapshots * options["pairs"] * 20,
)
def regions(
    states: Any,
    labels: np.ndarray,
    ids: np.ndarray,
    *,
    pairs: int = 10,
    samples: int = 256,
    limit: int = 2_000,
    seed: int = 0,
) -> dict[str, Any]:
    """Number of linear regions on segments between pairs of probe inputs, exact.

    `states` holds the network at every snapshot and the examples of a probe; `labels` and `ids` are
    (example,). Of all pairs of the first 2,000 examples `pairs` are drawn with `seed` (the same at every
    snapshot), half of them within a class where there are such; `id_from` and `id_to` (pair,) are their ids. Where a
    probe has fewer pairs they are -1, and all else is NaN without being counted.
    `regions` (step, pair) is 1 plus the number of different places on the segment where any unit passes 0 (or
    where another element of a max-pooling window becomes the largest): every breakpoint is computed, in
    float64, and those nearer than 1e-10 of the segment count once. NaN where there are more than `limit`, counted in
    `n_undefined`. `sampled` is the lower bound from `samples` equally spaced points, `density` (step, pair)
    regions per unit of distance between the inputs, `mean` and `std` (step) over pairs.

    MissingTraceError for smooth nonlinearities, and for inputs that are no real numbers.

    >>> chosen_pairs(np.array([0, 0, 1]), 3, seed=0)
    [(0, 1), (0, 2), (1, 2)]
    """
    from analyze.replay.linear_regions import counter

    sample = states.examples()
    inputs = sample.inputs
    if not hasattr(inputs, "is_floating_point") or not inputs.is_floating_point():
        raise MissingTraceError(
            "inputs are not one tensor of real numbers, so there is no segment between them"
        )
    chosen = chosen_pairs(np.asarray(labels)[: sample.n], pairs, seed)
    counts = np.full((len(states), pairs, 2), np.nan)  # as long for a probe of too few examples for so many
    for row, state in enumerate(states):
        count = counter(state, samples, limit)
        for column, (first, second) in enumerate(chosen):
            counts[row, column] = count(inputs[first], inputs[second])
    lengths = np.full(pairs, np.nan)
    lengths[: len(chosen)] = [float((inputs[a].double() - inputs[b].double()).norm()) for a, b in chosen]
    ends = np.full((pairs, 2), -1, np.int64)
    ends[: len(chosen)] = np.reshape([(ids[a], ids[b]) for a, b in chosen], (-1, 2))
    exact = counts[..., 0]
    return {
        "regions": exact,
        "sampled": counts[..., 1],
        "density": divide(exact, np.broadcast_to(lengths, exact.shape)),
        "mean": mean_defined(exact, 1)[0],
        "std": std_defined(exact, 1),
        "n_undefined": np.isnan(exact[:, : len(chosen)]).sum(1),
        "id_from": ends[:, 0],
        "id_to": ends[:, 1],
        "pair": np.arange(pairs),
        "attrs": {"n_units": sum(site.n_units for site in states[0].network.sites), "samples": samples},
    }


def chosen_pairs(labels: np.ndarray, count: int, seed: int) -> list[tuple[int, int]]:
    """`count` different pairs of the first `AMONG` examples, half of them within a class if there are any."""
    return list(_chosen(tuple(labels[:AMONG].tolist()), count, seed))


@lru_cache(maxsize=8)
def _chosen(classes: tuple[Any, ...], count: int, seed: int) -> list[tuple[int, int]]:
    labels = np.array(classes)
    first, second = np.triu_indices(len(labels), 1)
    order = np.random.default_rng(seed).permutation(len(first))
    same = labels[first[order]] == labels[second[order]]
    within, between = order[same], order[~same]
    half = min(len(within), max(count // 2, count - len(between)))
    chosen = np.concatenate([within[:half], between[: count - half]])
    return sorted((int(first[k]), int(second[k])) for k in chosen)


def plot_regions(result: xr.Dataset, figure: Figure) -> None:
    """Regions of every pair and their mean in training; exact against sampled at the end."""
    left, right = plot.panels(figure, 2, columns=2, height=2.7, sharex=False, sharey=False)
    for k, probe in enumerate(result["probe"].values):
        at, color = result.sel(probe=probe), plot.color_of(str(probe), k)
        left.plot(result["step"], at["regions"].values, color=color, linewidth=0.5, alpha=0.35)
        plot.line(left, result["step"], at["mean"], color=color, label=f"{probe}, mean")
        sampled = mean_defined(at["sampled"].values, 1)[0]
        plot.line(
            left, result["step"], sampled, color=color, linestyle=":", marker=None, label=f"{probe}, sampled"
        )
        last = at.isel(step=-1)
        right.plot(last["regions"], last["sampled"], "o", color=color, markersize=3, label=str(probe))
    units = result.attrs.get("n_units")
    plot.step_axis(left, result["step"])
    left.set(title="linear regions on a segment", ylabel="regions" + (f" ({units} units)" if units else ""))
    left.set_ylim(bottom=0)
    plot.legend(left)
    values = result.isel(step=-1)[["regions", "sampled"]].to_array().values
    low, high = plot.finite_limits(values)
    right.plot([low, high], [low, high], color=plot.GREY, linewidth=0.8, zorder=0)
    right.set(
        title=f"step {int(result['step'].values[-1]):,}",
        xlabel="exact",
        ylabel=f"seen by {result.attrs.get('samples', '')} samples",
    )
    plot.legend(right)
