"""What large models cost at default settings: `python -m benchmarks.scale gpt2` (or resnet50, vit), one a process.

Set-up, a snapshot and the close in seconds and in training steps of the default batch; bytes by stream; peak memory.
Random weights, random inputs of the size the model is made for; nothing is downloaded.
"""

import json
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import tracer

Batch = tuple[
    nn.Module, Callable[[int], tuple[Tensor, Tensor]], int, int
]  # examples of a probe, of a training step


class Scores(nn.Module):
    """A model of the transformers library that returns its scores alone."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).logits


def gpt2() -> Batch:
    from transformers import GPT2Config, GPT2LMHeadModel

    def batch(n: int) -> tuple[Tensor, Tensor]:
        tokens = torch.randint(0, 50257, (n, 129))
        return tokens[:, :-1], tokens[:, 1:]

    return Scores(GPT2LMHeadModel(GPT2Config(use_cache=False))), batch, 8, 8


def images(n: int) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 3, 224, 224), torch.arange(n) % 1000


def resnet50() -> Batch:
    from transformers import ResNetConfig, ResNetForImageClassification

    return Scores(ResNetForImageClassification(ResNetConfig(num_labels=1000))), images, 64, 64


def vit() -> Batch:
    from transformers import ViTConfig, ViTForImageClassification

    return Scores(ViTForImageClassification(ViTConfig(num_labels=1000))), images, 64, 64


MODELS = {"gpt2": gpt2, "resnet50": resnet50, "vit": vit}


def loss(outputs: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    """Cross-entropy; of tokens the mean over an example's."""
    if targets.ndim == 1:
        return F.cross_entropy(outputs, targets, reduction=reduction)
    each = (
        F.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="none")
        .view(targets.shape)
        .mean(1)
    )
    return each if reduction == "none" else each.mean()


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of processor and wall."""
    start = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - start[0], time.perf_counter() - start[1]


def peak() -> int:
    """Most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(name: str, folder: Path) -> dict[str, Any]:
    """One model: a step of training, then a recording of two snapshots."""
    torch.manual_seed(0)
    model, batch, probed, trained = MODELS[name]()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    x, y = batch(trained)

    def step() -> None:
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()

    step()
    one, before = timed(step), peak()
    probes = {split: batch(probed) for split in ("train", "test")}
    path, times = folder / "run.zarr", {}
    recorder = tracer.record(path, model, optimizer, loss=loss, probes=probes, snapshots=tracer.every(1))
    times["set-up and state 0"] = timed(recorder.start)
    spent = timed(step)  # with the snapshot after it
    times["a snapshot"] = spent[0] - one[0], spent[1] - one[1]
    times["close"] = timed(recorder.close)
    streams: dict[str, int] = {}
    for file in path.rglob("*"):
        if file.is_file():
            parts = file.relative_to(path).parts
            stream = parts[2] if parts[0] == "probes" and len(parts) > 3 else parts[0]
            streams[stream] = streams.get(stream, 0) + file.stat().st_size
    with tracer.open(path) as archive:
        told = {"gradients": archive.card["gradients"], "notes": archive.attributes["notes"]}
        capture = {split: probe.capture for split, probe in archive.probes.items()}
    return {
        "model": name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "training step, s": one,
        "seconds": times,
        "training steps": {what: cpu / one[0] for what, (cpu, _) in times.items()},
        "peak bytes": {"training": before, "recording": peak()},
        "bytes": dict(sorted(streams.items(), key=lambda item: -item[1])),
        "capture": capture,
        "mode": told["gradients"]["mode"],
        "reason": told["gradients"]["reason"],
        "notes": told["notes"],
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    temporary = Path(tempfile.mkdtemp())
    try:
        print(json.dumps(measure(sys.argv[1], temporary), indent=1))
    finally:
        shutil.rmtree(temporary)
