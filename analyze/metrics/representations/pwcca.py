"""PWCCA: canonical correlations of two representations, weighted by how much of the first they explain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from analyze.contract import metric
from analyze.metrics.representations.cka import compare_sites, plot_similarity
from analyze.metrics.representations.svcca import OF_DIRECTIONS, Subspace, subspace
from analyze.reference import Reference

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

MORCOS_2018 = Reference(
    key="morcos2018insights",
    authors=("Morcos, Ari S.", "Raghu, Maithra", "Bengio, Samy"),
    title="Insights on representational similarity in neural networks with canonical correlation",
    year=2018,
    venue="Advances in Neural Information Processing Systems 31",
    arxiv="1806.05759",
)


def projection_weighted(x: Subspace, y: Subspace) -> float:
    """Canonical correlations of `x` with `y`, averaged with weights sum_j |<h_i, x_j>|.

    h_i is the i-th canonical variate of `x`, x_j its j-th centred unit. Not symmetric. NaN where either is
    refused.
    """
    if x.rows is None or y.rows is None:
        return np.nan
    if np.array_equal(x.basis, y.basis):
        return 1.0
    rotation, correlation, _ = np.linalg.svd(x.basis.T @ y.basis, full_matrices=False)
    weight = np.abs((x.basis @ rotation).T @ x.rows).sum(axis=1)
    return float(np.clip((weight * correlation).sum() / weight.sum(), 0.0, 1.0))


@metric(
    **OF_DIRECTIONS,
    title="PWCCA",
    formula="Σ_i α_i ρ_i / Σ_i α_i, ρ_i the canonical correlations, α_i = Σ_j |⟨h_i, x_j⟩|",
    cost=(
        "reads stored activations; one singular value decomposition per site and step, two per pair of sites"
    ),
    reading=(
        "Like SVCCA, but directions count by how much of the first site's activations they explain. Grey: "
        "a site with no more examples than units, where every correlation would be 1 (record more, or set "
        "keep=0.99)."
    ),
    reference=MORCOS_2018,
)
def pwcca(
    activations: Sequence[np.ndarray],
    activations_first: Sequence[np.ndarray],
    activations_last: Sequence[np.ndarray],
    *,
    keep: float | None = None,
) -> dict[str, Any]:
    """Canonical correlations between sites, weighted by how much of the first they explain.

    `activations` lists (step, example, unit) per site, the other two (example, unit) per site; a
    convolution's units are its channels at every position. Returns `between` (step, site, site_2), weighted
    by `site`; `to_first` and `to_last` (step, site), weighted by the site at that step; all in [0, 1]. A
    site with no more examples than units is refused, since every correlation would be 1: NaN, 0 in
    `n_directions` (step, site), counted in `n_undefined` (step). `keep` first reduces every site to the
    directions that hold that share of its variance, as SVCCA does, which also admits wide sites.

    >>> x = np.array([[0.0], [1.0], [3.0], [4.0]])
    >>> pwcca([x[None]], [x], [-2 * x])["to_last"].tolist()
    [[1.0]]
    """

    def prepare(values: NDArray[np.float64]) -> Subspace:
        return subspace(values, keep, with_rows=True)

    return compare_sites(
        activations,
        activations_first,
        activations_last,
        prepare,
        projection_weighted,
        refusal=lambda space: space.refused,
        size=lambda space: space.size,
        symmetric=False,
    )


def plot_pwcca(result: xr.Dataset, figure: Figure) -> None:
    """Sites against sites at the first and last snapshot, and every site against itself in time."""
    plot_similarity(result, figure, "PWCCA")
