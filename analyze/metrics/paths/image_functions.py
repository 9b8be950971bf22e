"""Image functions: are the weights the sum of what each image left, and how much is in the paths?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from analyze import plot
from analyze.contract import metric
from analyze.numerics import divide, mean_defined
from analyze.reference import GUPTA_2022
from tracer.errors import MissingTraceError

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REFUSED = "history"  # attribute: why the updates could not be made again


@metric(
    reads=("states",),
    variables={
        "reconstruction_error": ("step", "layer"),
        "fixed_path_loss": ("step", "step_2"),
        "fixed_path_accuracy": ("step", "step_2"),
    },
    scope="train",
    whole=True,
    bounds={"reconstruction_error": (0, np.inf), "fixed_path_accuracy": (0, 1)},
    units={"fixed_path_loss": "nat"},
    summary={"reconstruction_error": {"layer": ("all", "last")}},
    title="Image functions and fixed paths",
    formula="w_T = w_0 - Σ_t η_t/|B_t| Σ_i z_i p_i a_iᵀ;  p_i^s | H_t: gates of step s, weights of step t",
    cost=(
        "one forward and backward pass of every minibatch of the run, and snapshots · min(snapshots, 16) "
        "forward passes of at most 512 examples"
    ),
    reading=(
        "Reconstruction: the distance of the weights made again, from recorded ids and inputs, from the "
        "stored ones; rounding alone means that the weights are the sum of the images' functions. Fixed "
        "paths: weights of one step (across) with the gates of another (up); on the diagonal is the network "
        "itself. Loss that depends on the row more than on the column is learned in the paths."
    ),
    reference=GUPTA_2022,
    passes=lambda options, snapshots: min(snapshots, options["paths"]) ** 2 + 3 * snapshots,
)
def image_functions(
    states: Any,
    *,
    examples: int = 512,
    paths: int = 16,
    history: Literal["auto", "required", "none"] = "auto",
    image: int | None = None,
    double: bool = False,
) -> dict[str, Any]:
    """The updates made again from image functions; the loss with gates and weights of different steps.

    `states` holds the network at every snapshot. `reconstruction_error` (step, layer) is |w' - w| / |w| for
    weights w' made again by SGD (with its momentum, weight decay and recorded learning rates) from the first
    weights, recorded ids and stored inputs, and recorded weights w; NaN where |w| is 0 or nothing is trained.
    `fixed_path_loss` and `fixed_path_accuracy` (step, step_2) are mean loss and accuracy of the first `examples`
    training examples with the weights of `step` and the gates of `step_2`, of which at most `paths`, evenly spread,
    are taken; accuracy is NaN where targets are no classes.

    A run whose updates do not follow from the archive (another optimizer, BatchNorm in training, dropout,
    augmented inputs, unknown ids or inputs) has NaN for reconstruction, and attribute `history` says why;
    `history="required"` raises MissingTraceError instead and `"none"` does not try. `image`, the id of a
    training example, replaces the weights by the sum of that image's functions alone. `double` makes the
    updates in float64 whatever the run was in.

    >>> round(float(relative_error(np.array([3.0, 4.0]), np.array([3.0, 3.0]))), 4)
    0.2357
    """
    terms: dict[str, Any] = {REFUSED: "not tried", "n_updates": 0}
    layers = len(states[0].layers)
    error = np.full((len(states), layers + 1), np.nan)
    parts: dict[int, Any] = {}
    if history != "none":
        try:
            error, parts, terms = _made_again(states, image, double)
        except MissingTraceError as refusal:
            if history == "required" or image is not None:
                raise
            terms[REFUSED] = str(refusal)
    chosen = [int(position) for position in np.unique(plot.pick(range(len(states)), paths))]
    sample = states.examples(examples)
    loss, accuracy = _fixed_paths(states, sample, chosen, parts)
    return {
        "reconstruction_error": error,
        "fixed_path_loss": loss,
        "fixed_path_accuracy": accuracy,
        "step_2": np.array([states.steps[position] for position in chosen], np.int64),
        "attrs": {**terms, "image": "all" if image is None else image, "n_examples": sample.n},
    }


def relative_error(made: np.ndarray, stored: np.ndarray) -> np.ndarray:
    """|made - stored| / |stored|, NaN where `stored` is 0."""
    made, stored = np.asarray(made, np.float64), np.asarray(stored, np.float64)
    return divide(np.linalg.norm(made - stored), np.linalg.norm(stored))


def _made_again(
    states: Any, image: int | None, double: bool
) -> tuple[np.ndarray, dict[int, Any], dict[str, Any]]:
    """Errors (step, layer), the image's part of the weights by step, and what to say about it."""
    from analyze.replay.sgd import History

    history = History(states.replay, data=states.replay.data, double=double)
    rows = {step: row for row, step in enumerate(states.steps)}
    layers = [*states[0].layers.values()]
    layers.append(tuple(name for names in layers for name in names))
    error, parts = np.full((len(states), len(layers)), np.nan), {}
    for point in history.points(image):
        if point.step not in rows:
            continue
        stored = states.replay.at(point.step).tensors
        for column, names in enumerate(layers):
            if not names:
                continue
            pairs = [(point.weights.get(name, stored[name]), stored[name]) for name in names]
            made, terms = (
                np.concatenate([np.ravel(side.double().cpu()) for side in both])
                for both in zip(*pairs, strict=True)
            )
            error[rows[point.step], column] = relative_error(made, terms)
        if image is not None:
            parts[point.step] = point.part
    return (
        error,
        parts,
        {REFUSED: "made again", "n_updates": len(history), "inputs_from": history.training.source},
    )


