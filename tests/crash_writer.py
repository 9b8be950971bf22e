"""A recording to be killed: `python -m tests.crash_writer PATH STEPS [FILES]`; prints steps once committed.

With FILES it kills itself right after that many files have got their names, counted from the first step.
"""

import os
import signal
import sys
from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np

from tracer.store.files import Directory
from tracer.writer import Writer

SIZES = {"weights": 300_000, "probes/p/outputs": 50}


def values(group: str, step: int) -> np.ndarray:
    """Different at every step, and never a fill value."""
    return (np.arange(SIZES[group], dtype=np.float32) + 1) * (step + 1)


def ids(step: int) -> np.ndarray:
    return np.arange(step, step + 7) * 3


def die_after(files: int) -> None:
    publish, numbers = Directory.publish, count(1)

    def counted(self: Directory, key: str, fill: Callable[[int], Any], *, last: bool = False) -> Any:
        result = publish(self, key, fill, last=last)
        if next(numbers) == files:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    Directory.publish = counted  # type: ignore[method-assign]


def main(path: str, last: int, files: int | None = None) -> None:
    writer = Writer(path, attributes={"title": "crash"})
    writer.static("probes/p", {"id": np.arange(50)}, {"id": ("example",)}, {"split": "train"})
    for group, size in SIZES.items():
        dim = group.rpartition("/")[2] + "_element"
        writer.stream(group, {"values": ("float32", (size,), (dim,))})
    writer.flush()
    print("ready", flush=True)
    if files is not None:
        die_after(files)
    for step in range(last):
        scalars = {"late": float(step)} if step > 2 else {}
        writer.row(
            step, epoch=step // 4, time=1.0 + step, ids=ids(step), loss=step + 0.5, lr=[0.1], scalars=scalars
        )
        for group in SIZES:
            writer.append(group, step, False, {"values": values(group, step)})
        if step % 4 == 3:
            writer.mark_epoch_end(step)
        writer.flush()
        print(step, flush=True)
    signal.pause()  # neither closed nor at its end


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
