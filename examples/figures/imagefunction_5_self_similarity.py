"""Self similarity of paths in AlexNet (Gupta 2022, Figure 5).

Claim: an image does not keep its path: above all at the beginning of training, the cosine of the units it switches on
now and one epoch ago is below 1.

Here: AlexNet of a quarter of the width on 2,000 CIFAR-10 images (the paper: 50,000), fourth and first ReLU, 128
training images. As a control, the same for unrelated images: the cosine that the paths of two different images have
at one time, which is what would be left of the similarity if a path said nothing about its image.

Verdict: at both layers, mean over images and seeds: below 0.95 in the first quarter of the epochs; higher in the last
quarter; and always above the cosine of different images, so that the path remains that of its image.
"""

import numpy as np
import xarray as xr
from imagefunction_study import SEEN, decays, distribution, quarters, record, settings, width
from matplotlib.figure import Figure
from shared import Run, canvas, figure, finish, spread

import analyze
from analyze.reference import GUPTA_2022

LAYERS = (4, 1)  # the k-th ReLU
BINS = 50


def measure(run: Run, seed: int) -> dict[int, xr.Dataset]:
    """Distribution over images at every epoch, and the cosine of different images, by layer."""
    path = record(run, "AlexNet", width(run, "AlexNet"), seed)
    options = {"path_distance": {"normalized": True}}
    names = ["path_self_similarity", "path_distance"]
    results = analyze.run(path, names, options=options, output=path.with_suffix(".normalized"))
    found = {}
    for layer in LAYERS:
        one = results["path_self_similarity"].sel(probe="train").isel(site=layer - 1)
        counts = [np.histogram(row[~np.isnan(row)], BINS, (0, 1))[0] for row in one["similarity"].values]
        others = results["path_distance"]["overlap"].sel(probe="train").isel(site=layer - 1).mean("point")
        found[layer] = one.assign(histogram=(("step", "bin"), counts), others=("step", others.values))
    return found


def draw(run: Run, found: dict[int, xr.Dataset]) -> Figure:
    drawing = canvas(2.4)
    axes = drawing.subplots(1, 2, sharey=True)
    for panel, (layer, one) in zip(axes, found.items(), strict=True):
        image = distribution(panel, one)
        epochs = np.arange(1, one.sizes["step"])
        panel.plot(epochs, one["others"][1:], color="0.4", linestyle="--", label="two different images, mean")
        decays(panel, run)
        panel.set(title=f"layer {layer}", xlabel="epoch")
    axes[0].set_ylabel("similarity to one epoch ago")
    axes[0].legend(loc="lower right")
    drawing.colorbar(image, ax=axes, label="images (%)", shrink=0.9, extend="max")
    return drawing


@figure(GUPTA_2022)
def main(run: Run) -> None:
    seeds = range(run.seed, run.seed + run.pick(quick=1, gallery=1, full=3))
    runs = [measure(run, seed) for seed in seeds]
    numbers, checks = {}, {}
    for layer in LAYERS:
        ends = np.array([quarters(one[layer]["mean"]) for one in runs])
        others = np.array([float(one[layer]["others"][1:].mean()) for one in runs])
        above = [(one[layer]["mean"] > one[layer]["others"])[1:].all() for one in runs]
        numbers |= {
            f"layer {layer}: first quarter of the epochs": spread(ends[:, 0]),
            f"layer {layer}: last quarter": spread(ends[:, 1]),
            f"layer {layer}: two different images": spread(others),
        }
        checks |= {
            f"layer {layer}: below 0.95 early": ends[:, 0].mean() < 0.95,
            f"layer {layer}: rises": ends[:, 1].mean() > ends[:, 0].mean(),
            f"layer {layer}: above that of different images": bool(np.all(above)),
        }
    about = {**settings(run, "AlexNet"), "seeds": f"{seeds.start} to {seeds.stop - 1}", "images": SEEN}
    finish(run, draw(run, runs[0]), numbers, checks, about)


if __name__ == "__main__":
    main()
