"""Measures against the generalization gap (Gain & Siegelmann 2019, figures of correlations of CNA-M).

Claim: CNA-Margin, the area between the complexity curves of training and test images times the margin, follows the
generalization gap closely, and more closely than the norms and margins it is compared with: over networks on
standard data sets and Gaussian noise, over standard data sets alone, and with 10 to 50 % of the labels shuffled.

Here: the networks of the figure on CNA and accuracy. The gap is test error less training error. The area is read in
three ways: whole, as its largest lobe (the largest inscribed polygon, in the words of the poster), and as the authors'
program has it (lobes of opposite sign cancel). Norms are divided by the squared margin, the logarithm of the product;
they are undefined for networks whose margin is not positive, which are left out. The paper does not say which
correlation it shows: ours is Kendall's, over the networks of one seed.

Verdict: closely: Kendall's correlation of CNA-M and gap, for every reading and group of networks; 0.5 matters. More
closely: the correlation of CNA-M by its largest lobe less the largest, in size, of any other measure; 0.1
matters. By more than the data sets: its correlation among architectures alone, mean over data sets; 0.3 matters.
"""

import numpy as np
from gain_study import NORMS, READINGS, about, kendall, whole, within
from matplotlib.figure import Figure
from shared import Check, Run, canvas, figure, finish, spread

from analyze import plot
from analyze.reference import GAIN_2019

WORDS = dict(zip(READINGS, ("whole area", "largest lobe", "authors' program"), strict=True))
CNA_M = {f"margin {one} pre": f"CNA-M, {WORDS[one]}" for one in READINGS}
OTHERS = {
    **{f"area {one} pre": f"CNA-Area, {WORDS[one]}" for one in READINGS},
    "cna pearson train pre": "CNA, training images",
    "cna pearson train post": "the same, sums after the ReLU",
    "gamma": "margin γ",
    "spectral sum": "sum of spectral norms / γ²",
    **dict(
        zip(
            NORMS,
            (
                f"{n} / γ²"
                for n in (
                    "product of Frobenius norms",
                    "product of spectral norms",
                    "ℓ₁ path norm",
                    "ℓ₂ path norm",
                )
            ),
            strict=True,
        )
    ),
}
NAMES = CNA_M | OTHERS
BEST = "margin lobe pre"


def groups(table: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Which networks are in the groups of the paper's panels."""
    plain, noise = table["shuffled"] == 0, table["dataset"] == "noise"
    return {
        "standard data sets and noise": plain,
        "standard data sets": plain & ~noise,
        "labels shuffled": ~plain,
    }


def correlations(tables: list[dict[str, np.ndarray]], group: str) -> dict[str, np.ndarray]:
    """Kendall's correlation (seed,) of every measure with the gap."""
    return {name: np.array([kendall(t, name, "gap", groups(t)[group]) for t in tables]) for name in NAMES}


def draw(found: dict[str, dict[str, np.ndarray]]) -> Figure:
    drawing = canvas(3.3)
    places = np.arange(len(NAMES))
    panels = drawing.subplots(1, len(found), sharex=True, sharey=True)
    for panel, (title, values) in zip(panels, found.items(), strict=True):
        rows = np.array(list(values.values()))
        colors = [plot.PALETTE[1] if name in CNA_M else plot.PALETTE[0] for name in NAMES]
        mean, std = np.nanmean(rows, 1), np.nanstd(rows, 1, ddof=1)
        panel.barh(places, mean, color=colors, height=0.7)
        panel.hlines(places, mean - std, mean + std, color="0.25", linewidth=0.8)
        panel.axvline(0, color="0.3", linewidth=0.7)
        panel.set(title=title, xlim=(-1, 1))
    panels[0].set_yticks(places, list(NAMES.values()))
    panels[0].invert_yaxis()
    panels[1].set_xlabel("Kendall's correlation with the generalization gap in error")
    return drawing


@figure(GAIN_2019)
def main(run: Run) -> None:
    tables = whole(run)
    found = {group: correlations(tables, group) for group in groups(tables[0])}
    numbers, checks, more = {}, [], []
    for group, values in found.items():
        checks += [
            Check(f"{group}: {title} follows the gap closely", values[name], 0.5, "of correlation")
            for name, title in CNA_M.items()
        ]
        others = np.array([np.abs(values[name]) for name in OTHERS])
        more.append(
            Check(f"{group}: more than any other", values[BEST] - np.nanmax(others, 0), 0.1, "of correlation")
        )
        best = list(OTHERS)[int(np.nanargmax(np.nanmean(others, 1)))]
        numbers[f"{group}: the best other measure"] = f"{OTHERS[best]} {spread(values[best])}"
    alone = [within(table, BEST, "gap") for table in tables]
    checks += [*more, Check("also among architectures alone", alone, 0.3, "of correlation")]
    gap = np.concatenate([table["gap"] for table in tables])
    numbers["range of the gap"] = f"{gap.min():.2f} to {gap.max():.2f}"
    finish(run, draw(found), numbers, checks, about(run))


if __name__ == "__main__":
    main()
