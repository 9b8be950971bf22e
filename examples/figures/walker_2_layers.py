"""Stiffness through the layers, before and after training (Walker 2023, Figure 2).

Claim: the stiffness of an example with a random sample that holds every class changes through the layers of
a network, and does so differently once the network is trained. The report shows curves and draws no
conclusion; ours is that training turns a profile that falls with depth into one that rises.

Here: MLPs of five hidden layers of 25 units (100 for MNIST) on two problems in the plane and on MNIST. The
report does not give its network or data. Stiffness is taken of the gradient of one layer at a time, weight
and bias together, and averaged over all pairs of an anchor with the reference set, of the same class or not.

Verdict: by the rank correlation between a layer's depth and its stiffness, mean over the seeds. The
untrained profile falls, on every problem: below -0.5. The trained one rises: above 0.5, in the plane and on
MNIST.
"""

import numpy as np
from layers import PROBLEMS, SETTINGS, curve, profile
from shared import Run, canvas, figure, finish, spread

from analyze import plot
from analyze.reference import WALKER_2023

WHEN = ("untrained", "trained")


@figure(WALKER_2023)
def main(run: Run) -> None:
    seeds = range(run.seed, run.seed + run.pick(quick=2, gallery=5, full=10))
    widths = {problem: 100 if problem == "mnist" else 25 for problem in PROBLEMS}
    found = {name: [profile(run, name, seed, width) for seed in seeds] for name, width in widths.items()}
    drawing, numbers, slope = canvas(2.3), {}, {}
    for axes, (problem, runs) in zip(drawing.subplots(1, len(found)), found.items(), strict=True):
        for word, color in (("trained", plot.PALETTE[0]), ("untrained", plot.PALETTE[4])):
            k = WHEN.index(word)
            curve(axes, runs, k, label=word, color=color)
            slopes = [one.slope[k] for one in runs]
            slope[problem, word] = np.mean(slopes)
            numbers[f"rank correlation with depth, {problem}, {word}"] = spread(slopes)
        numbers[f"test error, {problem}"] = spread([one.error for one in runs], 3)
        plot.zero_line(axes)
        axes.set(title=problem, xlabel="layer", xticks=range(1, 7))
    drawing.axes[0].set_ylabel("mean gradient cosine")
    plot.legend(drawing.axes[0])
    checks = {
        "falls with depth before training, on every problem": all(
            slope[p, "untrained"] < -0.5 for p in PROBLEMS
        ),
        "rises with depth after training, in the plane": all(slope[p, "trained"] > 0.5 for p in PROBLEMS[:2]),
        "rises with depth after training, on MNIST": slope["mnist", "trained"] > 0.5,
    }
    finish(run, drawing, numbers, checks, {**SETTINGS, "seeds": f"{seeds.start} to {seeds.stop - 1}"})


if __name__ == "__main__":
    main()
