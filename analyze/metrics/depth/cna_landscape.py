"""CNA landscape: the trajectory of the weights over CNA, loss or error, in the plane it lies closest to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from analyze import plot
from analyze.contract import metric
from analyze.numerics import depth_slope, mean_defined, pearson
from analyze.numerics.landscape import grid, principal_plane
from analyze.reference import GAIN_2019, Reference
from tracer.errors import ArgumentError, MissingTraceError

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LI_2018 = Reference(
    key="li2018visualizing",
    authors=("Li, Hao", "Xu, Zheng", "Taylor, Gavin", "Studer, Christoph", "Goldstein, Tom"),
    title="Visualizing the Loss Landscape of Neural Nets",
    year=2018,
    venue="Advances in Neural Information Processing Systems 31",
    arxiv="1712.09913",
)
Quantity = Literal["cna", "loss", "error"]
LABELS = {"cna": "CNA", "loss": "log₁₀ loss", "error": "error"}


@metric(
    reads=("states", "complexity.entropy"),
    variables={
        "cna": ("pc1", "pc2"),
        "loss": ("pc1", "pc2"),
        "error": ("pc1", "pc2"),
        "trajectory": ("step", "component"),
        "explained": ("component",),
    },
    scope="train",
    whole=True,
    bounds={"cna": (-1, 1), "error": (0, 1), "explained": (0, 1)},
    units={"loss": "nat"},
    summary={"explained": {"component": "each"}},
    title="CNA landscape",
    formula="CNA(w̄ + c₁v₁ + c₂v₂), v the first two principal components of the weights w_s",
    cost="2 forward passes of at most 512 examples at every point of the grid (21 × 21), 3 with BatchNorm",
    reading=(
        "Filled contours: the quantity with the weights at that point of the plane; red: the way training "
        "took, from the circle to the star. The plane holds the share of the trajectory's variance written "
        "at its axes; training does not lie in it exactly."
    ),
    reference=(GAIN_2019, LI_2018),
    passes=lambda options, _: 2 * options["points"] ** 2,
)
def cna_landscape(
    states: Any,
    complexity_entropy: np.ndarray,
    *,
    quantity: Quantity = "cna",
    points: int = 21,
    margin: float = 0.25,
    examples: int = 512,
) -> dict[str, Any]:
    """CNA, loss and error with weights in the principal plane of the training trajectory.

    `states` holds the network at every snapshot; `complexity_entropy` (example,) is α. The plane is spanned
    by the first two principal components of the trainable weights of all snapshots; `trajectory` (step,
    component) are the snapshots' coordinates, signs such that the last ones are at least 0, and `explained`
    (component,) their share of the variance. `cna`, `loss` and `error` (pc1, pc2) are of the first `examples`
    training examples at `points` by `points` places that reach `margin` of the trajectory's range beyond it;
    `quantity` says which of them the figure shows. Running statistics of BatchNorm, which have no meaning
    between snapshots, are taken anew from these examples at every place (attribute `batch_norm`); other
    buffers are the last snapshot's. CNA is NaN where α or β is the same for all examples or fewer than two
    calls are recorded, error where targets are no classes.

    MissingTraceError where the snapshots span no plane. Snapshots whose weights are not finite take no part in it,
    and their coordinates are NaN.

    >>> plane = principal_plane(lambda position: np.eye(3)[position], 3)
    >>> plane.explained.round(3).tolist()
    [0.5, 0.5]
    """
    if quantity not in LABELS:
        raise ArgumentError(f"quantity is one of {', '.join(LABELS)}, got {quantity!r}")

    def load(position: int) -> np.ndarray:
        state = states[position]
        return state.flat().double().cpu().numpy()

    plane = principal_plane(load, len(states))
    last = states[int(np.flatnonzero(np.isfinite(plane.trajectory[:, 0]))[-1])].movable()
    axes = [grid(plane.trajectory[:, component], points, margin) for component in range(2)]
    sample = states.examples(examples)
    alpha = np.asarray(complexity_entropy)[: sample.n]
    planes = {name: np.full((points, points), np.nan) for name in LABELS}
    normalised = False
    for i, j in np.ndindex(points, points):
        state, changed = _at(last, plane.weights([axes[0][i], axes[1][j]]), sample)
        normalised |= changed
        for name, value in _quantities(state, sample, alpha).items():
            planes[name][i, j] = value
    about = {
        "quantity": quantity,
        "batch_norm": "statistics taken anew from the examples at every place" if normalised else "none",
        "n_parameters": len(plane.mean),
        "n_examples": sample.n,
    }
    names = np.array(["pc1", "pc2"])
    return {
        **planes,
        "trajectory": plane.trajectory,
        "explained": plane.explained,
        "pc1": axes[0],
        "pc2": axes[1],
        "component": names,
        "attrs": about,
    }


def _at(last: Any, weights: np.ndarray, sample: Any) -> tuple[Any, bool]:
    """The network with these weights, and whether it has statistics that were taken anew."""
    import torch

    moved = last.with_tensors(last.unflat(torch.from_numpy(weights).to(last.device)))
    renewed = moved.with_batch_norm_from(sample)
    return renewed, renewed is not moved


def _quantities(state: Any, sample: Any, alpha: np.ndarray) -> dict[str, float]:
    from analyze.replay.evaluate import both

    outputs, losses = both(state, sample)
    pre = state.sums(sample)[0][:, :-1]
    slope = depth_slope(pre) if pre.shape[1] >= 2 else np.full(len(pre), np.nan)
    finite = np.isfinite(slope).all()
    try:
        error = float(1 - mean_defined(state.correct(sample, outputs))[0])
    except MissingTraceError:
        error = np.nan
    cna = float(pearson(alpha, slope)) if finite else np.nan
    return {"cna": cna, "loss": float(losses.mean()), "error": error}


def plot_cna_landscape(result: xr.Dataset, figure: Figure) -> None:
    """Filled contours of the chosen quantity with the trajectory in red, and of the loss beside it."""
    chosen = str(result.attrs.get("quantity", "cna"))
    other = "loss" if chosen == "cna" else "cna"
    axes = plot.panels(figure, 2, columns=2, height=3.1)
    for panel, name in zip(axes, (chosen, other), strict=True):
        _contours(panel, result, name)
        _trajectory(panel, result)
    axes[0].set_ylabel(f"second component ({100 * float(result['explained'][1]):.0f} %)")
    plot.legend(axes[0])


def _contours(panel: Axes, result: xr.Dataset, name: str) -> None:
    values = result[name].values.T
    if name == "loss":
        with np.errstate(divide="ignore", invalid="ignore"):
            values = np.log10(np.where(values > 0, values, np.nan))
    finite = values[np.isfinite(values)]
    if finite.size and finite.min() < finite.max():
        shown = np.ma.masked_invalid(values)
        filled = panel.contourf(result["pc1"], result["pc2"], shown, levels=24, cmap=plot.SEQUENTIAL)
        figure = panel.get_figure()
        assert figure is not None
        figure.colorbar(filled, ax=panel, label=LABELS[name], shrink=0.9, format="%.2g")
    else:
        panel.text(0.5, 0.5, f"{name}: nowhere different", ha="center", transform=panel.transAxes)
    panel.set(title=LABELS[name], xlabel=f"first component ({100 * float(result['explained'][0]):.0f} %)")


def _trajectory(panel: Axes, result: xr.Dataset) -> None:
    path = result["trajectory"].values
    steps = result["step"].values
    panel.plot(path[:, 0], path[:, 1], color="red", marker=".", markersize=3, linewidth=1.2)
    for position, marker in ((0, "o"), (-1, "*")):
        style: Any = {"color": "red", "markeredgecolor": "white", "markersize": 9, "linestyle": "none"}
        panel.plot(
            path[position, 0], path[position, 1], marker=marker, label=f"step {steps[position]:,}", **style
        )
