"""`memory=` is what a recording takes at most, by the system's account: three probes, all streams, every update."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tracer
from tests.memory import MIB, SLACK, Peak, counted
from tracer.errors import RecordError
from tracer.recorder.instrument import Instrument

pytestmark = [counted, pytest.mark.filterwarnings("ignore:Recording into")]


def dense() -> tuple[nn.Module, tuple[int, ...]]:
    layers = [nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)]
    return nn.Sequential(*layers), (256,)


def convolutional() -> tuple[nn.Module, tuple[int, ...]]:
    layers = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(512, 10)), (1, 20, 20)


MODELS = {"dense": dense, "convolutional": convolutional}


def record(path: Path, model: str, n: int, gradients: str, memory: int) -> None:
    torch.manual_seed(0)
    network, shape = MODELS[model]()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    probes = {}
    for name, count in {"train": n, "test": n // 2, "other": n // 4}.items():
        capture = {"masks": None, "gradients": count // 2, "activations": count // 2}
        given = torch.randn(count, *shape), torch.arange(count) % 2
        probes[name] = tracer.Probe(*given, split=name, capture=capture)
    x, y = torch.randn(16, *shape), torch.arange(16) % 2
    options: dict[str, Any] = {
        "loss": F.cross_entropy,
        "probes": probes,
        "gradients": gradients,
        "memory": memory,
    }
    with tracer.record(path, network, optimizer, snapshots=tracer.every(1), **options):
        for _ in range(4):
            F.cross_entropy(network(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()


RUNS = [
    pytest.param("dense", 1200, "exact", 100, id="dense"),
    pytest.param("dense", 3800, "exact", 1000, id="ten times larger", marks=pytest.mark.slow),
    pytest.param("convolutional", 400, "exact", 300, id="convolutional", marks=pytest.mark.slow),
]


@pytest.fixture
def peak(monkeypatch: pytest.MonkeyPatch) -> Peak:
    """Counts from the first snapshot on: tracing looks at a few examples only."""
    peak, snapshot = Peak(), Instrument.snapshot

    def first(*given: Any, **more: Any) -> None:
        monkeypatch.setattr(Instrument, "snapshot", snapshot)
        peak.begin()
        snapshot(*given, **more)

    monkeypatch.setattr(Instrument, "snapshot", first)
    return peak


@pytest.mark.parametrize(("model", "n", "gradients", "mebibytes"), RUNS)
def test_recording_stays_within_its_memory(
    tmp_path: Path, model: str, n: int, gradients: str, mebibytes: int, peak: Peak
) -> None:
    """Within little more than the least that is not refused."""
    with pytest.raises(RecordError, match="raise memory="):
        record(tmp_path / "refused.zarr", model, n, gradients, mebibytes // 2 * MIB)
    record(tmp_path / "many.zarr", model, n, gradients, mebibytes * MIB)
    assert peak.taken < SLACK * mebibytes * MIB
