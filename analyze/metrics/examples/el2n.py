"""EL2N: the length of the error vector of each example's predicted probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analyze import plot
from analyze.contract import metric
from analyze.numerics import mean_defined, std_defined
from analyze.reference import Reference

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAUL_2021 = Reference(
    key="paul2021deep",
    authors=("Paul, Mansheej", "Ganguli, Surya", "Dziugaite, Gintare Karolina"),
    title="Deep Learning on a Data Diet: Finding Important Examples Early in Training",
    year=2021,
    venue="Advances in Neural Information Processing Systems 34",
    arxiv="2107.07075",
)


@metric(
    reads=("scores", "labels"),
    scope="probe",
    variables={
        "score": ("step", "example"),
        "mean": ("step", "probe"),
        "std": ("step", "probe"),
        "n_undefined": ("step", "probe"),
    },
    bounds=(0, float(np.sqrt(2))),
    summary=("mean",),
    makes=(),
    title="EL2N scores",
    formula="EL2N(i) = |softmax(f(x_i)) − onehot(y_i)|₂",
    cost="reads stored outputs; O(steps · examples · classes)",
    reading=(
        "0: certain and right. √2: certain and wrong. Examples whose score stays high are hard, ambiguous "
        "or mislabelled; the paper prunes examples with small scores."
    ),
    reference=PAUL_2021,
)
def el2n(scores: ArrayLike, labels: ArrayLike) -> dict[str, NDArray]:
    """Euclidean distance between each example's softmax probabilities and its label.

    `scores` (step, example, class) are logits (of one output alone, 0 and itself), `labels` (example) class
    indices as trained. Returns `score` (step, example) in [0, sqrt(2)], with its `mean`, population
    `std` and `n_undefined` (step). NaN where a logit is not finite or the label is no class (such as the
    usual -100 for "ignore"). The paper averages the score over several initialisations; average the results
    of several archives for that.

    >>> el2n([[[0.0, 0.0]]], [1])["score"].round(4).tolist()
    [[0.7071]]
    """
    scores = np.asarray(scores, np.float64)
    onehot = np.asarray(labels)[:, None] == np.arange(scores.shape[-1])
    # A snapshot at a time: probabilities of every snapshot at once would double the block.
    rows = [np.linalg.norm(_softmax(values) - onehot, axis=-1) for values in scores]
    score = np.array(rows).reshape(len(rows), len(onehot))
    score[:, ~onehot.any(axis=-1)] = np.nan
    mean, used = mean_defined(score, axis=1)
    return {
        "score": score,
        "mean": mean,
        "std": std_defined(score, axis=1),
        "n_undefined": score.shape[1] - used,
    }


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    finite = np.isfinite(logits).all(axis=-1, keepdims=True)
    logits = np.where(finite, logits, np.nan)
    power = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return power / power.sum(axis=-1, keepdims=True)


def plot_el2n(result: xr.Dataset, figure: Figure) -> None:
    """Mean score against training, and its distribution at a few steps."""
    left, right = plot.panels(figure, 2, columns=2, height=2.6, sharex=False, sharey=False)
    spread_lines(left, result, "EL2N")
    score_histogram(right, result["score"], "EL2N")


def spread_lines(axes: Axes, result: xr.Dataset, name: str) -> None:
    """`mean` (step, probe) of each probe, with a band of one `std`."""
    for position, probe in enumerate(result["probe"].values):
        mean, std = result["mean"].sel(probe=probe), result["std"].sel(probe=probe)
        color = plot.color_of(str(probe), position)
        plot.band(axes, result["step"], mean, std, color=color, label=str(probe))
    plot.step_axis(axes, result["step"])
    axes.set(title="mean ± sd over examples", ylabel=name)
    axes.set_ylim(bottom=0)
    plot.legend(axes, title="probe")


def score_histogram(axes: Axes, score: xr.DataArray, name: str) -> None:
    """Distribution of score (step, example) over the training examples (all, if none) at up to four steps."""
    title = "all examples"
    if "split" in score.coords and (train := score["split"].values == "train").any():
        score, title = score.isel(example=train), "train examples"
    steps = score["step"].values
    shown = plot.pick(steps, 4)
    finite = score.values[np.isfinite(score.values)]
    edges = np.linspace(0.0, finite.max() if finite.size and finite.max() > 0 else 1.0, 31)
    for color, at in zip(plot.depth_colors(len(shown)), shown, strict=True):
        values = score.isel(step=at).values
        counts = np.histogram(values[np.isfinite(values)], edges)[0]
        axes.stairs(counts, edges, color=color, linewidth=1.4, label=f"step {steps[at]:,}")
    axes.set(title=title, xlabel=name, ylabel="examples")
    axes.set_yscale("symlog", linthresh=10)
    plot.legend(axes)
