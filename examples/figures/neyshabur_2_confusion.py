"""Measures of capacity with confusion sets (Neyshabur et al. 2017; Bruckner 2019, Figures 3 and 4).

Claim: networks that fit the same true examples and, besides, a confusion set of examples with random labels
generalize the worse the larger that set is, although all fit their training set; the four norms over the
margin grow along with the test error. Sharpness does not follow it. Bruckner saw the test error rise, but
not the measures.

Here: 400 images of CIFAR-10 with their own labels (the paper: 10,000), up to 400 more with random ones, and
a small convolutional network in place of VGG, all trained to nearly the same loss. More examples raise the
norms by themselves, as the figure of random labels shows for true ones.

Verdict: over the seeds; something rises where its slope over the sizes of the set is above 0 by more than
two standard errors. Fitted: training errors are below 1 % (else nothing can be told). The test error rises.
Each norm rises. Sharpness does not.
"""

from functools import partial

import numpy as np
from capacity_runs import NORMS, SETTINGS, lines, measure, network, record, rises, table
from matplotlib.figure import Figure
from shared import Run, canvas, figure, finish, load, spread

from analyze import plot
from analyze.reference import BRUCKNER_2019, NEYSHABUR_2017


def one(run: Run, true: int, confusion: int, seed: int) -> dict[str, float]:
    """Measures of one network."""
    data = load("cifar10", run.data, true, 1000, seed, confusion=confusion)
    name = f"cifar10_{true}+{confusion}_{seed}" if confusion else f"cifar10_{true}_true_{seed}"
    return measure(record(run, name, partial(network, run), data, seed))


def draw(sizes: tuple[int, ...], found: dict[str, np.ndarray]) -> Figure:
    """Errors; norms as multiples of what they are without a confusion set; sharpness."""
    drawing = canvas(2.3)
    axes = drawing.subplots(1, 3)
    for split, style in (("test error", "-"), ("train error", ":")):
        lines(axes[0], sizes, found[split], color=plot.PALETTE[5], linestyle=style, label=split)
    for k, (name, title) in enumerate(NORMS.items()):
        lines(axes[1], sizes, found[name] - found[name][:1], color=plot.PALETTE[k], label=title)
    lines(axes[2], sizes, found["sharpness"], color=plot.PALETTE[4])
    axes[0].set(ylabel="error", ylim=(-0.03, 1))
    axes[1].set(ylabel="log₁₀(norm / γ²), growth")
    axes[2].set(ylabel="sharpness", ylim=(0, None))
    for panel in axes:
        panel.set_xlabel("images in the confusion set")
    plot.legend(axes[0])
    plot.legend(axes[1])
    return drawing


@figure(NEYSHABUR_2017, BRUCKNER_2019)
def main(run: Run) -> None:
    true, sizes = run.pick(
        quick=(60, (0, 40)), gallery=(400, (0, 200, 400)), full=(6000, (0, 1000, 2000, 4000))
    )
    seeds = range(run.seed, run.seed + run.pick(quick=2, gallery=3, full=3))
    found = table([[one(run, true, size, seed) for seed in seeds] for size in sizes])
    fitted = found["train error"].mean(1).max() < 0.01
    numbers, slope = {}, {}
    for name, title in {"test error": "test error", **NORMS, "sharpness": "sharpness"}.items():
        slope[name] = rises(found[name])
        pair = f"{spread(found[name][0], 3)}, {spread(found[name][-1], 3)}"
        numbers[f"{title}{' (log₁₀)' if name in NORMS else ''}, {sizes[0]} and {sizes[-1]} confused"] = pair
        numbers[f"{title}, slope in standard errors"] = f"{slope[name]:+.1f}"
    numbers["largest training error"] = float(found["train error"].mean(1).max())
    checks = {"the test error rises with the confusion set": slope["test error"] > 2 if fitted else None}
    checks |= {f"{title} rises": slope[name] > 2 if fitted else None for name, title in NORMS.items()}
    checks["sharpness does not rise"] = not slope["sharpness"] > 2 if fitted else None
    settings = {
        "data": f"CIFAR-10, {true} images and a confusion set of {', '.join(map(str, sizes))}; 1,000 test images",
        "network": "VGG-16" if run.scale == "full" else "as in neyshabur_1_random_labels",
        **SETTINGS,
        "seeds": f"{seeds.start} to {seeds.stop - 1}",
    }
    finish(run, draw(sizes, found), numbers, checks, settings)


if __name__ == "__main__":
    main()
