"""Complexity curves of training and test images (Gain & Siegelmann 2019, figure of (α, β)-curves).

Claim: the slope of activations over depth, drawn against the complexity of the images, gives different curves for
training and for test images, and the distance of the curves corresponds to the generalization gap.

Here: an MLP with three hidden layers on CIFAR-10 (the paper has SVHN), 1,000 training and 1,000 test images. The area
between the curves is as printed, without cancellation; curves are running means over 25 images. Two sets of images
always have curves a little apart, so a second recording of the same training, bit for bit, compares two sets of
1,000 test images instead: what the area is without any gap.

Verdict: beyond chance: after training, the area between training and test images is larger than that between two sets
of test images, in every seed; it follows the gap: over training, their rank correlation is at least 0.7, mean over
the seeds; and more so than without a gap: the rank correlation is larger by at least 0.2 than that of the area
between two sets of test images with the same gap.
"""

from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from scipy.stats import spearmanr
from shared import Data, Run, canvas, figure, finish, fit, load, mlp, spread

import analyze
import tracer
from analyze import plot
from analyze.reference import GAIN_2019

SETS = {"seen": "training and test images", "unseen": "two sets of test images"}


def size(run: Run) -> tuple[int, int, int]:
    """Training examples, examples of a curve, epochs."""
    return run.pick(quick=(300, 200, 6), gallery=(1000, 1000, 30), full=(10_000, 1000, 100))


def probes(data: Data, kind: str, n: int) -> dict[str, tracer.Probe]:
    """Those whose curves are compared; of two sets of test images, one stands in for the training images."""
    test = data.probe("test", n, raw=True, masks=0)
    if kind == "seen":
        return {"train": data.probe("train", n, raw=True, masks=0), "test": test}
    others = data.x_test[n : 2 * n]
    other = tracer.Probe(
        others, data.y_test[n : 2 * n], split="train", raw=data.raw(others), capture={"masks": 0}
    )
    return {"train": other, "test": test}


def record(run: Run, seed: int) -> dict[str, xr.Dataset]:
    """Curves and area of both pairs of sets, and the generalization gap."""
    train, n, epochs = size(run)
    data = load("cifar10", run.data, train, 2 * n, seed)
    found = {}
    for kind in SETS:
        path: Path = fit(
            run.out / f"mlp_{kind}_{seed}.zarr", lambda: mlp([3072, 256, 256, 256, 10]), data, epochs=epochs,
            seed=seed, device=run.device, probes=probes(data, kind, n), gradients="none",
            snapshots={"default": tracer.epochs() | tracer.log_spaced(), "weights": tracer.at([])},
        )  # fmt: skip
        results = analyze.run(path, ["cna_area", "generalization"], output=path.with_suffix(".analysis"))
        found[kind] = results["cna_area"]
        if kind == "seen":
            found["gap"] = results["generalization"]["gap_error"]
    return found


def follows(one: dict[str, xr.Dataset], kind: str) -> float:
    """Rank correlation, over training, of area and gap."""
    return float(spearmanr(one[kind]["absolute"].values, one["gap"].values)[0])


def draw(runs: list[dict[str, xr.Dataset]]) -> Figure:
    drawing = canvas(2.5)
    axes = drawing.subplots(1, 3)
    for panel, (kind, title) in zip(axes, SETS.items(), strict=False):
        last = runs[0][kind].isel(step=-1)
        for curve, color, label in (("train", 0, "training"), ("test", 1, "test")):
            x, y = (last[name].sel(curve=curve).values for name in ("curve_complexity", "curve_slope"))
            label = label if kind == "seen" else {"training": "one set", "test": "another"}[label]
            panel.plot(x, y, color=plot.PALETTE[color if kind == "seen" else color + 2], label=label)
        panel.set(title=title, xlabel="complexity α (scaled)", xlim=(0, 1), ylim=(0, 1))
        plot.legend(panel)
    axes[0].set_ylabel("depth slope β (scaled)")
    for k, one in enumerate(runs):
        for kind, color in (("seen", plot.PALETTE[0]), ("unseen", plot.GREY)):
            label = SETS[kind] if k == 0 else None
            x, y = 100 * one["gap"].values, one[kind]["absolute"].values
            axes[2].plot(x, y, "o-", color=color, label=label, linewidth=0.6, markersize=2.5)
    axes[2].set(xlabel="generalization gap (points)", ylabel="area between the curves", ylim=(0, None))
    axes[2].set_title("over training")
    plot.legend(axes[2])
    return drawing


@figure(GAIN_2019)
def main(run: Run) -> None:
    seeds = range(run.seed, run.seed + run.pick(quick=2, gallery=3, full=10))
    runs = [record(run, seed) for seed in seeds]
    last = {kind: np.array([float(one[kind]["absolute"][-1]) for one in runs]) for kind in SETS}
    rank = {kind: np.array([follows(one, kind) for one in runs]) for kind in SETS}
    numbers = {
        **{
            f"rank correlation of area and gap over training, {SETS[kind]}": spread(rank[kind])
            for kind in SETS
        },
        "generalization gap after training (points)": spread(
            [100 * float(one["gap"][-1]) for one in runs], 0
        ),
        **{f"area after training, {title}": spread(last[kind], 3) for kind, title in SETS.items()},
        "area before training, training and test images": spread(
            [float(one["seen"]["absolute"][0]) for one in runs], 3
        ),
        "area after training by the authors' program": spread(
            [float(one["seen"]["polygon"][-1]) for one in runs], 3
        ),
    }
    checks = {
        "the curves are farther apart than those of two sets of test images": (
            last["seen"] > last["unseen"]
        ).all(),
        "the area follows the gap over training": rank["seen"].mean() >= 0.7,
        "more than an area without a gap does": rank["seen"].mean() - rank["unseen"].mean() >= 0.2,
    }
    train, n, epochs = size(run)
    settings = {
        "data": f"CIFAR-10, {train} training examples; curves of {n} training and {n} test examples",
        "training": f"3072-256-256-256-10, ReLU; SGD, rate 0.05, momentum 0.9, batch 64, {epochs} epochs",
        "seeds": f"{seeds.start} to {seeds.stop - 1}",
    }
    finish(run, draw(runs), numbers, checks, settings)


if __name__ == "__main__":
    main()
