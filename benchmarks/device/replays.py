"""Part (e): metrics that run the network again, on the device and on the CPU: time and agreement."""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import analyze
import tracer
from benchmarks.device.results import Results

QUICK = {
    "cna_landscape": {"points": 3},
    "hessian": {"draws": 2, "nodes": 4, "trace_draws": 3, "top": 2},
    "regions": {"pairs": 3, "samples": 8},
    "ntk_alignment": {"examples": 6},
    "image_functions": {"paths": 3},
}


def metrics() -> list[str]:
    """Names of all metrics that run the network again."""
    return [name for name, card in analyze.available_metrics().items() if card.passes is not None]


def run(results: Results, device: str, small: bool, names: list[str] | None = None) -> None:
    """Train a CNN on digits on the device, then each metric here and there until time is up."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.zarr"
        train(path, device, small)
        for name in names or metrics():
            if results.left < 0:
                results.add("left_out", metric=name)
                continue
            with results.trying(name):
                results.add("metrics", metric=name, **compared(path, name, device, small))
                print(results.content["results"]["metrics"][-1], flush=True)


def train(path: Path, device: str, small: bool) -> None:
    """Four snapshots of a CNN on scikit-learn's digits."""
    bunch, n = load_digits(), 40 if small else 1024
    x = torch.from_numpy(bunch.images[:, None] / 16).float()
    y = torch.from_numpy(bunch.target).long()
    width = 4 if small else 32
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(width, width, 3, padding=1),
              nn.ReLU(), nn.Flatten(), nn.Linear(16 * width, 64), nn.ReLU(), nn.Linear(64, 10)]  # fmt: skip
    model = nn.Sequential(*layers).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    shown = 20 if small else 256
    probes = {
        "train": tracer.Probe(x[:shown], y[:shown], split="train", raw=x[:shown]),
        "test": tracer.Probe(x[n : n + shown], y[n : n + shown], split="test", raw=x[n : n + shown]),
    }
    batch, epochs = (10, 2) if small else (64, 4)
    with tracer.record(
        path, model, optimizer, loss=F.cross_entropy, probes=probes, snapshots=tracer.epochs()
    ) as run:
        for _ in range(epochs):
            for start in range(0, n, batch):
                rows = slice(start, start + batch)
                loss = F.cross_entropy(model(x[rows].to(device)), y[rows].to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                run.step(ids=range(*rows.indices(n)), loss=loss)
            run.end_epoch()


def compared(path: Path, name: str, device: str, small: bool) -> dict[str, Any]:
    """One metric on the CPU and on the device: seconds, and the largest difference of each variable as a share of the
    largest value; `nan_alike`: undefined in the same places.
    """
    options = {name: QUICK[name]} if small and name in QUICK else {}
    found, seconds = {}, {}
    for place in (device, "cpu"):
        began = time.perf_counter()
        found[place] = analyze.run(path, [name], options=options, replay={"device": place})[name]
        seconds[place] = time.perf_counter() - began
    differences, alike = {}, True
    for variable in found["cpu"].data_vars:
        ours, theirs = (np.asarray(found[place][variable].values) for place in (device, "cpu"))
        if theirs.dtype.kind not in "fiub":
            continue
        ours, theirs = ours.astype(float), theirs.astype(float)
        alike &= bool(np.array_equal(np.isnan(ours), np.isnan(theirs)))
        scale = float(np.nan_to_num(np.abs(theirs)).max(initial=0.0)) or 1.0
        differences[str(variable)] = float(np.nan_to_num(np.abs(ours - theirs)).max(initial=0.0)) / scale
    return {
        "device_seconds": seconds[device],
        "cpu_seconds": seconds["cpu"],
        "differences": differences,
        "nan_alike": alike,
    }
