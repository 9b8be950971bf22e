"""CNA against test accuracy over many networks (Gain & Siegelmann 2019, figure of close to 200 networks).

Claim: networks that classify unseen images better have a higher CNA: over close to 200 networks of several
architectures and data sets, the CNA (its moving average) rises with test accuracy.

Here: small networks, MLPs of two to four hidden layers and CNNs of three convolutions, on MNIST, CIFAR-10,
scikit-learn's digits and Gaussian noise with random labels; MLPs on the first three also with shares of the training
labels shuffled. The paper has FashionMNIST, CIFAR-100 and ImageNet-32 beside two of these, larger networks, and does
not say whether labels were shuffled. The CNA is that of the test images, at the end of training, of sums before the
ReLU, as the authors' program has it, and after it; its rank correlation is given beside it. Images of the data
sets differ in complexity, so that a trend over all networks can come from the data sets alone; the control is the
correlation among networks of one data set.

Verdict: for both kinds of sums, Kendall's correlation of CNA and test accuracy over the networks of one seed; 0.2
matters: over all networks; over those trained on true labels; and within data sets that can be learned (mean of the
three), true labels only.
"""

import numpy as np
from gain_study import TRUE, about, kendall, whole, within
from matplotlib.figure import Figure
from shared import Check, Run, canvas, figure, finish, spread

from analyze import plot
from analyze.numerics import running_mean
from analyze.reference import GAIN_2019

WINDOW = 25
NAMES = {"mnist": "MNIST", "digits": "digits", "cifar10": "CIFAR-10", "noise": "noise"}
KINDS = {"pre": "before the ReLU", "post": "after the ReLU"}


def draw(tables: list[dict[str, np.ndarray]]) -> Figure:
    """Networks of all seeds, with sums before and after the ReLU."""
    drawing = canvas(2.9)
    table = {name: np.concatenate([one[name] for one in tables]) for name in tables[0]}
    panels = drawing.subplots(1, 2, sharey=True)
    accuracy = 100 * table["accuracy"]
    for panel, (where, title) in zip(panels, KINDS.items(), strict=True):
        cna = table[f"cna pearson test {where}"]
        for name, color in zip(TRUE, plot.PALETTE, strict=False):
            for kind, marker in (("mlp", "o"), ("cnn", "^")):
                mine = (table["dataset"] == name) & np.char.startswith(table["network"], kind)
                label = NAMES[name] if kind == "mlp" else None
                style = {"s": 6, "linewidths": 0.5, "edgecolors": color, "marker": marker}
                panel.scatter(
                    accuracy[mine],
                    cna[mine],
                    label=label,
                    facecolors=color if kind == "mlp" else "none",
                    **style,
                )
        order = np.argsort(accuracy, kind="stable")
        order = order[~np.isnan(cna[order])]
        means = [running_mean(values[order], min(WINDOW, len(order))) for values in (accuracy, cna)]
        panel.plot(*means, color="black", label=f"moving average of {WINDOW}")
        panel.set(xlabel="test accuracy (%)", title=f"{len(cna)} networks, sums {title}")
    panels[0].set_ylabel("CNA of the test images")
    panels[0].plot([], [], "o", color="0.4", label="MLP")
    panels[0].plot([], [], "^", color="0.4", markerfacecolor="none", label="CNN")
    drawing.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=7)
    return drawing


@figure(GAIN_2019)
def main(run: Run) -> None:
    tables = whole(run)
    numbers, checks = {}, []
    for where, word in KINDS.items():
        for kind, name in (("pearson", "Kendall's correlation"), ("spearman", "the same of the rank CNA")):
            cna = f"cna {kind} test {where}"
            values = {
                "all networks": [kendall(t, cna, "accuracy", t["gap"] == t["gap"]) for t in tables],
                "true labels": [kendall(t, cna, "accuracy", t["shuffled"] == 0) for t in tables],
                "within data sets": [within(t, cna, "accuracy") for t in tables],
            }
            if kind == "pearson":
                checks += [
                    Check(f"rises with accuracy, sums {word}: {label}", v, 0.2, "of Kendall's correlation")
                    for label, v in values.items()
                ]
            else:
                numbers |= {f"{name}, sums {word}, {label}": spread(v) for label, v in values.items()}
    for data in TRUE:
        medians = [np.nanmedian(t["cna pearson test pre"][t["dataset"] == data]) for t in tables]
        numbers[f"median CNA, {NAMES[data]}"] = spread(medians)
    finish(run, draw(tables), numbers, checks, about(run))


if __name__ == "__main__":
    main()
