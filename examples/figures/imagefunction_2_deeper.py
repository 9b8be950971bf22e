"""Cross similarity of paths in ResNet-18 and VGG-19 (Gupta 2022, Figures 2, 3 and 16).

Claim: in deeper networks, too, the units that two images share are not the same from one epoch to the next until late
in training; in ResNet-18 they are more alike than in AlexNet.

Here: ResNet-18 and VGG-19 of an eighth of the width on 2,000 CIFAR-10 images (the paper: 50,000), sixth and second
ReLU, all pairs of 128 training images; beside them the AlexNet of Figure 1. Figure 3, ResNet-18 on ImageNet, needs
data that are not at hand and is left out.

Verdict: for both networks and layers, mean over pairs: below 0.95 in at least half of the epochs; higher in the last
quarter of the epochs than in the first; and over all sites and epochs, ResNet-18 has a higher mean than AlexNet.
"""

import numpy as np
import xarray as xr
from imagefunction_study import SEEN, decays, distribution, quarters, record, settings, width
from matplotlib.figure import Figure
from shared import Run, canvas, figure, finish

import analyze
from analyze.reference import GUPTA_2022

NETWORKS = ("ResNet-18", "VGG-19")
LAYERS = (6, 2)  # the k-th ReLU


def measure(run: Run, name: str) -> xr.Dataset:
    """Distribution over pairs at every site and epoch."""
    path = record(run, name, width(run, name), run.seed)
    results = analyze.run(path, ["path_cross_similarity"], output=path.with_suffix(".analysis"))
    return results["path_cross_similarity"].sel(probe="train")


def draw(run: Run, found: dict[str, xr.Dataset]) -> Figure:
    drawing = canvas(3.6)
    axes = drawing.subplots(len(LAYERS), len(NETWORKS), sharex=True, sharey=True)
    for column, name in zip(axes.T, NETWORKS, strict=True):
        for panel, layer in zip(column, LAYERS, strict=True):
            image = distribution(panel, found[name].isel(site=layer - 1))
            decays(panel, run)
            panel.set_title(f"{name}, layer {layer}")
        column[-1].set_xlabel("epoch")
    for panel in axes[:, 0]:
        panel.set_ylabel("similarity to one epoch ago")
    axes[0, 0].legend(loc="lower right")
    drawing.colorbar(image, ax=axes, label="pairs of images (%)", shrink=0.7, extend="max")
    return drawing


@figure(GUPTA_2022)
def main(run: Run) -> None:
    found = {name: measure(run, name) for name in ("AlexNet", *NETWORKS)}
    numbers: dict[str, float] = {}
    checks = {}
    for name in NETWORKS:
        for layer in LAYERS:
            mean = found[name]["mean"].isel(site=layer - 1).values
            first, last = quarters(mean)
            word = f"{name}, layer {layer}"
            numbers |= {f"{word}: first quarter of the epochs": first, f"{word}: last quarter": last}
            checks |= {
                f"{word}: below 0.95 in most epochs": np.mean(mean[1:] < 0.95) >= 0.5,
                f"{word}: rises": last > first,
            }
    whole = {name: float(one["mean"].isel(step=slice(1, None)).mean()) for name, one in found.items()}
    numbers |= {f"{name}: mean over sites and epochs": value for name, value in whole.items()}
    checks["ResNet-18 is more alike than AlexNet"] = whole["ResNet-18"] > whole["AlexNet"]
    about = {**settings(run, *found), "seed": run.seed, "pairs": SEEN * (SEEN - 1) // 2}
    finish(run, draw(run, found), numbers, checks, about)


if __name__ == "__main__":
    main()
