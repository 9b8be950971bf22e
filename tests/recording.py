"""Shortest ways to record something, shared by tests of the writer."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from tracer.spec import format
from tracer.writer import Writer


def put_row(writer: Writer, step: int, **changes: Any) -> None:
    values: dict[str, Any] = {"epoch": 0, "time": 1.0, "ids": np.arange(step), "loss": 0.5, "lr": [0.1]}
    writer.row(step, **{**values, "skipped": False, "scalars": {}, **changes})


def declare(writer: Writer, size: int = 3) -> None:
    writer.stream("weights", {"float32": ("float32", (size,), ("float32_element",))})


def put(writer: Writer, step: int, value: float | None = None, size: int = 3) -> None:
    filled = np.full(size, step if value is None else value, np.float32)
    writer.append("weights", step, False, {"float32": filled})


@contextmanager
def short_columns() -> Iterator[int]:
    """Let an object of `steps` be full after few updates; how many. One of ids holds 16 times as many."""
    rows = 1024
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("STEP", rows), ("IDS", 16 * rows)):
            patch.setattr(format, f"{name}_ROWS", value)
            patch.setattr(format, f"{name}_INNER", value // 16)
        yield rows
