"""Error by complexity: are complex inputs learned later, and worse, than simple ones?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from analyze import plot
from analyze.contract import metric
from analyze.numerics import mean_defined
from analyze.reference import GAIN_2019

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure


@metric(
    reads=("correct", "complexity.entropy", "ids"),
    variables={"error": ("step", "group"), "mean_complexity": ("group",), "n_examples": ("group",)},
    scope="test",
    bounds={"error": (0, 1), "mean_complexity": (0, np.inf)},
    units={"error": "share of examples", "mean_complexity": "bits"},
    summary={"error": {"group": ("first", "last")}},
    makes=(),
    title="Test error by input complexity",
    formula="mean 0/1 error of test examples in each tenth by input complexity α",
    cost="n per step",
    reading=(
        "One curve per tenth of the test examples, from the simplest (dark) to the most complex (light). "
        "Curves that lie in order say that complexity makes an example hard."
    ),
    reference=GAIN_2019,
)
def error_by_complexity(
    correct: np.ndarray, complexity_entropy: np.ndarray, ids: np.ndarray, *, groups: int = 10
) -> dict[str, Any]:
    """Share of wrong test examples in groups of equal size, from the least to the most complex inputs.

    `correct` (step, example) is true where the class is the label, `complexity_entropy` (example,) in bits,
    `ids` (example,). Examples are sorted by complexity, equal ones by id, and cut into `groups` groups whose
    sizes (`n_examples`) differ by at most one; `group` counts from 1, the simplest. Examples of undefined
    complexity are left out. An empty group is NaN.

    >>> alpha = np.array([3.0, 9.0, 1.0, 2.0])
    >>> result = error_by_complexity(np.array([[1, 0, 1, 0]]), alpha, np.arange(4), groups=2)
    >>> result["error"], result["mean_complexity"]
    (array([[0.5, 0.5]]), array([1.5, 6. ]))
    """
    order = np.lexsort((ids, complexity_entropy))
    order = order[~np.isnan(complexity_entropy[order])]
    members = np.array_split(order, groups)
    wrong = 1.0 - np.asarray(correct, np.float64)
    return {
        "error": np.stack([mean_defined(wrong[:, group], axis=1)[0] for group in members], axis=1),
        "mean_complexity": np.array([mean_defined(complexity_entropy[group])[0] for group in members]),
        "n_examples": np.array([len(group) for group in members]),
        "group": np.arange(1, groups + 1),
    }


def plot_error_by_complexity(result: xr.Dataset, figure: Figure) -> None:
    """Test error against training, one curve per complexity group."""
    (axes,) = plot.panels(figure, 1, height=3.2)
    groups = result["group"].values
    for group, color in zip(groups, plot.depth_colors(len(groups)), strict=True):
        bits = float(result["mean_complexity"].sel(group=group))
        label = f"{group} of {len(groups)} ({bits:.2f} bits)"
        plot.line(axes, result["step"], result["error"].sel(group=group), color=color, label=label)
    plot.step_axis(axes, result["step"])
    axes.set(ylabel="test error (share wrong)", ylim=(-0.02, None), title="complexity group (mean entropy)")
    plot.legend(axes)
