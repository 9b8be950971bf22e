"""Cross similarity of paths and activations in AlexNet (Gupta 2022, Figure 1).

Claim: which units two images have in common (both on), and with which activations, is not the same from one epoch to
the next: for most of training the cosine of what they share now and one epoch ago is clearly below 1, so that images
meet in different features at different times.

Here: AlexNet of a quarter of the width on 10,000 CIFAR-10 images (the paper: 50,000), fourth and first ReLU, all pairs
of 128 training images. The learning rate falls tenfold twice (dotted), as is usual; the paper's schedule is in an
appendix that we have not seen. A network that stands still has a similarity of 1 whatever its images do, so the same
networks were also trained at a constant learning rate (dashed), without the rise that a smaller rate makes by itself.

Verdict: for paths and activations at both layers, by the mean over pairs at each epoch. Not perfect for most of
training: 1 less the median over epochs; 0.05 matters. Rises: the last quarter of the epochs less the first; 0.05
matters. Rises at a constant rate: likewise.
"""

import numpy as np
from imagefunction_study import SEEN, decays, distribution, milestones, quarters, record, settings, width
from matplotlib.figure import Figure
from shared import Check, Result, Run, canvas, figure, finish, spread

import analyze
from analyze.reference import GUPTA_2022

METRICS = {"path_cross_similarity": "paths", "activation_cross_similarity": "activations"}
LAYERS = (4, 1)  # the k-th ReLU


def measure(run: Run, falls: bool, seed: int) -> Result:
    """Mean (epoch,) and histogram over pairs, by metric and layer."""
    path = record(run, "AlexNet", width(run, "AlexNet"), seed, falls)
    results = analyze.run(path, list(METRICS), output=path.with_suffix(".analysis"))
    found = {}
    for name, word in METRICS.items():
        for layer in LAYERS:
            one = results[name].sel(probe="train").isel(site=layer - 1, step=slice(1, None))
            parts = {part: one[part].values for part in ("mean", "histogram")}
            found[f"{word}, layer {layer}"] = parts
    return found


def draw(run: Run, found: list[Result], constant: list[Result]) -> Figure:
    """Distribution of the first seed; the mean at a constant rate is dashed."""
    drawing = canvas(3.6)
    axes = drawing.subplots(2, 2, sharex=True, sharey=True)
    for panel, name in zip(axes.T.ravel(), found[0], strict=True):
        image = distribution(panel, **found[0][name])
        mean = np.mean([one[name]["mean"] for one in constant], axis=0)
        panel.plot(
            np.arange(1, len(mean) + 1), mean, "--", color="0.35", label="mean, constant rate, all seeds"
        )
        decays(panel, run)
        panel.set_title(name)
    for panel in axes[-1]:
        panel.set_xlabel("epoch")
    for panel in axes[:, 0]:
        panel.set_ylabel("similarity to one epoch ago")
    axes[0, 0].legend(loc="lower right")
    drawing.colorbar(image, ax=axes, label="pairs of images (%)", shrink=0.7, extend="max")
    return drawing


@figure(GUPTA_2022)
def main(run: Run) -> None:
    runs = {falls: run.each(measure, falls) for falls in (True, False)}
    fall = milestones(run)[0]
    numbers, checks = {}, []
    for name in runs[True][0]:
        means = {falls: np.array([one[name]["mean"] for one in found]) for falls, found in runs.items()}
        ends = {falls: quarters(values) for falls, values in means.items()}
        numbers |= {
            f"{name}: first and last quarter of the epochs": f"{spread(ends[True][0])}, {spread(ends[True][1])}",
            f"{name}: the same at a constant rate": f"{spread(ends[False][0])}, {spread(ends[False][1])}",
            f"{name}: last epoch before the learning rate falls, and first after": (
                f"{spread(means[True][:, fall - 1])}, {spread(means[True][:, fall])}"
            ),
        }
        checks += [
            Check(f"{name}: not perfect for most of training", 1 - np.median(means[True], 1), 0.05),
            Check(f"{name}: rises", ends[True][1] - ends[True][0], 0.05),
            Check(f"{name}: rises at a constant rate", ends[False][1] - ends[False][0], 0.05),
        ]
    about = {**settings(run, "AlexNet"), "pairs": SEEN * (SEEN - 1) // 2}
    finish(run, draw(run, runs[True], runs[False]), numbers, checks, about)


if __name__ == "__main__":
    main()
