"""Dataset cartography: how sure is the network of each example, and how much does that change in training?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from analyze import plot
from analyze.contract import metric
from analyze.numerics import divide, mean_defined, std_defined
from analyze.reference import Reference
from tracer.errors import ArgumentError

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

SWAYAMDIPTA_2020 = Reference(
    key="swayamdipta2020dataset",
    authors=(
        "Swayamdipta, Swabha",
        "Schwartz, Roy",
        "Lourie, Nicholas",
        "Wang, Yizhong",
        "Hajishirzi, Hannaneh",
        "Smith, Noah A.",
        "Choi, Yejin",
    ),
    title="Dataset Cartography: Mapping and Diagnosing Datasets with Training Dynamics",
    year=2020,
    venue="Conference on Empirical Methods in Natural Language Processing",
    arxiv="2009.10795",
)
NAMES = ("confidence", "variability", "correctness", "forgetfulness")


@metric(
    reads=("scores", "labels", "step", "epoch_end"),
    scope="probe",
    whole=True,
    variables={
        **dict.fromkeys((*NAMES, "n_epochs"), ("example",)),
        **{f"{name}_mean": ("probe",) for name in NAMES},
        "n_never_correct": ("probe",),
        "n_undefined": ("probe",),
    },
    bounds={
        name + end: (0, high)
        for name, high in (
            ("confidence", 1),
            ("variability", 0.5),
            ("correctness", 1),
            ("forgetfulness", np.inf),
        )
        for end in ("", "_mean")
    },
    units={"forgetfulness": "events", "forgetfulness_mean": "events"},
    summary=("confidence_mean", "variability_mean", "correctness_mean"),
    makes=(),
    title="Dataset cartography",
    formula="confidence = mean_e p_e(y_i|x_i);  variability = sd_e p_e(y_i|x_i);  correctness: share of epochs",
    cost="reads stored outputs; O(epochs · examples · classes)",
    reading=(
        "Upper left: easy to learn. Lower left: hard to learn, among them wrong labels. Right: ambiguous. The regions "
        "are relative, there are no thresholds. Contested: the numbers depend on how long and how fast was trained, "
        "so ambiguous is a property of run and example together."
    ),
    reference=SWAYAMDIPTA_2020,
)
def cartography(
    scores: np.ndarray,
    labels: np.ndarray,
    step: np.ndarray,
    epoch_end: np.ndarray,
    *,
    burn_out: int | None = None,
    at: Literal["epochs", "snapshots"] = "epochs",
) -> dict[str, Any]:
    """Mean and spread over epochs of the probability that each example's given label has.

    `scores` (step, example, class) are logits in eval mode, `labels` (example,) as trained on, `step` (step,) the
    snapshots and `epoch_end` (step,) which of them end an epoch. Those after step 0 count, the first `burn_out` of
    them (None: all); `at="snapshots"` takes every snapshot after step 0, which the measure expects to be equally
    spaced. All (example,): `confidence` is the mean of the probability, `variability` its population standard
    deviation (at most 0.5, NaN for fewer than two epochs), `correctness` the share of epochs at which the label has
    the largest logit (the first of equal ones wins), `forgetfulness` how often a correct epoch is followed by a wrong
    one (NaN for an example that is never correct), `n_epochs` the epochs that count: those with finite logits. `_mean`
    (probe,) are means over examples, `n_never_correct` and `n_undefined` count examples never correct, and without
    any epoch or class.

    >>> scores = np.log([[[0.9, 0.1]], [[0.8, 0.2]], [[0.2, 0.8]]])
    >>> found = cartography(scores, np.array([1]), np.array([0, 5, 10]), np.array([True] * 3))
    >>> found["confidence"].round(6).item(), found["variability"].round(6).item(), found["correctness"].item()
    (0.5, 0.3, 0.5)
    """
    if at not in ("epochs", "snapshots"):
        raise ArgumentError(f"at= is 'epochs' or 'snapshots', got {at!r}")
    rows = np.flatnonzero((step > 0) & (epoch_end if at == "epochs" else True))[:burn_out]
    valid = (labels >= 0) & (labels < scores.shape[-1])
    column = np.where(valid, labels, 0)
    probability, right = (np.full((len(rows), len(labels)), np.nan) for _ in range(2))
    for position, row in enumerate(rows):
        values = np.where(np.isneginf(scores[row]), -np.inf, scores[row])
        known = valid & np.isfinite(values.max(-1))
        of_known = values[known]
        power = np.exp(of_known - of_known.max(-1, keepdims=True))
        index = np.arange(len(of_known)), column[known]
        probability[position, known] = power[index] / power.sum(-1)
        right[position, known] = of_known.argmax(-1) == column[known]
    found, used = _over_epochs(probability, right)
    means = {f"{name}_mean": mean_defined(found[name])[0] for name in NAMES}
    never = int(((found["correctness"] == 0) & (used > 0)).sum())
    counts = {"n_epochs": used, "n_never_correct": never, "n_undefined": int((used == 0).sum())}
    return {**found, **means, **counts, "attrs": {"epochs": len(rows)}}


def _over_epochs(probability: np.ndarray, right: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    confidence, used = mean_defined(probability, 0)
    variability = np.where(used > 1, std_defined(probability, 0), np.nan)
    correctness = divide(np.nansum(right, axis=0), used)
    forgotten, last = np.zeros(right.shape[1]), np.zeros(right.shape[1])
    for row in right:
        forgotten += (last == 1) & (row == 0)
        last = np.where(np.isnan(row), last, row)
    forgotten[~(correctness > 0)] = np.nan
    values = {"confidence": confidence, "variability": variability, "correctness": correctness}
    return {**values, "forgetfulness": forgotten}, used


def plot_cartography(result: xr.Dataset, figure: Figure) -> None:
    """The data map of each probe: confidence against variability, coloured by correctness."""
    from analyze.tables import example_probe

    probes = list(result["probe"].values)
    axes = plot.panels(figure, len(probes), titles=probes, height=2.8, columns=2)
    owner = example_probe(result["confidence"])
    for panel, probe in zip(axes, probes, strict=True):
        rows = owner == probe
        x, y = result["variability"].values[rows], result["confidence"].values[rows]
        color = result["correctness"].values[rows]
        drawn = panel.scatter(x, y, c=color, vmin=0, vmax=1, s=9, cmap=plot.SEQUENTIAL)
        plot.name_points(drawn, [f"id {name}" for name in result["id"].values[rows]])
        panel.set(xlabel="variability", xlim=(-0.02, 0.52), ylim=(-0.02, 1.02))
    axes[0].set_ylabel("confidence")
    figure.colorbar(drawn, ax=axes, label="correctness", shrink=0.9)
