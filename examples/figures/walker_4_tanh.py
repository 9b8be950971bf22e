"""Stiffness through layers connected by tanh (Walker 2023, Figure 4).

Claim: with tanh, stiffness rises at a later layer than with ReLU. The report asks whether what Naitzat et
al. (2020) found of topology is seen in stiffness too, and draws no conclusion; this one is ours. There,
networks with ReLU simplify the shape of the data in early layers, while tanh, which can be undone, does so
more slowly, mostly in the last ones.

Here: the MLPs of Figure 2, five hidden layers of 25 units (100 for MNIST), and the same with tanh. The centre of a
curve is the mean layer, each weighing its stiffness. Two controls. The untrained networks: where tanh lies later
before training already, a later centre says nothing of learning. And the rise itself: the centre of what training
adds, in networks where it adds 0.05 or more in some layer.

Verdict: for each problem, at the same seed, tanh less ReLU; a quarter of a layer matters. The centre of the trained
stiffness; the same less its value before training; and the centre of the rise.
"""

from layers import PROBLEMS, SETTINGS, by_activation
from shared import Check, Run, figure, finish

from analyze.reference import WALKER_2023

SMALLEST = 0.25


@figure(WALKER_2023)
def main(run: Run) -> None:
    drawing, numbers, found = by_activation(run, ("relu", "tanh"))
    checks = []
    for problem in PROBLEMS:
        shift = {
            place: found[problem, "tanh"][place] - found[problem, "relu"][place]
            for place in found[problem, "relu"]
        }
        learned = shift["trained"] - shift["untrained"]
        checks += [
            Check(f"later with tanh, {problem}", shift["trained"], SMALLEST, "layers"),
            Check(f"more so than before training, {problem}", learned, SMALLEST, "layers"),
            Check(f"what training adds lies later, {problem}", shift["rise"], SMALLEST, "layers"),
        ]
    finish(run, drawing, numbers, checks, SETTINGS)


if __name__ == "__main__":
    main()
