"""Stiffness between classes, as a network learns and overfits (Fort et al. 2019).

Claim: a step on an example helps examples of its own class and hardly those of other classes; and as the
network begins to overfit, the stiffness within classes regresses to zero, so that in the end every example
is learned by itself.

Here: MLPs with two hidden layers of 100 units, on 8,000 images each of MNIST and CIFAR-10, trained well past
the lowest test loss; 20 training images of each class, more or less, in the matrices. The paper also has
convolutional networks, and takes stiffness between training and validation images; here it is among training
images.

Verdict: by the means of class cells, for both data sets. Own class: the mean within classes less that between them, at
the snapshot where this is least; 0.05 matters. Overfits and falls: the cosine within classes at the lowest test loss
less that at the end, at seeds whose test loss ends 5 % or more above its minimum; 0.05 matters. To zero: the share of
that cosine which is gone at the end; four fifths matter. Others: the mean between classes at the end is not beyond 0.1.
"""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from overfitting import DATA, RATES, SETTINGS, record
from shared import Check, Result, Run, canvas, figure, finish, spread

import analyze
from analyze import plot
from analyze.reference import FORT_2019


def measure(run: Run, name: str, seed: int) -> Result:
    """Class stiffness of the whole network (step, ...), and the test loss at the same steps."""
    path = record(run, name, RATES[1], seed)
    results = analyze.run(path, ["class_stiffness", "generalization"], output=path.with_suffix(".analysis"))
    stiffness = results["class_stiffness"].sel(layer="all")
    loss = results["generalization"]["loss"].sel(probe="test", step=stiffness["step"])
    return {
        "step": stiffness["step"].values, "loss": loss.values, "matrix": stiffness["cosine"].values,
        "within": stiffness["cosine_within"].values, "between": stiffness["cosine_between"].values,
    }  # fmt: skip


def lowest(one: Result) -> int:
    """Snapshot of the lowest test loss."""
    return int(one["loss"].argmin())


def draw(found: dict[str, list[Result]]) -> Figure:
    """Matrices at three steps of the first seed, and curves with a band over the seeds."""
    drawing = canvas(3.7)
    axes = drawing.subplots(2, 4, width_ratios=(1, 1, 1, 1.5))
    for row, (name, runs) in zip(axes, found.items(), strict=True):
        one = runs[0]
        at = [0, lowest(one), len(one["step"]) - 1]
        for panel, k, word in zip(row, at, ("untrained", "lowest test loss", "end"), strict=False):
            matrix = xr.DataArray(one["matrix"][k], dims=("class", "class_2"))
            image = plot.heat(panel, matrix, limits=(-0.6, 0.6), cmap=plot.DIVERGING)
            panel.set_aspect("equal")
            panel.set_title(f"{name}, {word}\n(step {one['step'][k]})")
            panel.set(xticks=range(0, 10, 3), yticks=range(0, 10, 3))
        curves(row[-1], runs)
    axes[0, 0].set_ylabel("class")
    axes[1, 0].set(ylabel="class", xlabel="class")
    drawing.colorbar(image, ax=axes[:, :3], label="mean cosine", shrink=0.6, extend="max")
    plot.legend(axes[0, -1], loc="upper left")
    return drawing


def curves(axes: Axes, runs: list[Result]) -> None:
    step = runs[0]["step"]
    for where, color in zip(("within", "between"), plot.PALETTE, strict=False):
        values = np.array([one[where] for one in runs])
        plot.band(axes, step, values.mean(0), values.std(0, ddof=1), color=color, label=f"{where} classes")
    plot.zero_line(axes)
    plot.step_axis(axes, step)
    axes.set(ylabel="mean cosine", ylim=(-0.15, 1.0))
    other = axes.twinx()
    other.plot(step, np.mean([one["loss"] for one in runs], 0), color="0.4", linestyle=":")
    other.set(ylabel="test loss (dotted)", ylim=(0, None))
    other.spines["right"].set_visible(True)


@figure(FORT_2019)
def main(run: Run) -> None:
    found = {name: run.each(measure, name) for name in DATA}
    numbers, checks = {}, []
    for name, runs in found.items():
        apart = np.array([(one["within"] - one["between"]).min() for one in runs])
        start, end = (np.array([one["within"][k] for one, k in pairs]) for pairs in (
            [(one, lowest(one)) for one in runs], [(one, -1) for one in runs]
        ))  # fmt: skip
        between = np.array([one["between"][-1] for one in runs])
        rise = np.array([one["loss"][-1] / one["loss"].min() for one in runs])
        overfit = np.where(rise >= 1.05, 1.0, np.nan)
        numbers |= {
            f"within classes, lowest test loss and end, {name}": f"{spread(start)}, {spread(end)}",
            f"between classes at the end, {name}": spread(between),
            f"test loss at the end over its minimum, {name}": spread(rise),
        }
        checks += [
            Check(f"own class above other classes throughout, {name}", apart, 0.05),
            Check(f"falls as the network overfits, {name}", overfit * (start - end), 0.05),
            Check(f"regresses to zero, {name}", overfit * (1 - end / start), 0.8, "of it gone"),
            Check(f"nothing between classes, {name}", np.abs(between), 0.1, absent=True),
        ]
    finish(run, draw(found), numbers, checks, {**SETTINGS, "learning rate": RATES[1]})


if __name__ == "__main__":
    main()
