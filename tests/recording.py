"""Shortest ways to record something, shared by tests of the writer."""

from typing import Any

import numpy as np

from tracer.writer import Writer


def put_row(writer: Writer, step: int, **changes: Any) -> None:
    values: dict[str, Any] = {"epoch": 0, "time": 1.0, "ids": np.arange(step), "loss": 0.5, "lr": [0.1]}
    writer.row(step, **{**values, "skipped": False, "scalars": {}, **changes})


def declare(writer: Writer, size: int = 3) -> None:
    writer.stream("weights", {"float32": ("float32", (size,), ("float32_element",))})


def put(writer: Writer, step: int, value: float | None = None, size: int = 3) -> None:
    filled = np.full(size, step if value is None else value, np.float32)
    writer.append("weights", step, False, {"float32": filled})
