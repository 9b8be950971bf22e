"""Expected sharpness and the price of its noise, on true and random labels (Neyshabur et al. 2017; Bruckner 2019).

Claim: sharpness alone does not tell networks that generalize from those that do not, but together with a norm it does:
in the PAC-Bayesian sum of expected sharpness and divergence, a network fitted to random labels has, at the same
divergence from its start, the larger expected sharpness. Bruckner names this as what is left to do.

Here: an MLP with one hidden layer of 128 units on 4,000 MNIST images (the paper: a larger network and CIFAR-10), fitted
to the true or to random labels until the mean loss of an epoch is 0.01. Noise has the standard deviation
σ (10 |w| + 1) for a weight w, at six σ; expected sharpness is the mean rise of the loss under it, the divergence is
Σ (w − w⁰)²/2σ² with the initial weights. Both curves are read off where their divergences overlap.

Verdict: random less true labels at the same seed, of networks that fit (training error below 1 %), by logarithms of
base 10 of which 0.1 matters: expected sharpness at equal divergence (mean over the overlap); divergence at equal noise;
and expected sharpness at equal noise, that of σ = 0.01.
"""

from functools import partial

import numpy as np
import torch
from capacity_runs import FITS
from matplotlib.figure import Figure
from shared import Check, Result, Run, canvas, figure, finish, fit, load, mlp, spread

import analyze
import tracer
from analyze import plot
from analyze.reference import BRUCKNER_2019, NEYSHABUR_2017

LABELS = {"true": plot.PALETTE[0], "random": "#B5179E"}
NOISE = 0.01


def measure(run: Run, labels: str, seed: int) -> Result:
    """Logarithms (sigma,) of expected sharpness and divergence, and the errors."""
    n, epochs = run.pick(quick=(60, 60), gallery=(4000, 300), full=(4000, 500))
    data = load("mnist", run.data, n, min(n, 2000), seed, shuffled=float(labels == "random"))
    path = fit(
        run.out / f"{labels}_{run.scale}_{seed}.zarr", lambda: mlp([784, 128, 10]), data, epochs=epochs, batch=32,
        seed=seed, until=0.01, optimizer=partial(torch.optim.Adam, lr=1e-3), gradients="none", device=run.device,
        probes=data.probes(None, masks=0, outputs=None), snapshots=tracer.at([]),
    )  # fmt: skip
    results = analyze.run(
        path, ["expected_sharpness", "generalization"], output=path.with_suffix(".analysis")
    )
    found = results["expected_sharpness"].isel(step=-1)
    error = results["generalization"]["error"].isel(step=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        logs = {name: np.log10(found[name].values) for name in ("gain", "kl")}
    return {
        **logs, "sigma": found["sigma"].values,
        **{f"{split} error": float(error.sel(probe=split)) for split in ("train", "test")},
    }  # fmt: skip


def at_equal_divergence(true: Result, random: Result) -> float:
    """Mean difference of log sharpness over the divergences both curves reach; NaN where they share none."""
    curves = []
    for one in (true, random):
        defined = np.isfinite(one["gain"])
        order = np.argsort(one["kl"][defined])
        curves.append((one["kl"][defined][order], one["gain"][defined][order]))
    low, high = max(c[0][0] for c in curves), min(c[0][-1] for c in curves)
    if low >= high:
        return np.nan
    at = np.linspace(low, high, 50)
    return float((np.interp(at, *curves[1]) - np.interp(at, *curves[0])).mean())


def draw(found: dict[str, list[Result]]) -> Figure:
    drawing = canvas(2.6)
    left, right = drawing.subplots(1, 2)
    for labels, color in LABELS.items():
        for k, one in enumerate(found[labels]):
            word = f"{labels} labels" if k == 0 else None
            style = {"color": color, "linewidth": 0.7, "markersize": 2, "label": word}
            left.plot(10.0 ** one["kl"], 10.0 ** one["gain"], "o-", **style)
            right.plot(one["sigma"], 10.0 ** one["gain"], "o-", **style)
    left.set(
        xlabel="divergence from the start (nat)",
        ylabel="expected sharpness (nat)",
        xscale="log",
        yscale="log",
    )
    right.set(xlabel="noise σ", xscale="log", yscale="log")
    plot.legend(left)
    return drawing


@figure(NEYSHABUR_2017, BRUCKNER_2019)
def main(run: Run) -> None:
    found = {labels: run.each(measure, labels) for labels in LABELS}
    pairs = list(zip(found["true"], found["random"], strict=True))
    fits = np.array([1.0 if max(a["train error"], b["train error"]) < FITS else np.nan for a, b in pairs])
    place = int(np.argmin(np.abs(found["true"][0]["sigma"] - NOISE)))
    effects = {
        "sharper at equal divergence": [at_equal_divergence(*pair) for pair in pairs],
        "more divergence at equal noise": [b["kl"][place] - a["kl"][place] for a, b in pairs],
        "sharper at equal noise": [b["gain"][place] - a["gain"][place] for a, b in pairs],
    }
    numbers = {}
    for labels, runs in found.items():
        numbers |= {
            f"test error, {labels} labels": spread([one["test error"] for one in runs]),
            f"largest training error, {labels} labels": max(one["train error"] for one in runs),
            f"expected sharpness at σ = {NOISE} (log₁₀), {labels} labels": spread(
                [one["gain"][place] for one in runs]
            ),
            f"divergence at σ = {NOISE} (log₁₀), {labels} labels": spread([one["kl"][place] for one in runs]),
        }
    checks = [
        Check(f"{part} with random labels", fits * values, 0.1, "log₁₀") for part, values in effects.items()
    ]
    settings = {
        "data": "MNIST, 4,000 training and 2,000 test images",
        "training": "784-128-10, ReLU; Adam, rate 0.001, batch 32, until the mean loss of an epoch is 0.01",
    }
    finish(run, draw(found), numbers, checks, settings)


if __name__ == "__main__":
    main()
