"""Measures of capacity on true and on random labels (Neyshabur et al. 2017; Bruckner 2019, Figures 1 and 2).

Claim: fitted to random labels, a network has a larger norm over the margin than fitted to the true ones, at
every size of the training set and by all four norms; and with the size this grows more, as each further
example has to be learned by heart. Sharpness does not tell them apart so clearly. Bruckner could not repeat
this: the path norms of convolutions were out of reach, and the network did not fit random labels.

Here: subsets of CIFAR-10 up to 800 images (the paper: 50,000) and a small convolutional network in place of
VGG, both trained to nearly the same loss. Path norms of convolutions are exact.

Verdict: of networks that fit, with a training error below 1 %. For each norm, by the logarithm (base 10) of its ratio,
random over true. Larger: at the size where it is least; 0.1 matters (a quarter more). Grows more: its slope over
doublings of the size; 0.03 matters (7 % a doubling). Sharpness is not larger with random labels at every size: by 0.02
where the difference is least.
"""

from functools import partial

import numpy as np
from capacity_runs import NORMS, SETTINGS, SHARPER, lines, measure, network, record, slope, table
from matplotlib.figure import Figure
from shared import Check, Result, Run, canvas, figure, finish, load, spread

from analyze import plot
from analyze.reference import BRUCKNER_2019, NEYSHABUR_2017

COLORS = {"true": plot.PALETTE[0], "random": "#B5179E"}


def one(run: Run, size: int, labels: str, seed: int) -> Result:
    """Measures of one network."""
    data = load("cifar10", run.data, size, 1000, seed, shuffled=float(labels == "random"))
    return measure(record(run, f"cifar10_{size}_{labels}_{seed}", partial(network, run), data, seed))


def draw(sizes: tuple[int, ...], found: dict[str, dict[str, np.ndarray]]) -> Figure:
    drawing = canvas(3.6)
    axes = drawing.subplots(2, 3).ravel()
    for labels, values in found.items():
        style = {"color": COLORS[labels], "label": f"{labels} labels"}
        for panel, (name, title) in zip(axes, NORMS.items(), strict=False):
            lines(panel, sizes, values[name], log10=True, **style)
            panel.set_title(f"{title} / γ²")
        lines(axes[4], sizes, values["sharpness"], **style)
        lines(axes[5], sizes, values["test error"], **style)
        lines(axes[5], sizes, values["train error"], color=COLORS[labels], linestyle=":")
    axes[4].set_title("sharpness")
    axes[5].set(title="error: test, and training (dotted)", ylim=(-0.03, 1))
    for panel in axes:
        panel.set_xscale("log")
        panel.set_xticks(sizes, [str(size) for size in sizes], minor=False)
        panel.minorticks_off()
    for panel in axes[3:]:
        panel.set_xlabel("training images")
    plot.legend(axes[0])
    return drawing


@figure(NEYSHABUR_2017, BRUCKNER_2019)
def main(run: Run) -> None:
    sizes = run.pick(quick=(50, 100), gallery=(100, 200, 400, 800), full=(1000, 2000, 4000, 8000))
    found = {labels: table([run.each(one, size, labels) for size in sizes]) for labels in COLORS}
    true, random = found["true"], found["random"]
    numbers, larger, grows = {}, [], []
    for name, title in NORMS.items():
        ratio = random[name] - true[name]
        for size, row in ((sizes[-1], ratio[-1]), (sizes[0], ratio[0])):
            numbers[f"{title}, random over true, {size} images (log₁₀)"] = spread(row)
        larger.append(Check(f"{title}: larger with random labels at every size", ratio.min(0), 0.1, "log₁₀"))
        grows.append(Check(f"{title}: grows more with random labels", slope(ratio), 0.03, "log₁₀ a doubling"))
    for labels, values in found.items():
        numbers[f"sharpness, {labels} labels, {sizes[0]} and {sizes[-1]} images"] = (
            f"{spread(values['sharpness'][0])} and {spread(values['sharpness'][-1])}"
        )
        for kind in ("train error", "test error"):
            numbers[f"{kind}, {labels} labels, {sizes[-1]} images"] = spread(values[kind][-1], 3)
    sharper = (random["sharpness"] - true["sharpness"]).min(0)
    absent = Check("sharpness: not larger at every size", sharper, SHARPER, "nat", absent=True)
    checks = [*larger, *grows, absent]
    settings = {
        "data": f"CIFAR-10, {', '.join(map(str, sizes))} training and 1,000 test images; random labels are drawn",
        "network": "VGG-16"
        if run.scale == "full"
        else "mean of 2 by 2 pixels, convolutions of 16, 32, 64 channels, "
        "each with max pooling, Linear 128 and 10",
        **SETTINGS,
    }
    finish(run, draw(sizes, found), numbers, checks, settings)


if __name__ == "__main__":
    main()
