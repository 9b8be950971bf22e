"""CKA: are two representations of the same examples alike, up to rotation and scale?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analyze import plot
from analyze.contract import metric
from analyze.reference import Reference
from tracer.errors import ArgumentError

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KORNBLITH_2019 = Reference(
    key="kornblith2019similarity",
    authors=("Kornblith, Simon", "Norouzi, Mohammad", "Lee, Honglak", "Hinton, Geoffrey"),
    title="Similarity of Neural Network Representations Revisited",
    year=2019,
    venue="International Conference on Machine Learning",
    arxiv="1905.00414",
)
Estimator = Literal["biased", "unbiased"]
Floats = NDArray[np.float64]


def linear_cka(x: ArrayLike, y: ArrayLike, *, estimator: Estimator = "biased") -> float:
    """Linear centred kernel alignment of two representations (example, unit) of the same examples.

    `estimator="unbiased"` uses the unbiased HSIC, whose expectation is 0 for independent representations
    (it can be negative, and needs at least four examples). NaN where a representation is the same for every
    example. Invariant to rotations and isotropic scaling of either.

    >>> linear_cka([[0.0], [1.0], [3.0]], [[0.0, 0.0], [0.0, -2.0], [0.0, -6.0]])
    1.0
    """
    return _alignment(centred_kernel(x, estimator), centred_kernel(y, estimator), estimator)


# What every comparison of sites by their activations reads and needs.
OF_ACTIVATIONS: dict[str, Any] = {
    "reads": ("activations", "activations_first", "activations_last"),
    "scope": "probe",
    "needs": 'activations of a probe: Probe(..., capture={"activations": 512})',
}


@metric(
    **OF_ACTIVATIONS,
    variables={
        "between": ("step", "probe", "site", "site_2"),
        "to_first": ("step", "probe", "site"),
        "to_last": ("step", "probe", "site"),
        "n_undefined": ("step", "probe"),
    },
    bounds=(-1, 1),
    summary=("to_first",),
    title="CKA",
    formula="CKA(X, Y) = ⟨K, L⟩ / (‖K‖ ‖L‖), K = X Xᵀ and L = Y Yᵀ of centred activations",
    makes=[("any_site", "example", "example_2")] * 3,
    cost="reads stored activations; O(steps · (sites · examples² · units + sites² · examples²))",
    reading=(
        "1: two sites (or two times of one site) represent the examples alike, up to rotation and scale. "
        "Sites whose similarity to the last snapshot is high early have settled first, usually the ones "
        "near the input."
    ),
    reference=KORNBLITH_2019,
)
def cka(
    activations: Sequence[np.ndarray],
    activations_first: Sequence[np.ndarray],
    activations_last: Sequence[np.ndarray],
    *,
    estimator: Estimator = "biased",
) -> dict[str, Any]:
    """Linear CKA between sites, and of every site with itself at the first and the last snapshot.

    `activations` lists (step, example, unit) per site, the other two (example, unit) per site; a
    convolution's units are its channels at every position. Returns `between` (step, site, site_2),
    `to_first` and `to_last` (step, site) in [0, 1], and `n_undefined` (step), the sites whose activations
    are the same for every example: their values are NaN. `estimator="unbiased"` removes the upward bias of
    few examples.

    >>> x = np.array([[0.0], [1.0], [3.0]])
    >>> cka([x[None], 2 * x[None]], [x, x], [-x, x])["between"].tolist()
    [[[1.0, 1.0], [1.0, 1.0]]]
    """

    def prepare(values: Floats) -> Floats:
        return centred_kernel(values, estimator)

    def compare(first: Floats, second: Floats) -> float:
        return _alignment(first, second, estimator)

    return compare_sites(activations, activations_first, activations_last, prepare, compare, refusal=_refusal)


def compare_sites(
    activations: Sequence[np.ndarray],
    activations_first: Sequence[np.ndarray],
    activations_last: Sequence[np.ndarray],
    prepare: Callable[[Floats], Any],
    compare: Callable[[Any, Any], float],
    *,
    refusal: Callable[[Any], str],
    size: Callable[[Any], int] | None = None,
    symmetric: bool = True,
) -> dict[str, Any]:
    """`between`, `to_first` and `to_last` by `compare` of what `prepare` makes of each site.

    `n_undefined` counts the sites a step whose comparison with themselves is NaN; the attribute
    `refused_at_first_snapshot` counts the reasons, as `refusal` gives them. With `size`, `n_directions` is
    the `size` of what was prepared.
    """
    sites, steps = range(len(activations)), len(activations[0]) if len(activations) else 0
    between = np.full((steps, len(sites), len(sites)), np.nan)
    to_first, to_last = np.full((2, steps, len(sites)), np.nan)
    directions = np.zeros((steps, len(sites)), np.int64)
    first = [prepare(np.asarray(values, np.float64)) for values in activations_first]
    last = [prepare(np.asarray(values, np.float64)) for values in activations_last]
    for step in range(steps):
        here = [prepare(np.asarray(activations[site][step], np.float64)) for site in sites]
        for site in sites:
            directions[step, site] = size(here[site]) if size else 0
            to_first[step, site] = compare(here[site], first[site])
            to_last[step, site] = compare(here[site], last[site])
            for other in sites if not symmetric else range(site + 1):
                between[step, site, other] = compare(here[site], here[other])
                if symmetric:
                    between[step, other, site] = between[step, site, other]
    undefined = np.isnan(np.diagonal(between, axis1=1, axis2=2)).sum(axis=1, dtype=np.int64)
    reasons = Counter(filter(None, map(refusal, first)))
    refused = "; ".join(f"{count} of {len(sites)} sites: {reason}" for reason, count in reasons.items())
    result = {"between": between, "to_first": to_first, "to_last": to_last, "n_undefined": undefined}
    result |= {"n_directions": directions} if size else {}
    return result | {"attrs": {"refused_at_first_snapshot": refused or "none"}}


def _refusal(kernel: Floats) -> str:
    if np.isnan(kernel).any():
        return "not finite, or fewer than four examples"
    return "" if kernel.any() else "the same for every example"


def centred_kernel(values: ArrayLike, estimator: Estimator = "biased") -> Floats:
    """Kernel (example, example_2) of the centred rows, its largest entry 1; zeros if all are equal."""
    if estimator not in ("biased", "unbiased"):
        raise ArgumentError(f"cka has the estimators 'biased' and 'unbiased', got {estimator!r}")
    rows = np.asarray(values, np.float64)
    if not np.isfinite(rows).all():
        return np.full((len(rows), len(rows)), np.nan)
    if not len(rows) or (rows == rows[0]).all():
        return np.zeros((len(rows), len(rows)))
    rows = rows / np.abs(rows).max()
    rows = rows - rows.mean(axis=0)
    kernel = rows @ rows.T
    if estimator == "unbiased":
        kernel = _u_centred(kernel)
    largest = np.abs(kernel).max()
    return kernel / largest if largest > 0 else kernel


def _u_centred(kernel: Floats) -> Floats:
    """Centring of Szekely & Rizzo: off-diagonal entries only, so that the mean product is unbiased."""
    n = len(kernel)
    if n < 4:
        return np.full_like(kernel, np.nan)
    kernel = kernel - np.diag(np.diag(kernel))
    rows = kernel.sum(axis=0) / (n - 2)
    centred = kernel - rows - rows[:, None] + kernel.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(centred, 0.0)
    return centred


def _alignment(x: Floats, y: Floats, estimator: Estimator) -> float:
    """Cosine of two kernels. sqrt(a * a) is exactly a, so equal kernels give exactly 1."""
    cross, own = np.vdot(x, y), np.vdot(x, x) * np.vdot(y, y)
    if not own > 0:
        return np.nan
    low = 0.0 if estimator == "biased" else -1.0
    return float(np.clip(cross / np.sqrt(own), low, 1.0))


def plot_cka(result: xr.Dataset, figure: Figure) -> None:
    """Sites against sites at the first and last snapshot, and every site against itself in time."""
    plot_similarity(result, figure, "CKA")


def plot_similarity(result: xr.Dataset, figure: Figure, name: str) -> None:
    """Four maps of a similarity of the first probe; a site without values is listed as undefined."""
    mine = result.isel(probe=0)
    steps, sites = mine["step"].values, mine["site"].values
    axes = plot.panels(figure, 4, columns=2, height=2.9, sharex=False, sharey=False)
    shown = [mine["between"].isel(step=[0, -1]), mine["to_first"], mine["to_last"]]
    limits = plot.finite_limits(np.concatenate([values.values.ravel() for values in shown]))[0], 1.0
    for panel, at in zip(axes, (0, -1), strict=False):
        table = mine["between"].isel(step=at).values
        plot.heat(panel, table, limits=limits, colorbar=name)
        _mark_undefined(panel, table)
        plot.name_ticks(panel.yaxis, sites, limit=12)
        plot.name_ticks(panel.xaxis, sites, limit=12, rotation=90)
        panel.set_title(f"between sites, step {steps[at]:,}")
    for panel, variable, what in zip(axes[2:], ("to_first", "to_last"), ("first", "last"), strict=True):
        table = mine[variable].transpose("site", "step").values
        plot.heat_over_time(panel, table, steps, sites, limits=limits, colorbar=name)
        _mark_undefined(panel, table)
        panel.set_title(f"each site with its {what} snapshot")


def _mark_undefined(axes: Axes, table: np.ndarray) -> None:
    axes.set_facecolor("0.9")
    if not np.isfinite(table).any():
        axes.text(0.5, 0.5, "undefined", transform=axes.transAxes, ha="center", va="center", color="0.3")
