"""The record of one update, open until the next one closes it, and those that are closed and not yet written."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from tracer.recorder.device.scalars import Number, read, ready
from tracer.recorder.messages import MIRROR, NAN_LOSS
from tracer.recorder.minibatch import InFlight
from tracer.recorder.minibatch.capture import Captured
from tracer.recorder.mirror import Mirror
from tracer.writer import Writer

_BURST = 0.25  # seconds: rows are handed over together, since the caches forget this code between two updates


@dataclass(slots=True)
class Row:
    """What is known of the update that made a state; `ready` once none of it is still on its way."""

    step: int
    epoch: int
    rates: list[Number]
    scalars: dict[str, Number] = field(default_factory=dict)
    overflow: Number = 0.0
    ids: np.ndarray | torch.Tensor | None = None
    minibatch: Captured | None = None
    epoch_end: bool = False
    time: float = field(default_factory=time.time)

    @property
    def ready(self) -> bool:
        """Whether everything can be read without waiting."""
        captured = self.minibatch is None or self.minibatch.ready
        return captured and ready(self.overflow) and all(map(ready, (*self.rates, *self.scalars.values())))

    @property
    def columns(self) -> dict[str, Any]:
        """What the writer takes of it besides scalars, by name."""
        return {
            "epoch": self.epoch,
            "time": self.time,
            "ids": self.ids.numpy() if isinstance(self.ids, torch.Tensor) else self.ids,
            "lr": [read(rate) for rate in self.rates],  # of every group
            "skipped": bool(read(self.overflow)),  # left out because a scaled gradient overflowed
        }


class Backlog:
    """Closed rows in order, until each can be read without waiting and is handed over to the writer.

    written: step of the last one that came; ended: of the last one handed over. warn(sentence, step): say it once.
    """

    def __init__(self, mirror: Mirror | None, warn: Callable[[str, int], None]) -> None:
        self.written = self.ended = -1
        self._mirror, self._warn = mirror, warn
        self._rows: deque[Row] = deque()
        self._handed_over = 0.0

    def add(self, row: Row) -> bool:
        """Take a row, unless it came before; whether it is time to hand some over."""
        if row.step > self.written:
            self._rows.append(row)
            self.written = row.step
        return row.time - self._handed_over > _BURST

    def hand_over(self, writer: Writer, in_flight: InFlight | None, wait: bool = False) -> bool:
        """Give the writer what can be read, or with `wait` everything; whether nothing is left."""
        self._handed_over = time.time()
        while self._rows and (wait or self._rows[0].ready):
            row = self._rows[0]
            values = {name: read(scalar) for name, scalar in row.scalars.items()}
            if self._mirror is not None:
                self._mirror.send(row.step, values)
                if self._mirror.failed is not None:
                    self._warn(MIRROR, row.step)
            loss = values.pop("loss", float("nan"))
            if "loss" in row.scalars and loss != loss:
                self._warn(NAN_LOSS, row.step)
            examples, columns = None, row.columns
            if in_flight is not None:
                ended = row.epoch if row.epoch_end else 0
                examples = in_flight.write(writer, row.step, ended, columns["ids"], row.minibatch)
            writer.row(row.step, loss=loss, scalars=values, examples=examples, **columns)
            self._rows.popleft()  # only now: one that was refused is not lost in silence
            self.ended = row.step
        return not self._rows
