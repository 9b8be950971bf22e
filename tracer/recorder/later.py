"""Tensors on their way from the device: copied when given, read once they are there, not waited for."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Later:
    """Tensors by name; those on CUDA are copied to the host in the background.

    >>> Later({"loss": torch.tensor([0.5])}).read()["loss"]
    array([0.5], dtype=float32)
    """

    def __init__(self, tensors: Mapping[Any, Tensor]) -> None:
        self._event: torch.cuda.Event | None = None
        self._host = {key: self._fetch(tensor.detach()) for key, tensor in tensors.items()}
        if any(tensor.device.type == "cuda" for tensor in tensors.values()):
            self._event = torch.cuda.Event()
            self._event.record()

    def _fetch(self, tensor: Tensor) -> Tensor:
        if tensor.dtype == torch.bfloat16:  # which NumPy lacks
            tensor = tensor.float()
        if tensor.device.type != "cuda":
            return tensor.cpu()
        # Only pinned memory makes the copy asynchronous.
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        return host.copy_(tensor, non_blocking=True)

    @property
    def ready(self) -> bool:
        """Whether `read` would return at once."""
        return self._event is None or self._event.query()

    def read(self) -> dict[Any, np.ndarray]:
        """The values, waiting for the device only if they are not there yet."""
        if self._event is not None:
            self._event.synchronize()
        return {key: host.numpy() for key, host in self._host.items()}
