"""What the figures of Neyshabur et al. share: a network that fits its labels, and its five measures."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from shared import Data, Result, Run, fit, vgg
from torch import nn

import analyze
import tracer
from analyze import plot

NORMS = {"l2": "l2 norm", "l1_path": "l1-path norm", "l2_path": "l2-path norm", "spectral": "spectral norm"}
FITS = 0.01  # training error below which a network has learned its labels
SHARPNESS = {"examples": 256, "starts": 1, "iterations": 5}
SHARPER = 0.02  # nat
SETTINGS = {
    "training": "Adam, rate 0.001, batch 32, until the mean loss of an epoch is 0.01, at most 300 epochs",
    "measures": "divided by the squared margin (its 5 % point over all training examples), without factors of "
    "depth and width; exact path norms and operator norms of the convolutions as they act",
    "sharpness": f"alpha 0.0005, ascent of 5 steps from w, a random start and the smaller box, "
    f"{SHARPNESS['examples']} training examples",
}


def network(run: Run) -> nn.Module:
    """Three convolutions and two Linear layers on images of half the side; VGG-16 with BatchNorm at full size."""
    if run.scale == "full":
        return vgg(16)
    layers: list[nn.Module] = [nn.AvgPool2d(2)]
    for before, after in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))


def record(run: Run, name: str, model: partial[nn.Module], data: Data, seed: int) -> Path:
    """Train until the labels are learned; the archive holds outputs and weights at the start and the end.

    Archives are in `neyshabur_runs_<scale>` beside the folder of the figure.
    """
    probes = data.probes(None, masks=0, outputs=None)
    return fit(
        run.out.parent / f"neyshabur_runs_{run.scale}" / f"{name}.zarr", model, data,
        epochs=run.pick(quick=60, gallery=300, full=500),
        optimizer=partial(torch.optim.Adam, lr=1e-3), batch=32, seed=seed, until=0.01, probes=probes,
        snapshots=tracer.at([0]), gradients="none", device=run.device,
    )  # fmt: skip


def measure(path: Path) -> Result:
    """Measures, errors and margin at the end; norms as logarithms of base 10, `literal` with the printed factors."""
    results = analyze.run(
        path,
        ["capacity", "sharpness", "generalization"],
        options={"sharpness": SHARPNESS},
        output=path.with_suffix(".analysis"),
    )
    capacity = results["capacity"].isel(step=-1)
    error = results["generalization"]["error"].isel(step=-1)
    found = {name: float(capacity[f"log10_{name}"].sel(factors="dropped")) for name in NORMS}
    found |= {f"{name} literal": float(capacity[f"log10_{name}"].sel(factors="literal")) for name in NORMS}
    found["sharpness"] = float(results["sharpness"]["max_gain"].isel(step=-1))
    return found | {f"{split} error": float(error.sel(probe=split)) for split in ("train", "test")}


def table(runs: Sequence[Sequence[Result]]) -> dict[str, np.ndarray]:
    """Measures as (setting, seed); NaN for a network that does not fit, errors excepted."""
    values = {name: np.array([[one[name] for one in seeds] for seeds in runs]) for name in runs[0][0]}
    fits = np.where(values["train error"] < FITS, 1.0, np.nan)
    return {name: each if "error" in name else each * fits for name, each in values.items()}


def lines(axes: Axes, x: Sequence[float], values: np.ndarray, log10: bool = False, **style: str) -> None:
    """Mean over seeds of (setting, seed) against the setting, and a band of a standard deviation."""
    plot.band(axes, x, np.nanmean(values, 1), np.nanstd(values, 1, ddof=1), **style)
    if log10:
        low, high = axes.get_ylim()
        ticks = np.unique(np.round(np.linspace(low, high, 5)))
        axes.set_yticks(ticks, [f"$10^{{{round(tick)}}}$" for tick in ticks])


def slope(values: np.ndarray) -> np.ndarray:
    """Slope (seed,) of (setting, seed) values over the number of the setting, of those that are defined."""
    steps = np.where(np.isnan(values), np.nan, np.arange(len(values))[:, None])
    steps = steps - np.nanmean(steps, 0)
    return np.asarray(np.nansum(steps * values, 0) / np.nansum(steps**2, 0))
