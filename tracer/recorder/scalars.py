"""A logged number: taken when given, read when it is there, never waited for on the training thread."""

from typing import Any

import torch

from tracer.errors import RecordError


class Scalar:
    """One value given to `run.log`; a CUDA tensor is copied to the host in the background.

    >>> Scalar("loss", torch.tensor(0.5)).read()
    0.5
    """

    def __init__(self, name: str, value: Any) -> None:
        self._event: torch.cuda.Event | None = None
        if isinstance(value, torch.Tensor):
            if value.numel() != 1:
                raise RecordError(
                    f"run.log({name}=...) got a tensor of shape {tuple(value.shape)}, expected one number: "
                    "reduce it first, for example with .mean()."
                )
            value = self._fetch(value.detach())
        elif not isinstance(value, int | float):
            value = _number(name, value)
        self._value = value

    def _fetch(self, value: torch.Tensor) -> Any:
        if value.device.type != "cuda":
            return value.item()
        # float64 holds every loss dtype exactly; pinned memory makes the copy asynchronous.
        host = torch.empty((), dtype=torch.float64, pin_memory=True)
        host.copy_(value.reshape(()), non_blocking=True)
        self._event = torch.cuda.Event()
        self._event.record()
        return host

    @property
    def ready(self) -> bool:
        """Whether `read` would return at once."""
        return self._event is None or self._event.query()

    def read(self) -> float:
        """The number as float64, waiting for the device only if it is not there yet."""
        if self._event is not None:
            self._event.synchronize()
        return float(self._value)


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise RecordError(
            f"run.log({name}=...) got a {type(value).__name__}, expected a number or a tensor with one element."
        ) from None
