"""Neural collapse: have the features of each class shrunk to one point, and these points to a simplex?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from analyze import plot
from analyze.arrays.classes import class_scores
from analyze.contract import metric
from analyze.numerics import ROUNDING
from analyze.reference import Reference

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

PAPYAN_2020 = Reference(
    key="papyan2020prevalence",
    authors=("Papyan, Vardan", "Han, X.Y.", "Donoho, David L."),
    title="Prevalence of Neural Collapse during the Terminal Phase of Deep Learning Training",
    year=2020,
    arxiv="2008.08186",
)
GALANTI_2021 = Reference(
    key="galanti2021role",
    authors=("Galanti, Tomer", "György, András", "Hutter, Marcus"),
    title="On the Role of Neural Collapse in Transfer Learning",
    year=2021,
    arxiv="2112.15121",
)
ZHU_Z_2021 = Reference(
    key="zhu2021geometric",
    authors=(
        "Zhu, Zhihui",
        "Ding, Tianyu",
        "Zhou, Jinxin",
        "Li, Xiao",
        "You, Chong",
        "Sulam, Jeremias",
        "Qu, Qing",
    ),
    title="A Geometric Analysis of Neural Collapse with Unconstrained Features",
    year=2021,
    arxiv="2105.02375",
)
SMALLEST = 1e-10  # of the largest eigenvalue between classes: what is below is taken for 0
VALUES = (
    "nc1",
    "nc1_no_c",
    "cdnv",
    "equinorm_means",
    "equinorm_weights",
    "equiangle_means",
    "equiangle_weights",
    "equiangle_std_means",
    "equiangle_std_weights",
    "etf_error",
    "nc3",
    "nc3_product",
    "nc4",
    "smallest_eigenvalue",
)


@metric(
    reads=("states",),
    variables={**dict.fromkeys(VALUES, ("step",)), "imbalance": (), "n_examples": (), "n_features": ()},
    scope="train",
    bounds={**dict.fromkeys(VALUES, (0, np.inf)), "nc3": (0, 4), "nc4": (0, 1), "imbalance": (0, 1)},
    summary=("nc1", "etf_error", "nc3", "nc4"),
    title="Neural collapse",
    formula=(
        "NC1 = tr(Σ_W Σ_B⁺)/C;  NC2: sd/mean of |μ_c - μ_G|, mean |cos + 1/(C-1)|;  NC3 = |W/|W| - M/|M||²;  "
        "NC4: share whose class is not that of the nearest mean"
    ),
    cost="one forward pass of the training examples and a singular value decomposition of C class means a step",
    reading=(
        "All four fall towards 0 in the terminal phase of training. Contested: collapse on training examples says "
        "little about the generalization gap, and on test examples NC1 does not vanish (Hui et al. 2022)."
    ),
    reference=(PAPYAN_2020, GALANTI_2021, ZHU_Z_2021),
    passes=lambda options, snapshots: snapshots,
    classes=True,
)
def neural_collapse(states: Any, *, examples: int | None = None, ddof: int = 0) -> dict[str, Any]:
    """NC1 to NC4 of the features that the last linear layer is given, over the training examples, in eval mode.

    `states` holds the network at every snapshot; the first `examples` training examples count (None: all). With
    class means μ_c, their mean μ_G (of means, not of examples), rows μ_c - μ_G of M, Σ_W = (1/n) Σ (h - μ_c)(h -
    μ_c)ᵀ and Σ_B = (1/C) MᵀM, all (step,):

    `nc1` = tr(Σ_W Σ_B⁺)/C, Σ_B⁺ of the eigenvalues above 1e-10 of the largest, of which `smallest_eigenvalue` is
    the smallest; `nc1_no_c` without the division by C. `cdnv`: mean over pairs of classes of (v_c + v_c')/(2|μ_c -
    μ_c'|²), v_c the mean of |h - μ_c|². `equinorm_means`, `equinorm_weights`: standard deviation over mean of the
    lengths of the rows of M and of the weights W (`ddof=1` divides by C - 1, as the authors' notebook does).
    `equiangle_*`: mean over pairs of |cos + 1/(C-1)|, and `equiangle_std_*` the standard deviation of the cosines.
    `etf_error` = |MMᵀ/|MMᵀ| - (I - 11ᵀ/C)/√(C-1)|; `nc3_product` the same with WMᵀ. `nc3` = |W/|W| - M/|M||², all
    Frobenius norms. `nc4`: share of examples whose predicted class is not that of the nearest class mean.

    `imbalance` is 1 - smallest/largest class, since unequal classes change the target geometry. NaN where a class
    has no example or all means are equal; what W is part of also where W has not one row a class. The means are
    those of these examples themselves. A simplex needs `n_features` of at least C - 1.

    >>> h = np.array([[-1.5], [-0.5], [0.5], [1.5]])
    >>> found = collapse(h, np.array([0, 0, 1, 1]), np.array([[-1.0], [1.0]]), np.array([0, 0, 1, 1]))
    >>> {name: round(found[name], 6) for name in ("nc1", "nc1_no_c", "cdnv", "nc3", "nc4", "etf_error")}
    {'nc1': 0.125, 'nc1_no_c': 0.25, 'cdnv': 0.0625, 'nc3': 0.0, 'nc4': 0.0, 'etf_error': 0.0}
    """
    from analyze.replay.classifier import classified

    chosen = states.examples(examples)
    labels = chosen.labels
    values = {name: np.full(len(states), np.nan) for name in VALUES}
    n_features = 0
    for position in range(len(states)):
        seen = classified(states[position], chosen)
        n_features = seen.features.shape[1]
        targets = np.asarray(chosen.targets.cpu())
        predicted = class_scores(seen.outputs[None], targets, chosen.rule)[0]
        if not (np.isfinite(seen.features).all() and np.isfinite(predicted).all()):
            continue
        for name, value in collapse(
            seen.features, labels, seen.weights, predicted.argmax(1), predicted.shape[1], ddof
        ).items():
            values[name][position] = value
    sizes = np.unique(labels[labels >= 0], return_counts=True)[1]
    return {
        **values,
        "imbalance": 1.0 - sizes.min() / sizes.max() if len(sizes) else np.nan,
        "n_examples": chosen.n,
        "n_features": n_features,
    }


def collapse(
    features: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    predicted: np.ndarray,
    n_classes: int | None = None,
    ddof: int = 0,
) -> dict[str, float]:
    """What `neural_collapse` says of features (example, feature) with classes, weights and predicted classes."""
    count = len(weights) if n_classes is None else n_classes
    rows = [features[labels == name] for name in range(count)]
    if count < 2 or not all(map(len, rows)):
        return dict.fromkeys(VALUES, np.nan)
    means = np.array([part.mean(0) for part in rows])
    centred = means - means.mean(0)
    if np.abs(centred).max(initial=0.0) <= ROUNDING * np.abs(features).max(initial=0.0):
        return dict.fromkeys(VALUES, np.nan)
    within = np.concatenate([part - mean for part, mean in zip(rows, means, strict=True)])
    _, scale, axes = np.linalg.svd(centred / np.sqrt(count), full_matrices=False)
    used = scale**2 > SMALLEST * scale[0] ** 2
    along = np.mean((within @ axes[used].T) ** 2, axis=0)
    nc1 = float((along / scale[used] ** 2).sum())
    weights = weights if len(weights) == count else np.full((count, features.shape[1]), np.nan)
    distance = np.stack([((features - mean) ** 2).sum(1) for mean in means], axis=1)
    known = (labels >= 0) & (labels < count)
    return {
        "nc1": nc1 / count,
        "nc1_no_c": nc1,
        "cdnv": _cdnv(rows, means),
        **_equal(centred, "means", ddof),
        **_equal(weights, "weights", ddof),
        "etf_error": _etf_error(centred, centred),
        "nc3": float(((_unit(weights) - _unit(centred)) ** 2).sum()),
        "nc3_product": _etf_error(weights, centred),
        "nc4": float((predicted != distance.argmin(1))[known].mean()),
        "smallest_eigenvalue": float(scale[used][-1] ** 2),
    }


def _cdnv(rows: list[np.ndarray], means: np.ndarray) -> float:
    """Variance of two classes over the squared distance of their means; NaN where two means are equal."""
    variance = np.array([((part - mean) ** 2).sum(1).mean() for part, mean in zip(rows, means, strict=True)])
    first, second = np.triu_indices(len(means), 1)
    gap = ((means[first] - means[second]) ** 2).sum(1)
    if (gap <= ROUNDING**2 * (means**2).sum(1).max()).any():
        return np.nan
    return float(np.mean((variance[first] + variance[second]) / (2 * gap)))


def _equal(rows: np.ndarray, name: str, ddof: int) -> dict[str, float]:
    """How far rows (class, feature) are from equal lengths and from equal angles."""
    length = np.linalg.norm(rows, axis=1)
    names = (f"equinorm_{name}", f"equiangle_{name}", f"equiangle_std_{name}")
    if not (length > 0).all():
        return dict.fromkeys(names, np.nan)
    cosines = ((rows / length[:, None]) @ (rows / length[:, None]).T)[~np.eye(len(rows), dtype=bool)]
    values = (
        length.std(ddof=ddof) / length.mean(),
        np.abs(cosines + 1 / (len(rows) - 1)).mean(),
        cosines.std(ddof=ddof),
    )
    return dict(zip(names, map(float, values), strict=True))


def _etf_error(rows: np.ndarray, means: np.ndarray) -> float:
    count = len(means)
    simplex = (np.eye(count) - 1 / count) / np.sqrt(count - 1)
    return float(np.linalg.norm(_unit(rows @ means.T) - simplex))


def _unit(matrix: np.ndarray) -> np.ndarray:
    size = np.linalg.norm(matrix)
    return matrix / size if size > 0 else np.full(matrix.shape, np.nan)


def plot_neural_collapse(result: xr.Dataset, figure: Figure) -> None:
    """The four properties against training, on logarithmic axes where they are above 0."""
    shown = {
        "NC1: variability": {"nc1": "within over between classes", "cdnv": "mean over pairs (CDNV)"},
        "NC2: equal lengths": {"equinorm_means": "class means", "equinorm_weights": "weights"},
        "NC2: equal angles": {
            "equiangle_means": "class means",
            "equiangle_weights": "weights",
            "etf_error": "distance from a simplex",
        },
        "NC3: weights are means": {"nc3": "distance from the means", "nc3_product": "product from a simplex"},
        "NC4: not the nearest mean": {"nc4": "_share of examples"},  # it alone is in its panel
    }
    names = list(dict.fromkeys(name for told in shown.values() for name in told.values()))
    colors = dict(zip(names, (*plot.PALETTE, plot.PALETTE[0]), strict=True))
    axes = plot.panels(figure, len(shown), titles=list(shown), height=2.2, sharey=False)
    for panel, told in zip(axes, shown.values(), strict=True):
        for variable, name in told.items():
            plot.line(panel, result["step"], result[variable], color=colors[name], label=name)
        if "nc4" not in told and any(np.nanmax(result[name].values, initial=0.0) > 0 for name in told):
            plot.log_scale(panel)
        plot.step_axis(panel, result["step"])
        plot.legend(panel)
