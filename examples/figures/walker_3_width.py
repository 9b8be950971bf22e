"""Stiffness through the layers by number of hidden units (Walker 2023, Figure 3).

Claim: how stiffness changes through the layers depends on the number of hidden units. The report shows a
panel for each network and draws no conclusion; ours is that in wider networks stiffness rises at an earlier
layer.

Here: trained MLPs of five hidden layers, of 10, 25, 50 and 100 units (twice as many for MNIST), on two
problems in the plane and on MNIST. The report gives neither its widths nor its data. The centre of a curve
is the mean layer, each weighing its stiffness.

Verdict: for each problem, by means over the seeds. Width matters: the widest and the narrowest network have
centres that differ by more than two standard errors. Earlier: the centre of the widest lies lower.
"""

import numpy as np
from layers import PROBLEMS, SETTINGS, curve, later, profile
from shared import Run, canvas, figure, finish, spread

from analyze import plot
from analyze.reference import WALKER_2023

WIDTHS = (10, 25, 50, 100)


@figure(WALKER_2023)
def main(run: Run) -> None:
    seeds = range(run.seed, run.seed + run.pick(quick=2, gallery=5, full=10))
    widths = run.pick(quick=WIDTHS[::3], gallery=WIDTHS, full=(*WIDTHS, 200, 400))
    drawing, numbers, shift = canvas(2.4), {}, {}
    for axes, problem in zip(drawing.subplots(1, len(PROBLEMS)), PROBLEMS, strict=True):
        centres = []
        for width, color in zip(widths, plot.depth_colors(len(widths)), strict=True):
            units = 2 * width if problem == "mnist" else width
            runs = [profile(run, problem, seed, units) for seed in seeds]
            curve(axes, runs, -1, label=f"{units} units", color=color)
            centres.append([one.centre for one in runs])
            numbers[f"centre, {problem}, {units} units"] = spread(centres[-1])
            numbers[f"test error, {problem}, {units} units"] = spread([one.error for one in runs], 3)
        shift[problem] = later(np.array(centres[0]), np.array(centres[-1]))
        plot.zero_line(axes)
        axes.set(title=problem, xlabel="layer", xticks=range(1, 7))
        plot.legend(axes)
    drawing.axes[0].set_ylabel("mean gradient cosine, trained")
    moved = {f"narrowest minus widest, {p}, in standard errors": f"{z:+.1f}" for p, z in shift.items()}
    checks = {f"width matters, {p}": abs(z) > 2 for p, z in shift.items()}
    checks |= {f"earlier in wider networks, {p}": z > 0 if abs(z) > 2 else None for p, z in shift.items()}
    finish(run, drawing, moved | numbers, checks, {**SETTINGS, "seeds": f"{seeds.start} to {seeds.stop - 1}"})


if __name__ == "__main__":
    main()
