"""Class stiffness: does a step on one class help another?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from analyze import plot
from analyze.arrays.bands import Pairs, bands
from analyze.arrays.classes import classes_in
from analyze.contract import metric
from analyze.numerics import divide, mean_defined
from analyze.reference import FORT_2019
from tracer.errors import MissingTraceError

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

CELLS = ("step", "layer", "label", "label_2")
CURVES = ("step", "layer")
MEANS = (
    *("cosine", "sign"),
    *(f"{kind}_{where}" for kind in ("cosine", "sign") for where in ("within", "between", "super")),
)
ERRORS = ("cosine_error", "cosine_within_error", "cosine_between_error")
DEGREES = ("cosine_within_degrees", "cosine_between_degrees")


@metric(
    reads=("gram", "cosine", "labels", "ids"),
    optional=("true_labels",),
    bands=True,
    variables={
        **dict.fromkeys(("cosine", "sign", "n_undefined"), CELLS),
        **dict.fromkeys(MEANS[2:], CURVES),
        "cosine_error": CELLS,
        **dict.fromkeys((*ERRORS[1:], *DEGREES), CURVES),
        "n_pairs": ("label", "label_2"),
    },
    scope="train",
    makes=[("layer", "example", "example_2")] * 3,
    bounds={**dict.fromkeys(MEANS, (-1, 1)), **dict.fromkeys((*ERRORS, *DEGREES), (0, np.inf))},
    sketched=MEANS,
    summary=("cosine_within", "cosine_between"),
    title="Class stiffness",
    formula="S(a,b) = mean_{i∈a, j∈b, i≠j} S(i,j)  within = mean_a S(a,a)  between = mean_{a≠b} S(a,b)",
    cost="reads stored Gram matrices; O(steps · layers · examples²)",
    reading=(
        "Rows and columns are classes. A bright diagonal on a blank ground: a step on one class helps that "
        "class alone. Blue cells: it harms the other class."
    ),
    reference=FORT_2019,
)
def class_stiffness(
    gram: Pairs,
    cosine: Pairs,
    labels: np.ndarray,
    ids: np.ndarray,
    *,
    true_labels: np.ndarray | None = None,
    zero: Literal["nan", "as_zero"] = "nan",
    classes: Literal["trained", "true"] = "trained",
    superclass: Mapping[int, int] | None = None,
) -> dict[str, Any]:
    """Mean stiffness between the training examples of two classes, and its means within and between classes.

    `gram` and `cosine` are (step, layer, example, example_2), `labels` and `ids` (example,). Pairs of one
    id with itself are left out. `within` and `between` are means of class cells, not of pairs; `super` is
    the mean over the cells of two classes with the same `superclass` (label to superclass), NaN where none
    is given. Pairs with a zero gradient have no cosine: they are left out and counted in `n_undefined`
    (`zero="as_zero"` counts them as 0). A cell without pairs, such as the diagonal of a class with one
    example, is NaN and left out of the means. `classes="true"` groups by the labels before corruption.
    `cosine_error`, `cosine_within_error` and `cosine_between_error` are standard errors over the examples drawn of each
    class (a jackknife), NaN with fewer than three of a class; `cosine_within_degrees` and `cosine_between_degrees` are
    the degrees of freedom of the last two (Welch & Satterthwaite), few where few examples carry the variance.

    >>> gradients = np.array([[1.0, 0.0], [2.0, 0.0], [-1.0, 0.0]])
    >>> gram = (gradients @ gradients.T)[None, None]
    >>> result = class_stiffness(gram, np.sign(gram), np.array([0, 0, 1]), np.arange(3))
    >>> result["cosine"][0, 0].tolist(), result["cosine_within"].item(), result["cosine_between"].item()
    ([[1.0, -1.0], [-1.0, nan]], 1.0, -1.0)
    """
    if classes == "true":
        if true_labels is None:
            raise MissingTraceError('classes="true" needs tracer.Probe(true_targets=...)')
        labels = true_labels
    names = classes_in(labels)
    indicator = (np.asarray(labels)[:, None] == names).astype(np.float64)
    cells = [_of_classes(gram, cosine, ids, step, indicator, zero) for step in range(len(gram))]
    sums, used, pairs, rows = (np.stack(parts) for parts in zip(*cells, strict=True))
    result: dict[str, Any] = {}
    for position, kind in enumerate(("cosine", "sign")):
        result[kind] = divide(sums[:, position], used[:, position])
        result |= {f"{kind}_{name}": mean for name, mean in _means(result[kind], names, superclass).items()}
    result |= dict(zip((*ERRORS, *DEGREES), _errors(rows, indicator), strict=True))
    result["n_undefined"] = _unordered(pairs[:, None] - used[:, 0])
    result["n_pairs"] = _unordered(pairs[0])
    return {**result, "label": names, "label_2": names, "attrs": {"classes": classes}}


def _of_classes(
    gram: Pairs, cosine: Pairs, ids: np.ndarray, step: int, indicator: np.ndarray, zero: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of one snapshot: sums over the pairs of two classes, how many are defined, how many there are; means of examples.

    (kind, layer, class, class) twice, (class, class), and mean cosines of each example with each class (layer, example,
    class).
    """
    layers, (n, count) = gram.shape[1], indicator.shape
    sums, used = np.zeros((2, 2, layers, count, n))
    pairs, rows = np.zeros((count, n)), np.empty((layers, n, count))
    for (part, products), (_, cosines) in zip(bands(gram, step), bands(cosine, step), strict=True):
        own, distinct = indicator[part].T, ids[part, None] != ids
        with np.errstate(invalid="ignore"):
            signs = np.sign(products)
        if zero == "as_zero":
            cosines = np.where(np.isnan(cosines) & ~np.isnan(signs), 0.0, cosines)
        pairs += own @ distinct.astype(np.float64)
        for kind, values in enumerate((cosines, signs)):
            defined = ~np.isnan(values) & distinct
            known = np.where(defined, values, 0.0)
            sums[kind] += own @ known
            used[kind] += own @ defined.astype(np.float64)
            if kind == 0:
                rows[:, part] = divide(known @ indicator, defined @ indicator)
    return sums @ indicator, used @ indicator, pairs @ indicator, rows


