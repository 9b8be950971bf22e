"""Training measures: how well, how surely and how fast were the training examples fitted?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from analyze import plot
from analyze.contract import metric
from analyze.metrics.capacity.pac_bayes import DZIUGAITE_2020
from analyze.numerics import mean_defined
from analyze.reference import JIANG_2019

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

FIRST, SECOND = 0.1, 0.01


@metric(
    reads=("losses", "entropies", "step", "epoch_end", "epoch"),
    optional=("gradient_noise.trace",),
    scope="train",
    whole=True,
    variables={
        "train_loss": ("step",),
        "output_entropy": ("step",),
        "steps_to_0_1": (),
        "steps_0_1_to_0_01": (),
        "gradient_noise_epoch1": (),
        "gradient_noise_final": (),
        "n_censored": (),
        "n_undefined": ("step",),
        "n_examples": (),
    },
    bounds={
        "output_entropy": (0, np.inf),
        "steps_to_0_1": (0, np.inf),
        "steps_0_1_to_0_01": (0, np.inf),
        "gradient_noise_epoch1": (0, np.inf),
        "gradient_noise_final": (0, np.inf),
    },
    units={
        "train_loss": "nat",
        "output_entropy": "nat",
        "steps_to_0_1": "steps",
        "steps_0_1_to_0_01": "steps",
        "gradient_noise_epoch1": "squared gradient norm",
        "gradient_noise_final": "squared gradient norm",
    },
    summary=("train_loss", "output_entropy", "steps_to_0_1", "gradient_noise_final"),
    makes=(),
    title="Training measures",
    formula="H = mean_i -Σ_c p_c ln p_c;  steps until the training loss is ≤ 0.1, and from there to ≤ 0.01",
    cost="reads stored outputs; O(steps · examples · classes)",
    reading=(
        "Run-level scalars of Jiang et al. for `compare`. Contested: how fast a loss is reached follows the learning "
        "rate and the batch size as much as the network, and entropy at one loss is nearly fixed by that loss."
    ),
    reference=(JIANG_2019, DZIUGAITE_2020),
)
def training_measures(
    losses: np.ndarray,
    entropies: np.ndarray,
    step: np.ndarray,
    epoch_end: np.ndarray,
    epoch: np.ndarray,
    *,
    gradient_noise_trace: np.ndarray | None = None,
) -> dict[str, Any]:
    """Training loss, entropy of the outputs, optimizer steps to a loss, and gradient noise early and late.

    `losses` and `entropies` of the softmax (step, example) are those of the training probe in eval mode, `step`
    (step,) the snapshots, `epoch_end` (step,) which of them end an epoch and `epoch` (step,) which one. `train_loss`
    is the mean loss and `output_entropy` the mean of -Σ p ln p, its sign positive (the list of Jiang et al. has its
    negative). `steps_to_0_1`: the first snapshot at which the mean loss is at most 0.1, never the loss of a
    minibatch; `steps_0_1_to_0_01`: how many steps later it is at most 0.01. NaN where a loss is never reached:
    `n_censored` is then 1 or 2. Steps are known as finely as snapshots were taken. `gradient_noise_epoch1`,
    `gradient_noise_final`: trace of the covariance of the per-example gradients of all layers at the end of the first
    epoch and at the last snapshot where it is defined, from `gradient_noise`; NaN where that was not computed, or no
    snapshot was taken there. A minibatch's noise is this over its size. `n_undefined` examples without a finite loss
    or entropy are left out of the means, `n_examples` are there.

    >>> losses = np.array([[2.0], [0.5], [0.08], [0.01]])
    >>> found = training_measures(losses, np.full((4, 1), np.log(2)), np.array([0, 10, 20, 40]), *np.zeros((2, 4), int))
    >>> found["steps_to_0_1"], found["steps_0_1_to_0_01"], round(float(found["output_entropy"][0] / np.log(2)), 6)
    (20.0, 20.0, 1.0)
    """
    finite = np.where(np.isfinite(losses), losses, np.nan)
    loss, used = mean_defined(finite, 1)
    first, second = (_first(step, loss, limit) for limit in (FIRST, SECOND))
    noise = np.full(len(step), np.nan) if gradient_noise_trace is None else gradient_noise_trace[:, -1]
    ends, last = noise[np.asarray(epoch_end, bool) & (epoch == 1)], noise[~np.isnan(noise)]
    return {
        "train_loss": loss,
        "output_entropy": mean_defined(entropies, 1)[0],
        "steps_to_0_1": first,
        "steps_0_1_to_0_01": second - first,
        "gradient_noise_epoch1": ends[0] if len(ends) else np.nan,
        "gradient_noise_final": last[-1] if len(last) else np.nan,
        "n_censored": int(np.isnan(first)) + int(np.isnan(second)),
        "n_undefined": losses.shape[1] - np.minimum(used, (~np.isnan(entropies)).sum(1)),
        "n_examples": losses.shape[1],
    }


def _first(step: np.ndarray, loss: np.ndarray, limit: float) -> float:
    reached = np.flatnonzero(loss <= limit)
    return float(step[reached[0]]) if len(reached) else np.nan


def plot_training_measures(result: xr.Dataset, figure: Figure) -> None:
    """Loss and entropy against training, with the losses that are waited for."""
    left, right = plot.panels(figure, 2, columns=2, height=2.6, sharey=False)
    plot.line(left, result["step"], result["train_loss"], color=plot.SPLIT_COLORS["train"])
    for limit in (FIRST, SECOND):
        plot.zero_line(left, limit)
    if np.nanmax(result["train_loss"].values, initial=0.0) > 0:
        plot.log_scale(left)
    plot.line(right, result["step"], result["output_entropy"], color=plot.PALETTE[2])
    left.set(title="training loss", ylabel="nat")
    right.set(title="entropy of the outputs", ylabel="nat")
    for panel in (left, right):
        plot.step_axis(panel, result["step"])
