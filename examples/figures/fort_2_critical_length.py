"""Stiffness by distance, and the critical length (Fort et al. 2019).

Claim: examples of one class help each other less the further apart they lie. The distance at which stiffness
reaches zero, the dynamical critical length, becomes shorter with training, and is the shorter the higher the
learning rate.

Here: MLPs with two hidden layers of 100 units, on 8,000 images each of MNIST and CIFAR-10, at three learning
rates, for the same number of updates. Distance is one minus the cosine of two standardised images; about
1,900 pairs of one class. As in the paper the length is where a straight line through the pairs reaches zero;
it may lie beyond the largest distance. It is first taken after one epoch (two with `--full`).

Verdict: for both data sets. By distance: stiffness at the end in the nearest seven of 20 bins less that in the farthest
seven; 0.05 matters. Shorter with training: the length at first less that at the end; 0.1 matters. Both at the rate
where this is least. Shorter at higher rates: at the end, the length at the lowest rate less that at the highest; 0.1
matters. Lengths beyond 2, the largest distance there can be, count as 2.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from overfitting import DATA, RATES, SETTINGS, record
from shared import Check, Result, Run, canvas, figure, finish, spread

import analyze
from analyze import plot
from analyze.reference import FORT_2019

LONGEST = 2.0  # one minus a cosine


def measure(run: Run, name: str, rate: float, seed: int) -> Result:
    """Stiffness by distance (step, bin) and critical length (step,) at the ends of epochs."""
    path = record(run, name, rate, seed)
    results = analyze.run(path, ["stiffness_by_distance"], output=path.with_suffix(".analysis"))
    found = results["stiffness_by_distance"].sel(step=results.archive.epoch_ends)
    length = found["critical_length"].sel(estimator="linear_fit").values
    return {
        "step": found["step"].values, "distance": found["bin"].values, "cosine": found["cosine"].values,
        "length": np.minimum(length, LONGEST),
    }  # fmt: skip


def stacked(runs: list[Result], name: str) -> np.ndarray:
    return np.array([one[name] for one in runs])


def band(axes: Axes, x: np.ndarray, values: np.ndarray, **style: str) -> None:
    """Mean and standard deviation over the seeds, of (seed, ...)."""
    plot.band(axes, x, values.mean(0), values.std(0, ddof=1), **style)


def draw(found: dict[tuple[str, float], list[Result]]) -> Figure:
    """By data set: curves of the middle rate at three times; the length in training at every rate."""
    drawing = canvas(3.9)
    axes = drawing.subplots(2, 2)
    for row, name in zip(axes, DATA, strict=True):
        runs = found[name, RATES[1]]
        step = runs[0]["step"]
        for k, color in zip(plot.pick(step, 3), plot.depth_colors(3), strict=True):
            style = {"color": color, "label": f"step {step[k]}"}
            band(row[0], stacked(runs, "distance").mean(0), stacked(runs, "cosine")[:, k], **style)
        row[0].set(ylabel="mean gradient cosine", title=f"{name}, rate {RATES[1]:g}")
        plot.zero_line(row[0])
        for rate, color in zip(RATES, plot.PALETTE, strict=False):
            lengths = stacked(found[name, rate], "length")
            band(row[1], step, lengths, color=color, label=f"rate {rate:g}")
        row[1].set(ylabel="critical length ξ", title=name)
    axes[1, 0].set_xlabel("input distance, 1 − cos(x, x′)")
    axes[1, 1].set_xlabel("step")
    plot.legend(axes[0, 0])
    plot.legend(axes[0, 1])
    return drawing


@figure(FORT_2019)
def main(run: Run) -> None:
    found = {(name, rate): run.each(measure, name, rate) for name in DATA for rate in RATES}
    numbers, checks = {}, []
    for name in DATA:
        lengths = {rate: stacked(found[name, rate], "length") for rate in RATES}
        for rate, length in lengths.items():
            pair = f"{spread(length[:, 0])}, {spread(length[:, -1])}"
            numbers[f"length at first and at the end, {name}, rate {rate:g}"] = pair
        ends = [stacked(found[name, rate], "cosine")[:, -1] for rate in RATES]
        falls = np.min([np.nanmean(end[:, :7], 1) - np.nanmean(end[:, -7:], 1) for end in ends], 0)
        shorter = np.min([length[:, 0] - length[:, -1] for length in lengths.values()], 0)
        by_rate = lengths[RATES[0]][:, -1] - lengths[RATES[-1]][:, -1]
        checks += [
            Check(f"less with distance at every rate, {name}", falls, 0.05),
            Check(f"shorter with training at every rate, {name}", shorter, 0.1),
            Check(f"shorter at higher rates, {name}", by_rate, 0.1),
        ]
    finish(run, draw(found), numbers, checks, {**SETTINGS, "learning rates": RATES})


if __name__ == "__main__":
    main()
