"""The record of one update, open until the next one closes it."""

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from tracer.recorder.device.scalars import Number, read, ready
from tracer.recorder.minibatch.capture import Captured


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
