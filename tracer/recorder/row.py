"""The record of one update, open until the next one closes it."""

import time
from dataclasses import dataclass, field

import numpy as np

from tracer.recorder.captured import Captured
from tracer.recorder.scalars import Scalar


@dataclass(slots=True)
class Row:
    """What is known of the update that made a state; `ready` once none of it is still on its way."""

    step: int
    epoch: int
    rates: list[Scalar]
    ids: np.ndarray | None = None
    scalars: dict[str, Scalar] = field(default_factory=dict)
    minibatch: Captured | None = None
    overflow: Scalar | None = None
    epoch_end: bool = False
    time: float = field(default_factory=time.time)

    @property
    def ready(self) -> bool:
        """Whether everything can be read without waiting."""
        captured = self.minibatch is None or self.minibatch.ready
        told = self.overflow is None or self.overflow.ready
        return captured and told and all(scalar.ready for scalar in (*self.rates, *self.scalars.values()))

    @property
    def lr(self) -> list[float]:
        """The learning rate of every group."""
        return [rate.read() for rate in self.rates]

    @property
    def skipped(self) -> bool:
        """Whether the update was left out because a scaled gradient overflowed."""
        return self.overflow is not None and bool(self.overflow.read())
