"""The most similar images change during training (Gupta 2022, Figure 6 and Appendix E).

Claim: the images whose paths have most in common with that of a given image are not the same throughout training,
unlike nearest neighbours in a fixed space; and so it is by the similarity of activations.

Here: AlexNet of a quarter of the width on 10,000 CIFAR-10 images (the paper: 50,000). Around the images at positions 5,
10 and 15 of 128 training images, the other 127 are ranked epoch by epoch: by the number of units that are on for both
at the second ReLU, and by the cosine of their activations at the fourth and second. One line an image that is ever
among the six nearest; where lines end they leave the six. In a fixed space nothing would ever change.

Verdict: by each of the three rankings, mean over the three images. The nearest image changes: how often, from one epoch
to the next, after the first; once matters. The six nearest are exchanged: the median over epochs of the share that is;
a tenth matters.
"""

import numpy as np
from imagefunction_study import SEEN, decays, quarters, record, settings, width
from matplotlib.figure import Figure
from shared import Check, Result, Run, canvas, figure, finish, spread

import analyze
from analyze import plot
from analyze.reference import GUPTA_2022

RANKINGS = {
    "paths, layer 2": ("path", 2),
    "activations, layer 4": ("activation", 4),
    "activations, layer 2": ("activation", 2),
}
TOP = 6


def measure(run: Run, seed: int) -> Result:
    """By ranking: ranks (step, baseline, example), and the share exchanged (step,)."""
    path = record(run, "AlexNet", width(run, "AlexNet"), seed)
    found: Result = {}
    for name, (kind, layer) in RANKINGS.items():
        options = {"path_neighbours": {"kind": kind}}
        results = analyze.run(path, ["path_neighbours"], options=options, output=path.with_suffix(f".{kind}"))
        one = results["path_neighbours"].isel(site=layer - 1, step=slice(1, None))
        found[name] = {"rank": one["rank"].values, "turnover": one["turnover"].values[1:]}
        found["baseline"] = one["baseline"].values
    return found


def changes(rank: np.ndarray) -> float:
    """After how many epochs another image is nearest, mean over the baselines."""
    nearest = (rank == 0).argmax(-1)
    return float((np.diff(nearest, axis=0) != 0).sum(0).mean())


def draw(run: Run, found: Result) -> Figure:
    """The first seed: all three images by path, and the first of them by activation."""
    drawing = canvas(2.4)
    cells = [("paths, layer 2", k) for k in range(len(found["baseline"]))] + [("activations, layer 4", 0)]
    panels = drawing.subplots(1, len(cells), sharey=True, sharex=True)
    for panel, (name, k) in zip(panels, cells, strict=True):
        rank = found[name]["rank"][:, k]
        near = (rank >= 0) & (rank < TOP)
        # Those nearest most often first, so that they have colours of their own.
        for n, example in enumerate(np.argsort(-near.sum(0), kind="stable")[: near.any(0).sum()]):
            color = plot.PALETTE[n] if n < len(plot.PALETTE) else "0.75"
            shown = np.where(near[:, example], rank[:, example], np.nan)
            style = {"markersize": 2.5, "linewidth": 1.0, "color": color, "zorder": 3 if n < 7 else 1}
            panel.plot(np.arange(1, len(shown) + 1), shown, "o-", **style)
        decays(panel, run)
        title = f"image {found['baseline'][k]}, {name}"
        panel.set(title=title, xlabel="epoch", ylim=(TOP - 0.5, -0.5), yticks=range(TOP))
    panels[0].set_ylabel("rank (0 = most alike)")
    return drawing


@figure(GUPTA_2022)
def main(run: Run) -> None:
    runs = run.each(measure)
    numbers, checks = {}, []
    for name in RANKINGS:
        moved = np.array([changes(one[name]["rank"]) for one in runs])
        turnover = np.array([one[name]["turnover"] for one in runs])
        near = [(one[name]["rank"] >= 0) & (one[name]["rank"] < TOP) for one in runs]
        first, last = quarters(turnover)
        numbers |= {
            f"{name}: images ever among the six nearest": spread(
                [each.any(0).sum(-1).mean() for each in near], 1
            ),
            f"{name}: share of the six exchanged in an epoch, first quarter of the epochs": spread(first),
            f"{name}: the same, last quarter": spread(last),
        }
        checks += [
            Check(f"{name}: the nearest image changes", moved, 1.0, "times"),
            Check(
                f"{name}: the six nearest are exchanged in most epochs",
                np.nanmedian(turnover, 1),
                0.1,
                "of six",
            ),
        ]
    about = {
        **settings(run, "AlexNet"),
        "images": SEEN,
        "epochs compared": runs[0][name]["rank"].shape[0],
    }
    finish(run, draw(run, runs[0]), numbers, checks, about)


if __name__ == "__main__":
    main()
