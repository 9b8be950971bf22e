"""The networks that the figures on image functions share, recorded once: paths at the end of every epoch.

AlexNet, ResNet-18 and VGG-19 on CIFAR-10, and narrower ones for the figure that compares networks. The learning rate
falls tenfold after half and after three quarters of the epochs; as a control it stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from shared import Run, alexnet, fit, load, resnet18, vgg, vgg19
from torch import nn

import tracer
from analyze import plot

SEEN = 128  # images whose paths are compared
NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "AlexNet": alexnet,
    "ResNet-18": resnet18,
    "VGG-19": vgg19,
    "VGG-11": lambda width: vgg(11, width),
}
MAIN = {"AlexNet": 16, "ResNet-18": 8, "VGG-19": 8}
MORE: dict[str, tuple[int, ...]] = {"AlexNet": (20, 24), "VGG-11": (6, 8)}  # wide enough to fit 10,000 images


def size(run: Run) -> tuple[int, int, int]:
    """Training examples, test examples and epochs."""
    return run.pick(quick=(256, 256, 4), gallery=(10_000, 1000, 24), full=(10_000, 2000, 120))


def width(run: Run, name: str) -> int:
    """Channels of the first convolution; the papers' networks have 64."""
    return run.pick(quick=8, gallery=MAIN[name], full=64)


def record(run: Run, name: str, width: int, seed: int, falls: bool = True) -> Path:
    """One network; activations too, of AlexNet. `falls`: whether the learning rate does."""
    train, test, epochs = size(run)
    data = load("cifar10", run.data, train, test, seed)
    kept = {"masks": SEEN, "gradients": 0, "activations": SEEN if name == "AlexNet" else 0}
    kind = "" if falls else "-constant"
    return fit(
        run.out.parent / f"imagefunction_study_{run.scale}" / f"{name}-{width}-{seed}{kind}.zarr",
        lambda: NETWORKS[name](width), data, epochs=epochs, milestones=milestones(run) if falls else (), seed=seed,
        probes={"train": data.probe("train", test, raw=True, **kept), "test": data.probe("test", test, masks=0)},
        snapshots={"default": tracer.epochs(), "weights": tracer.at([])}, gradients="none", device=run.device,
        attributes={"network": name, "width": width, "seed": seed},
    )  # fmt: skip


def milestones(run: Run) -> tuple[int, int]:
    """Epochs after which the learning rate falls."""
    epochs = size(run)[2]
    return epochs // 2, 3 * epochs // 4


def settings(run: Run, *names: str) -> dict[str, str]:
    """What the page says of networks of these names."""
    train, test, epochs = size(run)
    widths = ", ".join(f"{name} of width {width(run, name)}" for name in names)
    return {
        "data": f"CIFAR-10, {train} training and {test} test examples; paths of {SEEN} training examples, errors of "
        "the first examples, whose outputs are stored: about 550 of the larger networks, all of the others",
        "networks": f"{widths} (64 in the originals)",
        "training": (
            f"SGD, rate 0.05, a tenth after {epochs // 2} and again after {3 * epochs // 4} of {epochs} epochs, "
            "momentum 0.9, batch 64"
        ),
    }


def distribution(axes: Axes, mean: np.ndarray, histogram: np.ndarray) -> Any:
    """Share of pairs (or images) by similarity, epoch by epoch, with the mean in black; at one site of one probe.

    `mean` (epoch,), `histogram` (epoch, bin), both without the first snapshot, which compares with nothing.
    """
    share = 100 * histogram / np.maximum(histogram.sum(-1, keepdims=True), 1)
    epochs = np.arange(1, len(share) + 1)
    extent = (0.5, len(share) + 0.5, 0.0, 1.0)
    image = axes.imshow(share.T, origin="lower", aspect="auto", extent=extent, cmap="Blues", vmin=0, vmax=25)
    axes.plot(epochs, mean, color="black", marker="." if len(share) < 40 else "", label="mean")
    axes.set(xlim=extent[:2], ylim=(0, 1.02))
    return image


def decays(axes: Axes, run: Run) -> None:
    """Mark where the learning rate falls."""
    for end in milestones(run):
        axes.axvline(end + 0.5, color=plot.PALETTE[1], linewidth=0.8, linestyle=":")


def quarters(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means (...,) over the first and over the last quarter of (..., epoch)."""
    part = max(1, values.shape[-1] // 4)
    return np.nanmean(values[..., :part], -1), np.nanmean(values[..., -part:], -1)
