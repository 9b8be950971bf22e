"""Test error by input complexity (Gain & Siegelmann 2019, figure of test error for complexity scores).

Claim: the more complex an image is, by the entropy of its pixels, the harder it is to classify: during the training of
an MLP on MNIST, test error is ordered by the percentile of complexity.

Here: an MLP with two hidden layers on 8,000 MNIST digits, and the 2,000 test digits in ten groups of equal size by
entropy. Entropy follows the amount of ink, and so the class: ones are simple, eights complex. As a control the same
images are also grouped within their classes, which leaves every group the same mixture of classes.

Verdict: mean over the seeds. Complex is harder: at the end of training the most complex three tenths have a higher
error than the least complex three tenths, by more than twice its standard error over images; all along: the rank
correlation of error with the group's number is positive at nine tenths of the snapshots after the first epoch; not
only by class: the first difference, within classes, is also more than twice its standard error.
"""

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import spearmanr
from shared import Run, canvas, figure, finish, fit, load, mlp, spread

import analyze
import tracer
from analyze import plot
from analyze.reference import GAIN_2019

GROUPS = 10


def size(run: Run) -> tuple[int, int, int]:
    """Training examples, test examples and epochs."""
    return run.pick(quick=(500, 500, 4), gallery=(8000, 2000, 10), full=(8000, 2000, 60))


def record(run: Run, seed: int) -> dict[str, np.ndarray]:
    """Error (step, group), and of every test image at the end: complexity, class and whether it is wrong."""
    train, test, epochs = size(run)
    data = load("mnist", run.data, train, test, seed)
    path = fit(
        run.out / f"mlp_{seed}.zarr", lambda: mlp([784, 256, 256, 10]), data, epochs=epochs, seed=seed,
        device=run.device, probes={"test": data.probe("test", None, raw=True, masks=0)}, gradients="none",
        snapshots={"default": tracer.epochs() | tracer.log_spaced(), "weights": tracer.at([])},
    )  # fmt: skip
    metrics = ["error_by_complexity", "complexity", "correctness"]
    results = analyze.run(path, metrics, output=path.with_suffix(".analysis"))
    found, correct = results["error_by_complexity"], results["correctness"]
    return {
        "step": found["step"].values, "error": found["error"].values, "bits": found["mean_complexity"].values,
        "entropy": results["complexity"]["entropy"].values, "label": correct["label"].values,
        "wrong": 1.0 - correct["correct"].isel(step=-1).values, "epoch": train // 64 + 1,
    }  # fmt: skip


def tenths(entropy: np.ndarray, label: np.ndarray | None = None) -> np.ndarray:
    """Group (image,) from 0, by complexity; with labels, by complexity among the images of its class."""
    group = np.empty(len(entropy), int)
    for mine in [slice(None)] if label is None else [label == one for one in np.unique(label)]:
        order = entropy[mine].argsort(kind="stable").argsort(kind="stable")
        group[mine] = order * GROUPS // len(order)
    return group


def difference(wrong: np.ndarray, group: np.ndarray) -> tuple[float, float]:
    """Error of the most complex three tenths less that of the least complex three, and its standard error."""
    high, low = wrong[group >= GROUPS - 3], wrong[group < 3]
    return high.mean() - low.mean(), np.sqrt(high.var() / len(high) + low.var() / len(low))


def draw(runs: list[dict[str, np.ndarray]]) -> Figure:
    drawing = canvas(2.7)
    left, right = drawing.subplots(1, 2, width_ratios=(1.6, 1))
    error, bits = (np.mean([one[name] for one in runs], axis=0) for name in ("error", "bits"))
    for group, color in enumerate(plot.depth_colors(GROUPS)):
        label = f"{bits[group]:.2f} bits"
        left.plot(runs[0]["step"], 100 * error[:, group], color=color, label=label, linewidth=1.1)
    left.set(xlabel="step", ylabel="test error (%)", xscale="symlog", xlim=(0, None))
    left.legend(title="mean complexity of a tenth", ncols=2, loc="upper right")
    names = {"of all images": None, "within each class": "label"}
    for (name, by), color in zip(names.items(), plot.PALETTE, strict=False):
        shares = [[] for _ in runs]
        for k, one in enumerate(runs):
            group = tenths(one["entropy"], one[by] if by else None)
            shares[k] = [100 * one["wrong"][group == g].mean() for g in range(GROUPS)]
        mean, std = np.mean(shares, axis=0), np.std(shares, axis=0)
        plot.band(right, np.arange(1, GROUPS + 1), mean, std, label=name, color=color)
    right.set(
        xlabel="tenth by complexity",
        ylabel="test error at the end (%)",
        xticks=range(1, 11, 3),
        ylim=(0, None),
    )
    plot.legend(right, title="tenths")
    return drawing


@figure(GAIN_2019)
def main(run: Run) -> None:
    seeds = range(run.seed, run.seed + run.pick(quick=2, gallery=3, full=10))
    runs = [record(run, seed) for seed in seeds]
    plain = np.array([difference(one["wrong"], tenths(one["entropy"])) for one in runs])
    within = np.array([difference(one["wrong"], tenths(one["entropy"], one["label"])) for one in runs])
    places = np.arange(GROUPS)
    ranks = np.array([[spearmanr(places, row)[0] for row in one["error"]] for one in runs])
    late = ranks[:, runs[0]["step"] >= runs[0]["epoch"]]
    numbers = {
        "test error of the most less the least complex three tenths (points)": spread(100 * plain[:, 0]),
        "standard error of that over images": 100 * plain[:, 1].mean(),
        "the same within classes (points)": spread(100 * within[:, 0]),
        "its standard error over images, within classes": 100 * within[:, 1].mean(),
        "test error at the end (%)": spread([100 * one["wrong"].mean() for one in runs]),
        "rank correlation of error and tenth, at the end": spread(ranks[:, -1]),
        "snapshots after one epoch at which it is positive (%)": 100 * (late > 0).mean(),
    }
    checks = {
        "complex images are harder at the end": plain[:, 0].mean() > 2 * plain[:, 1].mean(),
        "and all along after the first epoch": (late > 0).mean() >= 0.9,
        "also among images of one class": within[:, 0].mean() > 2 * within[:, 1].mean(),
    }
    train, test, epochs = size(run)
    settings = {
        "data": f"MNIST, {train} training and {test} test examples",
        "training": f"784-256-256-10, ReLU; SGD, rate 0.05, momentum 0.9, batch 64, {epochs} epochs",
        "seeds": f"{seeds.start} to {seeds.stop - 1}",
    }
    finish(run, draw(runs), numbers, checks, settings)


if __name__ == "__main__":
    main()
