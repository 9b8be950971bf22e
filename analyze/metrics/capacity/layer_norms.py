"""Norms of each layer's weights: how large they are, and how far they have come from where they began."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from analyze import plot
from analyze.contract import metric
from analyze.reference import JIANG_2019, NEYSHABUR_2017
from analyze.replay.paths.operator_norm import TOLERANCE, Applied, applied_weights, row_norm, singular_values

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

    from tracer.network import Network

NAMES = ("frobenius", "spectral_exact", "spectral_reshaped", "nuclear", "l1", "distance_from_init")


@metric(
    reads=("weights", "initial_weights", "layer_tensors"),
    optional={"network": {}},
    variables=dict.fromkeys((*NAMES, "n_iterations"), ("step", "layer")),
    bounds=(0, np.inf),
    summary=("frobenius", "spectral_exact", "distance_from_init"),
    title="Layer norms",
    formula="|W|_F, σ_max, Σσ, Σ|w|, |W - W_0|_F",
    work=12,
    cost="one singular value decomposition per layer and step; 20 to 60 convolutions and back for a norm",
    reading=(
        "One line per layer, dark for the first. Norms that keep growing at zero training error, or a large "
        "distance from initialisation, mean a network of higher capacity."
    ),
    reference=(NEYSHABUR_2017, JIANG_2019),
)
def layer_norms(
    weights: Sequence[Mapping[str, np.ndarray]],
    initial_weights: Mapping[str, np.ndarray],
    layer_tensors: Mapping[str, Sequence[str]],
    *,
    network: Network | None = None,
    tolerance: float = TOLERANCE,
) -> dict[str, Any]:
    """Norms of the weights of every layer, and of all of them together as the last layer, `all`.

    `weights` holds one mapping from tensor name to values per step, `initial_weights` those at
    initialisation, `layer_tensors` the parameters of each layer, `network` the recorded network, if any. A
    layer's weights are its parameters with two or more dimensions, or where it has none (normalisation) those
    not called bias; biases never count. All results are (step, layer), float64:

    `frobenius`, `l1` (sum of absolute values) and `distance_from_init` (Frobenius) over all weights of the
    layer. `spectral_exact`: largest singular value of the linear map the layer computes: a convolution with
    its own stride, padding, dilation and groups at the size of input it works on, by Lanczos iterations up
    to a relative error of `tolerance` (`n_iterations` of them; 0: from the whole matrix).
    `spectral_reshaped` and `nuclear`: largest and sum of singular values of the weight as a matrix (out,
    everything else). The last three are NaN where a layer has not exactly one weight matrix, and for `all`;
    the exact norm also without a network, and where its table does not show the layer applying its weight by itself
    (recurrent, attention, embedding, reparametrised). NaN where a weight is not finite.

    >>> now, before = {"fc.weight": np.diag([3.0, -4.0])}, {"fc.weight": np.zeros((2, 2))}
    >>> import torch
    >>> from collections import OrderedDict
    >>> from tracer.network import trace
    >>> model = torch.nn.Sequential(OrderedDict(fc=torch.nn.Linear(2, 2)))
    >>> network = trace(model, torch.zeros(3, 2))
    >>> result = layer_norms([now], before, {"fc": ["fc.weight"]}, network=network)
    >>> {name: result[name][0, 0].item() for name in ("frobenius", "spectral_exact", "nuclear", "l1")}
    {'frobenius': 5.0, 'spectral_exact': 4.0, 'nuclear': 7.0, 'l1': 7.0}
    """
    owned = {layer: weight_names(names, initial_weights) for layer, names in layer_tensors.items()}
    applied = {} if network is None else applied_weights(network)
    everything = [name for names in owned.values() for name in names]
    values = {name: np.full((len(weights), len(owned) + 1), np.nan) for name in NAMES}
    iterations = np.zeros((len(weights), len(owned) + 1), np.int64)
    for step, tensors in enumerate(weights):
        for column, names in enumerate([*owned.values(), everything]):
            flat = _flat(tensors, names)
            values["frobenius"][step, column] = np.linalg.norm(flat)
            values["l1"][step, column] = np.abs(flat).sum()
            values["distance_from_init"][step, column] = np.linalg.norm(flat - _flat(initial_weights, names))
            if column < len(owned) and len(names) == 1 and tensors[names[0]].ndim >= 2:
                tensor = np.asarray(tensors[names[0]], np.float64)
                scale = singular_values(tensor.reshape(len(tensor), prod(tensor.shape[1:])))
                values["spectral_reshaped"][step, column] = scale.max(initial=0.0)
                values["nuclear"][step, column] = scale.sum()
                exact, iterations[step, column] = _exact(tensor, applied.get(names[0]), scale, tolerance)
                values["spectral_exact"][step, column] = exact
    layers = np.array([*owned, "all"])
    return {**values, "n_iterations": iterations, "layer": layers, "attrs": {"tolerance": tolerance}}


def _exact(
    weight: np.ndarray, applied: Applied | None, scale: np.ndarray, tolerance: float
) -> tuple[float, int]:
    """Largest singular value of what a row computes, and iterations; `scale` are those of its matrix."""
    if applied is None:
        return np.nan, 0
    if weight.ndim == 2:
        return float(scale.max(initial=0.0)), 0
    norm = row_norm(weight, applied, tolerance=tolerance)
    return norm.value, norm.iterations


def weight_names(names: Sequence[str], tensors: Mapping[str, np.ndarray]) -> list[str]:
    """The parameters of a layer that are weights: those with two dimensions, else all but bias.

    >>> weight_names(["bn.weight", "bn.bias"], {"bn.weight": np.ones(3), "bn.bias": np.ones(3)})
    ['bn.weight']
    """
    matrices = [name for name in names if tensors[name].ndim >= 2]
    return matrices or [name for name in names if name.rpartition(".")[2] != "bias"]


def _flat(tensors: Mapping[str, np.ndarray], names: Sequence[str]) -> np.ndarray:
    return np.concatenate([np.asarray(tensors[name], np.float64).ravel() for name in names] or [np.empty(0)])


def plot_layer_norms(result: xr.Dataset, figure: Figure) -> None:
    """Every norm against training, one line per layer."""
    shown = [name for name in NAMES if result[name].notnull().any()] or ["frobenius"]
    titles = [name.replace("_", " ") for name in shown]
    axes = plot.panels(figure, len(shown), titles=titles, height=2.2, sharey=False)
    layers = [str(name) for name in result["layer"].values if name != "all"]
    for panel, name in zip(axes, shown, strict=True):
        for layer, color in zip(layers, plot.depth_colors(len(layers)), strict=True):
            values = result[name].sel(layer=layer)
            plot.line(panel, result["step"], values, color=color, label=layer)
        plot.step_axis(panel, result["step"])
        panel.set_ylim(0, None)
    axes[0].set_ylabel("norm of the weights")
    plot.legend(axes[0])
