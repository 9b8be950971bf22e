"""PGDL's winner: how well are classes apart in the first layer, and do mixed inputs of a class stay in it?"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from analyze import plot
from analyze.arrays.classes import class_scores, classes_in
from analyze.contract import metric
from analyze.numerics import mean_defined
from analyze.reference import Reference
from tracer.errors import MissingTraceError

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

NATEKAR_2020 = Reference(
    key="natekar2020representation",
    authors=("Natekar, Parth", "Sharma, Manik"),
    title="Representation Based Complexity Measures for Predicting Generalization in Deep Learning",
    year=2020,
    arxiv="2012.02775",
)
PGDL_2021 = Reference(
    key="jiang2021methods",
    authors=("Jiang, Yiding", "Natekar, Parth", "Sharma, Manik", "Aithal, Sumukh K.", "Kashyap, Dhruva"),
    title="Methods and Analysis of The First Competition in Predicting Generalization of Deep Learning",
    year=2021,
    venue="Proceedings of Machine Learning Research 133",
)
POOL = 4


@metric(
    reads=("states",),
    variables={
        "davies_bouldin": ("step",),
        "davies_bouldin_sd": ("step",),
        "mixup_accuracy": ("step",),
        "consistency": ("step",),
        "n_pairs": ("step",),
        "n_examples": (),
    },
    scope="train",
    bounds={"davies_bouldin": (0, np.inf), "mixup_accuracy": (0, 1), "consistency": (0, np.inf)},
    summary=("davies_bouldin", "mixup_accuracy", "consistency"),
    title="Clusters and mixup (PGDL)",
    formula="DBI = (1/C) Σ_c max_{c'≠c} (s_c + s_c')/|m_c - m_c'|;  A: share of midpoints of a class that stay in it",
    cost="one forward pass of draws · 120 examples and one of the pairs of each batch, a step",
    reading=(
        "Small consistency, DBI · (1 - A), predicted small gaps best in the competition. Contested: it falls far "
        "behind on two of the eight tasks in the authors' own table, and the first layer mostly tells of data and "
        "width, so it must not be compared across data sets."
    ),
    reference=(NATEKAR_2020, PGDL_2021),
    passes=lambda options, snapshots: snapshots * 2 * options["draws"],
    classes=True,
)
def pgdl(
    states: Any, *, draws: int = 10, per_draw: int = 120, per_class: int = 10, seed: int = 0
) -> dict[str, Any]:
    """Davies-Bouldin index of the first layer's values, accuracy on mixed inputs of one class, and their product.

    `states` holds the network at every snapshot; examples are those of the training probe, `n_examples` of them, in
    eval mode. The layer is the first convolution or pooling with a stride among the table's rows, else the first
    linear layer; maps of at least 4 by 4 are max-pooled over windows of 4 by 4 first. `davies_bouldin` (step,) is the
    mean over `draws` draws of `per_draw` examples without replacement of (1/C) Σ_c max_{c'} (s_c + s_c')/|m_c - m_c'|,
    with centroids m and mean distances s to them: 0 where all s or all distances are 0, coincident centroids skipped,
    NaN for fewer than two classes; `davies_bouldin_sd` is its standard deviation over draws.

    `mixup_accuracy` (step,): in each of `draws` batches of `per_class` times as many examples as there are classes,
    all pairs of one class are averaged (λ = ½, of the inputs) and classified; the share that is given their class, mean
    over batches that have such a pair, then over classes. `consistency` = davies_bouldin · (1 - mixup_accuracy).
    `n_pairs` were classified. Draws depend on `seed` alone. NaN where a value is not finite. MissingTraceError where
    inputs are not one tensor of real numbers.

    >>> davies_bouldin(np.array([[0.0], [2.0], [10.0], [12.0]]), np.array([0, 0, 1, 1]))
    0.2
    """
    chosen = states.examples()
    labels = chosen.labels
    if not hasattr(chosen.inputs, "is_floating_point") or not chosen.inputs.is_floating_point():
        raise MissingTraceError("inputs are not one tensor of real numbers, so no two can be averaged")
    names = ("davies_bouldin", "davies_bouldin_sd", "mixup_accuracy", "consistency")
    values = {name: np.full(len(states), np.nan) for name in names}
    counts = np.zeros(len(states), np.int64)
    groups = batches(labels, draws, per_draw, seed)
    mixed = mixtures(labels, draws, per_class, seed + 1)
    rows = np.unique(np.concatenate(groups))
    for step in range(len(states) if len(rows) else 0):
        state = states[step]
        first = _first_values(state, chosen.take(rows))
        features = np.full((chosen.n, first.shape[1]), np.nan)
        features[rows] = first
        indices = [davies_bouldin(features[group], labels[group]) for group in groups]
        if np.isfinite(indices).all():
            values["davies_bouldin"][step], values["davies_bouldin_sd"][step] = (
                np.mean(indices),
                np.std(indices),
            )
        values["mixup_accuracy"][step], counts[step] = _mixup(state, chosen, mixed)
    values["consistency"] = values["davies_bouldin"] * (1 - values["mixup_accuracy"])
    return {**values, "n_pairs": counts, "n_examples": chosen.n, "attrs": {"draws": draws, "seed": seed}}


def batches(labels: np.ndarray, draws: int, size: int, seed: int) -> list[np.ndarray]:
    """Positions of examples with a class, drawn without replacement; all of them once where they are too few."""
    known = np.flatnonzero(labels >= 0)
    if len(known) <= size:
        return [known]
    return [np.random.default_rng([seed, k]).choice(known, size, replace=False) for k in range(draws)]


def mixtures(labels: np.ndarray, draws: int, per_class: int, seed: int) -> dict[int, list[np.ndarray]]:
    """Pairs of positions (pair, 2) of one class in each batch that has some, by class."""
    classes = classes_in(labels)
    found: dict[int, list[np.ndarray]] = {int(name): [] for name in classes}
    for batch in batches(labels, draws, per_class * len(classes), seed):
        for name in found:
            pairs = np.array(list(combinations(np.sort(batch[labels[batch] == name]), 2)), np.int64).reshape(
                -1, 2
            )
            if len(pairs):
                found[name].append(pairs)
    return found


def davies_bouldin(features: np.ndarray, labels: np.ndarray) -> float:
    """Davies-Bouldin index of values (example, feature) in classes; NaN for fewer than two classes."""
    classes = classes_in(labels)
    if len(classes) < 2 or not np.isfinite(features).all():
        return np.nan
    parts = [features[labels == name] for name in classes]
    centres = np.array([part.mean(0) for part in parts])
    spread = np.array([np.linalg.norm(part - part.mean(0), axis=1).mean() for part in parts])
    distance = np.linalg.norm(centres[:, None] - centres, axis=2)
    scale = np.abs(features).max()
    if (spread <= 1e-12 * scale).all() or (distance <= 1e-12 * scale).all():
        return 0.0
    distance[distance <= 1e-12 * scale] = np.inf
    return float(((spread[:, None] + spread) / distance).max(1).mean())


def _first_values(state: Any, examples: Any) -> np.ndarray:
    """Values (example, feature) of the layer that counts, pooled where they are maps."""
    import torch
    from torch.nn.functional import max_pool2d

    from analyze.replay.evaluate import bounds
    from tracer.network.fixed_masks import by_example
    from tracer.rerun import settled

    row = _layer(state.network)
    found: list[Any] = []

    def visit(at: Any, _: Any, out: Any) -> None:
        if at.name == row.name:
            found.append(out)

    parts = []
    with settled(grad=False):
        for start, stop in bounds(state, examples):
            state.run_chunk(state.tensors, examples, start, stop, {}, losses=False, visit=visit)
            value = found.pop()
            size = state.network.batch or stop - start
            if value.ndim == 4 and min(value.shape[2:]) >= POOL and row.axis == 0:
                value = max_pool2d(value, POOL, POOL)
                parts.append(value.reshape(len(value), -1)[: stop - start].double().cpu())
            else:
                parts.append(by_example(value, row, size).reshape(size, -1)[: stop - start].double().cpu())
    return np.asarray(torch.cat(parts).numpy())


def _layer(network: Any) -> Any:
    from tracer.ops import op

    rows = [row for row in network.rows if not row.loss and row.axis is not None]
    strided = [row for row in rows if op(row.op).path == "conv" or op(row.op).pool is not None]
    linear = [row for row in rows if op(row.op).path == "linear"]
    if not (strided or linear):
        raise MissingTraceError(
            "the network has no convolution, pooling or linear layer whose values could be compared"
        )
    return (strided or linear)[0]


def _mixup(state: Any, chosen: Any, mixed: dict[int, list[np.ndarray]]) -> tuple[float, int]:
    from analyze.replay import Examples

    shares: list[float] = []
    count = 0
    for name, groups in mixed.items():
        of_class = []
        for pairs in groups:
            one, two = (chosen.take(pairs[:, side]) for side in (0, 1))
            both = Examples((one.inputs + two.inputs) / 2, one.targets, rule=chosen.rule)
            scores = state.outputs(both).double().cpu().numpy()
            guessed = class_scores(scores[None], np.asarray(one.targets.cpu()), chosen.rule)[0]
            if not np.isfinite(guessed).all():
                return np.nan, 0
            of_class.append(float((guessed.argmax(1) == name).mean()))
            count += len(pairs)
        if of_class:
            shares.append(float(np.mean(of_class)))
    return float(mean_defined(shares)[0]) if shares else np.nan, count


def plot_pgdl(result: xr.Dataset, figure: Figure) -> None:
    """The index with its spread over draws, accuracy on mixed inputs, and their product."""
    axes = plot.panels(
        figure, 3, height=2.4, sharey=False, titles=("Davies-Bouldin index", "mixup accuracy", "consistency")
    )
    steps = result["step"]
    plot.band(axes[0], steps, result["davies_bouldin"], result["davies_bouldin_sd"], color=plot.PALETTE[0])
    plot.line(axes[1], steps, result["mixup_accuracy"], color=plot.PALETTE[1])
    plot.line(axes[2], steps, result["consistency"], color=plot.PALETTE[2])
    axes[1].set_ylim(-0.03, 1.03)
    for panel in axes:
        plot.step_axis(panel, steps)
