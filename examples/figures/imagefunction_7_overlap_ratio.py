"""Early-to-mid ratio of path similarity and generalization (Gupta 2022, Figure 7).

Claim: over several networks, the ratio of the mean cross path similarity before the learning rate first falls to that
between its first and second fall has a roughly linear relation to the generalization error.

Here: AlexNet, ResNet-18, VGG-19 and VGG-11 of several widths, all narrower than the originals, on 10,000 CIFAR-10
images (the paper: 50,000) with one schedule; pairs of 128 training images, mean over all ReLUs. The paper does not
say which networks it has, or which generalization error: ours are the gap and the test error. Networks that have not
learned have no gap; those with a training error above one tenth are left out.

Verdict: the paper expects much similarity early and little later to go with good generalization, so a higher ratio
with a lower error: Pearson's correlation over the networks of one seed, turned round, with the gap in error, and with
the test error; 0.7 matters. Undefined at seeds at which fewer than five networks have learned.
"""

import numpy as np
from imagefunction_study import MAIN, MORE, record, size, width
from matplotlib.figure import Figure
from shared import Check, Result, Run, canvas, figure, finish, spread

import analyze
from analyze import plot
from analyze.reference import GUPTA_2022

TARGETS = {"gap": "gap in error", "test": "test error"}
MARKERS = {"AlexNet": "o", "ResNet-18": "s", "VGG-19": "^", "VGG-11": "v"}
LEARNED, FEWEST = 0.1, 5


def networks(run: Run) -> list[tuple[str, int]]:
    """Names and widths."""
    more = run.pick(quick={}, gallery=MORE, full=MORE)
    return [(name, width(run, name)) for name in MAIN] + [
        (n, one) for n, widths in more.items() for one in widths
    ]


def measure(run: Run, name: str, units: int, seed: int) -> Result:
    """Ratio and errors of one network."""
    path = record(run, name, units, seed)
    results = analyze.run(path, ["path_overlap_ratio", "generalization"], output=path.with_suffix(".ratio"))
    error = results["generalization"]["error"].isel(step=-1)
    train, test = (float(error.sel(probe=split)) for split in ("train", "test"))
    ratio = float(results["path_overlap_ratio"]["ratio_mean"])
    return {"ratio": ratio, "train": train, "test": test, "gap": test - train}


def correlation(table: dict[str, np.ndarray], target: str) -> np.ndarray:
    """Pearson's correlation (seed,) of ratio and target over the networks that learned; arrays are (network, seed)."""
    values = []
    for ratio, other, train in zip(table["ratio"].T, table[target].T, table["train"].T, strict=True):
        use = (train <= LEARNED) & np.isfinite(ratio)
        values.append(np.corrcoef(ratio[use], other[use])[0, 1] if use.sum() >= FEWEST else np.nan)
    return np.array(values)


def draw(chosen: list[tuple[str, int]], table: dict[str, np.ndarray]) -> Figure:
    """All seeds; networks that have not learned are hollow."""
    drawing = canvas(2.6)
    panels = drawing.subplots(1, len(TARGETS), sharex=True)
    for panel, (target, label) in zip(panels, TARGETS.items(), strict=True):
        for (name, marker), color in zip(MARKERS.items(), plot.PALETTE, strict=False):
            mine = [k for k, (other, _) in enumerate(chosen) if other == name]
            x, y = table["ratio"][mine].ravel(), 100 * table[target][mine].ravel()
            learned = table["train"][mine].ravel() <= LEARNED
            style = {"marker": marker, "edgecolors": color, "linewidths": 0.8, "s": 14}
            panel.scatter(x[learned], y[learned], facecolors=color, label=name, **style)
            panel.scatter(x[~learned], y[~learned], facecolors="none", **style)
        panel.set(xlabel="early-to-mid ratio of path similarity", ylabel=f"{label} (points)")
    panels[0].legend()
    return drawing


@figure(GUPTA_2022)
def main(run: Run) -> None:
    chosen = networks(run)
    runs = [run.each(measure, *one) for one in chosen]
    table = {name: np.array([[each[name] for each in seeds] for seeds in runs]) for name in runs[0][0]}
    learned = table["train"] <= LEARNED
    found = {target: correlation(table, target) for target in TARGETS}
    numbers = {f"Pearson correlation of the ratio with the {TARGETS[t]}": spread(v) for t, v in found.items()}
    numbers |= {
        "networks that learned, of all, all seeds": f"{learned.sum()} of {learned.size}",
        "range of the ratio": f"{np.nanmin(table['ratio']):.2f} to {np.nanmax(table['ratio']):.2f}",
    }
    for target, label in TARGETS.items():
        numbers[f"range of the {label}"] = f"{table[target].min():.2f} to {table[target].max():.2f}"
    checks = [
        Check(
            f"a higher ratio goes with a lower {label}, roughly linearly",
            -found[target],
            0.7,
            "of correlation",
        )
        for target, label in TARGETS.items()
    ]
    train, test, epochs = size(run)
    settings = {
        "data": f"CIFAR-10, {train} training and {test} test examples",
        "networks": ", ".join(f"{name}-{units}" for name, units in chosen) + " (the number: width)",
        "training": f"SGD, rate 0.05, falling after {epochs // 2} and {3 * epochs // 4} of {epochs} epochs",
    }
    finish(run, draw(chosen, table), numbers, checks, settings)


if __name__ == "__main__":
    main()
