"""Norm measures: the closed forms of Jiang et al. and Dziugaite et al., under their names."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from analyze import plot
from analyze.contract import metric
from analyze.metrics.capacity.pac_bayes import DZIUGAITE_2020
from analyze.numerics import divide
from analyze.reference import JIANG_2019
from analyze.replay.folded import Folded, fold

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

    from tracer.network import Network

SPECTRAL = (
    "log_prod_of_spec",
    "log_prod_of_spec_over_margin",
    "log_spec_init_main",
    "fro_over_spec",
    "log_spec_orig_main",
    "log_sum_of_spec",
    "log_sum_of_spec_over_margin",
    "dist_spec_init",
)
OTHERS = (
    "params",
    "inverse_margin",
    "log_prod_of_fro",
    "log_prod_of_fro_over_margin",
    "log_sum_of_fro",
    "log_sum_of_fro_over_margin",
    "fro_dist",
    "param_norm",
    "path_norm",
    "path_norm_over_margin",
    "l2",
    "l2_dist",
)
NAMES = (*OTHERS[:2], *SPECTRAL, *OTHERS[2:], *(f"{name}_fft" for name in SPECTRAL))
SCALES = ("raw", "rescaled")
AFFORDABLE = 2e8  # multiplications of a snapshot up to which norms by Fourier transform are computed unasked


@metric(
    reads=("weights", "initial_weights", "networks", "margins", "n_train"),
    variables={
        **dict.fromkeys(NAMES, ("step", "scale")),
        "gamma": ("step",),
        "n_layers": ("step",),
        "n_unfolded": ("step",),
        "n_examples": (),
    },
    scope="train",
    units={"gamma": "score"},
    summary={name: {"scale": "raw"} for name in NAMES},
    makes=(),
    title="Norm measures of Jiang et al. and Dziugaite et al.",
    formula="s = |W|₂, f = |W|_F of weights with BatchNorm folded in;  Σ ln s², Σ f²/s², Σ|W - W⁰|², γ⁻², ...",
    work=3,
    cost="one singular value decomposition a layer and step, one for each frequency with fft, 2 passes of one example",
    reading=(
        "Run-level scalars for `compare`, raw and rescaled by the number of training examples as the papers' tables. "
        "Contested: no measure is robust in the worst environment, and unscaled ones follow depth and width "
        "rather than the gap; compare runs stopped at the same training loss."
    ),
    reference=(JIANG_2019, DZIUGAITE_2020),
)
def norm_measures(
    weights: Sequence[Mapping[str, np.ndarray]],
    initial_weights: Mapping[str, np.ndarray],
    networks: Sequence[Network],
    margins: np.ndarray,
    n_train: int,
    *,
    m: int | None = None,
    absolute: bool = False,
    fft: Literal["auto", "always", "never"] = "auto",
) -> dict[str, Any]:
    """Closed-form generalization measures of the weights, each (step, scale), by the names of both papers' code.

    `weights` holds one mapping from tensor name to values per step, `initial_weights` those at initialisation,
    `networks` the network of each step, `margins` is (step, example) of the training probe. W_l, l = 1..d, are the
    weights of every linear layer and convolution, shortcuts included, without biases, with the BatchNorm after them
    folded in: into the initial weights too, by their own running statistics. Where a BatchNorm cannot be folded
    (`n_unfolded` of them) all are left as they are. s_l is the largest singular value of the kernel as a matrix
    (out, everything else), f_l its Frobenius norm, D_l = W_l - W_l⁰, γ the ⌊n/10⌋-th smallest margin (`gamma`),
    natural logarithms throughout:

    `params`: entries of all W_l. `inverse_margin` γ⁻². `log_prod_of_spec` Σ ln s². `log_spec_init_main` Σ ln s² -
    2 ln γ + ln Σ|D|²_F/s², `log_spec_orig_main` with f² for |D|²_F. `fro_over_spec` Σ f²/s², the sum of stable ranks.
    `log_sum_of_spec` ln d + (1/d) Σ ln s² (despite its name d times the geometric mean). `log_prod_of_fro`,
    `log_sum_of_fro` with f. `fro_dist` Σ|D|²_F, `dist_spec_init` Σ|D|²₂, `param_norm` Σ f², `l2` and `l2_dist` the
    roots of `param_norm` and `fro_dist`. `path_norm`: sum of the outputs for an input of ones with every parameter
    squared, biases too (NaN where inputs are no real numbers). `_over_margin` subtracts 2 ln γ from logarithms, and
    divides `path_norm` by γ². `_fft`: with the largest singular value over the Fourier transform of the kernel, padded
    to the size of the input image whatever the layer's own, Frobenius norms being those of the kernel; a linear layer
    keeps its plain norm. `fft="auto"` computes them where they cost little, else NaN.

    `rescaled` is ½ (v - ln m) of names that begin with log_ and √(v/m) of others, `m` being the number of training
    examples `n_train` unless stated. NaN for every measure with γ where γ is not above 0 (`absolute=True` takes |γ|,
    as the published code does) or fewer than 10 margins are defined; NaN for a quotient with a layer of norm 0, whose
    logarithm is -inf; NaN throughout where a weight is not finite. `log_spec_init_main` is -inf before the first step.
    `n_examples` margins count.

    >>> layers = [np.diag([3.0, 4.0]), np.array([[2.0, 0.0]])]
    >>> found = closed_forms(layers, [np.diag([3.0, 3.0]), np.zeros((1, 2))], gamma=0.5)
    >>> [round(float(np.exp(found[name])), 6) for name in ("log_prod_of_spec", "log_sum_of_spec", "log_prod_of_fro")]
    [64.0, 16.0, 100.0]
    >>> [float(found[name]) for name in ("fro_over_spec", "fro_dist", "dist_spec_init", "param_norm")]  # 41/16
    [2.5625, 5.0, 5.0, 29.0]
    >>> round(rescaled("log_prod_of_spec", math.log(64), 16) / math.log(2), 6)
    1.0
    """
    count = n_train if m is None else m
    shape = len(weights), len(SCALES)
    values = {name: np.full(shape, np.nan) for name in NAMES}
    gammas = np.array([margin_tenth(row, absolute=absolute) for row in margins])
    layers, unfolded = (np.zeros(len(weights), np.int64) for _ in range(2))
    for step, tensors in enumerate(weights):
        network = networks[step]
        now, before = fold(network, tensors), fold(network, initial_weights)
        layers[step], unfolded[step] = len(now.weights), now.n_unfolded
        for name, value in _of_snapshot(network, now, before, float(gammas[step]), fft).items():
            values[name][step] = value, rescaled(name, value, count)
    return {
        **values,
        "gamma": gammas,
        "n_layers": layers,
        "n_unfolded": unfolded,
        "n_examples": margins.shape[1],
        "scale": np.array(SCALES),
        "attrs": {"m": int(count), "fft": fft, "absolute": int(absolute)},
    }


def _of_snapshot(network: Network, now: Folded, before: Folded, gamma: float, fft: str) -> dict[str, float]:
    matrices, initial = now.matrices(), before.matrices()
    if not all(np.isfinite(each).all() for each in (*matrices, *initial)):
        return {}
    found = closed_forms(matrices, initial, gamma)
    found["path_norm"] = path_norm(network, now)
    found["path_norm_over_margin"] = found["path_norm"] / gamma**2
    shape = network.inputs[0]["shape"] if network.inputs else ()
    if len(shape) == 4 and fft != "never" and (fft == "always" or _effort(matrices, shape) <= AFFORDABLE):
        norms, moved = (
            [fourier_norm(each, tuple(shape[2:])) for each in rows]
            for rows in (matrices, [a - b for a, b in zip(matrices, initial, strict=True)])
        )
        found |= {
            f"{name}_fft": value for name, value in _spectral(matrices, initial, gamma, norms, moved).items()
        }
    return found


def path_norm(network: Network, folded: Folded) -> float:
    """Sum of the outputs for one input of ones, with every parameter squared; NaN where inputs are no real numbers."""
    import torch

    from analyze.replay.float64 import as_double
    from tracer.rerun import settled

    double = as_double(network)
    n = double.batch or 1
    shapes = [[n, *each["shape"][1:]] if each["batched"] else each["shape"] for each in double.inputs]
    if not all(each["dtype"] == "float64" for each in double.inputs):
        return np.nan
    ones = tuple(torch.ones(shape, dtype=torch.float64) for shape in shapes)
    squared = set(double.parameters)
    tensors = {}
    for name, value in folded.tensors.items():
        tensor = torch.from_numpy(np.array(value))
        tensor = tensor.double() if tensor.is_floating_point() else tensor
        tensors[name] = tensor**2 if name in squared else tensor
    with settled(grad=False):
        outputs, _ = double.run(tensors, ones[0] if len(ones) == 1 else ones)
    return float(outputs.sum()) / n


def closed_forms(
    matrices: Sequence[np.ndarray], initial: Sequence[np.ndarray], gamma: float
) -> dict[str, float]:
    """Every measure that follows from weights (out, ...), those at initialisation, and the margin."""
    f2 = np.array([(each**2).sum() for each in matrices])
    d2 = np.array([((a - b) ** 2).sum() for a, b in zip(matrices, initial, strict=True)])
    norms = [_norm(each) for each in matrices]
    moved = [_norm(a - b) for a, b in zip(matrices, initial, strict=True)]
    product, average = _log(f2).sum(), _average(f2)
    margin = 2 * _log(gamma)
    return {
        "params": float(sum(each.size for each in matrices)),
        "inverse_margin": gamma**-2.0,
        **_spectral(matrices, initial, gamma, norms, moved),
        "log_prod_of_fro": product,
        "log_prod_of_fro_over_margin": product - margin,
        "log_sum_of_fro": average,
        "log_sum_of_fro_over_margin": average - margin / len(f2) if len(f2) else np.nan,
        "fro_dist": d2.sum(),
        "param_norm": f2.sum(),
        "l2": math.sqrt(f2.sum()),
        "l2_dist": math.sqrt(d2.sum()),
    }


def _spectral(
    matrices: Sequence[np.ndarray],
    initial: Sequence[np.ndarray],
    gamma: float,
    norms: Sequence[float],
    moved: Sequence[float],
) -> dict[str, float]:
    """Measures of the spectral norms of weights and of how far they have moved."""
    s2, margin = np.square(norms), 2 * _log(gamma)
    ranks = divide([(each**2).sum() for each in matrices], s2).sum() if len(s2) else np.nan
    distances = [((a - b) ** 2).sum() for a, b in zip(matrices, initial, strict=True)]
    from_start = divide(distances, s2).sum() if len(s2) else np.nan
    product, average = _log(s2).sum(), _average(s2)
    return {
        "log_prod_of_spec": product,
        "log_prod_of_spec_over_margin": product - margin,
        "log_spec_init_main": product - margin + _log(from_start),
        "fro_over_spec": ranks,
        "log_spec_orig_main": product - margin + _log(ranks),
        "log_sum_of_spec": average,
        "log_sum_of_spec_over_margin": average - margin / len(s2) if len(s2) else np.nan,
        "dist_spec_init": float(np.square(moved).sum()),
    }


def _average(squares: np.ndarray) -> float:
    return float(_log(len(squares)) + _log(squares).mean()) if len(squares) else np.nan


def _log(value: Any) -> Any:
    with np.errstate(divide="ignore"):
        return np.log(value)


def _norm(weight: np.ndarray) -> float:
    if not weight.size:
        return 0.0
    flat = weight.reshape(len(weight), -1)
    flat = flat if len(flat) <= flat.shape[1] else flat.T
    size = np.abs(flat).max(initial=0.0)
    if not size:
        return 0.0
    # Squares lose nothing of the largest singular value, and are far cheaper than all of them.
    return float(size * np.sqrt(np.linalg.eigvalsh((flat / size) @ (flat / size).T)[-1]))


def fourier_norm(weight: np.ndarray, image: tuple[int, ...]) -> float:
    """Largest singular value of a kernel's Fourier transform, padded to the image; of a matrix its own.

    >>> fourier_norm(np.full((1, 1, 1, 1), -2.0), (3, 3))
    2.0
    """
    if weight.ndim != 4 or not weight.size:
        return _norm(weight)
    # Of a real kernel half of the frequencies are conjugates of the others.
    spectrum = np.fft.rfft2(weight, image, axes=(2, 3)).transpose(2, 3, 0, 1)
    return float(np.linalg.svd(spectrum, compute_uv=False).max())


def _effort(matrices: Sequence[np.ndarray], shape: Sequence[int]) -> float:
    sizes = [each.shape for each in matrices if each.ndim == 4]
    return float(sum(8 * max(a, b) * min(a, b) ** 2 for a, b, *_ in sizes) * shape[2] * shape[3])


def margin_tenth(margins: np.ndarray, *, absolute: bool = False) -> float:
    """The ⌊n/10⌋-th smallest of the margins that are defined; NaN where it is not above 0, or n < 10.

    >>> margin_tenth(np.arange(1.0, 21.0))
    2.0
    """
    ordered = np.sort(margins[~np.isnan(margins)])
    if len(ordered) < 10:
        return np.nan
    gamma = float(ordered[len(ordered) // 10 - 1])
    gamma = abs(gamma) if absolute else gamma
    return gamma if 0 < gamma < np.inf else np.nan


def rescaled(name: str, value: float, m: int) -> float:
    """A measure as the papers' tables have it, of m training examples."""
    if name.startswith("log_"):
        return 0.5 * (float(value) - math.log(m)) if m > 0 else np.nan
    return math.sqrt(value / m) if value >= 0 and m > 0 else np.nan


def plot_norm_measures(result: xr.Dataset, figure: Figure) -> None:
    """Logarithms of products and sums of norms, norms and distances, and ranks, as they are (raw)."""
    shown = {
        "logarithms": [name for name in NAMES if name.startswith("log_") and not name.endswith("_fft")],
        "norms and distances": ["param_norm", "fro_dist", "dist_spec_init", "l2", "l2_dist", "path_norm"],
        "stable ranks and margin": ["fro_over_spec", "inverse_margin"],
    }
    axes = plot.panels(figure, 3, titles=list(shown), height=4.2, sharey=False)
    raw = result.sel(scale="raw")
    for panel, names in zip(axes, shown.values(), strict=True):
        for name, color in zip(names, plot.depth_colors(len(names)), strict=True):
            values = raw[name].values
            plot.line(
                panel, result["step"], np.where(np.isfinite(values), values, np.nan), color=color, label=name
            )
        plot.step_axis(panel, result["step"])
        plot.legend(panel, below=True, fontsize=6)
    axes[1].set_yscale("symlog")  # distances begin at 0
    axes[1].set_ylim(bottom=0)
