"""Tensors on their way from the device: copied when given, read once they are there, not waited for."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tracer.network.copies import to_numpy
from tracer.recorder import device


class PendingArrays:
    """Tensors by name, nobody else's; those on CUDA are copied to the host in the background.

    >>> PendingArrays({"loss": torch.tensor([0.5])}).read()["loss"]
    array([0.5], dtype=float32)
    """

    def __init__(self, tensors: Mapping[Any, Tensor]) -> None:
        self._host: dict[Any, Tensor] = {}
        away: dict[torch.device, list[tuple[Tensor, Tensor]]] = {}
        for key, value in tensors.items():
            tensor = device.readable(value)
            stream = device.copy_stream_of(tensor.device)
            self._host[key] = (
                tensor.cpu() if stream is None else device.host_for(tensor, stream.allocate(tensor.nbytes))
            )
            if stream is not None:
                away.setdefault(tensor.device, []).append((self._host[key], tensor))
        streams = ((device.copy_stream_of(place), pairs) for place, pairs in away.items())
        self._events = [stream.fetch(pairs) for stream, pairs in streams if stream is not None]

    @property
    def ready(self) -> bool:
        """Whether `read` would return at once."""
        return all(event.query() for event in self._events)

    def read(self) -> dict[Any, np.ndarray]:
        """The values, waiting for the device only if they are not there yet."""
        for event in self._events:
            event.synchronize()
        return {key: to_numpy(host) for key, host in self._host.items()}
