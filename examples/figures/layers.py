"""What Walker's figures of stiffness through the layers share: the problems, one network, its profile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from plane import plane
from scipy.stats import spearmanr
from shared import Result, Run, canvas, fit, load, mlp, spread
from torch import nn

import analyze
import tracer
from analyze import plot

PROBLEMS = ("moons", "circles", "mnist")
HIDDEN = 5  # hidden layers
RISE = 0.05  # a network whose stiffness rises by less in every layer has no place where it rises
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky 0.01": nn.LeakyReLU,
    "leaky 0.2": partial(nn.LeakyReLU, 0.2),
    "tanh": nn.Tanh,
}
SETTINGS = {
    "data": "moons and circles: 400 examples, noise 0.12; MNIST: 8,000 images",
    "network": f"MLP of {HIDDEN} hidden layers",
    "training": "Adam, rate 0.001, batch 32; 60 epochs, MNIST 15",
    "stiffness": "mean cosine of 200 examples with 20 of each class, drawn at random, per layer",
}


def profile(run: Run, problem: str, activation: str, width: int, seed: int) -> Result:
    """Train one network, or find it recorded by another of the figures, and read its stiffness.

    `mean` (when, layer) over examples of the cosine with a balanced reference set, when: untrained, trained; layers are
    the Linear ones, from the first. `error` is the final one on the test examples. Archives are in
    `walker_layers_<scale>` beside the folder of the figure.
    """
    n, n_images, share = run.pick(quick=(100, 200, 5), gallery=(400, 8000, 1), full=(2000, 8000, 1))
    if problem == "mnist":
        data, epochs = load("mnist", run.data, n_images, min(n_images, 2000), seed), max(1, 15 // share)
    else:
        data, epochs = plane(problem, n, 200, seed=seed), 60 // share
    classes = int(data.y_train.max()) + 1
    path = fit(
        run.out.parent / f"walker_layers_{run.scale}" / f"{problem}_{activation}_{width}_{seed}.zarr",
        lambda: mlp([data.n_inputs, *[width] * HIDDEN, classes], ACTIVATIONS[activation]), data, epochs=epochs,
        batch=32, seed=seed, optimizer=partial(torch.optim.Adam, lr=1e-3),
        probes=data.probes(200, gradients=200), snapshots=tracer.at([0]), gradients="gram", device=run.device,
    )  # fmt: skip
    options = {"layer_stiffness": {"reference": "random", "seed": seed}}
    names = ["layer_stiffness", "generalization"]
    results = analyze.run(path, names, options=options, output=path.with_suffix(".analysis"))
    stiffness = results["layer_stiffness"]["mean"].sel(kind="cosine").isel(step=[0, -1]).drop_sel(layer="all")
    error = results["generalization"]["error"].sel(probe="test").isel(step=-1)
    return {"mean": stiffness.values, "error": float(error)}


def units(problem: str) -> int:
    """Hidden units of the networks of most figures."""
    return 100 if problem == "mnist" else 25


def centre(weight: np.ndarray) -> float:
    """Mean layer, counted from 1, each weighing its stiffness; negative ones count nothing."""
    weight = weight.clip(0)
    return float(weight @ np.arange(1, len(weight) + 1) / weight.sum()) if weight.any() else np.nan


def rise(mean: np.ndarray) -> float:
    """Centre of what training adds to the stiffness; NaN where it adds less than `RISE` in every layer."""
    added = mean[1] - mean[0]
    return centre(added) if added.max() >= RISE else np.nan


def places(runs: Sequence[Result]) -> dict[str, np.ndarray]:
    """Centres (seed,) of the trained and the untrained stiffness, and of its rise."""
    return {
        "trained": np.array([centre(one["mean"][1]) for one in runs]),
        "untrained": np.array([centre(one["mean"][0]) for one in runs]),
        "rise": np.array([rise(one["mean"]) for one in runs]),
    }


def slope(runs: Sequence[Result], when: int) -> np.ndarray:
    """Rank correlation (seed,) of a layer's stiffness with its depth."""
    return np.array([spearmanr(one["mean"][when], np.arange(HIDDEN + 1)).statistic for one in runs])


def curve(axes: Axes, runs: Sequence[Result], when: int, **style: str) -> None:
    """Mean over the seeds of stiffness against layer, and a band of their standard deviation."""
    rows = np.array([one["mean"][when] for one in runs])
    plot.band(axes, np.arange(1, rows.shape[1] + 1), rows.mean(0), rows.std(0, ddof=1), **style)


def by_activation(
    run: Run, activations: Sequence[str]
) -> tuple[Figure, dict[str, str], dict[tuple[str, str], dict[str, np.ndarray]]]:
    """Networks with each activation, trained (above) and untrained: a figure, its numbers, all places."""
    drawing, numbers, found = canvas(3.9), {}, {}
    colors = [plot.GREY, *plot.PALETTE]
    panels = drawing.subplots(2, len(PROBLEMS), sharex=True, sharey="row")
    for column, problem in zip(panels.T, PROBLEMS, strict=True):
        for name, color in zip(activations, colors, strict=False):
            runs = run.each(profile, problem, name, units(problem))
            for axes, when in zip(column, (1, 0), strict=True):
                curve(axes, runs, when, label=name, color=color)
                plot.zero_line(axes)
            found[problem, name] = places(runs)
            for place, values in found[problem, name].items():
                numbers[f"centre, {problem}, {name}, {place}"] = spread(values)
            numbers[f"test error, {problem}, {name}"] = spread([one["error"] for one in runs], 3)
        column[0].set(title=problem, xticks=range(1, HIDDEN + 2))
        column[1].set(xlabel="layer")
    for axes, word in zip(panels[:, 0], ("trained", "untrained"), strict=True):
        axes.set_ylabel(f"mean cosine, {word}")
    plot.legend(panels[0, 0])
    return drawing, numbers, found
