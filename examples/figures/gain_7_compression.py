"""Complexity by compression in place of entropy (Gain & Siegelmann 2019, second definition of α).

Claim: the complexity of an image can be taken as its compression ratio as well as its entropy: both put images in much
the same order, so that what is said of complexity does not hang on which is taken.

Here: 4,000 images of MNIST and of CIFAR-10 and 700 of scikit-learn's digits, half of what there is, so that seeds have
others; entropy is of the histogram of the pixels, compression the size by zlib over the original one; PNG, which
predicts each pixel from its neighbours, beside it. Entropy does not see where a value stands in the image, compression
does. The CNA by both is of an MLP with two hidden layers, before and after training on 8,000 images of MNIST, of these
images.

Verdict: for each data set, the rank correlation over images of zlib's ratio and entropy; 0.5 matters; and of PNG's.
The CNA rises in training by either; 0.1 matters. The CNA of the trained network is not another by compression than by
entropy, by 0.1 or more.
"""

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import spearmanr
from shared import Check, Result, Run, canvas, figure, finish, fit, load, mlp, spread

import analyze
import tracer
from analyze import plot
from analyze.metrics.depth.complexity import complexity
from analyze.reference import GAIN_2019

DATA = {"mnist": "MNIST", "cifar10": "CIFAR-10", "digits": "digits"}
CODECS = ("zlib", "png")


def size(run: Run) -> tuple[int, int]:
    """Images and epochs."""
    return run.pick(quick=(200, 3), gallery=(8000, 12), full=(8000, 60))


def ordered(run: Run, name: str) -> int:
    """Images that are put in order: half of those there are at most, so that seeds have others."""
    return min(size(run)[0] // 2, 700 if name == "digits" else 4000)


def orders(run: Run, name: str, seed: int) -> Result:
    """Rank correlation with entropy by codec, and both complexities of every image."""
    data = load(name, run.data, ordered(run, name), 10, seed)
    pixels = data.raw(data.x_train).numpy()
    found: Result = {}
    for codec in CODECS:
        both = complexity(pixels, codec=codec)
        found |= {"entropy": both["entropy"], codec: both["compression"]}
    return found | {f"{codec} rank": float(spearmanr(found["entropy"], found[codec])[0]) for codec in CODECS}


def correlations(run: Run, seed: int) -> Result:
    """CNA (when,) by entropy and by compression: untrained, trained."""
    n, epochs = size(run)
    data = load("mnist", run.data, n, 100, seed)
    path = fit(
        run.out / f"mlp_{run.scale}_{seed}.zarr", lambda: mlp([784, 128, 128, 10]), data, epochs=epochs, seed=seed,
        probes={"train": data.probe("train", None, raw=True, masks=0, outputs=None, sums=None)}, gradients="none",
        snapshots=tracer.at([0]), device=run.device,
    )  # fmt: skip
    found = {}
    for alpha in ("entropy", "compression"):
        results = analyze.run(
            path, ["cna"], options={"cna": {"alpha": alpha}}, output=path.with_suffix(f".{alpha}")
        )
        found[alpha] = results["cna"]["pearson"].sel(probe="train").isel(step=[0, -1]).values
    return found


def draw(found: dict[str, list[Result]], cna: list[Result]) -> Figure:
    """Images of the first seed; CNA of all."""
    drawing = canvas(2.4)
    panels = drawing.subplots(1, len(DATA) + 1)
    for panel, (name, title), color in zip(panels, DATA.items(), plot.PALETTE, strict=False):
        one = found[name][0]
        style = {"markersize": 1.5, "color": color, "alpha": 0.5, "rasterized": True}
        panel.plot(one["entropy"], one["zlib"], ".", **style)
        panel.set(title=f"{title}, rank {one['zlib rank']:.2f}", xlabel="entropy (bits)")
    panels[0].set_ylabel("size by zlib over original")
    for one in cna:
        for alpha, color in (("entropy", plot.PALETTE[4]), ("compression", plot.PALETTE[5])):
            label = f"by {alpha}" if one is cna[0] else None
            panels[-1].plot([0, 1], one[alpha], "o-", color=color, linewidth=0.6, markersize=2.5, label=label)
    panels[-1].set(title="CNA, MLP on MNIST", xlim=(-0.3, 1.3))
    panels[-1].set_xticks([0, 1], ["untrained", "trained"])
    plot.zero_line(panels[-1])
    plot.legend(panels[-1])
    return drawing


@figure(GAIN_2019)
def main(run: Run) -> None:
    found = {name: run.each(orders, name) for name in DATA}
    cna = run.each(correlations)
    numbers, checks = {}, []
    for codec in CODECS:
        for name, title in DATA.items():
            ranks = [one[f"{codec} rank"] for one in found[name]]
            numbers[f"rank correlation with entropy, {codec}, {title}"] = spread(ranks)
            checks.append(
                Check(f"{codec} orders images as entropy does, {title}", ranks, 0.5, "of rank correlation")
            )
    table = {alpha: np.array([one[alpha] for one in cna]) for alpha in ("entropy", "compression")}
    for alpha, values in table.items():
        numbers[f"CNA by {alpha}, untrained and trained"] = f"{spread(values[:, 0])}, {spread(values[:, 1])}"
        checks.append(Check(f"the CNA by {alpha} rises in training", values[:, 1] - values[:, 0], 0.1))
    apart = np.abs(table["entropy"][:, 1] - table["compression"][:, 1])
    checks.append(Check("the CNA is not another by compression", apart, 0.1, absent=True))
    n, epochs = size(run)
    settings = {
        "data": ", ".join(f"{ordered(run, name):,} images of {title}" for name, title in DATA.items()),
        "training": f"784-128-128-10, ReLU; SGD, rate 0.05, momentum 0.9, batch 64, {epochs} epochs on {n:,} of MNIST",
    }
    finish(run, draw(found, cna), numbers, checks, settings)


if __name__ == "__main__":
    main()
