"""Stiffness through the layers by number of hidden units (Walker 2023, Figure 3).

Claim: how stiffness changes through the layers depends on the number of hidden units. The report shows a
panel for each network and draws no conclusion; ours is that in wider networks stiffness rises at an earlier
layer.

Here: trained MLPs of five hidden layers, of 10, 25, 50 and 100 units (twice as many for MNIST), on two
problems in the plane and on MNIST. The report gives neither its widths nor its data. The centre of a curve
is the mean layer, each weighing its stiffness; that of the untrained networks is given beside it.

Verdict: for each problem, the centre of the narrowest network less that of the widest, at the same seed; a quarter
of a layer matters. Then the same less its value before training: that width does it by learning.
"""

from layers import PROBLEMS, SETTINGS, curve, places, profile
from shared import Check, Run, canvas, figure, finish, spread

from analyze import plot
from analyze.reference import WALKER_2023

WIDTHS = (10, 25, 50, 100)
SMALLEST = 0.25


@figure(WALKER_2023)
def main(run: Run) -> None:
    widths = run.pick(quick=WIDTHS[::3], gallery=WIDTHS, full=(*WIDTHS, 200, 400))
    drawing, numbers, shift = canvas(2.4), {}, {}
    for axes, problem in zip(drawing.subplots(1, len(PROBLEMS)), PROBLEMS, strict=True):
        found = []
        for width, color in zip(widths, plot.depth_colors(len(widths)), strict=True):
            units = 2 * width if problem == "mnist" else width
            runs = run.each(profile, problem, "relu", units)
            curve(axes, runs, 1, label=f"{units} units", color=color)
            found.append(places(runs))
            for when in ("trained", "untrained"):
                numbers[f"centre, {problem}, {units} units, {when}"] = spread(found[-1][when])
            numbers[f"test error, {problem}, {units} units"] = spread([one["error"] for one in runs], 3)
        shift[problem] = {when: found[0][when] - found[-1][when] for when in ("trained", "untrained")}
        plot.zero_line(axes)
        axes.set(title=problem, xlabel="layer", xticks=range(1, 7))
        plot.legend(axes)
    drawing.axes[0].set_ylabel("mean cosine, trained")
    checks = [
        Check(f"earlier in wider networks, {p}", shift[p]["trained"], SMALLEST, "layers") for p in PROBLEMS
    ]
    checks += [
        Check(f"more so than before training, {p}", at["trained"] - at["untrained"], SMALLEST, "layers")
        for p, at in shift.items()
    ]
    finish(run, drawing, numbers, checks, SETTINGS)


if __name__ == "__main__":
    main()
