"""Test error by input complexity (Gain & Siegelmann 2019, figure of test error for complexity scores).

Claim: the more complex an image is, by the entropy of its pixels, the harder it is to classify: during the training of
an MLP on MNIST, test error is ordered by the percentile of complexity.

Here: an MLP with two hidden layers on all 10,000 MNIST digits at hand, in five parts by cross-validation: each part is
tested by a network trained on the other four, so that every digit is a test digit once. Digits are put in ten groups
of equal size by entropy. Entropy follows the amount of ink, and so the class: ones are simple, eights complex. As a
control the same images are also grouped within their classes, which leaves every group the same mixture of classes.
Since a middling digit may be easier than either a simple or a complex one, the error of the outer two tenths on either
side less that of the middle two is given as well, within classes.

Verdict: complex is harder: the error of the most complex three tenths less that of the least complex three, in points;
0.5 matters. In order: the rank correlation of error with the group's number; 0.5 matters. Not only by class: the first
difference within classes; 0.5 matters.
"""

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.stats import spearmanr
from shared import Check, Data, Result, Run, canvas, figure, finish, fit, load, mlp, spread

import analyze
import tracer
from analyze import plot
from analyze.reference import GAIN_2019

GROUPS, PARTS = 10, 5


def size(run: Run) -> tuple[int, int]:
    """Images, all of them tested once, and epochs."""
    return run.pick(quick=(500, 2), gallery=(10_000, 6), full=(10_000, 60))


def everything(run: Run, n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, Data]:
    """All images and labels, of both sets, in an order drawn by the seed."""
    train = n * 4 // 5
    data = load("mnist", run.data, train, n - train, seed)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(n))
    x, y = torch.cat([data.x_train, data.x_test]), torch.cat([data.y_train, data.y_test])
    return x[order], y[order], data


def record(run: Run, seed: int) -> Result:
    """Of every image: complexity, class and whether the network that was not trained on it has it wrong."""
    n, epochs = size(run)
    x, y, data = everything(run, n, seed)
    found: dict[str, list[np.ndarray]] = {"entropy": [], "label": [], "wrong": []}
    for part in range(PARTS):
        test = torch.arange(n) % PARTS == part
        fold = Data(
            x[~test], y[~test], x[test], y[test], y[~test], torch.zeros_like(y[~test]), data.mean, data.std,
            f"{data.key}, part {part} of {PARTS}",
        )  # fmt: skip
        path = fit(
            run.out / f"mlp_{run.scale}_{seed}_{part}.zarr", lambda: mlp([784, 256, 256, 10]), fold, epochs=epochs,
            seed=seed, device=run.device, gradients="none", snapshots=tracer.at([]),
            probes={"test": fold.probe("test", None, raw=True, masks=0, outputs=None)},
        )  # fmt: skip
        results = analyze.run(path, ["complexity", "correctness"], output=path.with_suffix(".analysis"))
        correct = results["correctness"]
        found["entropy"].append(results["complexity"]["entropy"].values)
        found["label"].append(correct["label"].values)
        found["wrong"].append(1.0 - correct["correct"].isel(step=-1).values)
    return {name: np.concatenate(values) for name, values in found.items()}


def shares(one: Result, within: bool = False) -> np.ndarray:
    """Error (group,) in points, from the least complex; `within`: groups of the images of each class, joined."""
    group = np.empty(len(one["entropy"]), int)
    classes = [one["label"] == label for label in np.unique(one["label"])] if within else [slice(None)]
    for mine in classes:
        order = one["entropy"][mine].argsort(kind="stable").argsort(kind="stable")
        group[mine] = order * GROUPS // len(order)
    return np.array([100 * one["wrong"][group == g].mean() for g in range(GROUPS)])


def difference(groups: np.ndarray) -> np.ndarray:
    """Error (seed,) of the most complex three tenths less that of the least complex three."""
    return groups[:, -3:].mean(1) - groups[:, :3].mean(1)


def draw(found: dict[str, np.ndarray]) -> Figure:
    drawing = canvas(2.7)
    axes = drawing.subplots()
    for (name, values), color in zip(found.items(), plot.PALETTE, strict=False):
        plot.band(
            axes, np.arange(1, GROUPS + 1), values.mean(0), values.std(0, ddof=1), label=name, color=color
        )
    axes.set(xlabel="tenth by complexity", ylabel="test error (%)", xticks=range(1, 11), ylim=(0, None))
    plot.legend(axes, title="tenths")
    return drawing


@figure(GAIN_2019)
def main(run: Run) -> None:
    runs = run.each(record)
    plain = np.array([shares(one) for one in runs])
    within = np.array([shares(one, within=True) for one in runs])
    ranks = np.array([spearmanr(np.arange(GROUPS), row)[0] for row in plain])
    outer = within[:, [0, 1, -2, -1]].mean(1) - within[:, 4:6].mean(1)
    numbers = {
        "test error (%)": spread(plain.mean(1)),
        "the same of the least, the middle and the most complex tenths (%)": ", ".join(
            spread(values) for values in (plain[:, 0], plain[:, 4:6].mean(1), plain[:, -1])
        ),
        "within classes: outer less middle tenths (points)": spread(outer),
        "seeds at which that is above 0": f"{(outer > 0).sum()} of {len(outer)}",
    }
    checks = [
        Check("complex images are harder", difference(plain), 0.5, "points"),
        Check("error is ordered by complexity", ranks, 0.5, "of rank correlation"),
        Check("also among images of one class", difference(within), 0.5, "points"),
    ]
    n, epochs = size(run)
    settings = {
        "data": f"MNIST, {n} digits, each tested once, in {PARTS} parts",
        "training": f"784-256-256-10, ReLU; SGD, rate 0.05, momentum 0.9, batch 64, {epochs} epochs",
    }
    finish(run, draw({"of all images": plain, "within each class": within}), numbers, checks, settings)


if __name__ == "__main__":
    main()
