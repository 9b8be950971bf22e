"""Local elasticity: does a step on one example move its class, and leave the others where they are?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from analyze import plot
from analyze.arrays.classes import classes_used
from analyze.contract import metric
from analyze.numerics import mean_defined
from analyze.reference import Reference

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

HE_2020 = Reference(
    key="he2020local",
    authors=("He, Hangfeng", "Su, Weijie J."),
    title="The Local Elasticity of Neural Networks",
    year=2020,
    venue="International Conference on Learning Representations",
    arxiv="1910.06943",
)
KINDS = ("relative", "kernelized")


@metric(
    reads=("states", "lr"),
    variables={
        "within": ("step", "probe", "kind"),
        "between": ("step", "probe", "kind"),
        "by_class": ("step", "probe", "kind", "label", "label_2"),
        "n_undefined": ("step", "probe", "kind"),
    },
    scope="probe",
    summary={"within": {"kind": "relative"}, "between": {"kind": "relative"}},
    title="Local elasticity",
    formula="S_rel(x, x') = |f⁺(x') - f(x')| / |f⁺(x) - f(x)|; S_ker = g·(f(x') - f⁺(x')) / η|g|², g = ∂L/∂f",
    cost="32 forward passes of 32 examples and a backward pass of each, a probe and snapshot, in float64",
    reading=(
        "f⁺ is the network after a step on x alone. Within classes above between classes: the network moves "
        "like with like. A linear model keeps both together; the gap of a network opens as it learns."
    ),
    reference=HE_2020,
    passes=lambda options, snapshots: snapshots * 6 * options["examples"],  # most of one example
    classes=True,
)
def local_elasticity(
    states: Any, lr: np.ndarray, *, step_size: float | None = None, examples: int = 32
) -> dict[str, Any]:
    """Mean change of other examples' outputs after a step on one, within classes and between them.

    `states` holds the network at every snapshot and the examples of a probe, the first `examples` of which
    are used; `lr` (step, param_group) the recorded learning rates, whose first column is the size of the step
    unless `step_size` says otherwise (0.001 where none is recorded, or 0). The step is plain gradient descent
    on one example. `relative` is the length of the change of outputs over that of the example itself;
    `kernelized` the change against the slope g of the loss by the outputs, over η g·g: for one output as
    printed, and to first order the tangent kernel seen along g. `within` and `between` (step, kind) are means
    over ordered pairs of different examples, `by_class` (step, kind, label, label_2) over those with a step
    on `label` seen at `label_2`. A pair is undefined, and counted in `n_undefined`, where the step moves
    nothing.

    >>> s = np.array([[1.0, 0.5, 0.1], [0.7, 1.0, 0.3], [0.0, 0.2, 1.0]])
    >>> found = summary(s, np.array([0, 0, 1]), np.array([0, 1]))
    >>> round(found["within"], 3), round(found["between"], 3)
    (0.6, 0.15)
    """
    from analyze.replay.local_elasticity import elasticities

    sample = states.examples(examples)
    labels = sample.labels
    classes = classes_used(states, labels, examples)
    rows, sizes = [], []
    for state, rates in zip(states, lr, strict=True):
        sizes.append(_step_size(step_size, rates))
        rows.append([summary(table, labels, classes) for table in elasticities(state, sample, sizes[-1])])
    columns = {name: np.array([[kind[name] for kind in row] for row in rows]) for name in rows[0][0]}
    about = {"n_examples": sample.n, "step_size": "recorded" if step_size is None else step_size}
    return {
        **columns,
        "kind": np.array(KINDS),
        "label": classes,
        "label_2": classes,
        "attrs": about,
    }


def _step_size(sample: float | None, rates: np.ndarray) -> float:
    if sample is not None:
        return float(sample)
    rate = float(rates[0]) if len(rates) else 0.0
    return rate if np.isfinite(rate) and rate > 0 else 1e-3


def summary(table: np.ndarray, labels: np.ndarray, classes: np.ndarray) -> dict[str, Any]:
    """Means of a table (example, example_2) off its diagonal: within, between and by class."""
    other = ~np.eye(len(table), dtype=bool)
    same = labels[:, None] == labels[None, :]
    other &= (labels[:, None] >= 0) & (labels >= 0)
    by_class = np.full((len(classes), len(classes)), np.nan)
    for first, second in np.ndindex(by_class.shape):
        chosen = other & (labels[:, None] == classes[first]) & (labels[None, :] == classes[second])
        by_class[first, second] = mean_defined(table[chosen])[0]
    return {
        "within": float(mean_defined(table[other & same])[0]),
        "between": float(mean_defined(table[other & ~same])[0]),
        "by_class": by_class,
        "n_undefined": int(np.isnan(table[other]).sum()),
    }


def plot_local_elasticity(result: xr.Dataset, figure: Figure) -> None:
    """Within and between classes against training for both kinds, and the classes at the last snapshot."""
    axes = plot.panels(figure, 3, columns=3, height=2.6, sharex=False, sharey=False)
    probes = [str(name) for name in result["probe"].values]
    for panel, kind in zip(axes, KINDS, strict=False):
        for k, name in enumerate(probes):
            at, color = result.sel(probe=name, kind=kind), plot.color_of(name, k)
            plot.line(panel, result["step"], at["within"], color=color, label=f"{name}, within classes")
            plot.line(
                panel, result["step"], at["between"], color=color, linestyle=":", label=f"{name}, between"
            )
        plot.step_axis(panel, result["step"])
        panel.set(title=kind, ylabel="elasticity")
    axes[0].set_ylim(bottom=0)
    axes[1].set_yscale("symlog", linthresh=1)  # of any sign and size
    last = result["by_class"].sel(probe=probes[0], kind="relative").isel(step=-1).values
    plot.heat(
        axes[2], last, limits=(0, max(1.0, plot.finite_limits(last)[1])), colorbar="relative elasticity"
    )
    for axis in (axes[2].xaxis, axes[2].yaxis):
        plot.name_ticks(axis, result["label"].values, limit=10)
    axes[2].set(
        title=f"{probes[0]}, step {int(result['step'].values[-1]):,}",
        xlabel="class looked at",
        ylabel="class stepped on",
    )
    plot.legend(axes[0])
