"""Forgetting events: how often does an example that was classified correctly become wrong again?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analyze import plot
from analyze.contract import metric
from analyze.metrics.gradients.gradient_diversity import probe_lines
from analyze.numerics import mean_defined
from analyze.reference import Reference
from analyze.tables import example_probe

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TONEVA_2019 = Reference(
    key="toneva2019empirical",
    authors=(
        "Toneva, Mariya",
        "Sordoni, Alessandro",
        "Tachet des Combes, Remi",
        "Trischler, Adam",
        "Bengio, Yoshua",
        "Gordon, Geoffrey J.",
    ),
    title="An Empirical Study of Example Forgetting during Deep Neural Network Learning",
    year=2019,
    venue="International Conference on Learning Representations",
    arxiv="1812.05159",
)
COUNTS = ("n_unforgettable", "n_forgotten", "n_never_learned")
READING = (
    "Most examples are learned once and kept (0 events). Those forgotten often, or never learned, are the "
    "hard, atypical or mislabelled ones; the paper trains as well without the never forgotten."
)


@metric(
    reads=("correct",),
    scope="probe",
    variables={
        "correct": ("step", "example"),
        "accuracy": ("step", "probe"),
        "n_undefined": ("step", "probe"),
    },
    bounds=(0, 1),
    summary=("accuracy",),
    beside="generalization",
    makes=(),
    title="Correctness of each example",
    formula="correct(i) = 1 where the largest output is that of the label, else 0",
    cost="reads stored outputs; O(steps · examples · classes)",
    reading=(
        "A row is an example, in the order in which they were first correct. Solid to the end: learned "
        "once and kept. Speckled: forgotten and learned again."
    ),
    reference=TONEVA_2019,
)
def correctness(correct: np.ndarray) -> dict[str, Any]:
    """Which examples are classified correctly at each snapshot, and the accuracy.

    `correct` (step, example) is 1 or 0, a share for an example with several targets, NaN where unknown. It
    is returned as it is, with its mean over examples `accuracy` (step) and `n_undefined` (step), the
    examples left out.

    >>> correctness(np.array([[1.0, 0.0, np.nan]]))["accuracy"].tolist()
    [0.5]
    """
    accuracy, used = mean_defined(correct, axis=1)
    return {"correct": correct, "accuracy": accuracy, "n_undefined": correct.shape[1] - used}


@metric(
    reads=("correctness.correct", "step"),
    scope="probe",
    whole=True,
    variables={
        "events": ("example",),
        "first_correct": ("example",),
        "n_observed": ("example",),
    }
    | dict.fromkeys(COUNTS, ("probe",)),
    bounds={"events": (0, np.inf)},
    units={"events": "events", "first_correct": "steps"},
    summary=("n_unforgettable", "n_forgotten", "n_never_learned"),
    makes=(),
    title="Forgetting events between snapshots",
    formula=(
        "events(i) = #{s : example i is correct at snapshot s and wrong at the next};  ∞ if never correct"
    ),
    cost="reads the result of correctness; O(snapshots · examples)",
    reading=READING,
    reference=TONEVA_2019,
)
def forgetting(correctness_correct: ArrayLike, step: ArrayLike) -> dict[str, Any]:
    """Forgetting events between consecutive snapshots, for every example of a probe.

    `correctness_correct` (step, example) is 1 where the example is classified correctly, less where not (a
    share, if it has several targets), NaN where unknown (such a snapshot is passed over for that example).
    Returns `events` (example), the number of changes from correct to wrong: inf for an example never
    correct, NaN for one never observed; `first_correct` (example), the first step at which it is correct,
    NaN if never; `n_observed` (example); and the scalars `n_unforgettable` (learned, never forgotten),
    `n_forgotten` and `n_never_learned`. Snapshots miss the events between them; the paper counts at every
    presentation in training, which is `minibatch_forgetting`.

    >>> forgetting([[0, 0], [1, 0], [0, 0], [1, 0]], [0, 10, 20, 30])["events"].tolist()
    [1.0, inf]
    """
    correct = np.asarray(correctness_correct)
    examples = correct.shape[1]
    events, observed = np.zeros((2, examples), np.int64)
    first = np.full(examples, np.nan)
    was_correct = np.zeros(examples, bool)
    for at, row in zip(np.asarray(step), correct, strict=True):
        known = ~np.isnan(row)
        right = known & (row == 1)
        events += known & was_correct & ~right
        first[right & np.isnan(first)] = at
        observed += known
        was_correct = np.where(known, right, was_correct)
    result = {"events": _with_never(events, ~np.isnan(first), observed), "first_correct": first}
    return result | {"n_observed": observed} | _summary(result["events"])


@metric(
    reads=("minibatch_ids", "minibatch_correct"),
    whole=True,
    variables={
        "events": ("id",),
        "first_correct": ("id",),
        "n_presentations": ("id",),
    }
    | dict.fromkeys(COUNTS, ()),
    bounds={"events": (0, np.inf)},
    units={"events": "events", "first_correct": "presentations"},
    summary=("n_unforgettable", "n_forgotten", "n_never_learned"),
    title="Forgetting events",
    formula=(
        "events(i) = #{k : example i is correct at its k-th presentation and wrong at the next};  ∞ if "
        "never correct"
    ),
    cost="reads the correctness of every minibatch; O(n log n) in the presentations n",
    reading=READING,
    needs='the correctness of every minibatch example: record(..., minibatch=["correct"])',
    reference=TONEVA_2019,
)
def minibatch_forgetting(minibatch_ids: ArrayLike, minibatch_correct: ArrayLike) -> dict[str, Any]:
    """Forgetting events of every training example, counted each time it is in a minibatch.

    `minibatch_ids` and `minibatch_correct` (presentation) list the ids of all minibatches in order, and
    whether each was classified correctly by the training forward pass (NaN where unknown: passed over).
    Returns, by `id`: `events`, the number of changes from correct to wrong between presentations (inf for
    an example never correct); `first_correct`, the presentation (from 1) at which it is first correct, NaN
    if never; `n_presentations`; and the scalars `n_unforgettable`, `n_forgotten`, `n_never_learned`.

    >>> result = minibatch_forgetting([7, 3, 7, 3, 7], [1, 0, 0, 0, 1])
    >>> result["id"].tolist(), result["events"].tolist()
    ([3, 7], [inf, 1.0])
    """
    flags = np.asarray(minibatch_correct)
    known = ~np.isnan(flags)
    ids, right = np.asarray(minibatch_ids)[known], flags[known] == 1
    # A stable sort keeps the presentations of one id in their order in time.
    order = np.argsort(ids, kind="stable")
    right = right[order]
    distinct, start, counts = np.unique(ids[order], return_index=True, return_counts=True)
    owner = np.repeat(np.arange(len(distinct)), counts)
    forgot = np.zeros(len(right), bool)
    forgot[1:] = right[:-1] & ~right[1:] & (owner[1:] == owner[:-1])
    events = np.bincount(owner, forgot, len(distinct)).astype(np.int64)
    place = np.arange(len(right)) - np.repeat(start, counts) + 1
    first = np.full(len(distinct), np.inf)
    np.minimum.at(first, owner[right], place[right])
    first[np.isinf(first)] = np.nan
    result = {"id": distinct, "events": _with_never(events, ~np.isnan(first), counts), "first_correct": first}
    return result | {"n_presentations": counts} | _summary(result["events"])


def _with_never(events: NDArray, learned: NDArray, observed: NDArray) -> NDArray[np.float64]:
    """Events in float64: inf where the example was never learned, NaN where it was never observed."""
    return np.where(learned, events, np.where(observed > 0, np.inf, np.nan))


def _summary(events: NDArray[np.float64]) -> dict[str, NDArray]:
    return {
        "n_unforgettable": np.asarray((events == 0).sum()),
        "n_forgotten": np.asarray(((events > 0) & np.isfinite(events)).sum()),
        "n_never_learned": np.asarray(np.isinf(events).sum()),
    }


def plot_correctness(result: xr.Dataset, figure: Figure) -> None:
    """Accuracy of each probe against training, and which examples of the first are right when."""
    left, right = plot.panels(figure, 2, columns=2, height=2.8, sharex=False, sharey=False)
    probe_lines(left, result["accuracy"])
    left.set(title="whole probe", ylabel="share correct", ylim=(-0.02, 1.03))
    plot.legend(left, title="probe")
    name = str(result["probe"].values[0])
    table = result["correct"].values[:, example_probe(result) == name]
    first = np.where((table == 1).any(axis=0), (table == 1).argmax(axis=0), len(table))
    order = np.lexsort((-np.nansum(table, axis=0), first))
    shown = order[plot.pick(order, 400)]
    plot.heat_over_time(right, table.T[shown], result["step"].values, [], limits=(0, 1), cmap="cividis")
    right.set(
        title=f"{name}: wrong (dark), correct (bright)", ylabel="examples, earliest learned first", yticks=[]
    )


def plot_forgetting(result: xr.Dataset, figure: Figure) -> None:
    """How many examples were forgotten how often, and how many had been learned by each step."""
    left, right = plot.panels(figure, 2, columns=2, height=2.6, sharex=False, sharey=False)
    probe = example_probe(result)
    names = list(dict.fromkeys(probe.tolist()))
    for position, name in enumerate(names):
        mine, color = probe == name, plot.color_of(str(name), position)
        _event_bars(left, result["events"].values[mine], str(name), color, position, len(names))
        first = np.sort(result["first_correct"].values[mine])
        first, share = first[~np.isnan(first)], np.arange(1, len(first) + 1) / max(mine.sum(), 1)
        right.step(first, share[: len(first)], where="post", color=color, label=str(name))
    left.set(title="between snapshots", xlabel="forgetting events", ylabel="share of examples")
    right.set(title="learned so far", ylabel="share ever correct", ylim=(0, 1.03))
    plot.step_axis(right, np.unique([0, np.nanmax(result["first_correct"].values, initial=0.0)]))
    plot.legend(left, title="probe")


def plot_minibatch_forgetting(result: xr.Dataset, figure: Figure) -> None:
    """How many examples were forgotten how often, and how many had been learned by each presentation."""
    left, right = plot.panels(figure, 2, columns=2, height=2.6, sharex=False, sharey=False)
    color = plot.color_of("train")
    _event_bars(left, result["events"].values, "train", color, 0, 1)
    first = np.sort(result["first_correct"].dropna("id").values)
    right.step(first, np.arange(1, len(first) + 1) / max(result.sizes["id"], 1), where="post", color=color)
    left.set(title="at presentations in training", xlabel="forgetting events", ylabel="share of examples")
    right.set(title="learned so far", xlabel="presentation", ylabel="share ever correct", ylim=(0, 1.03))


def _event_bars(axes: Axes, events: NDArray, label: str, color: str, position: int, of: int) -> None:
    """Shares of examples with 0, 1, ... events; the last two bars are 10 or more, and never learned."""
    most = 10
    observed = events[~np.isnan(events)]
    finite = np.minimum(observed[np.isfinite(observed)], most).astype(int)
    counts = np.append(np.bincount(finite, minlength=most + 1), np.isinf(observed).sum())
    width = 0.8 / of
    # A gap before the last bar: never learned is not one event more.
    places = np.append(np.arange(most + 1), most + 3) + (position - (of - 1) / 2) * width
    axes.bar(places, counts / max(len(observed), 1), width, color=color, label=label)
    shown = [*range(0, most, 2), most, most + 3]
    axes.set_xticks(shown, [*map(str, shown[:-2]), f"{most}+", "never\nlearned"])
