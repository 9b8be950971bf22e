"""Logged numbers: taken when given, read when they are there, never waited for on the training thread."""

from typing import Any

import torch

from tracer.errors import RecordError
from tracer.recorder import device
from tracer.recorder.device.pending import PendingArrays


class Awaited:
    """A number on its way from a device; a copy, since the user may go on writing into the tensor."""

    def __init__(self, value: torch.Tensor) -> None:
        # float64 holds every loss dtype exactly.
        self._later = PendingArrays({"": value.detach().to(torch.float64, copy=True)})

    @property
    def ready(self) -> bool:
        """Whether `read` would return at once."""
        return self._later.ready

    def read(self) -> float:
        """The number, waiting for the device only if it is not there yet."""
        return float(self._later.read()[""].item())


Number = float | Awaited


def number(name: str, value: Any) -> Number:
    """One value given to `run.log`, as float64; a CUDA tensor is copied to the host in the background.

    >>> number("loss", torch.tensor(0.5))
    0.5
    """
    if not isinstance(value, torch.Tensor):
        return value if type(value) is float else _number(name, value)
    if value.numel() != 1:
        raise RecordError(
            f"run.log({name}=...) got a tensor of shape {tuple(value.shape)}, expected one number: "
            "reduce it first, for example with .mean()."
        )
    return float(value.item()) if device.copy_stream_of(value.device) is None else Awaited(value)


def ready(value: Number) -> bool:
    """Whether `read` would return at once."""
    return not isinstance(value, Awaited) or value.ready


def read(value: Number) -> float:
    """The number itself."""
    return value.read() if isinstance(value, Awaited) else value


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise RecordError(
            f"run.log({name}=...) got a {type(value).__name__}, expected a number or a tensor with one element."
        ) from None
