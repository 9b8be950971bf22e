"""CNA over training (Gain & Siegelmann 2019, figure of loss and CNA).

Claim: the correlation of an image's complexity with the slope of its activations over depth (CNA), taken of each
minibatch, follows the training loss of an MLP on MNIST closely; both curves bend at about the same update.

Here: an MLP with three hidden layers on 8,000 MNIST digits. Complexity is the entropy of the pixels; activations are
sums of pre-activations, as the authors' program has them, of the forward pass that training makes anyway, so the CNA
of a minibatch belongs to the weights before its update (theirs to those after). Curves are running means over
20 minibatches. The bend of a curve is the update by which it has made half of its way, from the first
value of the running mean to that farthest from it.

Verdict: in every seed: over all of training, the curves have a Pearson correlation of at least 0.7 in size; the CNA
rises as the loss falls (their hypothesis that better networks have a higher CNA); the bends are at most a factor of
two apart; and the curves still follow each other after the first epoch, with a rank correlation of -0.7 or less.
"""

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import pearsonr, spearmanr
from shared import Run, canvas, figure, finish, fit, load, mlp, spread

import analyze
import tracer
from analyze import plot
from analyze.numerics import running_mean
from analyze.reference import GAIN_2019

BATCH, WINDOW = 64, 20


def size(run: Run) -> tuple[int, int]:
    """Examples and epochs."""
    return run.pick(quick=(1000, 4), gallery=(8000, 12), full=(8000, 60))


def record(run: Run, seed: int) -> dict[str, np.ndarray]:
    """Loss and CNA (update,) of one network, with their running means over an epoch."""
    n, epochs = size(run)
    data = load("mnist", run.data, n, 1000, seed)
    path = fit(
        run.out / f"mlp_{seed}.zarr", lambda: mlp([784, 256, 256, 256, 10]), data, epochs=epochs, batch=BATCH,
        seed=seed, device=run.device, describe=True,
        minibatch=("loss", "sums"), probes=data.probes(256, masks=0), snapshots=tracer.at([]), gradients="none",
    )  # fmt: skip
    result = analyze.run(path, ["minibatch_cna"], output=path.with_suffix(".analysis"))["minibatch_cna"]
    result = result.dropna("step", subset=["loss", "pearson"])
    found = {"step": result["step"].values, "loss": result["loss"].values, "cna": result["pearson"].values}
    middles = found["step"][WINDOW // 2 :][: len(found["step"]) - WINDOW + 1]
    means = {f"mean {name}": running_mean(found[name], WINDOW) for name in ("loss", "cna")}
    return found | means | {"middle": middles}


def bend(step: np.ndarray, curve: np.ndarray) -> float:
    """The step by which a curve has made half of its way from its first to its farthest value."""
    way = np.abs(curve - curve[0])
    return float(step[np.argmax(way >= way.max() / 2)])


def draw(runs: list[dict[str, np.ndarray]]) -> Figure:
    drawing = canvas(2.6)
    one = runs[0]
    labels = {"loss": "training loss of the minibatch", "cna": "CNA of the minibatch"}
    for axes, (name, label), color in zip(drawing.subplots(1, 2), labels.items(), plot.PALETTE, strict=False):
        axes.plot(one["step"], one[name], ".", markersize=1.5, color=color, alpha=0.3, rasterized=True)
        for k, run in enumerate(runs):
            style = {"linewidth": 1.6, "color": "black"} if k == 0 else {"linewidth": 0.8, "color": "0.45"}
            word = {0: f"mean of {WINDOW}, first seed", 1: "other seeds"}.get(k)
            axes.plot(run["middle"], run[f"mean {name}"], label=word, **style)
            at = bend(run["middle"], run[f"mean {name}"])
            height = np.interp(at, run["middle"], run[f"mean {name}"])
            word = None if k else "half of its way"
            axes.plot(at, height, "v", color=style["color"], markersize=5, label=word)
        if name == "loss":
            plot.legend(axes)
        axes.set(xlabel="minibatch number (update)", ylabel=label, xscale="log")
    plot.zero_line(axes)
    return drawing


@figure(GAIN_2019)
def main(run: Run) -> None:
    seeds = range(run.seed, run.seed + run.pick(quick=2, gallery=3, full=10))
    runs = [record(run, seed) for seed in seeds]
    whole = np.array([pearsonr(one["mean loss"], one["mean cna"])[0] for one in runs])
    first = size(run)[0] // BATCH
    late = np.array([spearmanr(one["mean loss"][first:], one["mean cna"][first:])[0] for one in runs])
    bends = {
        name: np.array([bend(one["middle"], one[f"mean {name}"]) for one in runs]) for name in ("loss", "cna")
    }
    ratio = bends["cna"] / bends["loss"]
    n, epochs = size(run)
    numbers = {
        "Pearson correlation of loss and CNA over training": spread(whole),
        "rank correlation over training": spread(
            [spearmanr(one["mean loss"], one["mean cna"])[0] for one in runs]
        ),
        "rank correlation after the first epoch": spread(late),
        "CNA, mean of the first 20 minibatches": spread([one["mean cna"][0] for one in runs]),
        "CNA, mean of the last 20 minibatches": spread([one["mean cna"][-1] for one in runs]),
        "bend of the loss (update)": spread(bends["loss"], 0),
        "bend of the CNA (update)": spread(bends["cna"], 0),
    }
    checks = {
        "over training, loss and CNA follow each other": (abs(whole) >= 0.7).all(),
        "the CNA rises as the loss falls": (whole < 0).all(),
        "their bends are within a factor of two": ((ratio >= 0.5) & (ratio <= 2)).all(),
        "after the first epoch they still do": (late <= -0.7).all(),
    }
    settings = {
        "data": f"MNIST, {n} training examples",
        "training": f"784-256-256-256-10, ReLU; SGD, rate 0.05, momentum 0.9, batch {BATCH}, {epochs} epochs",
        "seeds": f"{seeds.start} to {seeds.stop - 1}",
    }
    finish(run, draw(runs), numbers, checks, settings)


if __name__ == "__main__":
    main()
