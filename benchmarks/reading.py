"""Reading archives: a stream against raw reads, all metrics of a large one against its bytes and products."""

import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

import analyze
import tracer
from benchmarks.harness import Work, case, instructions
from benchmarks.models import resnet18
from tracer.recovery.resume import resume
from tracer.writer import Writer

N, SNAPSHOTS = 64, int(os.environ.get("TRACER_BENCHMARK_SNAPSHOTS", "100"))


def raw_reads(folder: Path, *inside: str) -> Work:
    """All objects under some paths of an archive, read whole into one buffer that is used again."""
    files = [f for part in inside or ("",) for f in sorted((folder / part).rglob("*")) if f.is_file()]
    buffer = memoryview(bytearray(max(f.stat().st_size for f in files)))

    def work() -> None:
        for file in files:
            with file.open("rb", buffering=0) as opened:
                opened.readinto(buffer)

    return work


@case("raw reads into one buffer", repeats=9)
def streaming_an_archive() -> Iterator[tuple[str, Work, Work, float]]:
    rng = np.random.default_rng(0)
    for label, shape, rows in (("4 MB snapshots", (1 << 20,), 32), ("64 MB snapshots", (1 << 24,), 4)):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "stream.zarr"
            made = Writer(path, attributes={})
            made.stream("s", {"values": ("float32", shape, ("element",))})
            for step in range(rows):
                made.append("s", step, False, {"values": rng.standard_normal(shape, dtype=np.float32)})
                made.row(step, epoch=0, time=0.0, ids=None, loss=0.0, lr=())
            made.close()
            archive = tracer.open(path)

            def ours(archive: Any = archive, rows: int = rows) -> None:
                for step in range(rows):
                    archive._source.snapshot("s/values", step)

            yield f"{label}, checksums compared", ours, raw_reads(path, "s/values"), 1.5


def record(path: Path) -> None:
    """One snapshot of a ResNet-18 of the usual width, with every stream but activations and inputs."""
    model, x, y = resnet18(2 * N)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    probes = {
        "train": tracer.Probe(x[:N], y[:N], capture={"masks": N, "gradients": N}),
        "test": tracer.Probe(x[N:], y[N:], capture={"masks": N, "gradients": N}),
    }
    with tracer.record(
        path, model, optimizer, loss=F.cross_entropy, probes=probes, gradients="gram", memory=16 << 30
    ) as run:
        run.log(loss=0.0)


def repeated(path: Path, n: int) -> None:
    """More snapshots like the first one, in each of which a tenth of the bytes of bits and values differ."""
    rng = np.random.default_rng(0)
    with tracer.open(path) as archive:
        source = archive._source
        first = {
            group: {name: source.snapshot(f"{group}/{name}", 0) for name in _arrays(source, group)}
            for group in source.streams()
        }
    made = resume(path)
    for step in range(1, n):
        for group, arrays in first.items():
            made.append(group, step, True, {name: _varied(rng, values) for name, values in arrays.items()})
        made.row(
            step,
            epoch=step,
            time=float(step),
            ids=np.arange(N),
            loss=0.5,
            lr=(0.1 if step < n // 3 else 0.01 if step < n // 2 else 0.001,),
        )
        made.commit()
    made.close()


def _arrays(source: Any, group: str) -> list[str]:
    return [name for name in source.children(group) if name not in ("step", "epoch_end")]


def _varied(rng: np.random.Generator, values: np.ndarray) -> np.ndarray:
    if values.dtype == np.uint8:
        flips = rng.integers(0, 256, values.shape, np.uint8)
        return values ^ (flips & np.roll(flips, 1) & np.roll(flips, 2) & np.roll(flips, 3))
    if values.dtype.kind == "f":
        return values * values.dtype.type(1 + 0.01 * rng.standard_normal())
    return values


@case(
    f"reading their bytes, and their Grams' operations in int8 products ({instructions()})",
    repeats=3,
    clock="wall",
)
def all_trace_metrics() -> Iterator[tuple[str, Work, Work, float]]:
    """ResNet-18, 128 probe examples; metrics of outputs, sums, masks and Grams, none of weights or a replay."""
    others = ("states", "weights", "activations", "gradients", "minibatch", "token")
    names = [
        n
        for n, card in analyze.available_metrics().items()
        if not any(r.startswith(others) for r in card.reads)
    ]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "resnet18.zarr"
        record(path)
        repeated(path, SNAPSHOTS)
        raw = raw_reads(path, "gram", "probes", "steps")
        with tracer.open(path) as archive:
            grams = [(probe.n_masks, len(probe.bits(0))) for probe in archive.probes.values()]
        # Two Grams a probe, of each snapshot and of it with the one before, all their entries, in products of a shape
        # whose rate is near the largest; those of 64 examples by themselves run at half of it.
        depth = 2 * sum(n * n * units for n, units in grams) // 512**2
        dense = torch.randint(0, 2, (512, depth), dtype=torch.int8)

        def theirs() -> None:
            raw()
            for _ in range(SNAPSHOTS):
                torch._int_mm(dense, dense.T)

        label = f"{SNAPSHOTS} snapshots of ResNet-18, {2 * N} examples"
        yield label, lambda: analyze.run(path, names, memory="8GB"), theirs, 2.0
