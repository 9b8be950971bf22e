"""Measures against the generalization gap (Gain & Siegelmann 2019, figures of correlations of CNA-M).

Claim: CNA-Margin, the area between the complexity curves of training and test images times the margin, follows the
generalization gap closely, and more closely than the norms and margins it is compared with: over networks on
standard data sets and Gaussian noise, over standard data sets alone, and with 10 to 50 % of the labels shuffled.

Here: the networks of the figure on CNA and accuracy. The gap is test error less training error. The area is taken as
the authors' program has it (lobes of opposite sign cancel) and as printed (they do not); the better of the two counts.
Norms are divided by the squared margin, the logarithm of the product; they are undefined for networks whose margin is
not positive, which are left out and counted. The paper does not say which correlation it shows: ours is Kendall's,
with 95 % intervals from a bootstrap over networks.

Verdict: for each of the three groups of networks: CNA-M has a correlation of at least 0.5 ("close"); and a larger one
than every other measure has in size; and of at least 0.3 between networks that differ in architecture alone, since
data sets alone can make a correlation.
"""

from pathlib import Path

import numpy as np
from gain_study import about, networks, parts
from matplotlib.figure import Figure
from shared import Run, canvas, figure, finish

import analyze
from analyze import plot
from analyze.comparison import Comparison
from analyze.reference import GAIN_2019

CNA_M = {"cna_margin.absolute": "CNA-M (printed)", "cna_margin.polygon": "CNA-M (program)"}
OTHERS = {
    "cna_area.absolute": "CNA-Area (printed)",
    "cna_area.polygon": "CNA-Area (program)",
    "cna.pearson[train]": "CNA, training images",
    "margin.gamma[train]": "margin γ",
    "capacity.spectral_sum_slide": "sum of spectral norms / γ²",
    "capacity.log10_l2[dropped]": "product of Frobenius norms / γ²",
    "capacity.log10_spectral[dropped]": "product of spectral norms / γ²",
    "capacity.log10_l1_path[dropped]": "ℓ₁ path norm / γ²",
    "capacity.log10_l2_path[dropped]": "ℓ₂ path norm / γ²",
}
NAMES = CNA_M | OTHERS


def compare(paths: list[Path]) -> Comparison:
    """Correlation of every measure with the gap; an axis is what networks can differ in alone."""
    axes = ["dataset", "network", "shuffled"]
    return analyze.compare(paths, measures=list(NAMES), against=["gap_error"], axes=axes)


def kendall(comparison: Comparison) -> dict[str, np.ndarray]:
    """Correlation and both ends of its interval, by measure."""
    cell = comparison.correlations.sel(target="gap_error", statistic="kendall")
    return {
        name: np.array([float(cell[k].sel(measure=name)) for k in ("value", "low", "high")]) for name in NAMES
    }


def draw(found: dict[str, Comparison]) -> Figure:
    drawing = canvas(3.3)
    places = np.arange(len(NAMES))
    panels = drawing.subplots(1, len(found), sharex=True, sharey=True)
    for panel, (title, comparison) in zip(panels, found.items(), strict=True):
        value, low, high = np.array(list(kendall(comparison).values())).T
        colors = [plot.PALETTE[1] if name in CNA_M else plot.PALETTE[0] for name in NAMES]
        panel.barh(places, value, color=colors, height=0.7)
        panel.hlines(places, low, high, color="0.25", linewidth=0.8)
        panel.axvline(0, color="0.3", linewidth=0.7)
        panel.set(title=f"{title}\n{len(comparison.table)} networks", xlim=(-1, 1))
    panels[0].set_yticks(places, list(NAMES.values()))
    panels[0].invert_yaxis()
    panels[1].set_xlabel("Kendall's correlation with the generalization gap in error")
    return drawing


@figure(GAIN_2019)
def main(run: Run) -> None:
    found = {title: compare(paths) for title, paths in parts(networks(run))}
    numbers: dict[str, float | str] = {}
    checks: dict[str, bool] = {}
    for title, comparison in found.items():
        by_name = kendall(comparison)
        # The area should grow with the gap; of the others, some are known to fall as it grows.
        size = {n: np.nan_to_num(v[0] if n in CNA_M else abs(v[0])) for n, v in by_name.items()}
        ours, best = (max(names, key=lambda name: size[name]) for names in (CNA_M, OTHERS))
        axes = comparison.correlations["granulated"].sel(measure=ours, target="gap_error", axis="network")
        shown = {name: "{:.2f} ({:.2f} to {:.2f})".format(*by_name[name]) for name in (ours, best)}
        without = int(comparison.correlations["n_undefined"].sel(measure=best, target="gap_error"))
        numbers |= {
            f"{title}: {NAMES[ours]}, Kendall's correlation with the gap": shown[ours],
            f"{title}: the best other measure": f"{NAMES[best]} {shown[best]}",
            f"{title}: networks, and those for which that is undefined": f"{len(comparison.table)}, {without}",
            f"{title}: {NAMES[ours]} between networks that differ in architecture alone": float(axes),
        }
        checks |= {
            f"{title}: CNA-M follows the gap closely": size[ours] >= 0.5,
            f"{title}: more closely than any other measure": size[ours] > size[best],
            f"{title}: also among architectures alone": float(axes) >= 0.3,
        }
    table = next(iter(found.values())).table
    numbers["range of the gap"] = f"{table['gap_error'].min():.2f} to {table['gap_error'].max():.2f}"
    finish(run, draw(found), numbers, checks, about(run))


if __name__ == "__main__":
    main()
