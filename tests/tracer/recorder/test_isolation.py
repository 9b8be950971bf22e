"""What watches a training sees the training alone."""

from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import tracer
from tests.loops import blobs, mlp


class Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls.append(str(function))
        return function(*args, **(kwargs or {}))


def train(recording: Any, **options: Any) -> None:
    model, (x, y) = mlp(), blobs()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with recording(model, optimizer, loss=F.cross_entropy, snapshots=tracer.every(1), **options):
        for _ in range(2):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()


def test_what_counts_operations_around_a_recording_counts_those_of_the_training(tmp_path):
    def recording(*args: Any, **options: Any) -> Any:
        return tracer.record(tmp_path / "run.zarr", *args, **options)

    found = []
    for run in (lambda *_, **__: nullcontext(), recording):
        with FlopCounterMode(display=False) as flops, Counter() as counter:
            train(run, probes={"train": blobs()})
        found.append((flops.get_total_flops(), counter.calls))
    assert found[0] == found[1] and found[0][0] > 0


def test_a_profiler_shows_a_recording_under_one_name(tmp_path):
    with torch.profiler.profile() as profile:
        train(lambda *args, **options: tracer.record(tmp_path / "run.zarr", *args, **options), probes={})
    assert "tracer" in {event.key for event in profile.key_averages()}


class Edge(nn.Module):
    """A square root of a square, which has no slope at 0."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (F.relu(x) ** 2).sqrt()


def test_a_probe_may_meet_nan_where_training_looks_for_anomalies(tmp_path):
    model, (x, y) = nn.Sequential(nn.Linear(6, 8), Edge(), nn.Linear(8, 3)), blobs()
    with torch.no_grad():
        model[0].bias -= 1
    with torch.autograd.set_detect_anomaly(True):
        with tracer.record(
            tmp_path / "a.zarr", model, None, loss=F.cross_entropy, probes={"train": (x, y)}
        ) as run:
            run.step()
        assert torch.is_anomaly_enabled() and torch.is_anomaly_check_nan_enabled()
    assert tracer.open(tmp_path / "a.zarr").steps("gradients").tolist() == [0, 1] and run.notes == []
