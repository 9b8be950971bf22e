"""What the figures of capacity on true and on random labels share: networks compared, checks and drawing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from capacity_runs import NORMS, SHARPER, lines, measure, record, slope, table
from matplotlib.figure import Figure
from shared import Check, Result, Run, canvas, load, spread
from torch import nn

from analyze import plot

COLORS = {"true": plot.PALETTE[0], "random": "#B5179E"}
Found = dict[str, dict[str, np.ndarray]]  # labels, then measure: (size, seed)


def measured(run: Run, name: str, model: partial[nn.Module], size: int, labels: str, seed: int) -> Result:
    """Measures of one network, trained on `size` images of CIFAR-10."""
    data = load("cifar10", run.data, size, 1000, seed, shuffled=float(labels == "random"))
    return measure(record(run, f"{name}_{size}_{labels}_{seed}", model, data, seed))


def both(run: Run, one: Any, sizes: Sequence[int]) -> Found:
    """`one(run, size, labels, seed)` of all sizes, labels and seeds."""
    return {labels: table([run.each(one, size, labels) for size in sizes]) for labels in COLORS}


def checks(found: Found) -> list[Check]:
    """Each norm is larger with random labels at every size, and grows more; sharpness is not larger at every size."""
    true, random = found["true"], found["random"]
    ratios = {title: random[name] - true[name] for name, title in NORMS.items()}
    larger = "larger with random labels at every size"
    return [
        *(Check(f"{title}: {larger}", ratio.min(0), 0.1, "log₁₀") for title, ratio in ratios.items()),
        *(
            Check(f"{title}: grows more with random labels", slope(ratio), 0.03, "log₁₀ a doubling")
            for title, ratio in ratios.items()
        ),
        Check(
            "sharpness: not larger at every size",
            (random["sharpness"] - true["sharpness"]).min(0),
            SHARPER,
            "nat",
            absent=True,
        ),
    ]


def numbers(found: Found, sizes: Sequence[int]) -> dict[str, str]:
    """Ratios of the norms at the largest and the smallest size, sharpness and errors."""
    rows = {}
    for name, title in NORMS.items():
        ratio = found["random"][name] - found["true"][name]
        for size, row in ((sizes[-1], ratio[-1]), (sizes[0], ratio[0])):
            rows[f"{title}, random over true, {size} images (log₁₀)"] = spread(row)
    for labels, values in found.items():
        rows[f"sharpness, {labels} labels, {sizes[0]} and {sizes[-1]} images"] = (
            f"{spread(values['sharpness'][0])} and {spread(values['sharpness'][-1])}"
        )
        for kind in ("train error", "test error"):
            rows[f"{kind}, {labels} labels, {sizes[-1]} images"] = spread(values[kind][-1], 3)
    return rows


def draw(sizes: Sequence[int], found: Found) -> Figure:
    drawing = canvas(3.6)
    axes = drawing.subplots(2, 3).ravel()
    for labels, values in found.items():
        style = {"color": COLORS[labels], "label": f"{labels} labels"}
        for panel, (name, title) in zip(axes, NORMS.items(), strict=False):
            lines(panel, sizes, values[name], log10=True, **style)
            panel.set_title(f"{title} / γ²")
        lines(axes[4], sizes, values["sharpness"], **style)
        lines(axes[5], sizes, values["test error"], **style)
        lines(axes[5], sizes, values["train error"], color=COLORS[labels], linestyle=":")
    axes[4].set_title("sharpness")
    axes[5].set(title="error: test, and training (dotted)", ylim=(-0.03, 1))
    for panel in axes:
        panel.set_xscale("log")
        panel.set_xticks(sizes, [str(size) for size in sizes], minor=False)
        panel.minorticks_off()
    for panel in axes[3:]:
        panel.set_xlabel("training images")
    plot.legend(axes[0])
    return drawing
