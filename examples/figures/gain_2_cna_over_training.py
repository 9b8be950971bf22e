"""CNA over training (Gain & Siegelmann 2019, figure of loss and CNA).

Claim: the correlation of an image's complexity with the slope of its activations over depth (CNA), taken of each
minibatch, follows the training loss of an MLP on MNIST closely; both curves bend at about the same update.

Here: an MLP with three hidden layers on 8,000 MNIST digits. Complexity is the entropy of the pixels; activations are
sums of pre-activations, as the authors' program has them, and beside them sums after the ReLU, of the forward pass that
training makes anyway, so the CNA of a minibatch belongs to the weights before its update (theirs to those after).
Curves are running means over 20 minibatches. The bend of a curve is the update by which it has made half of its way,
from the first value of the running mean to that farthest from it.

Verdict: for both kinds of sums, by correlations of loss and CNA that are turned round, since better networks should
have a higher CNA; 0.7 matters: Pearson's over all of training, the rank correlation likewise, and the rank correlation
after the first epoch. The bends are not a factor of two or more apart (before the ReLU).
"""

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import pearsonr, spearmanr
from shared import Check, Result, Run, canvas, figure, finish, fit, load, mlp, spread

import analyze
import tracer
from analyze import plot
from analyze.numerics import running_mean
from analyze.reference import GAIN_2019

BATCH, WINDOW = 64, 20
KINDS = {"pre": "before the ReLU", "post": "after the ReLU"}


def size(run: Run) -> tuple[int, int]:
    """Examples and epochs."""
    return run.pick(quick=(1000, 4), gallery=(8000, 12), full=(8000, 60))


def record(run: Run, seed: int) -> Result:
    """Loss and CNA (update,) of one network, before and after the ReLU, with their running means."""
    n, epochs = size(run)
    data = load("mnist", run.data, n, 1000, seed)
    path = fit(
        run.out / f"mlp_{run.scale}_{seed}.zarr", lambda: mlp([784, 256, 256, 256, 10]), data, epochs=epochs,
        batch=BATCH, seed=seed, device=run.device, describe=True, minibatch=("loss", "sums"),
        probes=data.probes(256, masks=0), snapshots=tracer.at([]), gradients="none",
    )  # fmt: skip
    found: Result = {}
    for kind in KINDS:
        options = {"minibatch_cna": {"where": kind}}
        results = analyze.run(path, ["minibatch_cna"], options=options, output=path.with_suffix(f".{kind}"))
        one = results["minibatch_cna"].dropna("step", subset=["loss", "pearson"])
        found |= {"step": one["step"].values, "loss": one["loss"].values, kind: one["pearson"].values}
    found["middle"] = found["step"][WINDOW // 2 :][: len(found["step"]) - WINDOW + 1]
    return found | {f"mean {name}": running_mean(found[name], WINDOW) for name in ("loss", *KINDS)}


def correlations(run: Run, one: Result, kind: str) -> dict[str, float]:
    """How well the CNA rises as the loss falls: minus the correlation of their running means."""
    loss, cna, first = one["mean loss"], one[f"mean {kind}"], size(run)[0] // BATCH
    return {
        "Pearson": -pearsonr(loss, cna)[0],
        "rank": -spearmanr(loss, cna)[0],
        "rank after the first epoch": -spearmanr(loss[first:], cna[first:])[0],
    }


def bend(step: np.ndarray, curve: np.ndarray) -> float:
    """The step by which a curve has made half of its way from its first to its farthest value."""
    way = np.abs(curve - curve[0])
    return float(step[np.argmax(way >= way.max() / 2)])


def draw(runs: list[Result]) -> Figure:
    drawing = canvas(2.6)
    one = runs[0]
    labels = {
        "loss": "training loss of the minibatch",
        **{kind: f"CNA, sums {word}" for kind, word in KINDS.items()},
    }
    for axes, (name, label), color in zip(drawing.subplots(1, 3), labels.items(), plot.PALETTE, strict=False):
        axes.plot(one["step"], one[name], ".", markersize=1.5, color=color, alpha=0.3, rasterized=True)
        for k, run in enumerate(runs):
            style = {"linewidth": 1.6, "color": "black"} if k == 0 else {"linewidth": 0.5, "color": "0.55"}
            word = {0: f"mean of {WINDOW}, first seed", 1: "other seeds"}.get(k)
            axes.plot(run["middle"], run[f"mean {name}"], label=word, **style)
        at = bend(one["middle"], one[f"mean {name}"])
        height = np.interp(at, one["middle"], one[f"mean {name}"])
        axes.plot(at, height, "v", color="black", markersize=5, label="half of its way")
        axes.set(xlabel="minibatch number (update)", ylabel=label, xscale="log")
        if name != "loss":
            plot.zero_line(axes)
            axes.set_ylim(-1, 1)
    plot.legend(drawing.axes[0])
    return drawing


@figure(GAIN_2019)
def main(run: Run) -> None:
    runs = run.each(record)
    numbers, checks = {}, []
    for kind, word in KINDS.items():
        rows = [correlations(run, one, kind) for one in runs]
        for name in rows[0]:
            values = np.array([row[name] for row in rows])
            checks.append(
                Check(f"the CNA rises as the loss falls, sums {word}: {name}", values, 0.7, "of correlation")
            )
        numbers |= {
            f"CNA {word}, mean of the first {WINDOW} minibatches": spread(
                [one[f"mean {kind}"][0] for one in runs]
            ),
            f"CNA {word}, mean of the last {WINDOW} minibatches": spread(
                [one[f"mean {kind}"][-1] for one in runs]
            ),
        }
    bends = {n: np.array([bend(one["middle"], one[f"mean {n}"]) for one in runs]) for n in ("loss", *KINDS)}
    numbers |= {
        f"bend of the {'loss' if n == 'loss' else f'CNA {KINDS[n]}'} (update)": spread(v, 0)
        for n, v in bends.items()
    }
    apart = np.abs(np.log2(bends["pre"] / bends["loss"]))
    checks.append(Check("bends are within a factor of two", apart, 1.0, "doublings", absent=True))
    n, epochs = size(run)
    settings = {
        "data": f"MNIST, {n} training examples",
        "training": f"784-256-256-256-10, ReLU; SGD, rate 0.05, momentum 0.9, batch {BATCH}, {epochs} epochs",
    }
    finish(run, draw(runs), numbers, checks, settings)


if __name__ == "__main__":
    main()
