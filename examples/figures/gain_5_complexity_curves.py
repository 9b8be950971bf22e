"""Complexity curves of training and test images (Gain & Siegelmann 2019, figure of (α, β)-curves).

Claim: the slope of activations over depth, drawn against the complexity of the images, gives different curves for
training and for test images, and the distance of the curves corresponds to the generalization gap.

Here: an MLP with three hidden layers on CIFAR-10 (the paper has SVHN), 2,000 training images; curves of these, of 2,000
test images and of 2,000 others that are not trained on either. Two sets of images always have curves a little apart, so
the distance between the two unseen sets is what there is without any gap. Curves are running means over a twentieth of
the images. The distance is read in three ways: the whole area between the curves, its largest lobe (the largest polygon
that can be inscribed, in the words of the paper), and the area of the authors' program, in which lobes of opposite
sign cancel. Slopes are of sums before the ReLU, as in the authors' program, and for the whole area after it too.

Verdict: beyond chance: after training, by every reading, the distance of training and test images less that of the two
unseen sets; 0.02 matters, of the square that all curves span. It follows the gap: over training, the rank correlation
of distance and gap, by every reading; 0.7 matters.
"""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from scipy.stats import spearmanr
from shared import Check, Result, Run, canvas, figure, finish, fit, load, mlp, spread

import analyze
import tracer
from analyze import plot
from analyze.metrics.depth.cna_area import cna_area
from analyze.reference import GAIN_2019

SETS = {"seen": "training and test images", "unseen": "two sets of unseen images"}
READINGS = {"absolute": "whole area", "lobe": "largest lobe", "polygon": "authors' program"}
SHARE = 20  # of the images of a curve that a running mean is taken over


def size(run: Run) -> tuple[int, int]:
    """Examples of each of the three sets, and epochs."""
    return run.pick(quick=(300, 6), gallery=(2000, 30), full=(2000, 100))


def areas(slope: xr.DataArray, entropy: np.ndarray, probe: np.ndarray) -> dict[str, Any]:
    """Distance of both pairs of sets, by pair and reading (step,), and the last curves of each."""
    found: dict[str, Any] = {}
    for pair, other in (("seen", "train"), ("unseen", "other")):
        chosen = np.isin(probe, [other, "test"])
        split = np.where(probe[chosen] == "test", "test", "train")
        window = max(2, (split == "test").sum() // SHARE)
        area = cna_area(slope.values[:, chosen], entropy[chosen], split, window=int(window))
        found[pair] = {name: area[name] for name in READINGS}
        found[pair]["curves"] = np.stack([area["curve_complexity"][-1], area["curve_slope"][-1]])
    return found


def record(run: Run, seed: int) -> Result:
    """Distances by kind of sum, pair of sets and reading, and the generalization gap (step,)."""
    n, epochs = size(run)
    data = load("cifar10", run.data, n, n, seed)
    more = load("cifar10", run.data, 2 * n, n, seed)  # the first n are those of `data`
    others = more.x_train[n:]
    every = {"masks": 0, "outputs": n, "sums": n}  # of all images, whatever a snapshot costs
    probes = data.probes(None, raw=True, **every)
    probes["other"] = tracer.Probe(
        others, more.y_train[n:], split="other", raw=data.raw(others), capture=every
    )
    path = fit(
        run.out / f"mlp_{run.scale}_{seed}.zarr", lambda: mlp([3072, 256, 256, 256, 10]), data, epochs=epochs,
        seed=seed, device=run.device, probes=probes, gradients="none",
        snapshots={"default": tracer.epochs() | tracer.log_spaced(), "weights": tracer.at([])},
    )  # fmt: skip
    found: Result = {}
    for where in ("pre", "post"):
        options = {"depth_slope": {"where": where}}
        names = ["depth_slope", "complexity", "generalization"]
        results = analyze.run(path, names, options=options, output=path.with_suffix(f".{where}"))
        slope = results["depth_slope"]["slope"]
        found[where] = areas(slope, results["complexity"]["entropy"].values, slope["probe"].values)
        error = results["generalization"]["error"]
        found["gap"] = (error.sel(probe="test") - error.sel(probe="train")).values
    return found


def follows(one: Result, pair: str, reading: str) -> float:
    """Rank correlation, over training, of distance and gap."""
    return float(spearmanr(one["pre"][pair][reading], one["gap"])[0])


def draw(runs: list[Result]) -> Figure:
    drawing = canvas(2.5)
    axes = drawing.subplots(1, 3)
    for panel, (pair, title) in zip(axes, SETS.items(), strict=False):
        x, y = runs[0]["pre"][pair]["curves"]
        names = ("training", "test") if pair == "seen" else ("one set", "another")
        for k, label in enumerate(names):
            panel.plot(x[k], y[k], color=plot.PALETTE[k if pair == "seen" else k + 2], label=label)
        panel.set(title=title, xlabel="complexity α (scaled)", xlim=(0, 1), ylim=(0, 1))
        plot.legend(panel)
    axes[0].set_ylabel("depth slope β (scaled)")
    for k, one in enumerate(runs):
        for pair, color in (("seen", plot.PALETTE[0]), ("unseen", plot.GREY)):
            x, y = 100 * one["gap"], one["pre"][pair]["absolute"]
            label = SETS[pair] if k == 0 else None
            axes[2].plot(x, y, "o-", color=color, label=label, linewidth=0.4, markersize=1.5)
    axes[2].set(
        xlabel="generalization gap (points)", ylabel="whole area", ylim=(0, None), title="over training"
    )
    plot.legend(axes[2])
    return drawing


@figure(GAIN_2019)
def main(run: Run) -> None:
    runs = run.each(record)

    def last(where: str, pair: str, reading: str) -> np.ndarray:
        return np.array([one[where][pair][reading][-1] for one in runs])

    numbers = {
        "generalization gap after training (points)": spread([100 * float(one["gap"][-1]) for one in runs], 0)
    }
    for reading, title in READINGS.items():
        for pair, sets in SETS.items():
            numbers[f"{title} after training, {sets}"] = spread(last("pre", pair, reading), 3)
            follow = spread([follows(one, pair, reading) for one in runs])
            numbers[f"{title}, rank correlation with the gap over training, {sets}"] = follow
    kinds = [("pre", reading, title) for reading, title in READINGS.items()]
    kinds.append(("post", "absolute", "whole area, sums after the ReLU"))
    checks = [
        Check(
            f"{title}: more than between unseen sets",
            last(where, "seen", name) - last(where, "unseen", name),
            0.02,
        )
        for where, name, title in kinds
    ]
    checks += [
        Check(f"{title}: follows the gap over training", [follows(one, "seen", name) for one in runs], 0.7)
        for name, title in READINGS.items()
    ]
    n, epochs = size(run)
    settings = {
        "data": f"CIFAR-10, {n} training, {n} test and {n} other images; running means over {n // SHARE}",
        "training": f"3072-256-256-256-10, ReLU; SGD, rate 0.05, momentum 0.9, batch 64, {epochs} epochs",
    }
    finish(run, draw(runs), numbers, checks, settings)


if __name__ == "__main__":
    main()
