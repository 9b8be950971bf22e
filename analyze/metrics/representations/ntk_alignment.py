"""NTK alignment: does the kernel a network learns with agree with the labels, and does it still turn?"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from analyze import plot
from analyze.arrays.lag import compared
from analyze.contract import metric
from analyze.reference import Reference

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

JACOT_2018 = Reference(
    key="jacot2018neural",
    authors=("Jacot, Arthur", "Gabriel, Franck", "Hongler, Clément"),
    title="Neural Tangent Kernel: Convergence and Generalization in Neural Networks",
    year=2018,
    venue="Advances in Neural Information Processing Systems 31",
    arxiv="1806.07572",
)
CORTES_2012 = Reference(
    key="cortes2012algorithms",
    authors=("Cortes, Corinna", "Mohri, Mehryar", "Rostamizadeh, Afshin"),
    title="Algorithms for Learning Kernels Based on Centered Alignment",
    year=2012,
    arxiv="1203.0550",
)
FORT_2020 = Reference(
    key="fort2020deep",
    authors=(
        "Fort, Stanislav",
        "Dziugaite, Gintare Karolina",
        "Paul, Mansheej",
        "Kharaghani, Sepideh",
        "Roy, Daniel M.",
        "Ganguli, Surya",
    ),
    title="Deep Learning versus Kernel Learning: an Empirical Study of Loss Landscape Geometry",
    year=2020,
    venue="Advances in Neural Information Processing Systems 33",
    arxiv="2010.15110",
)


@metric(
    reads=("states", "epoch_end"),
    variables={
        "alignment": ("step", "probe", "kind"),
        "velocity": ("step", "probe"),
        "trace": ("step", "probe"),
        "effective_rank": ("step", "probe"),
    },
    scope="probe",
    whole=True,
    bounds={"alignment": (-1, 1), "velocity": (0, 2), "trace": (0, np.inf), "effective_rank": (1, np.inf)},
    summary={"alignment": {"kind": "centred"}, "velocity": {}, "effective_rank": {}},
    title="Neural tangent kernel",
    formula="K_ij = Σ_c ⟨∇f_c(x_i), ∇f_c(x_j)⟩;  A = ⟨K, YYᵀ⟩ / (‖K‖ ‖YYᵀ‖);  velocity = 1 - A(K_s, K_s')",
    cost="one forward and one backward pass for every output of at most 64 examples a probe and snapshot",
    reading=(
        "Alignment grows while the network turns its kernel towards the labels (feature learning); a flat "
        "curve and a velocity near 0 mean that it learns as a fixed kernel would. The effective rank falls "
        "as a few directions take over."
    ),
    reference=(JACOT_2018, CORTES_2012, FORT_2020),
    passes=lambda options, snapshots: snapshots * 4,  # and the products of their gradients
    per_output=True,
)
def ntk_alignment(
    states: Any, epoch_end: np.ndarray, *, examples: int = 64, projections: int | None = None
) -> dict[str, Any]:
    """Alignment of the neural tangent kernel with the labels, and its turn between snapshots.

    `states` holds the network at every snapshot and the examples of a probe, of which the first `examples` are
    taken, without those that the loss leaves out. `alignment` (step, kind) is the cosine of the kernel K with YYᵀ,
    Y the one-hot labels (or the targets themselves where they are numbers; NaN where they are neither): `kind` is
    `plain`, or `centred` with both kernels centred, which a constant part of the kernel cannot raise. `velocity`
    (step) is 1 less the cosine of K with that of the snapshot before, comparing ends of epochs (`epoch_end`,
    (step,)) and step 0 where at least two exist, else consecutive snapshots; NaN at all others. `trace` is that of
    K over the number of examples, `effective_rank` (Σλ)²/Σλ². NaN where a kernel is 0. `projections` estimates K
    from that many random combinations of the outputs, without bias, where a network has too many.

    >>> alignment(np.eye(2), np.eye(2)), round(alignment(np.eye(2), np.ones((2, 2))), 4)
    (1.0, 0.7071)
    """
    from analyze.replay.output_kernel import output_kernel

    sample = states.examples(examples).that_count()
    target = target_kernel(sample)
    kernels = np.stack([output_kernel(state, sample, projections).cpu().numpy() for state in states])
    ends = [step for step, end in zip(states.steps, epoch_end, strict=True) if end]
    steps, lag = compared(states.steps, ends)
    velocity = np.full(len(kernels), np.nan)
    chosen = [states.steps.index(step) for step in steps]
    for before, after in pairwise(chosen):
        velocity[after] = 1 - alignment(kernels[after], kernels[before])
    pairs = [(alignment(k, target), alignment(centred(k), centred(target))) for k in kernels]
    squares = np.square(kernels).sum((1, 2))
    traces = np.trace(kernels, axis1=1, axis2=2)
    rank = np.divide(traces**2, squares, out=np.full(len(kernels), np.nan), where=squares > 0)
    return {
        "alignment": np.array(pairs, float),
        "velocity": velocity,
        "trace": traces / sample.n,
        "effective_rank": rank,
        "kind": np.array(["plain", "centred"]),
        "attrs": {
            "compared": lag,
            "n_examples": sample.n,
            "outputs": "all" if projections is None else projections,
        },
    }


def target_kernel(sample: Any) -> np.ndarray:
    """YYᵀ (example, example_2) of one-hot labels, or of the targets themselves where they are no classes.

    NaN where they are several tensors, or class numbers of which an example has several: these are nothing to multiply.
    """
    from tracer.errors import MissingTraceError

    try:
        labels = sample.labels
        return (labels[:, None] == labels[None, :]).astype(np.float64)
    except MissingTraceError:
        targets = sample.targets
        if not hasattr(targets, "is_floating_point") or not targets.is_floating_point():
            return np.full((sample.n, sample.n), np.nan)
        values = targets.double().reshape(sample.n, -1).cpu().numpy()
        return np.asarray(values @ values.T)


def alignment(kernel: ArrayLike, other: ArrayLike) -> float:
    """Cosine of two kernels as vectors of their entries; NaN where one is 0."""
    first, second = np.asarray(kernel, np.float64), np.asarray(other, np.float64)
    scale = np.sqrt(np.vdot(first, first) * np.vdot(second, second))  # exact for a kernel with itself
    return float(np.clip(np.vdot(first, second) / scale, -1.0, 1.0)) if scale > 0 else float("nan")


def centred(kernel: ArrayLike) -> np.ndarray:
    """The kernel of features from which their mean is taken; exactly 0 where rounding is all that is left.

    >>> centred(np.ones((2, 2)))
    array([[0., 0.],
           [0., 0.]])
    """
    values = np.asarray(kernel, np.float64)
    result = values - values.mean(0) - values.mean(1)[:, None] + values.mean()
    return (
        result
        if np.abs(result).max(initial=0) > 1e-12 * np.abs(values).max(initial=0)
        else np.zeros_like(values)
    )


def plot_ntk_alignment(result: xr.Dataset, figure: Figure) -> None:
    """Alignment, velocity and effective rank of the kernel against training."""
    align, speed, rank = plot.panels(figure, 3, columns=3, height=2.6, sharey=False)
    for k, probe in enumerate(result["probe"].values):
        at, color = result.sel(probe=probe), plot.color_of(str(probe), k)
        for kind, style in (("centred", "-"), ("plain", ":")):
            shown = at["alignment"].sel(kind=kind)
            plot.line(align, result["step"], shown, color=color, linestyle=style, label=f"{probe}, {kind}")
        defined = at["velocity"].notnull().values
        plot.line(speed, result["step"][defined], at["velocity"][defined], color=color)
        plot.line(rank, result["step"], at["effective_rank"], color=color)
    for panel in (align, speed, rank):
        plot.step_axis(panel, result["step"])
    align.set(title="alignment with the labels", ylabel="cosine")
    speed.set(title=f"velocity, per {result.attrs.get('compared', 'snapshot')} compared", ylabel="1 - cosine")
    speed.set_ylim(bottom=0)
    rank.set(title="effective rank", ylabel="(Σλ)² / Σλ²")
    plot.legend(align)
