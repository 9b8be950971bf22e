"""CNA against test accuracy over many networks (Gain & Siegelmann 2019, figure of close to 200 networks).

Claim: networks that classify unseen images better have a higher CNA: over close to 200 networks of several
architectures and data sets, the CNA (its moving average) rises with test accuracy.

Here: small networks, MLPs of two to four hidden layers and CNNs of three convolutions, on MNIST, CIFAR-10,
scikit-learn's digits and Gaussian noise with random labels; MLPs on the first three also with shares of the training
labels shuffled. The paper has FashionMNIST, CIFAR-100 and ImageNet-32 beside two of these, larger networks, and does
not say whether labels were shuffled. The CNA is that of the test images, at the end of training. Images of the data
sets differ in complexity, so that a trend over all networks can come from the data sets alone; the control is the
correlation among networks of one data set.

Verdict: Kendall's correlation of CNA and test accuracy, with 95 % intervals from a bootstrap over networks: above 0
over all networks; over those trained on true labels; and within each data set that can be learned, true labels only.
"""

from pathlib import Path

from gain_study import LEARNABLE, TRUE, about, networks
from matplotlib.figure import Figure
from shared import Run, canvas, figure, finish

import analyze
from analyze import plot
from analyze.comparison import Comparison
from analyze.numerics import running_mean
from analyze.reference import GAIN_2019

CNA, WINDOW = "cna.pearson[test]", 25
NAMES = {"mnist": "MNIST", "digits": "digits", "cifar10": "CIFAR-10", "noise": "noise"}


def compare(paths: list[Path]) -> Comparison:
    """CNA of each network, and its correlation with test error."""
    return analyze.compare(
        paths, measures=["cna.pearson"], against=["test_error"], axes=["dataset", "network"]
    )


def kendall(comparison: Comparison) -> tuple[float, float, float]:
    """Correlation with accuracy, which is that with error turned round, and its interval."""
    cell = comparison.correlations.sel(measure=CNA, target="test_error", statistic="kendall")
    return -float(cell["value"]), -float(cell["high"]), -float(cell["low"])


def shown(values: tuple[float, float, float]) -> str:
    return "{:.2f} ({:.2f} to {:.2f})".format(*values)


def draw(comparison: Comparison) -> Figure:
    drawing = canvas(2.9)
    left, right = drawing.subplots(1, 2, sharey=True)
    table = comparison.table.dropna(subset=[CNA, "test_error"])
    table = table.assign(accuracy=100 * (1 - table["test_error"])).sort_values("accuracy")
    for panel, chosen, title in (
        (left, table[table["shuffled"] == 0], "true labels"),
        (right, table, "some with shuffled labels"),
    ):
        for name, color in zip(TRUE, plot.PALETTE, strict=False):
            for kind, marker in (("mlp", "o"), ("cnn", "^")):
                mine = chosen[(chosen["dataset"] == name) & (chosen["kind"] == kind)]
                label = NAMES[name] if kind == "mlp" else None
                style = {"s": 14, "linewidths": 0.8, "color": color, "marker": marker}
                hollow = {"facecolors": "none"} if kind == "cnn" else {}
                panel.scatter(mine["accuracy"], mine[CNA], label=label, **style, **hollow)
        window = min(WINDOW, max(2, len(chosen) // 3))
        means = [running_mean(chosen[name].to_numpy(float), window) for name in ("accuracy", CNA)]
        panel.plot(*means, color="black", label=f"moving average of {window}")
        panel.set(xlabel="test accuracy (%)", title=f"{len(chosen)} networks, {title}")
    left.set_ylabel("CNA of the test images")
    left.plot([], [], "o", color="0.4", label="MLP")
    left.plot([], [], "^", color="0.4", markerfacecolor="none", label="CNN")
    drawing.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=7)
    return drawing


@figure(GAIN_2019)
def main(run: Run) -> None:
    paths = networks(run)
    true = [path for path in paths if path.stem.split("-")[-2] == "0"]
    every = compare(paths)
    found = {"all networks": kendall(every), "networks with true labels": kendall(compare(true))}
    for name in LEARNABLE:
        mine = [path for path in true if path.name.startswith(name)]
        found[f"{NAMES[name]}, true labels"] = kendall(compare(mine))
    few = len(true) < 20  # so few networks that an interval says nothing
    rises = {label: None if few else low > 0 for label, (_, low, _) in found.items()}
    within = every.correlations.sel(measure=CNA, target="test_error")["granulated"].sel(axis="network")
    numbers = {
        **{f"Kendall's correlation of CNA and accuracy, {label}": shown(v) for label, v in found.items()},
        "networks, and those with true labels": f"{len(paths)}, {len(true)}",
        "the same, between networks that differ in architecture alone": -float(within),
        "CNA, median of each data set": ", ".join(
            f"{NAMES[name]} {values.median():.2f}" for name, values in every.table.groupby("dataset")[CNA]
        ),
    }
    checks = {
        "the CNA rises with accuracy over all networks": rises["all networks"],
        "and over those trained on true labels": rises["networks with true labels"],
        **{
            f"and among networks on {NAMES[name]}": rises[f"{NAMES[name]}, true labels"] for name in LEARNABLE
        },
    }
    finish(run, draw(every), numbers, checks, about(run))


if __name__ == "__main__":
    main()
