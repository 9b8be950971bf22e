"""The most similar images change during training (Gupta 2022, Figure 6).

Claim: the images whose paths have most in common with that of a given image are not the same throughout training,
unlike nearest neighbours in a fixed space.

Here: AlexNet of a quarter of the width on 2,000 CIFAR-10 images (the paper: 50,000), second ReLU. Around the images
at positions 5, 10 and 15 of 128 training images, the other 127 are ranked by the number of units that are on for
both, epoch by epoch. One line an image that is ever among the six nearest; where lines end they leave the six.

Verdict: for each of the three images: the nearest image changes at least once after the first epoch; and, mean over
the three, at least a tenth of the six nearest are exchanged from one epoch to the next in most epochs.
"""

import numpy as np
import xarray as xr
from imagefunction_study import SEEN, decays, quarters, record, settings, width
from matplotlib.figure import Figure
from shared import Run, canvas, figure, finish

import analyze
from analyze import plot
from analyze.reference import GUPTA_2022

LAYER, TOP = 2, 6


def measure(run: Run) -> xr.Dataset:
    """Ranks (step, baseline, example), and the share exchanged (step,)."""
    path = record(run, "AlexNet", width(run, "AlexNet"), run.seed)
    results = analyze.run(path, ["path_neighbours"], output=path.with_suffix(".analysis"))
    return results["path_neighbours"].isel(site=LAYER - 1)


def draw(run: Run, found: xr.Dataset) -> Figure:
    drawing = canvas(2.4)
    panels = drawing.subplots(1, found.sizes["baseline"], sharey=True, sharex=True)
    for panel, baseline in zip(panels, found["baseline"].values, strict=True):
        rank = found["rank"].sel(baseline=baseline).values
        near = (rank >= 0) & (rank < TOP)
        # Those nearest most often first, so that they have colours of their own.
        for n, example in enumerate(np.argsort(-near.sum(0), kind="stable")[: near.any(0).sum()]):
            color = plot.PALETTE[n] if n < len(plot.PALETTE) else "0.75"
            shown = np.where(near[:, example], rank[:, example], np.nan)
            style = {"markersize": 2.5, "linewidth": 1.0, "color": color, "zorder": 3 if n < 7 else 1}
            panel.plot(np.arange(len(shown)), shown, "o-", **style)
        decays(panel, run)
        panel.set(title=f"around image {baseline}", xlabel="epoch", ylim=(TOP - 0.5, -0.5), yticks=range(TOP))
    panels[0].set_ylabel("rank (0 = most in common)")
    return drawing


@figure(GUPTA_2022)
def main(run: Run) -> None:
    found = measure(run)
    numbers: dict[str, float] = {}
    checks = {}
    for baseline in found["baseline"].values:
        rank = found["rank"].sel(baseline=baseline).values[1:]
        nearest = (rank == 0).argmax(1)
        ever = int(((rank >= 0) & (rank < TOP)).any(0).sum())
        numbers |= {
            f"image {baseline}: epochs after which another image is nearest": int(
                (np.diff(nearest) != 0).sum()
            ),
            f"image {baseline}: images ever among the six nearest": ever,
        }
        checks[f"image {baseline}: the nearest image changes"] = len(np.unique(nearest)) > 1
    turnover = found["turnover"].values
    first, last = quarters(turnover)
    numbers |= {
        "share of the six exchanged in an epoch, first quarter of the epochs": first,
        "the same, last quarter": last,
    }
    checks["a tenth of the six is exchanged in most epochs"] = np.mean(turnover[2:] >= 0.1) > 0.5
    about = {**settings(run, "AlexNet"), "seed": run.seed, "images": SEEN, "layer": LAYER}
    finish(run, draw(run, found), numbers, checks, about)


if __name__ == "__main__":
    main()
