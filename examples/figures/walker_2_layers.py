"""Stiffness through the layers, before and after training (Walker 2023, Figure 2).

Claim: the stiffness of an example with a random sample that holds every class changes through the layers of
a network, and does so differently once the network is trained. The report shows curves and draws no
conclusion; ours is that training turns a profile that falls with depth into one that rises.

Here: MLPs of five hidden layers of 25 units (100 for MNIST) on two problems in the plane and on MNIST. The
report does not give its network or data. Stiffness is taken of the gradient of one layer at a time, weight
and bias together, and averaged over all pairs of an anchor with the reference set, of the same class or not.

Verdict: by the rank correlation between a layer's depth and its stiffness, which has no trend at 0 and matters
from 0.5: for each problem, the trained profile rises and the untrained one falls.
"""

from layers import PROBLEMS, SETTINGS, curve, profile, slope, units
from shared import Check, Run, canvas, figure, finish, spread

from analyze import plot
from analyze.reference import WALKER_2023

WHEN = ("untrained", "trained")


@figure(WALKER_2023)
def main(run: Run) -> None:
    drawing, numbers, slopes = canvas(2.3), {}, {}
    for axes, problem in zip(drawing.subplots(1, len(PROBLEMS)), PROBLEMS, strict=True):
        runs = run.each(profile, problem, "relu", units(problem))
        for word, color in (("trained", plot.PALETTE[0]), ("untrained", plot.PALETTE[4])):
            curve(axes, runs, WHEN.index(word), label=word, color=color)
            slopes[problem, word] = slope(runs, WHEN.index(word))
            numbers[f"rank correlation with depth, {problem}, {word}"] = spread(slopes[problem, word])
        numbers[f"test error, {problem}"] = spread([one["error"] for one in runs], 3)
        plot.zero_line(axes)
        axes.set(title=problem, xlabel="layer", xticks=range(1, 7))
    drawing.axes[0].set_ylabel("mean gradient cosine")
    plot.legend(drawing.axes[0])
    checks = [
        *(Check(f"rises with depth after training, {p}", slopes[p, "trained"], 0.5) for p in PROBLEMS),
        *(Check(f"falls with depth before training, {p}", -slopes[p, "untrained"], 0.5) for p in PROBLEMS),
    ]
    finish(run, drawing, numbers, checks, SETTINGS)


if __name__ == "__main__":
    main()
