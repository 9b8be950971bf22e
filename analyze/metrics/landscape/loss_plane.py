"""Loss plane: how does the loss look on a random plane through the weights, in units of each filter's length?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from analyze import plot
from analyze.contract import metric
from analyze.reference import Reference

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure
    from torch import Tensor

LI_2018 = Reference(
    key="li2018visualizing",
    authors=("Li, Hao", "Xu, Zheng", "Taylor, Gavin", "Studer, Christoph", "Goldstein, Tom"),
    title="Visualizing the Loss Landscape of Neural Nets",
    year=2018,
    venue="Advances in Neural Information Processing Systems 31",
    arxiv="1712.09913",
)
STATISTICS = ("kept", "reset")


@metric(
    reads=("states",),
    variables={
        "loss": ("step", "statistics", "a", "b"),
        "error": ("step", "statistics", "a", "b"),
        "cosine": ("step",),
        "n_examples": (),
    },
    scope="train",
    bounds={"error": (0, 1), "cosine": (-1, 1)},
    units={"loss": "nat"},
    summary=("cosine",),
    title="Loss plane",
    formula="f(a, b) = L(w + aδ + bη),  δ_j ← δ_j |w_j|/|δ_j| for every filter j",
    cost="points² forward passes a step, three times as many with BatchNorm: by default 2,601 of at most 512 examples",
    reading=(
        "A wide bowl: flat around the weights. Contested: a random plane shows the mean curvature and hides directions "
        "of descent, and its scale is comparable between networks only where rescaling a filter changes nothing."
    ),
    reference=LI_2018,
    passes=lambda options, snapshots: snapshots * 3 * options["points"] ** 2,
)
def loss_plane(
    states: Any, *, points: int = 51, reach: float = 1.0, examples: int | None = 512, seed: int = 0
) -> dict[str, Any]:
    """Loss and error on a plane of two random directions with filter-wise normalised lengths.

    `states` holds the network at every snapshot; the mean loss and the share of wrong answers are those of the first
    `examples` training examples (None: all), `n_examples` of them, in eval mode. A direction is standard normal, and
    in every parameter with two or more axes each slice along the first (a filter, or a neuron's incoming row) is
    scaled to the length of the weights there; parameters with one axis (biases, BatchNorm's) do not move. `loss` and
    `error` are (step, statistics, a, b) on `points` by `points` places from -`reach` to `reach`: with BatchNorm's
    running statistics `kept`, and `reset` to those of the same examples at every place (NaN without BatchNorm); they
    differ most far out. `cosine` (step,) is that of the two directions, which are not made orthogonal. The same random
    numbers (by `seed`) at every step. NaN where a weight is not finite.

    >>> import torch
    >>> normalised(*torch.tensor([[[3.0, 4.0]], [[0.0, 2.0]]]).double()).round(decimals=4).tolist()
    [[1.2, 1.6]]
    """
    chosen = states.examples(examples)
    along = np.linspace(-reach, reach, points)
    shape = (len(states), len(STATISTICS), points, points)
    loss, error, cosine = np.full(shape, np.nan), np.full(shape, np.nan), np.full(len(states), np.nan)
    for step in range(len(states)):
        state = states[step].movable()
        if not bool(state.flat().isfinite().all()):
            continue
        delta, eta = (direction(state, seed, which) for which in (0, 1))
        first, second = (state.flat(each).double() for each in (delta, eta))
        length = float(first.norm() * second.norm())
        cosine[step] = np.clip(float(first @ second) / length, -1, 1) if length > 0 else np.nan
        for i, a in enumerate(along):
            for j, b in enumerate(along):
                for k, (value, wrong) in enumerate(_at(state, chosen, delta, eta, float(a), float(b))):
                    loss[step, k, i, j], error[step, k, i, j] = value, wrong
    return {
        "loss": loss,
        "error": error,
        "cosine": cosine,
        "n_examples": chosen.n,
        "statistics": np.array(STATISTICS),
        "a": along,
        "b": along,
        "attrs": {"seed": seed},
    }


def _at(state: Any, chosen: Any, delta: Any, eta: Any, a: float, b: float) -> list[tuple[float, float]]:
    from analyze.replay.batch_norm import batch_norms
    from analyze.replay.evaluate import loss_and_error

    moved = state.with_tensors(
        {name: state.tensors[name] + a * delta[name] + b * eta[name] for name in delta}
    )
    found = [loss_and_error(moved, chosen)]
    if batch_norms(state.network):
        found.append(loss_and_error(moved.with_batch_norm_from(chosen), chosen))
    return found


def direction(state: Any, seed: int, which: int) -> dict[str, Tensor]:
    """A random direction by parameter, each filter as long as that of the weights."""
    import torch

    drawn = torch.Generator().manual_seed(int(np.random.SeedSequence([seed, which]).generate_state(1)[0]))
    found = {}
    for name in state.parameters:
        weight = state.tensors[name]
        values = torch.randn(weight.shape, generator=drawn, dtype=torch.float64).to(weight)
        found[name] = normalised(values, weight)
    return found


def normalised(values: Tensor, weight: Tensor) -> Tensor:
    """Values with each slice along the first axis as long as the weight's; 0 for parameters of one axis."""
    if weight.ndim < 2 or not weight.numel():
        return values * 0
    rows, own = values.double().reshape(len(weight), -1), weight.double().reshape(len(weight), -1)
    scale = own.norm(dim=1) / (rows.norm(dim=1) + 1e-10)
    return (rows * scale[:, None]).reshape(weight.shape).to(weight)


def plot_loss_plane(result: xr.Dataset, figure: Figure) -> None:
    """Loss and error on the plane at the last snapshot, statistics kept and reset."""
    shown = [name for name in STATISTICS if result["loss"].sel(statistics=name).notnull().any()] or ["kept"]
    panels = [(name, statistics) for statistics in shown for name in ("loss", "error")]
    titles = [f"{name}, statistics {statistics}" for name, statistics in panels]
    axes = plot.panels(figure, len(panels), columns=2, titles=titles, height=2.8)
    for panel, (name, statistics) in zip(axes, panels, strict=True):
        table = result[name].sel(statistics=statistics).isel(step=-1)
        plot.heat(panel, table, colorbar=name, origin="lower")
        for axis, values in ((panel.xaxis, result["b"]), (panel.yaxis, result["a"])):
            plot.name_ticks(axis, [f"{value:.2g}" for value in values.values], limit=5)
        panel.set(xlabel="b", ylabel="a")
