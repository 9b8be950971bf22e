"""Small archives for tests that damage them, and ways to do it."""

import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np

from tests.recording import put_row
from tracer import spec
from tracer.store import layout
from tracer.writer import Writer

SIZE = 20_000  # numbers of a snapshot of the weights


@contextmanager
def objects_of(n: int) -> Iterator[None]:
    """Archives written here have an object for every n snapshots of an array, however small these are."""
    with mock.patch.object(spec.format, "OBJECT_ROWS", n):
        yield


def write_small(path: Path, steps: int = 6, state: str = "complete") -> Writer:
    """Every kind of object: plain chunks, shards, tails, static arrays, two streams; a snapshot every 2 steps.

    Each snapshot of the weights is an object of its own, those of the losses share one.
    """
    writer = Writer(path, attributes={"card": {"model": "small"}})
    writer.static("probes/p", {"id": np.arange(4)}, {"id": ("example",)}, {"split": "train"})
    with mock.patch.object(layout, "_PLAIN", SIZE):  # larger ones than this are shards
        writer.stream("weights", {"float32": ("float32", (SIZE,), ("float32_element",))}, object_bytes=SIZE)
    writer.stream("probes/p/outputs", {"loss": ("float32", (4,), ("outputs_example",))})
    go_on(writer, 0, steps)
    writer.close(state=state)  # type: ignore[arg-type]
    return writer


def go_on(writer: Writer, first: int, steps: int, factor: float = 1.0) -> None:
    """Record further updates."""
    for step in range(first, steps):
        put_row(writer, step, ids=np.arange(step % 3 + 1), loss=step * factor)
        if step % 2 == 0:
            writer.append("weights", step, False, {"float32": weights(step, factor)})
            writer.append("probes/p/outputs", step, False, {"loss": np.full(4, step * factor, np.float32)})
        writer.commit()


def weights(step: int, factor: float = 1.0) -> np.ndarray:
    return (np.arange(SIZE, dtype=np.float32) + 1) * np.float32(step + factor)


def files_of(path: Path) -> list[str]:
    return sorted(name for name, entry in below(path) if entry.is_file())


def below(path: Path | str, prefix: str = "") -> Iterator[tuple[str, "os.DirEntry[str]"]]:
    """Everything below a folder by name, a quarter of the time of `Path.rglob`: it is asked thousands of times."""
    with os.scandir(path) as entries:
        for entry in entries:
            yield prefix + entry.name, entry
            if entry.is_dir(follow_symlinks=False):
                yield from below(entry.path, f"{prefix}{entry.name}/")


def flipped(data: bytes, seed: int, n: int) -> Iterator[bytes]:
    """Copies of data, each with one bit flipped: the first, the last, one amid, and others."""
    dice = random.Random(seed)
    places = {0, len(data) - 1, len(data) // 2, *(dice.randrange(len(data)) for _ in range(n))}
    for place in sorted(places):
        changed = bytearray(data)
        changed[place] ^= 1 << dice.randrange(8)
        yield bytes(changed)


def copied(path: Path, target: Path) -> Path:
    return Path(shutil.copytree(path, target, symlinks=True))
