"""Stiffness through layers connected by LeakyReLU (Walker 2023, Figure 5).

Claim: with LeakyReLU, stiffness rises at a later layer than with ReLU and an earlier one than with tanh. The
report draws no conclusion; this one is ours: like tanh it can be undone, but like ReLU it has a kink. (The
caption in the report says tanh again; its text says LeakyReLU.)

Here: the MLPs of Figures 2 and 4, and the same with LeakyReLU of slope 0.01, the default of PyTorch, and 0.2. The
report does not give the slope. The centre of a curve is the mean layer, each weighing its stiffness; beside it,
as in Figure 4, the centre of what training adds, in networks where it adds 0.05 or more in some layer.

Verdict: for each problem, with slope 0.2, at the same seed; a quarter of a layer matters. The centre of the trained
stiffness lies later than ReLU's, and earlier than tanh's; and so does the centre of what training adds.
"""

from layers import ACTIVATIONS, PROBLEMS, SETTINGS, by_activation
from shared import Check, Run, figure, finish

from analyze.reference import WALKER_2023

SMALLEST = 0.25
PLACES = {"trained": "", "rise": "what training adds lies "}


@figure(WALKER_2023)
def main(run: Run) -> None:
    drawing, numbers, found = by_activation(run, tuple(ACTIVATIONS))
    checks = []
    for place, word in PLACES.items():
        for problem in PROBLEMS:
            relu, leaky, tanh = (found[problem, name][place] for name in ("relu", "leaky 0.2", "tanh"))
            checks += [
                Check(f"{word}later than with ReLU, {problem}", leaky - relu, SMALLEST, "layers"),
                Check(f"{word}earlier than with tanh, {problem}", tanh - leaky, SMALLEST, "layers"),
            ]
    finish(run, drawing, numbers, checks, SETTINGS)


if __name__ == "__main__":
    main()
