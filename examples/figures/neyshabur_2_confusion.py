"""Measures of capacity with confusion sets (Neyshabur et al. 2017; Bruckner 2019, Figures 3 and 4).

Claim: networks that fit the same true examples and, besides, a confusion set of examples with random labels
generalize the worse the larger that set is, although all fit their training set; the four norms over the
margin grow along with the test error. Sharpness does not follow it. Bruckner saw the test error rise, but
not the measures.

Here: 3,000 images of CIFAR-10 with their own labels (the paper: 10,000), up to 3,000 more with random ones, and
a small convolutional network in place of VGG, all trained to nearly the same loss. More examples raise the
norms by themselves. As a control, other networks are trained on as many images that all have their own labels: what
the norms rise with a confusion set beyond that is due to its labels.

Verdict: of networks that fit, with a training error below 1 %; with the largest confusion set less without one, at the
same seed. The test error rises; 0.02 matters. Each norm rises, by its logarithm (base 10); 0.1 matters (a quarter).
Each is also larger than with as many true images, by 0.1. Sharpness does not rise by more than 0.02.
"""

from functools import partial

import numpy as np
from capacity_runs import NORMS, SETTINGS, SHARPER, lines, measure, network, record, table
from matplotlib.figure import Figure
from shared import Check, Result, Run, canvas, figure, finish, load, spread

from analyze import plot
from analyze.reference import BRUCKNER_2019, NEYSHABUR_2017


def one(run: Run, true: int, confusion: int, seed: int) -> Result:
    """Measures of one network."""
    data = load("cifar10", run.data, true, 1000, seed, confusion=confusion)
    name = f"cifar10_{true}+{confusion}_{seed}" if confusion else f"cifar10_{true}_true_{seed}"
    return measure(record(run, name, partial(network, run), data, seed))


def draw(sizes: tuple[int, ...], found: dict[str, np.ndarray], plain: dict[str, np.ndarray]) -> Figure:
    """Errors; norms as multiples of what they are without more images; sharpness. Dashed: all labels true."""
    drawing = canvas(2.5)
    axes = drawing.subplots(1, 3)
    for split, style in (("test error", "-"), ("train error", ":")):
        lines(axes[0], sizes, found[split], color=plot.PALETTE[5], linestyle=style, label=split)
    lines(
        axes[0],
        sizes,
        plain["test error"],
        color=plot.PALETTE[5],
        linestyle="--",
        label="test, all labels true",
    )
    for k, (name, title) in enumerate(NORMS.items()):
        lines(axes[1], sizes, found[name] - found[name][:1], color=plot.PALETTE[k], label=title)
        axes[1].plot(sizes, np.nanmean(plain[name] - plain[name][:1], 1), "--", color=plot.PALETTE[k])
    lines(axes[2], sizes, found["sharpness"], color=plot.PALETTE[4], label="random labels")
    lines(axes[2], sizes, plain["sharpness"], color=plot.PALETTE[4], linestyle="--", label="all labels true")
    axes[0].set(ylabel="error", ylim=(-0.03, 1))
    axes[1].set(ylabel="log₁₀(norm / γ²), growth")
    axes[2].set(ylabel="sharpness", ylim=(0, None))
    for panel in axes:
        panel.set_xlabel("images added")
        plot.legend(panel)
    return drawing


@figure(NEYSHABUR_2017, BRUCKNER_2019)
def main(run: Run) -> None:
    true, sizes = run.pick(
        quick=(60, (0, 40)), gallery=(3000, (0, 1500, 3000)), full=(6000, (0, 1000, 2000, 4000))
    )
    found = table([run.each(one, true, size) for size in sizes])
    plain = table([run.each(one, true + size, 0) for size in sizes])
    numbers, names = {}, {"test error": "test error", **NORMS, "sharpness": "sharpness"}
    for name, title in names.items():
        what = f"{title}{' (log₁₀)' if name in NORMS else ''}"
        ends = f"{spread(found[name][0], 3)}, {spread(found[name][-1], 3)}"
        numbers[f"{what}, 0 and {sizes[-1]} confused"] = ends
        numbers[f"{what}, {true + sizes[-1]} true images"] = spread(plain[name][-1], 3)
    numbers["largest training error"] = max(each["train error"].max() for each in (found, plain))
    rise = {name: found[name][-1] - found[name][0] for name in names}
    more = {name: found[name][-1] - plain[name][-1] for name in NORMS}
    checks = [
        Check("the test error rises", rise["test error"], 0.02),
        *(Check(f"{title} rises", rise[name], 0.1, "log₁₀") for name, title in NORMS.items()),
        *(Check(f"{title}: above as many true", more[name], 0.1, "log₁₀") for name, title in NORMS.items()),
        Check("sharpness does not rise", rise["sharpness"], SHARPER, "nat", absent=True),
    ]
    settings = {
        "data": f"CIFAR-10, {true} images and {', '.join(map(str, sizes))} more; 1,000 test images",
        "network": "VGG-16" if run.scale == "full" else "as in neyshabur_1_random_labels",
        **SETTINGS,
    }
    finish(run, draw(sizes, found, plain), numbers, checks, settings)


if __name__ == "__main__":
    main()
