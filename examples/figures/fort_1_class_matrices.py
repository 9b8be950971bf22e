"""Stiffness between classes, as a network learns and overfits (Fort et al. 2019).

Claim: a step on an example helps examples of its own class and hardly those of other classes; and as the
network begins to overfit, the stiffness within classes regresses to zero, so that in the end every example
is learned by itself.

Here: MLPs with two hidden layers of 100 units, on 1,000 images each of MNIST and CIFAR-10, trained well past
the lowest test loss; 20 training images of each class, more or less, in the matrices. The paper also has
convolutional networks, and takes stiffness between training and validation images; here it is among training
images.

Verdict: by the means of class cells, over the seeds, for both data sets. Own class: the mean within classes
is above that between classes at every snapshot of every seed. Others: the mean between classes is within 0.1
of 0 at the end. Overfits: the test loss ends 5 % or more above its minimum. Falls: within classes the cosine
is lower at the end than at that minimum, by more than two standard errors. To zero: it ends below 0.1.
"""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from overfitting import DATA, RATES, SETTINGS, record, seeds
from shared import Run, canvas, figure, finish, spread

import analyze
from analyze import plot
from analyze.reference import FORT_2019


def measure(run: Run, name: str, seed: int) -> xr.Dataset:
    """Class stiffness of the whole network, and the test loss at the same steps."""
    path = record(run, name, RATES[1], seed)
    results = analyze.run(path, ["class_stiffness", "generalization"], output=path.with_suffix(".analysis"))
    found = results["class_stiffness"].sel(layer="all")
    loss = results["generalization"]["loss"].sel(probe="test")
    return found[["cosine", "cosine_within", "cosine_between"]].assign(test_loss=loss.drop_vars("probe"))


def draw(found: dict[str, xr.Dataset]) -> Figure:
    """Matrices at three steps of the first seed, and curves with a band over the seeds."""
    drawing = canvas(3.7)
    axes = drawing.subplots(2, 4, width_ratios=(1, 1, 1, 1.5))
    for row, (name, data) in zip(axes, found.items(), strict=True):
        at = [0, int(data["test_loss"].mean("seed").argmin()), data.sizes["step"] - 1]
        for panel, k, word in zip(row, at, ("untrained", "lowest test loss", "end"), strict=False):
            image = plot.heat(panel, data["cosine"][0].isel(step=k), limits=(-0.6, 0.6), cmap=plot.DIVERGING)
            panel.set_aspect("equal")
            panel.set_title(f"{name}, {word}\n(step {int(data['step'][k])})")
            panel.set(xticks=range(0, 10, 3), yticks=range(0, 10, 3))
        curves(row[-1], data)
    axes[0, 0].set_ylabel("class")
    axes[1, 0].set(ylabel="class", xlabel="class")
    drawing.colorbar(image, ax=axes[:, :3], label="mean cosine", shrink=0.6, extend="max")
    plot.legend(axes[0, -1], loc="upper left")
    return drawing


def curves(axes: Axes, data: xr.Dataset) -> None:
    for where, color in zip(("within", "between"), plot.PALETTE, strict=False):
        values = data[f"cosine_{where}"]
        mean, std = values.mean("seed"), values.std("seed", ddof=1)
        plot.band(axes, data["step"], mean, std, color=color, label=f"{where} classes")
    plot.zero_line(axes)
    plot.step_axis(axes, data["step"])
    axes.set(ylabel="mean cosine", ylim=(-0.15, 1.0))
    other = axes.twinx()
    other.plot(data["step"], data["test_loss"].mean("seed"), color="0.4", linestyle=":")
    other.set(ylabel="test loss (dotted)", ylim=(0, None))
    other.spines["right"].set_visible(True)


def both(first: xr.DataArray, last: xr.DataArray) -> str:
    return f"{spread(first.values)}, {spread(last.values)}"


@figure(FORT_2019)
def main(run: Run) -> None:
    found = {
        name: xr.concat([measure(run, name, seed) for seed in seeds(run)], "seed", join="inner")
        for name in DATA
    }
    numbers, checks = {}, {}
    for name, data in found.items():
        loss, within, between = data["test_loss"], data["cosine_within"], data["cosine_between"]
        lowest = loss.mean("seed").argmin()
        fall = (within[:, lowest] - within[:, -1]).values
        rise = loss[:, -1] / loss[:, lowest] - 1
        numbers |= {
            f"within classes, lowest test loss and end, {name}": both(within[:, lowest], within[:, -1]),
            f"between classes at the end, {name}": spread(between[:, -1]),
            f"test loss at the end over its minimum, {name}": spread(1 + rise),
        }
        error = fall.std(ddof=1) / np.sqrt(len(fall))
        checks |= {
            f"own class above other classes throughout, {name}": bool((within > between).all()),
            f"near zero between classes, {name}": abs(float(between[:, -1].mean())) < 0.1,
            f"falls as the network overfits, {name}": fall.mean() > 2 * error
            if rise.mean() >= 0.05
            else None,
            f"to zero, {name}": float(within[:, -1].mean()) < 0.1,
        }
    settings = {
        **SETTINGS,
        "learning rate": RATES[1],
        "seeds": f"{seeds(run).start} to {seeds(run).stop - 1}",
    }
    finish(run, draw(found), numbers, checks, settings)


if __name__ == "__main__":
    main()
