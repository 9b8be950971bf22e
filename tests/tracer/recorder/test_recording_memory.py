"""`memory=` is what a recording takes at most, by the system's account: three probes, all streams, every update."""

import json
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


def record(path: Path, n: int, memory: int) -> None:
    """Probes of n, n / 2 and n / 4 examples."""
    torch.manual_seed(0)
    layers = [nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)]
    network = nn.Sequential(*layers)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    probes = {}
    for name, count in {"train": n, "test": n // 2, "other": n // 4}.items():
        capture = {"masks": None, "gradients": count // 2, "activations": count // 2}
        given = torch.randn(count, 256), torch.arange(count) % 2
        probes[name] = tracer.Probe(*given, split=name, capture=capture)
    x, y = torch.randn(16, 256), torch.arange(16) % 2
    options: dict[str, Any] = {"loss": F.cross_entropy, "probes": probes, "memory": memory}
    with tracer.record(path, network, optimizer, gradients="exact", snapshots=tracer.every(1), **options):
        for _ in range(2):
            F.cross_entropy(network(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()


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


@pytest.mark.parametrize(
    ("n", "mebibytes"), [(1200, 225), pytest.param(2400, 500, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_recording_stays_within_its_memory(tmp_path: Path, peak: Peak, n: int, mebibytes: int) -> None:
    with pytest.raises(RecordError, match="raise memory="):
        record(tmp_path / "refused.zarr", n, mebibytes // 3 * MIB)
    record(tmp_path / "run.zarr", n, mebibytes * MIB)
    assert peak.taken < SLACK * mebibytes * MIB


@pytest.mark.slow  # what a snapshot takes is asked above
@pytest.mark.parametrize(("mebibytes", "together"), [(60, 1), (1000, 8)])
def test_objects_that_snapshots_fill_together_are_within_it(
    tmp_path: Path, peak: Peak, mebibytes: int, together: int
) -> None:
    """Eight snapshots of 1 MB share an object, which is kept until it is full, where an eighth of it holds them all."""
    probes = {}
    for number in range(6):
        given = torch.randn(2000, 8), torch.arange(2000) % 2
        probes[str(number)] = tracer.Probe(*given, split=str(number), capture={"outputs": 2000})
    network = nn.Linear(8, 128)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)

    def record(mebibytes: int) -> None:
        options: dict[str, Any] = {"loss": F.cross_entropy, "probes": probes, "memory": mebibytes * MIB}
        path = tmp_path / f"{mebibytes}.zarr"
        with tracer.record(path, network, optimizer, gradients="none", snapshots=tracer.every(1), **options):
            for _ in range(8):
                F.cross_entropy(network(probes["0"].inputs[:8]), probes["0"].targets[:8]).backward()
                optimizer.step()

    with pytest.raises(RecordError, match="raise memory="):
        record(6)
    record(mebibytes)
    assert peak.taken < SLACK * mebibytes * MIB
    written = tmp_path / f"{mebibytes}.zarr" / "probes" / "0" / "outputs" / "outputs" / "zarr.json"
    chunk = json.loads(written.read_text())["chunk_grid"]["configuration"]["chunk_shape"]
    assert chunk[0] == together