def _errors(rows: np.ndarray, indicator: np.ndarray) -> tuple[np.ndarray, ...]:
    """Standard errors of the cells (..., class, class), of the mean of the diagonal, and of that of all else.

    Then the degrees of freedom of the last two. rows: mean cosines (..., example, class).
    """
    own, count = indicator.astype(bool), indicator.shape[1]
    variance, n = _variances(rows, indicator)
    halves = divide(variance, (n - 1).clip(0))
    cells = np.sqrt(halves + halves.swapaxes(-1, -2))
    diagonal = np.arange(count)
    single, size = variance[..., diagonal, diagonal], n[..., diagonal, diagonal]
    # Leaving out an example takes both its row and its column.
    cells[..., diagonal, diagonal] = np.sqrt(single * divide(4 * (size - 1), (size - 2).clip(0) ** 2))
    own_error = cells[..., diagonal, diagonal] ** 2
    within = np.sqrt(own_error.sum(-1)) / count
    other = mean_defined(np.where(own, np.nan, rows), -1)[0][..., None]
    variance, n = (table[..., 0] for table in _variances(other, indicator))
    parts = divide(variance, (n - 1).clip(0))
    between = 2 / count * np.sqrt(parts.sum(-1))
    return cells, within, between, _degrees(own_error, size), _degrees(parts, n)


def _degrees(parts: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Degrees of freedom of a sum of squared errors (..., class), each of n examples; NaN where none varies."""
    return divide(parts.sum(-1) ** 2, divide(parts**2, (n - 1).clip(0)).sum(-1))


def _variances(rows: np.ndarray, indicator: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Population variance (..., class, column) over the examples of each class, and of how many."""
    known = ~np.isnan(rows)
    n = indicator.T @ known.astype(np.float64)
    means = divide(indicator.T @ np.where(known, rows, 0.0), n)
    off = np.where(known, rows - indicator @ np.nan_to_num(means), 0.0)
    return divide(indicator.T @ off**2, n), n


def _unordered(pairs: np.ndarray) -> np.ndarray:
    # A diagonal cell sees each of its pairs from both ends.
    counts = np.rint(pairs).astype(np.int64)
    diagonal = np.arange(counts.shape[-1])
    counts[..., diagonal, diagonal] //= 2
    return counts


def _means(
    cells: np.ndarray, names: np.ndarray, superclass: Mapping[int, int] | None
) -> dict[str, np.ndarray]:
    diagonal = np.eye(len(names), dtype=bool)
    family = np.array([(superclass or {}).get(int(name), -1 - k) for k, name in enumerate(names)])
    together = (family[:, None] == family) & ~diagonal
    chosen = {"within": diagonal, "between": ~diagonal, "super": together}
    return {name: mean_defined(cells[..., where], -1)[0] for name, where in chosen.items()}


def plot_class_stiffness(result: xr.Dataset, figure: Figure) -> None:
    """Class matrices at a few snapshots, on one scale, and the curves within and between classes."""
    steps = result["step"].values
    shown = plot.pick(steps, 3)
    titles = [f"cosine, step {steps[k]:,}" for k in shown]
    axes = plot.panels(
        figure, len(shown) + 2, columns=3, height=2.3, titles=titles, sharex=False, sharey=False
    )
    image: Any = None
    limits = plot.around_zero(result["cosine"].isel(step=shown, layer=-1))
    for panel, k in zip(axes, shown, strict=False):
        table = result["cosine"].isel(step=k, layer=-1).values
        image = plot.heat(panel, table, limits=limits, cmap=plot.DIVERGING)
        panel.set_aspect("equal")
        plot.name_ticks(panel.xaxis, result["label_2"].values, limit=10)
        plot.name_ticks(panel.yaxis, result["label"].values, limit=10)
        panel.set_xlabel("class")
    figure.colorbar(image, ax=axes[: len(shown)], shrink=0.8)
    for panel, kind in zip(axes[len(shown) :], ("cosine", "sign"), strict=True):
        for where, color in zip(("within", "between", "super"), plot.PALETTE, strict=False):
            values = result[f"{kind}_{where}"].isel(layer=-1)
            if bool(values.notnull().any()):
                plot.line(panel, steps, values, label=where, color=color)
        plot.zero_line(panel)
        plot.step_axis(panel, steps)
        panel.set_title(f"{kind} stiffness of classes")
        plot.legend(panel)
