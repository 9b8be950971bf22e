"""A recorded training loop against the bare one: ids each step; masks, exact gradients, weights every K."""

import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import tracer
from benchmarks.harness import Work, case
from benchmarks.models import resnet18
from tracer.share import pack

MASKS, GRADIENTS = 256, 64


class SmallCNN(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AvgPool2d(4),
            nn.Flatten(),
            nn.Dropout(0.1),
            nn.Linear(128, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )


def dense(inputs: int, hidden: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 10)
    )


# name: model, input shape, examples, steps, K, batch, goal
WORKLOADS: dict[str, tuple[Any, ...]] = {
    "mlp": (lambda: dense(784, 256), (784,), 2048, 80, 40, 64, 1.08),
    "cnn": (SmallCNN, (3, 32, 32), 1024, 40, 20, 32, 1.30),
    "digits": (lambda: dense(64, 64), (64,), 1797, 200, 100, 64, 1.07),
}


class Loop:
    """One training run in two parts, so that tracing the network (once a run) is not charged to the steps."""

    def __init__(self, name: str, folder: Path | None) -> None:
        build, shape, n, self.steps, self.k, self.batch, _ = WORKLOADS[name]
        generator = torch.Generator().manual_seed(1)
        if name == "digits":
            digits = load_digits()
            self.x, self.y = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
        else:
            self.x = torch.randn(n, *shape, generator=generator)
            self.y = torch.randint(0, 10, (n,), generator=generator)
        self.order = [torch.randperm(n, generator=generator)[: self.batch] for _ in range(self.steps)]
        torch.manual_seed(0)
        self.model = build()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)
        self.run: Any = None if folder is None else self.recorder(folder)

    def recorder(self, folder: Path) -> Any:
        gradients = slice(MASKS, MASKS + GRADIENTS)
        nothing = {"outputs": 0, "sums": 0, "activations": 0}
        at_k = {
            "masks": tracer.every(self.k),
            "gradients": tracer.every(self.k),
            "weights": tracer.every(self.k),
        }
        return tracer.record(
            folder,
            self.model,
            self.optimizer,
            loss=F.cross_entropy,
            gradients="exact",
            probes={
                "masks": tracer.Probe(
                    self.x[:MASKS], self.y[:MASKS], capture={**nothing, "masks": MASKS, "gradients": 0}
                ),
                "gradients": tracer.Probe(
                    self.x[gradients],
                    self.y[gradients],
                    capture={**nothing, "masks": 0, "gradients": GRADIENTS},
                ),
            },
            snapshots={**at_k, "default": tracer.at([])},
        )

    def train(self) -> None:
        for ids in self.order:
            self.optimizer.zero_grad()
            loss = F.cross_entropy(self.model(self.x[ids]), self.y[ids])
            loss.backward()
            self.optimizer.step()
            if self.run is not None:
                self.run.step(ids=ids, loss=loss)


def one_loop(name: str, folder: Path | None) -> Work:
    def work() -> None:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        loop = Loop(name, folder)
        with loop.run or nullcontext():
            loop.train()

    return work


@case("the bare loop, set-up of both included", repeats=5)
def whole_run() -> Iterator[tuple[str, Work, Work, float]]:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in WORKLOADS:
            yield name, one_loop(name, Path(folder) / name), one_loop(name, None), float("inf")


@case("the bare loop", repeats=9)
def recorded_steps() -> Iterator[tuple[str, Work, Work, float]]:
    """Steps only: the recorder is opened before the clock and goes on over all repeats."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, (*_, goal) in WORKLOADS.items():
            recorded, bare = Loop(name, Path(folder) / name), Loop(name, None)
            with recorded.run:
                yield name, recorded.train, bare.train, goal


@case("1 MB", repeats=1)
def bytes_recorded() -> Iterator[tuple[str, Work, Work, float]]:
    """Megabytes of two snapshots and all ids of the loops above, packed, with the metadata.

    The first state, which other tools do not record, and the stored inputs of the probes are left out.
    """
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, goal in (("mlp", 3.0), ("cnn", 3.0), ("digits", 0.33)):
            path = Path(folder) / f"{name}.zarr"

            def ours(name: str = name, path: Path = path) -> float:
                one_loop(name, path)()
                pack(path)
                sizes = {file: file.stat().st_size for file in path.rglob("*") if file.is_file()}
                streams = {"weights", "gram", "masks", "gradients"}
                total = 0.0
                for file, size in sizes.items():
                    inside = file.relative_to(path).parts
                    group = inside[2] if inside[0] == "probes" and len(inside) > 3 else inside[0]
                    if inside[0] != "probes" or group in streams or file.name == "zarr.json":
                        total += size * (2 / 3 if group in streams and file.name != "zarr.json" else 1)
                return total

            yield f"{name}, MB", ours, lambda: 1e6, goal


@case("the bare step", repeats=7)
def capture_in_flight() -> Iterator[tuple[str, Work, Work, float]]:
    """Loss, correctness, sums and masks of every minibatch of a ResNet-18 while it is trained on."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runs = []
        for _ in range(2):
            torch.manual_seed(0)
            model, x, y = resnet18(64)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
            runs.append((model, optimizer, DataLoader(TensorDataset(x, y), batch_size=16)))

        def train(number: int, recorded: Any = None) -> None:
            model, optimizer, loader = runs[number]
            for inputs, targets in loader if recorded is None else recorded.batches(loader):
                optimizer.zero_grad()
                F.cross_entropy(model(inputs), targets).backward()
                optimizer.step()

        minibatch = {"sums": True, "masks": tracer.every(1)}
        with tracer.record(
            Path(folder) / "run.zarr", *runs[0][:2], minibatch=minibatch, snapshots=tracer.at([])
        ) as run:
            yield "ResNet-18, batches of 16", lambda: train(0, run), lambda: train(1), 1.03
