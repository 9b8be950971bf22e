"""Prediction depth: from which layer on do an example's nearest neighbours agree with the network?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from analyze import plot
from analyze.contract import metric
from analyze.numerics import divide, mean_defined, settled, spearman
from analyze.reference import Reference

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

BALDOCK_2021 = Reference(
    key="baldock2021deep",
    authors=("Baldock, Robert J. N.", "Maennel, Hartmut", "Neyshabur, Behnam"),
    title="Deep Learning Through the Lens of Example Difficulty",
    year=2021,
    venue="Advances in Neural Information Processing Systems 34",
    arxiv="2106.09647",
)


@metric(
    reads=("activations", "inputs", "scores", "labels", "ids", "probe", "split", "any_site"),
    optional=("depth_slope.slope",),
    variables={
        "depth": ("step", "example"),
        "mean": ("step", "probe"),
        "mean_relative": ("step", "probe"),
        "vote_accuracy": ("step", "probe", "place"),
        "slope_spearman": ("step", "probe"),
        "n_undecided": ("step", "probe"),
        "n_undefined": ("step", "probe"),
        "n_reference": (),
    },
    bounds={
        "depth": (0, np.inf),
        "mean": (0, np.inf),
        "mean_relative": (0, np.inf),
        "vote_accuracy": (0, 1),
        "slope_spearman": (-1, 1),
    },
    units={"depth": "places", "mean": "places"},
    summary=("mean", "mean_relative"),
    title="Prediction depth",
    formula="depth(x) = smallest l: every k-nearest-neighbour vote at places l, l+1, ..., L-1 is the network's class",
    makes=[("example", "example_2")] * 3,
    cost="distances of all examples from the training examples at every site, O(examples² · units) a step",
    reading=(
        "0: already the inputs of neighbours decide. Deep examples are the difficult ones. Contested: the number "
        "depends on where the places are, and it goes with confidence and with the step an example is learned, so it "
        "is no separate evidence."
    ),
    needs='activations of a probe: Probe(..., capture={"activations": 512})',
    reference=BALDOCK_2021,
)
def prediction_depth(
    activations: Sequence[np.ndarray],
    inputs: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    ids: np.ndarray,
    probe: np.ndarray,
    split: np.ndarray,
    any_site: np.ndarray,
    *,
    depth_slope_slope: np.ndarray | None = None,
    k: int = 30,
    reference: int = 1000,
) -> dict[str, Any]:
    """Place from which on the vote of an example's k nearest training examples is the network's own class.

    `activations` lists (step, example, unit) per site `any_site`, `inputs` is (example, ...), `scores` (step,
    example, class), `labels`, `ids`, `probe` and `split` (example,). The L places are the input, every site, and the
    softmax of the scores. At each, the classes as trained on of the `k` nearest training examples vote (Euclidean on
    flattened values; equal distances: lower id; equal votes: lower class); the reference set are the `reference`
    training examples of lowest id, and an example is never its own neighbour. `depth` (step, example) is the smallest
    l from which on all votes are the class that the network itself gives, right or wrong: 0 is the input, L (counted
    in `n_undecided`) where the last vote differs too. NaN where a value is not finite or no neighbour is left.

    (step, probe): `mean`, `mean_relative` (depth over L - 1, to compare networks of different depth), and
    `slope_spearman`, the rank correlation of depth with `depth_slope`, NaN where that was not computed.
    `vote_accuracy` (step, probe, place) is the share of votes that equal the label, of examples with
    finite scores. With fewer than k times as many
    references (`n_reference`) as classes votes become the classes' shares. Sites inside a residual block are places
    as well; the paper probes blocks.

    >>> [depth_of(np.array(votes), 1) for votes in ((0, 1, 1), (1, 1, 1), (1, 0, 1), (0, 0, 0))]
    [1, 0, 2, 3]
    """
    chosen = np.flatnonzero((split == "train") & (labels >= 0))
    chosen = chosen[np.argsort(ids[chosen], kind="stable")][:reference]
    n_steps, n, length = len(scores), len(labels), len(activations) + 2
    names = list(dict.fromkeys(probe.tolist()))
    votes = np.full((n_steps, length, n), -1, np.int64)
    own = np.full((n_steps, n), -1, np.int64)
    of_inputs = _votes(inputs.reshape(n, -1), chosen, labels, ids, k, split)
    for step in range(n_steps):
        finite = np.isfinite(scores[step]).all(-1)
        own[step, finite] = scores[step][finite].argmax(-1)
        votes[step, 0] = of_inputs
        for place, values in enumerate(
            [*(site[step] for site in activations), _softmax(scores[step])], start=1
        ):
            votes[step, place] = _votes(values, chosen, labels, ids, k, split)
    depth = np.full((n_steps, n), np.nan)
    for step, example in np.argwhere((votes >= 0).all(1) & (own >= 0)):
        depth[step, example] = depth_of(votes[step, :, example], own[step, example])
    rows = [probe == name for name in names]
    mean = np.stack([mean_defined(depth[:, at], 1)[0] for at in rows], axis=1)
    slopes = np.full(depth.shape, np.nan)
    if depth_slope_slope is not None and depth_slope_slope.shape == depth.shape:
        slopes = depth_slope_slope
    right = np.where(votes >= 0, votes == labels, np.nan)
    right[:, :, labels < 0] = np.nan
    right = np.where(own[:, None] >= 0, right, np.nan)
    return {
        "depth": depth,
        "mean": mean,
        "mean_relative": mean / (length - 1),
        "vote_accuracy": np.stack([mean_defined(right[:, :, at], 2)[0] for at in rows], axis=1),
        "slope_spearman": np.stack([spearman(depth[:, at], slopes[:, at]) for at in rows], axis=1),
        "n_undecided": np.stack([(depth[:, at] == length).sum(1) for at in rows], axis=1),
        "n_undefined": np.stack([np.isnan(depth[:, at]).sum(1) for at in rows], axis=1),
        "n_reference": len(chosen),
        "probe": names,
        "place": np.array(["input", *map(str, any_site), "softmax"]),
        "attrs": {"k": k, "reference_ids": " ".join(map(str, ids[chosen][:1000]))},
    }


def depth_of(votes: np.ndarray, own: int) -> int:
    """Smallest l from which on all votes (place,) are `own`; the number of places where the last one is not."""
    differ = np.flatnonzero(votes != own)
    return int(differ[-1]) + 1 if len(differ) else 0


def _votes(
    values: np.ndarray, chosen: np.ndarray, labels: np.ndarray, ids: np.ndarray, k: int, split: np.ndarray
) -> np.ndarray:
    """Class that the nearest of the `chosen` give each example, (example,); -1 where there is none."""
    values = np.asarray(values, np.float64)
    finite = np.isfinite(values).all(1)
    found = np.full(len(values), -1, np.int64)
    chosen = chosen[finite[chosen]]
    if not len(chosen):
        return found
    scale = np.abs(values[finite]).max(initial=0.0) or 1.0
    rows = (values if finite.all() else np.where(finite[:, None], values, 0.0)) / scale
    square = np.einsum("ij,ij->i", rows, rows)
    distance = square[:, None] + square[chosen] - 2 * rows @ rows[chosen].T
    distance = np.maximum(distance, 0.0)
    train = split == "train"
    distance[train[:, None] & (ids[:, None] == ids[chosen])] = np.inf
    # Rounded, so that equal distances are equal, and the lower id, which comes first, wins: to digits of the squares
    # that the nearest are differences of, whatever values an example far away has.
    nearest = np.argpartition(distance, min(k, len(chosen)) - 1, axis=1)[:, :k]
    distance = settled(distance, (square + square[chosen][nearest].max(1))[:, None])
    # Votes tie towards the lower class: argmax takes the first.
    order = np.argsort(distance, axis=1, kind="stable")[:, :k]
    near = np.take_along_axis(distance, order, 1) < np.inf
    classes = int(labels.max()) + 1
    for row in np.flatnonzero(finite & near.any(1)):
        found[row] = np.bincount(labels[chosen[order[row][near[row]]]], minlength=classes).argmax()
    return found


def _softmax(scores: np.ndarray) -> np.ndarray:
    finite = np.isfinite(scores).all(-1, keepdims=True)
    scores = np.where(finite, scores, 0.0)
    power = np.exp(scores - scores.max(-1, keepdims=True))
    return np.where(finite, divide(power, power.sum(-1, keepdims=True)), np.nan)


def plot_prediction_depth(result: xr.Dataset, figure: Figure) -> None:
    """Mean depth against training, the last distribution of it, and how often the vote at each place is right."""
    left, middle, right = plot.panels(figure, 3, height=2.6, sharex=False, sharey=False)
    places = result["place"].values
    edges = np.arange(len(places) + 2) - 0.5
    from analyze.tables import example_probe

    owner = example_probe(result["depth"])
    for k, probe in enumerate(result["probe"].values):
        color = plot.color_of(str(probe), k)
        plot.line(left, result["step"], result["mean"].sel(probe=probe), color=color, label=str(probe))
        values = result["depth"].values[-1][owner == probe]
        share = np.histogram(values[np.isfinite(values)], edges)[0] / max(1, np.isfinite(values).sum())
        middle.stairs(share, edges, color=color)
        plot.line(
            right, range(len(places)), result["vote_accuracy"].sel(probe=probe).isel(step=-1), color=color
        )
    plot.step_axis(left, result["step"])
    left.set(title="mean prediction depth", ylabel="places")
    middle.set(title="at the last snapshot", xlabel="prediction depth", ylabel="share of examples")
    right.set(title="votes that are right", ylim=(0, 1.03))
    plot.name_ticks(right.xaxis, places, limit=10, rotation=90)
    plot.legend(left)
