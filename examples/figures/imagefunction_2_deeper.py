"""Cross similarity of paths in ResNet-18 and VGG-19 (Gupta 2022, Figures 2, 3 and 16).

Claim: in deeper networks, too, the units that two images share are not the same from one epoch to the next until late
in training; in ResNet-18 they are more alike than in AlexNet.

Here: ResNet-18 and VGG-19 of an eighth of the width on 10,000 CIFAR-10 images (the paper: 50,000), sixth and second
ReLU, all pairs of 128 training images; beside them the AlexNet of Figure 1. Figure 3, ResNet-18 on ImageNet, needs
data that are not at hand and is left out. The same networks were trained at a constant learning rate too (dashed), so
that a rise is not what a smaller rate makes by itself.

Verdict: for both networks and layers, by the mean over pairs at each epoch. Not perfect for most of training: 1 less
the median over epochs; 0.05 matters. Rises: the last quarter of the epochs less the first; 0.05 matters; and likewise
at a constant rate. More alike: over all sites and epochs, ResNet-18 less AlexNet; 0.02 matters.
"""

import numpy as np
from imagefunction_study import SEEN, decays, distribution, quarters, record, settings, width
from matplotlib.figure import Figure
from shared import Check, Result, Run, canvas, figure, finish, spread

import analyze
from analyze.reference import GUPTA_2022

NETWORKS = ("ResNet-18", "VGG-19")
LAYERS = (6, 2)  # the k-th ReLU


def measure(run: Run, name: str, falls: bool, seed: int) -> Result:
    """Mean over sites and epochs; at both layers mean (epoch,) and histogram over pairs."""
    path = record(run, name, width(run, name), seed, falls)
    results = analyze.run(path, ["path_cross_similarity"], output=path.with_suffix(".paths"))
    one = results["path_cross_similarity"].sel(probe="train").isel(step=slice(1, None))
    found: Result = {"whole": float(one["mean"].mean())}
    for layer in LAYERS:
        found[f"layer {layer}"] = {
            part: one[part].isel(site=layer - 1).values for part in ("mean", "histogram")
        }
    return found


def draw(run: Run, found: dict[tuple[str, bool], list[Result]]) -> Figure:
    """Distribution of the first seed; the mean at a constant rate is dashed."""
    drawing = canvas(3.6)
    axes = drawing.subplots(len(LAYERS), len(NETWORKS), sharex=True, sharey=True)
    for column, name in zip(axes.T, NETWORKS, strict=True):
        for panel, layer in zip(column, LAYERS, strict=True):
            image = distribution(panel, **found[name, True][0][f"layer {layer}"])
            mean = np.mean([one[f"layer {layer}"]["mean"] for one in found[name, False]], axis=0)
            panel.plot(
                np.arange(1, len(mean) + 1), mean, "--", color="0.35", label="mean, constant rate, all seeds"
            )
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
    found = {(name, falls): run.each(measure, name, falls) for name in NETWORKS for falls in (True, False)}
    numbers, checks = {}, []
    for name in NETWORKS:
        for layer in LAYERS:
            means = {
                f: np.array([one[f"layer {layer}"]["mean"] for one in found[name, f]]) for f in (True, False)
            }
            ends = {falls: quarters(values) for falls, values in means.items()}
            word = f"{name}, layer {layer}"
            numbers |= {
                f"{word}: first and last quarter of the epochs": f"{spread(ends[True][0])}, {spread(ends[True][1])}",
                f"{word}: the same at a constant rate": f"{spread(ends[False][0])}, {spread(ends[False][1])}",
            }
            checks += [
                Check(f"{word}: not perfect for most of training", 1 - np.median(means[True], 1), 0.05),
                Check(f"{word}: rises", ends[True][1] - ends[True][0], 0.05),
                Check(f"{word}: rises at a constant rate", ends[False][1] - ends[False][0], 0.05),
            ]
    alexnet = run.each(measure, "AlexNet", True)
    whole = {name: np.array([one["whole"] for one in found[name, True]]) for name in NETWORKS}
    whole["AlexNet"] = np.array([one["whole"] for one in alexnet])
    numbers |= {f"{name}: mean over sites and epochs": spread(values) for name, values in whole.items()}
    checks.append(Check("ResNet-18 is more alike than AlexNet", whole["ResNet-18"] - whole["AlexNet"], 0.02))
    about = {**settings(run, *whole), "pairs": SEEN * (SEEN - 1) // 2}
    finish(run, draw(run, found), numbers, checks, about)


if __name__ == "__main__":
    main()
