"""Capacity: norms of all weights over the margin: how much could such a network fit?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from analyze import plot
from analyze.contract import metric
from analyze.metrics.outcome.margin import counted
from analyze.reference import BRUCKNER_2019, GAIN_2019, NEYSHABUR_2017
from analyze.replay.paths import Affine, MaxPool, Units, path_sums
from analyze.replay.paths.operator_norm import TOLERANCE, map_norm

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

    from tracer.network import Network

FACTORS = ("dropped", "literal")
MEASURES = ("l2", "l1_path", "l2_path", "spectral")
NORMS = ("l1_path_norm", "l2_path_norm", "l2_norm", "spectral_norm")
Kind = Literal["kernel", "operator"]


@dataclass(frozen=True)
class Magnitudes:
    """What every measure of one network is made of; sums over paths as natural logarithms.

    h, frobenius, spectral (layer,): outputs of each parametrised map, norm of its weights, largest singular
    value. path: by (q, literal), sum over paths of the product of |w|^q, for literal with 2 or 4h for each
    map crossed.
    """

    h: np.ndarray
    frobenius: np.ndarray
    spectral: np.ndarray
    path: Mapping[tuple[int, bool], float]


@metric(
    reads=("weights", "networks", "margin.gamma"),
    optional=("margin.n_examples", "margin.n_undefined"),
    variables={
        **dict.fromkeys(MEASURES, ("step", "factors")),
        **{f"log10_{name}": ("step", "factors") for name in MEASURES},
        **dict.fromkeys((*NORMS, "spectral_sum_slide"), ("step",)),
        "n_layers": ("step",),
        "n_margins": ("step",),
    },
    scope="train",
    bounds=dict.fromkeys((*MEASURES, *NORMS, "spectral_sum_slide"), (0, np.inf)),
    units={f"log10_{name}": "log10" for name in MEASURES},
    summary={
        **{f"log10_{name}": {"factors": "dropped"} for name in MEASURES},
        **{name: {} for name in (*NORMS, "spectral_sum_slide")},
    },
    makes=(),
    title="Capacity measures",
    formula="γ⁻²∏|W|_F²,  γ⁻²(Σ_paths ∏|w|)²,  γ⁻²Σ_paths ∏w²,  γ⁻²∏σ_max²",
    work=12,
    cost="some 5 forward passes of one example in float64, 20 to 60 forward and backward in float32, a step",
    reading=(
        "Left: norms of the weights divided by the squared margin; a lower value promises a smaller "
        "generalization gap. Right: the same norms before division by the margin, each as it is."
    ),
    reference=(NEYSHABUR_2017, BRUCKNER_2019, GAIN_2019),
)
def capacity(
    weights: Sequence[Mapping[str, np.ndarray]],
    networks: Sequence[Network],
    margin_gamma: np.ndarray,
    *,
    margin_n_examples: np.ndarray | None = None,
    margin_n_undefined: np.ndarray | None = None,
    include_bias: bool = False,
    maxpool: MaxPool = "sum",
    units: Units = "unrolled",
    frobenius: Kind = "kernel",
) -> dict[str, Any]:
    """Four capacity measures: norms of all weights over the squared margin.

    `weights` holds one mapping from tensor name to values per step, `networks` the network that holds at that
    step, `margin_gamma` (step,) the margin γ of the training examples, taken from `n_margins` of them (0 where their
    number was not handed over). A layer i of the d = `n_layers` is a
    linear layer or convolution with the BatchNorm after it folded in (a BatchNorm that cannot be folded is
    a layer of its own), once for every time it is applied, shortcuts included; h_i are the units of its
    output.

    `l2` = γ⁻² ∏ 4|W_i|_F², `l1_path` = γ⁻² (Σ_paths ∏ 2|w|)², `l2_path` = γ⁻² Σ_paths ∏ 4 h_i w²,
    `spectral` = γ⁻² ∏ h_i σ_max(W_i)², all (step, factors): as printed for `literal` (where a path carries
    the factors of the layers it crosses), and without the 2, 4 and h_i, which depend on the architecture
    alone, for `dropped`. `log10_*` are their logarithms, finite also where the measure itself is beyond
    float64 (inf). NaN where γ is not above 0.

    Without margin and factors, (step,): `l2_norm` (product of squared Frobenius norms), `spectral_norm`
    (product of squared spectral norms; no Lipschitz bound where there are shortcuts), `l1_path_norm` and
    `l2_path_norm` (sums over paths of the products of |w| and of w²). `spectral_sum_slide` = γ⁻² Σ
    σ_max(W_i), as printed by Gain and Siegelmann.

    Paths and operators are those of the network unrolled: every unit of a convolution counts, with its
    padding, stride and groups; max pooling is the sum over its window (`maxpool="max"` keeps the maximum,
    as published code does, which is less). `include_bias=True` also counts paths that begin at a bias.
    `units="channels"` takes h_i as the number of channels. `frobenius="operator"` counts a weight once for
    each position it is applied at.

    Raises MissingTraceError, naming row and module, where paths are not defined: products of activations,
    attention, LayerNorm, GroupNorm, activations that are steeper than 1 or not 0 at 0.

    >>> from torch import nn, zeros
    >>> from tracer.network import trace
    >>> model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False))
    >>> weights = [{"0.weight": np.array([[3.0], [-4.0]]), "1.weight": np.array([[1.0, 2.0]])}]
    >>> result = capacity(weights, [trace(model, zeros(2, 1))], np.array([0.5]))
    >>> {name: result[name].round(6).tolist() for name in MEASURES}  # 4 · 25 · 5, 4 · 11², 4 · 73, 4 · 25 · 5
    {'l2': [[500.0, 8000.0]], 'l1_path': [[484.0, 7744.0]],
     'l2_path': [[292.0, 9344.0]], 'spectral': [[500.0, 1000.0]]}
    """
    norms = []
    for position, tensors in enumerate(weights):
        sums = path_sums(networks[position], tensors, include_bias=include_bias, maxpool=maxpool, units=units)
        norms.append(magnitudes(sums.maps, sums.log, units, frobenius))
    gamma = np.asarray(margin_gamma, np.float64)
    parts = [measures(each, value) for each, value in zip(norms, gamma, strict=True)]
    names = [*MEASURES, *(f"log10_{name}" for name in MEASURES), *NORMS, "spectral_sum_slide"]
    shapes = {name: (0, 2) if name.removeprefix("log10_") in MEASURES else (0,) for name in names}
    return {
        **{
            name: np.array([part[name] for part in parts]).reshape(len(parts), *shapes[name][1:])
            for name in names
        },
        "n_layers": np.array([len(each.h) for each in norms], np.int64),
        "n_margins": counted(gamma, margin_n_examples, margin_n_undefined),
        "factors": np.array(FACTORS),
        "attrs": {"spectral_tolerance": TOLERANCE, "include_bias": int(include_bias), "maxpool": maxpool},
    }


def magnitudes(
    maps: Sequence[Affine], path: Mapping[tuple[int, bool], float], units: Units, frobenius: Kind
) -> Magnitudes:
    """Norms of every map a network's paths cross, next to its sums over paths."""
    h = [layer.channels if units == "channels" else layer.units for layer in maps]
    squares, spectral = [], []
    for layer in maps:
        weight = layer.weight()
        squares.append(_operator_square(layer) if frobenius == "operator" else float((weight * weight).sum()))
        spectral.append(map_norm(layer.apply, weight, layer.inputs).value)
    return Magnitudes(np.array(h, np.float64), np.sqrt(squares), np.array(spectral, np.float64), path)