def _fixed_paths(
    states: Any, sample: Any, chosen: list[int], parts: dict[int, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Loss and accuracy (weights, paths)."""
    from analyze.replay.evaluate import both

    packed = [_packed(states[position].masks(sample)) for position in chosen]
    whole = [bool(states[position].outputs(sample).isfinite().all()) for position in chosen]
    loss, accuracy = np.full((2, len(states), len(chosen)), np.nan)
    for row, state in enumerate(states):
        if parts:
            zeros = {name: state.tensors[name] * 0 for name in state.parameters}
            state = state.with_tensors(zeros | parts[state.step])
        for column, bits in enumerate(packed):
            if not whole[column]:  # an example whose outputs are no numbers has no path
                continue
            outputs, losses = both(state, sample, _unpacked(bits, sample.n, state.device))
            loss[row, column] = losses.mean()
            try:
                accuracy[row, column] = mean_defined(state.correct(sample, outputs))[0]
            except MissingTraceError:
                accuracy[row, column] = np.nan
    return loss, accuracy


def _packed(masks: Any) -> dict[str, tuple[np.ndarray, int]]:
    return {site: (np.packbits(mask.cpu().numpy(), axis=1), mask.shape[1]) for site, mask in masks.items()}


def _unpacked(packed: Any, n: int, device: Any) -> dict[str, Any]:
    import torch

    return {
        site: torch.from_numpy(np.unpackbits(bits, axis=1, count=units).astype(bool)).to(device)
        for site, (bits, units) in packed.items()
    }


def plot_image_functions(result: xr.Dataset, figure: Figure) -> None:
    """Error of the weights made again; loss and accuracy by weights and paths; loss by age of paths."""
    error, loss, accuracy, age = plot.panels(figure, 4, columns=2, height=2.6, sharex=False, sharey=False)
    _plot_error(error, result)
    values = result["fixed_path_loss"].values
    with np.errstate(divide="ignore", invalid="ignore"):
        table = np.log10(np.where(values > 0, values, np.nan))
    for panel, shown, label, limits in (
        (loss, table, "log₁₀ loss", None),
        (accuracy, result["fixed_path_accuracy"].values, "accuracy", (0, 1)),
    ):
        plot.heat_over_time(
            panel,
            shown.T,
            result["step"].values,
            result["step_2"].values,
            limits=limits,
            colorbar=label,
            origin="lower",
        )
        panel.set(xlabel="weights of step", ylabel="paths of step", title=f"{label} with fixed paths")
    _plot_age(age, result)


def _plot_error(panel: Axes, result: xr.Dataset) -> None:
    colors = [*plot.depth_colors(result.sizes["layer"] - 1), "black"]
    values = result["reconstruction_error"]
    for k, layer in enumerate(result["layer"].values):
        shown = values.isel(layer=k).values
        plot.line(
            panel, result["step"], np.where(shown > 0, shown, np.nan), label=str(layer), color=colors[k]
        )
    plot.step_axis(panel, result["step"])
    panel.set(title="weights made again from image functions", ylabel="|w' - w| / |w|")
    if (values.values > 0).any():
        plot.log_scale(panel)
        plot.legend(panel, ncols=2)
    else:
        reason = str(result.attrs.get(REFUSED, ""))
        text = "exact at every snapshot" if reason == "made again" else _wrapped(reason)
        panel.text(
            0.5, 0.5, text, ha="center", va="center", fontsize=7, color="0.3", transform=panel.transAxes
        )
        panel.set_yticks([])


def _wrapped(text: str) -> str:
    from textwrap import fill

    return fill(text, 38)  # letters of 7 points that stand in half a figure, beside its numbers


def _plot_age(panel: Axes, result: xr.Dataset) -> None:
    """Loss with the paths of another step, less that with its own, against the difference in steps."""
    steps, paths = result["step"].values, result["step_2"].values
    present = np.flatnonzero(np.isin(paths, steps))
    shown = present[plot.pick(present, 5)]
    colors = plot.depth_colors(len(shown))
    for color, k in zip(colors, shown, strict=True):
        own = int(np.flatnonzero(steps == paths[k])[0])
        gain = result["fixed_path_loss"].values[own] - result["fixed_path_loss"].values[own, k]
        plot.line(panel, paths - paths[k], gain, color=color, label=f"step {paths[k]:,}")
    plot.zero_line(panel)
    panel.set_yscale("symlog", linthresh=1e-2)
    panel.set(
        title="weights of a step with older and newer paths",
        xlabel="step of paths - step of weights",
        ylabel="ΔL",
    )
    plot.legend(panel, title="weights of")
