"""Two training loops on a device as people write them, recorded if a folder is given, else bare."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import tracer
from benchmarks.models import GPT
from tests import zoo


@dataclass(frozen=True)
class Workload:
    """A network, its data and how it is trained. autocast: the type of its products (None: no autocast)."""

    name: str
    network: Callable[[], nn.Module]
    data: Callable[[], tuple[Tensor, Tensor]]
    optimizer: Callable[[Any, bool], torch.optim.Optimizer]
    batch: int
    probe: int
    goal: float
    every: int = 100
    autocast: torch.dtype | None = None


def images(n: int) -> tuple[Tensor, Tensor]:
    """Noise of the shape of CIFAR-10, with labels."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 3, 32, 32, generator=generator)
    return x, torch.randint(0, 10, (n,), generator=generator)


def text(n: int, length: int, words: int) -> tuple[Tensor, Tensor]:
    """Sequences whose next word is often the one after the last, and the word that follows each."""
    generator = torch.Generator().manual_seed(0)
    steps = torch.randint(0, 3, (n, length + 1), generator=generator).cumsum(1) % words
    return steps[:, :-1].contiguous(), steps[:, 1:].contiguous()


def resnet18(small: bool = False) -> Workload:
    """ResNet-18 on images of the shape of CIFAR-10, SGD, batches of 128, probes of 512 and default streams."""
    n, batch, probe = (48, 8, 16) if small else (8192, 128, 512)
    return Workload(
        name="a small CNN" if small else "ResNet-18",
        network=lambda: zoo.CNN(classes=10) if small else zoo.ResNet18(width=64, classes=10),
        data=lambda: images(n),
        optimizer=lambda parameters, cuda: torch.optim.SGD(parameters, lr=0.01, momentum=0.9),
        batch=batch,
        probe=probe,
        goal=1.04,
        every=10 if small else 100,
    )


def gpt(small: bool = False) -> Workload:
    """A GPT of 3 million parameters with bfloat16 autocast, fused AdamW, batches of 64 sequences of 128 words."""
    n, batch, probe = (48, 8, 16) if small else (4096, 64, 256)
    words, length, width, depth = (16, 8, 16, 1) if small else (256, 128, 256, 4)
    return Workload(
        name="GPT, bf16 autocast",
        network=lambda: GPT(words, length, width=width, depth=depth, heads=4),
        data=lambda: text(n, length, words),
        optimizer=lambda parameters, cuda: torch.optim.AdamW(parameters, lr=3e-4, fused=cuda),
        batch=batch,
        probe=probe,
        goal=1.03,
        every=10 if small else 100,
        autocast=torch.bfloat16,
    )


class Loop:
    """One training of a workload; `updates` were made. Data lie on the device: the bare loop waits for nothing."""

    def __init__(self, workload: Workload, device: str, folder: Path | None) -> None:
        self.workload, self.device, self.updates = workload, torch.device(device), 0
        x, y = workload.data()
        self.x, self.y = x.to(self.device), y.to(self.device)
        torch.manual_seed(0)
        self.model = workload.network().to(self.device)
        self.optimizer = workload.optimizer(self.model.parameters(), self.device.type == "cuda")
        probe = slice(0, workload.probe)
        self.run: Any = None
        if folder is not None:
            self.run = tracer.record(
                folder,
                self.model,
                self.optimizer,
                loss=zoo.loss,
                probes={"train": (x[probe], y[probe])},
                snapshots=tracer.every(workload.every),
            )

    def train(self, updates: int) -> None:
        """Make so many updates."""
        size, n = self.workload.batch, len(self.x)
        kind = self.workload.autocast
        for _ in range(updates):
            start = self.updates * size % n
            rows = slice(start, start + size)
            self.optimizer.zero_grad()
            with nullcontext() if kind is None else torch.autocast(self.device.type, kind):
                loss = zoo.loss(self.model(self.x[rows]), self.y[rows])
            loss.backward()
            self.optimizer.step()
            self.updates += 1
            if self.run is not None:
                self.run.step(ids=np.arange(start, min(start + size, n)), loss=loss)

    def timed(self, updates: int) -> float:
        """Seconds of so many updates; nothing else is at work when the clock starts.

        A snapshot lies in the middle of the updates before and after it, so that all that is done for it
        meanwhile, on the device and by the writing thread, is done beside training, as in any longer run.
        """
        self.settle()
        start = time.perf_counter()
        self.train(updates)
        self.wait()
        return time.perf_counter() - start

    def settle(self) -> None:
        """Return when all that was begun is done."""
        if self.run is not None:
            self.run.flush()
        self.wait()

    def wait(self) -> None:
        """Return when the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
