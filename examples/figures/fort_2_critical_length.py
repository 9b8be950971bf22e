"""Stiffness by distance, and the critical length (Fort et al. 2019).

Claim: examples of one class help each other less the further apart they lie. The distance at which stiffness
reaches zero, the dynamical critical length, becomes shorter with training, and is the shorter the higher the
learning rate.

Here: MLPs with two hidden layers of 100 units, on 1,000 images each of MNIST and CIFAR-10, at three learning
rates, for the same number of updates. Distance is one minus the cosine of two standardised images; about
1,900 pairs of one class. As in the paper the length is where a straight line through the pairs reaches zero;
it may lie beyond the largest distance. It is first taken after one epoch (two with `--full`).

Verdict: for both data sets, over the seeds, where a difference is more than two standard errors. By
distance: at every rate, stiffness at the end is less in the farthest seven of 20 bins than in the nearest
seven. Shorter with training: at every rate, the length is less at the end than at first. Shorter at higher
rates: at the end, it is less at the highest rate than at the lowest.
"""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from overfitting import DATA, RATES, SETTINGS, record, seeds
from shared import Run, canvas, figure, finish, spread

import analyze
from analyze import plot
from analyze.reference import FORT_2019


def measure(run: Run, name: str, rate: float, seed: int) -> xr.Dataset:
    """Stiffness by distance at the ends of epochs."""
    path = record(run, name, rate, seed)
    results = analyze.run(path, ["stiffness_by_distance"], output=path.with_suffix(".analysis"))
    found = results["stiffness_by_distance"].sel(step=results.archive.epoch_ends)
    # The bins of each seed lie at other distances, so they are kept by number.
    middles = found["bin"].values
    return found.drop_vars("bin").assign(distance=("bin", middles))


def falls(before: xr.DataArray, after: xr.DataArray) -> bool:
    """Whether values (seed,) fall by more than two standard errors."""
    difference = (before - after).values
    return bool(difference.mean() > 2 * difference.std(ddof=1) / np.sqrt(len(difference)))


def draw(found: dict[tuple[str, float], xr.Dataset]) -> Figure:
    """By data set: curves of the middle rate at three times; the length in training at every rate."""
    drawing = canvas(3.9)
    axes = drawing.subplots(2, 2)
    for row, name in zip(axes, DATA, strict=True):
        data = found[name, RATES[1]]
        shown = plot.pick(data["step"].values, 3)
        for k, color in zip(shown, plot.depth_colors(3), strict=True):
            values = data["cosine"].isel(step=k)
            style = {"color": color, "label": f"step {int(data['step'][k])}"}
            plot.band(
                row[0],
                data["distance"].mean("seed"),
                values.mean("seed"),
                values.std("seed", ddof=1),
                **style,
            )
        row[0].set(ylabel="mean gradient cosine", title=f"{name}, rate {RATES[1]:g}")
        plot.zero_line(row[0])
        for rate, color in zip(RATES, plot.PALETTE, strict=False):
            length = found[name, rate]["critical_length"].sel(estimator="linear_fit")
            style = {"color": color, "label": f"rate {rate:g}"}
            plot.band(row[1], length["step"], length.mean("seed"), length.std("seed", ddof=1), **style)
        row[1].set(ylabel="critical length ξ", title=name)
    axes[1, 0].set_xlabel("input distance, 1 − cos(x, x′)")
    axes[1, 1].set_xlabel("step")
    plot.legend(axes[0, 0])
    plot.legend(axes[0, 1])
    return drawing


@figure(FORT_2019)
def main(run: Run) -> None:
    found = {
        (name, rate): xr.concat([measure(run, name, rate, seed) for seed in seeds(run)], "seed", join="inner")
        for name in DATA
        for rate in RATES
    }
    numbers, checks = {}, {}
    for name in DATA:
        by_rate = {rate: found[name, rate] for rate in RATES}
        lengths = {
            rate: data["critical_length"].sel(estimator="linear_fit") for rate, data in by_rate.items()
        }
        for rate, length in lengths.items():
            pair = f"{spread(length[:, 0])}, {spread(length[:, -1])}"
            numbers[f"length at first and at the end, {name}, rate {rate:g}"] = pair
        ends = [data["cosine"].isel(step=-1) for data in by_rate.values()]
        thirds = [(end[:, :7].mean("bin"), end[:, -7:].mean("bin")) for end in ends]
        low, high = lengths[RATES[0]][:, -1], lengths[RATES[-1]][:, -1]
        checks |= {
            f"less with distance, {name}": all(falls(near, far) for near, far in thirds),
            f"shorter with training, {name}": all(
                falls(length[:, 0], length[:, -1]) for length in lengths.values()
            ),
            f"shorter at higher rates, {name}": falls(low, high),
        }
    settings = {**SETTINGS, "learning rates": RATES, "seeds": f"{seeds(run).start} to {seeds(run).stop - 1}"}
    finish(run, draw(found), numbers, checks, settings)


if __name__ == "__main__":
    main()
