"""Stiffness through layers connected by tanh (Walker 2023, Figure 4).

Claim: with tanh, stiffness rises at a later layer than with ReLU. The report asks whether what Naitzat et
al. (2020) found of topology is seen in stiffness too, and draws no conclusion; this one is ours. There,
networks with ReLU simplify the shape of the data in early layers, while tanh, which can be undone, does so
more slowly, mostly in the last ones.

Here: the trained MLPs of Figure 2, five hidden layers of 25 units (100 for MNIST), and the same with tanh.
The centre of a curve is the mean layer, each weighing its stiffness.

Verdict: for each problem, the mean centre over the seeds lies later with tanh by more than two standard
errors.
"""

from layers import PROBLEMS, SETTINGS, by_activation, later
from shared import Run, figure, finish
from torch import nn

from analyze.reference import WALKER_2023


@figure(WALKER_2023)
def main(run: Run) -> None:
    drawing, numbers, centres = by_activation(run, {"relu": nn.ReLU, "tanh": nn.Tanh})
    shift = {problem: later(centres[problem, "tanh"], centres[problem, "relu"]) for problem in PROBLEMS}
    moved = {f"tanh minus ReLU, {p}, in standard errors": f"{z:+.1f}" for p, z in shift.items()}
    checks = {f"later with tanh, {problem}": z > 2 for problem, z in shift.items()}
    seeds = len(centres["moons", "relu"])
    finish(
        run, drawing, moved | numbers, checks, {**SETTINGS, "seeds": f"{run.seed} to {run.seed + seeds - 1}"}
    )


if __name__ == "__main__":
    main()
