"""Early-to-mid ratio of path similarity and generalization (Gupta 2022, Figure 7).

Claim: over several networks, the ratio of the mean cross path similarity before the learning rate first falls to that
between its first and second fall has a roughly linear relation to the generalization error.

Here: AlexNet, ResNet-18, VGG-19 and VGG-11 of several widths, all narrower than the originals, on 2,000 CIFAR-10
images (the paper: 50,000) with one schedule; pairs of 128 training images, mean over all ReLUs. The paper does not
say which networks it has, or which generalization error: ours are the gap and the test error.

Verdict: the paper expects much similarity early and little later to go with good generalization, so a higher ratio
with a lower error: Pearson's correlation over networks with the gap in error is at most -0.7, and its 95 % interval (a
bootstrap over networks) lies below 0; the same with the test error. With fewer than six networks: cannot be told.
Training error is shown beside it, since networks that have not learned have no gap.
"""

from pathlib import Path

import numpy as np
from imagefunction_study import MAIN, MORE, record, size, width
from matplotlib.figure import Figure
from shared import Run, canvas, figure, finish

import analyze
from analyze import plot
from analyze.comparison import Comparison
from analyze.reference import GUPTA_2022

RATIO = "path_overlap_ratio.ratio_mean"
TARGETS = {"gap_error": "gap in error", "test_error": "test error"}
MARKERS = {"AlexNet": "o", "ResNet-18": "s", "VGG-19": "^", "VGG-11": "v"}


def networks(run: Run) -> list[Path]:
    """Archives of all networks."""
    more = run.pick(quick={}, gallery=MORE, full=MORE)
    chosen = [(name, width(run, name)) for name in MAIN]
    chosen += [(name, one) for name, widths in more.items() for one in widths]
    paths = [record(run, name, one, run.seed) for name, one in chosen]
    for path in paths:
        names = ["path_overlap_ratio", "generalization"]
        analyze.run(path, names, output=path.with_suffix(".analysis"))
    return paths


def pearson(comparison: Comparison, target: str) -> np.ndarray:
    """Correlation and both ends of its interval."""
    cell = comparison.correlations.sel(measure=RATIO, target=target, statistic="pearson")
    return np.array([float(cell[end]) for end in ("value", "low", "high")])


def draw(comparison: Comparison) -> Figure:
    drawing = canvas(2.6)
    panels = drawing.subplots(1, len(TARGETS), sharex=True)
    table = comparison.table
    for panel, (target, label) in zip(panels, TARGETS.items(), strict=True):
        for (name, marker), color in zip(MARKERS.items(), plot.PALETTE, strict=False):
            mine = table[table["network"] == name].sort_values("width")
            x, y = mine[RATIO], 100 * mine[target]
            panel.scatter(x, y, marker=marker, color=color, s=22, label=name)
            for at in zip(x, y, mine["width"], strict=True):
                panel.annotate(at[2], at[:2], xytext=(3, 3), textcoords="offset points", fontsize=6)
        value = pearson(comparison, target)[0]
        panel.set(xlabel="early-to-mid ratio of path similarity", ylabel=f"{label} (points)")
        panel.set_title(f"Pearson {value:.2f}".replace("-", "−"))
    panels[0].legend()
    return drawing


@figure(GUPTA_2022)
def main(run: Run) -> None:
    paths = networks(run)
    against = list(TARGETS)
    comparison = analyze.compare(paths, measures=[RATIO], against=against, axes=["network", "width"])
    numbers: dict[str, float | str] = {}
    checks: dict[str, bool | None] = {}
    for target, label in TARGETS.items():
        value, low, high = pearson(comparison, target)
        numbers[f"Pearson correlation of the ratio with the {label}"] = (
            f"{value:.2f} ({low:.2f} to {high:.2f})"
        )
        clear = value <= -0.7 and high < 0
        checks[f"a higher ratio goes with a lower {label}, roughly linearly"] = (
            None if len(paths) < 6 else clear
        )
    training = comparison.table["test_error"] - comparison.table["gap_error"]
    numbers["Pearson correlation of the ratio with the training error"] = training.corr(
        comparison.table[RATIO]
    )
    numbers["networks"] = len(paths)
    ratio = comparison.table[RATIO]
    numbers["range of the ratio"] = f"{ratio.min():.2f} to {ratio.max():.2f}"
    for target, label in TARGETS.items():
        values = comparison.table[target]
        numbers[f"range of the {label}"] = f"{values.min():.2f} to {values.max():.2f}"
    train, test, epochs = size(run)
    settings = {
        "data": f"CIFAR-10, {train} training and {test} test examples",
        "networks": ", ".join(path.stem.rpartition("-")[0] for path in paths) + " (the last number: width)",
        "training": f"SGD, rate 0.05, falling after {epochs // 2} and {3 * epochs // 4} of {epochs} epochs",
        "seed": run.seed,
    }
    finish(run, draw(comparison), numbers, checks, settings)


if __name__ == "__main__":
    main()
