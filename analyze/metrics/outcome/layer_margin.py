"""Layer margins: how far is the decision boundary, seen from the inputs and from every nonlinearity?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from analyze import plot
from analyze.contract import metric
from analyze.numerics import divide
from analyze.reference import Reference
from tracer.errors import ArgumentError

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

ELSAYED_2018 = Reference(
    key="elsayed2018large",
    authors=("Elsayed, Gamaleldin F.", "Krishnan, Dilip", "Mobahi, Hossein", "Regan, Kevin", "Bengio, Samy"),
    title="Large Margin Deep Networks for Classification",
    year=2018,
    venue="Advances in Neural Information Processing Systems 31",
    arxiv="1803.05598",
)
JIANG_2018 = Reference(
    key="jiang2018predicting",
    authors=("Jiang, Yiding", "Krishnan, Dilip", "Mobahi, Hossein", "Bengio, Samy"),
    title="Predicting the Generalization Gap in Deep Networks with Margin Distributions",
    year=2018,
    venue="International Conference on Learning Representations",
    arxiv="1810.00113",
)
Q = (0.05, 0.25, 0.5, 0.75, 0.95)


@metric(
    reads=("states",),
    variables={
        "quantile": ("step", "probe", "place", "q"),
        "mean": ("step", "probe", "place"),
        "n_undefined": ("step", "probe", "place"),
    },
    scope="probe",
    units={"quantile": "distance / spread", "mean": "distance / spread"},
    summary=("mean",),
    title="Layer margins",
    formula="d_l(x) = (f_y - max_{c≠y} f_c) / ‖∇_{h_l}(f_y - f_c)‖, over √(total variance of h_l)",
    cost="one forward and one backward pass of at most 512 examples a probe and snapshot",
    reading=(
        "The signed distance, to first order, from what a layer gives to the nearest place where another "
        "class wins, in units of the spread of that layer. Below 0: classified wrongly. Larger margins of "
        "the training examples, in hidden layers above all, go with smaller generalization gaps."
    ),
    reference=(ELSAYED_2018, JIANG_2018),
    passes=lambda options, snapshots: snapshots * 3,
    classes=True,
)
def layer_margin(
    states: Any, *, normalise: Literal["total_variation", "none"] = "total_variation", examples: int = 512
) -> dict[str, Any]:
    """Linearised distance to the decision boundary at the inputs and at the output of every nonlinearity.

    `states` holds the network at every snapshot and the examples of a probe, the first `examples` of which
    are used. The margin of an example is the score of its class less the largest other one, divided by the
    length of the gradient of this difference by what the `place` holds; with `normalise="total_variation"`
    (the default) also by the square root of the total variance of these values over the examples, so that a
    layer's scale does not count. `quantile` is (step, place, q) with q = .05 .25 .5 .75 .95, `mean` (step,
    place). An example is undefined, and counted in `n_undefined`, where the gradient is 0, the label is no
    class, or all examples give the same values.

    >>> margins(np.array([2.0, -1.0]), np.array([[4.0, 0.0]]), np.array([4.0])).tolist()
    [[0.25, nan]]
    """
    from analyze.replay.input_gradients import layer_margins

    if normalise not in ("total_variation", "none"):
        raise ArgumentError(f"normalise is 'total_variation' or 'none', got {normalise!r}")
    sample = states.examples(examples)
    rows = []
    for state in states:
        places, margin, lengths, variance = layer_margins(state, sample)
        rows.append(
            margins(margin, lengths, variance if normalise == "total_variation" else np.ones(len(places)))
        )
    values = np.stack(rows)
    return {
        "quantile": np.stack([_quantiles(row) for row in values]),
        "mean": np.array([[_mean(place) for place in row] for row in values]),
        "n_undefined": np.isnan(values).sum(-1),
        "place": np.array(places),
        "q": np.array(Q),
        "attrs": {"normalise": normalise},
    }


def margins(margin: np.ndarray, lengths: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Margins (example,) over gradient lengths (place, example) and the root of variances (place,)."""
    return divide(divide(margin, lengths), np.sqrt(variance)[:, None])


def _quantiles(values: np.ndarray) -> np.ndarray:
    return np.array(
        [
            np.quantile(row[~np.isnan(row)], Q) if (~np.isnan(row)).any() else np.full(len(Q), np.nan)
            for row in values
        ]
    )


def _mean(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else np.nan


def plot_layer_margin(result: xr.Dataset, figure: Figure) -> None:
    """Median margin of every place against training, and their distribution at the end."""
    left, right = plot.panels(figure, 2, columns=2, height=2.9, sharex=False, sharey=False)
    places, probes = result["place"].values, [str(name) for name in result["probe"].values]
    first = result.sel(probe=probes[0])
    for color, place in zip(plot.depth_colors(len(places)), places, strict=True):
        plot.line(
            left, result["step"], first["quantile"].sel(place=place, q=0.5), color=color, label=str(place)
        )
    plot.step_axis(left, result["step"])
    plot.zero_line(left)
    left.set(title=f"median, {probes[0]}", ylabel="margin / spread" if _spread(result) else "margin")
    if len(places) <= 8:
        plot.legend(left)
    width = 0.8 / max(len(probes), 1)
    for k, name in enumerate(probes):
        last = result["quantile"].sel(probe=name).isel(step=-1).values
        at = np.arange(len(places)) + (k - (len(probes) - 1) / 2) * width
        right.vlines(at, last[:, 0], last[:, -1], color=plot.color_of(name, k), linewidth=1)
        right.vlines(
            at, last[:, 1], last[:, -2], color=plot.color_of(name, k), linewidth=6 * width + 1, label=name
        )
        right.plot(at, last[:, 2], "o", color="white", markersize=2.5)
    plot.zero_line(right)
    plot.name_ticks(right.xaxis, places, limit=20, rotation=90)
    right.set_title(f"quartiles, 5 % and 95 %, step {int(result['step'].values[-1]):,}")
    plot.legend(right)


def _spread(result: xr.Dataset) -> bool:
    return result.attrs.get("normalise", "total_variation") == "total_variation"
