"""What an analysis costs until the first report, and all of it: in forward and backward passes of its probe.

Of the demo, where calls and figures take the time: in trainings. The other network is the convolutional one of the
MNIST example of PyTorch, 1.2 million parameters, on images of noise: what is computed does not depend on them.
"""

import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import analyze
import tracer
from analyze.report.save import Pages
from benchmarks.harness import Work, case
from tracer.command.demo import train

EXAMPLES, UPDATES = 256, 48


class _Enough(Exception):
    """The first report is written."""


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(9216, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


def examples(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(EXAMPLES, 1, 28, 28, generator=generator), torch.arange(EXAMPLES) % 10


@cache
def archive() -> tuple[TemporaryDirectory[str], Path]:
    """Snapshots at 0, 1, 2, 4, 8, 16, 32 and 48 updates, two probes; the directory goes with the process."""
    folder = TemporaryDirectory(prefix="tracer-benchmark-")
    path, model = Path(folder.name) / "run.zarr", network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = examples(0)
    with tracer.record(
        path,
        model,
        optimizer,
        loss=F.cross_entropy,
        probes={"train": (x, y), "test": examples(1)},
        snapshots=tracer.log_spaced(),
    ) as run:
        for _ in range(UPDATES):
            loss = F.cross_entropy(model(x[:64]), y[:64])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            run.step(ids=torch.arange(64), loss=loss)
    return folder, path


@cache
def demo() -> tuple[TemporaryDirectory[str], Path]:
    """The demo's archive; the directory goes with the process."""
    folder = TemporaryDirectory(prefix="tracer-benchmark-")
    return folder, train(Path(folder.name) / "demo.zarr")


@cache
def seconds(path: Path, whole: bool) -> float:
    """Processor seconds of an analysis with its report, or until the first report is written."""
    output = path.with_name("whole" if whole else "first")

    def arrived(results: Any) -> None:
        if not whole:
            pages.write(results, whole=False)
            raise _Enough

    start = time.process_time()
    with Pages(output) as pages, suppress(_Enough):
        pages.write(analyze.run(path, output=output, jobs=1, arrived=arrived))
    return time.process_time() - start


def training() -> float:
    """Processor seconds of the demo's training, recorded."""
    with TemporaryDirectory(prefix="tracer-benchmark-") as folder:
        start = time.process_time()
        train(Path(folder) / "demo.zarr")
        return time.process_time() - start


def passes() -> float:
    """Processor seconds of one forward and backward pass of a probe, the least of a few."""
    model, (x, y) = network(), examples(0)
    taken = []
    for _ in range(3):
        start = time.process_time()
        F.cross_entropy(model(x), y).backward()
        taken.append(time.process_time() - start)
    return min(taken)


@case("a forward and backward pass of its probe", repeats=1)
def first_report() -> Iterator[tuple[str, Work, Work, float]]:
    yield (
        f"convolutions, 1.2 M parameters, {EXAMPLES} examples a probe",
        lambda: seconds(archive()[1], False),
        passes,
        100.0,
    )


@case("a forward and backward pass of its probe", repeats=1)
def whole_report() -> Iterator[tuple[str, Work, Work, float]]:
    yield (
        f"convolutions, 1.2 M parameters, {EXAMPLES} examples a probe",
        lambda: seconds(archive()[1], True),
        passes,
        400.0,
    )


@case("training and recording it", repeats=1)
def demo_report() -> Iterator[tuple[str, Work, Work, float]]:
    yield "until the first report", lambda: seconds(demo()[1], False), training, 5.0
    yield "all of it", lambda: seconds(demo()[1], True), training, 10.0
