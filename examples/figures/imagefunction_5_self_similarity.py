"""Self similarity of paths in AlexNet (Gupta 2022, Figure 5).

Claim: an image does not keep its path: above all at the beginning of training, the cosine of the units it switches on
now and one epoch ago is below 1.

Here: AlexNet of a quarter of the width on 10,000 CIFAR-10 images (the paper: 50,000), fourth and first ReLU, 128
training images. Two controls. Unrelated images: the cosine that the paths of two different images have
at one time, which is what would be left of the similarity if a path said nothing about its image. And the same networks
at a constant learning rate (dotted), without the rise that a smaller rate makes by itself.

Verdict: at both layers, by the mean over images. Not kept: 1 less the first quarter of the epochs; 0.05 matters. Above
all at first: the last quarter less the first; 0.05 matters; and likewise at a constant rate. Its own: the similarity
less that of different images, at the epoch where this is least; 0.05 matters.
"""

import numpy as np
from imagefunction_study import SEEN, decays, distribution, quarters, record, settings, width
from matplotlib.figure import Figure
from shared import Check, Result, Run, canvas, figure, finish, spread

import analyze
from analyze import plot
from analyze.reference import GUPTA_2022

LAYERS = (4, 1)  # the k-th ReLU
BINS = 50


def measure(run: Run, falls: bool, seed: int) -> Result:
    """By layer: mean (epoch,) and histogram over images, and the mean cosine of different images (epoch,)."""
    path = record(run, "AlexNet", width(run, "AlexNet"), seed, falls)
    options = {"path_distance": {"normalized": True}}
    names = ["path_self_similarity", "path_distance"]
    results = analyze.run(path, names, options=options, output=path.with_suffix(".normalized"))
    found = {}
    for layer in LAYERS:
        at = {"probe": "train"}, {"site": layer - 1, "step": slice(1, None)}
        one = results["path_self_similarity"].sel(at[0]).isel(at[1])
        others = results["path_distance"]["overlap"].sel(at[0]).isel(at[1]).mean("point")
        counts = [np.histogram(row[~np.isnan(row)], BINS, (0, 1))[0] for row in one["similarity"].values]
        found[f"layer {layer}"] = {
            "mean": one["mean"].values, "histogram": np.array(counts), "others": others.values
        }  # fmt: skip
    return found


def draw(run: Run, found: list[Result], constant: list[Result]) -> Figure:
    """Distribution of the first seed; other means are over all seeds."""
    drawing = canvas(2.4)
    axes = drawing.subplots(1, 2, sharey=True)
    for panel, name in zip(axes, found[0], strict=True):
        one = found[0][name]
        image = distribution(panel, one["mean"], one["histogram"])
        epochs = np.arange(1, len(one["mean"]) + 1)
        lines = {"two different images": (found, "others", "--"), "constant rate": (constant, "mean", ":")}
        for label, (runs, part, style) in lines.items():
            mean = np.mean([each[name][part] for each in runs], 0)
            panel.plot(epochs, mean, color="0.35", linestyle=style, label=f"{label}, mean")
        decays(panel, run)
        panel.set(title=name, xlabel="epoch")
    axes[0].set_ylabel("similarity to one epoch ago")
    plot.legend(axes[0])
    drawing.colorbar(image, ax=axes, label="images (%)", shrink=0.9, extend="max")
    return drawing


@figure(GUPTA_2022)
def main(run: Run) -> None:
    runs, constant = (run.each(measure, falls) for falls in (True, False))
    numbers, checks = {}, []
    for name in runs[0]:
        mean, still = (np.array([one[name]["mean"] for one in every]) for every in (runs, constant))
        others = np.array([one[name]["others"] for one in runs])
        (first, last), (first_still, last_still) = quarters(mean), quarters(still)
        numbers |= {
            f"{name}: first and last quarter of the epochs": f"{spread(first)}, {spread(last)}",
            f"{name}: the same at a constant rate": f"{spread(first_still)}, {spread(last_still)}",
            f"{name}: two different images": spread(others.mean(1)),
        }
        checks += [
            Check(f"{name}: not kept early", 1 - first, 0.05),
            Check(f"{name}: kept better late", last - first, 0.05),
            Check(f"{name}: kept better late at a constant rate", last_still - first_still, 0.05),
            Check(f"{name}: above that of different images", (mean - others).min(1), 0.05),
        ]
    about = {**settings(run, "AlexNet"), "images": SEEN}
    finish(run, draw(run, runs, constant), numbers, checks, about)


if __name__ == "__main__":
    main()
