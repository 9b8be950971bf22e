"""Images and labels, as many as wanted, some of them with random labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor

import tracer

NAMES = ("mnist", "cifar10", "digits", "noise")


@dataclass(frozen=True)
class Data:
    """Standardised images (example, channel, row, column) float32 and labels; an id is a place in `x_train`.

    `true_train`: labels before any were replaced. `group`: 1 for examples of a confusion set. `mean`, `std`
    (channel, 1, 1): what was subtracted and divided by, so that `raw` gives pixels in [0, 1] again.
    """

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    true_train: Tensor
    group: Tensor
    mean: Tensor
    std: Tensor
    key: str

    @property
    def n_inputs(self) -> int:
        """Pixels of an image, all channels."""
        return self.x_train[0].numel()

    def raw(self, images: Tensor) -> Tensor:
        """Pixels in [0, 1]."""
        return (images * self.std + self.mean).clamp(0, 1)

    def probe(
        self, split: str, n: int | None = 512, raw: bool = False, **capture: int | None
    ) -> tracer.Probe:
        """The first `n` examples of `train` or `test` (None: all); `capture` such as `gradients=200`.

        `raw` also stores the pixels, which measures of an image's complexity need.
        """
        x, y = (self.x_train, self.y_train) if split == "train" else (self.x_test, self.y_test)
        known: dict[str, Any] = {"split": split, "capture": capture}
        if split == "train":
            known |= {"true_targets": self.true_train[:n], "group": self.group[:n]}
        if raw:
            known["raw"] = self.raw(x[:n])
        return tracer.Probe(x[:n], y[:n], **known)

    def probes(
        self, n: int | None = 512, raw: bool = False, **capture: int | None
    ) -> dict[str, tracer.Probe]:
        """Both splits as probes of `n` examples each."""
        return {split: self.probe(split, n, raw, **capture) for split in ("train", "test")}


def load(
    name: str, folder: Path, train: int, test: int, seed: int = 0, shuffled: float = 0.0, confusion: int = 0
) -> Data:
    """`train` and `test` examples of one of `NAMES`, drawn by `seed`: of two sizes the smaller is in the larger.

    A share `shuffled` of the training labels is replaced by labels drawn at random. A confusion set of further
    training images, all of them with random labels, comes after the others. `digits` come with scikit-learn;
    `noise` are Gaussian pixels with random labels; the others are read from `<folder>/<name>.npz`.
    """
    rng = np.random.default_rng(seed)
    x, y, x_test, y_test = _read(name, Path(folder), seed)
    _enough(name, "training", train + confusion, len(x))
    _enough(name, "test", test, len(x_test))
    chosen = rng.permutation(len(x))[: train + confusion]
    kept = rng.permutation(len(x_test))[:test]
    true, classes = y[chosen], int(y.max()) + 1
    labels, random = true.copy(), rng.integers(0, classes, len(x))[: train + confusion]
    replaced = rng.permutation(train)[: round(shuffled * train)]
    labels[replaced], labels[train:] = random[replaced], random[train:]
    mean, std = (f(x, axis=(0, 2, 3), keepdims=True)[0] for f in (np.mean, np.std))

    def images(values: np.ndarray) -> Tensor:
        return torch.from_numpy(((values - mean) / std).astype(np.float32))

    group = np.repeat([0, 1], [train, confusion])
    arrays = (labels, y_test[kept], true, group)
    y_train, y_test, true, group = (torch.from_numpy(np.asarray(a, np.int64)) for a in arrays)
    scales = (torch.from_numpy(np.asarray(a, np.float32)) for a in (mean, std))
    key = f"{name}, {train}+{confusion} train, {test} test, {shuffled:g} shuffled, seed {seed}"
    return Data(images(x[chosen]), y_train, images(x_test[kept]), y_test, true, group, *scales, key)


def _read(name: str, folder: Path, seed: int) -> list[np.ndarray]:
    """Pixels (example, channel, row, column) in [0, 1] and labels: train, then test."""
    if name == "digits":
        from sklearn.datasets import load_digits

        bunch = load_digits()
        x, y = bunch.images[:, None] / 16, bunch.target
        return [x[:1400], y[:1400], x[1400:], y[1400:]]
    if name == "noise":
        rng = np.random.default_rng([seed, 1])
        x = np.clip(rng.normal(0.5, 0.2, (12_000, 1, 28, 28)), 0, 1).astype(np.float32)
        y = rng.integers(0, 10, len(x))
        return [x[:10_000], y[:10_000], x[10_000:], y[10_000:]]
    if name not in NAMES:
        raise ValueError(f"data {name!r} is not one of {', '.join(NAMES)}")
    path = folder / f"{name}.npz"
    if not path.is_file():
        raise click.ClickException(f"there is no {path}; give its folder with --data or TRACER_DATA.")
    with np.load(path) as file:
        arrays = [file[part] for part in ("x_train", "y_train", "x_test", "y_test")]
    return [_pixels(a) if a.ndim > 1 else a.astype(np.int64) for a in arrays]


def _pixels(images: np.ndarray) -> np.ndarray:
    images = images[..., None] if images.ndim == 3 else images
    return np.moveaxis(images, -1, 1).astype(np.float32) / 255


def _enough(name: str, split: str, wanted: int, there: int) -> None:
    if wanted > there:
        raise click.ClickException(f"{name} has {there} {split} examples, {wanted} are asked for.")
