"""Cross similarity of paths and activations in AlexNet (Gupta 2022, Figure 1).

Claim: which units two images have in common (both on), and with which activations, is not the same from one epoch to
the next: for most of training the cosine of what they share now and one epoch ago is clearly below 1, so that images
meet in different features at different times.

Here: AlexNet of a quarter of the width on 2,000 CIFAR-10 images (the paper: 50,000), fourth and first ReLU, all pairs
of 128 training images. The learning rate falls tenfold twice (dotted), as is usual; the paper's schedule is in an
appendix that we have not seen. A network that stands still has a similarity of 1 whatever its images do, so the step
of the similarity at the first fall of the learning rate is given too.

Verdict: for paths and activations at both layers, mean over pairs and seeds: below 0.95 in at least half of the epochs
("not perfect for most of training"); and higher in the last quarter of the epochs than in the first.
"""

import numpy as np
import xarray as xr
from imagefunction_study import SEEN, decays, distribution, quarters, record, settings, size, width
from matplotlib.figure import Figure
from shared import Run, canvas, figure, finish, spread

import analyze
from analyze.reference import GUPTA_2022

METRICS = {"path_cross_similarity": "paths", "activation_cross_similarity": "activations"}
LAYERS = (4, 1)  # the k-th ReLU


def measure(run: Run, seed: int) -> dict[tuple[str, int], xr.Dataset]:
    """Distribution over pairs at every epoch, by metric and layer."""
    path = record(run, "AlexNet", width(run, "AlexNet"), seed)
    results = analyze.run(path, list(METRICS), output=path.with_suffix(".analysis"))
    return {
        (name, layer): results[name].sel(probe="train").isel(site=layer - 1)
        for name in METRICS
        for layer in LAYERS
    }


def draw(run: Run, found: dict[tuple[str, int], xr.Dataset]) -> Figure:
    drawing = canvas(3.6)
    axes = drawing.subplots(2, 2, sharex=True, sharey=True)
    for panel, (name, layer) in zip(axes.T.ravel(), found, strict=True):
        image = distribution(panel, found[name, layer])
        decays(panel, run)
        panel.set_title(f"{METRICS[name]}, layer {layer}")
    for panel in axes[-1]:
        panel.set_xlabel("epoch")
    for panel in axes[:, 0]:
        panel.set_ylabel("similarity to one epoch ago")
    axes[0, 0].legend(loc="lower right")
    drawing.colorbar(image, ax=axes, label="pairs of images (%)", shrink=0.7, extend="max")
    return drawing


@figure(GUPTA_2022)
def main(run: Run) -> None:
    seeds = range(run.seed, run.seed + run.pick(quick=1, gallery=1, full=3))
    runs = [measure(run, seed) for seed in seeds]
    fall = size(run)[2] // 2
    numbers: dict[str, float | str] = {}
    checks = {}
    for name, layer in runs[0]:
        means = np.array([one[name, layer]["mean"].values for one in runs])
        ends = np.array([quarters(row) for row in means])
        mean = means.mean(axis=0)
        word = f"{METRICS[name]}, layer {layer}"
        numbers |= {
            f"{word}: first quarter of the epochs": spread(ends[:, 0]),
            f"{word}: last quarter": spread(ends[:, 1]),
            f"{word}: last epoch before the learning rate falls, and first after": (
                f"{mean[fall]:.2f}, {mean[fall + 1]:.2f}"
            ),
        }
        checks |= {
            f"{word}: below 0.95 in most epochs": np.mean(mean[1:] < 0.95) >= 0.5,
            f"{word}: rises": ends[:, 1].mean() > ends[:, 0].mean(),
        }
    about = {
        **settings(run, "AlexNet"),
        "seeds": f"{seeds.start} to {seeds.stop - 1}",
        "pairs": SEEN * (SEEN - 1) // 2,
    }
    finish(run, draw(run, runs[0]), numbers, checks, about)


if __name__ == "__main__":
    main()
