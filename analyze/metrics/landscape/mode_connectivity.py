"""Linear mode connectivity: does the loss rise on the straight way from one network to another?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from analyze import plot
from analyze.contract import metric
from analyze.reference import Reference
from tracer.errors import ArgumentError

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

FRANKLE_2020 = Reference(
    key="frankle2020linear",
    authors=("Frankle, Jonathan", "Dziugaite, Gintare Karolina", "Roy, Daniel M.", "Carbin, Michael"),
    title="Linear Mode Connectivity and the Lottery Ticket Hypothesis",
    year=2020,
    venue="International Conference on Machine Learning",
    arxiv="1912.05671",
)
ENTEZARI_2022 = Reference(
    key="entezari2022role",
    authors=("Entezari, Rahim", "Sedghi, Hanie", "Saukh, Olga", "Neyshabur, Behnam"),
    title="The Role of Permutation Invariance in Linear Mode Connectivity of Neural Networks",
    year=2022,
    venue="International Conference on Learning Representations",
    arxiv="2110.06296",
)
JORDAN_2022 = Reference(
    key="jordan2022repair",
    authors=("Jordan, Keller", "Sedghi, Hanie", "Saukh, Olga", "Entezari, Rahim", "Neyshabur, Behnam"),
    title="REPAIR: REnormalizing Permuted Activations for Interpolation Repair",
    year=2022,
    arxiv="2211.08403",
)
KINDS = ("loss", "error")
NAMES = ("barrier", "instability", "midpoint")


@metric(
    reads=("states", "last_state"),
    scope="probe",
    variables={
        **dict.fromkeys(NAMES, ("step", "probe", "kind")),
        **{f"{name}_interpolated": ("step", "probe", "kind") for name in NAMES},
        "curve": ("step", "probe", "kind", "t"),
        "curve_interpolated": ("step", "probe", "kind", "t"),
        "n_examples": ("probe",),
    },
    bounds={"barrier": (0, np.inf), "barrier_interpolated": (0, np.inf)},
    summary={"barrier": {"kind": "each"}, "instability": {"kind": "each"}},
    title="Linear mode connectivity",
    formula="max_t f(w(t)) - (1-t) f(w(0)) - t f(w(1)),  w(t) = (1-t) w_s + t w_last",
    cost=(
        "points forward passes a step and probe, three times as many with BatchNorm: by default 21 of at most 512 "
        "examples"
    ),
    reading=(
        "Near 0 from a step on: all that follows stays in one valley. A barrier is never below 0, so compare it with "
        "its spread over runs. Contested: barriers of loss and error disagree, since the loss grows with the scale of "
        "the outputs alone, and in deep networks variances collapse in the middle unless statistics are reset."
    ),
    reference=(FRANKLE_2020, ENTEZARI_2022, JORDAN_2022),
    passes=lambda options, snapshots: snapshots * 3 * options["points"],
)
def mode_connectivity(
    states: Any, last_state: Any, *, points: int = 21, examples: int | None = 512
) -> dict[str, Any]:
    """Rise of loss and error on the straight line from every snapshot to the last one.

    `states` holds the network at every snapshot, `last_state` that of the last one; the first `examples` of the probe
    count (None: all), `n_examples` of them, in eval mode. w(t) is the mean of all parameters and buffers at `points`
    equally spaced t from the snapshot (t = 0) to the last one (t = 1); whole numbers are those of the snapshot. All
    (step, kind), of loss and of error f: `barrier` = max_t f(w(t)) - (1-t) f(w(0)) - t f(w(1)), at least 0;
    `instability` = max_t f(w(t)) - ½ (f(w(0)) + f(w(1))); `midpoint` = f(w(½)) - ½ (f(w(0)) + f(w(1))), NaN for an even
    number of points. `curve` (step, kind, t) is f(w(t)). At every t, ends included, BatchNorm's running statistics are
    taken anew from the first `examples` of the training probes, as one pass in training mode would; the names with
    `_interpolated` are of the means of the recorded ones, and the same without BatchNorm. NaN
    where a loss is not finite. `between_runs` compares two runs.

    >>> found = rises(np.array([1.0, 5.0, 3.0]))
    >>> float(found["barrier"]), float(found["instability"]), float(found["midpoint"])
    (3.0, 3.0, 3.0)
    """
    chosen = states.examples(examples)
    training = _training(states, chosen, examples)
    rows = [between(states[k], last_state, chosen, training, points) for k in range(len(states))]
    shapes = {name: (0, len(KINDS)) for name in NAMES} | {"curve": (0, len(KINDS), points)}
    names = [name + end for name in shapes for end in ("", "_interpolated")]
    found = {
        name: np.array([row[name] for row in rows]).reshape(
            -1, *shapes[name.removesuffix("_interpolated")][1:]
        )
        for name in names
    }
    return {**found, "n_examples": chosen.n, "kind": np.array(KINDS), "t": np.linspace(0, 1, points)}


def _training(states: Any, chosen: Any, limit: int | None) -> Any:
    """Examples that running statistics are taken from: the training probes', else the metric's own."""
    from analyze.replay.examples import join

    replay = getattr(states, "replay", None)
    probes = [] if replay is None else [replay.probe(name).first(limit) for name in replay.probes]
    parts = [probe for probe in probes if probe.split == "train"]
    return join(parts) if parts else chosen


def between(first: Any, second: Any, examples: Any, training: Any, points: int = 21) -> dict[str, np.ndarray]:
    """`barrier`, `instability`, `midpoint` (kind,) and `curve` (kind, t) between two states of one network.

    Statistics are reset on `training`, and with `_interpolated` as they lie between. ArgumentError where the tensors
    have different names or shapes.
    """
    from analyze.replay.batch_norm import batch_norms
    from analyze.replay.evaluate import loss_and_error

    _check(first.tensors, second.tensors)
    first = first.movable()
    norms = bool(batch_norms(first.network))
    curves = np.full((2, len(KINDS), points), np.nan)
    for position, t in enumerate(np.linspace(0, 1, points)):
        moved = first.with_tensors(
            {
                name: ((1 - t) * tensor.double() + t * second.tensors[name].to(tensor.device).double())
                for name, tensor in first.tensors.items()
                if tensor.is_floating_point()
            }
        )
        curves[1, :, position] = loss_and_error(moved, examples)
        curves[0, :, position] = (
            loss_and_error(moved.with_batch_norm_from(training), examples)
            if norms
            else curves[1, :, position]
        )
    found: dict[str, np.ndarray] = {}
    for curve, end in zip(curves, ("", "_interpolated"), strict=True):
        of_kinds = [rises(row) for row in curve]
        found |= {name + end: np.array([row[name] for row in of_kinds]) for name in NAMES}
        found[f"curve{end}"] = curve
    return found


def _check(first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
    for name in {**first, **second}:
        shapes = [tuple(side[name].shape) if name in side else None for side in (first, second)]
        if shapes[0] != shapes[1]:
            raise ArgumentError(
                f"there is no straight line between the two networks: {name!r} has shape {shapes[0]} in one and "
                f"{shapes[1]} in the other; compare runs of one architecture"
            )


def rises(curve: np.ndarray) -> dict[str, float]:
    """How far values (t,) at equally spaced places from one end to the other lie above the ends."""
    if not np.isfinite(curve).all():
        return dict.fromkeys(NAMES, np.nan)
    t, n = np.linspace(0, 1, len(curve)), len(curve)
    mean = (curve[0] + curve[-1]) / 2
    line = (1 - t) * curve[0] + t * curve[-1]
    above = curve - line
    above[[0, -1]] = 0.0
    return {
        "barrier": float(above.max()),
        "instability": float(curve.max() - mean),
        "midpoint": float(curve[n // 2] - mean) if n % 2 else np.nan,
    }


def between_runs(
    first: Any, second: Any, *, probe: str = "train", points: int = 21, examples: int | None = 512
) -> dict[str, np.ndarray]:
    """`between` the last snapshots of two opened archives, on a probe of the first."""
    from analyze.replay.replay import Replay

    ways = [Replay(archive) for archive in (first, second)]
    start, end = (way.at(int(way.steps[-1])) for way in ways)
    chosen = ways[0].probe(probe).first(examples)
    training = _training(ways[0].states(), chosen, examples)
    return between(start, end, chosen, training, points)


def plot_mode_connectivity(result: xr.Dataset, figure: Figure) -> None:
    """Barriers against training, and the curves to the last snapshot of the first probe."""
    axes = plot.panels(figure, 4, columns=2, height=2.4, sharex=False, sharey=False)
    steps = result["step"].values
    shown = plot.pick(steps, 4)
    first = result.isel(probe=0)
    for row, kind in enumerate(KINDS):
        barrier, curves = axes[2 * row : 2 * row + 2]
        for k, probe in enumerate(result["probe"].values):
            color = plot.color_of(str(probe), k)
            at = result.sel(probe=probe, kind=kind)
            plot.line(barrier, steps, at["barrier"], color=color, label=str(probe))
            plot.line(barrier, steps, at["barrier_interpolated"], color=color, linestyle=":")
        for k, color in zip(shown, plot.depth_colors(len(shown)), strict=True):
            values = first["curve"].sel(kind=kind).isel(step=k)
            plot.line(curves, result["t"], values, color=color, label=f"step {steps[k]:,}")
        barrier.set(title=f"barrier of the {kind} (dotted: statistics interpolated)")
        curves.set(title=f"{kind} on the way ({result['probe'].values[0]})", xlabel="t")
        plot.step_axis(barrier, steps)
    plot.legend(axes[0])
    plot.legend(axes[1])
