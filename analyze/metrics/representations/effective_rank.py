"""Effective rank: in how many directions do the activations of a layer vary?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from analyze import plot
from analyze.contract import metric
from analyze.numerics import ROUNDING
from analyze.reference import Reference

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

ROY_2007 = Reference(
    key="roy2007effective",
    authors=("Roy, Olivier", "Vetterli, Martin"),
    title="The Effective Rank: A Measure of Effective Dimensionality",
    year=2007,
    venue="European Signal Processing Conference",
)
NAMES = ("effective_rank", "participation_ratio", "stable_rank")
BLOCK = 8  # times as many rows as columns are decomposed at a time


@metric(
    reads=("activations", "any_site"),
    scope="probe",
    variables={**dict.fromkeys(NAMES, ("step", "probe", "site")), "n_examples": ("probe",)},
    bounds=(1, np.inf),
    summary=("effective_rank", "stable_rank"),
    title="Effective rank of activations",
    formula="exp(-Σ p_k ln p_k), p_k = σ_k/Σσ;  (Σλ)²/Σλ²;  |A|²_F/|A|²₂",
    makes=[("example", "any_unit")] * 3,
    cost="one singular value decomposition of (example, unit) a site and step, O(examples² · units)",
    reading=(
        "One line per site, dark for the first. 1: all examples lie on one line. None exceeds the number of examples, "
        "so compare at one number. Contested: a falling rank goes with collapse of classes as well as with loss of "
        "what could be learned, so alone it is no sign of either."
    ),
    needs='activations of a probe: Probe(..., capture={"activations": 512})',
    reference=ROY_2007,
)
def effective_rank(
    activations: Sequence[np.ndarray], any_site: np.ndarray, *, centred: bool = True
) -> dict[str, Any]:
    """Effective rank, participation ratio and stable rank of the activations of every site.

    `activations` lists (step, example, unit) per site, a convolution's units being its channels at every position,
    `any_site` the names of the sites. A is the matrix (example, unit), with the mean of every unit removed where
    `centred`; σ are its singular values and λ = σ² up to a factor. All (step, site): `effective_rank` is the
    exponential of the entropy of σ/Σσ (of the values, not of their squares, which is another number),
    `participation_ratio` (Σλ)²/Σλ² always of the centred matrix, `stable_rank` the squared Frobenius over the squared
    spectral norm. Each lies between 1 and the smaller of `n_examples` and units. NaN where A is 0 but for rounding or
    not finite.

    >>> found = ranks(np.diag([3.0, 1.0]), centred=False)
    >>> round(found["effective_rank"], 4), round(found["stable_rank"], 4)
    (1.7548, 1.1111)
    >>> round(ranks([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]])["participation_ratio"], 4)  # 25/17
    1.4706
    """
    shape = len(activations[0]), len(activations)
    values = {name: np.full(shape, np.nan) for name in NAMES}
    for site, of_site in enumerate(activations):
        for step, matrix in enumerate(of_site):
            for name, value in ranks(matrix, centred=centred).items():
                values[name][step, site] = value
    return {
        **values,
        "n_examples": activations[0].shape[1],
        "site": any_site,
        "attrs": {"centred": int(centred)},
    }


def ranks(matrix: ArrayLike, *, centred: bool = True) -> dict[str, float]:
    """What `effective_rank` says of one matrix (example, unit)."""
    values = np.asarray(matrix, np.float64)
    if not np.isfinite(values).all():
        return dict.fromkeys(NAMES, np.nan)
    size = np.abs(values).max(initial=0.0)
    moved = values - values.mean(0) if len(values) else values
    of_moved = _singular(moved, size)
    of_matrix = of_moved if centred else _singular(values, size)
    total = of_matrix.sum()
    if total == 0:
        ranked = dict.fromkeys(("effective_rank", "stable_rank"), np.nan)
    else:
        share = of_matrix[of_matrix > 0] / total
        ranked = {
            "effective_rank": float(np.exp(-(share * np.log(share)).sum())),
            "stable_rank": float((of_matrix**2).sum() / of_matrix.max() ** 2),
        }
    power = of_moved**2
    ratio = float(power.sum() ** 2 / (power**2).sum()) if power.any() else np.nan
    return {**ranked, "participation_ratio": ratio}


def _singular(matrix: np.ndarray, size: float) -> np.ndarray:
    """Singular values over the largest entry `size` met before centring; all 0 where only rounding is left."""
    if size == 0 or np.abs(matrix).max(initial=0.0) <= ROUNDING * size:
        return np.zeros(1)
    return np.linalg.svd(_small(matrix / size), compute_uv=False)


def _small(matrix: np.ndarray) -> np.ndarray:
    """A matrix with the same singular values and as few rows as columns, of one with many more on one side.

    R of a QR decomposition block by block, each small enough to stay in a processor's cache.
    """
    tall = matrix if len(matrix) >= matrix.shape[1] else matrix.T
    n = tall.shape[1]
    rows = BLOCK * n
    if n == 0 or len(tall) < 2 * rows:
        return matrix
    whole = len(tall) // rows * rows
    parts = _triangular(tall[:whole].reshape(-1, rows, n)).reshape(-1, n)
    return _triangular(np.concatenate([parts, tall[whole:]]))


def _triangular(matrices: np.ndarray) -> np.ndarray:
    r: Any = np.linalg.qr(matrices, mode="r")  # the types of NumPy know only the pair of the other modes
    return np.asarray(r)


def plot_effective_rank(result: xr.Dataset, figure: Figure) -> None:
    """Each rank against training, one line per site, of the first probe."""
    titles = [name.replace("_", " ") for name in NAMES]
    axes = plot.panels(figure, 3, titles=titles, height=2.6, sharey=False)
    sites = result["site"].values
    first = result.isel(probe=0)
    for panel, name in zip(axes, NAMES, strict=True):
        for site, color in zip(sites, plot.depth_colors(len(sites)), strict=True):
            plot.line(panel, result["step"], first[name].sel(site=site), color=color, label=str(site))
        plot.step_axis(panel, result["step"])
        panel.set_ylim(0, None)
    axes[0].set_ylabel(f"directions ({result['probe'].values[0]})")
    plot.legend(axes[0])
