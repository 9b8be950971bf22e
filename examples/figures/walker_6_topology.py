"""Topology through layers connected by ReLU and by tanh (the open question of Walker 2023, after Naitzat et al. 2020).

Claim: networks with ReLU lower the Betti numbers of one class, its pieces and holes, at an earlier layer than networks
with tanh. This is what Naitzat et al. (2020) found; Walker asks whether stiffness shows it, and does not measure it.

Here: the problems in the plane and MLPs of Figure 4, five hidden layers of 25 units; class 0 is one moon, or the outer
of two circles. Betti numbers (pieces and loops) are of at most 150 training points of that class that are classified
rightly, in a graph of 14 or 35 nearest neighbours, at distances of 1.5 or 2.5 edges; what is said is the mean over
these four. The centre of the fall is the mean place, counted from the input as 0, each weighing by how much the sum of
the Betti numbers falls there. As a control, the same of the untrained networks: a layer that can be undone changes no
Betti number, so that a fall in it shows scale and sampling.

Verdict: for each problem, at the same seed. Falls: the sum of the Betti numbers at the input less that after the last
hidden layer, with ReLU; 0.5 matters. Later with tanh: the centre of its fall less that of ReLU's; half a layer matters;
and the same less its value before training.
"""

from functools import partial

import numpy as np
import torch
from layers import ACTIVATIONS, HIDDEN, units
from matplotlib.figure import Figure
from plane import plane
from shared import Check, Result, Run, canvas, figure, finish, fit, mlp, spread

import analyze
import tracer
from analyze import plot
from analyze.metrics.representations.betti_numbers import NAITZAT_2020
from analyze.reference import WALKER_2023

PROBLEMS = ("moons", "circles")
NAMES = {"relu": "ReLU", "tanh": "tanh"}


def measure(run: Run, problem: str, activation: str, seed: int) -> Result:
    """Sum of the Betti numbers (when, place), centre of its fall (when,), and the error; when: untrained, trained."""
    n, epochs = run.pick(quick=(120, 10), gallery=(400, 60), full=(2000, 60))
    data = plane(problem, n, 200, seed=seed)
    path = fit(
        run.out / f"{problem}_{activation}_{run.scale}_{seed}.zarr",
        lambda: mlp([2, *[units(problem)] * HIDDEN, 2], ACTIVATIONS[activation]), data, epochs=epochs, batch=32,
        seed=seed, optimizer=partial(torch.optim.Adam, lr=1e-3), snapshots=tracer.at([0]), gradients="none",
        probes=data.probes(None, activations=n, masks=0), device=run.device,
    )  # fmt: skip
    results = analyze.run(path, ["betti_numbers", "generalization"], output=path.with_suffix(".analysis"))
    betti = results["betti_numbers"].isel(step=[0, -1])
    error = results["generalization"]["error"].sel(probe="test").isel(step=-1)
    return {
        "total": betti["total"].mean(("k", "epsilon")).values,
        "centre": betti["centre"].mean(("k", "epsilon")).values,
        "error": float(error),
    }


def draw(found: dict[tuple[str, str], list[Result]]) -> Figure:
    drawing = canvas(2.5)
    for axes, problem in zip(drawing.subplots(1, len(PROBLEMS), sharey=True), PROBLEMS, strict=True):
        for (name, label), color in zip(NAMES.items(), (plot.GREY, plot.PALETTE[0]), strict=True):
            for when, style in ((1, "-"), (0, ":")):
                totals = np.array([one["total"][when] for one in found[problem, name]])
                word = f"{label}, {'trained' if when else 'untrained'}"
                plot.band(
                    axes, np.arange(totals.shape[1]), np.nanmean(totals, 0), np.nanstd(totals, 0, ddof=1),
                    color=color, label=word, linestyle=style,
                )  # fmt: skip
        axes.set(title=problem, xlabel="hidden layer (0: input)", xticks=range(HIDDEN + 1))
    drawing.axes[0].set_ylabel("sum of the Betti numbers")
    plot.legend(drawing.axes[0])
    return drawing


@figure(WALKER_2023, NAITZAT_2020)
def main(run: Run) -> None:
    found = {(problem, name): run.each(measure, problem, name) for problem in PROBLEMS for name in NAMES}
    numbers, checks = {}, []
    for problem in PROBLEMS:
        totals, centres = (
            {name: np.array([one[part] for one in found[problem, name]]) for name in NAMES}
            for part in ("total", "centre")
        )
        for name, label in NAMES.items():
            ends = totals[name][:, 1, 0], totals[name][:, 1, -1]
            numbers |= {
                f"sum of Betti numbers, {problem}, {label}: input and last": f"{spread(ends[0])}, {spread(ends[1])}",
                f"centre of the fall, {problem}, {label}, trained": spread(centres[name][:, 1]),
                f"the same untrained, {problem}, {label}": spread(centres[name][:, 0]),
                f"test error, {problem}, {label}": spread([one["error"] for one in found[problem, name]], 3),
            }
        shift = centres["tanh"] - centres["relu"]
        fall = totals["relu"][:, 1, 0] - totals["relu"][:, 1, -1]
        checks += [
            Check(f"later with tanh, {problem}", shift[:, 1], 0.5, "layers"),
            Check(f"more so than before training, {problem}", shift[:, 1] - shift[:, 0], 0.5, "layers"),
            Check(f"Betti numbers fall with ReLU, {problem}", fall, 0.5),
        ]
    settings = {
        "data": "moons and circles: 400 examples, noise 0.12",
        "network": f"MLP of {HIDDEN} hidden layers of 25 units",
        "training": "Adam, rate 0.001, batch 32; 60 epochs",
    }
    finish(run, draw(found), numbers, checks, settings)


if __name__ == "__main__":
    main()
