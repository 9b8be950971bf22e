"""Measures of capacity by number of hidden units (Neyshabur et al. 2017; Bruckner 2019, Figures 5 and 6).

Claim: beyond the width at which an MLP with one hidden layer fits its training set, the test error goes on
falling with more hidden units. The l2-path norm and the spectral norm over the margin fall along with it;
the l1-path norm, the l2 norm and sharpness do not. Bruckner found the l1-path and the l2 norm to fall, and
the others to rise.

Here: 8,000 MNIST images (the paper: 60,000 or fewer, not stated by Bruckner), 8 to 512 hidden units, all
trained to nearly the same loss. The norms are taken without the factors of depth and width that their formulas have,
as the paper draws them, and with them, as they are printed: factors of the number of units make the spectral and the
l2-path norm grow with it, which is what Bruckner found and could not explain.

Verdict: slopes over doublings of the width, among widths that fit at a seed (training error below 1 %). The test error
falls; 0.002 a doubling matters. The l2-path and spectral norms fall; with the printed factors both rise; 0.03 of their
logarithm (base 10) a doubling matters (7 %). The l1-path and l2 norms do not fall by as much; nor sharpness by 0.002.
"""

from functools import partial

import numpy as np
from capacity_runs import FITS, NORMS, SETTINGS, lines, measure, record, slope, table
from matplotlib.figure import Figure
from shared import Check, Result, Run, canvas, figure, finish, load, mlp, spread

from analyze import plot
from analyze.reference import BRUCKNER_2019, NEYSHABUR_2017

FALL = ("l2_path", "spectral")


def one(run: Run, n: int, width: int, seed: int) -> Result:
    """Measures of one network."""
    data = load("mnist", run.data, n, min(n, 2000), seed)
    return measure(record(run, f"mnist_{width}_{seed}", partial(mlp, [784, width, 10]), data, seed))


def draw(widths: tuple[int, ...], found: dict[str, np.ndarray]) -> Figure:
    """Errors; norms over what they are in the narrowest network that fits, without and with factors; sharpness."""
    drawing = canvas(2.6)
    axes = drawing.subplots(1, 4)
    for split, style in (("test error", "-"), ("train error", ":")):
        lines(axes[0], widths, found[split], color=plot.PALETTE[5], linestyle=style, label=split)
    first = int(np.argmax(~np.isnan(found["l2"]).any(1)))
    for k, (name, title) in enumerate(NORMS.items()):
        for panel, suffix in ((axes[1], ""), (axes[2], " literal")):
            values = found[name + suffix][first:]
            lines(panel, widths[first:], values - values[:1], color=plot.PALETTE[k], label=title)
    lines(axes[3], widths[first:], found["sharpness"][first:], color=plot.PALETTE[4])
    axes[0].set(ylabel="error", ylim=(-0.005, None))
    axes[1].set(ylabel="log₁₀(norm / γ²), change", title="without factors")
    axes[2].set(title="with printed factors")
    axes[3].set(ylabel="sharpness", ylim=(0, None))
    for panel in axes:
        panel.set(xscale="log", xlabel="hidden units", xlim=(widths[0], widths[-1]))
        panel.set_xticks(widths[::2], [str(width) for width in widths[::2]])
        panel.minorticks_off()
    plot.legend(axes[0])
    plot.legend(axes[1])
    return drawing


@figure(NEYSHABUR_2017, BRUCKNER_2019)
def main(run: Run) -> None:
    n, largest = run.pick(quick=(100, 5), gallery=(8000, 9), full=(8000, 12))
    widths = tuple(2**k for k in range(3, largest + 1))
    found = table([run.each(one, n, width) for width in widths])
    fits = found["train error"] < FITS
    errors = np.where(fits, found["test error"], np.nan)
    names = {"test error": "test error", **NORMS, "sharpness": "sharpness"}
    numbers = {}
    for name, title in names.items():
        pair = f"{spread(found[name][0], 3)}, {spread(found[name][-1], 3)}"
        numbers[f"{title}{' (log₁₀)' if name in NORMS else ''}, {widths[0]} and {widths[-1]} units"] = pair
    falls = {name: -slope(found[name]) for name in (*NORMS, "sharpness")}
    unit = "log₁₀ a doubling"
    checks = [
        Check("the test error falls", -slope(errors), 0.002, "a doubling"),
        *(Check(f"{NORMS[name]} falls", falls[name], 0.03, unit) for name in FALL),
        *(
            Check(
                f"{NORMS[name]} rises with the printed factors", slope(found[f"{name} literal"]), 0.03, unit
            )
            for name in FALL
        ),
        *(
            Check(f"{title} does not fall", falls[name], 0.03, unit, absent=True)
            for name, title in NORMS.items()
            if name not in FALL
        ),
        Check("sharpness does not fall", falls["sharpness"], 0.002, "nat a doubling", absent=True),
    ]
    numbers["widths that fit, of all seeds"] = f"{fits.sum()} of {fits.size}"
    settings = {
        "data": f"MNIST, {n} training images",
        "network": f"784-h-10, ReLU, h = {', '.join(map(str, widths))}",
        **SETTINGS,
    }
    finish(run, draw(widths, found), numbers, checks, settings)


if __name__ == "__main__":
    main()
