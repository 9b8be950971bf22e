"""Writing, staging and packing against plain system calls on the same bytes."""

import os
import tempfile
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np

import tracer
from benchmarks.harness import Work, case
from benchmarks.models import resnet18
from tracer import bits
from tracer.writer import Writer

STEPS = 2000


def writer(folder: str, name: str) -> Writer:
    return Writer(Path(folder) / f"{name}.zarr", attributes={"title": name})


def plain(folder: str, data: np.ndarray) -> Work:
    numbers = count()

    def work() -> None:
        fd = os.open(f"{folder}/plain{next(numbers)}", os.O_CREAT | os.O_WRONLY)
        view = memoryview(data.reshape(-1).view("u1"))
        while view:
            view = view[os.write(fd, view) :]
        os.close(fd)

    return work


@case("os.write of the same bytes to a new file", repeats=15, clock="wall")
def append_and_commit() -> Iterator[tuple[str, Work, Work, float]]:
    rng = np.random.default_rng(0)
    for label, shape, goal in (("4 MB", (1 << 20,), 1.5), ("64 MB", (1 << 24,), 1.3)):
        with tempfile.TemporaryDirectory() as folder:
            data = rng.standard_normal(shape, dtype=np.float32)
            made, steps = writer(folder, "append"), count()
            made.stream("s", {"values": ("float32", shape, ("element",))})

            def ours(made: Writer = made, steps: Iterator[int] = steps, data: np.ndarray = data) -> None:
                made.append("s", next(steps), False, {"values": data})
                made.flush()

            yield label, ours, plain(folder, data), goal
            made.close()


@case("one copy of the same bytes", repeats=15, clock="wall")
def stall_per_snapshot() -> Iterator[tuple[str, Work, Work, float]]:
    data = np.random.default_rng(0).standard_normal(1 << 20, dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        made, steps = writer(folder, "stall"), count()
        made.stream("s", {"values": ("float32", data.shape, ("element",))})
        yield (
            "4 MB",
            alone(made, lambda: made.append("s", next(steps), False, {"values": data})),
            alone(made, copying(data)),
            1.5,
        )
        made.close()
        model = resnet18(1)[0]
        with tracer.record(Path(folder) / "weights.zarr", model, None, snapshots=tracer.at([])) as run:
            made, instrument, steps = run._writer, run._instrument, count(1)  # as a scheduled snapshot does
            yield (
                "weights of ResNet-18",
                alone(made, lambda: instrument.snapshot(made, {"weights"}, next(steps), False)),
                alone(made, copying(np.concatenate([*instrument.weights.values()], dtype=np.float32))),
                1.5,
            )


def alone(made: Writer, work: Work) -> Work:
    """Measure work on this thread while the writing one has nothing to do."""

    def measured() -> float:
        made.flush()
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return measured


def copying(data: np.ndarray) -> Work:
    target = np.empty_like(data)
    return lambda: np.copyto(target, data)


@case("one os.write of 1 KB", repeats=15)
def ids_and_scalars_per_step() -> Iterator[tuple[str, Work, Work, float]]:
    ids, record = np.arange(128), b"x" * 1048
    with tempfile.TemporaryDirectory() as folder:
        made, steps = writer(folder, "rows"), count()
        fd = os.open(f"{folder}/log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)

        def ours() -> None:
            for _ in range(STEPS):
                made.row(next(steps), epoch=1, time=0.0, ids=ids, loss=0.5, lr=(0.1,))

        def theirs() -> None:
            for _ in range(STEPS):
                os.write(fd, record)

        yield "128 ids, loss, rate", ours, theirs, 2.0
        made.close()
        os.close(fd)


@case("one copy of the activations", repeats=9)
def packing_masks() -> Iterator[tuple[str, Work, Work, float]]:
    values = np.random.default_rng(0).standard_normal((512, 65536), dtype=np.float32)
    yield "512 x 65,536", lambda: bits.pack(values > 0), values.copy, 2.0
