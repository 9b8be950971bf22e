"""SVCCA: are the main directions of two representations the same, up to a linear map?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analyze.contract import metric
from analyze.metrics.representations.cka import OF_ACTIVATIONS, compare_sites, plot_similarity
from analyze.reference import Reference
from tracer.errors import ArgumentError

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

RAGHU_2017 = Reference(
    key="raghu2017svcca",
    authors=("Raghu, Maithra", "Gilmer, Justin", "Yosinski, Jason", "Sohl-Dickstein, Jascha"),
    title=(
        "SVCCA: Singular Vector Canonical Correlation Analysis for Deep Learning Dynamics and "
        "Interpretability"
    ),
    year=2017,
    venue="Advances in Neural Information Processing Systems 30",
    arxiv="1706.05806",
)
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Subspace:
    """Directions of a centred representation, orthonormal over the examples; none where it is refused."""

    basis: Floats  # (example, direction), by descending variance
    refused: str = ""
    rows: Floats | None = None  # (example, unit), centred; only where asked for, since sites can be wide

    @property
    def size(self) -> int:
        """Number of directions."""
        return self.basis.shape[1]


def subspace(values: ArrayLike, keep: float | None, *, with_rows: bool = False) -> Subspace:
    """Directions of a representation (example, unit) with the share `keep` of its variance; all if None.

    Once its directions fill the space of the n examples, canonical correlations are 1 whatever the data, so
    such a representation is refused; so is one without any direction, and (if `keep` is None) one with n <=
    units.

    >>> subspace([[0.0, 0.0], [3.0, 0.1], [0.0, 0.1], [3.0, 0.0]], 0.99).size
    1
    >>> subspace([[0.0, 0.0], [3.0, 0.1]], None).refused
    '2 examples <= 2 units'
    """
    if keep is not None and not 0 < keep <= 1:
        raise ArgumentError(f"keep is a share of the variance, above 0 and at most 1, got {keep!r}")
    rows = np.asarray(values, np.float64)
    n, units = rows.shape
    nothing = np.zeros((n, 0))
    if not np.isfinite(rows).all():
        return Subspace(nothing, "not finite")
    if keep is None and n <= units:
        return Subspace(nothing, f"{n} examples <= {units} units")
    if not n or (rows == rows[0]).all():
        return Subspace(nothing, "the same for every example")
    rows = rows - rows.mean(axis=0)
    basis, variance = _directions(rows)
    if keep is not None:
        share = np.cumsum(variance) / variance.sum()
        basis = basis[:, : int(np.searchsorted(share, keep * (1 - 1e-12))) + 1]
    if basis.shape[1] >= n - 1:
        return Subspace(nothing, f"{basis.shape[1]} directions fill the space of {n} examples")
    return Subspace(basis, rows=rows if with_rows else None)


def _directions(centred: Floats) -> tuple[Floats, Floats]:
    """Left singular vectors and squared singular values, without the directions that are only rounding."""
    n, units = centred.shape
    eps = np.finfo(np.float64).eps
    if units <= n:
        basis, scale, _ = np.linalg.svd(centred, full_matrices=False)
        live = scale > scale[0] * n * eps
        return basis[:, live], np.square(scale[live])
    # The kernel of a wide representation is small; it loses directions below n eps of the variance.
    variance, basis = np.linalg.eigh(centred @ centred.T)
    live = variance > variance[-1] * n * eps
    return basis[:, live][:, ::-1], variance[live][::-1]


def canonical_correlations(x: Subspace, y: Subspace) -> Floats:
    """Canonical correlations in [0, 1], descending: as many as the smaller subspace has directions.

    >>> x = subspace([[0.0], [1.0], [3.0], [4.0]], None)
    >>> canonical_correlations(x, x)
    array([1.])
    """
    if np.array_equal(x.basis, y.basis):
        return np.ones(x.size)
    return np.clip(np.linalg.svd(x.basis.T @ y.basis, compute_uv=False), 0.0, 1.0)


# What both comparisons of sites by the directions they span read and return.
OF_DIRECTIONS: dict[str, Any] = {
    **OF_ACTIVATIONS,
    "variables": {
        "between": ("step", "probe", "site", "site_2"),
        "to_first": ("step", "probe", "site"),
        "to_last": ("step", "probe", "site"),
        "n_directions": ("step", "probe", "site"),
        "n_undefined": ("step", "probe"),
    },
    "bounds": (0, 1),
    "summary": ("to_first",),
    "makes": (),
}


@metric(
    **OF_DIRECTIONS,
    title="SVCCA",
    formula=(
        "mean canonical correlation of the singular directions that hold 99 % of the variance of each site"
    ),
    cost=(
        "reads stored activations; one singular value decomposition per site and step, one per pair of sites"
    ),
    reading=(
        "1: the main directions of two sites are linear functions of each other. Compare values only of "
        "sites with few directions next to the number of examples: many directions agree by chance."
    ),
    reference=RAGHU_2017,
)
def svcca(
    activations: Sequence[np.ndarray],
    activations_first: Sequence[np.ndarray],
    activations_last: Sequence[np.ndarray],
    *,
    keep: float = 0.99,
) -> dict[str, Any]:
    """Mean canonical correlation between the directions that hold most of each site's variance.

    `activations` lists (step, example, unit) per site, the other two (example, unit) per site; a
    convolution's units are its channels at every position. Directions are singular vectors of the centred
    activations, as few as hold the share `keep` of the variance. Returns `between` (step, site, site_2),
    `to_first` and `to_last` (step, site) in [0, 1], `n_directions` (step, site) and `n_undefined` (step),
    the sites that are refused (0 directions) because the directions kept fill the space of the examples, or
    there is none: their values are NaN. Two sites with k and k' directions share at least k + k' - n + 1 of
    them whatever the data.

    >>> x = np.array([[0.0], [1.0], [3.0], [4.0]])
    >>> svcca([x[None]], [x], [-2 * x])["to_last"].tolist()
    [[1.0]]
    """

    def prepare(values: Floats) -> Subspace:
        return subspace(values, keep)

    return compare_sites(
        activations,
        activations_first,
        activations_last,
        prepare,
        _mean_correlation,
        refusal=lambda space: space.refused,
        size=lambda space: space.size,
    )


def _mean_correlation(x: Subspace, y: Subspace) -> float:
    return np.nan if x.refused or y.refused else float(canonical_correlations(x, y).mean())


def plot_svcca(result: xr.Dataset, figure: Figure) -> None:
    """Sites against sites at the first and last snapshot, and every site against itself in time."""
    plot_similarity(result, figure, "SVCCA")
