"""A logged number: taken when given, read when it is there, never waited for on the training thread."""

from typing import Any

import torch

from tracer.errors import RecordError
from tracer.recorder import device
from tracer.recorder.later import Later


class Scalar:
    """One value given to `run.log`; a CUDA tensor is copied to the host in the background.

    >>> Scalar("loss", torch.tensor(0.5)).read()
    0.5
    """

    def __init__(self, name: str, value: Any) -> None:
        self._later: Later | None = None
        self._value = 0.0
        if not isinstance(value, torch.Tensor):
            self._value = _number(name, value)
            return
        if value.numel() != 1:
            raise RecordError(
                f"run.log({name}=...) got a tensor of shape {tuple(value.shape)}, expected one number: "
                "reduce it first, for example with .mean()."
            )
        value = value.detach()
        if device.lane_of(value.device) is None:
            self._value = float(value)
        else:
            # A copy, since the user may go on writing into the tensor; float64 holds every loss dtype exactly.
            self._later = Later({name: value.to(torch.float64, copy=True)})

    @property
    def ready(self) -> bool:
        """Whether `read` would return at once."""
        return self._later is None or self._later.ready

    def read(self) -> float:
        """The number as float64, waiting for the device only if it is not there yet."""
        if self._later is not None:
            (host,) = self._later.read().values()
            self._value, self._later = float(host.item()), None
        return self._value


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise RecordError(
            f"run.log({name}=...) got a {type(value).__name__}, expected a number or a tensor with one element."
        ) from None
