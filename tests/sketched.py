"""The same small run, its gradients kept in one way or another."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import tracer
from tests.loops import blobs

TOLERANCE = 0.1  # 128 numbers a layer


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 3))


def record(
    path: Path, gradients: str, updates: int = 3, model: nn.Module | None = None, **options: Any
) -> Path:
    """12 training and 6 test examples; a hidden layer that is sketched and a last layer that is kept as it is."""
    model = model or network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = blobs(12, (3, 2, 2))
    settings: dict[str, Any] = {
        "probes": {"train": (x, y), "test": blobs(6, (3, 2, 2), seed=3)},
        "gradients": gradients,
        "tolerance": TOLERANCE,
        "snapshots": tracer.every(1),
    }
    with tracer.record(path, model, optimizer, loss=F.cross_entropy, **settings | options):
        for _ in range(updates):
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return path
