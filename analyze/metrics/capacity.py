"""Capacity: norms of all weights over the margin: how much could such a network fit?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from analyze import plot
from analyze.chain import dense_chain
from analyze.metric import metric
from analyze.operator_norm import spectral_norm
from analyze.reference import BRUCKNER_2019, GAIN_2019, NEYSHABUR_2017

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

FACTORS = ("dropped", "literal")
MEASURES = ("l2", "l1_path", "l2_path", "spectral")
NORMS = ("l1_path_norm", "l2_path_norm", "l2_norm", "spectral_norm")


@dataclass(frozen=True)
class Magnitudes:
    """What every measure is made of; the sums over paths as natural logarithms, since they overflow.

    `outputs` (layer,): h, the units a layer feeds. `frobenius`, `spectral` (step, layer): of its weights and
    of the map it computes. `log_l1` (step, factors): sum over paths of the product of |w|, for `literal` with
    a factor 2 for each layer crossed. `log_l2`: the same of w², with 4h.
    """

    outputs: np.ndarray
    frobenius: np.ndarray
    spectral: np.ndarray
    log_l1: np.ndarray
    log_l2: np.ndarray


@metric(
    reads=("weights", "network", "margin.gamma"),
    variables={
        **dict.fromkeys(MEASURES, ("step", "factors")),
        **{f"log10_{name}": ("step", "factors") for name in MEASURES},
        **dict.fromkeys((*NORMS, "spectral_sum_slide"), ("step",)),
    },
    scope="train",
    bounds=dict.fromkeys((*MEASURES, *NORMS, "spectral_sum_slide"), (0, np.inf)),
    units={f"log10_{name}": "log10" for name in MEASURES},
    title="Capacity measures",
    formula="γ⁻²∏|W|_F²,  γ⁻²(Σ_paths ∏|w|)²,  γ⁻²Σ_paths ∏w²,  γ⁻²∏σ_max²",
    cost="one singular value decomposition and two products with |W| and W² per layer and step",
    reading=(
        "Left: norms of the weights divided by the squared margin; a lower value promises a smaller "
        "generalization gap. Right: the same norms before division by the margin, each as it is."
    ),
    reference=(NEYSHABUR_2017, BRUCKNER_2019, GAIN_2019),
)
def capacity(
    weights: Sequence[Mapping[str, np.ndarray]], network: Mapping[str, Any], margin_gamma: np.ndarray
) -> dict[str, Any]:
    """Four capacity measures of a chain of linear layers: norms of its weights over the squared margin.

    `weights` holds one mapping from tensor name to values per step, `network` the stored table of the
    network, `margin_gamma` (step,) the margin γ of the training examples. Weights only, biases never count.
    With d layers of h_i outputs, the last one included:

    `l2` = γ⁻² ∏ 4|W_i|_F², `l1_path` = γ⁻² (Σ_paths ∏ 2|w|)², `l2_path` = γ⁻² Σ_paths ∏ 4 h_i w², `spectral`
    = γ⁻² ∏ h_i σ_max(W_i)², all (step, factors): as printed for `literal`, and without the 2, 4 and h_i,
    which depend on the architecture alone, for `dropped`. `log10_*` are their logarithms, finite also where
    the measure itself is beyond float64 (inf). NaN where γ is not above 0.

    Without margin and factors, (step,): `l2_norm` (product of squared Frobenius norms), `spectral_norm`
    (product of squared spectral norms), `l1_path_norm` and `l2_path_norm` (sums over paths of the products of
    |w| and of w²). `spectral_sum_slide` = γ⁻² Σ σ_max(W_i), as printed by Gain and Siegelmann.

    Raises MissingTraceError, naming what is in the way, for a network that is not a chain of linear layers.

    >>> first = {"name": "a", "op": "aten.linear.default", "args": [{"input": 0}, {"tensor": "a.weight"}]}
    >>> second = {"name": "b", "op": "aten.linear.default", "args": [{"row": 0}, {"tensor": "b.weight"}]}
    >>> weights = [{"a.weight": np.array([[3.0], [-4.0]]), "b.weight": np.array([[1.0, 2.0]])}]
    >>> result = capacity(weights, {"rows": [first, second]}, np.array([0.5]))
    >>> {name: result[name].round(6).tolist() for name in MEASURES}  # 4 · 25 · 5, 4 · 11², 4 · 73, 4 · 25 · 5
    {'l2': [[500.0, 8000.0]], 'l1_path': [[484.0, 7744.0]],
     'l2_path': [[292.0, 9344.0]], 'spectral': [[500.0, 1000.0]]}
    """
    return measures(chain_magnitudes(weights, dense_chain(network)), margin_gamma)


def chain_magnitudes(weights: Sequence[Mapping[str, np.ndarray]], chain: Sequence[str]) -> Magnitudes:
    """Magnitudes of linear layers applied one after the other, from their weights (out, in) at every step."""
    layers = [[np.asarray(tensors[name], np.float64) for name in chain] for tensors in weights]
    outputs = np.array([len(matrix) for matrix in layers[0]]) if layers else np.empty(0, np.int64)
    shape = (len(layers), len(chain))
    flat = [matrix for matrices in layers for matrix in matrices]
    path = {q: np.array([log_path_sum(matrices, q) for matrices in layers]) for q in (1, 2)}
    literal = {1: len(chain) * np.log(2.0), 2: np.log(4.0 * outputs).sum()}
    return Magnitudes(
        outputs=outputs,
        frobenius=np.reshape([np.linalg.norm(matrix) for matrix in flat], shape),
        spectral=np.reshape([spectral_norm(matrix) for matrix in flat], shape),
        # In a chain every path crosses every layer, so the factors come out of the sum.
        log_l1=np.stack([path[1], path[1] + literal[1]], axis=-1),
        log_l2=np.stack([path[2], path[2] + literal[2]], axis=-1),
    )


def log_path_sum(matrices: Sequence[np.ndarray], power: int) -> float:
    """Natural logarithm of the sum over all paths through a chain of the product of |w|^power.

    >>> round(float(np.exp(log_path_sum([np.array([[3.0], [-4.0]]), np.array([[1.0, 2.0]])], 1))), 12)
    11.0
    """
    reach, scale = np.ones(matrices[0].shape[1]), 0.0
    for matrix in matrices:
        reach = np.abs(matrix) ** power @ reach
        largest = reach.max(initial=0.0)
        if not 0 < largest < np.inf:
            return -np.inf if largest == 0 else np.nan
        reach, scale = reach / largest, scale + np.log(largest)
    return float(scale + np.log(reach.sum()))


def measures(magnitudes: Magnitudes, gamma: np.ndarray) -> dict[str, Any]:
    """Every measure of any network from its magnitudes and the margin γ (step,)."""
    gamma = np.asarray(gamma, np.float64)
    gamma = np.where(gamma > 0, gamma, np.nan)
    layers, outputs = len(magnitudes.outputs), magnitudes.outputs
    with np.errstate(divide="ignore", over="ignore"):
        frobenius = 2 * np.log(magnitudes.frobenius).sum(-1)
        spectral = 2 * np.log(magnitudes.spectral).sum(-1)
        logs = {
            "l2": np.stack([frobenius, frobenius + layers * np.log(4.0)], axis=-1),
            "l1_path": 2 * magnitudes.log_l1,
            "l2_path": magnitudes.log_l2,
            "spectral": np.stack([spectral, spectral + np.log(outputs).sum()], axis=-1),
        }
        result: dict[str, Any] = {}
        for name, value in logs.items():
            over_margin = value - 2 * np.log(gamma)[:, None]
            result[name], result[f"log10_{name}"] = np.exp(over_margin), over_margin / np.log(10.0)
        plain = (magnitudes.log_l1[:, 0], magnitudes.log_l2[:, 0], frobenius, spectral)
        result |= {name: np.exp(value) for name, value in zip(NORMS, plain, strict=True)}
    slide = magnitudes.spectral.sum(-1) / gamma**2
    return {**result, "spectral_sum_slide": slide, "factors": np.array(FACTORS)}


def plot_capacity(result: xr.Dataset, figure: Figure) -> None:
    """The measures over the margin, and the norms themselves, on logarithmic axes."""
    left, right = plot.panels(figure, 2, columns=2, height=2.9, sharey=False)
    steps = result["step"]
    for k, name in enumerate(MEASURES):
        values = result[f"log10_{name}"].sel(factors="dropped")
        plot.line(left, steps, values, color=plot.PALETTE[k], label=name.replace("_", "-"))
        norm = result[f"{name}_norm"].values
        finite = np.where(np.isfinite(norm) & (norm > 0), norm, np.nan)
        plot.line(right, steps, np.log10(finite), color=plot.PALETTE[k], label=name.replace("_", "-"))
    defined = int(result["log10_l2"].sel(factors="dropped").notnull().sum())
    where = "" if defined == steps.size else f" (above 0 at {defined} of {steps.size} steps)"
    left.set(title=f"Over the squared margin γ²{where}", ylabel="log₁₀ capacity (factors dropped)")
    if not defined:
        left.text(0.5, 0.5, "γ is not above 0 at any step", ha="center", transform=left.transAxes)
        left.set_yticks([])
    right.set(title="The norms themselves", ylabel="log₁₀ norm")
    for panel in (left, right):
        plot.step_axis(panel, steps)
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=4)
