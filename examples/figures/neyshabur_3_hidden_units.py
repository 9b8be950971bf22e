"""Measures of capacity by number of hidden units (Neyshabur et al. 2017; Bruckner 2019, Figures 5 and 6).

Claim: beyond the width at which an MLP with one hidden layer fits its training set, the test error goes on
falling with more hidden units. The l2-path norm and the spectral norm over the margin fall along with it;
the l1-path norm, the l2 norm and sharpness do not. Bruckner found the l1-path and the l2 norm to fall, and
the others to rise.

Here: 1,000 MNIST images (the paper: 60,000 or fewer, not stated by Bruckner), 8 to 512 hidden units, all
trained to nearly the same loss.

Verdict: over the seeds and the widths that fit (training error below 1 %); something falls where its slope
over doublings is below 0 by more than two standard errors, and rises likewise. The test error falls; the
l2-path and spectral norms fall; the l1-path norm, the l2 norm and sharpness do not fall.
"""

from functools import partial

import numpy as np
from capacity_runs import NORMS, SETTINGS, lines, measure, record, rises, table
from matplotlib.figure import Figure
from shared import Run, canvas, figure, finish, load, mlp, spread

from analyze import plot
from analyze.reference import BRUCKNER_2019, NEYSHABUR_2017

FALL = ("test error", "l2_path", "spectral")


def one(run: Run, n: int, width: int, seed: int) -> dict[str, float]:
    """Measures of one network."""
    data = load("mnist", run.data, n, min(n, 1000), seed)
    return measure(record(run, f"mnist_{width}_{seed}", partial(mlp, [784, width, 10]), data, seed))


def draw(widths: tuple[int, ...], found: dict[str, np.ndarray]) -> Figure:
    """Errors; norms over what they are in the narrowest network; sharpness."""
    drawing = canvas(2.3)
    axes = drawing.subplots(1, 3)
    for split, style in (("test error", "-"), ("train error", ":")):
        lines(axes[0], widths, found[split], color=plot.PALETTE[5], linestyle=style, label=split)
    for k, (name, title) in enumerate(NORMS.items()):
        lines(axes[1], widths, found[name] - found[name][:1], color=plot.PALETTE[k], label=title)
    lines(axes[2], widths, found["sharpness"], color=plot.PALETTE[4])
    axes[0].set(ylabel="error", ylim=(-0.005, None))
    axes[1].set(ylabel="log₁₀(norm / γ²), change")
    axes[2].set(ylabel="sharpness", ylim=(0, None))
    for panel in axes:
        panel.set(xscale="log", xlabel="hidden units")
        panel.set_xticks(widths[::2], [str(width) for width in widths[::2]])
        panel.minorticks_off()
    plot.legend(axes[0])
    plot.legend(axes[1])
    return drawing


@figure(NEYSHABUR_2017, BRUCKNER_2019)
def main(run: Run) -> None:
    n, largest = run.pick(quick=(100, 5), gallery=(1000, 9), full=(8000, 12))
    widths = tuple(2**k for k in range(3, largest + 1))
    seeds = range(run.seed, run.seed + run.pick(quick=2, gallery=3, full=3))
    found = table([[one(run, n, width, seed) for seed in seeds] for width in widths])
    fits = found["train error"].mean(1) < 0.01
    numbers, checks = {}, {}
    for name, title in {"test error": "test error", **NORMS, "sharpness": "sharpness"}.items():
        values = found[name][fits]
        slope = rises(values) if fits.sum() > 1 else np.nan
        pair = f"{spread(found[name][0], 3)}, {spread(found[name][-1], 3)}"
        numbers[f"{title}{' (log₁₀)' if name in NORMS else ''}, {widths[0]} and {widths[-1]} units"] = pair
        numbers[f"{title}, slope in standard errors"] = f"{slope:+.1f}"
        part = f"{title} falls" if name in FALL else f"{title} does not fall"
        checks[part] = None if np.isnan(slope) else (slope < -2) == (name in FALL)
    numbers["widths that fit"] = f"{fits.sum()} of {len(widths)}"
    settings = {
        "data": f"MNIST, {n} training images",
        "network": f"784-h-10, ReLU, h = {', '.join(map(str, widths))}",
        **SETTINGS,
        "seeds": f"{seeds.start} to {seeds.stop - 1}",
    }
    finish(run, draw(widths, found), numbers, checks, settings)


if __name__ == "__main__":
    main()
