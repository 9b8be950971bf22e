"""What Walker's figures of stiffness through the layers share: the problems, one network, its profile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from plane import plane
from shared import Run, canvas, fit, load, mlp, spread
from torch import nn

import analyze
import tracer
from analyze import plot

PROBLEMS = ("moons", "circles", "mnist")
HIDDEN = 5  # hidden layers
SETTINGS = {
    "data": "moons and circles: 400 examples, noise 0.12; MNIST: 2,000 images",
    "network": f"MLP of {HIDDEN} hidden layers",
    "training": "Adam, rate 0.001, batch 32; 60 epochs, MNIST 15",
    "stiffness": "mean cosine of 200 examples with 20 of each class (default of layer_stiffness), per layer",
}


@dataclass(frozen=True)
class Profile:
    """Mean and std (when, layer) over examples of the cosine with a balanced reference set; when: 0, last.

    Layers are the Linear ones, from the first; `error` is the final one on the test examples.
    """

    mean: np.ndarray
    std: np.ndarray
    error: float

    @property
    def centre(self) -> float:
        """Mean layer, counted from 1, of the trained network's stiffness, each layer weighing its own."""
        weight = self.mean[-1].clip(0)
        return float((weight * np.arange(1, len(weight) + 1)).sum() / weight.sum())

    @property
    def slope(self) -> np.ndarray:
        """Rank correlation (when,) of a layer's stiffness with its depth."""
        from scipy.stats import spearmanr

        return np.array([spearmanr(row, np.arange(len(row))).statistic for row in self.mean])


def profile(
    run: Run,
    problem: str,
    seed: int,
    width: int,
    activation: Callable[[], nn.Module] = nn.ReLU,
    name: str = "relu",
) -> Profile:
    """Train one network, or find it recorded by another of the figures, and read its stiffness.

    Archives are in `walker_layers_<scale>` beside the folder of the figure.
    """
    n, n_images, share = run.pick(quick=(100, 200, 5), gallery=(400, 2000, 1), full=(2000, 8000, 1))
    if problem == "mnist":
        data, epochs = load("mnist", run.data, n_images, 500, seed), max(1, 15 // share)
    else:
        data, epochs = plane(problem, n, 200, seed=seed), 60 // share
    classes = int(data.y_train.max()) + 1
    path = fit(
        run.out.parent / f"walker_layers_{run.scale}" / f"{problem}_{name}_{width}_{seed}.zarr",
        lambda: mlp([data.n_inputs, *[width] * HIDDEN, classes], activation), data, epochs=epochs, batch=32,
        seed=seed, optimizer=partial(torch.optim.Adam, lr=1e-3), probes=data.probes(200, gradients=200),
        snapshots=tracer.at([0]), gradients="gram", device=run.device,
    )  # fmt: skip
    results = analyze.run(path, ["layer_stiffness", "generalization"], output=path.with_suffix(".analysis"))
    found = results["layer_stiffness"].sel(kind="cosine").isel(step=[0, -1]).drop_sel(layer="all")
    error = results["generalization"]["error"].sel(probe="test").isel(step=-1)
    return Profile(found["mean"].values, found["std"].values, float(error))


def curve(axes: Axes, runs: list[Profile], when: int, **style: str) -> None:
    """Mean over the seeds of stiffness against layer, and a band of their standard deviation."""
    rows = np.array([one.mean[when] for one in runs])
    plot.band(axes, np.arange(1, rows.shape[1] + 1), rows.mean(0), rows.std(0, ddof=1), **style)


def by_activation(
    run: Run, activations: dict[str, Callable[[], nn.Module]]
) -> tuple[Figure, dict[str, str], dict[tuple[str, str], np.ndarray]]:
    """Trained networks of 25 units (MNIST: 100) with each activation: a figure, its numbers, all centres."""
    seeds = range(run.seed, run.seed + run.pick(quick=2, gallery=5, full=10))
    drawing, numbers, centres = canvas(2.4), {}, {}
    colors = [plot.GREY, *plot.PALETTE]
    for axes, problem in zip(drawing.subplots(1, len(PROBLEMS)), PROBLEMS, strict=True):
        width = 100 if problem == "mnist" else 25
        for (name, activation), color in zip(activations.items(), colors, strict=False):
            runs = [profile(run, problem, seed, width, activation, name) for seed in seeds]
            curve(axes, runs, -1, label=name, color=color)
            centres[problem, name] = np.array([one.centre for one in runs])
            numbers[f"centre, {problem}, {name}"] = spread(centres[problem, name])
            numbers[f"test error, {problem}, {name}"] = spread([one.error for one in runs], 3)
        plot.zero_line(axes)
        axes.set(title=problem, xlabel="layer", xticks=range(1, 7))
    drawing.axes[0].set_ylabel("mean gradient cosine, trained")
    plot.legend(drawing.axes[0])
    return drawing, numbers, centres


def later(after: np.ndarray, before: np.ndarray) -> float:
    """How much later one set of centres lies than another, in standard errors of the difference of means."""
    error = np.sqrt(after.var(ddof=1) / len(after) + before.var(ddof=1) / len(before))
    return float((after.mean() - before.mean()) / error)
