"""Generalization: the loss and error on each probe, and the gap between test and train."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from analyze import plot
from analyze.contract import metric
from analyze.numerics import divide, mean_defined, standard_error
from analyze.reference import JIANG_2019, NEYSHABUR_2017

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure


@metric(
    reads=("losses", "probe", "split"),
    optional=("correct", "labels"),
    variables={
        "loss": ("step", "probe"),
        "error": ("step", "probe"),
        "loss_error": ("step", "probe"),
        "guessing_error": ("step", "probe"),
        "gap_loss": ("step",),
        "gap_error": ("step",),
        "n_undefined": ("step", "probe"),
        "n_classified": ("step", "probe"),
        "n_examples": ("probe",),
    },
    bounds={"error": (0, 1), "loss_error": (0, np.inf), "guessing_error": (0, 1), "gap_error": (-1, 1)},
    summary=("loss", "error", "gap_loss", "gap_error"),
    makes=(),
    title="Loss, error and generalization gap",
    formula="gap = test - train",
    cost="reads stored outputs; O(steps · examples · classes)",
    reading="The vertical distance between the curves is the gap that every other metric tries to explain.",
    reference=(NEYSHABUR_2017, JIANG_2019),
)
def generalization(
    losses: np.ndarray,
    probe: np.ndarray,
    split: np.ndarray,
    *,
    correct: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    against: str = "test",
) -> dict[str, Any]:
    """Mean loss and share of wrong predictions on each probe, and how much worse the test probe does.

    `losses` and `correct` are (step, example), `probe`, `split` and `labels` (example,). The gap is that of split
    `against` minus that of split `train`, NaN where one of them is not recorded. Losses that are NaN are
    left out of the mean and counted in `n_undefined`. `error` is NaN where outputs and targets are not
    those of a classifier, and else the share of those `n_classified` examples that are known to be right or wrong;
    `guessing_error` is the share of them that is wrong where every answer is their commonest label, NaN where examples
    have no label each. `loss_error` is the standard error of the mean loss over examples, NaN with fewer than two.

    >>> losses = np.array([[0.1, 0.3, 1.0]])
    >>> names = np.array(["train", "train", "test"])
    >>> result = generalization(losses, names, names, correct=np.array([[1.0, 1.0, 0.0]]))
    >>> result["loss"].round(4).tolist(), result["gap_loss"].round(4).tolist(), result["error"].tolist()
    ([[0.2, 1.0]], [0.8], [[0.0, 1.0]])
    """
    wrong = np.full(losses.shape, np.nan) if correct is None else 1.0 - correct
    names = list(dict.fromkeys(probe.tolist()))
    of_probe = [probe == name for name in names]
    of_split = {name: split == name for name in ("train", against)}
    result: dict[str, Any] = {}
    for name, values in (("loss", losses), ("error", wrong)):
        result[name] = np.stack([mean_defined(values[:, rows], 1)[0] for rows in of_probe], axis=1)
        means = {side: mean_defined(values[:, rows], 1)[0] for side, rows in of_split.items()}
        result[f"gap_{name}"] = means[against] - means["train"]
    result["loss_error"] = np.stack([standard_error(losses[:, rows]) for rows in of_probe], axis=1)
    result["guessing_error"] = np.stack(
        [_guessing(wrong[:, rows], None if labels is None else labels[rows]) for rows in of_probe], axis=1
    )
    undefined = [np.isnan(losses[:, rows]).sum(1) for rows in of_probe]
    counts = {
        "n_undefined": np.stack(undefined, axis=1),
        "n_classified": np.stack([(~np.isnan(wrong[:, rows])).sum(1) for rows in of_probe], axis=1),
        "n_examples": np.array([rows.sum() for rows in of_probe]),
    }
    told = {"against": against, "formula": f"gap = {against} - train"}
    return {**result, **counts, "probe": names, "attrs": told}


def _guessing(wrong: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
    """Error of the best answer that is always the same, (step,), on the examples whose `wrong` is defined."""
    if labels is None:
        return np.full(len(wrong), np.nan)
    known = ~np.isnan(wrong)
    codes = np.unique(labels, return_inverse=True)[1].reshape(-1)
    most = [np.bincount(codes[row], minlength=1).max() for row in known]
    return 1 - divide(most, known.sum(1))


def plot_generalization(result: xr.Dataset, figure: Figure) -> None:
    """Loss and error of each probe against training, and their gaps; of what is no classifier the loss alone."""
    colors = {"loss": plot.PALETTE[3], "error": plot.PALETTE[2]}
    names = [name for name in colors if name == "loss" or bool(result[name].notnull().any())]
    gap = f"gap ({result.attrs.get('against', 'test')} − train)"
    axes = plot.panels(figure, len(names) + 1, height=2.4, titles=(*names, gap), sharey=False)
    for panel, name in zip(axes, names, strict=False):
        for k, probe in enumerate(result["probe"].values):
            values = result[name].sel(probe=probe)
            plot.line(panel, result["step"], values, label=str(probe), color=plot.color_of(str(probe), k))
    for name in names:
        plot.line(axes[-1], result["step"], result[f"gap_{name}"], label=name, color=colors[name])
    plot.zero_line(axes[-1])
    for panel in axes:
        plot.step_axis(panel, result["step"])
        plot.legend(panel)
