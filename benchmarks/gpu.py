"""On a CUDA device: a recorded loop against the bare one, and whether what it recorded is right, bit for bit."""

import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

import tracer
from benchmarks.harness import Work, case
from tests import zoo
from tracer.network import Network
from tracer.network.copies import named_tensors
from tracer.probe import ProbePass
from tracer.verify import verify

STREAMS = ("masks", "gradients")


@dataclass(frozen=True)
class Size:
    """How large a loop is: width of the ResNet-18, examples on the device, and updates between two snapshots."""

    width: int = 64
    examples: int = 4096
    batch: int = 128
    probe: int = 256
    every: int = 100
    snapshots: int = 3


class Loop:
    """A ResNet-18 on images of the shape of CIFAR-10 that lie on the device, recorded if a folder is given."""

    def __init__(self, device: str, size: Size, folder: Path | None) -> None:
        self.device, self.size, self.updates = torch.device(device), size, 0
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(size.examples, 3, 32, 32, generator=generator)
        y = torch.randint(0, 10, (size.examples,), generator=generator)
        capture = {"outputs": 0, "sums": 0, "activations": 0, "masks": size.probe, "gradients": size.probe}
        self.probe = tracer.Probe(x[: size.probe], y[: size.probe], split="train", capture=capture)
        self.x, self.y = x.to(self.device), y.to(self.device)
        self.model = self.network()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)
        self.run: Any = None if folder is None else self.recorder(folder)

    def network(self) -> torch.nn.Module:
        torch.manual_seed(0)
        return zoo.ResNet18(width=self.size.width, classes=10).to(self.device)

    def recorder(self, folder: Path) -> Any:
        often = tracer.every(self.size.every)
        return tracer.record(
            folder,
            self.model,
            self.optimizer,
            loss=F.cross_entropy,
            probes={"train": self.probe},
            gradients="gram",
            memory=8 << 30,
            snapshots={"masks": often, "gradients": often, "weights": often, "default": tracer.at([])},
        )

    def train(self, updates: int) -> None:
        for _ in range(updates):
            start = self.updates * self.size.batch % self.size.examples
            ids = np.arange(start, start + self.size.batch) % self.size.examples
            rows = slice(start, start + self.size.batch)
            self.optimizer.zero_grad()
            loss = F.cross_entropy(self.model(self.x[rows]), self.y[rows])
            loss.backward()
            self.optimizer.step()
            self.updates += 1
            if self.run is not None:
                self.run.step(ids=ids[: len(self.x[rows])], loss=loss)

    def timed(self) -> float:
        """Seconds of some snapshots' updates; nothing else is at work when the clock starts.

        A snapshot lies in the middle of the updates before and after it, so that all that is done for it
        meanwhile, on the device and by the writing thread, is done beside training, as in any longer run.
        """
        if self.run is not None:
            self.run.flush()
        self.wait()
        start = time.perf_counter()
        self.train(self.size.snapshots * self.size.every)
        self.wait()
        return time.perf_counter() - start

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def check(folder: Path, loop: Loop) -> int:
    """Raise unless the archive is sound and masks and Grams follow from its weights, bit for bit; bytes compared."""
    report = verify(folder, full=True)
    if not report.ok:
        raise RuntimeError(f"the archive of the benchmark is damaged: {report}")
    compared = 0
    with tracer.open(folder) as archive:
        source, chunks = archive._source, archive.probes["train"].chunks
        model = loop.network().eval()
        tensors = named_tensors(model)
        network = Network.trace(model, loop.x[:2], loop.y[:2], F.cross_entropy)
        again = ProbePass(
            network,
            {"train": loop.probe},
            tensors=tensors,
            streams=STREAMS,
            gradients="gram",
            memory=8 << 30,
            chunk=chunks[0][1] - chunks[0][0],
        )
        for step in sorted(set(archive.steps("weights").tolist()) & set(archive.steps("gram").tolist())):
            with torch.no_grad():
                for name, values in archive.weights(step).items():
                    tensors[name].copy_(torch.from_numpy(np.asarray(values)))
            for group, arrays in again.run(tensors, set(STREAMS)).items():
                for name, values in arrays.items():
                    if source.snapshot(f"{group}/{name}", step).tobytes() != values.tobytes():
                        raise RuntimeError(f"{group}/{name} of step {step} does not follow from its weights")
                    compared += values.nbytes
    return compared


@contextmanager
def repeatable() -> Iterator[None]:
    """Kernels that give the same bits twice, for both sides: none is chosen by timing it."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


def recorded_and_bare(device: str, size: Size) -> Iterator[tuple[str, Work, Work, float]]:
    """The two loops, half a distance between snapshots into their training; checked when they are done."""
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings(), repeatable():
        warnings.simplefilter("ignore")
        folder = Path(name) / "run.zarr"
        recorded, bare = Loop(device, size, folder), Loop(device, size, None)
        with recorded.run:
            for loop in (recorded, bare):
                loop.train(size.every // 2)
            label = f"ResNet-18, batch {size.batch}, {size.probe} probe examples every {size.every} updates"
            yield label, recorded.timed, bare.timed, 1.04
        compared = check(folder, recorded)
        print(f"archive checked: {compared} bytes follow from its weights, bit for bit", file=sys.stderr)


@case("the bare loop on the GPU", repeats=5, clock="wall")
def recorded_on_a_gpu() -> Iterator[tuple[str, Work, Work, float]]:
    """Data on the device, no loader: a bare loop that waits for nothing."""
    if torch.cuda.is_available():
        yield from recorded_and_bare("cuda", Size())
    else:
        print(
            "recorded_on_a_gpu is skipped: PyTorch finds no CUDA device here; run it where torch.cuda is available",
            file=sys.stderr,
        )
