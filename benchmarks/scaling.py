"""How the cost of each metric grows: `python -m benchmarks.scaling [METRIC ...]`.

Archives of an MLP of which one size at a time grows tenfold in four steps: snapshots, units of a layer (and with
them parameters), probe examples. The exponent is the slope of log(seconds) over log(size), the least over the
repeats of each size. A cost that is fixed flattens it; so it is a lower bound of the true one, and a metric that grows
faster than it may (1 in snapshots and units, 2 in examples, with a tenth of tolerance) is marked. Weights and gradients
of a layer of u units are u squared numbers, so what reads them may grow with the square of the units.
"""

import os

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import analyze
import tracer

BASE = {"snapshots": 10, "units": 64, "examples": 32}
LARGE = {"snapshots": 24, "units": 256, "examples": 96}  # of the sizes that stay
STEPS = (1.0, 2.15, 4.64, 10.0)
ALLOWED = {"snapshots": 1.1, "units": 1.1, "examples": 2.1}
REPLAYED = ("states", "minibatch")


def record(path: Path, snapshots: int, units: int, examples: int) -> None:
    """A run with every stream, whose learning rate falls twice."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(32, units), nn.ReLU(), nn.Linear(units, units), nn.ReLU(), nn.Linear(units, 10)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    half = examples // 2
    x, y = torch.randn(2 * half, 32), torch.arange(2 * half) % 10
    capture = {"masks": half, "gradients": half, "activations": half}
    probes = {
        "train": tracer.Probe(x[:half], y[:half], capture=capture),
        "test": tracer.Probe(x[half:], y[half:], capture=capture),
    }
    with tracer.record(
        path, model, optimizer, loss=F.cross_entropy, probes=probes, snapshots=tracer.every(1), memory=8 << 30
    ) as run:
        for step in range(snapshots - 1):
            optimizer.param_groups[0]["lr"] = 0.1 * 0.1 ** (3 * step // snapshots)
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.step(ids=np.arange(2 * half), loss=loss)
            run.end_epoch()


def seconds(path: Path, name: str, repeats: int = 3) -> float:
    """The least processor time of computing one metric (with what it is made of)."""
    taken = []
    for _ in range(repeats):
        start = time.process_time()
        analyze.run(path, [name])
        taken.append(time.process_time() - start)
    return min(taken)


def exponents(names: list[str]) -> dict[str, dict[str, float]]:
    """By metric and by what grows: the fitted exponent, NaN where the metric cannot be computed."""
    found: dict[str, dict[str, float]] = {name: {} for name in names}
    for what, least in BASE.items():
        with tempfile.TemporaryDirectory() as folder:
            sizes = [round(least * factor) for factor in STEPS]
            paths = [Path(folder) / f"{size}.zarr" for size in sizes]
            for size, path in zip(sizes, paths, strict=True):
                record(path, **{**LARGE, what: size})
            for name in names:
                try:
                    times = [seconds(path, name) for path in paths]
                    slope = np.polyfit(np.log(sizes), np.log(times), 1)[0]
                except Exception as error:
                    print(f"{name}, {what}: {error}", file=sys.stderr)
                    slope = np.nan
                found[name][what] = float(slope)
                print(f"{name} {what} {slope:.2f}", file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Print the table."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    cards = analyze.available_metrics()
    names = sys.argv[1:] or [n for n, c in cards.items() if not any(r.startswith(REPLAYED) for r in c.reads)]
    print("| metric | snapshots | units | examples |\n|---|---|---|---|")
    for name, slopes in exponents(names).items():
        squared = {"weights", "gradients"} & {*cards[name].reads}
        allowed = ALLOWED | ({"units": 2.1} if squared else {})
        cells = [f"{slope:.2f}{' (!)' if slope > allowed[what] else ''}" for what, slope in slopes.items()]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
