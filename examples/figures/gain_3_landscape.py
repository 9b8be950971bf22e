"""Training on the landscape of the CNA (Gain & Siegelmann 2019, figure of the trajectory in two dimensions).

Claim: drawn in the plane of the two principal components of the weights over training, the trajectory goes along the
slope of the CNA: training, which lowers the loss, moves to weights of higher CNA.

Here: an MLP with two hidden layers on 8,000 MNIST digits; CNA and loss of 512 of them at 21 by 21 places of the plane.
The paper shows one picture and no number; these are ours. The plane holds most of the variance of the trajectory
and not the trajectory itself, so CNA and loss on the plane differ from those of the network beside it.

Verdict: the CNA on the plane where training ends less that where it starts; 0.1 matters. Over the places of the plane,
the rank correlation of CNA and loss, turned round; 0.5 matters. And the share of the way (by length) that leads uphill
in CNA, less one half; a sixth matters.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.interpolate import RegularGridInterpolator
from scipy.stats import spearmanr
from shared import Check, Result, Run, canvas, figure, finish, fit, load, mlp, spread

import analyze
import tracer
from analyze import plot
from analyze.reference import GAIN_2019


def size(run: Run) -> tuple[int, int, int]:
    """Examples, epochs and places along an axis."""
    return run.pick(quick=(300, 4, 11), gallery=(8000, 12, 21), full=(8000, 60, 41))


def record(run: Run, seed: int) -> Result:
    """The landscape of one network."""
    n, epochs, points = size(run)
    data = load("mnist", run.data, n, 100, seed)
    path = fit(
        run.out / f"mlp_{run.scale}_{seed}.zarr", lambda: mlp([784, 128, 128, 10]), data, epochs=epochs, seed=seed,
        device=run.device, probes={"train": data.probe("train", 512, raw=True, masks=0)}, gradients="none",
        snapshots=tracer.epochs() | tracer.log_spaced(),
    )  # fmt: skip
    options = {"cna_landscape": {"points": points}}
    results = analyze.run(path, ["cna_landscape"], options=options, output=path.with_suffix(".analysis"))
    found = results["cna_landscape"]
    names = ("cna", "loss", "pc1", "pc2", "trajectory", "explained", "step")
    return {name: found[name].values for name in names}


def along(landscape: Result, name: str) -> np.ndarray:
    """CNA or loss of the plane at the trajectory's points (step,)."""
    axes = [landscape[axis] for axis in ("pc1", "pc2")]
    return RegularGridInterpolator(axes, landscape[name])(landscape["trajectory"])


def uphill(landscape: Result) -> float:
    """Share of the trajectory's length on the plane over which the CNA rises."""
    length = np.linalg.norm(np.diff(landscape["trajectory"], axis=0), axis=1)
    return float(length[np.diff(along(landscape, "cna")) > 0].sum() / length.sum())


def contours(axes: Axes, landscape: Result, name: str, label: str) -> None:
    """Filled contours with the trajectory."""
    values = landscape[name].T
    values = np.log10(values) if name == "loss" else values
    filled = axes.contourf(landscape["pc1"], landscape["pc2"], values, levels=20, cmap=plot.SEQUENTIAL)
    axes.get_figure().colorbar(filled, ax=axes, label=label, format="%.2g", shrink=0.9)
    path = landscape["trajectory"]
    axes.plot(*path.T, ".-", color="red", linewidth=1.2, markersize=3)
    axes.plot(*path[0], "o", color="red", markeredgecolor="white", markersize=7)
    axes.plot(*path[-1], "*", color="red", markeredgecolor="white", markersize=11)
    axes.set_xlabel(f"first component ({100 * float(landscape['explained'][0]):.0f} %)")


def draw(runs: list[Result]) -> Figure:
    drawing = canvas(2.6)
    axes = drawing.subplots(1, 3, width_ratios=(1.2, 1.2, 0.8))
    contours(axes[0], runs[0], "cna", "CNA")
    contours(axes[1], runs[0], "loss", "log₁₀ loss (nat)")
    axes[0].set_ylabel(f"second component ({100 * float(runs[0]['explained'][1]):.0f} %)")
    for k, one in enumerate(runs):
        color = plot.PALETTE[k % len(plot.PALETTE)]
        axes[2].plot(one["step"], along(one, "cna"), color=color, label="seeds" if k == 0 else None)
    axes[2].set_xscale("symlog", linthresh=10)
    axes[2].set(xlim=(0, None), xlabel="step", ylabel="CNA on the plane")
    plot.legend(axes[2], loc="lower right")
    return drawing


@figure(GAIN_2019)
def main(run: Run) -> None:
    runs = run.each(record)
    change = np.array([along(one, "cna")[-1] - along(one, "cna")[0] for one in runs])
    rank = np.array([spearmanr(one["cna"].ravel(), one["loss"].ravel())[0] for one in runs])
    way = np.array([uphill(one) for one in runs])
    numbers = {
        "CNA on the plane, start": spread([along(one, "cna")[0] for one in runs]),
        "CNA on the plane, end": spread([along(one, "cna")[-1] for one in runs]),
        "variance of the trajectory in the plane (%)": spread(
            [100 * float(one["explained"].sum()) for one in runs], 0
        ),
    }
    checks = [
        Check("training ends at a higher CNA than it starts", change, 0.1),
        Check("where the loss is low the CNA is high", -rank, 0.5, "of correlation"),
        Check("most of the way leads uphill: share less a half", way - 0.5, 1 / 6),
    ]
    n, epochs, points = size(run)
    settings = {
        "data": f"MNIST, {n} training examples; landscape of 512 of them at {points} by {points} places",
        "training": f"784-128-128-10, ReLU; SGD, rate 0.05, momentum 0.9, batch 64, {epochs} epochs",
    }
    finish(run, draw(runs), numbers, checks, settings)


if __name__ == "__main__":
    main()
