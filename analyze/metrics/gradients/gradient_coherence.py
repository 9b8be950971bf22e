"""Gradient coherence: how many examples does a step along one example's gradient help?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analyze import plot
from analyze.contract import metric
from analyze.metrics.gradients.gradient_diversity import (
    count_zero,
    layer_heat,
    probe_lines,
    sum_and_norms,
)
from analyze.numerics import divide
from analyze.reference import Reference

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

CHATTERJEE_2020 = Reference(
    key="chatterjee2020coherent",
    authors=("Chatterjee, Satrajit",),
    title=(
        "Coherent Gradients: An Approach to Understanding Generalization in Gradient Descent-based "
        "Optimization"
    ),
    year=2020,
    venue="International Conference on Learning Representations",
    arxiv="2002.10657",
)
CHATTERJEE_ZIELINSKI_2020 = Reference(
    key="chatterjee2020making",
    authors=("Chatterjee, Satrajit", "Zielinski, Piotr"),
    title="Making Coherence Out of Nothing At All: Measuring the Evolution of Gradient Alignment",
    year=2020,
    arxiv="2008.01217",
)


@metric(
    reads=("gram",),
    bands=True,
    scope="probe",
    variables={
        "m_coherence": ("step", "probe", "layer"),
        "alpha": ("step", "probe", "layer"),
        "n_zero": ("step", "probe", "layer"),
    },
    bounds={"m_coherence": (0, np.inf), "alpha": (0, 1)},
    units={"m_coherence": "examples"},
    summary=("m_coherence", "alpha"),
    title="Gradient coherence",
    formula="m-coherence = |Σ_i g_i|² / Σ_i |g_i|²;  α = m-coherence / n",
    cost="reads stored Gram matrices; O(steps · layers · examples²)",
    reading=(
        "How many examples a step along one example's gradient helps. 1 is what orthogonal gradients "
        "give: every example is learned by itself. Far above 1: examples share what they teach."
    ),
    reference=(CHATTERJEE_ZIELINSKI_2020, CHATTERJEE_2020),
)
def gradient_coherence(gram: ArrayLike) -> dict[str, NDArray]:
    """m-coherence: squared norm of the summed gradient over the sum of squared norms.

    `gram` (step, layer, example, example_2) holds inner products of per-example loss gradients. Returns
    `m_coherence` = |sum_i g_i|^2 / sum_i |g_i|^2 in [0, n], `alpha` = m_coherence / n in [0, 1] and
    `n_zero`, the number of examples with a zero gradient; all (step, layer). Equal gradients give n,
    orthogonal ones 1, gradients that cancel 0. NaN where every gradient is zero. It is one over the
    gradient diversity.

    >>> result = gradient_coherence([[[[1.0, 1.0], [1.0, 1.0]]]])
    >>> float(result["m_coherence"][0, 0]), float(result["alpha"][0, 0])
    (2.0, 1.0)
    """
    total, norms = sum_and_norms(gram)
    n = np.shape(gram)[-1]
    # By Cauchy-Schwarz the ratio is at most n; only rounding passes it.
    coherence = np.minimum(divide(total, norms), n)
    return {"m_coherence": coherence, "alpha": coherence / n, "n_zero": count_zero(gram)}


def plot_gradient_coherence(result: xr.Dataset, figure: Figure) -> None:
    """m-coherence of the whole network against training, and its share of n by layer."""
    left, right = plot.panels(figure, 2, columns=2, height=2.6, sharex=False, sharey=False)
    probe_lines(left, result["m_coherence"].isel(layer=-1))
    plot.zero_line(left, at=1.0)
    left.set(title="whole network (grey: orthogonal)", ylabel="m-coherence (examples)")
    plot.log_scale(left)
    plot.legend(left, title="probe")
    layer_heat(right, result["m_coherence"], "m-coherence", log=True)
