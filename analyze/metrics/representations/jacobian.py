"""Input-output Jacobian: how much do the outputs move when the input does?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from analyze import plot
from analyze.arrays.classes import classes_used
from analyze.contract import metric
from analyze.numerics import mean_defined, std_defined
from analyze.reference import Reference

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

NOVAK_2018 = Reference(
    key="novak2018sensitivity",
    authors=(
        "Novak, Roman",
        "Bahri, Yasaman",
        "Abolafia, Daniel A.",
        "Pennington, Jeffrey",
        "Sohl-Dickstein, Jascha",
    ),
    title="Sensitivity and Generalization in Neural Networks: an Empirical Study",
    year=2018,
    venue="International Conference on Learning Representations",
    arxiv="1802.08760",
)


@metric(
    reads=("states",),
    variables={
        "mean": ("step", "probe"),
        "std": ("step", "probe"),
        "class_mean": ("step", "probe", "label"),
        "n_examples": ("step", "probe"),
    },
    scope="probe",
    bounds=(0, np.inf),
    units="output / input",
    summary=("mean",),
    title="Input-output Jacobian",
    formula="E_x ‖∂f(x)/∂x‖_F",
    cost="one forward pass, and a backward pass for every output, of 256 examples a probe and snapshot",
    reading=(
        "The mean sensitivity of the outputs to the inputs. In the literature networks that generalize "
        "better are less sensitive on the data (with softmax outputs); a value that grows late in training "
        "belongs to sharper decision boundaries. A wide spread between classes: some classes are held more "
        "narrowly than others."
    ),
    reference=NOVAK_2018,
    passes=lambda options, snapshots: snapshots,
    per_output=True,
)
def jacobian(
    states: Any, *, softmax: bool = False, examples: int = 256, projections: int | None = None
) -> dict[str, Any]:
    """Mean Frobenius norm of the derivative of the outputs by the inputs, and its mean within each class.

    `states` holds the network at every snapshot and the examples of a probe, of which the first `examples`
    are taken. `mean` and `std` are (step), over examples; `class_mean` (step, label), of the classes among them. The
    outputs are the network's own (scores before the softmax), or with `softmax` the probabilities they stand for, as
    in the paper. `projections` estimates squared norms without bias from that many random combinations of the outputs,
    where a network has too many. NaN norms are left out; `n_examples` (step) says how many are used. MissingTraceError
    where inputs are no real numbers, or there are more than 4,096 outputs without `projections`.

    >>> summary(np.array([1.0, 3.0, 5.0]), np.array([0, 0, 2]), np.array([0, 2]))["class_mean"].tolist()
    [2.0, 5.0]
    """
    from analyze.replay.input_gradients import jacobian_norms

    sample = states.examples(examples)
    labels = _labels(sample, states[0])
    classes = classes_used(states, labels, examples)
    rows = [summary(jacobian_norms(state, sample, softmax, projections), labels, classes) for state in states]
    norms = {
        name: np.array([row[name] for row in rows]) for name in ("mean", "std", "class_mean", "n_examples")
    }
    return {**norms, "label": classes, "attrs": {"outputs": "softmax" if softmax else "scores"}}


def summary(norms: np.ndarray, labels: np.ndarray, classes: np.ndarray) -> dict[str, Any]:
    """Mean, standard deviation and means within classes of norms (example,); labels of -1 are in no class."""
    mean, count = mean_defined(norms)
    within = [mean_defined(norms[labels == label])[0] for label in classes]
    return {
        "mean": mean,
        "std": std_defined(norms, 0),
        "class_mean": np.array(within, float),
        "n_examples": count,
    }


def _labels(sample: Any, state: Any) -> np.ndarray:
    """Labels (example,), -1 where there are none."""
    from tracer.errors import MissingTraceError

    row = state.network.rows[state.network.output[1]]
    size = tuple(row.size(2) or (2,))[1:]
    classes = int(size[0]) if len(size) == 1 and size[0] > 1 else 2 if not size or size == (1,) else 0
    try:
        labels = sample.labels
    except MissingTraceError:
        return np.full(sample.n, -1)
    return labels if labels.ndim == 1 and classes else np.full(sample.n, -1)


def plot_jacobian(result: xr.Dataset, figure: Figure) -> None:
    """Mean sensitivity of each probe against training; by class at the last snapshot."""
    left, right = plot.panels(figure, 2, columns=2, height=2.7, sharex=False, sharey=False)
    probes = [str(name) for name in result["probe"].values]
    width = 0.8 / max(len(probes), 1)
    for k, name in enumerate(probes):
        at, color = result.sel(probe=name), plot.color_of(name, k)
        plot.band(left, result["step"], at["mean"], at["std"], label=name, color=color)
        by_class = at["class_mean"].isel(step=-1).values
        right.bar(
            np.arange(len(by_class)) + (k - (len(probes) - 1) / 2) * width, by_class, width, color=color
        )
    plot.step_axis(left, result["step"])
    left.set(
        title="all classes, ± one standard deviation",
        ylabel=f"‖∂f/∂x‖, {result.attrs.get('outputs', 'scores')}",
    )
    left.set_ylim(bottom=0)
    plot.legend(left)
    right.set(title=f"by class, step {int(result['step'].values[-1]):,}", xlabel="class")
    plot.name_ticks(right.xaxis, result["label"].values, limit=20)