def _operator_square(layer: Affine) -> float:
    import torch

    squares = layer.weight() ** 2
    if layer.apply is None:
        return float(squares.sum()) * layer.units / squares.numel()
    with torch.no_grad():
        return float(layer.apply(torch.ones(1, *layer.inputs, dtype=torch.float64), squares).sum())


def measures(norms: Magnitudes, gamma: float) -> dict[str, Any]:
    """Every measure of one network from its magnitudes and the margin γ; (factors,) or single numbers."""
    gamma = gamma if gamma > 0 else np.nan
    with np.errstate(divide="ignore", over="ignore"):
        frobenius = 2 * np.log(norms.frobenius).sum()
        spectral = 2 * np.log(norms.spectral).sum()
        logs = {
            "l2": np.array([frobenius, frobenius + len(norms.h) * np.log(4.0)]),
            "l1_path": 2 * np.array([norms.path[1, False], norms.path[1, True]]),
            "l2_path": np.array([norms.path[2, False], norms.path[2, True]]),
            "spectral": np.array([spectral, spectral + np.log(norms.h).sum()]),
        }
        result: dict[str, Any] = {}
        for name, value in logs.items():
            over_margin = value - 2 * np.log(gamma)
            result[name], result[f"log10_{name}"] = np.exp(over_margin), over_margin / np.log(10.0)
        plain = (norms.path[1, False], norms.path[2, False], frobenius, spectral)
        result |= {name: np.exp(value) for name, value in zip(NORMS, plain, strict=True)}
    return {**result, "spectral_sum_slide": norms.spectral.sum() / gamma**2}


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
    n = int(result["n_margins"][-1])
    where += f" of {n} examples" if n else ""
    left.set(title=f"Over the squared margin γ²{where}", ylabel="log₁₀ capacity (factors dropped)")
    if not defined:
        left.text(0.5, 0.5, "γ is not above 0 at any step", ha="center", transform=left.transAxes)
        left.set_yticks([])
    right.set(title="The norms themselves", ylabel="log₁₀ norm")
    for panel in (left, right):
        plot.step_axis(panel, steps)
    plot.legend(right)
