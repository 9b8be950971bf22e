"""Weights as sums of image functions, and losses with fixed paths (Gupta 2022, equations 4 and 9, and Appendix C).

Claim: the weights of a network are its first weights and the sum of what each image left at each update, its image
functions. Fixing an image's path of one time and running the weights of another shows that these functions do not last:
the path an image had early is not one that the trained network could use for it, and what was learned along a path is
destroyed by later updates.

Here: an MLP with two hidden layers of 64 units on 8,000 MNIST images, SGD with momentum and a constant rate. The
updates are made again from the recorded minibatches and compared with the recorded weights. The loss of these images
is then taken with the weights of one epoch's end and the units on at another's. Last, as we read the appendix, a
single image's functions in isolation: its loss with what it left itself in place of all weights, which is ln 10 where
that is nothing.

Verdict: a sum: minus the logarithm (base 10) of the relative error of all weights made again; 4 digits matter. Another
path: the loss of the trained network with the paths of the first epoch less its own; 0.1 nat matters. Destroyed: along
the paths of the first epoch, the loss with the last weights less that with the weights of that epoch; 0.1 nat
matters. In isolation: ln 10 less the loss of the first image with its own functions alone; 0.1 nat matters.
"""

from functools import partial

import numpy as np
import torch
from matplotlib.figure import Figure
from shared import Check, Result, Run, canvas, figure, finish, fit, load, mlp, spread

import analyze
import tracer
from analyze import plot
from analyze.reference import GUPTA_2022

RATE = 0.02  # at 0.05 rounding grows from update to update, and the weights made again are others
FIRST = 1  # snapshot at the end of the first epoch; 0 is the untrained network


def size(run: Run) -> tuple[int, int]:
    """Images and epochs."""
    return run.pick(quick=(100, 4), gallery=(8000, 12), full=(8000, 15))


def measure(run: Run, seed: int) -> Result:
    """Losses (weights, paths) at epoch ends of all images, and of one with its own functions alone; relative error."""
    n, epochs = size(run)
    data = load("mnist", run.data, n, 100, seed)
    path = fit(
        run.out / f"mlp_{run.scale}_{seed}.zarr", lambda: mlp([784, 64, 64, 10]), data, epochs=epochs, batch=128,
        optimizer=partial(torch.optim.SGD, lr=RATE, momentum=0.9), seed=seed, device=run.device,
        probes=data.probes(None), snapshots=tracer.epochs(), gradients="none",
    )  # fmt: skip
    found: Result = {}
    for name, chosen in (("whole", {}), ("alone", {"image": 0, "examples": 1})):
        options = {"image_functions": {"history": "required", **chosen}}
        results = analyze.run(path, ["image_functions"], options=options, output=path.with_suffix(f".{name}"))
        one = results["image_functions"]
        found[name] = one["fixed_path_loss"].values
        if name == "whole":
            found["error"] = one["reconstruction_error"].isel(layer=-1, step=-1).item()
    return found


def draw(runs: list[Result]) -> Figure:
    """The first seed's losses; along the first epoch's paths, and of single images, of all seeds."""
    drawing = canvas(2.5)
    left, middle, right = drawing.subplots(1, 3)
    image = left.imshow(np.log10(runs[0]["whole"]).T, origin="lower", cmap=plot.SEQUENTIAL, aspect="auto")
    left.set(xlabel="weights of epoch", ylabel="paths of epoch", title="log₁₀ loss with fixed paths")
    drawing.colorbar(image, ax=left)
    for k, one in enumerate(runs):
        epochs = np.arange(len(one["whole"]))
        own = np.diagonal(one["whole"])
        middle.plot(epochs, own, color=plot.GREY, linewidth=0.7, label=None if k else "own paths")
        along = one["whole"][:, FIRST]
        middle.plot(
            epochs, along, color=plot.PALETTE[0], linewidth=0.7, label=None if k else "paths of epoch 1"
        )
        right.plot(epochs, np.diagonal(one["alone"]), color=plot.PALETTE[1], linewidth=0.7)
    right.axhline(np.log(10), color="0.4", linestyle="--", linewidth=0.8, label="ln 10: nothing learned")
    middle.set(xlabel="weights of epoch", ylabel="loss (nat)", yscale="log")
    right.set(xlabel="weights of epoch", title="its own functions alone")
    plot.legend(middle)
    plot.legend(right)
    return drawing


@figure(GUPTA_2022)
def main(run: Run) -> None:
    runs = run.each(measure)
    whole = np.array([one["whole"] for one in runs])
    alone = np.array([one["alone"][-1, -1] for one in runs])
    errors = np.array([max(one["error"], 1e-16) for one in runs])
    early, own = whole[:, -1, FIRST], whole[:, -1, -1]
    numbers = {
        "relative error of the weights made again, largest": errors.max(),
        "loss of the trained network, its own paths": spread(own, 3),
        "loss of the trained network, paths of the first epoch": spread(early),
        "loss after the first epoch, its own paths": spread(whole[:, FIRST, FIRST]),
        "loss of one image with its own functions alone": spread(alone),
    }
    checks = [
        Check("weights are the sum of image functions", -np.log10(errors), 4.0, "digits"),
        Check("early paths are not those of the trained network", early - own, 0.1, "nat"),
        Check("what was learned along a path is destroyed", early - whole[:, FIRST, FIRST], 0.1, "nat"),
        Check("an image's own functions alone serve it", np.log(10) - alone, 0.1, "nat"),
    ]
    n, epochs = size(run)
    settings = {
        "data": f"MNIST, {n} images",
        "training": f"784-64-64-10, ReLU; SGD, rate {RATE}, momentum 0.9, batch 128, {epochs} epochs",
    }
    finish(run, draw(runs), numbers, checks, settings)


if __name__ == "__main__":
    main()
