"""TracIn: which training examples lowered or raised the loss of a test example?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from analyze import plot
from analyze.arrays.bands import Pairs, bands, diagonal
from analyze.contract import metric
from analyze.numerics import mean_defined
from analyze.reference import Reference
from tracer.errors import MissingTraceError

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PRUTHI_2020 = Reference(
    key="pruthi2020estimating",
    authors=("Pruthi, Garima", "Liu, Frederick", "Kale, Satyen", "Sundararajan, Mukund"),
    title="Estimating Training Data Influence by Tracing Gradient Descent",
    year=2020,
    venue="Advances in Neural Information Processing Systems 33",
    arxiv="2002.08484",
)


@metric(
    reads=("gram", "descent_rate", "split", "ids"),
    combine="sum",
    bands=True,
    makes=[("example", "example")] * 5,  # influences, their sum, and from sketches those without each block
    variables={
        "influence": ("train_example", "test_example"),
        "self_influence": ("train_example",),
        "n_snapshots": (),
    },
    units="loss",
    sketched=("influence", "self_influence"),
    summary=("self_influence",),
    title="TracIn influence",
    formula="TracIn(z, z') = Σ_s η_s g_s(z)·g_s(z'), over snapshots s",
    cost="reads stored Gram matrices; O(snapshots · train · test)",
    reading=(
        "Positive: training on that example lowered the loss of the test example (a proponent); negative: "
        "raised it (an opponent). A large self-influence marks unusual or mislabelled examples."
    ),
    reference=PRUTHI_2020,
)
def tracin(
    gram: Pairs, descent_rate: np.ndarray, split: np.ndarray, ids: np.ndarray
) -> dict[str, np.ndarray]:
    """Influence of every training example on every example of the other splits, summed over snapshots.

    `gram` (step, layer, example, example_2) holds inner products of per-example loss gradients, the whole
    network last; `descent_rate` (step, param_group) the learning rates in force at the snapshots, below 0 where the
    optimizer maximizes; `split` and `ids` (example,) say which the examples are. `influence` = sum over snapshots of
    rate * <g(z), g(z')> is (train_example, test_example), in units of the loss: positive where steps on z
    lower the loss of z'.
    `self_influence` (train_example,) is the same with z' = z. `n_snapshots` counts the snapshots summed;
    those without a learning rate or with gradients that are not finite are left out, and influence is NaN
    where none remains. Parameter groups with different rates enter with their mean. Sums over consecutive
    blocks of snapshots add up.

    >>> gram = np.array([[[[4.0, 1.0], [1.0, 9.0]]]])
    >>> tracin(gram, np.array([[0.5]]), np.array(["train", "test"]), np.array([0, 0]))["influence"].tolist()
    [[0.5]]
    """
    train, test = np.flatnonzero(split == "train"), np.flatnonzero(split != "train")
    if not (len(train) and len(test)):
        raise MissingTraceError(
            "tracin needs gradients of training examples and of another split, "
            f"got only {', '.join(sorted(set(map(str, split))))!r}; record probes of both splits"
        )
    influence, own = np.zeros((len(train), len(test))), np.zeros(len(train))
    used = 0
    for step, rate in enumerate(mean_defined(descent_rate, axis=1)[0]):
        cross = np.concatenate(
            [_cross(rows, products[-1], train, test) for rows, products in bands(gram, step)]
        )
        norms = diagonal(gram)[step, -1, train]
        if not (np.isfinite(rate) and np.isfinite(cross).all() and np.isfinite(norms).all()):
            continue
        influence += rate * cross
        own += rate * norms
        used += 1
    empty = np.nan if not used else 0.0
    return {
        "influence": influence + empty,
        "self_influence": own + empty,
        "n_snapshots": np.asarray(used),
        "train_example": ids[train],
        "test_example": ids[test],
    }


def _cross(rows: slice, products: np.ndarray, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Products (row, example) of those rows that are of training with test examples."""
    mine = train[(train >= rows.start) & (train < rows.stop)]
    return products[np.ix_(mine - rows.start, test)]


def plot_tracin(result: xr.Dataset, figure: Figure) -> None:
    """Influence of the strongest training examples on test examples, and the largest self-influences."""
    left, right = plot.panels(figure, 2, columns=2, height=3.2, sharex=False, sharey=False)
    influence, own = result["influence"].values, result["self_influence"].values
    strongest = np.argsort(-np.abs(influence).sum(axis=1), kind="stable")[:40]
    ids, others = result["train_example"].values, result["test_example"].values
    limit = float(np.quantile(np.abs(influence), 0.99)) if influence.size else 1.0
    table = influence[strongest]
    label = "influence (loss)"
    plot.heat(left, table, limits=(-limit or -1.0, limit or 1.0), cmap=plot.DIVERGING, colorbar=label)
    plot.name_ticks(left.yaxis, ids[strongest], limit=20)
    plot.name_ticks(left.xaxis, others, limit=6)
    left.set(title="strongest training examples", xlabel="test example (id)", ylabel="train example (id)")
    _largest(right, own, ids)


def _largest(axes: Axes, own: np.ndarray, ids: np.ndarray) -> None:
    largest = np.argsort(-own, kind="stable")[:20]
    axes.barh(np.arange(len(largest)), own[largest], color=plot.color_of("train"))
    plot.name_ticks(axes.yaxis, ids[largest], limit=20)
    axes.invert_yaxis()
    axes.set(title="largest self-influence", xlabel="self-influence (loss)", ylabel="train example (id)")
