"""Stiffness through layers connected by LeakyReLU (Walker 2023, Figure 5).

Claim: with LeakyReLU, stiffness rises at a later layer than with ReLU and an earlier one than with tanh. The
report draws no conclusion; this one is ours: like tanh it can be undone, but like ReLU it has a kink. (The
caption in the report says tanh again; its text says LeakyReLU.)

Here: the trained MLPs of Figures 2 and 4, and the same with LeakyReLU of slope 0.01, the default of PyTorch,
and 0.2. The report does not give the slope. The centre of a curve is the mean layer, each weighing its
stiffness.

Verdict: for each problem, with slope 0.2, by means over the seeds. The centre lies later than ReLU's, and
earlier than tanh's, each by more than two standard errors.
"""

from functools import partial

from layers import PROBLEMS, SETTINGS, by_activation, later
from shared import Run, figure, finish
from torch import nn

from analyze.reference import WALKER_2023

ACTIVATIONS = {
    "relu": nn.ReLU,
    "leaky 0.01": nn.LeakyReLU,
    "leaky 0.2": partial(nn.LeakyReLU, 0.2),
    "tanh": nn.Tanh,
}


@figure(WALKER_2023)
def main(run: Run) -> None:
    drawing, numbers, centres = by_activation(run, ACTIVATIONS)
    checks, moved = {}, {}
    for problem in PROBLEMS:
        relu, leaky, tanh = (centres[problem, name] for name in ("relu", "leaky 0.2", "tanh"))
        moved[f"0.2 minus ReLU, {problem}, in standard errors"] = f"{later(leaky, relu):+.1f}"
        moved[f"tanh minus 0.2, {problem}, in standard errors"] = f"{later(tanh, leaky):+.1f}"
        checks[f"later than ReLU, {problem}"] = later(leaky, relu) > 2
        checks[f"earlier than tanh, {problem}"] = later(tanh, leaky) > 2
    seeds = len(centres["moons", "relu"])
    finish(
        run, drawing, moved | numbers, checks, {**SETTINGS, "seeds": f"{run.seed} to {run.seed + seeds - 1}"}
    )


if __name__ == "__main__":
    main()
