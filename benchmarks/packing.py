"""Masks of real small runs, packed: against their plain bits, and against what they cannot do without.

`TRACER_BENCHMARK_DATA` names a folder with `mnist.npz` and `cifar10.npz` (arrays `x_train`, `y_train`) for runs on
these too; the others need no download.
"""

import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import tracer
from benchmarks.harness import Work, case
from tracer.command import demo
from tracer.share import pack

MASKS = 512
BITS, ENTROPY = 0.20, 2.5  # goals


class Run(NamedTuple):
    """A training run: what is trained on what, and a snapshot of the masks every so many updates."""

    data: Callable[[], tuple[Tensor, Tensor]]
    model: Callable[[], nn.Module]
    optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    updates: int
    every: int


class Sizes(NamedTuple):
    """Bytes of the masks of one archive."""

    packed: float
    plain: float
    entropy: float


def dense(*widths: int) -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten()]
    for a, b in pairwise(widths[:-1]):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(*widths[-2:]))


def convolutions(channels: int, *widths: int) -> nn.Module:
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        channels = width
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(10))


def adam(rate: float) -> Callable[[nn.Module], torch.optim.Optimizer]:
    return lambda model: torch.optim.Adam(model.parameters(), lr=rate)


def sgd(rate: float) -> Callable[[nn.Module], torch.optim.Optimizer]:
    return lambda model: torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)


def digits() -> tuple[Tensor, Tensor]:
    x, y, _, _ = demo.digits()
    return x.reshape(-1, 1, 8, 8), y


def stored(name: str) -> Callable[[], tuple[Tensor, Tensor]]:
    def load() -> tuple[Tensor, Tensor]:
        with np.load(Path(os.environ["TRACER_BENCHMARK_DATA"]) / f"{name}.npz") as arrays:
            x = torch.from_numpy(arrays["x_train"]).float() / 255
            y = torch.from_numpy(arrays["y_train"]).long()
        return x.unsqueeze(1) if x.dim() == 3 else x.permute(0, 3, 1, 2).contiguous(), y

    return load


DIGITS = {
    "digits, CNN, SGD, every 10": Run(digits, lambda: convolutions(1, 32, 64), sgd(0.02), 400, 10),
    "digits, MLP 256-256, Adam 1e-4, every 10": Run(
        digits, lambda: dense(64, 256, 256, 10), adam(1e-4), 600, 10
    ),
}
STORED = {
    "MNIST 256-256, Adam 1e-3, every 20": Run(
        stored("mnist"), lambda: dense(784, 256, 256, 10), adam(1e-3), 640, 20
    ),
    "MNIST 1024-1024-512, Adam 1e-4, every 10": Run(
        stored("mnist"), lambda: dense(784, 1024, 1024, 512, 10), adam(1e-4), 320, 10
    ),
    "CIFAR-10 CNN, Adam 1e-3, every 10": Run(
        stored("cifar10"), lambda: convolutions(3, 32, 64, 64), adam(1e-3), 320, 10
    ),
    "CIFAR-10 CNN, SGD, every 20": Run(
        stored("cifar10"), lambda: convolutions(3, 32, 64, 64), sgd(0.02), 640, 20
    ),
}


def runs() -> dict[str, Run | None]:
    """All runs there is data for; None is the demo's own."""
    return {"digits, the demo's": None, **DIGITS, **(STORED if "TRACER_BENCHMARK_DATA" in os.environ else {})}


def record(path: Path, run: Run) -> None:
    """Train and record the masks of the first examples."""
    torch.manual_seed(0)
    x, y = run.data()
    model = run.model()
    model(x[:2])  # makes the weights of lazy layers
    optimizer = run.optimizer(model)
    streams = {"masks": MASKS, "outputs": 0, "sums": 0, "gradients": 0, "activations": 0}
    probes = {"train": tracer.Probe(x[:MASKS], y[:MASKS], capture=streams)}
    schedule = {"masks": tracer.every(run.every), "default": tracer.at([])}
    with tracer.record(
        path, model, optimizer, loss=F.cross_entropy, probes=probes, gradients="none", snapshots=schedule
    ) as recorded:
        for _ in range(run.updates):
            ids = torch.randint(len(x), (64,))
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x[ids]), y[ids])
            loss.backward()
            optimizer.step()
            recorded.step(ids=ids, loss=loss)


def conditional_entropy(bits: np.ndarray) -> float:
    """Entropy of a bit given the same bit one snapshot before, by unit, per bit; bits: bool (step, unit, example).

    >>> alternating = np.tile(np.array([[[True, False]], [[False, True]]]), (4, 1, 1))
    >>> conditional_entropy(alternating)
    0.0
    >>> conditional_entropy(np.array([[[True] * 4], [[True, True, False, False]]]))
    1.0
    """
    before, after = bits[:-1], bits[1:]
    total = 0.0
    for state in (False, True):
        held = (before == state).sum(axis=(0, 2))
        on = ((before == state) & after).sum(axis=(0, 2))
        total += float((held * _entropy(on / np.maximum(held, 1))).sum())
    return total / after.size


def _entropy(p: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return -np.nan_to_num(p * np.log2(p)) - np.nan_to_num((1 - p) * np.log2(1 - p))


def sizes(path: Path) -> Sizes:
    """Pack an archive and say what its masks take, before and after, and their conditional entropy."""
    plain = entropy = 0.0
    with tracer.open(path) as archive:
        for name, probe in archive.probes.items():
            packed = archive._source.read(f"probes/{name}/masks/bits")
            bits = np.unpackbits(packed, axis=-1, count=probe.n_masks).astype(bool)
            plain += bits.size / 8
            entropy += conditional_entropy(bits) * bits.size / 8
    pack(path)
    files = [file for file in path.glob("probes/*/masks/bits/**/*") if file.is_file()]
    return Sizes(float(sum(file.stat().st_size for file in files)), plain, entropy)


@cache
def measured(name: str) -> Sizes:
    """Sizes of a run, trained and packed once for both cases."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "run.zarr"
        run = runs()[name]
        if run is None:
            demo.train(path)
        else:
            record(path, run)
        return sizes(path)


@case("their plain bits", repeats=1)
def packed_masks() -> Iterator[tuple[str, Work, Work, float]]:
    for name in runs():
        yield name, lambda name=name: measured(name).packed, lambda name=name: measured(name).plain, BITS  # type: ignore[misc]


@case("their entropy given the snapshot before", repeats=1)
def packed_masks_and_entropy() -> Iterator[tuple[str, Work, Work, float]]:
    for name in runs():
        yield name, lambda name=name: measured(name).packed, lambda name=name: measured(name).entropy, ENTROPY  # type: ignore[misc]
