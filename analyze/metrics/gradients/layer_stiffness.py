"""Layer stiffness: how does stiffness change through the layers?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from analyze import plot
from analyze.arrays.bands import Pairs, bands
from analyze.arrays.classes import classes_in
from analyze.contract import metric
from analyze.numerics import mean_defined, std_defined
from analyze.reference import FORT_2019, WALKER_2023
from tracer.errors import ArgumentError, MissingTraceError

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

KINDS = ("cosine", "sign")
DIMS = ("step", "layer", "kind")


@metric(
    reads=("gram", "cosine", "labels", "ids", "layer"),
    optional={"gradients": {"per_tensor": True}},
    bands=True,
    variables={"mean": DIMS, "std": DIMS, "n_anchors": DIMS},
    scope="train",
    makes=[("layer", "example", "example_2")] * 4,
    bounds={"mean": (-1, 1), "std": (0, 1)},
    sketched=("mean", "std"),
    summary={"mean": {"kind": "cosine"}},
    title="Stiffness through the layers",
    formula="S_l(i) = mean_{j∈R, j≠i} S(g_i^l, g_j^l)  R: the same number of examples of each class",
    cost="reads stored Gram matrices; O(steps · layers · examples²)",
    reading=(
        "One curve per snapshot, from the first layer to the last. Where the curve of the trained network "
        "falls with depth, the late layers treat examples one by one."
    ),
    reference=(WALKER_2023, FORT_2019),
)
def layer_stiffness(
    gram: Pairs,
    cosine: Pairs,
    labels: np.ndarray,
    ids: np.ndarray,
    layer: np.ndarray,
    *,
    gradients: Sequence[Mapping[str, np.ndarray]] | None = None,
    per_class: int = 20,
    reference: Literal["lowest", "random"] = "lowest",
    seed: int = 0,
    zero: Literal["nan", "as_zero"] = "nan",
    per_tensor: bool = False,
) -> dict[str, Any]:
    """Mean and spread over examples of their stiffness with a class-balanced reference set, layer by layer.

    `gram` and `cosine` are (step, layer, example, example_2), `labels` and `ids` (example,), `layer` the
    names. The reference set holds k examples of each class, k = min(`per_class`, smallest class), kept in
    attribute `reference_ids`: those of lowest id, or with `reference="random"` drawn by `seed`, as the paper
    has it. Lowest ids are the default because they are the same in every run of a data set, however much
    was recorded; where ids are in the order of anything, draw. Every training example is an anchor i; `mean` and `std`
    (population) run over the `n_anchors` whose stiffness is defined. A zero gradient has no cosine (NaN,
    left out; `zero="as_zero"` counts 0) and sign 0. `per_tensor=True` splits layers into their tensors,
    which needs recorded gradients.

    >>> gradients = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
    >>> gram = (gradients @ gradients.T)[None, None]
    >>> cosine = np.where(gram > 0, 1.0, 0.0)
    >>> result = layer_stiffness(gram, cosine, np.array([0, 0, 1, 1]), np.arange(4), np.array(["all"]))
    >>> result["mean"][0, 0].round(4).tolist(), result["attrs"]["reference_ids"]
    ([0.3333, 0.3333], '0 1 2 3')
    """
    if reference not in ("lowest", "random"):
        raise ArgumentError(f"reference= is 'lowest' or 'random', got {reference!r}")
    if per_tensor:
        gram, layer = _tensor_grams(gradients)
        cosine = _cosine(gram)
    chosen = reference_set(labels, ids, per_class, seed if reference == "random" else None)
    columns: dict[str, list[np.ndarray]] = {"mean": [], "std": [], "n_anchors": []}
    for anchors in _anchors(gram, cosine, ids, chosen, zero):
        mean, used = mean_defined(anchors, -1)
        for name, column in (("mean", mean), ("std", std_defined(anchors, -1)), ("n_anchors", used)):
            columns[name].append(column)
    result = {name: np.stack(parts, axis=-1) for name, parts in columns.items()}
    attributes = {"reference_ids": " ".join(map(str, ids[chosen])), "per_class": len(chosen) // _n(labels)}
    attributes |= {"reference": reference, "seed": seed} if reference == "random" else {}
    return {**result, "kind": list(KINDS), "layer": layer, "attrs": attributes}


def _anchors(gram: Pairs, cosine: Pairs, ids: np.ndarray, chosen: np.ndarray, zero: str) -> list[np.ndarray]:
    """Mean cosine and mean sign of each example with the reference set: (step, layer, example) each."""
    steps: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for step in range(len(gram)):
        parts: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        for (rows, products), (_, ratios) in zip(bands(gram, step), bands(cosine, step), strict=True):
            keep = ids[rows, None] != ids[chosen]
            with np.errstate(invalid="ignore"):
                signs = np.sign(products[..., chosen])
            cosines = ratios[..., chosen]
            if zero == "as_zero":
                cosines = np.where(np.isnan(cosines) & ~np.isnan(signs), 0.0, cosines)
            for part, values in zip(parts, (cosines, signs), strict=True):
                part.append(mean_defined(np.where(keep, values, np.nan), -1)[0])
        for means, part in zip(steps, parts, strict=True):
            means.append(np.concatenate(part, -1))
    return [np.stack(means) for means in steps]


def reference_set(
    labels: np.ndarray, ids: np.ndarray, per_class: int = 20, seed: int | None = None
) -> np.ndarray:
    """Positions of the k lowest ids of each class, k = min(`per_class`, smallest class), in order of id.

    With a seed, of k drawn without replacement.

    >>> reference_set(np.array([1, 0, 1, 0, 0]), np.array([9, 8, 7, 6, 5]), 1)
    array([4, 2])
    """
    order = np.argsort(ids, kind="stable")
    names = classes_in(labels)
    k = min([per_class, *(int((labels == name).sum()) for name in names)])
    members = [order[labels[order] == name] for name in names]
    if seed is not None:
        draw = np.random.default_rng(seed)
        members = [draw.permutation(rows) for rows in members]
    rows = [those[:k] for those in members]
    chosen = np.concatenate([np.empty(0, np.int64), *rows]).astype(np.int64)
    return chosen[np.argsort(ids[chosen], kind="stable")]


def _n(labels: np.ndarray) -> int:
    return max(1, len(classes_in(labels)))


def _tensor_grams(gradients: Sequence[Mapping[str, np.ndarray]] | None) -> tuple[np.ndarray, np.ndarray]:
    if gradients is None:
        raise MissingTraceError('per_tensor=True needs per-example gradients; record with gradients="exact"')
    names = list(gradients[0])
    rows = [[_gram(tensors[name]) for name in names] for tensors in gradients]
    grams = np.array(rows)
    return np.concatenate([grams, grams.sum(1, keepdims=True)], axis=1), np.array([*names, "all"])


def _gram(values: np.ndarray) -> np.ndarray:
    flat = np.asarray(values, np.float64).reshape(len(values), -1)
    return flat @ flat.T


def _cosine(gram: np.ndarray) -> np.ndarray:
    length = np.sqrt(np.diagonal(gram, axis1=-2, axis2=-1))
    length = np.where(length > 0, length, np.nan)
    return gram / length[..., None] / length[..., None, :]


def plot_layer_stiffness(result: xr.Dataset, figure: Figure) -> None:
    """Stiffness against layer, untrained to trained, with a band of one standard deviation over examples."""
    layers = result["layer"].values
    steps = result["step"].values
    shown = plot.pick(steps, 4)
    titles = [f"{kind} stiffness" for kind in KINDS]
    axes = plot.panels(figure, 2, columns=2, height=3.2, titles=titles, sharey=False)
    for panel, kind in zip(axes, KINDS, strict=True):
        for k, color in zip(shown, plot.depth_colors(len(shown)), strict=True):
            at = result.sel(kind=kind).isel(step=k)
            # The whole network is not a layer: it stands apart from the curve.
            plot.band(
                panel,
                range(len(layers) - 1),
                at["mean"][:-1],
                at["std"][:-1],
                label=f"step {steps[k]:,}",
                color=color,
            )
            panel.plot([len(layers) - 1], at["mean"][-1:], "s", color=color)
        plot.zero_line(panel)
        plot.name_ticks(panel.xaxis, layers, limit=16, rotation=90)
        panel.set_xlabel("layer")
    axes[0].set_ylabel("mean over examples, ± std")
    plot.legend(axes[0])
