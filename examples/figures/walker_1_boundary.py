"""Neighbourhood stiffness marks the learned boundary (Walker 2023, Figure 1).

Claim: examples on the boundary that a network has learned have loss gradients unlike those of their
neighbours, so the mean stiffness of an example with its nearest neighbours is low there and traces the
boundary of a two-dimensional problem.

Here: an MLP with two hidden layers of 100 units on two problems in the plane, scikit-learn's noisy moons and
circles; stiffness is the mean cosine with the 10 nearest neighbours (Euclidean). The report does not give
its network, data or neighbourhood. The boundary is where the recorded outputs on a grid change sign.
Examples of the fifth nearest to it should have the lowest stiffness: AUC is the probability that one of them
has less than one of the other four fifths (0.5 is chance). As a control, AUC of what the data alone say (the
share of neighbours of another class), and AUC among those examples only whose neighbours all have their own
class.

Verdict: for both problems, by the AUC, which is 0.5 by chance; 0.1 matters. Low at the boundary: AUC after training
less 0.5. Learned: less the AUC at initialisation. More than mixed labels: AUC less 0.5 among examples with
neighbours of their own class only. Also early: AUC less 0.5 after 50 updates, when the boundary is still in the
wrong place.
"""

from functools import partial

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from plane import SIDE, auc, grid, mixed, plane, to_boundary
from shared import Check, Result, Run, canvas, figure, finish, fit, mlp, spread

import analyze
import tracer
from analyze import plot
from analyze.reference import WALKER_2023

PROBLEMS = ("moons", "circles")
WHEN = ("untrained", "early", "trained")
EARLY = 50


def size(run: Run) -> tuple[int, int]:
    """Examples and epochs."""
    return run.pick(quick=(120, 15), gallery=(400, 60), full=(1000, 200))


def record(run: Run, name: str, seed: int) -> Result:
    """One network; stiffness, outputs on the grid and distance to the boundary, at three steps."""
    n, epochs = size(run)
    data = plane(name, n, 200, seed=seed)
    points, sides = grid(data)
    nothing = torch.zeros(len(points), dtype=torch.long)
    probes = {
        "train": data.probe("train", n, gradients=n),
        "grid": tracer.Probe(points, nothing, capture={"gradients": 0, "masks": 0}),
    }
    path = fit(
        run.out / f"runs_{run.scale}" / f"{name}_{seed}.zarr", lambda: mlp([2, 100, 100, 2]), data,
        epochs=epochs, batch=32, seed=seed, optimizer=partial(torch.optim.Adam, lr=1e-3), probes=probes,
        snapshots=tracer.at([EARLY]), device=run.device,
    )  # fmt: skip
    results = analyze.run(path, ["neighbourhood_stiffness"], output=path.with_suffix(".analysis"))
    found = results["neighbourhood_stiffness"].sel(step=[0, EARLY, results.archive.snapshots[-1]])
    outputs = [results.archive.probes["grid"].outputs(int(step)) for step in found["step"]]
    scores = np.stack([(out[:, 1] - out[:, 0]).reshape(SIDE, SIDE) for out in outputs])
    position = found["position"].values
    return {
        "x": position, "label": found["label"].values, "step": found["step"].values, "sides": np.stack(sides),
        "stiffness": found["cosine"].values, "scores": scores, "mixed": mixed(position, found["label"].values),
        "distance": np.stack([to_boundary(position, points.numpy(), score) for score in scores]),
    }  # fmt: skip


def separations(one: Result) -> dict[str, float]:
    """AUC of one network by what it is computed from: that of the examples near the boundary being lower."""
    near = one["distance"] <= np.quantile(one["distance"], 0.2, axis=1, keepdims=True)
    first, early, last = (auc(n, -v) for v, n in zip(one["stiffness"], near, strict=True))
    pure = one["mixed"] == 0
    return {
        "trained": last,
        "after 50 updates": early,
        "untrained": first,
        "mixed labels alone": auc(near[-1], one["mixed"]),
        "trained, unmixed neighbours only": auc(near[-1][pure], -one["stiffness"][-1][pure]),
    }


def draw(found: dict[str, list[Result]]) -> Figure:
    drawing = canvas(3.5)
    axes = drawing.subplots(2, 4, width_ratios=(1, 1, 1, 0.9))
    for row, name in zip(axes, PROBLEMS, strict=True):
        one = found[name][0]
        for k, (panel, word) in enumerate(zip(row, WHEN, strict=False)):
            panel.contour(*one["sides"], one["scores"][k].T, levels=[0], colors="black", linewidths=0.8)
            for label, marker in enumerate("os"):
                mine = one["label"] == label
                drawn = panel.scatter(
                    *one["x"][mine].T, c=one["stiffness"][k][mine], s=9, marker=marker, cmap=plot.SEQUENTIAL,
                    vmin=0, vmax=1, edgecolors="0.5", linewidths=0.25,
                )  # fmt: skip
            panel.set(xticks=[], yticks=[], title=f"{name}, {word} (step {one['step'][k]})")
        profile(row[-1], found[name])
    drawing.colorbar(drawn, ax=axes[:, :3], label="mean cosine with 10 neighbours", shrink=0.7, extend="min")
    axes[1, -1].set_xlabel("rank of distance (%)")
    plot.legend(axes[0, -1], loc="lower right")
    return drawing


def profile(axes: Axes, runs: list[Result]) -> None:
    """Mean stiffness of each tenth of the examples, by distance to the boundary; a band over the seeds."""
    for k, (word, color) in enumerate(zip(WHEN, plot.depth_colors(3), strict=True)):
        rows = [
            [part.mean() for part in np.array_split(one["stiffness"][k][np.argsort(one["distance"][k])], 10)]
            for one in runs
        ]
        plot.band(axes, np.arange(5, 100, 10), np.mean(rows, 0), np.std(rows, 0), label=word, color=color)
    axes.set_ylabel("neighbourhood stiffness")


@figure(WALKER_2023)
def main(run: Run) -> None:
    found = {name: run.each(record, name) for name in PROBLEMS}
    parts = {name: [separations(one) for one in runs] for name, runs in found.items()}
    labels = list(parts["moons"][0])
    value = {(n, k): np.array([p[k] for p in parts[n]]) for n in PROBLEMS for k in labels}
    numbers = {f"AUC {label}, {name}": spread(values) for (name, label), values in value.items()}
    checks = []
    for name in PROBLEMS:
        last, first = value[name, "trained"], value[name, "untrained"]
        effects = {
            "low at the boundary after training": last - 0.5,
            "learned: more than at initialisation": last - first,
            "more than neighbours of another class": value[name, "trained, unmixed neighbours only"] - 0.5,
            "early on too, when the boundary is still wrong": value[name, "after 50 updates"] - 0.5,
        }
        checks += [Check(f"{part}, {name}", effect, 0.1, "of AUC") for part, effect in effects.items()]
    n, epochs = size(run)
    settings = {
        "data": f"moons and circles, noise 0.12, {n} examples",
        "training": f"2-100-100-2, ReLU; Adam, rate 0.001, batch 32, {epochs} epochs",
    }
    finish(run, draw(found), numbers, checks, settings)


if __name__ == "__main__":
    main()
